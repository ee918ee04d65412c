"""Running statistics of norms that data ranks share, as one process would gather them."""

from __future__ import annotations

import numpy as np
from mindspore import nn, ops

from duosora.core.parallel.micro_batches import joined
from duosora.core.seam.ranks import Ranks

from ..layers import BatchNorm3d, submodules
from ..precision import to_array, to_tensor


class SharedStatistics:
    """Notes what each call of a model adds to its norms' running statistics, and adds that of all ranks in turn.

    During a step the running statistics start from zero at each call, so that afterwards they are what it has added.
    """

    def __init__(self, model: nn.Cell, ranks: Ranks) -> None:
        self.ranks = ranks
        norms = [module for module in submodules(model) if isinstance(module, BatchNorm3d)]
        self.running = [statistic for norm in norms for statistic in (norm.running_mean, norm.running_var)]
        (self.momentum,) = {norm.momentum for norm in norms}
        self.notes: list[np.ndarray] = []

    def begin(self) -> None:
        """Before the first micro-batch of a step."""
        self.start, self.notes = self.read(), []
        self.write(np.zeros_like(self.start))

    def note(self) -> None:
        """After each call of the model."""
        self.notes.append(self.read())
        self.write(np.zeros_like(self.start))

    def exchange(self, num_batches: int) -> None:
        """After the last of a step's micro-batches, of which this rank has so many, with as many calls each.

        All ranks call together, and hold the same afterwards.
        """
        total = self.start
        calls = len(self.notes) // num_batches
        own = np.array(self.notes, np.float32).reshape(num_batches, calls, total.size)
        for added in joined(self.ranks, own).reshape(-1, total.size):
            total = total * np.float32(1 - self.momentum) + added
        self.write(total)

    def read(self) -> np.ndarray:
        """The running statistics, one behind the other."""
        return np.concatenate([to_array(statistic) for statistic in self.running])

    def write(self, values: np.ndarray) -> None:
        """Overwrite them."""
        lengths = [statistic.size for statistic in self.running]
        for statistic, part in zip(self.running, np.split(values, np.cumsum(lengths)[:-1]), strict=True):
            ops.assign(statistic, to_tensor(part))
