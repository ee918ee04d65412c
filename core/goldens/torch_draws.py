"""What torch's generator on a CPU draws, for rules that upstream feeds with it."""

from __future__ import annotations

import numpy as np


class TorchDraws:
    """A generator with a seed. torch's Mersenne twister is numpy's old one."""

    def __init__(self, seed: int) -> None:
        self._twister = np.random.RandomState(seed)

    def next(self) -> int:
        """A draw over all of 32 bits: the twister's raw output."""
        return int(self._twister.randint(0, 2**32, dtype=np.uint32))

    def permutation(self, count: int) -> list[int]:
        """torch.randperm."""
        numbers = list(range(count))
        for place in range(count - 1):
            other = place + self.next() % (count - place)
            numbers[place], numbers[other] = numbers[other], numbers[place]
        return numbers
