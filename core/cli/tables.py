"""Tables on the terminal, whose cells may hold names of strangers."""

from __future__ import annotations

import sys

from rich.console import Console, RenderableType
from rich.style import StyleType
from rich.table import Table as RichTable
from rich.text import Text

from ..printable import printable

PIPE_WIDTH = 120
"""Columns where there is no terminal; rich takes a pipe for one of 80."""


class Table(RichTable):
    """A table whose cells are plain text: no markup, nothing that moves the cursor."""

    def add_row(
        self, *renderables: RenderableType | None, style: StyleType | None = None, end_section: bool = False
    ) -> None:
        cells = (Text("" if cell is None else printable(cell)) for cell in renderables)
        super().add_row(*cells, style=style, end_section=end_section)


def show(table: Table) -> None:
    """Print a table."""
    (Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)).print(table)
