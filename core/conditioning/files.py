"""The pictures and videos that a prompt brings or the settings name, read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..config.schema import ConditionSettings
from ..errors import ConfigError, MediaError
from ..io.images import count_images, read_image
from ..io.kinds import ANIMATION_SUFFIXES, is_video
from ..io.media import DEFAULTS, Media
from ..io.paths import given_path
from ..io.prompts import Prompt
from ..io.video import open_video
from ..maths.cover import cover_picture, cover_video
from ..maths.pixels import from_uint8, from_unit
from ..shapes import VideoShape
from .prompt_parts import PromptParts

MOST_FRAMES = 2048
"""Of a reference, which is encoded as a whole."""
AT_A_TIME = 16


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


def asked_files(prompt: Prompt, parts: PromptParts, options: ConditionSettings) -> tuple[tuple[str, ...], bool]:
    """As condition_files; what a prompt names within its text, told apart by the endings, goes before all others.

    Raises: MediaError for what is no path; as condition_files.
    """
    files = condition_files(prompt, options)
    try:
        named = tuple(str(given_path(path)) for path in parts.references)
    except ValueError as error:
        raise MediaError(f"{parts.where}: {error}") from error
    return (named, False) if named else files


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


def read_reference(path: str, is_video: bool, video: VideoShape, reader: str, media: Media = DEFAULTS) -> np.ndarray:
    """A picture, or all of a video, as (3, T, H, W) float32 in [-1, 1], cut and resized to a video's size.

    Raises: MediaError for a file that is missing or cannot be read.
    """
    size = (video.height, video.width)
    if not is_video:
        return from_uint8(cover_picture(read_image(path, media), *size)[None]).transpose(3, 0, 1, 2)
    with open_video(path, reader, media) as opened:
        if (count := len(opened.at_one_rate())) > MOST_FRAMES:
            raise MediaError(f"{path}: has {count} frames; a reference has {MOST_FRAMES} at most, so cut it")
        chunks = [from_unit(cover_video(chunk, *size)) for chunk in opened.chunks(AT_A_TIME, opened.at_one_rate())]
    return np.concatenate(chunks).transpose(3, 0, 1, 2)
