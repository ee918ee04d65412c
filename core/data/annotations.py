"""Reading annotation files into records. docs/data.md documents every format and column.

Upstream's .txt lists (`media_folder[,embedding_folder],annotation` per line) and .json files are read as they are, and
so are hpcai's tables; JSONL and parquet have one record a row. A row that makes no record is kept with its reason, so
that one bad row of a million stops nothing and is still named.
"""

from __future__ import annotations

import json
import math
import os
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import MediaError
from ..io.files import read_written
from ..io.kinds import MEDIA_SUFFIXES, VIDEO_SUFFIXES, is_video
from ..io.paths import given_path
from ..printable import one_line, short_name
from .records import BadRow, CropBox, Record
from .rows import ROW_FORMATS, rows_of
from .tables import PATH_COLUMNS, column_name
from .text_parts import captions_of, has_parts

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
"""Of tables, JSONL and parquet; only `path` must be there. Upstream's keys are read as well."""
CAPTION_COLUMNS = ("caption", "cap", "text", "captions")
SPAN_COLUMNS = ("cut", "frame_idx")
MISSING = ("", "nan", "none", "null", "<na>", "n/a", "#n/a")
"""What stands in tables where there is nothing, in any case."""
MAX_COUNT = 10**9
"""Of frames and pixels, far more than any clip has."""
MAX_CAPTION = 10_000
"""Letters; text encoders read some 2,000."""


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
            found.records += _part_records(file, root or file.parent) if has_parts(file) else _folder_records(file)
        elif file.suffix.lower() == ".txt":
            for line in _list_lines(file):
                _read_rows(line.annotation, line.media, line.embeddings, found)
        else:
            _read_rows(file, root or file.parent, None, found)
    return found


def annotation_files(files: Iterable[Path]) -> Iterator[Path]:
    """Annotation files and folders, and behind each list those that it names. Raises: as read_annotations."""
    for file in files:
        yield file
        if file.suffix.lower() == ".txt" and not file.is_dir():
            yield from (line.annotation for line in _list_lines(file))


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
                f"{file}, line {number}: expected media_folder[,embedding_folder],annotation; got {short_name(line)!r}"
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
    for number, row in enumerate(rows_of(file), start=1):
        origin = f"{file}, record {number}"
        made = record_of(row, root, origin, embeddings)
        if isinstance(made, Record):
            found.records.append(made)
        else:
            found.bad.append(made)


def record_of(row: Any, root: Path, origin: str, embeddings: Path | None = None) -> Record | BadRow:
    """The record of one row, with our columns or upstream's keys; or why it makes none."""
    if isinstance(row, str):
        return BadRow(origin, origin, one_line(row))
    if not isinstance(row, Mapping):
        return BadRow(origin, origin, f"is {type(row).__name__}, expected a mapping of columns to values")
    given = {column_name(str(key)): value for key, value in row.items() if not _is_missing(value)}
    name = next((given[column] for column in PATH_COLUMNS if isinstance(given.get(column), str)), None)
    if name is None:
        return BadRow(origin, origin, f"has no path (or {', '.join(PATH_COLUMNS[1:4])})")
    if os.path.splitext(name)[1].lower() not in MEDIA_SUFFIXES:
        known = ", ".join(MEDIA_SUFFIXES)
        return BadRow(short_name(name), origin, f"is neither a video nor a picture by its name; known are {known}")
    try:
        return _record(given, name, root, origin, embeddings)
    except ValueError as error:
        return BadRow(short_name(name), origin, str(error))


def _record(given: Mapping[str, Any], name: str, root: Path, origin: str, embeddings: Path | None) -> Record:
    size = given.get("resolution")
    size = size if isinstance(size, Mapping) else {}  # a number: the pixels of a frame, which height and width tell
    own = given.get("text_embed")
    start, end = _span(given)
    length = _whole(given.get("num_frames", _told_length(given)), "num_frames")
    if end is not None:
        length = end - start if length is None else min(length, end - start)
    return Record(
        path=_placed(root, name),
        name=name,
        captions=_captions(next((given[column] for column in CAPTION_COLUMNS if column in given), None)),
        height=_whole(given.get("height", size.get("height")), "height"),
        width=_whole(given.get("width", size.get("width")), "width"),
        num_frames=length,
        fps=_number(given.get("fps"), "fps"),
        start=start,
        crop=_crop(given.get("crop")),
        aesthetic=_number(given.get("aesthetic", given.get("aes")), "aesthetic", least=-math.inf),
        embeddings=_placed(root, own) if isinstance(own, str) else embeddings,
        origin=origin,
    )


