"""Tables of text (.csv, .tsv) row by row, with or without a first line that names their columns.

What is between the cells is told by the first lines. So is, in a table without names, which column is which: the one
that holds names of videos or pictures, the one that holds whole numbers, and the one that is left. docs/data.md
documents both.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, dropwhile
from pathlib import Path
from typing import Any

from ..errors import MediaError
from ..io.kinds import MEDIA_SUFFIXES
from ..printable import short_name

DELIMITERS = ",;\t|"
PATH_COLUMNS = (
    *("path", "video", "file", "image", "video_path", "file_path", "image_path"),
    *("filepath", "filename", "file_name", "video_file"),
)
"""Names that the column of paths has in annotations of all kinds; of several in a row the first that says something
counts."""
MEANINGS = {"path": "path", "text": "caption", "number": "num_frames"}
"""Of the columns of a table without names, by what they hold; in any order."""
SAMPLE, SAMPLE_LETTERS = 200, 1_000_000
"""Lines that are looked at, and where they are long, letters."""


@lru_cache(maxsize=1000)
def column_name(written: str) -> str:
    """A column's name as it is looked for: `Video Path` is video_path."""
    return re.sub(r"[\s-]+", "_", written.strip().lower())


@dataclass(frozen=True)
class Columns:
    """How a table is read."""

    names: tuple[str, ...]
    """Of its columns, as its first line has them or as they are recognised."""
    delimiter: str
    are_named: bool
    """Its first line names the columns, and is no row."""


def table_rows(file: Path, lines: Iterator[str]) -> Iterator[Any]:
    """The rows of a table by column; a text where it says why there is none.

    Raises: MediaError when it is no CSV, or when it cannot be told what its columns are.
    """
    columns, rest = read_columns(file, lines)
    # Strict: a quote that is never closed would make one cell of all that follows.
    rows = csv.DictReader(rest, columns.names, delimiter=columns.delimiter, skipinitialspace=True, strict=True)
    try:
        for row in rows:
            yield f"has more cells than the {len(columns.names)} columns" if None in row else _stripped(row)
    except csv.Error as error:
        line = columns.are_named + rows.line_num
        raise MediaError(f"{file}, after line {line}: is not CSV ({error})") from error


def _stripped(row: dict[str, str | None]) -> dict[str, str | None]:
    """Without the blanks around cells, which nobody sees and which would be a part of a file's name."""
    return {name: cell and cell.strip() for name, cell in row.items()}


def read_columns(file: Path, lines: Iterator[str]) -> tuple[Columns, Iterator[str]]:
    """The columns of a table, and the lines of its rows. Raises: MediaError when it cannot be told what they are."""
    # A line may end in a carriage return alone, which files do not part lines at.
    parts = (part for line in lines for part in io.StringIO(line, newline=""))
    first = _first_lines(parts)
    columns = columns_of(file, first)
    return columns, chain(first[int(columns.are_named) :], parts)


def columns_of(file: Path, first: Sequence[str]) -> Columns:
    """What the first lines of a table tell of its columns.

    Raises: MediaError when they neither name a column of paths nor hold one that can be told.
    """
    header = first[0] if first else ""
    for delimiter in DELIMITERS:
        names = [cell.strip() for row in _cells([header], delimiter) for cell in row]
        if any(column_name(name) in PATH_COLUMNS for name in names) and not any(map(_is_media, names)):
            return Columns(tuple(names), delimiter, are_named=True)
    kinds, delimiter = _likeliest(first)
    if "path" not in kinds:
        raise MediaError(
            f"{file}: the first line names the columns, and one of them is path (or video, file, image), or else each "
            "line holds the name of a video or picture; see docs/data.md"
        )
    return Columns(_recognised(file, kinds), delimiter, are_named=False)


def _first_lines(lines: Iterator[str]) -> list[str]:
    """The lines that tell what the columns are, from the first that is not blank on."""
    first: list[str] = []
    for line in dropwhile(lambda line: not line.strip(), lines):
        first.append(line)
        if len(first) == SAMPLE or sum(map(len, first)) > SAMPLE_LETTERS:
            break
    return first


def _cells(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """The rows of some lines; none where quotes are not as they should be."""
    try:
        return [row for row in csv.reader(lines, delimiter=delimiter, skipinitialspace=True) if row]
    except csv.Error:
        return []


def _likeliest(first: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """What the columns of a table without names hold ("path", "number" or "text"), and what is between them.

    That which leaves most names of files without another delimiter in them; of such, the one that makes more columns.
    """
    found = [(*_kinds(first, delimiter), delimiter) for delimiter in DELIMITERS]
    _, kinds, delimiter = max(found, key=lambda reading: (reading[0], len(reading[1])))
    return kinds, delimiter


def _kinds(first: Sequence[str], delimiter: str) -> tuple[int, tuple[str, ...]]:
    """How many rows have a clean name of a file when so much is between the cells, and what each column holds."""
    rows = _cells(first, delimiter)
    if not rows or not any(map(_is_media, rows[0])):  # it names columns, but none that is known
        return 0, ()
    width = Counter(map(len, rows)).most_common(1)[0][0]
    columns = list(zip(*(row for row in rows if len(row) == width), strict=True))
    kinds = tuple(map(_kind, columns))
    if "path" not in kinds:
        return 0, kinds
    return sum(not set(cell) & set(DELIMITERS) for cell in columns[kinds.index("path")]), kinds


def _kind(cells: Sequence[str]) -> str:
    told = [cell for cell in cells if cell.strip()]
    if told and all(map(_is_number, told)):
        return "number"
    return "path" if 2 * sum(map(_is_media, told)) > len(told) else "text"


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _is_media(cell: str) -> bool:
    return os.path.splitext(cell.strip())[1].lower() in MEDIA_SUFFIXES


def _recognised(file: Path, kinds: Sequence[str]) -> tuple[str, ...]:
    """The names of columns of these kinds. Raises: MediaError when two are of one kind."""
    for kind, name in MEANINGS.items():
        places = [str(place) for place, each in enumerate(kinds, start=1) if each == kind]
        if len(places) > 1:
            raise MediaError(
                f"{file}: no line names its columns, and each of {', '.join(places[:-1])} and {places[-1]} may be the "
                f"{name}; begin it with a line of names, such as {short_name(','.join(_guess(kinds)))}"
            )
    return tuple(MEANINGS[kind] for kind in kinds)


def _guess(kinds: Sequence[str]) -> Iterator[str]:
    """Names that such columns could have: our own for the first of a kind, and any for the others.

    Where none is a text, the first of several numbers may be one.
    """
    left, kinds = dict(MEANINGS), list(kinds)
    if "text" not in kinds and kinds.count("number") > 1:
        kinds[kinds.index("number")] = "text"
    return (left.pop(kind, f"other{place}") for place, kind in enumerate(kinds, start=1))
