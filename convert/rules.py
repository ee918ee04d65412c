"""Rules that turn the names and shapes of one checkpoint into those of another, as data.

`{}` in a name stands for one number between dots, `{*}` for any beginning. The first rule that knows a name is taken.
Every rule has an inverse or says why it has none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from ..core.errors import CheckpointError


@dataclass(frozen=True)
class Rename:
    """Another name for the same tensor."""

    old: str
    new: str
    one_way: str = ""
    """Why the new name does not tell the old one; empty where it does."""

    def inverse(self) -> Rename:
        if self.one_way:
            raise CheckpointError(f"{self.new} cannot be named {self.old} again: {self.one_way}")
        return Rename(self.new, self.old)


@dataclass(frozen=True)
class Transpose:
    """Another name and other order of axes."""

    old: str
    new: str
    axes: tuple[int, ...]
    """Place of each new axis in the old shape."""

    def inverse(self) -> Transpose:
        return Transpose(self.new, self.old, tuple(int(place) for place in np.argsort(self.axes)))


@dataclass(frozen=True)
class Merge:
    """Tensors joined along the first axis (queries, keys and values in one matrix)."""

    old: tuple[str, ...]
    new: str

    def inverse(self) -> Split:
        return Split(self.new, self.old)


@dataclass(frozen=True)
class Split:
    """A tensor cut along the first axis into equal parts."""

    old: str
    new: tuple[str, ...]

    def inverse(self) -> Merge:
        return Merge(self.new, self.old)


@dataclass(frozen=True)
class Drop:
    """A tensor that is left out on purpose."""

    old: str
    why: str

    def inverse(self) -> Rename:
        raise CheckpointError(f"{self.old} cannot be made again: {self.why}")


@dataclass(frozen=True)
class Tied:
    """A second copy of a tensor: left out where `new` is there too (and equal), else renamed to it."""

    old: str
    new: str

    def inverse(self) -> Rename:
        raise CheckpointError(f"{self.old} is a copy of {self.new}; readers make it themselves")


Rule = Rename | Transpose | Merge | Split | Drop | Tied


def inverse(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """The rules for the way back. Raises CheckpointError, with the reason, for a rule that has none."""
    return tuple(rule.inverse() for rule in rules)


def match(pattern: str, name: str) -> tuple[str, ...] | None:
    """What stands for the gaps of a pattern in a name; None when it does not fit."""
    found = _compiled(pattern).fullmatch(name)
    return None if found is None else found.groups()


def fill(pattern: str, gaps: Sequence[str]) -> str:
    """A name from a pattern: its gaps in their order."""
    parts = re.split(r"\{\*?\}", pattern)
    return parts[0] + "".join(gap + part for gap, part in zip(gaps, parts[1:], strict=True))


def pattern_of(name: str) -> str:
    """The pattern of a name: `{}` for every number between dots."""
    return ".".join("{}" if part.isdigit() else part for part in name.split("."))


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    text = re.escape(pattern).replace(r"\{\*\}", "(.+)").replace(r"\{\}", "([0-9]+)")
    return re.compile(text)
