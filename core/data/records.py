"""One clip or picture of a training set: the record that all annotation formats are read into."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..io.kinds import is_video


class CropBox(NamedTuple):
    """A rectangle of pixels in upstream's order; x1 and y1 are the first column and row outside."""

    x0: int
    x1: int
    y0: int
    y1: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of a clip before it is opened. None: the annotation does not say."""

    path: Path
    name: str
    """The path as the annotation gives it."""
    captions: tuple[str, ...] = ()
    """Ways to describe it; one is picked each time."""
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    """Of the clip, in frames of the file."""
    fps: float | None = None
    start: int = 0
    """The first frame of the file that belongs to the clip."""
    crop: CropBox | None = None
    """The part of each frame that counts, cut out first."""
    aesthetic: float | None = None
    """A rating from 0 to 10."""
    label: int | None = None
    """The number of its class, where it has one instead of captions."""
    embeddings: Path | None = None
    """Folder of ready-made text states (core.data.embedding_folder)."""
    origin: str = ""
    """Where the record stands, for messages."""
    is_drawn: bool = False
    """There is no file: the content follows from the name."""

    @property
    def is_video(self) -> bool:
        return is_video(self.path)


class BadRow(NamedTuple):
    """A row of an annotation that cannot be a record."""

    name: str
    """The path it gives, or where it stands."""
    origin: str
    """Where it stands."""
    reason: str
