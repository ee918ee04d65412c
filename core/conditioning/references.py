"""Pictures and videos as references: which of their latent frames go where in a clip, and how freely each may change.

A mask strategy is a text of entries `loop,reference,start,target,length,edit` separated by `;`, all but the first with
defaults. In loop number `loop`, latent frames `start` .. `start + length - 1` of a reference go to `target` and later;
negative numbers count from the end. edit: 0 keeps them as they are, 1 makes them anew, between them they are noised and
denoised from that part of the way on.
Source: opensora/utils/inference_utils.py of hpcaitech Open-Sora at v1.2.0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..errors import ConfigError
from ..printable import short_name
from ..shapes import Compression, VideoShape
from .base import ClipState, Encode

FIELDS = ("loop", "reference", "start", "target", "length", "edit")
MOST = 1_000_000
"""Of any field."""
_WHOLE = re.compile(r"\s*([-+]?\d{1,7})\s*", re.ASCII)
_NUMBER = re.compile(r"\s*\+?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d{1,3})?\s*", re.ASCII | re.IGNORECASE)


class Placement(NamedTuple):
    """One entry of a mask strategy, counted in latent frames."""

    loop: int
    reference: int = 0
    start: int = 0
    target: int = 0
    length: int = 1
    edit: float = 0.0

    def __str__(self) -> str:
        return ",".join(map(str, self))


@dataclass(frozen=True)
class GivenReferences:
    """What a prompt brings: pictures and clips, and where they go."""

    clips: tuple[np.ndarray, ...] = ()
    """(3, T, H, W) in [-1, 1] each, of the video's height and width."""
    strategy: str = ""
    where: str = "mask_strategy"
    """Whose strategy it is, for messages."""


@dataclass(frozen=True)
class PlacedReferences:
    """References whose placements fit."""

    clips: tuple[np.ndarray, ...]
    placements: tuple[Placement, ...]
    where: str

    def carried_over(self, loop: int, reference: int, length: int, edit: float) -> PlacedReferences:
        """With one more placement: the end of the clip before, as a reference, begins the clip of a loop."""
        entry = Placement(loop, reference, -length, 0, length, edit)
        return replace(self, placements=(*self.placements, entry))


class Placed(NamedTuple):
    """Latents with references in them."""

    latents: np.ndarray
    """(C, T, H, W)."""
    strength: np.ndarray
    """(T,) float32: 1 where a frame is made from noise alone, `edit` where a reference stands."""


@dataclass(frozen=True)
class References:
    """The conditioner of denoisers that are told which frames are clean."""

    compression: Compression
    align: int | None = None
    """Starts and targets are rounded to multiples of it."""
    loops: int = 1
    """Clips of a video; each is a reference of the next ones."""

    def place(self, given: GivenReferences, video: VideoShape, seed: int = 0) -> PlacedReferences:
        """See that all placements fit. Raises: ConfigError, ShapeError."""
        placements = parse(given.strategy, given.where)
        if given.clips and not placements:
            raise ConfigError(
                f"{given.where}: {len(given.clips)} references are given, but not where they go; 0 is the first frame"
            )
        clip = np.zeros((1, self.compression.latent(video).frames, 1, 1), np.float32)
        lengths = [self.compression.latent(VideoShape(*reference.shape[1:])).frames for reference in given.clips]
        references = [np.zeros((1, length, 1, 1), np.float32) for length in lengths]
        for number, entry in enumerate(placements, 1):
            if entry.loop >= self.loops:
                raise ConfigError(
                    f"{given.where}: entry {number}: loop: expected one of {self.loops}, counted from 0 (loop.count), "
                    f"got {entry.loop}"
                )
        for loop in range(self.loops):
            known = [*references, *[clip] * loop]
            place(clip, known, placements, loop, self.align, given.where)
            self._refuse_too_long(known, placements, clip.shape[1], loop, given.where)
        return PlacedReferences(given.clips, tuple(placements), given.where)

    def _refuse_too_long(
        self, references: Sequence[np.ndarray], placements: Sequence[Placement], num_frames: int, loop: int, where: str
    ) -> None:
        for number, entry in enumerate(placements, 1):
            if entry.loop != loop:
                continue
            count, here = references[entry.reference].shape[1], f"{where}: entry {number}"
            start = _position(entry.start, count, self.align, here, "the reference")
            target = _position(entry.target, num_frames, self.align, here, "the clip")
            rooms = {"the reference": count - start, "the clip": num_frames - target}
            least = min(rooms, key=lambda name: rooms[name])
            if entry.length > rooms[least]:
                raise ConfigError(
                    f"{here}: length: expected at most {rooms[least]} latent frames, which {least} has from there, got "
                    f"{entry.length}"
                )

    def encoded(self, placed: PlacedReferences, encode: Encode) -> list[np.ndarray]:
        """Latents (C, t, h, w) of each reference."""
        return [encode(clip, f"reference {number}") for number, clip in enumerate(placed.clips)]

    def start(self, placed: PlacedReferences, latents: np.ndarray, encode: Encode, seed: int) -> ClipState:
        """What the first clip starts from."""
        return self.state(placed, self.encoded(placed, encode), latents, 0)

    def state(
        self, placed: PlacedReferences, references: Sequence[np.ndarray], latents: np.ndarray, loop: int
    ) -> ClipState:
        """What the clip of a loop starts from, for unit noise (C, t, h, w) and encoded references."""
        if not any(entry.loop == loop for entry in placed.placements):
            return ClipState(latents)
        found = place(latents, references, placed.placements, loop, self.align, placed.where)
        return ClipState(found.latents, strength=found.strength)


