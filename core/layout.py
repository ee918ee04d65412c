"""The list of a model's weights: name, shape, dtype and how a fresh one is made.

`layout()` of a spec is the only such list. Backends build from it, files are checked against it, converters write it.
Names are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Protocol

import numpy as np

from . import random
from .errors import LayoutError
from .printable import short_name

SHOWN_NAMES = 4
_SCALE_PARTS = ("scale", "SCB", "absmax", "quant_map", "zero_point", "qzeros")
"""In the names of what tools for quantising put beside a weight."""
QUANTISED = "; quantised weights with scales are not read, use the file in bf16, fp16 or fp32"


@dataclass(frozen=True)
class Zeros:
    """A fresh weight of zeros."""

    def make(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        return np.zeros(shape, np.float32)


@dataclass(frozen=True)
class Ones:
    """A fresh weight of ones."""

    def make(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        return np.ones(shape, np.float32)


@dataclass(frozen=True)
class Normal:
    """A fresh weight drawn from a normal distribution."""

    std: float
    mean: float = 0.0

    def make(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        return np.float32(self.mean) + generator.standard_normal(shape, dtype=np.float32) * np.float32(self.std)


@dataclass(frozen=True)
class Uniform:
    """A fresh weight drawn evenly from -bound to bound."""

    bound: float

    def make(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        return (generator.random(shape, dtype=np.float32) * 2 - 1) * np.float32(self.bound)


@dataclass(frozen=True)
class Filled:
    """A fresh weight of one number."""

    value: float

    def make(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        return np.full(shape, self.value, np.float32)


@dataclass(frozen=True)
class Halves:
    """A fresh weight whose outputs, its first axis, are of two kinds."""

    first: Init
    second: Init

    def make(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        half = (shape[0] // 2, *shape[1:])
        return np.concatenate([init.make(half, generator) for init in (self.first, self.second)])


@dataclass(frozen=True)
class Constant:
    """A weight that is never trained (a filter); files may leave it out, and its value is this one then."""

    values: tuple[float, ...]
    """In C order."""

    def make(self, shape: tuple[int, ...], generator: np.random.Generator | None = None) -> np.ndarray:
        return np.array(self.values, np.float32).reshape(shape)

    @property
    def is_zero(self) -> bool:
        return not any(self.values)


@dataclass(frozen=True)
class Computed(Constant):
    """A constant of many numbers, computed where they are needed: equal to one by the same function and arguments."""

    values: tuple[float, ...] = ()
    """Not used."""
    table: Callable[..., np.ndarray] = np.zeros
    """Gives the numbers in C order."""
    arguments: tuple[Any, ...] = ()

    def make(self, shape: tuple[int, ...], generator: np.random.Generator | None = None) -> np.ndarray:
        return np.asarray(self.table(*self.arguments), np.float32).reshape(shape)

    @property
    def is_zero(self) -> bool:
        return False


Init = Zeros | Ones | Filled | Normal | Uniform | Halves | Constant


@dataclass(frozen=True)
class Weight:
    """One entry of a layout."""

    shape: tuple[int, ...]
    init: Init
    dtype: str = "float32"
    """The dtype in which training keeps it; files may hold a narrower one."""
    grows_from: str | None = None
    """The weight of the same shape that it is copied from when training starts from a smaller model, which lacks it."""

    trained: bool = True
    """False for what files hold beside the weights and training leaves as it is (a learned null caption)."""
    is_table: bool = False
    """Whether its rows are looked up by number; else a matrix is that of a linear map."""

    @property
    def starts_as_zeros(self) -> bool:
        """Whether it is all zeros in a fresh model."""
        return isinstance(self.init, Zeros) or (isinstance(self.init, Constant) and self.init.is_zero)


@dataclass(frozen=True)
class Layout(Mapping[str, Weight]):
    """All weights of one model, in the order of its modules."""

    model: str
    """Who the weights belong to, for error messages."""
    weights: Mapping[str, Weight]
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Second names under which files may hold a weight, once more (tied embeddings) or instead (older names), to the
    name in the layout."""
    ignores: tuple[str, ...] = ()
    """Beginnings of names that files may hold besides (the decoder of an encoder-decoder)."""
    frozen: tuple[str, ...] = ()
    """Beginnings of the names of weights that the model's config keeps as they are in training."""
    relatives: Mapping[str, str] = field(default_factory=dict)
    """Names of weights that only the model has, or only its relatives, and what one is that differs there."""

    def __getitem__(self, name: str) -> Weight:
        return self.weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def num_parameters(self) -> int:
        """What training leaves as it is does not count, as the publishers count."""
        return sum(prod(weight.shape) for weight in self.weights.values() if weight.trained)

    @property
    def untrained(self) -> tuple[str, ...]:
        """Names of what training leaves as it is."""
        return tuple(name for name, weight in self.weights.items() if not weight.trained)

    def check(self, shapes: Mapping[str, tuple[int, ...]], source: str) -> dict[str, str | None]:
        """Compare a file's shapes with the layout; return, for each weight, the name under which the file holds it.

        None stands for a constant that the file leaves out. Raises LayoutError listing what is missing, unexpected or
        mis-shaped.
        """
        found: dict[str, str | None] = {}
        alias_of = {name: alias for alias, name in self.aliases.items()}
        missing, misshapen = [], []
        for name, weight in self.weights.items():
            held = name if name in shapes else alias_of.get(name)
            if held is None or held not in shapes:
                if not isinstance(weight.init, Constant):
                    missing.append(name)
                found[name] = None
                continue
            found[name] = held
            if tuple(shapes[held]) != weight.shape:
                misshapen.append(f"{held} is {_shape(shapes[held])} instead of {_shape(weight.shape)}")
        unexpected = [
            name
            for name in shapes
            if name not in self.weights and name not in self.aliases and not name.startswith(self.ignores)
        ]
        problems = [
            f"{len(names)} {what} ({some_names(names)})"
            for what, names in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", misshapen))
            if names
        ]
        if problems:
            advice = QUANTISED if hold_scales(unexpected, self.weights) else self._relative({*missing, *unexpected})
            raise LayoutError(f"{source} does not fit {self.model}: {', '.join(problems)}{advice}")
        return found

    def _relative(self, names: Container[str]) -> str:
        """Whose weights those are that differ so, for an error message; nothing where nobody knows."""
        return next((f"; it is {relative}" for name, relative in self.relatives.items() if name in names), "")

    def fresh_weight(self, name: str, seed: int) -> np.ndarray:
        """A fresh float32 weight; it depends on the seed and its own name only, so it is the same on every backend."""
        weight = self.weights[name]
        return weight.init.make(weight.shape, random.stream(seed, f"weight {name}"))


