"""`duosora data`: look over a training set before training on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

SHOWN_ROWS = 40
"""Bad rows printed; the report file has all of them."""
PUBLISHED_MAX_AREA = 236544
"""Pixels, where there is no config and neither a size nor an area is set."""

data = typer.Typer(name="data", help="Look over training data.", no_args_is_help=True, rich_markup_mode=None)


@data.callback()
def _group() -> None:
    """Look over training data."""


@data.command()
def check(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Annotations (.txt, .json, .jsonl, .csv, .parquet) or folders; instead of the config's."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The YAML file of the training run that they are for.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change one setting of the run: --set data.frames=29"),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Also write every finding to this JSON file.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Decode every frame, not only the first.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a report that exists.")] = False,
) -> None:
    """Name the rows of annotations that would not be trained on, and why.

    Exit code 1 when there are any, 2 when an annotation cannot be read at all.
    """
    from ..config.loading import load
    from ..config.training import TrainConfig
    from ..data.check import check_annotations
    from ..errors import ConfigError
    from ..io.files import atomic_write, refuse_unwritable
    from ..printable import say
    from .tables import show

    if report is not None:
        refuse_unwritable(report, overwrite)
    run = load(config, TrainConfig, settings or [])
    given = run.data
    if config is None and given.max_area is None and given.height is None and given.width is None:
        given = given.model_copy(update={"max_area": PUBLISHED_MAX_AREA})
    if not files and not given.files:
        raise ConfigError("data.files: name annotations or folders, here or in the config; there is nothing to check")
    batch = None if config is None else run.batch_size * run.accumulate
    found = check_annotations(files or given.files, given, _compression(run), deep, run.seed, batch)
    for finding in found.findings[:SHOWN_ROWS]:
        say(f"{finding.kind}: {finding.path} ({finding.origin}): {finding.reason}")
    if len(found.findings) > SHOWN_ROWS:
        say(f"... and {len(found.findings) - SHOWN_ROWS} more; --report FILE writes all of them")
    show(_table(found))
    say(f"{found.rows} rows, {found.rows - found.num_bad} good, {found.num_bad} bad")
    if report is not None:
        with atomic_write(report, overwrite) as temporary:
            # Of a file name that is no UTF-8 Python keeps half characters; written like this they are JSON's escapes.
            said = json.dumps(found.as_json(), indent=1, ensure_ascii=False)
            temporary.write_text(said, encoding="utf-8", errors="backslashreplace")
    if found.num_bad:
        raise typer.Exit(1)


def _compression(run: Any) -> Any:
    """Of the run's autoencoder, whose weights are not looked at."""
    from ..models.recognise import open_part
    from ..pipelines.settings import with_companions

    name = run.model.vae or with_companions(run.model).vae or "tiny"
    return open_part("vae", str(name)).spec.compression


def _table(found: Any) -> Any:
    from .tables import Table

    table = Table("", "rows")
    for shape, count in found.buckets.items():
        table.add_row(f"trained at {shape}", str(count))
    for kind, count in found.counts().items():
        table.add_row(kind, str(count), style="red")
    return table