def parse(strategy: str | None, where: str = "mask_strategy") -> list[Placement]:
    """The entries of a mask strategy; none of an empty one. Raises: ConfigError saying where and what was expected."""
    if not strategy:
        return []
    return [_entry(entry, f"{where}: entry {number}") for number, entry in enumerate(strategy.split(";"), 1)]


def place(
    latents: np.ndarray,
    references: Sequence[np.ndarray],
    placements: Sequence[Placement],
    loop: int = 0,
    align: int | None = None,
    where: str = "mask_strategy",
) -> Placed:
    """Put references (C, t, H, W) into the latents (C, T, H, W) of one clip; later entries go over earlier ones.

    align: starts and targets are rounded to multiples of it, the groups in which the autoencoder works.
    Raises: ConfigError for a reference or a frame that is not there, or references of another size.
    """
    latents = latents.copy()
    num_frames = latents.shape[1]
    strength = np.ones(num_frames, np.float32)
    for number, entry in enumerate(placements, 1):
        if entry.loop != loop:
            continue
        here = f"{where}: entry {number}"
        frames = _reference(references, entry.reference, latents.shape, here)
        start = _position(entry.start, frames.shape[1], align, f"{here}: start", "the reference")
        target = _position(entry.target, num_frames, align, f"{here}: target", "the clip")
        length = max(0, min(entry.length, num_frames - target, frames.shape[1] - start))
        latents[:, target : target + length] = frames[:, start : start + length]
        strength[target : target + length] = entry.edit
    return Placed(latents, strength)


def carry_over(strategy: str | None, loop: int, reference: int, length: int, edit: float) -> str:
    """A mask strategy with one more entry: the end of the clip before, as a reference, begins the clip of a loop."""
    entry = str(Placement(loop, reference, -length, 0, length, edit))
    return f"{strategy};{entry}" if strategy else entry


def aligned(position: int, group: int, count: int) -> int:
    """A position among `count` frames rounded to a multiple of `group`; up only if another whole group is behind it."""
    groups, rest = divmod(position, group)
    if rest > group / 2 and groups < count // group - 1:
        groups += 1
    return groups * group


def _entry(text: str, where: str) -> Placement:
    fields = text.split(",")
    if len(fields) > len(FIELDS):
        raise ConfigError(
            f"{where}: expected at most {len(FIELDS)} fields ({','.join(FIELDS)}), got {len(fields)}: "
            f"{short_name(text)!r}"
        )
    values = [_value(field, name, where) for field, name in zip(fields, FIELDS, strict=False)]
    return Placement(*values)  # type: ignore[arg-type]


def _value(text: str, name: str, where: str) -> int | float:
    if name == "edit":
        number = float(text) if _NUMBER.fullmatch(text) else -1.0
        if not 0 <= number <= 1:
            raise ConfigError(f"{where}: {name}: expected a number from 0 to 1, got {short_name(text)!r}")
        return number
    match = _WHOLE.fullmatch(text)
    least = 0 if name in ("loop", "length") else -MOST
    if match is None or not least <= int(match[1]) <= MOST:
        kind = "a whole number" if least else "a whole number of at least 0"
        raise ConfigError(f"{where}: {name}: expected {kind}, got {short_name(text)!r}")
    return int(match[1])


def _reference(references: Sequence[np.ndarray], number: int, shape: tuple[int, ...], where: str) -> np.ndarray:
    if not -len(references) <= number < len(references):
        counted = f"{len(references)} reference{'' if len(references) == 1 else 's'}, counted from 0"
        raise ConfigError(f"{where}: reference: expected one of {counted}, got {number}")
    frames = references[number]
    if (frames.shape[0], *frames.shape[2:]) != (shape[0], *shape[2:]):
        raise ConfigError(f"{where}: reference {number} has latents of {frames.shape}, the clip of {shape}")
    return frames


def _position(position: int, count: int, align: int | None, where: str, what: str) -> int:
    if not -count <= position < count:
        raise ConfigError(
            f"{where}: expected a latent frame from {-count} to {count - 1}, as {what} has {count}, got {position}"
        )
    position %= count
    return position if align is None else aligned(position, align, count)
