"""Who holds and who writes what of a training state that ranks share: integers only.

Rajbhandari et al. 2020, arXiv:1910.02054 (ZeRO).
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heapreplace


def owners(sizes: Mapping[str, int], world: int) -> dict[str, int]:
    """The rank that writes each whole tensor, of so many bytes, so that all ranks write about as much.

    The largest come first, each to the rank that has the least so far; equal ones in the order of `sizes`. No rank
    gets more than its even share and one tensor on top.
    """
    loads = [(0, rank) for rank in range(world)]
    heapify(loads)
    owner = {}
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        load, rank = loads[0]
        owner[name] = rank
        heapreplace(loads, (load + sizes[name], rank))
    return {name: owner[name] for name in sizes}


def split_axis(shape: tuple[int, ...], count: int) -> int:
    """The axis along which a tensor is cut for so many ranks: the first that they divide, else the first."""
    return next((axis for axis, size in enumerate(shape) if size % count == 0), 0)
