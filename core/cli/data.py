"""`duosora data`: look over a training set before training on it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

PIPE_WIDTH = 120
SHOWN_ROWS = 40
"""Bad rows printed; the report file has all of them."""

data = typer.Typer(name="data", help="Look over training data.", no_args_is_help=True, rich_markup_mode=None)


@data.callback()
def _group() -> None:
    """Look over training data."""


@data.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="Annotations (.txt, .json, .jsonl, .csv, .parquet) or folders.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the group data, such as frames=29.", metavar="A=B")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Also write every finding to this JSON file.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Decode every frame, not only the first.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a report that exists.")] = False,
) -> None:
    """Name the rows of annotations that would not be trained on, and why.

    Exit code 1 when there are any, 2 when an annotation cannot be read at all.
    """
    from rich.console import Console

    from ..config.data import DataSettings
    from ..config.loading import load
    from ..data.check import check_annotations
    from ..io.files import atomic_write, refuse_existing
    from ..shapes import Compression

    if report is not None:
        refuse_existing(report, overwrite)
    given = load(None, DataSettings, settings or [])
    if given.max_area is None and given.height is None and given.width is None:
        given = given.model_copy(update={"max_area": PUBLISHED_MAX_AREA})
    found = check_annotations(files, given, Compression(4, 8), deep)
    console = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
    for finding in found.findings[:SHOWN_ROWS]:
        console.print(
            f"{finding.kind}: {finding.path}: {finding.reason}", soft_wrap=True, markup=False, highlight=False
        )
    if len(found.findings) > SHOWN_ROWS:
        console.print(f"... and {len(found.findings) - SHOWN_ROWS} more; --report FILE writes all of them")
    console.print(_table(found))
    console.print(f"{found.rows} rows, {found.rows - found.num_bad} good, {found.num_bad} bad")
    if report is not None:
        with atomic_write(report, overwrite) as temporary:
            temporary.write_text(json.dumps(found.as_json(), indent=1, ensure_ascii=False), encoding="utf-8")
    if found.num_bad:
        raise typer.Exit(1)


PUBLISHED_MAX_AREA = 236544
"""Pixels, where neither a size nor an area is set."""


def _table(found: Any) -> Any:
    from rich.table import Table

    table = Table("", "rows")
    for shape, count in found.buckets.items():
        table.add_row(f"trained at {shape}", str(count))
    for kind, count in found.counts().items():
        table.add_row(kind, str(count), style="red")
    return table
