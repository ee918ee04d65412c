"""Colours of pictures by their ICC profile (Display P3, Adobe RGB, of printers) to those of sRGB."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from typing import Any

from PIL import Image, ImageCms

MODES = {"RGB": ("RGB", "P", "L", "1"), "GRAY": ("L", "1"), "CMYK": ("CMYK",)}
"""By the colours that a profile is for: Pillow's modes of pictures that it fits."""


def in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An opaque picture as RGB in sRGB. A profile that is damaged or for other colours is left aside, as viewers do."""
    converted = _converted(image, profile) if profile else None
    return image.convert("RGB") if converted is None else converted


def _converted(image: Image.Image, profile: bytes) -> Image.Image | None:
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        colours = source.profile.xcolor_space.strip()
        if image.mode not in MODES.get(colours, ()):
            return None
        fitting = image.convert("L" if colours == "GRAY" else colours)
        return ImageCms.profileToProfile(fitting, source, _srgb(), outputMode="RGB")
    except (OSError, ValueError, ImageCms.PyCMSError):
        return None


@cache
def _srgb() -> Any:
    return ImageCms.createProfile("sRGB")
