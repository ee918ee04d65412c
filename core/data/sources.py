"""Where clips come from: media files that annotations name, or drawings of the project itself.

A source knows the records; its reader, which is small and is sent to the reading processes, opens one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .. import random
from ..config.data import DataSettings
from ..errors import ConfigError, MediaError
from ..io.images import read_image
from ..io.media import DEFAULTS, Media
from ..io.timeline import Timeline
from ..io.video import check_reader, open_video
from ..io.video_reader import Note
from ..shapes import Compression
from . import moving_shapes
from .annotations import read_annotations
from .class_folders import ClassFolders
from .features import FeatureSource, open_features
from .records import BadRow, Record

FIXED_SEED = 0
"""Of moving shapes that stay the same."""


class OpenedClip(Protocol):
    """A clip that is open; `core.io.video_reader.VideoReader` is one."""

    @property
    def timeline(self) -> Timeline | None:
        """When its frames are shown; None where they have no time."""

    @property
    def notes(self) -> Sequence[Note]:
        """What is unusual about it."""

    def __len__(self) -> int:
        """The number of frames."""

    def read(self, frames: Sequence[int] | slice | None = None) -> np.ndarray:
        """Frames by number, (T, H, W, 3) uint8."""

    def close(self) -> None: ...


class ClipOpener(Protocol):
    """Opens a record. Picklable, and must not need a framework."""

    def __call__(self, record: Record, draw: np.random.Generator) -> OpenedClip:
        """draw: for whatever is random about the content. Raises: MediaError when the record cannot be opened."""


class RecordSource(Protocol):
    """The records of a training set."""

    @property
    def opener(self) -> ClipOpener: ...

    @property
    def bad(self) -> Sequence[BadRow]:
        """Rows of its annotations that make no record."""

    def __len__(self) -> int: ...

    def record(self, number: int) -> Record: ...


class Frames:
    """A clip that lies in memory."""

    timeline = None
    notes = ()

    def __init__(self, frames: np.ndarray) -> None:
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    def read(self, frames: Sequence[int] | slice | None = None) -> np.ndarray:
        return self._frames if frames is None else self._frames[frames]

    def close(self) -> None:
        pass


class FileOpener:
    """Opens media files."""

    def __init__(self, reader: str = "pyav", media: Media = DEFAULTS) -> None:
        """Raises: as check_reader; a reading process would call every clip unreadable instead."""
        check_reader(reader)
        self.reader, self.media = reader, media

    def __call__(self, record: Record, draw: np.random.Generator) -> OpenedClip:
        if record.is_video:
            return open_video(record.path, self.reader, self.media)
        return Frames(read_image(record.path, self.media)[None])


class Records(Protocol):
    """Records by their numbers."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Record: ...


class FileSource:
    """Records of media files."""

    def __init__(
        self,
        records: Records,
        reader: str = "pyav",
        bad: Sequence[BadRow] = (),
        media: Media = DEFAULTS,
    ) -> None:
        """bad: rows of the annotations that make no record."""
        self.opener = FileOpener(reader, media)
        self.bad = tuple(bad)
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def record(self, number: int) -> Record:
        return self._records[number]


class MovingShapes:
    """The tiny models' world (core.data.moving_shapes)."""

    bad: Sequence[BadRow] = ()

    def __init__(
        self,
        is_held_out: bool = False,
        num_clips: int | None = None,
        scores: bool = False,
        colours: Sequence[str] = (),
    ) -> None:
        """is_held_out: the scenes that are never trained on, for validation.

        num_clips: so many clips that stay the same; None: one of each scene, drawn anew in every epoch. scores: clips
        differ in frame rate, motion and sharpness, and captions name the scores. colours: of core.data.moving_shapes,
        the usual ones by default.
        """
        self.opener = MovingShapesOpener(num_clips is not None, scores)
        self._scenes = (moving_shapes.held_out_scenes if is_held_out else moving_shapes.training_scenes)(colours)
        self._num_clips = len(self._scenes) if num_clips is None else num_clips

    def __len__(self) -> int:
        return self._num_clips

    def record(self, number: int) -> Record:
        scene = self._scenes[number % len(self._scenes)]
        name = " ".join((*scene, str(number)))
        look = self.opener.look(number)
        captions = moving_shapes.captions(scene)
        return Record(
            path=Path(f"{name}.mp4"),
            name=name,
            captions=tuple(captions if look is None else map(look.behind, captions)),
            height=moving_shapes.SIDE,
            width=moving_shapes.SIDE,
            num_frames=moving_shapes.FRAMES,
            fps=moving_shapes.FPS if look is None else look.fps,
            origin="moving shapes",
            is_drawn=True,
        )


