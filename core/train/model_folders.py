"""The models in a checkpoint, in the form of the hub's folders, so that everything that reads those reads these."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..io.weights import Shard, save_shard
from ..models.finding import CONFIG_FILE
from ..models.run_folders import AVERAGE, MODEL
from ..seam.training import Saved


def write_models(folder: Path, config: Mapping[str, Any], saved: Saved, keeps_ema: bool, shard: Shard) -> None:
    """A rank's part of MODEL, and of AVERAGE where it is kept."""
    _write(folder / MODEL, config, saved.weights(use_ema=False), shard)
    if keeps_ema:
        _write(folder / AVERAGE, config, saved.weights(use_ema=True), shard)


def _write(folder: Path, config: Mapping[str, Any], weights: Mapping[str, np.ndarray], shard: Shard) -> None:
    save_shard(folder, weights, shard)
    if shard.index == 0:
        (folder / CONFIG_FILE).write_text(json.dumps(dict(config), indent=1), encoding="utf-8")
