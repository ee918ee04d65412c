"""What stands in a file of prompts: a text or an object for each prompt, with its place for messages.

Read are texts (.txt, a prompt a line), JSON (.json, a list; .jsonl and .ndjson, an object a line) and tables with a
header (.csv and .tsv). Lines end with LF, CR LF or CR, and with nothing else.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import MediaError
from ..printable import short_name
from .files import read_written
from .safetensors_format import unique_keys

FILE_SUFFIXES = (".txt", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")
TEXT_KEYS = ("prompt", "text", "caption", "cap")
"""Any of them holds the prompt; of the columns of a table the first of these that is there."""
CONDITION_KEYS = ("image", "images", "video")
KEYS = (*TEXT_KEYS, "negative_prompt", "seed", *CONDITION_KEYS)
MAX_PROMPTS = 200_000
"""Of a file; as many objects take some 200 MB."""

Entry = tuple[str, Any]
"""Where a prompt stands, and its text or object."""
Note = Callable[[str], None]

_LINE_END = re.compile(r"\r\n|\r|\n")
_DELIMITERS = (",", ";", "\t")
_NO_DELIMITER = "\x1f"
"""Of a table with one column, whose texts may hold any of the others."""
_NOTHING = {"", "nan", "none", "null", "na", "n/a", "<na>"}
"""What programs write into cells that have no value."""


def read_entries(path: Path, note: Note) -> Iterator[Entry]:
    """The entries of a file with one of FILE_SUFFIXES; blank lines are none. `note` is told what is left alone.

    Raises: MediaError, with the line, when the file cannot be read, holds no prompt or more than MAX_PROMPTS.
    """
    text = read_written(path, MediaError)
    suffix = path.suffix.lower()
    if suffix == ".txt":
        found: Iterator[Entry] = iter(_lines(path, text))
    else:
        found = _table(path, text, note) if suffix in (".csv", ".tsv") else _json(path, text)
    number = 0
    for number, entry in enumerate(found, start=1):
        if number > MAX_PROMPTS:
            raise MediaError(f"{path}: holds more than {MAX_PROMPTS} prompts; split it")
        yield entry
    if not number:
        raise MediaError(f"{path}: holds no prompt; write one a line")


def _lines(path: Path, text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(_LINE_END.split(text), start=1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


def _json(path: Path, text: str) -> Iterator[Entry]:
    lines = list(_lines(path, text))
    if text.lstrip().startswith("["):
        for number, entry in enumerate(_parsed(str(path), text), start=1):
            yield f"{path}: entry {number}", entry
    elif path.suffix.lower() == ".json" and lines and (len(lines) == 1 or _value(lines[0][1]) is None):
        yield str(path), _parsed(str(path), text)
    else:
        for where, line in lines:
            entry = _parsed(where, line)
            if not isinstance(entry, dict):
                raise MediaError(f'{where}: expected an object such as {{"prompt": "a dog"}}')
            yield where, entry


def _parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno} " if error.lineno > 1 else ""
        raise MediaError(f"{where}: is not valid JSON ({error.msg} at {line}column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise MediaError(f"{where}: is not valid JSON ({error})") from error


def _value(text: str) -> Any:
    """The value that a text of JSON is; None where it is none, or several."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _table(path: Path, text: str, note: Note) -> Iterator[Entry]:
    delimiter, header = _header(path, text)
    names = [next((key for key in TEXT_KEYS if key in header), ""), *(key for key in KEYS if key not in TEXT_KEYS)]
    left = [name for name in header if name and name not in names]
    if left:
        note(f"{path}: columns left alone: {', '.join(map(short_name, left))}")
    rows = _rows(path, text, delimiter)
    next(rows)
    for where, cells in rows:
        if len(cells) > len(header):
            raise MediaError(
                f"{where}: has {len(cells)} cells and the header {len(header)}; put texts with {delimiter!r} in quotes"
            )
        values = dict(zip(header, cells, strict=False))
        yield where, {name: _cell(name, values[name]) for name in names if name in values}


def _header(path: Path, text: str) -> tuple[str, list[str]]:
    """The delimiter with which the first row names a column of prompts, and all columns."""
    columns: dict[str, list[str]] = {}
    for delimiter in _DELIMITERS:
        try:
            _, cells = next(_rows(path, text, delimiter), ("", []))
        except MediaError:
            continue
        columns[delimiter] = [re.sub(r"[\s-]+", "_", cell.strip().lower()) for cell in cells]
    if not any(columns.values()):
        raise MediaError(f"{path}: holds no prompt; write one a line below a header")
    known = {delimiter: names for delimiter, names in columns.items() if set(names) & set(TEXT_KEYS)}
    delimiter = max(known or columns, key=lambda each: len(columns[each]))
    header = columns[delimiter]
    if not known:
        shown = ", ".join(map(short_name, header))
        raise MediaError(
            f"{path}: has no column {', '.join(TEXT_KEYS[:-1])} or {TEXT_KEYS[-1]}; its header is: {shown}"
        )
    twice = next((name for name in header if name in KEYS and header.count(name) > 1), None)
    if twice:
        raise MediaError(f"{path}: has two columns {twice!r}; keep one")
    return (delimiter if len(header) > 1 else _NO_DELIMITER), header


def _rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """Rows that are not blank, each with the line that it begins in."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        where = f"{path}:{rows.line_num + 1}"
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise MediaError(f"{where}: cannot be read as a row of a table ({error})") from error
        if any(cell.strip() for cell in cells):
            yield where, cells


def _cell(name: str, text: str) -> Any:
    """The value of a cell as an object of JSON would have it."""
    text = text.strip()
    if text.lower() in _NOTHING:
        return "" if name in TEXT_KEYS else None
    if name == "seed" and re.fullmatch(r"\d{1,30}(\.0*)?", text):
        return int(text.partition(".")[0])  # a column with gaps becomes one of floats in some programs
    if name == "images":
        return _value(text) if text.startswith("[") else [text]
    return text
