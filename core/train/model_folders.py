"""The models in a checkpoint, in the form of the hub's folders, so that everything that reads those reads these."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..io.weights import save_weights
from ..models.recognise import CONFIG_FILE
from .step import Saved


def write_models(folder: Path, config: Mapping[str, Any], saved: Saved, keeps_ema: bool) -> None:
    """`model`, and `model_ema` where there is an average."""
    _write(folder / "model", config, saved.weights(use_ema=False))
    if keeps_ema:
        _write(folder / "model_ema", config, saved.weights(use_ema=True))


def _write(folder: Path, config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> None:
    save_weights(folder, weights, overwrite=True)
    (folder / CONFIG_FILE).write_text(json.dumps(dict(config), indent=1), encoding="utf-8")
