"""One golden case on disk: configuration, tensors, weights, tolerances.

A case is a folder with `case.json`, `io.safetensors` and, for models, weights as a file or as a bit-exact recipe
whose sha256 is checked; or it is one JSON file, a table of inputs and results. Anything that cannot be read is an
error, never a skip.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, ConfigError
from ..io.files import read_json
from ..io.weights import open_weights
from ..layout import GivenWeights
from .forms import Contents, read_contents

CASE_FILE = "case.json"
LIMIT_OF_KIND = {"u": 1.0, "i": 0.5, "b": 0.5, "f": 1e-6}
"""By numpy's letter, for tensors without a tolerance: pixels may be off by one level, other whole numbers (indices,
buckets) are to be equal, and so are constants but for float32's rounding."""


@dataclass(frozen=True)
class Comparison:
    """A tensor that we computed, under the name of the golden tensor it is to be compared with."""

    name: str
    got: np.ndarray
    note: str = ""
    """Which way it was computed, when one golden tensor is compared with several ways ("streamed, chunk 2")."""
    where: np.ndarray | None = None
    """Boolean mask that broadcasts over the tensor: compare here only."""
    expected: np.ndarray | None = None
    """What it is to be, where the case keeps its results in case.json instead of a tensor."""
    limit_as: str = ""
    """The tensor whose limit holds, where the case says none for this one."""


@dataclass(frozen=True)
class Verdict:
    """How far a comparison came from its golden tensor."""

    name: str
    max_error: float
    ratio: float
    """Largest error divided by the limit at that element; 1 or less passes."""

    @property
    def passed(self) -> bool:
        return self.ratio <= 1.0


