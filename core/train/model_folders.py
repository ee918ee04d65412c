"""The models in a checkpoint, in the form of the hub's folders, so that everything that reads those reads these."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..io.weights import SUFFIX, Shard, open_weights, save_shard
from ..layout import GivenWeights, Weights
from ..models.finding import CONFIG_FILE
from ..models.lora.adapter import Adapters
from ..models.lora.files import PEFT_CONFIG, PEFT_STEM, base_header, peft_config, write_peft_config
from ..models.lora.names import PEFT_PREFIX
from ..models.run_folders import AVERAGE, MODEL
from ..seam.training import Saved


@dataclass(frozen=True)
class Adapting:
    """What a run of LoRA writes in the place of a model."""

    adapters: Adapters
    base: Mapping[str, Any]
    """What it says of the model that it is for: `source`, and `fingerprint`."""


def write_adapters(folder: Path, adapting: Adapting, saved: Saved, keeps_ema: bool, shard: Shard) -> None:
    """The same of the weights of adapters, in the form of peft's folders."""
    for name in (MODEL, AVERAGE) if keeps_ema else (MODEL,):
        place, weights = folder / name, saved.weights(use_ema=name == AVERAGE)
        save_shard(place, _InPeft(weights), shard, PEFT_STEM, base_header(adapting.base))
        if shard.index == 0:
            write_peft_config(place / PEFT_CONFIG, peft_config(adapting.adapters, adapting.base.get("source")))


def saved_weights(folder: Path) -> Weights:
    """What either has written, under the names of training. Raises: CheckpointError."""
    if not (folder / PEFT_CONFIG).exists():
        return open_weights(folder)
    reader = open_weights(folder / f"{PEFT_STEM}{SUFFIX}")
    return GivenWeights({name.removeprefix(PEFT_PREFIX): reader[name] for name in reader}, str(folder))


class _InPeft(Mapping[str, np.ndarray]):
    """Weights of adapters under peft's names."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self._weights: Any = weights

    def __getitem__(self, name: str) -> np.ndarray:
        return self._weights[name.removeprefix(PEFT_PREFIX)]

    def __iter__(self) -> Iterator[str]:
        return (f"{PEFT_PREFIX}{name}" for name in self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._weights.shape(name.removeprefix(PEFT_PREFIX))

    def dtype(self, name: str) -> np.dtype[Any]:
        return self._weights.dtype(name.removeprefix(PEFT_PREFIX))


def write_models(folder: Path, config: Mapping[str, Any], saved: Saved, keeps_ema: bool, shard: Shard) -> None:
    """A rank's part of MODEL, and of AVERAGE where it is kept."""
    _write(folder / MODEL, config, saved.weights(use_ema=False), shard)
    if keeps_ema:
        _write(folder / AVERAGE, config, saved.weights(use_ema=True), shard)


def _write(folder: Path, config: Mapping[str, Any], weights: Mapping[str, np.ndarray], shard: Shard) -> None:
    save_shard(folder, weights, shard)
    if shard.index == 0:
        (folder / CONFIG_FILE).write_text(json.dumps(dict(config), indent=1), encoding="utf-8")
