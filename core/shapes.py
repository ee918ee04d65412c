"""Sizes of videos, latents and token grids, and the only place that knows how they follow from one another.

`1 + (T - 1) // 4`, `// 8` and the patch sizes are written here and nowhere else.
"""

from __future__ import annotations

from itertools import count
from typing import NamedTuple, Protocol

from .errors import ShapeError

NUM_COLOURS = 3


class VideoShape(NamedTuple):
    """Pixels: frames, height, width."""

    frames: int
    height: int
    width: int


class LatentShape(NamedTuple):
    """Latents of a video: frames, height, width."""

    frames: int
    height: int
    width: int


class TokenGrid(NamedTuple):
    """Patches of a latent: frames, height, width; tokens run in that order, width fastest."""

    frames: int
    height: int
    width: int

    @property
    def num_tokens(self) -> int:
        return self.frames * self.height * self.width


class Compression(Protocol):
    """How the sizes of a video and of its latents follow from each other in one autoencoder."""

    @property
    def time(self) -> int:
        """Frames that a latent spans, the first one of a clip aside."""

    @property
    def space(self) -> int:
        """Pixels along each side that a latent spans."""

    def latent(self, video: VideoShape) -> LatentShape:
        """The latent shape of a video. Raises ShapeError, naming the nearest sizes that work."""

    def video(self, latent: LatentShape) -> VideoShape:
        """The video shape that a latent decodes to."""

    def longest(self, frames: int) -> int:
        """How many of so many frames make a clip of whole latents."""

    def check(self, video: VideoShape) -> None:
        """Raises ShapeError when the video cannot be encoded without losing rows, columns or frames."""