class Weights(Protocol):
    """Where a model's weights come from: a file, a golden case, fresh ones. One tensor is in memory at a time."""

    source: str
    """For error messages: the file or folder."""

    def __iter__(self) -> Iterator[str]: ...

    def __getitem__(self, name: str) -> np.ndarray: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> np.dtype[Any]: ...


class GivenWeights(dict[str, np.ndarray]):
    """Weights that are in memory already."""

    def __init__(self, arrays: Mapping[str, np.ndarray], source: str) -> None:
        super().__init__(arrays)
        self.source = source

    def shape(self, name: str) -> tuple[int, ...]:
        return self[name].shape

    def dtype(self, name: str) -> np.dtype[Any]:
        return self[name].dtype


class FreshWeights(Mapping[str, np.ndarray]):
    """All weights of a layout freshly drawn, one at a time as they are asked for."""

    def __init__(self, layout: Layout, seed: int) -> None:
        self.layout = layout
        self.seed = seed
        self.source = f"fresh weights (seed {seed})"

    def __getitem__(self, name: str) -> np.ndarray:
        return self.layout.fresh_weight(name, self.seed)

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout)

    def __len__(self) -> int:
        return len(self.layout)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.layout[name].shape

    def dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(np.float32)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def hold_scales(unknown: Iterable[str], known: Container[str]) -> bool:
    """Whether some unknown names are those of scales beside known weights, which are quantised then."""
    for name in unknown:
        owner, _, last = name.rpartition(".")
        if any(part in last for part in _SCALE_PARTS) and f"{owner.removesuffix('.weight')}.weight" in known:
            return True
    return False


def some_names(names: Sequence[str]) -> str:
    """The first few of many names, for a message."""
    rest = len(names) - SHOWN_NAMES
    return ", ".join(map(short_name, names[:SHOWN_NAMES])) + (f" and {rest} more" if rest > 0 else "")


class WeightList(dict[str, Weight]):
    """The entries of a layout while a spec writes them down; fresh values as the layers' usual ones.

    Convolutions and linear maps start uniform within 1 / sqrt(inputs per output), norms as the identity.
    """

    def conv(self, name: str, outputs: int, inputs: int, *kernel: int, bias: bool = True) -> None:
        bound = Uniform(1 / np.sqrt(inputs * prod(kernel)).item())
        self[f"{name}.weight"] = Weight((outputs, inputs, *kernel), bound)
        if bias:
            self[f"{name}.bias"] = Weight((outputs,), bound)

    def lower_half(self, name: str, value: float) -> None:
        """Have the second half of a fresh weight's outputs start at a number: log-variances behind means."""
        weight = self[name]
        self[name] = replace(weight, init=Halves(weight.init, Filled(value)))

    def linear(self, name: str, outputs: int, inputs: int, bias: bool = True) -> None:
        bound = Uniform(1 / np.sqrt(inputs).item())
        self[f"{name}.weight"] = Weight((outputs, inputs), bound)
        if bias:
            self[f"{name}.bias"] = Weight((outputs,), bound)

    def norm(self, name: str, channels: int) -> None:
        self[f"{name}.weight"] = Weight((channels,), Ones())
        self[f"{name}.bias"] = Weight((channels,), Zeros())
