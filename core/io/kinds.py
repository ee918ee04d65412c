"""Videos and pictures by the endings of their names, for places that have nothing else to go by.

Where a key or a setting says what a file is (`image`, `video`), that decides, whatever the ending.
"""

from __future__ import annotations

from pathlib import Path

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp", ".3g2", ".flv",
    ".wmv", ".ogv", ".gif", ".apng",
)  # fmt: skip
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".jfif", ".avif")
MEDIA_SUFFIXES = VIDEO_SUFFIXES + IMAGE_SUFFIXES
ANIMATION_SUFFIXES = (".gif", ".apng", ".webp")
"""Pictures that may move; where pictures are asked for, the first one of a file is taken."""


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES
