"""Which model a checkpoint is, and its tensors under the names of that model's layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ..core.errors import CheckpointError
from ..core.io.weights import is_finite, is_float
from ..core.layout import QUANTISED, hold_scales
from .names import NAMES
from .readers.stored import CHUNK_BYTES, Source, Stored
from .rules import Drop, Merge, Rename, Rule, Split, Tied, Transpose, fill, match, pattern_of

UNNAMED = "none"
"""The family of weights that keep their names, whatever they are."""
MODELS = (*NAMES, UNNAMED)
SHOWN_NAMES = 6
PREFIXES = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")
"""What training on several devices and compiling put into names; taken out wherever a part of a name begins."""


@dataclass(frozen=True)
class Origin:
    """How one tensor is made: from one source tensor, or several that are joined."""

    names: tuple[str, ...]
    axes: tuple[int, ...] | None = None
    part: tuple[int, int] | None = None
    """Which of how many equal parts of the first axis."""


@dataclass(frozen=True)
class Plan:
    """What becomes of every tensor of a source."""

    model: str
    origins: Mapping[str, Origin]
    """New name to where it comes from, in the order of the source."""
    dropped: Mapping[str, str]
    """Left-out name to the reason."""
    ties: tuple[tuple[str, str], ...]
    """Names of the source that must hold the same numbers."""


def guess(names: list[str]) -> tuple[str, int]:
    """The model that most of the names belong to, and how many do; `none` where it is fewer than half."""
    known = {model: len(names) - len(apply(NAMES[model].rules, names, NAMES[model].patterns())[1]) for model in NAMES}
    best = max(known, key=lambda model: known[model])
    return (best, known[best]) if known[best] * 2 > len(names) else (UNNAMED, known[best])


def plan(source: Source, model: str | None) -> Plan:
    """Find the rule for every tensor. `model` is one of MODELS, None guesses.

    Raises: CheckpointError naming the tensors that no rule knows and the model that they look like.
    """
    names = list(source)
    guessed, count = guess(names)
    if model == UNNAMED:
        return Plan(UNNAMED, {name: Origin((name,)) for name in names}, {}, ())
    chosen = model or guessed
    if chosen == UNNAMED:
        raise CheckpointError(
            f"{source.source}: its names ({_some(names)}) belong to no model that is known ({', '.join(NAMES)}); "
            f"--model {UNNAMED} converts it with its names as they are"
        )
    found, unknown = apply(NAMES[chosen].rules, names, NAMES[chosen].patterns(), chosen)
    if unknown:
        advice = QUANTISED if hold_scales(unknown, names) else ""
        looks = f"{guessed} ({count} of {len(names)} names)" if guessed != UNNAMED else "no known model"
        raise CheckpointError(
            f"{source.source}: {len(unknown)} tensors are unknown to {chosen}: {_some(unknown)}; "
            f"it looks like {looks}; choose with --model ({', '.join(MODELS)}){advice}"
        )
    return found


def apply(
    rules: tuple[Rule, ...], names: list[str], known: frozenset[str], model: str = UNNAMED
) -> tuple[Plan, list[str]]:
    """What rules make of names: the plan, and the names that none of them turns into one of the `known` patterns."""
    held = {_without_prefixes(name): name for name in names}
    origins: dict[str, Origin] = {}
    dropped: dict[str, str] = {}
    ties: list[tuple[str, str]] = []
    unknown = sorted(set(names) - set(held.values()))  # two names that are one without their prefixes
    for name, full_name in held.items():
        rule, gaps = _rule_for(name, rules) if pattern_of(name) not in known else (None, ())
        made: dict[str, Origin] = {}
        if rule is None:
            made[name] = Origin((full_name,))
        elif isinstance(rule, Drop):
            dropped[full_name] = rule.why
            continue
        elif isinstance(rule, Tied):
            if rule.new in held:
                dropped[full_name] = f"the same as {rule.new}"
                ties.append((full_name, held[rule.new]))
                continue
            made[rule.new] = Origin((full_name,))
        elif isinstance(rule, Rename | Transpose):
            axes = rule.axes if isinstance(rule, Transpose) else None
            made[fill(rule.new, gaps)] = Origin((full_name,), axes)
        elif isinstance(rule, Split):
            for number, new in enumerate(rule.new):
                made[fill(new, gaps)] = Origin((full_name,), part=(number, len(rule.new)))
        else:
            parts = tuple(fill(old, gaps) for old in rule.old)
            if not set(parts) <= held.keys():
                unknown.append(full_name)
                continue
            if name == parts[0]:
                made[fill(rule.new, gaps)] = Origin(tuple(held[part] for part in parts))
        for new, origin in made.items():
            if pattern_of(new) not in known or new in origins:
                unknown.append(full_name)
            else:
                origins[new] = origin
    return Plan(model, origins, dropped, tuple(ties)), unknown


def _without_prefixes(name: str) -> str:
    for prefix in PREFIXES:
        name = f".{name}".replace(f".{prefix}", ".").removeprefix(".")
    return name


def _rule_for(name: str, rules: tuple[Rule, ...]) -> tuple[Rule | None, tuple[str, ...]]:
    for rule in rules:
        for old in rule.old if isinstance(rule, Merge) else (rule.old,):
            gaps = match(old, name)
            if gaps is not None:
                return rule, gaps
    return None, ()


class Named:
    """The tensors of a plan, in another dtype where asked: shapes at once, bytes as they are read.

    `dtype` is what floating-point tensors become, None keeps them. Integers always stay.
    """

    def __init__(self, source: Source, made: Plan, dtype: np.dtype[Any] | None) -> None:
        self.source = source.source
        self._source, self._origins, self._dtype = source, made.origins, dtype
        for first, second in made.ties:
            if not _same(source, first, second):
                raise CheckpointError(
                    f"{source.source}: {first} and {second} should be one tensor but hold different numbers"
                )

    def __iter__(self) -> Iterator[str]:
        return iter(self._origins)

    def __len__(self) -> int:
        return len(self._origins)

    def shape(self, name: str) -> tuple[int, ...]:
        origin = self._origins[name]
        shapes = [self._source.shape(part) for part in origin.names]
        first = shapes[0]
        where = f"{self.source}: {origin.names[0]} of shape {list(first)}"
        if origin.axes is not None:
            if sorted(origin.axes) != list(range(len(first))):
                raise CheckpointError(f"{where} cannot be transposed to {origin.axes}")
            return tuple(first[axis] for axis in origin.axes)
        if origin.part is not None:
            if not first or first[0] % origin.part[1]:
                raise CheckpointError(f"{where} cannot be cut into {origin.part[1]} equal parts")
            return (first[0] // origin.part[1], *first[1:])
        if len(shapes) > 1:
            dtypes = {self._source.dtype(part) for part in origin.names}
            if len(dtypes) > 1 or any(not shape or shape[1:] != first[1:] for shape in shapes):
                raise CheckpointError(f"{where} cannot be joined with {', '.join(origin.names[1:])}")
            return (sum(shape[0] for shape in shapes), *first[1:])
        return first

    def dtype(self, name: str) -> np.dtype[Any]:
        kept = self._source.dtype(self._origins[name].names[0])
        return self._dtype if self._dtype is not None and is_float(kept) else kept

    def nbytes_of(self, name: str) -> int:
        return prod(self.shape(name)) * self.dtype(name).itemsize

    @property
    def nbytes(self) -> int:
        return sum(map(self.nbytes_of, self))

    def chunks(self, name: str) -> Iterator[np.ndarray]:
        """The bytes of a tensor in C order, a few megabytes at a time, uint8."""
        origin, dtype = self._origins[name], self.dtype(name)
        if origin.axes is None:
            parts = [self._spans(part, origin.part) for part in origin.names]
            for part, (start, count) in zip(origin.names, parts, strict=True):
                yield from self._read(part, start, count, dtype)
            return
        (only,) = origin.names
        held = self._source.read_bytes(only, 0, _nbytes(self._source, only))
        cast = _cast(held.view(self._source.dtype(only)), dtype, f"{self.source}: {only}")
        array = cast.reshape(self._source.shape(only))
        yield np.ascontiguousarray(array.transpose(origin.axes)).reshape(-1).view(np.uint8)

    def _spans(self, name: str, part: tuple[int, int] | None) -> tuple[int, int]:
        total = _nbytes(self._source, name)
        if part is None:
            return 0, total
        return part[0] * (total // part[1]), total // part[1]

    def _read(self, name: str, start: int, count: int, dtype: np.dtype[Any]) -> Iterator[np.ndarray]:
        kept = self._source.dtype(name)
        for place in range(start, start + count, CHUNK_BYTES):  # a multiple of every width
            chunk = self._source.read_bytes(name, place, min(CHUNK_BYTES, start + count - place))
            yield _cast(chunk.view(kept), dtype, f"{self.source}: {name}").view(np.uint8)


def _cast(values: np.ndarray, dtype: np.dtype[Any], where: str) -> np.ndarray:
    """Rounded to the nearest, ties to even, as torch does; what would become infinite is an error."""
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        cast = values.astype(dtype)
        if not is_finite(cast) and (np.isfinite(values) & ~np.isfinite(cast)).any():
            raise CheckpointError(f"{where} has numbers too large for {dtype}; choose another --dtype, or keep")
    return cast


def _nbytes(source: Source, name: str) -> int:
    return prod(source.shape(name)) * source.dtype(name).itemsize


def _same(source: Source, first: str, second: str) -> bool:
    """Whether two tensors hold the same bytes; tied ones lie at one place, and nothing is read then."""
    if source.shape(first) != source.shape(second) or source.dtype(first) != source.dtype(second):
        return False
    if isinstance(source, Stored) and source.place(first) == source.place(second):
        return True
    total = _nbytes(source, first)
    return all(
        np.array_equal(source.read_bytes(first, place, count), source.read_bytes(second, place, count))
        for place in range(0, total, CHUNK_BYTES)
        for count in (min(CHUNK_BYTES, total - place),)
    )


def _some(names: list[str]) -> str:
    shown = ", ".join(name[:120] for name in names[:SHOWN_NAMES])
    return shown + (f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else "")
