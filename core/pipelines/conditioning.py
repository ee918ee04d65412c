"""What the inpaint sibling is given: frames to keep, placed in the clip, encoded, with their mask.

Image-to-video, transition between two images, continuation of a clip, or any frames at any places: all are a clip
whose other frames are hidden. Mask convention: 1 = to generate, 0 = given.
Source: opensora/sample/pipeline_inpaint.py of Open-Sora Plan at 9fa322f.
"""

from __future__ import annotations

import random as python_random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import random
from ..config.schema import ConditionSettings
from ..errors import ConfigError, MediaError, ShapeError
from ..io.images import count_images, read_image
from ..io.kinds import ANIMATION_SUFFIXES, is_video
from ..io.media import DEFAULTS, Media
from ..io.prompts import Prompt
from ..io.video import open_video
from ..maths import gaussian
from ..maths.masks import compress_mask, frame_mask, masked_pixels
from ..maths.resize import center_crop_resize, resize_to_area, size_within_area, whole_strides
from ..models.kinds import AutoencoderSpec
from ..seam.backend import Backend
from ..seam.models import Autoencoder
from ..shapes import VideoShape
from .autoencode import encode_chunks, from_uint8, scale_latents

CONTINUATION_CLEAR = 0.5
"""Part of the clip that a given video keeps."""
STRIDE = 32
"""Sides of outputs that follow an image are multiples of this."""
NOISE_STRENGTH_SPREAD = 0.01
"""Standard deviation of the logarithm of the noise on given pixels."""


@dataclass(frozen=True)
class Conditioning:
    """The frames that a request gives."""

    images: tuple[np.ndarray, ...]
    """uint8 (H, W, 3) each: separate images, or the frames of a clip."""
    indices: Sequence[int] | None = None
    """Where they go; None: one image first, two at both ends, a clip from the start."""
    mask_type: str | None = None
    """For as many images as frames: which of them are kept, one of core.maths.masks.MASK_TYPES; None: continuation,
    and of a single one i2v."""
    noise_strength: float = 0.0
    """About how much normal noise is put on given pixels, in units of [-1, 1]."""


@dataclass(frozen=True)
class PlacedFrames:
    """A clip in which some frames are given."""

    pixels: np.ndarray
    """uint8 (T, H, W, 3); what stands in hidden frames does not matter."""
    mask: np.ndarray
    """float32 (T,): 1 to generate, 0 given."""
    noise_strength: float = 0.0


def condition_files(prompt: Prompt, options: ConditionSettings) -> tuple[tuple[str, ...], bool]:
    """The files that a prompt brings or the settings name, and whether they are one video instead of pictures.

    The key says which: `video` is read as a video and `image` as a picture, whatever their names end in. One file with
    the ending of a video may stand in condition.images.
    Raises: ConfigError when pictures and a video are given together.
    """
    if prompt.conditions:
        return prompt.conditions, prompt.is_video
    paths = tuple(map(str, options.images))
    if options.video is not None:
        if paths:
            raise ConfigError("condition.images and condition.video exclude each other; give one of them")
        return (str(options.video),), True
    videos = [path for path in paths if is_video(Path(path)) and not path.lower().endswith(ANIMATION_SUFFIXES)]
    if videos and len(paths) > 1:
        raise ConfigError(f"{videos[0]}: is one of {len(paths)} conditions; give pictures, or one video alone")
    return paths, bool(videos)


def read_clip(
    path: str, num_frames: int, reader: str, media: Media = DEFAULTS, fps: float | None = None
) -> list[np.ndarray]:
    """The first frames (H, W, 3) uint8 of a video; where its rate varies, those that a player shows at `fps`.

    Raises: MediaError; ConfigError when it has fewer.
    """
    with open_video(path, reader, media) as video:
        frames = video.read(video.at_one_rate(fps)[:num_frames])
    if len(frames) < num_frames:
        raise ConfigError(f"{path}: has {len(frames)} frames, video.frames = {num_frames} are needed")
    return list(frames)


def read_pictures(paths: Sequence[str], note: Callable[[str], None], media: Media = DEFAULTS) -> list[np.ndarray]:
    """Pictures (H, W, 3) uint8; of an animation the first, which `note` is told. Raises: MediaError."""
    images = []
    for path in paths:
        try:
            images.append(read_image(path, media))
        except MediaError as error:
            hint = "; a video belongs under the key video" if is_video(Path(path)) else ""
            raise MediaError(f"{error}{hint}") from error
        if (count := count_images(path, media)) > 1:
            note(f"{path}: holds {count} pictures, of which the first is taken; under the key video all are read")
    return images


def fitted(images: Sequence[np.ndarray], size: tuple[int, int] | None, max_area: int) -> list[np.ndarray]:
    """Images (H, W, 3) uint8 cut and resized to `size`, or, where that is None, shrunk to max_area pixels and cut to
    the stride.

    Images that get another size by the latter than the first one are brought to its size as by the former.
    """
    if size is not None:
        return [center_crop_resize(image[None], *size)[0] for image in images]
    first = resize_to_area(images[0][None], max_area, STRIDE)[0]
    height, width = first.shape[:2]
    return [first, *(_like_first(image[None], max_area, height, width)[0] for image in images[1:])]


