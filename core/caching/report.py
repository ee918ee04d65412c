"""What a cache left out, in figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from statistics import median
from typing import Any, Self


@dataclass
class CacheReport:
    """Of one run or of several."""

    whole: list[bool] = field(default_factory=list)
    """Of each network call whether all its blocks were computed."""
    blocks: int = 0
    """That were computed."""
    blocks_without: int = 0
    """That would have been without a cache."""
    changes: list[float] = field(default_factory=list)
    """Of the signals that were looked at."""

    def count(self, is_whole: bool, num_blocks: int) -> None:
        """Count a call of a model of so many blocks; those that it computed are counted already."""
        self.whole.append(is_whole)
        self.blocks_without += num_blocks

    def add(self, other: Self) -> None:
        """Count what another run did too."""
        self.whole += other.whole
        self.blocks, self.blocks_without = self.blocks + other.blocks, self.blocks_without + other.blocks_without
        self.changes += other.changes

    @property
    def ratio(self) -> float:
        """How many times fewer blocks were computed."""
        return self.blocks_without / self.blocks if self.blocks else 1.0

    def facts(self) -> dict[str, Any]:
        """For JSON. calls: x where all blocks were computed, else a dot."""
        changes = [change for change in self.changes if isfinite(change)]
        spread = {"min": min(changes), "median": median(changes), "max": max(changes)} if changes else {}
        return {
            "blocks": self.blocks,
            "blocks_without": self.blocks_without,
            "calls": "".join("x" if whole else "." for whole in self.whole),
            "changes": spread,
        }
