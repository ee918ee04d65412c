"""What the inpaint sibling is given: frames to keep, placed in the clip, encoded, with their mask.

Image-to-video, transition between two images, continuation of a clip, or any frames at any places: all are a clip
whose other frames are hidden. Mask convention: 1 = to generate, 0 = given.
Source: opensora/sample/pipeline_inpaint.py of Open-Sora Plan at 9fa322f.
"""

from __future__ import annotations

import random as python_random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from .. import random
from ..config.schema import SampleConfig
from ..errors import ConfigError, ShapeError
from ..io.prompts import Prompt
from ..maths.masks import compress_mask, frame_mask, masked_pixels
from ..maths.pixels import from_uint8
from ..maths.resize import center_crop_resize, resize_to_area, size_within_area, whole_strides
from ..shapes import Compression, VideoShape
from .base import ClipState, Conditioner, Encode, Note, Wish, refuse_references
from .files import asked_files, read_clip, read_pictures
from .prompt_parts import PromptParts

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


@dataclass(frozen=True)
class Channels(Conditioner):
    """The conditioner of inpaint models: latents of the clip with hidden frames black, then the mask folded to latent
    frames."""

    compression: Compression
    reads: ClassVar[str] = "channels"

    @classmethod
    def of(cls, compression: Compression, config: SampleConfig) -> Self:
        """Raises: ConfigError, by name, for settings that are for references."""
        refuse_references(config)
        return cls(compression)

    def ask(self, prompt: Prompt, parts: PromptParts, config: SampleConfig, note: Note) -> Wish:
        """The frames that are given, cut and resized; without `crop` the video gets the size of the first.

        Raises: as Conditioner.ask; ShapeError for a picture that is too small.
        """
        video, options = VideoShape(config.video.frames, config.video.height, config.video.width), config.condition
        paths, is_video = asked_files(prompt, parts, options)
        if not paths:
            return Wish(video, Conditioning(()))
        if is_video:
            images = read_clip(paths[0], video.frames, options.reader, config.media, config.video.fps)
        else:
            images = read_pictures(paths, note, config.media)
        try:
            images = fitted(images, (video.height, video.width) if options.crop else None, options.max_area)
        except ShapeError as error:
            raise ShapeError(f"{', '.join(paths)}: {error}") from error
        given = Conditioning(tuple(images), options.indices, options.mask_type, options.noise_strength)
        return Wish(VideoShape(video.frames, *images[0].shape[:2]), given)

    def place(self, given: Conditioning, video: VideoShape, seed: int = 0) -> PlacedFrames:
        """As place_frames."""
        return place_frames(given, video, seed)

    def prepared(self, placed: PlacedFrames, encode: Encode, seed: int) -> np.ndarray:
        """Channels (C + M, t, h, w).

        The posterior is sampled, as upstream does here too (quirk Q14); noise goes on given pixels only.
        """
        clip = from_uint8(placed.pixels).transpose(3, 0, 1, 2)  # (3, T, H, W)
        noise = pixel_noise(placed.noise_strength, clip.shape, seed)
        return self.encoded(clip, placed.mask, lambda visible: encode(visible, "posterior"), noise)

    def state(self, placed: PlacedFrames, prepared: np.ndarray, latents: np.ndarray, loop: int) -> ClipState:
        """Noise, beside which the channels are seen."""
        return ClipState(latents, prepared)

    def encoded(
        self,
        clip: np.ndarray,
        frame_mask: np.ndarray,
        encode: Callable[[np.ndarray], np.ndarray],
        noise: np.ndarray | None = None,
    ) -> np.ndarray:
        """Channels (C + M, t, h, w) float32 of a clip (3, T, H, W) in [-1, 1] with the mask (T,) of its frames.

        encode: visible pixels to scaled latents (C, t, h, w). noise: (3, T, H, W), already scaled.
        """
        mask = np.broadcast_to(frame_mask[:, None, None], clip.shape[1:])  # (T, H, W)
        visible = masked_pixels(clip, mask, black=-1.0)
        if noise is not None:
            visible = visible + noise * (mask < 0.5)
        folded = compress_mask(mask[None, None], self.compression.time, self.compression.space)[0]
        return np.concatenate([encode(visible), folded]).astype(np.float32)


def pixel_noise(strength: float, shape: tuple[int, ...], seed: int) -> np.ndarray | None:
    """What a seed puts on pixels (3, T, H, W) at about a strength; None at 0."""
    if strength <= 0:
        return None
    spread = NOISE_STRENGTH_SPREAD * random.stream(seed, "condition strength").standard_normal()
    return random.normal(shape, seed, "condition noise") * np.float32(strength * np.exp(spread))


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