def _like_first(image: np.ndarray, max_area: int, height: int, width: int) -> np.ndarray:
    """One image (1, H, W, 3) by its own proportions where that gives height x width, else cut to them."""
    box = whole_strides(*size_within_area(image.shape[1], image.shape[2], max_area), STRIDE)
    if (box.height, box.width) == (height, width):
        return resize_to_area(image, max_area, STRIDE)
    return center_crop_resize(image, height, width)


def place_frames(given: Conditioning, video: VideoShape, seed: int = 0) -> PlacedFrames:
    """Put the given frames where they belong; images are brought to the video's size.

    The seed decides what a continuation or random mask keeps. Raises: ConfigError when it is not said where frames
    belong; ShapeError when an index is outside the clip.
    """
    images = fitted(given.images, (video.height, video.width), 0)
    pixels = np.zeros((*video, 3), np.uint8)
    if len(images) == video.frames and given.indices is None:
        pixels[:] = images
        kind = given.mask_type or ("i2v" if len(images) == 1 else "continuation")
        draw = python_random.Random(seed)
        mask = frame_mask(kind, video.frames, draw, CONTINUATION_CLEAR, CONTINUATION_CLEAR)
        return PlacedFrames(pixels, mask, given.noise_strength)
    mask = np.ones(video.frames, np.float32)
    for index, image in zip(_indices(given, video.frames), images, strict=True):
        pixels[index], mask[index] = image, 0.0
    return PlacedFrames(pixels, mask, given.noise_strength)


def condition_frames(
    backend: Backend,
    vae: Autoencoder,
    spec: AutoencoderSpec,
    placed: PlacedFrames,
    noise: np.ndarray,
    pixel_noise: np.ndarray | None = None,
    chunk: int | None = None,
) -> np.ndarray:
    """The channels that the model sees beside its latents, (C + M, t, h, w) float32: latents of the clip with hidden
    frames black, then the mask folded to latent frames.

    noise: (C, t, h, w) for the posterior, which upstream samples here too (quirk Q14); pixel_noise: (3, T, H, W),
    already scaled, goes on given pixels only.
    """
    clip = from_uint8(placed.pixels).transpose(3, 0, 1, 2)  # (3, T, H, W)
    return encode_condition(backend, vae, spec, clip, placed.mask, noise, pixel_noise, chunk)


def encode_condition(
    backend: Backend,
    vae: Autoencoder,
    spec: AutoencoderSpec,
    clip: np.ndarray,
    frame_mask: np.ndarray,
    noise: np.ndarray,
    pixel_noise: np.ndarray | None = None,
    chunk: int | None = None,
) -> np.ndarray:
    """condition_frames for a clip (3, T, H, W) in [-1, 1] with the mask (T,) of its frames."""
    mask = np.broadcast_to(frame_mask[:, None, None], clip.shape[1:])  # (T, H, W)
    visible = masked_pixels(clip, mask, black=-1.0)
    if pixel_noise is not None:
        visible = visible + pixel_noise * (mask < 0.5)
    moments = encode_chunks(backend, vae, spec, visible[None], chunk)
    latents = scale_latents(spec, gaussian.sample(moments, noise[None]))
    folded = compress_mask(mask[None, None], spec.compression.time, spec.compression.space)
    return np.concatenate([latents, folded], axis=1)[0].astype(np.float32)


def condition_for_seed(
    backend: Backend, vae: Autoencoder, spec: AutoencoderSpec, placed: PlacedFrames, seed: int, chunk: int | None = None
) -> np.ndarray:
    """condition_frames with all noise drawn from the request's seed."""
    video = VideoShape(*placed.pixels.shape[:3])
    noise = random.normal((spec.latent_channels, *spec.compression.latent(video)), seed, "posterior")
    pixel_noise = None
    if placed.noise_strength > 0:
        spread = NOISE_STRENGTH_SPREAD * random.stream(seed, "condition strength").standard_normal()
        pixel_noise = random.normal((3, *video), seed, "condition noise")
        pixel_noise *= np.float32(placed.noise_strength * np.exp(spread))
    return condition_frames(backend, vae, spec, placed, noise, pixel_noise, chunk)


def _indices(given: Conditioning, num_frames: int) -> list[int]:
    count = len(given.images)
    if given.indices is None:
        if count > 2:
            raise ConfigError(
                f"{count} images are given for {num_frames} frames: condition.indices must say which frames they are"
            )
        return [0, num_frames - 1][:count]
    if len(given.indices) != count:
        raise ConfigError(f"condition.indices has {len(given.indices)} entries for {count} images")
    for index in given.indices:
        if not -num_frames <= index < num_frames:
            raise ShapeError(f"condition.indices: {index} is outside a clip of {num_frames} frames")
    places = [index % num_frames for index in given.indices]
    for index, place in zip(given.indices, places, strict=True):
        if places.count(place) > 1:
            raise ConfigError(f"condition.indices: {index} is given twice in a clip of {num_frames} frames")
    return list(given.indices)
