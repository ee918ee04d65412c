"""Reading annotation files into records. docs/data.md documents every format and column.

Upstream's .txt lists (`media_folder[,embedding_folder],annotation` per line) and .json files are read as they are; CSV,
JSONL and parquet have one record a row. A row that makes no record is kept with its reason, so that one bad row of a
million stops nothing and is still named.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import MediaError
from ..extras import needs_extra
from ..io.files import read_written
from ..io.kinds import MEDIA_SUFFIXES, VIDEO_SUFFIXES, is_video
from ..io.paths import given_path
from .records import BadRow, CropBox, Record

ROW_FORMATS = (".json", ".jsonl", ".csv", ".parquet")
FORMATS = (".txt", *ROW_FORMATS)
COLUMNS = (
    "path",
    "caption",
    "height",
    "width",
    "num_frames",
    "fps",
    "start",
    "crop",
    "aesthetic",
    "text_embed",
)
"""Of CSV, JSONL and parquet; only `path` must be there. Upstream's keys are read as well."""


@dataclass
class Annotations:
    """The records of one or more annotation files, and the rows that make none."""

    records: list[Record] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)


def read_annotations(files: Iterable[Path], root: Path | None = None) -> Annotations:
    """Read annotation files and folders of videos, in their order.

    root: the folder that paths start from; None: that of the file which names them.
    Raises: MediaError when a file is missing, of an unknown format, or cannot be parsed as a whole;
    PackageMissing for a .parquet without pyarrow.
    """
    found = Annotations()
    for file in files:
        if file.is_dir():
            found.records += _folder_records(file)
        elif file.suffix.lower() == ".txt":
            for line in _list_lines(file):
                _read_rows(line.annotation, line.media, line.embeddings, found)
        else:
            _read_rows(file, root or file.parent, None, found)
    return found


@dataclass(frozen=True)
class _ListLine:
    media: Path
    embeddings: Path | None
    annotation: Path


def _list_lines(file: Path) -> Iterator[_ListLine]:
    for number, line in enumerate(read_written(file, MediaError).splitlines(), start=1):
        parts = [part.strip() for part in line.split(",")]
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if len(parts) not in (2, 3) or not all(parts):
            raise MediaError(
                f"{file}, line {number}: expected media_folder[,embedding_folder],annotation; got {line!r}"
            )
        try:
            places = [_beside(file, part) for part in parts]
        except ValueError as error:
            raise MediaError(f"{file}, line {number}: {error}") from error
        yield _ListLine(places[0], places[1] if len(parts) == 3 else None, places[-1])


def _beside(file: Path, name: str) -> Path:
    """A path that a list names: from the list's own folder or, as upstream has it, from the current one."""
    path = given_path(name)
    beside = file.parent / path
    return beside if os.path.exists(beside) or not os.path.exists(path) else path


def _read_rows(file: Path, root: Path, embeddings: Path | None, found: Annotations) -> None:
    suffix = file.suffix.lower()
    if suffix in (".pkl", ".pickle"):
        raise MediaError(f"{file}: pickle files can run code when they are read; save the annotation as .json first")
    if suffix not in ROW_FORMATS:
        raise MediaError(f"{file}: annotations are {', '.join(FORMATS)} files, or folders of videos")
    for number, row in enumerate(_ROWS[suffix](file), start=1):
        origin = f"{file}, record {number}"
        made = record_of(row, root, origin, embeddings)
        if isinstance(made, Record):
            found.records.append(made)
        else:
            found.bad.append(made)


def _json_rows(file: Path) -> Iterator[Any]:
    text = read_written(file, MediaError)
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MediaError(f"{file}: is not JSON ({error})") from error
    if not isinstance(rows, list):
        raise MediaError(f"{file}: expected a list of records, got {type(rows).__name__}")
    yield from rows


def _jsonl_rows(file: Path) -> Iterator[Any]:
    # splitlines() would also split at separators that JSON texts may hold.
    for line in read_written(file, MediaError).split("\n"):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"is not JSON ({error})"


def _csv_rows(file: Path) -> Iterator[Any]:
    # Strict: a quote that is never closed would make one cell of all that follows.
    text = io.StringIO(read_written(file, MediaError), newline="")
    rows = csv.DictReader(text, skipinitialspace=True, strict=True)
    if "path" not in (rows.fieldnames or ()):
        raise MediaError(f"{file}: the first line names the columns, and one of them is path; see docs/data.md")
    try:
        for row in rows:
            yield f"has more cells than the {len(rows.fieldnames or ())} columns" if None in row else row
    except csv.Error as error:
        raise MediaError(f"{file}, after line {rows.line_num}: is not CSV ({error})") from error


