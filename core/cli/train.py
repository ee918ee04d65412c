"""`duosora train`: a denoiser or an autoencoder from clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="A YAML file, or one that comes with duosora: train/example_t2v."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change one setting: --set learning_rate.peak=2e-5"),
    ] = None,
    backend: Annotated[str | None, typer.Option(help="torch or mindspore; short for --set compute.name=...")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The run's folder; short for --set folder=...")
    ] = None,
    resume: Annotated[
        str, typer.Option(help="auto: go on from the run's newest complete checkpoint; none; or a checkpoint's path.")
    ] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
) -> None:
    """Train a model, or go on training it.

    The same command goes on where a run was ended, at any moment, by whatever means. SIGTERM and Ctrl-C save and leave.
    """
    import json

    from tqdm import tqdm

    from ..config.loading import load, override_paths
    from ..config.training import TrainConfig
    from ..parallel.launched import told_once
    from ..planning.cases import training_case
    from ..planning.starting import tell_forecast
    from ..printable import say
    from ..seam.training import Report
    from ..train.run import TrainRun

    overrides = list(settings or [])
    for key, value in (("compute.name", backend), ("folder", out and str(out))):
        if value is not None:
            overrides.append(f"{key}={json.dumps(value)}")
    with told_once():
        loaded = load(config, TrainConfig, overrides)
    run = TrainRun(loaded, resume, dry_run, override_paths(overrides))
    is_first = run.ranks.is_first
    plan = run.plan()
    if is_first:
        say(*plan)
        tell_forecast(lambda: training_case(run.config, run.parts, run.dtype, run.ranks.plan), run.backend)
    if dry_run:
        return
    is_quiet = None if is_first else True
    with tqdm(
        total=run.config.max_steps,
        initial=run.found.step,
        desc="steps",
        unit="step",
        dynamic_ncols=True,
        disable=is_quiet,
    ) as bar:

        def advance(step: int, report: Report) -> None:
            bar.set_postfix(loss=f"{report.loss:.4g}", refresh=False)
            bar.update()

        outcome = run.run(advance, say)
    if not is_first:
        return
    if outcome.is_finished:
        say(f"finished {outcome.steps} steps: {outcome.checkpoint}")
    else:
        say(f"left after step {outcome.steps}, saved in {outcome.checkpoint}; the same command goes on from there")
