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

MODEL, AVERAGE = "model", "model_ema"
"""Folders of the weights and of their average, in a checkpoint."""


def write_models(folder: Path, config: Mapping[str, Any], saved: Saved, keeps_ema: bool) -> None:
    """MODEL, and AVERAGE where it is kept."""
    _write(folder / MODEL, config, saved.weights(use_ema=False))
    if keeps_ema:
        _write(folder / AVERAGE, config, saved.weights(use_ema=True))


def _write(folder: Path, config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> None:
    save_weights(folder, weights, overwrite=True)
    (folder / CONFIG_FILE).write_text(json.dumps(dict(config), indent=1), encoding="utf-8")
