"""What the columns of annotation files are taken for, told to whoever looks a training set over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from ..printable import short_name
from .annotations import CAPTION_COLUMNS, COLUMNS, SPAN_COLUMNS, annotation_files
from .rows import ROW_FORMATS, nameless_columns, rows_of
from .tables import PATH_COLUMNS, column_name

LOOKED_AT = 1000
"""Rows; columns that begin later are not told."""
SHOWN = 8
"""Columns that are not read."""
ALIASES = {
    "path": PATH_COLUMNS,
    "caption": CAPTION_COLUMNS,
    "height": ("height", "resolution"),
    "width": ("width", "resolution"),
    "num_frames": ("num_frames", "frames"),
    "start": ("start", *SPAN_COLUMNS),
    "aesthetic": ("aesthetic", "aes"),
}
"""Of our columns, in the order in which they are asked; all others have their own name alone."""


def column_uses(files: Iterable[Path]) -> Iterator[str]:
    """A line for each annotation file: where path, caption and all else come from, and what is not read.

    Raises: MediaError as read_annotations.
    """
    for file in annotation_files(files):
        if file.suffix.lower() in ROW_FORMATS and not file.is_dir():
            names = nameless_columns(file)
            if names is None:
                yield f"{file}: {_told(_columns_of_rows(file))}"
            else:
                places = {name: f"column {place}" for place, name in enumerate(names, start=1)}
                yield f"{file}: no line names its columns; {_told(places)}"


def _columns_of_rows(file: Path) -> dict[str, str]:
    """Columns as they are asked for, and as the file writes them."""
    found: dict[str, str] = {}
    for row in islice(rows_of(file), LOOKED_AT):
        if isinstance(row, Mapping):
            found |= {column_name(str(key)): str(key) for key in row if str(key).strip()}
    return found


def _told(columns: Mapping[str, str]) -> str:
    uses = []
    read: set[str] = set()
    for meaning in COLUMNS:
        given = [name for name in ALIASES.get(meaning, (meaning,)) if name in columns]
        read |= set(given)
        if given:
            sources = " or ".join(short_name(columns[name]) for name in given)
            uses.append(meaning if sources == meaning else f"{meaning} from {sources}")
    others = [short_name(written) for name, written in columns.items() if name not in read]
    left = f"; not read: {', '.join(others[:SHOWN])}{', ...' if others[SHOWN:] else ''}" if others else ""
    return (", ".join(uses) or "no column that is known") + left
