"""The group `media`: how pictures and videos are read. Every verb that reads some has it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from ..io.media import DEFAULTS, colour_of
from .settings import Settings


class MediaSettings(Settings):
    """How pictures and videos are read."""

    background: str = DEFAULTS.background
    """The colour behind transparent pixels: a colour name of CSS, or "#rrggbb" in quotes."""
    hdr: Literal["refuse", "tone_map"] = DEFAULTS.hdr
    """HDR videos (PQ and HLG). tone_map brings them to standard range by the curve of ITU-R BT.2390, with white at 203
    cd/m2; only the reader pyav does that."""
    max_pixels: Annotated[int, Field(ge=1)] = DEFAULTS.max_pixels
    """Refuse pictures and videos with more pixels in a frame, before they are decoded."""

    @field_validator("background")
    @classmethod
    def _is_a_colour(cls, name: str) -> str:
        colour_of(name)
        return name