def _parquet_rows(file: Path) -> Iterator[Any]:
    with needs_extra("parquet", f"{file}: reading parquet"):
        import pyarrow.parquet as parquet
        from pyarrow import ArrowException
    if not file.is_file():
        raise MediaError(f"{file}: there is no such file")
    try:
        with parquet.ParquetFile(file) as table:
            for batch in table.iter_batches():
                yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise MediaError(f"{file}: cannot be read as parquet ({' '.join(str(error).split())})") from error


_ROWS = {".json": _json_rows, ".jsonl": _jsonl_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}


def record_of(row: Any, root: Path, origin: str, embeddings: Path | None = None) -> Record | BadRow:
    """The record of one row, with our columns or upstream's keys; or why it makes none."""
    if isinstance(row, str):
        return BadRow(origin, origin, row)
    if not isinstance(row, Mapping):
        return BadRow(origin, origin, f"is {type(row).__name__}, expected a mapping of columns to values")
    given = {key: value for key, value in row.items() if not _is_blank(value)}
    name = given.get("path")
    if not isinstance(name, str):
        return BadRow(origin, origin, "has no path")
    if Path(name).suffix.lower() not in MEDIA_SUFFIXES:
        known = ", ".join(MEDIA_SUFFIXES)
        return BadRow(name, origin, f"is neither a video nor a picture by its name; known are {known}")
    try:
        return _record(given, name, root, origin, embeddings)
    except ValueError as error:
        return BadRow(name, origin, str(error))


def _record(given: Mapping[str, Any], name: str, root: Path, origin: str, embeddings: Path | None) -> Record:
    size = given.get("resolution", {})
    if not isinstance(size, Mapping):
        raise ValueError(f"resolution = {size!r}: expected height and width")
    cut = _numbers(given.get("cut", [0]), "cut")
    own = given.get("text_embed")
    return Record(
        path=root / given_path(name),
        name=name,
        captions=_captions(given.get("caption", given.get("cap"))),
        height=_whole(given.get("height", size.get("height")), "height"),
        width=_whole(given.get("width", size.get("width")), "width"),
        num_frames=_whole(given.get("num_frames"), "num_frames"),
        fps=_number(given.get("fps"), "fps"),
        start=_whole(given.get("start", cut[0] if cut else 0), "start", least=0) or 0,
        crop=_crop(given.get("crop")),
        aesthetic=_number(given.get("aesthetic", given.get("aes")), "aesthetic", least=-math.inf),
        embeddings=root / given_path(own) if isinstance(own, str) else embeddings,
        origin=origin,
    )


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _captions(value: Any) -> tuple[str, ...]:
    """A text, a list of texts, or such a list written as JSON; blank ones are none."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            value = [value]  # a caption that happens to begin with a bracket
    if value is None:
        return ()
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"caption = {value!r}: expected a text or a list of texts")
    return tuple(text for text in texts if text.strip())


def _crop(value: Any) -> CropBox | None:
    if value is None:
        return None
    numbers = _numbers(value, "crop")
    if len(numbers) != 4:
        raise ValueError(f"crop = {value!r}: expected x0, x1, y0, y1 in pixels")
    box = CropBox(*(_whole(number, "crop", least=0) or 0 for number in numbers))
    if box.x0 >= box.x1 or box.y0 >= box.y1:
        raise ValueError(f"crop = {value!r}: holds no pixel; expected x0 < x1 and y0 < y1")
    return box


def _numbers(value: Any, name: str) -> list[float]:
    parts = value.strip("[]() ").replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError(f"{name} = {value!r}: expected numbers")
    return [_number(part, name, least=-math.inf) or 0.0 for part in parts]


def _number(value: Any, name: str, least: float = 0.0) -> float | None:
    """A number above `least`."""
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number <= least:
        raise ValueError(f"{name} = {value!r}: expected a number" + (" above 0" if least == 0 else ""))
    return number


def _whole(value: Any, name: str, least: int = 1) -> int | None:
    number = _number(value, name, least=-math.inf)
    if number is None:
        return None
    if number != int(number) or number < least:
        raise ValueError(f"{name} = {value!r}: expected a whole number from {least} on")
    return int(number)


def _folder_records(folder: Path) -> list[Record]:
    """All videos below a folder, in the order of their names."""
    files = sorted(file for file in folder.rglob("*") if is_video(file) and file.is_file())
    if not files:
        raise MediaError(f"{folder}: holds no video ({', '.join(VIDEO_SUFFIXES)})")
    return [Record(path=file, name=str(file.relative_to(folder)), origin=str(folder)) for file in files]
