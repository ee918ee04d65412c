"""Which model a checkpoint is, and its tensors under the names of that model's layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from ..core.errors import CheckpointError
from ..core.io.weights import is_finite, is_float
from ..core.layout import QUANTISED, hold_scales, some_names
from .matching import Origin, Renaming, apply, without_wrappers
from .names import NAMES
from .prefixes import Fit, best_of_each, find_fits, is_state
from .readers.stored import CHUNK_BYTES, Stored, TensorSource

UNNAMED = "none"
"""The family of weights that keep their names, whatever they are."""
MODELS = (*NAMES, UNNAMED)
PICTURE_AXES = 4
"""Of a kernel that looks at pictures."""


def guess(names: list[str]) -> tuple[str, int]:
    """The model that most of the names belong to, and how many do; `none` where no model has half of them."""
    fits = find_fits(names)
    return (fits[0].model, fits[0].count) if fits else (UNNAMED, 0)


def plan(source: TensorSource, model: str | None, strip: str | None = None, likely: tuple[str, ...] = ()) -> Renaming:
    """Find the rule for every tensor. `model` is one of MODELS, None guesses, and takes those that are `likely` if it
    can be; `strip` is what stands before the names, None finds it.

    Raises: CheckpointError naming the tensors that no rule knows and the model that they look like, or the models
    between which the names leave a choice.
    """
    below, dropped = _stripped(source, strip)
    if model == UNNAMED:
        return Renaming(UNNAMED, {name: Origin((full,)) for name, full in below.items()}, dropped, ())
    fits = find_fits(below)
    preferred = [fit for fit in fits if model is None and fit.model in likely]
    fit = _chosen(preferred or fits, model, list(below), source.source)
    found, unknown = plan_of(below, fit, fits)
    if unknown:
        advice = QUANTISED if hold_scales(unknown, list(source)) else ""
        looks = str(fits[0]) if fits else "no known model"
        raise CheckpointError(
            f"{source.source}: {len(unknown)} tensors are unknown to {fit.model}: {some_names(unknown)}; "
            f"it looks like {looks}; choose with --model ({', '.join(MODELS)}){advice}"
        )
    return replace(found, dropped={**found.dropped, **dropped})


def plan_of(below: Mapping[str, str], fit: Fit, fits: list[Fit]) -> tuple[Renaming, list[str]]:
    """The plan for one of the models that names fit, and the names that it leaves unknown.

    `below` leads from names without the prefix that the user gave to whole names.
    """
    wanted, doubled, dropped = _sorted(below, fit, fits)
    found, unmatched = apply(NAMES[fit.model].rules, list(wanted), NAMES[fit.model].patterns(), fit.model)
    origins = {
        new: replace(origin, names=tuple(wanted[name] for name in origin.names))
        for new, origin in found.origins.items()
    }
    dropped |= {wanted[name]: reason for name, reason in found.dropped.items()}
    ties = tuple((wanted[first], wanted[second]) for first, second in found.ties)
    return Renaming(fit.model, origins, dropped, ties), [*doubled, *(wanted[name] for name in unmatched)]


def _stripped(source: TensorSource, strip: str | None) -> tuple[dict[str, str], dict[str, str]]:
    """Names without the prefix that the user gives, to whole names; and the names that do not begin with it."""
    if not strip:
        return {name: name for name in source}, {}
    prefix = f"{strip.removesuffix('.')}."
    if not any(name.startswith(prefix) for name in source):
        prefix = strip
    below = {name[len(prefix) :]: name for name in source if name.startswith(prefix) and name != prefix}
    if not below:
        raise CheckpointError(
            f"{source.source}: --strip {strip}: no name begins with it; there are {some_names(list(source))}"
        )
    return below, {name: f"not below {prefix}" for name in source if not name.startswith(prefix) or name == prefix}


def _chosen(fits: list[Fit], model: str | None, names: list[str], where: str) -> Fit:
    fitting = [fit for fit in fits if fit.model == model] if model else best_of_each(fits)
    if len(fitting) > 1:
        raise CheckpointError(
            f"{where}: holds several models: {', '.join(map(str, fitting))}; choose with "
            "--model, or with --strip PREFIX (--key NAME for a branch of the file)"
        )
    if fitting:
        return fitting[0]
    if model is None:
        raise CheckpointError(
            f"{where}: its names ({some_names(names)}) belong to no model that is known ({', '.join(NAMES)}); "
            f"--model {UNNAMED} converts it with its names as they are"
        )
    return Fit(model, "", 0, len(names), 0)


def _sorted(below: Mapping[str, str], fit: Fit, fits: list[Fit]) -> tuple[dict[str, str], list[str], dict[str, str]]:
    """The model's names without prefix, to whole names; whole names that would be the model's a second time; and what
    lies beside the model, to the reason why it is left out.
    """
    dropped: dict[str, str] = {}
    others = {other.prefix: other.model for other in fits if other.model != fit.model and not fit.prefix}
    wanted: dict[str, str] = {}
    outside: dict[str, str] = {}
    doubled: list[str] = []
    for name, full in below.items():
        bare = without_wrappers(name)
        inner = bare.removeprefix(fit.prefix)
        other = next((prefix for prefix in others if prefix and bare.startswith(prefix)), None)
        if other:
            dropped[full] = f"of {others[other]}"
        elif not bare.startswith(fit.prefix):
            outside[bare] = full
        elif is_state(inner):
            dropped[full] = "state of the training"
        elif inner in wanted:
            doubled.append(full)
        else:
            wanted[inner] = full
    made, _ = apply(NAMES[fit.model].rules, list(outside), NAMES[fit.model].patterns())
    doubled += [outside[name] for origin in made.origins.values() for name in origin.names]
    dropped |= dict.fromkeys(outside.values(), f"not below {fit.prefix}")
    return wanted, doubled, dropped


class Named:
    """The tensors of a plan, in another dtype where asked: shapes at once, bytes as they are read.

    `dtype` is what floating-point tensors become, None keeps them. Integers always stay.
    """

    def __init__(
        self, source: TensorSource, made: Renaming, dtype: np.dtype[Any] | None, kernels: tuple[str, ...] = ()
    ) -> None:
        """kernels: as Names.kernels."""
        self.source, self._kernels = source.source, kernels
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
        if name in self._kernels and len(first) == PICTURE_AXES:
            return (*first[:2], 1, *first[2:])
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
        cast = rounded(held.view(self._source.dtype(only)), dtype, f"{self.source}: {only}")
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
            yield rounded(chunk.view(kept), dtype, f"{self.source}: {name}").view(np.uint8)


def rounded(values: np.ndarray, dtype: np.dtype[Any], where: str) -> np.ndarray:
    """Rounded to the nearest, ties to even, as torch does. Raises: CheckpointError for what would become infinite."""
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        cast = values.astype(dtype)
        if not is_finite(cast) and (np.isfinite(values) & ~np.isfinite(cast)).any():
            raise CheckpointError(f"{where} has numbers too large for {dtype}; choose another --dtype, or keep")
    return cast


def _nbytes(source: TensorSource, name: str) -> int:
    return prod(source.shape(name)) * source.dtype(name).itemsize


def _same(source: TensorSource, first: str, second: str) -> bool:
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
