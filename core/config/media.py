"""The group `media`: how pictures and videos are read. Every verb that reads some has it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from ..errors import MediaError
from .settings import Settings


class MediaSettings(Settings):
    """How pictures and videos are read."""

    background: str = "white"
    """The colour behind transparent pixels: a colour name of CSS, or "#rrggbb" in quotes."""
    hdr: Literal["refuse", "tone_map"] = "refuse"
    """HDR videos (PQ and HLG). tone_map brings them to standard range by the curve of ITU-R BT.2390, with white at 203
    cd/m2; only the reader pyav does that."""
    max_pixels: Annotated[int, Field(ge=1)] = 8192 * 8192
    """Refuse pictures and videos with more pixels in a frame, before they are decoded."""

    @field_validator("background")
    @classmethod
    def _is_a_colour(cls, name: str) -> str:
        colour_of(name)
        return name

    def check_size(self, path: Path, height: int, width: int) -> None:
        """Raises: MediaError when a frame of so many pixels may not be decoded."""
        if height * width > self.max_pixels:
            raise MediaError(
                f"{path}: has {height} x {width} pixels, more than {self.max_pixels} in all (max_pixels in the group "
                "media); shrink it, or allow more"
            )


DEFAULTS = MediaSettings()


def colour_of(name: str) -> tuple[int, int, int]:
    """Red, green and blue from 0 to 255. Raises: ValueError for what is no colour."""
    from PIL import ImageColor  # not at the top: `--help` lists the settings without it

    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError as error:
        raise ValueError(f"expected a colour such as white or '#ff8800', got {name[:40]!r}") from error
    return red, green, blue