class Case:
    """A golden case, read lazily.

    Raises: CheckpointError when a file is missing, damaged, or weights do not have the recorded sha256.
    """

    def __init__(self, place: Path) -> None:
        """place: the folder, or the file of a table."""
        file = place / CASE_FILE if place.is_dir() else place
        self.folder = file.parent
        self.table = None if file.name == CASE_FILE else file.stem
        """Of a case that is one file, its name."""
        try:
            self.raw: dict[str, Any] = read_json(file)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file}: cannot be read as a golden case ({error})") from error
        if not isinstance(self.raw, dict):
            raise CheckpointError(f"{file}: cannot be read as a golden case (needs an object)")

    @property
    def name(self) -> str:
        return f"{self.family}/{self.table or self.folder.name}"

    @property
    def family(self) -> str:
        return (self.folder if self.table else self.folder.parent).name

    @cached_property
    def contents(self) -> Contents:
        """What case.json says of tensors, limits and weights, whichever form it has."""
        return read_contents(self.raw)

    @property
    def has_unproven_weights(self) -> bool:
        """Whether it has weights, and does not say their sha256."""
        unproven = [entry for entry in self.contents.weights.values() if not {"sha256", "same_as"} & set(entry)]
        return any((self.folder / entry.get("file", "")).is_file() for entry in unproven)

    @property
    def config(self) -> dict[str, Any]:
        return self.raw["config"]

    @cached_property
    def tensors(self) -> dict[str, np.ndarray]:
        """All recorded tensors, inputs and outputs, by name."""
        if self.table:
            return {}
        reader = open_weights(self.folder / "io.safetensors")
        return {name: reader[name] for name in reader}

    def outputs(self) -> list[str]:
        """Names of the tensors that an implementation has to reproduce, as far as the case says which."""
        return [name for name, role in self.contents.roles.items() if role == "output"]

    def tags(self) -> list[str]:
        """First parts of tensor names, in the order of the file; [""] for a case without tags."""
        separator = self.contents.separator
        return list(dict.fromkeys(name.rpartition(separator)[0].split(separator)[0] for name in self.contents.roles))

    def get(self, tag: str, name: str) -> np.ndarray:
        """The tensor `tag.name` or `tag/name`, or `name` where the case has no tags."""
        return self.tensors[f"{tag}{self.contents.separator}{name}" if tag else name]

    def weights(self, key: str = "weights") -> GivenWeights:
        """The weights under `key` of case.json, checked against their sha256 where it says one."""
        entry = self.contents.weights[key]
        weights: Mapping[str, np.ndarray]
        if "same_as" in entry:
            other = Case(self.folder.parent.parent / entry["same_as"])
            weights = other.weights(key if key in other.contents.weights else "weights")
        elif "file" in entry:
            reader = open_weights(self.folder / entry["file"])
            weights = {name: reader[name] for name in reader}
        else:
            weights = self._from_recipe(entry)
        if "sha256" in entry and weights_sha256(weights) != entry["sha256"]:
            raise CheckpointError(f"{self.folder}: {key} do not have the sha256 that case.json records")
        return GivenWeights(weights, source=f"{self.name} ({key})")

    def _from_recipe(self, entry: Mapping[str, Any]) -> dict[str, np.ndarray]:
        if entry.get("recipe") != "synth_uniform_v1":
            raise CheckpointError(f"{self.folder}: weights have neither a file nor the recipe synth_uniform_v1")
        fixed = open_weights(self.folder / entry["fixed_file"]) if "fixed_file" in entry else {}
        weights = {}
        for name, recipe in entry["table"].items():
            shape = tuple(recipe[0])
            if recipe[1] == "fixed":
                weights[name] = fixed[name]
                continue
            seed, half_width, center = recipe[1:]
            uniform = np.random.RandomState(seed).random_sample(int(np.prod(shape))).reshape(shape)
            weights[name] = (center + (2 * uniform - 1) * half_width).astype(np.float32)
        return weights

    def holds(self, comparison: Comparison) -> bool:
        """Whether there is something to compare with: runners compute all that cases of a family may record."""
        return comparison.name in self.tensors or comparison.expected is not None

    def judge(self, comparison: Comparison, slack: float = 1.0) -> Verdict:
        """Compare with the golden tensor at the case's own tolerance, times `slack`.

        Raises: CheckpointError when the case holds no such tensor.
        """
        name, got = comparison.name, np.asarray(comparison.got)
        if name not in self.tensors and comparison.expected is None:
            raise CheckpointError(f"{self.folder}: no tensor {name} to compare with")
        expected = self.tensors[name] if comparison.expected is None else comparison.expected
        label = f"{name} ({comparison.note})" if comparison.note else name
        if got.shape != expected.shape or (expected.dtype == np.uint8 and got.dtype != np.uint8):
            return Verdict(label, float("inf"), float("inf"))
        expected64, got64 = expected.astype(np.float64), got.astype(np.float64)
        error = np.abs(got64 - expected64)
        with np.errstate(divide="ignore", invalid="ignore"):  # where the limit is a part of a recorded 0
            ratio = np.where(error == 0, 0.0, error / (self._limit(comparison.limit_as or name, expected) * slack))
        if comparison.where is not None:
            keep = np.broadcast_to(comparison.where, error.shape)
            error, ratio = error[keep], ratio[keep]
        if np.any(~np.isfinite(got64) & np.isfinite(expected64)):
            return Verdict(label, float("inf"), float("inf"))
        if error.size == 0:
            return Verdict(label, 0.0, 0.0)
        return Verdict(label, float(np.nanmax(error)), float(np.nanmax(ratio)))

    def _limit(self, name: str, expected: np.ndarray) -> np.ndarray:
        limit = self.contents.limits.get(name)
        if limit is None:
            return np.full(expected.shape, LIMIT_OF_KIND[expected.dtype.kind])
        size = np.abs(expected.astype(np.float64))
        absolute: Any = limit.absolute + limit.of_largest * size.max(initial=0.0)
        if limit.per_step:
            per_step = self.tensors[limit.per_step].astype(np.float64)
            absolute = per_step.reshape(-1, *[1] * (expected.ndim - 1))
        return absolute + limit.relative * size


def check_options(config: Mapping[str, Any], source: str, known: Collection[str]) -> None:
    """Raises: ConfigError naming an option that no runner follows: a case that sets it was made by other rules."""
    for name in config:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f", did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
            raise ConfigError(f"{source}: {name} = {config[name]!r}: unknown option{hint}")


def find_cases(folder: Path) -> Iterator[Case]:
    """Every case below a folder of families, a family, or the one case that the folder is.

    Raises: CheckpointError when there is none.
    """
    cases = [case for file in sorted(folder.rglob("*.json")) if (case := _case_of(file))] if folder.is_dir() else []
    if not cases:
        raise CheckpointError(f"{folder}: no golden case here (expected <family>/<case>/{CASE_FILE})")
    yield from cases


def _case_of(file: Path) -> Case | None:
    """The case that a JSON file stands for; tables, beside the folders of their family, say what they are."""
    if file.name == CASE_FILE:
        return Case(file)
    if (file.parent / CASE_FILE).exists():
        return None
    try:
        table = Case(file)
    except CheckpointError:  # somebody else's
        return None
    return table if "what" in table.raw else None


def weights_sha256(weights: Mapping[str, np.ndarray]) -> str:
    """sha256 over the names in sorted order, each followed by its tensor's little-endian bytes."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights[name]).tobytes())
    return digest.hexdigest()
