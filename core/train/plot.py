"""A picture of a run from its log: loss, learning rate, throughput, measures on held-out clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..extras import needs_extra
from ..io.files import atomic_write
from .logs import LOG, read_log

SMOOTHING = 0.98
"""Of the running means that are drawn over raw values."""
COLOURS = ("tab:blue", "tab:purple", "tab:orange", "tab:green", "tab:red", "tab:brown")
"""Of the model, of what it is trained against, and of measures on held-out clips."""

Line = dict[str, Any]


def plot_run(folder: Path, output: Path, overwrite: bool = True) -> int:
    """Draw a run as a PNG; returns the number of steps in it. The run may still be going on.

    Raises: CheckpointError when the folder holds no log; PackageMissing without matplotlib.
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


def _figure(steps: Sequence[Line], validation: Sequence[Line], title: str) -> Any:
    with needs_extra("train", "duosora plot"):
        from matplotlib.figure import Figure
    learners = _by_learner(steps)
    measures = sorted({name for line in validation for name in line} - {"event", "step"})
    others = [name for name in measures if not name.startswith("loss")]
    names = [f"{learner} loss" if len(learners) > 1 else "loss" for learner in learners]
    rows = [*names, *(["held-out"] if others else []), "gradient norm", "learning rate", "samples / s"]
    figure = Figure(figsize=(10, 1 + 2 * len(rows)), layout="constrained")
    figure.suptitle(f"{title}\n{_summary(steps)}", fontsize="medium")
    panels = dict(zip(rows, figure.subplots(len(rows), 1, sharex=True), strict=True))
    for name, panel in panels.items():
        panel.set_ylabel(name)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    for colour, (name, lines) in zip(COLOURS, zip(names, learners.values(), strict=False), strict=False):
        _draw_noisy(panels[name], lines, "loss", colour)
        _draw_noisy(panels["gradient norm"], lines, "grad_norm", colour)
    for colour, name in zip(COLOURS[2:], measures, strict=False):
        held = [line for line in validation if name in line]
        panel = panels["held-out"] if name in others else panels[names[0]]
        panel.plot(
            _column(held, "step"), _column(held, name), "o-", color=colour, markersize=3, label=f"held-out {name}"
        )
    panels["gradient norm"].set_yscale("log")
    left_out = [line for line in steps if not line.get("applied", True)]
    for line in left_out:
        panels["gradient norm"].axvline(line["step"], color="tab:red", linewidth=0.8, alpha=0.5)
    if left_out:
        panels["gradient norm"].plot([], [], color="tab:red", label=f"steps left out: {len(left_out)}")
    panels["learning rate"].plot(_column(steps, "step"), _column(steps, "lr"), color="tab:green")
    panels["learning rate"].ticklabel_format(axis="y", style="scientific", scilimits=(0, 0))
    _draw_noisy(panels["samples / s"], steps, "samples_per_second", "tab:gray")
    panels["samples / s"].set_ylim(bottom=0)
    panels["samples / s"].set_xlabel("optimiser steps")
    for panel in panels.values():
        if panel.get_legend_handles_labels()[1]:
            panel.legend(loc="best", fontsize="small", frameon=False)
    return figure


def _draw_noisy(panel: Any, lines: Sequence[Line], name: str, colour: str) -> None:
    """The values pale, their running mean over them; a few extreme values do not decide what the panel shows."""
    x, values = _column(lines, "step"), _column(lines, name)
    panel.plot(x, values, color=colour, linewidth=0.6, alpha=0.3)
    panel.plot(x, smoothed(values), color=colour, linewidth=1.4)
    finite = values[np.isfinite(values)]
    if name == "loss" and len(finite):
        low, high = np.quantile(finite, [0.002, 0.995])
        margin = 0.05 * (high - low) or 1.0
        panel.set_ylim(low - margin, high + margin)


def _summary(steps: Sequence[Line]) -> str:
    """The run in a few numbers, those of speed over its last hundred steps."""
    last = steps[-100:]
    parts = [f"{steps[-1]['step']:,} steps"]
    speed, waiting = _column(last, "samples_per_second"), _column(last, "data_wait_seconds")
    parts.append(f"{np.nanmean(speed):.3g} samples/s")
    parts.append(
        f"{100 * waiting.sum() / max(_column(last, 'seconds').sum(), 1e-9):.0f} % of the time waiting for data"
    )
    memory = _column(last, "peak_memory_mb")
    if np.isfinite(memory).any():
        parts.append(f"at most {np.nanmax(memory):,.0f} MiB")
    return ", ".join(parts)


def _by_learner(steps: Sequence[Line]) -> dict[str, list[Line]]:
    """The steps of the model, and apart from them those of the discriminator that it is trained against."""
    groups: dict[str, list[Line]] = {}
    for line in steps:
        groups.setdefault(line.get("updated", "model"), []).append(line)
    return groups


def _column(lines: Sequence[Line], name: str) -> np.ndarray:
    return np.array([float(line.get(name, "nan")) for line in lines])
