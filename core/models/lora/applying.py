"""LoRA beside the weights of a model, which stay as they are: what a backend adds to the results of its layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...layout import GivenWeights, Layout, Weights
from .adapter import DOWN, UP, Adapter, Adapters
from .merging import Used, in_order


class JoinedLora(NamedTuple):
    """Several LoRA as one: a layer that more than one adapts has their ranks together."""

    adapters: Adapters
    weights: Weights
    """By the names of core.models.lora.adapter.adapter_layout, float32."""


def applied(layout: Layout, used: Sequence[Used]) -> JoinedLora:
    """What LoRA adds to the layers of a model, as matrices whose scale is 1."""
    downs: dict[str, list[np.ndarray]] = {}
    ups: dict[str, list[np.ndarray]] = {}
    for each in in_order(used):
        for layer, pair in each.lora.pairs.items() if each.scale else ():
            downs.setdefault(layer, []).append(pair.down)
            ups.setdefault(layer, []).append(np.float32(each.scale * pair.scale) * pair.up)
    arrays: dict[str, np.ndarray] = {}
    for layer, down in downs.items():
        arrays[f"{layer}.{DOWN}.weight"] = np.concatenate(down)
        arrays[f"{layer}.{UP}.weight"] = np.concatenate(ups[layer], 1)
    ranks = {layer: len(arrays[f"{layer}.{DOWN}.weight"]) for layer in downs}
    return JoinedLora({layer: Adapter(rank, rank) for layer, rank in ranks.items()}, GivenWeights(arrays, layout.model))


class BesideWeights(Mapping[str, np.ndarray]):
    """The weights of a model and those of its adapters."""

    def __init__(self, model: Weights, adapters: Weights) -> None:
        self._held = {name: weights for weights in (model, adapters) for name in weights}
        self.source = model.source

    def __getitem__(self, name: str) -> np.ndarray:
        return self._held[name][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._held[name].shape(name)

    def dtype(self, name: str) -> np.dtype[Any]:
        return self._held[name].dtype(name)
