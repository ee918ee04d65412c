"""LoRA: two small matrices beside a linear map, which are trained in its place.

y = W x + s B (A x), with A (rank, inputs), B (outputs, rank) and a scale s. A begins uniform within 1 / sqrt(inputs), B
as zeros, so that training begins as the model that it adapts. Of a convolution, A is one to `rank` channels and B one
of 1 x 1.
Source: Hu et al. 2021, arXiv:2106.09685; rank-stabilised: Kalajdzievski 2023, arXiv:2312.03732.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from math import prod, sqrt

import numpy as np

from ...errors import ConfigError
from ...layout import Constant, Layout, Uniform, Weight, Zeros, some_names
from ...printable import short_name

DOWN, UP = "lora_A", "lora_B"
"""Names of the two matrices, below that of their layer."""
ATTENTION = ("*attn*",)
"""Of every family, the maps of all attentions."""
ALL_LINEAR = "all-linear"
"""Stands for every linear map inside the blocks."""
MOST_NEAR = 4


@dataclass(frozen=True)
class Adapter:
    """The two matrices of one layer."""

    rank: int
    alpha: float
    stabilised: bool = False

    @property
    def scale(self) -> float:
        return self.alpha / (sqrt(self.rank) if self.stabilised else self.rank)


Adapters = Mapping[str, Adapter]
"""By the names of their layers."""
NO_ADAPTERS: Adapters = {}


def layers(layout: Layout) -> dict[str, tuple[int, ...]]:
    """The layers of a model that can be adapted, linear maps and convolutions, with the shapes of their weights."""
    return {
        name.removesuffix(".weight"): weight.shape
        for name, weight in layout.items()
        if name.endswith(".weight") and len(weight.shape) > 1 and not _is_other(weight)
    }


def chosen(layout: Layout, blocks: Sequence[str], targets: Sequence[str]) -> tuple[str, ...]:
    """The layers that targets mean. A target is the end of a layer's name, of whole parts, or a pattern with `*`.

    blocks: names of the model's. Raises: ConfigError naming a target that means no layer, and what comes near.
    """
    known, linear = layers(layout), _linear_in(layout, blocks)
    found: dict[str, None] = {}
    for target in targets:
        meant = linear if target == ALL_LINEAR else [name for name in known if ends_as(name, target)]
        if not meant:
            raise ConfigError(_unmeant(target, layout, known))
        found |= dict.fromkeys(meant)
    return tuple(name for name in known if name in found)


def ends_as(name: str, target: str) -> bool:
    """Whether a name, or its end from one of its parts on, is as a target says."""
    return fnmatchcase(name, target) or fnmatchcase(name, f"*.{target}")


def down_shape(weight: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """Of A, for a layer whose weight has this shape."""
    return (rank, *weight[1:])


def up_shape(weight: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """Of B."""
    return (weight[0], rank, *(1 for _ in weight[2:]))


def product(down: np.ndarray, up: np.ndarray) -> np.ndarray:
    """B A in the shape of the layer's weight, in the matrices' dtype."""
    rank = down.shape[0]
    return (up.reshape(up.shape[0], rank) @ down.reshape(rank, -1)).reshape(up.shape[0], *down.shape[1:])


def adapter_layout(layout: Layout, adapters: Adapters) -> Layout:
    """The weights of the adapters alone."""
    weights: dict[str, Weight] = {}
    for name, adapter in adapters.items():
        shape = layout[f"{name}.weight"].shape
        bound = Uniform(1 / sqrt(prod(shape[1:])))
        weights[f"{name}.{DOWN}.weight"] = Weight(down_shape(shape, adapter.rank), bound)
        weights[f"{name}.{UP}.weight"] = Weight(up_shape(shape, adapter.rank), Zeros())
    return Layout(f"LoRA of {layout.model}", weights)


def adapted_layout(layout: Layout, adapters: Adapters) -> Layout:
    """The weights of a model with those of its adapters."""
    return replace(layout, weights={**layout.weights, **adapter_layout(layout, adapters).weights})


def _linear_in(layout: Layout, blocks: Sequence[str]) -> list[str]:
    inside = tuple(f"{block}." for block in blocks)
    return [name for name, shape in layers(layout).items() if name.startswith(inside) and len(shape) == 2]


def _is_other(weight: Weight) -> bool:
    """A table, a constant, or a convolution of each channel by itself."""
    is_by_channel = len(weight.shape) > 2 and weight.shape[1] == 1
    return weight.is_table or is_by_channel or isinstance(weight.init, Constant)


def _unmeant(target: str, layout: Layout, known: Mapping[str, tuple[int, ...]]) -> str:
    """Why a target means no layer, in a line."""
    ends = dict.fromkeys(".".join(part for part in name.split(".")[-2:]) for name in known)
    whole = [name.removesuffix(".weight") for name in layout]
    if strange := [name for name in whole if ends_as(name, target) and name not in known]:
        return (
            f"tune.targets: {short_name(target)} means {some_names(strange)} of {layout.model}, which is no linear map "
            "or convolution; LoRA adapts those only"
        )
    lasts = dict.fromkeys(name.rpartition(".")[2] for name in known)
    names = [name for name in (*lasts, *ends) if not name.isdigit()]
    near = get_close_matches(target, names, n=MOST_NEAR) or names[: 2 * MOST_NEAR]
    return (
        f"tune.targets: {short_name(target)} means no layer of {layout.model}; there are {', '.join(near)}, ..., and "
        f"{ALL_LINEAR} for all in its blocks"
    )
