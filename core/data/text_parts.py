"""A captions file with its text features, in parts, as the first release of Open-Sora keeps it.

Each part is a folder part-00000, part-00001, ...: a Hugging Face dataset on disk, a row a caption. Reading one needs
pyarrow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import MediaError
from ..extras import needs_extra
from ..io.files import open_regular, read_json
from ..printable import one_line, short_name

MOST_FRAMES = 600
"""Longer clips are left out."""
FILE, STATES = "video_file", "text_latent_states"
STATE = "state.json"
_HUNDRED = 100


class TextRow(NamedTuple):
    """A caption of a clip, by what a text encoder made of it."""

    file: str
    states: np.ndarray
    """(L, D) float32 of its tokens, or (D,) of the whole text."""


class CaptionRow(NamedTuple):
    """A caption of a clip."""

    file: str
    caption: str


def borders(rows: int, bins: int) -> list[tuple[int, int]]:
    """First row and the one behind the last of each bin, cut by whole percents: 8 bins are 13 wide, the last less.

    With fewer rows than bins some are empty. Raises: ValueError when there is to be no bin.
    """
    if bins < 1:
        raise ValueError(f"bins = {bins}: needs at least 1")
    starts = range(0, _HUNDRED, math.ceil(_HUNDRED / bins))
    edges = [round(percent * rows / _HUNDRED) for percent in (*starts, _HUNDRED)]
    return list(pairwise(edges))


def rows_by_part(
    clips: Sequence[tuple[str, Sequence[str]]], frames: Mapping[str, int], bins: int, most_frames: int = MOST_FRAMES
) -> list[list[CaptionRow]]:
    """The rows of each part: one for every caption of the clips that are not too long.

    clips: file and captions, in the order of the captions file. A bin without clips makes no part; one whose clips are
    all too long makes an empty part.
    """
    return [
        [CaptionRow(file, text) for file, texts in clips[start:end] if frames[file] <= most_frames for text in texts]
        for start, end in borders(len(clips), bins)
        if end > start
    ]


def part_folders(folder: Path) -> list[Path]:
    """The parts in a folder, or the one that it is. Raises: MediaError when there is none."""
    parts = [folder] if (folder / STATE).is_file() else sorted(file.parent for file in folder.glob(f"part-*/{STATE}"))
    if not parts:
        raise MediaError(f"{folder}: holds no part-00000 of text features, each with {STATE} and .arrow files")
    return parts


def has_parts(folder: Path) -> bool:
    """Whether a folder is a part, or holds some."""
    return ((folder / STATE).is_file() and any(folder.glob("*.arrow"))) or any(folder.glob(f"part-*/{STATE}"))


def captions_of(folder: Path) -> dict[str, int]:
    """Files by their names in the parts of a folder, and how many captions each has. Raises: as read_parts."""
    counts: dict[str, int] = {}
    for file in _files(folder):
        for name in _table(file, [FILE])[FILE].to_pylist():
            counts[_file_of(file, name)] = counts.get(name, 0) + 1
    return counts


class TextParts:
    """Finds the features of captions in the parts of a folder, which stay on the disk until they are asked for."""

    def __init__(self, folder: Path, channels: int | None = None, pooled: bool = False) -> None:
        """channels, pooled: of the text encoder that the denoiser was made for. Raises: as read_parts."""
        self.channels, self.pooled = channels, pooled
        self._rows: dict[str, list[tuple[Path, Any, int]]] = {}
        for file in _files(folder):
            table = _table(file, [FILE, STATES])
            for number, name in enumerate(table[FILE].to_pylist()):
                self._rows.setdefault(_file_of(file, name), []).append((file, table[STATES], number))

    def states(self, item: str, caption: int = 0) -> np.ndarray:
        """(L, D) float32, or (D,) of the whole text, of a caption of a file, by its number among the file's.

        Raises: MediaError for one that is not there, and for features of another encoder.
        """
        rows = self._rows.get(item, [])
        if caption >= len(rows):
            raise MediaError(f"{short_name(item)}: the parts of text features hold no caption {caption} of it")
        file, column, number = rows[caption]
        states = _states_of(file, column[number].as_py())
        if states.ndim != 2 - self.pooled:
            kinds = "states of tokens", "one vector of a text"
            raise MediaError(f"{file}: holds {kinds[states.ndim == 1]}, the model reads {kinds[self.pooled]}")
        if self.channels not in (None, states.shape[-1]):
            raise MediaError(
                f"{file}: its features have {states.shape[-1]} channels, the model reads {self.channels}; they are of "
                "another text encoder"
            )
        return states


def read_parts(folders: Iterable[Path]) -> Iterator[TextRow]:
    """The rows of parts, one after the other. Raises: MediaError when one cannot be read; PackageMissing."""
    for folder in folders:
        for name in _arrow_files(folder):
            file = folder / name
            for batch in _table(file, [FILE, STATES]).to_batches():
                for row in batch.to_pylist():
                    yield TextRow(_file_of(file, row[FILE]), _states_of(file, row[STATES]))


def _files(folder: Path) -> Iterator[Path]:
    """The Arrow files of all parts of a folder."""
    return (part / name for part in part_folders(folder) for name in _arrow_files(part))


def _arrow_files(folder: Path) -> list[str]:
    file = folder / STATE
    try:
        names = [entry["filename"] for entry in read_json(file)["_data_files"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise MediaError(f"{file}: does not name the files of the part ({one_line(error)})") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise MediaError(f"{file}: filename = {short_name(repr(name))}: needs a file beside it")
    return names


def _table(file: Path, columns: list[str]) -> Any:
    """Columns of a file, which are read when they are asked for."""
    with needs_extra("parquet", f"{file}: reading Arrow files"):
        import pyarrow
    try:
        with open_regular(file), pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))) as batches:
            table = batches.read_all().select(columns)
            table.validate(full=True)  # what is damaged inside would end the process where it is read
            return table
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise MediaError(f"{file}: cannot be read as a part of text features ({one_line(error)})") from error


def _file_of(source: Path, name: object) -> str:
    if not isinstance(name, str):
        raise MediaError(f"{source}: {FILE} = {short_name(repr(name))}: needs the name of a video")
    return name


def _states_of(source: Path, values: object) -> np.ndarray:
    try:
        states = np.array(values, np.float32)
    except (ValueError, TypeError) as error:
        raise MediaError(f"{source}: {STATES}: its rows are of unequal length or no numbers") from error
    if states.ndim not in (1, 2) or not np.isfinite(states).all():
        raise MediaError(f"{source}: {STATES}: needs finite numbers, (tokens, channels) or (channels)")
    return states
