"""`duosora evaluate`: clips against those that they should equal, in figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

SHOWN_ROWS = 40
"""Rows of a kind in the table; the report file has all of them."""
DIGITS = {"psnr": 2, "ssim": 4, "lpips": 4}


def evaluate(
    reference: Annotated[Path, typer.Argument(help="A folder of videos and pictures, or one of them.")],
    generated: Annotated[Path, typer.Argument(help="The same, compared by names without the ending.")],
    metrics: Annotated[
        str | None, typer.Option(help="Of psnr, ssim and lpips, with commas between; short for --set metrics=[...]")
    ] = None,
    lpips: Annotated[
        Path | None, typer.Option(help="Folder with the weights of LPIPS; short for --set lpips=...")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="A YAML file.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change one setting: --set frames=29"),
    ] = None,
    backend: Annotated[str | None, typer.Option(help="torch or mindspore; short for --set backend=...")] = None,
    report: Annotated[
        Path | None, typer.Option("--json", help="Also write every figure and every problem to this file.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a report that exists.")] = False,
) -> None:
    """Measure PSNR, SSIM and LPIPS of generated clips against their references.

    Per frame, averaged per clip and over clips. Exit code 1 when a pair of two folders could not be compared, 2 when
    none could.
    """
    from tqdm import tqdm

    from ..config.loading import load
    from ..config.schema import EvaluateConfig
    from ..config.settings import resolved
    from ..errors import MediaError
    from ..evaluate.clips import Scores, prepare, told_problems
    from ..io.files import atomic_write, refuse_unwritable
    from ..printable import say
    from .tables import show

    overrides = list(settings or [])
    given = {"metrics": metrics and metrics.split(","), "lpips": lpips and str(lpips), "backend": backend}
    overrides += [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    settled = load(config, EvaluateConfig, overrides)
    if report is not None:
        refuse_unwritable(report, overwrite)
    run = prepare(reference, generated, settled)
    say(*run.plan())
    outcomes = tqdm(run.outcomes(), total=len(run.pairs), unit="pair", dynamic_ncols=True, disable=None)
    found = Scores(tuple(outcomes))
    if report is not None:
        said = {
            "reference": str(reference),
            "generated": str(generated),
            "definitions": run.definitions(),
            "mean": {metric: found.mean(metric) for metric in run.metrics},
            "pairs": [outcome.as_json() for outcome in found.measured],
            "problems": [outcome.as_json() for outcome in found.problems],
            "left_alone": [str(path) for path in run.others],
            "config": resolved(run.config),
        }
        with atomic_write(report, overwrite) as temporary:
            temporary.write_text(json.dumps(said, indent=1, allow_nan=False), encoding="utf-8")
    show(_table(found, run.metrics))
    say(f"{len(found.measured)} of {len(found.outcomes)} pairs compared")
    if not found.measured:
        raise MediaError(f"nothing was compared; {told_problems(found.problems)}")
    if found.problems:
        raise typer.Exit(1)


def _table(found: Any, metrics: tuple[str, ...]) -> Any:
    from .tables import Table

    table = Table("pair", "frames", "size", *metrics, *(["problem"] if found.problems else []))
    for outcome in found.measured[:SHOWN_ROWS]:
        shape = outcome.shape
        figures = (_figure(metric, outcome.mean(metric)) for metric in metrics)
        table.add_row(outcome.name, str(shape.frames), f"{shape.height}x{shape.width}", *figures)
    empty = [""] * (2 + len(metrics))
    for outcome in found.problems[:SHOWN_ROWS]:
        table.add_row(outcome.name, *empty, outcome.problem, style="red")
    hidden = sum(max(0, len(rows) - SHOWN_ROWS) for rows in (found.measured, found.problems))
    if hidden:
        table.add_row(f"... {hidden} more, all in --json FILE")
    table.add_section()
    table.add_row("mean over clips", "", "", *(_figure(metric, found.mean(metric)) for metric in metrics))
    return table


def _figure(metric: str, value: float | None) -> str:
    return "-" if value is None else f"{value:.{DIGITS[metric]}f}"
