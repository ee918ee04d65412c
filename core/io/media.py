"""How pictures and videos are read, whatever format they have."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from ..errors import MediaError


class Media(Protocol):
    """What may be said of it: the group `media` of a verb's settings says what each is for."""

    @property
    def background(self) -> str: ...

    @property
    def hdr(self) -> Literal["refuse", "tone_map"]: ...

    @property
    def max_pixels(self) -> int: ...


class Defaults(NamedTuple):
    """What holds where nothing is said."""

    background: str = "white"
    hdr: Literal["refuse", "tone_map"] = "refuse"
    max_pixels: int = 8192 * 8192


DEFAULTS = Defaults()


def check_size(path: Path, height: int, width: int, media: Media) -> None:
    """Raises: MediaError when a frame of so many pixels may not be decoded."""
    if height * width > media.max_pixels:
        raise MediaError(
            f"{path}: has {height} x {width} pixels, more than {media.max_pixels} in all (max_pixels in the group "
            "media); shrink it, or allow more"
        )


def colour_of(name: str) -> tuple[int, int, int]:
    """Red, green and blue from 0 to 255. Raises: ValueError for what is no colour."""
    from PIL import ImageColor  # not at the top: `--help` lists the settings without it

    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError as error:
        raise ValueError(f"expected a colour such as white or '#ff8800', got {name[:40]!r}") from error
    return red, green, blue
