"""Things dealt to ranks: in even parts, or in equal blocks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise


def even_parts(size: int, count: int) -> tuple[range, ...]:
    """size things dealt to count ranks as ranges whose lengths differ by at most one, the longer ones first."""
    length, longer = divmod(size, count)
    starts = [i * length + min(i, longer) for i in range(count + 1)]
    return tuple(range(start, stop) for start, stop in pairwise(starts))


@dataclass(frozen=True)
class Blocks:
    """A sequence cut into equal blocks, one for each rank, the end filled up with padding."""

    size: int
    """Things that are there."""
    count: int
    """Ranks."""

    @property
    def length(self) -> int:
        """Of a block; the last ones may hold padding, or nothing else."""
        return -(-self.size // self.count)

    @property
    def padding(self) -> int:
        """Things added at the end."""
        return self.length * self.count - self.size

    def own(self, index: int) -> range:
        """The things in a rank's block, padding not counted."""
        start = min(index * self.length, self.size)
        return range(start, min(start + self.length, self.size))
