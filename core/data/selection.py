"""Which frames of a clip are used and at which size, or why it is not used: the rules of the published training.

Everything here follows from the record, the settings and two draws; nothing opens a file.
Source: Open-Sora Plan v1.3, T2V_dataset.define_frame_index of opensora/dataset/t2v_datasets.py. Where its rules are
not right (quirks Q34 to Q36) ours differ, and settings.upstream gives its own.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .. import random
from ..config.data import DataSettings
from ..errors import ConfigError
from ..maths.resize import size_within_area, whole_strides
from ..shapes import Causal, Compression, VideoShape, latent_frames
from .frame_window import frame_window
from .records import Record

DEFAULT_FPS = 24.0
"""Of videos whose annotation does not say."""
SAME_FPS = 0.1
"""Rates that differ by less count as equal."""
LONGEST = 5.0
"""Videos of more than so many times `frames` are dropped."""
WIDEST = 2.0
"""Sides with a larger proportion, against the target's where there is one, are dropped."""
UPSTREAM_LEAST = 29


class Unusable(Exception):
    """A record that is left out. `kind` is one of few words, to be counted."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind, self.detail = kind, detail


class FrameDraws(Protocol):
    """What is random about the choice of frames."""

    def short(self) -> float:
        """From 0 up to 1, for a video shorter than wanted."""

    def start(self, limit: int) -> int:
        """From 0 to limit inclusive, for a video longer than wanted."""


class RecordDraws:
    """The draws for one record of a set: whether a short one is dropped holds for the run, the crop for an epoch."""

    def __init__(self, seed: int, number: int, epoch: int = 0) -> None:
        self.seed, self.number, self.epoch = seed, number, epoch

    def short(self) -> float:
        return random.stream(self.seed, "short clip", self.number).random()

    def start(self, limit: int) -> int:
        return int(random.stream(self.seed, "crop in time", self.number, self.epoch).integers(limit + 1))


def check_settings(settings: DataSettings, compression: Compression) -> None:
    """Raises: ConfigError or ShapeError when settings exclude one another or do not fit the autoencoder."""
    if settings.buckets is not None:
        check_bucketed(settings)
        return
    for name in ("frame_interval", "drop_last"):
        if getattr(settings, name) != DataSettings.model_fields[name].default:
            raise ConfigError(f"data.{name} = {_written(settings, name)}: is for data.buckets; leave it out")
    if settings.kind in ("class_folders", "features"):
        _check_labelled(settings)
    elif settings.flip:
        raise ConfigError(f"data.flip = true: is for class_folders, not for {settings.kind}; leave it out")
    has_size = settings.height is not None and settings.width is not None
    if (settings.height is None) != (settings.width is None):
        raise ConfigError("data.height and data.width: give both or neither")
    if not has_size and settings.max_area is None:
        raise ConfigError("data: give height and width, or max_area, to say how large clips are")
    if not settings.grouped and not has_size:
        raise ConfigError("data.grouped = false: give the height and width that batches are padded to")
    if settings.autoencoder and (not has_size or settings.max_area is not None):
        raise ConfigError("data.autoencoder: clips have one size; give height and width, and no max_area")
    _check_squares(settings)
    if settings.autoencoder and settings.masks:
        raise ConfigError("data.masks: an autoencoder's clips have none")
    space = compression.space
    video = VideoShape(settings.frames, settings.height or space, settings.width or space)
    compression.check(video)
    if settings.autoencoder:  # pixels that fill no latent have nothing to be compared with
        Causal(1, space).check(video)


def _check_squares(settings: DataSettings) -> None:
    """Raises: ConfigError where squares are wanted and cannot be."""
    if settings.autoencoder is None or not settings.autoencoder.by_shorter_side:
        return
    if settings.height != settings.width:
        raise ConfigError("data.autoencoder.by_shorter_side: gives squares; data.height and data.width differ")
    if settings.autoencoder.random_window:
        raise ConfigError("data.autoencoder: by_shorter_side and random_window exclude each other")


def _check_labelled(settings: DataSettings) -> None:
    """Raises: ConfigError where labelled pictures are asked for in another form than the square one that they have."""
    if settings.max_area is not None or not settings.grouped or settings.masks is not None:
        raise ConfigError(f"data.max_area, grouped and masks: are not for data.kind = {settings.kind}; leave them out")
    if settings.kind == "class_folders" and settings.height != settings.width:
        raise ConfigError(
            f"data.height = {settings.height}, data.width = {settings.width}: pictures of class_folders are cut to "
            "squares; give both the same size"
        )


def check_bucketed(settings: DataSettings, where: str = "data") -> None:
    """Raises: ConfigError naming the settings, of the group of this path, that buckets have no use for."""
    if settings.kind != "files":
        raise ConfigError(f"{where}.buckets: are for clips of files, not for {settings.kind}; leave it out")
    if not any((settings.buckets or {}).values()):
        raise ConfigError(f"{where}.buckets: expected a resolution with its buckets, as in {{240p: {{51: [1.0, 8]}}}}")
    fields = DataSettings.model_fields
    useless = sorted(name for name in settings.unused(None) if getattr(settings, name) != fields[name].default)
    habits = (name for name, value in settings.upstream if value and name != "captions_as_lists")
    told = [f"{where}.{name}" for name in (*useless, *(f"upstream.{name}" for name in habits))]
    if told:
        raise ConfigError(f"{', '.join(told)}: {where}.buckets have no use for it; leave it out")


def _written(settings: DataSettings, name: str) -> str:
    return str(getattr(settings, name)).lower()


def plan_shape(
    record: Record, settings: DataSettings, compression: Compression, sp_size: int, draws: FrameDraws
) -> VideoShape:
    """The shape a record is trained at. sp_size: ranks that share one sequence. Raises: Unusable."""
    if settings.autoencoder is not None:
        _check_stride(record, settings)
        return VideoShape(settings.frames, settings.height or 0, settings.width or 0)
    if record.label is None and not record.captions:
        raise Unusable("no caption", "has no caption")
    is_square = record.label is not None  # or has latents of one size
    height, width = (settings.height or 0, settings.width or 0) if is_square else clip_size(record, settings)
    return VideoShape(len(choose_frames(record, settings, compression, sp_size, draws, True)), height, width)


def clip_size(record: Record, settings: DataSettings) -> tuple[int, int]:
    """Height and width that a record is brought to. Raises: Unusable."""
    height, width = used_size(record, settings)
    if settings.max_area is None:
        assert settings.height is not None
        assert settings.width is not None
        _check_proportion(height, width, settings.height / settings.width)
        return settings.height, settings.width
    shrunk = size_within_area(height, width, settings.max_area)
    box = whole_strides(*shrunk, settings.stride)
    sides = (box.height, box.width)
    least = settings.max_area // 4 if settings.min_area is None else settings.min_area
    if 0 in sides or sides[0] * sides[1] < least:
        raise Unusable(
            "too small", f"is too small: {sides[0]} x {sides[1]} of its {height} x {width} pixels are usable"
        )
    _check_proportion(*sides, 1.0)
    if not settings.grouped and (sides[0] > (settings.height or 0) or sides[1] > (settings.width or 0)):
        raise Unusable("too large", f"is larger than height x width: {sides[0]} x {sides[1]} pixels")
    return sides


def used_size(record: Record, settings: DataSettings) -> tuple[int, int]:
    """Height and width of the part of each frame that is used. Raises: Unusable."""
    height, width = record.height, record.width
    if record.crop is not None and not settings.upstream.size_before_crop:
        height, width = record.crop.y1 - record.crop.y0, record.crop.x1 - record.crop.x0
    if height is None or width is None:
        raise Unusable("no size", "has no height and width; add them to the annotation or set data.probe")
    return height, width


def choose_window(record: Record, num_frames: int, interval: int, draws: FrameDraws) -> np.ndarray:
    """As choose_moments, in a bucket: so many frames, spread over a window of interval times as many.

    Raises: ShapeError for a clip that is too short.
    """
    if not record.is_video:
        return np.zeros(1)
    assert record.num_frames is not None
    frames = frame_window(record.num_frames, num_frames, interval, lambda low, high: low + draws.start(high - low))
    return record.start + frames.astype(np.float64)


def shown_rate(record: Record, settings: DataSettings, of_file: float | None = None) -> float:
    """Frames per second that the chosen frames of a record are shown at, or what a model is told of it; of a picture it
    means nothing.

    of_file: in buckets the rate of a file whose annotation has none.
    """
    if settings.tells_file_rate:
        return float(of_file or rate_of(record))
    if settings.buckets is not None:
        return float((of_file or rate_of(record)) // settings.frame_interval)  # as upstream rounds it (quirk Q6)
    return _used_rate(record, settings)


def choose_frames(
    record: Record,
    settings: DataSettings,
    compression: Compression,
    sp_size: int,
    draws: FrameDraws,
    is_planning: bool = False,
) -> np.ndarray:
    """Numbers of the frames of the file, (T,). Raises: Unusable."""
    return choose_moments(record, settings, compression, sp_size, draws, is_planning).astype(np.int64)


def choose_moments(
    record: Record,
    settings: DataSettings,
    compression: Compression,
    sp_size: int,
    draws: FrameDraws,
    is_planning: bool = False,
) -> np.ndarray:
    """Moments of the file in frames of its rate, (T,) float64: 2.5 is in the middle of frame 2. Raises: Unusable.

    In a file of constant rate they are the frames that they fall in; else core.data.reading finds these by time.
    """
    if not record.is_video:
        return np.zeros(1)
    if record.num_frames is None:
        raise Unusable("no length", "has no num_frames; add it to the annotation or set data.probe")
    wanted = settings.frames
    interval = frame_interval(record.fps, _used_rate(record, settings))
    most = LONGEST * wanted * (rate_of(record) / settings.fps * settings.speed_factor)
    if record.num_frames > most and not record.is_drawn:
        raise Unusable("too long", f"is too long: {record.num_frames} frames, more than {LONGEST:g} times what is used")
    end = record.start + record.num_frames
    frames = np.arange(record.start, end, interval, np.float64)
    frames = frames[frames < end]
    if not (is_planning and settings.upstream.speed_up_unplanned):
        frames = _sped_up(frames, wanted, settings.speed_factor)
    if len(frames) < wanted and draws.short() < settings.drop_short:
        raise Unusable("too short", f"is too short: {len(frames)} of {wanted} frames at {settings.fps:g} per second")
    if len(frames) > wanted:
        limit = len(frames) - wanted - (1 if settings.upstream.last_start_unused else 0)
        begin = draws.start(max(limit, 0))
        frames = frames[begin : begin + wanted]
    least = UPSTREAM_LEAST if settings.upstream.always_29_frames else min(settings.min_frames or wanted, wanted)
    length = usable_length(len(frames), compression, sp_size, least)
    if length is None:
        raise Unusable("too short", f"is too short: {len(frames)} frames at {settings.fps:g} per second, needs {least}")
    return frames[:length]


def frame_interval(fps: float | None, wanted_fps: float) -> float:
    """Frames of the file from one used frame to the next; below 1, frames are repeated."""
    return 1.0 if abs(_rate(fps) - wanted_fps) < SAME_FPS else _rate(fps) / wanted_fps


def has_usual_proportions(height: int, width: int, target: float) -> bool:
    """Whether height / width is at most WIDEST times off the target."""
    return target / WIDEST <= height / width <= target * WIDEST


def usable_length(frames: int, compression: Compression, sp_size: int, least: int = UPSTREAM_LEAST) -> int | None:
    """The largest number of at most `frames` whose latents are whole and divide by sp_size; None below `least`."""
    length = compression.longest(frames)
    while length >= max(least, 1):
        if latent_frames(compression, length) % sp_size == 0:
            return length
        length = compression.longest(length - 1)
    return None


def stride_frames(length: int, settings: DataSettings, draw: np.random.Generator) -> np.ndarray:
    """An autoencoder's clip out of so many frames: `frames` of them at a stride, from anywhere, (T,).

    Raises: Unusable when the file is too short for the stride that was drawn.
    """
    assert settings.autoencoder is not None
    rate = settings.autoencoder.sample_rate
    if settings.autoencoder.dynamic_sample:
        rate = int(draw.integers(1, rate + 1))
    span = (settings.frames - 1) * rate + 1
    if length < span:
        raise Unusable("too short", f"is too short: {length} frames, needs {span} at a stride of {rate}")
    return int(draw.integers(length - span + 1)) + rate * np.arange(settings.frames)


def _check_stride(record: Record, settings: DataSettings) -> None:
    assert settings.autoencoder is not None
    least_rate = 1 if settings.autoencoder.dynamic_sample else settings.autoencoder.sample_rate
    span = (settings.frames - 1) * least_rate + 1
    if not record.is_video and settings.frames > 1:
        raise Unusable("a picture", "is a picture")
    if record.is_video and record.num_frames is not None and record.num_frames < span:
        raise Unusable("too short", f"is too short: {record.num_frames} frames, needs {span}")


def _sped_up(frames: np.ndarray, wanted: int, most: float) -> np.ndarray:
    """Fewer frames, evenly, by a factor of at most `most`, and never fewer than wanted."""
    if most <= 1 or len(frames) <= wanted:
        return frames
    count = max(int(len(frames) / min(most, len(frames) / wanted)), wanted)
    return frames[np.linspace(0, len(frames) - 1, count, dtype=np.int64)]


def _check_proportion(height: int, width: int, target: float) -> None:
    if not has_usual_proportions(height, width, target):
        raise Unusable("odd proportions", f"has odd proportions: {height} x {width} pixels")


def _rate(fps: float | None) -> float:
    return DEFAULT_FPS if fps is None else fps


def _used_rate(record: Record, settings: DataSettings) -> float:
    """Frames per second that a record is resampled to; what is drawn stays as it is."""
    return rate_of(record) if record.is_drawn else settings.fps


def rate_of(record: Record) -> float:
    """Frames per second that a record is planned with."""
    return _rate(record.fps)
