"""Pieces of one clip on several ranks at once, one piece for each rank a round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from ..seam.backend import Backend
from ..seam.group import Group

Piece = TypeVar("Piece")


def rounds_of(pieces: Sequence[Piece], ranks: int) -> list[list[Piece | None]]:
    """Neighbouring pieces side by side; in the last round the last ranks may have none."""
    idle = [None] * (-len(pieces) % ranks)
    whole = [*pieces, *idle]
    return [whole[start : start + ranks] for start in range(0, len(whole), ranks)]


def joined(
    backend: Backend, team: Group, rounds: Sequence[Sequence[Piece]], make: Callable[[Piece], np.ndarray]
) -> Iterator[np.ndarray]:
    """What the ranks make of their pieces, (B, C, T_i, h, w) float32, round by round, joined along time on each rank.

    make: is called once a round with the own piece. What ranks make differs in the number of frames only; it may be 0.
    """
    for pieces in rounds:
        own = make(pieces[team.index])
        if team.size == 1:
            yield own
            continue
        lengths = [int(length) for length in team.share(str(own.shape[2]).encode())]
        padded = np.zeros((*own.shape[:2], max(lengths), *own.shape[3:]), np.float32)
        padded[:, :, : lengths[team.index]] = own
        whole = backend.to_numpy(team.gather(backend.asarray(padded), 2))
        parts = np.split(whole, team.size, axis=2)
        yield np.concatenate([part[:, :, :length] for part, length in zip(parts, lengths, strict=True)], axis=2)
