"""What a run writes down of each step: a line of JSON, and TensorBoard's file for who has it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, PackageMissing
from ..extras import needs_extra
from ..io.files import atomic_write, open_regular

LOG = "log.jsonl"


class StepLog:
    """The file log.jsonl of a run, a line for each event; `step` counts optimiser steps made."""

    def __init__(self, folder: Path, tensorboard: str = "auto") -> None:
        """tensorboard: on, off, or auto for on where it is installed. Raises: PackageMissing for on where it is not."""
        self.path = folder / LOG
        self._writer = _tensorboard_writer(folder, tensorboard)

    def cut_back(self, step: int) -> None:
        """Leave out the lines after a step, which a resumed run writes anew, and a last line that was cut off."""
        lines = read_log(self.path) if self.path.exists() else []
        kept = [json.dumps(line) for line in lines if line["step"] <= step]
        with atomic_write(self.path, overwrite=True, error=CheckpointError) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def write(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        """Add a line, and numbers of it to TensorBoard. Raises: CheckpointError when it cannot be written."""
        line = json.dumps({"event": event, "step": step, **_plain(values)})
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be written ({error.strerror or error})") from error
        if self._writer is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._writer.add_scalar(f"{event}/{name}", float(value), step)

    def close(self) -> None:
        """Write out what is waiting."""
        if self._writer is not None:
            self._writer.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a log; a run may be writing it, and may have been killed in the middle of a line."""
    lines = []
    with open_regular(path) as file:
        for text in file:
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                lines.append(line)
    return lines


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN: such numbers are written as texts."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def _tensorboard_writer(folder: Path, wish: str) -> Any:
    if wish == "off":
        return None
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its compatibility layer announces itself otherwise
    try:
        with needs_extra("train", "tensorboard = on", "set tensorboard: off"):
            from tensorboard.summary import Writer
    except PackageMissing:
        if wish == "on":
            raise
        return None
    return Writer(str(folder / "tensorboard"))
