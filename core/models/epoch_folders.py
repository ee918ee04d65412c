"""What hpcaitech's training of Open-Sora leaves: a folder for each checkpoint, `epoch<E>-global_step<G>`.

It holds `model`, in shards with an index, `ema.pt`, the average of all weights in float32, and `running_states.json`;
optimiser, learning rate and sampler lie beside them. Only the shapes of the weights say what the model is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CheckpointError
from ..io.files import read_json
from ..io.weights import INDEX_SUFFIX, SUFFIX
from ..printable import short_name

STATES = "running_states.json"
MODEL = "model"
AVERAGES = ("ema.safetensors", "ema.pt")
"""The average, converted in its place or as it was written."""
_NAME = re.compile(r"epoch(\d+)-global_step(\d+)")
_FACTS = ("epoch", "step", "global_step", "batch_size")
_MAX_STATES_BYTES = 100_000


class EpochFolder(NamedTuple):
    """One checkpoint of that training."""

    path: Path
    model: Path | None
    average: Path | None
    states: Mapping[str, Any]
    """Of `running_states.json`, or what the folder's name says of them."""

    def describe(self) -> str:
        """What it is and holds, in a line."""
        states = ", ".join(f"{key} {short_name(value)}" for key, value in self.states.items())
        parts = {"weights": self.model, "their average": self.average}
        held = ", ".join(f"{what} in {place.name}" for what, place in parts.items() if place is not None)
        return f"a checkpoint of Open-Sora's training ({states or STATES + ' tells nothing'}) with {held}"

    def meant(self, average: bool, foreign: bool) -> tuple[Path, tuple[str, ...]]:
        """The model that it stands for, and what to tell of that; as core.models.run_folders.model_folder."""
        wanted = self.average if average and self.average is not None else self.model
        if wanted is None:
            raise CheckpointError(f"{self.path}: holds no {MODEL} beside its average; leave out --no-ema")
        if foreign or wanted is self.model or wanted.suffix == SUFFIX or not _holds_safetensors(self.model):
            return wanted, ()
        assert self.model is not None
        told = f"is a file of torch, so {self.model} stands for {self.path}"
        return self.model, (f"{wanted}: {told}; `duosora convert {self.path} --to FOLDER` takes this average",)


def epoch_folder(path: Path) -> EpochFolder | None:
    """The checkpoint that a folder is, or of several in it the newest; None where it is none of that training.

    Raises: CheckpointError when it is called so and holds no model.
    """
    if not os.path.isdir(path):
        return None
    if _NAME.fullmatch(path.absolute().name) or (path / STATES).is_file():
        return _opened(path)
    found = [
        (int(match[2]), below) for below in path.glob("epoch*-global_step*") if (match := _NAME.fullmatch(below.name))
    ]
    return _opened(max(found)[1]) if found else None


def _opened(path: Path) -> EpochFolder:
    model = path / MODEL if os.path.isdir(path / MODEL) else None
    average = next((path / name for name in AVERAGES if (path / name).is_file()), None)
    if model is None and average is None:
        raise CheckpointError(f"{path}: holds neither {MODEL} nor {AVERAGES[-1]}; it was not copied whole")
    return EpochFolder(path, model, average, _states(path))


def _states(path: Path) -> dict[str, Any]:
    match = _NAME.fullmatch(path.absolute().name)
    named = {"epoch": match[1], "global_step": match[2]} if match else {}
    try:
        told = read_json(path / STATES, _MAX_STATES_BYTES)
    except (OSError, ValueError):
        return named
    return {key: told[key] for key in _FACTS if key in told} if isinstance(told, dict) else named


def _holds_safetensors(folder: Path | None) -> bool:
    return folder is not None and any(entry.name.endswith((SUFFIX, INDEX_SUFFIX)) for entry in folder.iterdir())
