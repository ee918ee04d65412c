"""Reading and writing pictures: uint8 sRGB, (H, W, 3), upright."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import MediaError
from .colour_profiles import in_srgb
from .display import over_background
from .files import atomic_write, open_regular
from .media import DEFAULTS, Media, check_size

WRITTEN_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
JPEG_QUALITY = 95


def read_image(path: str | os.PathLike[str], media: Media = DEFAULTS) -> np.ndarray:
    """A picture as a viewer shows it, uint8 (H, W, 3) in sRGB.

    Turned as its EXIF says, its colour profile applied, what is transparent laid over the background of the settings,
    grey made RGB, 16 bits cut to 8; of an animation the first frame.
    Raises: MediaError when the file is missing, damaged, of an unknown kind, or larger than the settings allow.
    """
    with opened_image(Path(path), media) as image, quiet():
        image.load()
        return to_rgb(_upright(image), media, str(path))


def to_rgb(image: Image.Image, media: Media, source: str) -> np.ndarray:
    """The pixels of a decoded picture, uint8 (H, W, 3), with its profile and transparency applied."""
    if image.mode in ("I", "F"):
        raise MediaError(f"{source}: has 32-bit pixels; save it with 8 bits per colour")
    colours, alpha = _split(image)
    pixels = np.array(in_srgb(colours, image.info.get("icc_profile")))
    return pixels if alpha is None else over_background(np.dstack([pixels, alpha]), media)


@contextmanager
def opened_image(path: Path, media: Media) -> Iterator[Image.Image]:
    """A picture that is open and not decoded; what Pillow raises inside the block becomes a line about the file.

    Raises: MediaError when it has more pixels than the settings allow, among others.
    """
    try:
        with open_regular(path) as file:
            image = _open(file)
            check_size(path, image.height, image.width, media)
            yield image
    except MediaError:
        raise
    except FileNotFoundError as error:
        raise MediaError(f"{path}: there is no such file") from error
    except UnidentifiedImageError as error:
        raise MediaError(f"{path}: cannot be read as a picture (damaged, or of an unknown kind)") from error
    except Exception as error:  # the readers of single formats raise anything for damaged files
        told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reason = " ".join(told.split()).replace(str(path), "").strip(" :'")
        raise MediaError(f"{path}: cannot be read as a picture ({reason or type(error).__name__})") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Pillow's warnings, on sizes, palettes and metadata, off the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def write_image(path: str | os.PathLike[str], image: np.ndarray, overwrite: bool = False) -> None:
    """Write a picture, uint8 (H, W, 3), as .png or .jpg by the ending of its name.

    Raises: MediaError for another ending, when the file exists and `overwrite` is off, or when it cannot be written.
    """
    target = Path(path)
    kind = image_format(target)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise MediaError(f"{target}: the picture is {image.dtype} {image.shape}: expected uint8 (H, W, 3)")
    options = {"quality": JPEG_QUALITY, "subsampling": 0} if kind == "JPEG" else {}
    with atomic_write(target, overwrite) as temporary:
        Image.fromarray(image).save(temporary, format=kind, **options)


def image_format(path: Path) -> str:
    """Pillow's name of the format that the ending of a name says. Raises: MediaError for one that is not written."""
    kind = WRITTEN_FORMATS.get(path.suffix.lower())
    if kind is None:
        raise MediaError(f"{path}: pictures are written as {', '.join(WRITTEN_FORMATS)}; use one of these endings")
    return kind


def count_images(path: str | os.PathLike[str], media: Media = DEFAULTS) -> int:
    """How many pictures a file holds: more than one in an animation. Raises: as read_image."""
    with opened_image(Path(path), media) as image, quiet():
        # Cameras put small copies of the same picture into .jpg files, as further "frames".
        return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def _open(file: IO[bytes]) -> Image.Image:
    """Without Pillow's own limit of pixels: that of the settings comes next."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with quiet():
            return Image.open(file)
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # anything, for damaged EXIF; viewers show such a picture as it is stored
        return image


def _split(image: Image.Image) -> tuple[Image.Image, np.ndarray | None]:
    """Colours without alpha, and alpha (H, W) uint8 where something may be seen through."""
    hidden = image.info.get("transparency")
    if image.mode.startswith("I;16"):  # convert() would clip 16-bit grey at 255 instead of scaling it
        grey = np.asarray(image)
        alpha = None if hidden is None else np.where(grey == hidden, 0, 255).astype(np.uint8)
        return Image.fromarray((grey >> 8).astype(np.uint8)), alpha
    if hidden is None and image.mode not in ("RGBA", "RGBa", "LA", "La", "PA"):
        return image, None
    is_grey = image.mode in ("1", "L", "LA", "La")
    image = image.convert("LA" if is_grey else "RGBA")
    return image.convert("L" if is_grey else "RGB"), np.asarray(image.getchannel("A"))
