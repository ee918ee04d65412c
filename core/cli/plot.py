"""`duosora plot`: a picture of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def plot(
    run: Annotated[Path, typer.Argument(help="The folder of a run, also of one that is going on.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The PNG; else plot.png in the run's folder.")] = None,
) -> None:
    """Draw the loss, gradient norm, learning rate and throughput of a training run."""
    from ..printable import say
    from ..train.plot import plot_run

    output = out or run / "plot.png"
    steps = plot_run(run, output)
    say(f"wrote {output} ({steps} steps)")
