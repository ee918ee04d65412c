"""What a prompt asks of a model that reads references: JSON at its end, a text for each clip, files and places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..conditioning.files import condition_files, read_reference
from ..conditioning.references import GivenReferences, PlacedReferences, References
from ..config.schema import ConditionSettings
from ..errors import ConfigError
from ..io.kinds import is_video
from ..io.media import Media
from ..io.paths import given_path
from ..io.prompts import Prompt
from ..printable import short_name
from ..recipes.opensora_v1_2_prompts import Segments, describe, segments
from ..shapes import VideoShape

PICTURES = {1: "0", 2: "0;0,1,0,-1,1"}
"""Where pictures go of which nothing is said: first, or at both ends."""
NEEDED_BY_OTHERS = ("indices", "mask_type", "noise_strength")
"""Settings of `condition` that are for inpaint models only."""


@dataclass(frozen=True)
class PromptWish:
    """A prompt taken apart."""

    where: str
    """For messages."""
    texts: Segments
    references: tuple[str, ...]
    """Paths of pictures and videos."""
    as_videos: bool
    """Whether all are read as videos, whatever their names end in."""
    strategy: str

    def each(self, change: Callable[[str], str]) -> tuple[str, ...]:
        """The texts, each changed."""
        return tuple(change(text) for text in self.texts.texts)


def read_wish(prompt: Prompt, options: ConditionSettings) -> PromptWish:
    """Take a prompt apart; what it brings itself goes before the settings.

    Raises: MediaError for JSON or segments that do not parse; ConfigError for settings that exclude each other or that
    these models have no use for.
    """
    for name in NEEDED_BY_OTHERS:
        if name in options.model_fields_set and getattr(options, name) not in (None, 0.0):
            raise ConfigError(f"condition.{name}: only inpaint models have a use for it; say it with mask_strategy")
    where = f"prompt {short_name(prompt.text)!r}"
    files, as_videos = condition_files(prompt, options)
    parts = describe(prompt.text, "", options.mask_strategy or "", where)
    if parts.references:
        files, as_videos = tuple(str(given_path(path)) for path in parts.references), False
    return PromptWish(where, segments(parts.text, where), files, as_videos, parts.mask_strategy)


def place_references(
    wish: PromptWish, conditioner: References, video: VideoShape, options: ConditionSettings, media: Media
) -> PlacedReferences:
    """Read and place what a prompt asks for.

    Raises: MediaError for a file that is missing or cannot be read; ConfigError for one that has no place.
    """
    is_moving = [wish.as_videos or is_video(Path(path)) for path in wish.references]
    strategy = wish.strategy
    if wish.references and not strategy and not any(is_moving):
        strategy = PICTURES.get(len(wish.references), "")
    clips = tuple(
        read_reference(path, moves, video, options.reader, media)
        for path, moves in zip(wish.references, is_moving, strict=True)
    )
    return conditioner.place(GivenReferences(clips, strategy, f"{wish.where}: mask_strategy"), video)
