"""A picture of a run from its log: loss, learning rate, throughput, measures on held-out clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BackendMissing, CheckpointError
from ..io.files import atomic_write
from .logs import LOG, read_log

SMOOTHING = 0.98
"""Of the running mean that is drawn over the raw loss."""


def plot_run(folder: Path, output: Path, overwrite: bool = True) -> int:
    """Draw a run as a PNG; returns the number of steps in it. The run may still be going on.

    Raises: CheckpointError when the folder holds no log; BackendMissing without matplotlib.
    """
    path = folder / LOG
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file; name the folder of a training run")
    lines = read_log(path)
    steps = [line for line in lines if line.get("event") == "step"]
    if not steps:
        raise CheckpointError(f"{path}: holds no training step yet")
    figure = _figure(steps, [line for line in lines if line.get("event") == "validation"], folder.name)
    with atomic_write(output, overwrite) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return len(steps)


def smoothed(values: np.ndarray, share: float = SMOOTHING) -> np.ndarray:
    """The running mean that forgets, not biased to its start; numbers that are not finite are left out."""
    result = np.empty(len(values))
    total = weight = 0.0
    for i, value in enumerate(values):
        if np.isfinite(value):
            total, weight = share * total + (1 - share) * value, share * weight + (1 - share)
        result[i] = total / weight if weight else np.nan
    return result


def _figure(steps: Sequence[dict[str, Any]], validation: Sequence[dict[str, Any]], title: str) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendMissing('duosora plot needs matplotlib: pip install "duosora[train]"') from error
    figure = Figure(figsize=(9, 9), layout="constrained")
    figure.suptitle(title)
    loss, gradient, rate, speed = figure.subplots(4, 1, sharex=True)
    x = _column(steps, "step")
    values = _column(steps, "loss")
    loss.plot(x, values, color="0.75", linewidth=0.6, label="loss")
    loss.plot(x, smoothed(values), color="tab:blue", label="smoothed")
    for name in sorted({key for line in validation for key in line} - {"event", "step"}):
        held = [line for line in validation if name in line]
        axis = loss if name.startswith("loss") else loss.twinx()
        axis.plot(_column(held, "step"), _column(held, name), marker="o", markersize=3, label=f"held-out {name}")
        if axis is not loss:
            axis.set_ylabel(name)
    loss.legend(loc="upper right", fontsize="small")
    loss.set_ylabel("loss")
    gradient.plot(x, _column(steps, "grad_norm"), color="tab:orange", linewidth=0.6)
    gradient.set_ylabel("gradient norm")
    rate.plot(x, _column(steps, "lr"), color="tab:green")
    rate.set_ylabel("learning rate")
    speed.plot(x, smoothed(_column(steps, "samples_per_second"), 0.9), color="tab:red")
    speed.set_ylabel("samples / s")
    speed.set_xlabel("optimiser steps")
    return figure


def _column(lines: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([float(line.get(name, "nan")) for line in lines])