class MovingShapesOpener:
    """Draws a scene."""

    def __init__(self, is_fixed: bool = False, scores: bool = False) -> None:
        """is_fixed: a record is always drawn alike. scores: as MovingShapes."""
        self.is_fixed, self.scores = is_fixed, scores

    def look(self, number: int) -> moving_shapes.Look | None:
        """That of a record; None: the usual one, of which nothing is said."""
        return moving_shapes.any_look(random.stream(FIXED_SEED, "look", number)) if self.scores else None

    def __call__(self, record: Record, draw: np.random.Generator) -> OpenedClip:
        *scene, number = record.name.split()
        if self.is_fixed:
            draw = random.stream(FIXED_SEED, "moving shapes", int(number))
        look = self.look(int(number)) or moving_shapes.USUAL_LOOK
        return Frames(moving_shapes.render(moving_shapes.Scene(*scene), draw, look))


def open_source(settings: DataSettings, is_held_out: bool = False) -> RecordSource:
    """The source that settings name. is_held_out: of moving shapes, those that are never trained on.

    Raises: ConfigError when no file is named; MediaError and CheckpointError when what is named cannot be read.
    """
    if settings.kind == "moving_shapes":
        clips = None if is_held_out else settings.drawn_clips
        return MovingShapes(is_held_out, clips, settings.scores, settings.colours)
    if not settings.files:
        raise ConfigError("data.files: name the annotations or folders to train on")
    if settings.kind == "class_folders":
        return FileSource(ClassFolders(labelled_folder(settings)), media=settings.media)
    if settings.kind == "features":
        return FeatureSource(open_features(labelled_folder(settings)))
    found = read_annotations(settings.files, settings.root)
    if not found.records:
        reason = f"; the first bad row: {found.bad[0].name} {found.bad[0].reason}" if found.bad else ""
        raise MediaError(f"{', '.join(map(str, settings.files))}: holds no record of a clip{reason}")
    return FileSource(found.records, settings.reader, found.bad, settings.media)


def labelled_folder(settings: DataSettings) -> Path:
    """The folder that labelled pictures or their features are in. Raises: ConfigError when several are named."""
    if len(settings.files) != 1:
        raise ConfigError(f"data.files: data.kind = {settings.kind} reads one folder, not {len(settings.files)}")
    return settings.files[0]


def has_labels(settings: DataSettings) -> bool:
    """Whether what is trained on has labels instead of captions."""
    return settings.kind in ("class_folders", "features")


def fitted(settings: DataSettings, compression: Compression) -> DataSettings:
    """Settings as the source needs them: moving shapes have one size and length, of which less may be wanted; what has
    labels has one size, and features are of pictures.

    compression: a clip for a denoiser is as long as it can be.
    """
    if settings.kind == "features":
        return settings.model_copy(update={"frames": 1, "min_bucket_batches": 0})
    if settings.kind == "class_folders":
        return settings.model_copy(update={"min_bucket_batches": 0})
    if settings.kind != "moving_shapes":
        return settings
    wished = settings.frames, settings.height, settings.width
    shape: dict[str, Any] = moving_shapes.size_within(*wished)._asdict()
    if settings.autoencoder is None:
        shape["frames"] = compression.longest(shape["frames"])
    return settings.model_copy(update={**shape, "max_area": None, "fps": 24.0, "min_bucket_batches": 0})
