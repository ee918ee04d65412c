"""Who holds and who writes what of a training state that ranks share: integers only.

Rajbhandari et al. 2020, arXiv:1910.02054 (ZeRO).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import heapify, heapreplace

from .plan import Blocks


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


@dataclass(frozen=True)
class FlatSlices:
    """Arrays laid end to end and cut into equal slices, one for each rank, the end filled up with padding."""

    sizes: Mapping[str, int]
    """Elements of each array, in the order in which they lie."""
    count: int
    """Ranks."""

    @property
    def length(self) -> int:
        """Of a slice."""
        return self._blocks.length

    @property
    def padding(self) -> int:
        """Elements added at the end."""
        return self._blocks.padding

    def own(self, index: int) -> dict[str, range]:
        """Which elements of which arrays are in a rank's slice, in their order; padding is not counted."""
        mine = self._blocks.own(index)
        found = {}
        for name, start in self._starts():
            first, last = max(mine.start, start), min(mine.stop, start + self.sizes[name])
            if first < last:
                found[name] = range(first - start, last - start)
        return found

    @property
    def _blocks(self) -> Blocks:
        return Blocks(sum(self.sizes.values()), self.count)

    def _starts(self) -> Iterator[tuple[str, int]]:
        start = 0
        for name, size in self.sizes.items():
            yield name, start
            start += size