def _told_length(given: Mapping[str, Any]) -> Any:
    """Of a column `frames`, which elsewhere holds lists of pictures."""
    frames = given.get("frames")
    return frames if isinstance(frames, str | int | float) else None


def _span(given: Mapping[str, Any]) -> tuple[int, int | None]:
    """The first frame of the file that belongs to the clip, and the first behind it that does not, where that is known.

    Upstream's `cut` has both, and `frame_idx` of its older data; where it knows no end it has 0.
    """
    name = next((column for column in SPAN_COLUMNS if column in given), "")
    cut = _numbers(given.get(name, []), name, missing=0)
    start = _whole(given.get("start", cut[0] if cut else 0), "start", least=0) or 0
    end = _whole(cut[1], name, least=0) if len(cut) > 1 else None
    if end and end <= start:
        raise ValueError(f"{name} = {_shown(given[name])}: ends at frame {end}, before the clip begins at {start}")
    return start, end or None


def _is_missing(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in MISSING
    return value is None or (isinstance(value, float) and math.isnan(value))


def _placed(root: Path, name: str) -> Path:
    """A path of an annotation. Raises: ValueError for one that cannot be."""
    return given_path(name if name.startswith("~") else os.path.join(root, name))  # a million times: no Path twice


def _captions(value: Any) -> tuple[str, ...]:
    """A text, a list of texts, or such a list written as JSON; missing ones are none."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = [value]  # a caption that happens to begin with a bracket
    if value is None:
        return ()
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) or _is_missing(text) for text in texts):
        raise ValueError(f"caption = {_shown(value)}: expected a text or a list of texts")
    captions = tuple(text for text in texts if not _is_missing(text))
    for caption in captions:
        if len(caption) > MAX_CAPTION:
            raise ValueError(f"its caption has {len(caption)} letters, at most {MAX_CAPTION} are read")
        if not caption.isascii() and any("\ud800" <= letter <= "\udfff" for letter in caption):
            raise ValueError("its caption holds half a character (a lone surrogate)")
    return captions


def _shown(value: Any) -> str:
    """A value for a message."""
    return short_name(reprlib.repr(value))


def _crop(value: Any) -> CropBox | None:
    if value is None:
        return None
    numbers = _numbers(value, "crop")
    if len(numbers) != 4:
        raise ValueError(f"crop = {_shown(value)}: expected x0, x1, y0, y1 in pixels")
    box = CropBox(*(_whole(number, "crop", least=0) or 0 for number in numbers))
    if box.x0 >= box.x1 or box.y0 >= box.y1:
        raise ValueError(f"crop = {_shown(value)}: holds no pixel; expected x0 < x1 and y0 < y1")
    return box


def _numbers(value: Any, name: str, missing: float | None = None) -> list[float]:
    """The numbers of a list, or of one written as a text; `missing` stands for parts that are not there."""
    parts = re.sub("[,:]", " ", value.strip("[]() ")).split() if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError(f"{name} = {_shown(value)}: expected numbers")
    numbers = [missing if _is_missing(part) else _number(part, name, least=-math.inf) for part in parts]
    if None in numbers:
        raise ValueError(f"{name} = {_shown(value)}: a number is missing")
    return [number for number in numbers if number is not None]


def _number(value: Any, name: str, least: float = 0.0) -> float | None:
    """A number above `least`."""
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number <= least:
        raise ValueError(f"{name} = {_shown(value)}: expected a number" + (" above 0" if least == 0 else ""))
    return number


def _whole(value: Any, name: str, least: int = 1) -> int | None:
    number = _number(value, name, least=-math.inf)
    if number is None:
        return None
    if number != int(number) or not least <= number <= MAX_COUNT:
        raise ValueError(f"{name} = {_shown(value)}: expected a whole number from {least} to {MAX_COUNT}")
    return int(number)


def videos_below(folder: Path) -> list[Path]:
    """All videos below a folder, in the order of their names."""
    return sorted(file for file in folder.rglob("*") if is_video(file) and file.is_file())


def _part_records(folder: Path, root: Path) -> list[Record]:
    """Of the parts of text features of a captions file, which do not hold the captions themselves."""
    return [
        Record(
            path=_placed(root, name),
            name=name,
            captions=tuple(f"caption {number} of {name}" for number in range(count)),
            embeddings=folder,
            origin=str(folder),
        )
        for name, count in captions_of(folder).items()
    ]


def _folder_records(folder: Path) -> list[Record]:
    files = videos_below(folder)
    if not files:
        raise MediaError(f"{folder}: holds no video ({', '.join(VIDEO_SUFFIXES)})")
    return [Record(path=file, name=str(file.relative_to(folder)), origin=str(folder)) for file in files]
