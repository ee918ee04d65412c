"""Mask strategies: which latent frames of references go where in a clip, and how freely each may change.

A mask strategy is a text of entries `loop,reference,start,target,length,edit` separated by `;`, all but the first with
defaults. In loop number `loop`, latent frames `start` .. `start + length - 1` of a reference go to `target` and later;
negative numbers count from the end. edit: 0 keeps them as they are, 1 makes them anew, between them they are noised and
denoised from that part of the way on.
Source: opensora/utils/inference_utils.py of hpcaitech Open-Sora at v1.2.0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import ConfigError
from ..printable import short_name

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


class Placed(NamedTuple):
    """Latents with references in them."""

    latents: np.ndarray
    """(C, T, H, W)."""
    strength: np.ndarray
    """(T,) float32: 1 where a frame is made from noise alone, `edit` where a reference stands."""


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
        start = position_of(entry.start, frames.shape[1], align, f"{here}: start", "the reference")
        target = position_of(entry.target, num_frames, align, f"{here}: target", "the clip")
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
    if not references:
        raise ConfigError(f"{where}: reference: expected a picture or a video, and none is given")
    if not -len(references) <= number < len(references):
        counted = f"{len(references)} reference{'' if len(references) == 1 else 's'}, counted from 0"
        raise ConfigError(f"{where}: reference: expected one of {counted}, got {number}")
    frames = references[number]
    if (frames.shape[0], *frames.shape[2:]) != (shape[0], *shape[2:]):
        raise ConfigError(f"{where}: reference {number} has latents of {frames.shape}, the clip of {shape}")
    return frames


def position_of(position: int, count: int, align: int | None, where: str, what: str) -> int:
    """The latent frame among `count` that a number means, rounded down or up to whole groups of `align`.

    Raises: ConfigError for one that is not there.
    """
    if not -count <= position < count:
        raise ConfigError(
            f"{where}: expected a latent frame from {-count} to {count - 1}, as {what} has {count}, got {position}"
        )
    position %= count
    return position if align is None else aligned(position, align, count)
