"""Reading and writing pictures: uint8 RGB, (H, W, 3), upright."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..errors import MediaError
from .files import atomic_write

WRITTEN_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
JPEG_QUALITY = 95
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """A picture as uint8 (H, W, 3): turned as its EXIF says, transparency dropped, grey made RGB, 16 bits cut to 8.

    Raises: MediaError when the file is missing, damaged, of an unknown kind, or absurdly large.
    """
    image = _load(Path(path))
    if image.mode.startswith("I;16"):  # convert() would clip 16-bit grey at 255 instead of scaling it
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise MediaError(f"{path}: has 32-bit pixels; save it with 8 bits per colour")
    return np.array(image.convert("RGB"))


def write_image(path: str | os.PathLike[str], image: np.ndarray, overwrite: bool = False) -> None:
    """Write a picture, uint8 (H, W, 3), as .png or .jpg by the ending of its name.

    Raises: MediaError for another ending, when the file exists and `overwrite` is off, or when it cannot be written.
    """
    target = Path(path)
    kind = WRITTEN_FORMATS.get(target.suffix.lower())
    if kind is None:
        raise MediaError(f"{target}: pictures are written as {', '.join(WRITTEN_FORMATS)}; use one of these endings")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise MediaError(f"{target}: the picture is {image.dtype} {image.shape}: expected uint8 (H, W, 3)")
    options = {"quality": JPEG_QUALITY, "subsampling": 0} if kind == "JPEG" else {}
    with atomic_write(target, overwrite) as temporary:
        Image.fromarray(image).save(temporary, format=kind, **options)


def count_images(path: str | os.PathLike[str]) -> int:
    """How many pictures a file holds: more than one in an animation. Raises: as read_image."""
    with _opened(Path(path)) as image:
        # Cameras put small copies of the same picture into .jpg files, as further "frames".
        return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def _load(path: Path) -> Image.Image:
    with _opened(path) as image:
        return ImageOps.exif_transpose(image)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An open file; what Pillow finds wrong with it becomes one line."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError as error:
        raise MediaError(f"{path}: there is no such file") from error
    except _PILLOW_ERRORS as error:
        reason = " ".join(str(error).split())
        raise MediaError(f"{path}: cannot be read as a picture ({reason})") from error
