"""What one's own training leaves: which model folder a path means, and what the run says of itself.

A run's folder holds checkpoints, `checkpoint-<step>`. A checkpoint holds folders of the hub's form, `model` and, where
an average is kept, `model_ema`; its `state.json` says how the run was set. core.train.checkpoints writes them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CheckpointError
from ..io.files import read_json
from .epoch_folders import epoch_folder

MANIFEST, STATE = "manifest.json", "state.json"
"""Of a checkpoint: its files with their sizes, written last; and what the training loop keeps."""
RUN_CONFIG = "config.yaml"
"""A run's settings, in its folder."""
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
MODEL, AVERAGE = "model", "model_ema"
"""Folders of the weights and of their average, in a checkpoint."""


class ModelFolder(NamedTuple):
    """The folder that a path means."""

    path: Path
    notes: tuple[str, ...]
    """A line for each newer checkpoint that is not whole, and for an average that is not read."""


class RunRecord(NamedTuple):
    """What a run says of itself in a checkpoint."""

    checkpoint: Path
    settings: Mapping[str, Any]
    """Those of `duosora train`, as they were when the checkpoint was written; unchecked."""
    models: Mapping[str, Any]
    """The frozen models' folders or presets by kind; empty in checkpoints of older versions."""
    started_in: Any
    """Where the run was started, which its paths are relative to; None in checkpoints of older versions."""
    classes: tuple[str, ...] = ()
    """Names of the classes that it was trained on, in the order of their numbers; (): it knows none."""

    def setting(self, path: str) -> Any:
        """The value of a setting; None where the record does not have it."""
        value: Any = self.settings
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def text(self, path: str) -> str | None:
        """The value of a setting that is a text, else None."""
        value = self.setting(path)
        return value if isinstance(value, str) else None

    def places(self, path: str) -> list[Path]:
        """Where a path that the run was given may be found today, the likeliest first.

        Relative ones start where the run was started: above its folder, which may have been moved as a whole.
        """
        here = Path.cwd()
        roots = [*self._above_run(), *([Path(self.started_in)] if isinstance(self.started_in, str) else []), here]
        return [Path(path) if root == here else root / path for root in dict.fromkeys(roots)]

    def find(self, path: str) -> Path | None:
        """Where such a path is today; None where it is no more."""
        return next((place for place in self.places(path) if os.path.exists(place)), None)

    def _above_run(self) -> list[Path]:
        run, written = self.checkpoint.absolute().parent, Path(self.text("folder") or "/")
        depth = len(written.parts)
        is_below = not written.is_absolute() and run.parts[-depth:] == written.parts
        return [Path(*run.parts[:-depth])] if is_below else []


def model_folder(path: Path, average: bool = True, foreign: bool = False) -> ModelFolder:
    """The model that a path means: of a run its newest whole checkpoint's, of a checkpoint its average, where it keeps
    one, else its weights; the same of what Open-Sora's own training left. All other paths mean themselves.

    average: whether the average is wanted. foreign: whether it may be a file of torch; else the weights stand for it
    where they are safetensors. Raises: CheckpointError for a checkpoint that is not whole, and for a run that has no
    whole one.
    """
    if not os.path.isdir(path) or os.path.exists(path / "config.json"):
        return ModelFolder(path, ())
    if is_checkpoint(path):
        kept, problem = _model_in(path, average)
        if problem is not None:
            raise CheckpointError(f"{path}: {problem}; name another checkpoint, or the folder of a model in it")
        return ModelFolder(kept, ())
    if (theirs := epoch_folder(path)) is not None:
        return ModelFolder(*theirs.meant(average, foreign))
    return _newest(path, average)


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is a checkpoint, whole or not, whatever it was renamed to.

    Other tools call theirs the same, and keep weights in them instead of a folder of weights.
    """
    is_called_so = bool(CHECKPOINT.fullmatch(path.absolute().name)) and os.path.isdir(path / MODEL)
    return os.path.isdir(path) and ((path / MANIFEST).is_file() or is_called_so)


def record_of(folder: Path) -> RunRecord | None:
    """What the run that made a model says of itself; None where no run made it, or nobody knows.

    folder: of the model, or a file in it. Raises: CheckpointError when it cannot be read.
    """
    place = folder.absolute()
    if not os.path.exists(place):
        return None
    checkpoint = place.parent if os.path.isdir(place) else place.parent.parent
    if not (checkpoint / MANIFEST).is_file() or not (checkpoint / STATE).is_file():
        return None
    shown = folder.parent if os.path.isdir(folder) and folder.name else checkpoint
    try:
        run = read_json(checkpoint / STATE)["run"]
        classes = tuple(map(str, run.get("classes", ())))
        return RunRecord(shown, dict(run["config"]), dict(run.get("models", {})), run.get("started_in"), classes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{shown / STATE}: cannot be read as the state of a run ({error})") from error


def _model_in(checkpoint: Path, average: bool) -> tuple[Path, str | None]:
    """The folder of the average, if it is wanted and the manifest lists one, else of the weights; and why it is not
    whole, if so.

    It is whole when its files have their recorded sizes. Hashes are not compared: of large models that takes longer
    than a video.
    """
    kept, problem = MODEL, None
    try:
        files = read_json(checkpoint / MANIFEST)["files"]
        kept = AVERAGE if average and any(name.startswith(f"{AVERAGE}/") for name in files) else MODEL
        sizes = {name: entry["size"] for name, entry in files.items() if name.startswith(f"{kept}/")}
        cut_off = [name for name, size in sizes.items() if not _has_size(checkpoint / name, size)]
        problem = f"{cut_off[0]} is missing or cut off" if cut_off else None
    except FileNotFoundError:
        problem = f"{MANIFEST} is missing: it was not copied whole, or another program wrote it"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{MANIFEST} cannot be read ({error})"
    return checkpoint / kept, problem


def _has_size(file: Path, size: object) -> bool:
    return file.is_file() and file.stat().st_size == size


def _newest(run: Path, average: bool) -> ModelFolder:
    found = [(int(match[1]), path) for path in run.glob("checkpoint-*") if (match := CHECKPOINT.fullmatch(path.name))]
    notes: list[str] = []
    for _, path in sorted(found, reverse=True):
        kept, problem = _model_in(path, average)
        if problem is None:
            return ModelFolder(kept, tuple(notes))
        notes.append(f"passed over {path}: {problem}")
    if notes:
        raise CheckpointError(f"{run}: holds no whole checkpoint ({'; '.join(notes)})")
    if (run / RUN_CONFIG).is_file():
        raise CheckpointError(f"{run}: is the folder of a run that has no checkpoint yet")
    return ModelFolder(run, ())