class Causal(NamedTuple):
    """A Compression in which the first frame always has a latent frame of its own."""

    time: int
    space: int

    def latent(self, video: VideoShape) -> LatentShape:
        """The latent shape of a video. Raises ShapeError, naming the nearest sizes that work."""
        self.check(video)
        return LatentShape(1 + (video.frames - 1) // self.time, video.height // self.space, video.width // self.space)

    def video(self, latent: LatentShape) -> VideoShape:
        """The video shape that a latent decodes to."""
        return VideoShape(1 + (latent.frames - 1) * self.time, latent.height * self.space, latent.width * self.space)

    def longest(self, frames: int) -> int:
        """How many of so many frames make a clip of whole latents."""
        return 1 + (frames - 1) // self.time * self.time

    def check(self, video: VideoShape) -> None:
        """Raises ShapeError when the video cannot be encoded without losing rows, columns or frames."""
        if video.frames < 1 or (video.frames - 1) % self.time:
            raise ShapeError(
                f"num_frames = {video.frames}: needs 1 + a multiple of {self.time} frames; "
                f"{_nearest(video.frames - 1, self.time, 0, plus=1)}"
            )
        _check_sides(video, self.space)


class Grouped(NamedTuple):
    """A compression of frames in groups that know nothing of each other; the last one may be shorter.

    Sides are rounded down: pixels at the right and the bottom that fill no latent are lost.
    """

    frames: int | None
    """Of a group; None: the clip is one group."""
    time: int
    space: int

    def latent(self, video: VideoShape) -> LatentShape:
        """The latent shape of a video. Raises: ShapeError when it has no frame or no whole latent."""
        self.check(video)
        groups, rest = (0, video.frames) if self.frames is None else divmod(video.frames, self.frames)
        whole = groups * self.latent_frames if groups else 0
        frames = whole + -(-rest // self.time)
        return LatentShape(frames, video.height // self.space, video.width // self.space)

    def video(self, latent: LatentShape) -> VideoShape:
        """The longest video that has such latents; clips that end in a shorter group share theirs with others."""
        groups, rest = (0, latent.frames) if self.frames is None else divmod(latent.frames, self.latent_frames)
        frames = groups * (self.frames or 0) + rest * self.time
        return VideoShape(frames, latent.height * self.space, latent.width * self.space)

    def longest(self, frames: int) -> int:
        """How many of so many frames make a clip whose last latent is whole, its first frame aside."""
        return 1 + (frames - 1) // self.time * self.time

    def check(self, video: VideoShape) -> None:
        """Raises: ShapeError when the video has no frame or no whole latent."""
        if video.frames < 1:
            raise ShapeError(f"num_frames = {video.frames}: needs at least 1 frame")
        for side, size in (("height", video.height), ("width", video.width)):
            if size < self.space:
                raise ShapeError(f"{side} = {size}: needs at least {self.space} pixels")

    @property
    def latent_frames(self) -> int:
        """Of a whole group."""
        assert self.frames, "a clip in one group has no whole groups"
        return -(-self.frames // self.time)

    def whole_groups(self, latent_frames: int) -> int:
        """The frames of so many latent ones. Raises: ShapeError when they are no whole groups."""
        size = self.latent_frames
        if latent_frames < 0 or latent_frames % size:
            raise ShapeError(
                f"{latent_frames} latent frames: needs whole groups of {size}; "
                f"{_nearest(latent_frames, size, 0, plus=0)}"
            )
        return latent_frames // size * (self.frames or 0)


def group_of(compression: Compression) -> int | None:
    """Latent frames of a group that knows nothing of the others; None: there are no such groups."""
    return compression.latent_frames if isinstance(compression, Grouped) and compression.frames else None


class Even(NamedTuple):
    """A compression in which every latent spans equally many frames."""

    time: int
    space: int

    def latent(self, video: VideoShape) -> LatentShape:
        """The latent shape of a video. Raises ShapeError, naming the nearest sizes that work."""
        self.check(video)
        return LatentShape(video.frames // self.time, video.height // self.space, video.width // self.space)

    def video(self, latent: LatentShape) -> VideoShape:
        """The video shape that a latent decodes to."""
        return VideoShape(latent.frames * self.time, latent.height * self.space, latent.width * self.space)

    def longest(self, frames: int) -> int:
        """How many of so many frames make a clip of whole latents."""
        return frames // self.time * self.time

    def check(self, video: VideoShape) -> None:
        """Raises ShapeError when the video cannot be encoded without losing rows, columns or frames."""
        if video.frames < 1 or video.frames % self.time:
            raise ShapeError(
                f"num_frames = {video.frames}: needs a multiple of {self.time}; "
                f"{_nearest(video.frames, self.time, self.time, plus=0)}"
            )
        _check_sides(video, self.space)


def takes(compression: Compression, frames: int) -> bool:
    """Whether clips of so many frames can be encoded."""
    try:
        compression.check(VideoShape(frames, compression.space, compression.space))
    except ShapeError:
        return False
    return True


def next_length(compression: Compression, frames: int) -> int:
    """The fewest frames, from so many on, that clips can have."""
    return next(length for length in count(max(frames, 1)) if takes(compression, length))


def latent_frames(compression: Compression, frames: int) -> int:
    """Of a clip of so many frames. Raises: as Compression.check."""
    return compression.latent(VideoShape(frames, compression.space, compression.space)).frames


class Patch(NamedTuple):
    """Latents per token, along time and along each side."""

    time: int
    space: int

    def tokens(self, latent: LatentShape) -> TokenGrid:
        """The token grid of a latent. Raises ShapeError when the patches do not tile it."""
        for side, size, patch in zip(LatentShape._fields, latent, (self.time, self.space, self.space), strict=True):
            if size < 1 or size % patch:
                raise ShapeError(f"latent {side} = {size}: needs a multiple of the patch size {patch}")
        return TokenGrid(latent.frames // self.time, latent.height // self.space, latent.width // self.space)


def _check_sides(video: VideoShape, space: int) -> None:
    for side, size in (("height", video.height), ("width", video.width)):
        if size < space or size % space:
            raise ShapeError(
                f"{side} = {size}: needs a multiple of {space} pixels; {_nearest(size, space, space, plus=0)}"
            )


def _nearest(value: int, step: int, least: int, plus: int) -> str:
    below = max(least, value // step * step) + plus
    above = max(least, -(-value // step) * step) + plus
    return f"the nearest is {below}" if below == above else f"the nearest are {below} and {above}"
