"""Pictures and videos as references, which stand in the latents of a clip where a mask strategy says.

Source: opensora/utils/inference_utils.py of hpcaitech Open-Sora at v1.2.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from ..config.schema import SampleConfig
from ..errors import ConfigError
from ..io.kinds import is_video
from ..io.prompts import Prompt
from ..shapes import Compression, VideoShape, group_of
from .base import FOR_INPAINTING, ClipState, Conditioner, Encode, Note, Wish, refuse_useless
from .files import asked_files, read_reference
from .mask_strategy import Placement, parse, place, position_of
from .prompt_parts import PromptParts

PICTURES = {1: "0", 2: "0;0,1,0,-1,1"}
"""Where pictures go of which nothing is said: first, or at both ends."""


@dataclass(frozen=True)
class GivenReferences:
    """What a prompt brings: pictures and clips, and where they go."""

    clips: tuple[np.ndarray, ...] = ()
    """(3, T, H, W) in [-1, 1] each, of the video's height and width."""
    strategy: str = ""
    where: str = "mask_strategy"
    """Whose strategy it is, for messages."""


@dataclass(frozen=True)
class PlacedReferences:
    """References whose placements fit."""

    clips: tuple[np.ndarray, ...]
    placements: tuple[Placement, ...]
    where: str

    def carried_over(self, loop: int, reference: int, length: int, edit: float) -> PlacedReferences:
        """With one more placement: the end of the clip before, as a reference, begins the clip of a loop."""
        entry = Placement(loop, reference, -length, 0, length, edit)
        return replace(self, placements=(*self.placements, entry))


@dataclass(frozen=True)
class References(Conditioner):
    """The conditioner of denoisers that are told which frames are clean."""

    compression: Compression
    align: int | None = None
    """Starts and targets are rounded to multiples of it."""
    loops: int = 1
    """Clips of a video; each is a reference of the next ones."""
    reads: ClassVar[str] = "frame_mask"

    @classmethod
    def of(cls, compression: Compression, config: SampleConfig) -> Self:
        """Starts and targets are in whole groups of the autoencoder where nothing else is said.

        Raises: ConfigError, by name, for settings that are for inpaint models.
        """
        refuse_useless(config, FOR_INPAINTING, "only inpaint models have a use for it; say it with mask_strategy")
        return cls(compression, config.condition.align or group_of(compression), config.loop.count)

    def ask(self, prompt: Prompt, parts: PromptParts, config: SampleConfig, note: Note) -> Wish:
        """The references, cut and resized, and where they go. Raises: as Conditioner.ask."""
        video, options = VideoShape(config.video.frames, config.video.height, config.video.width), config.condition
        files, as_videos = asked_files(prompt, parts, options)
        moving = [as_videos or is_video(Path(path)) for path in files]
        strategy = options.mask_strategy or "" if parts.mask_strategy is None else parts.mask_strategy
        if files and not strategy and not any(moving):
            strategy = PICTURES.get(len(files), "")
        clips = tuple(
            read_reference(path, moves, video, options.reader, config.media)
            for path, moves in zip(files, moving, strict=True)
        )
        return Wish(video, GivenReferences(clips, strategy, f"{parts.where}: mask_strategy"))

    def place(self, given: GivenReferences, video: VideoShape, seed: int = 0) -> PlacedReferences:
        """See that all placements fit. Raises: ConfigError, ShapeError."""
        placements = parse(given.strategy, given.where)
        if given.clips and not placements:
            raise ConfigError(
                f"{given.where}: {len(given.clips)} references are given, but not where they go; 0 is the first frame"
            )
        clip = np.zeros((1, self.compression.latent(video).frames, 1, 1), np.float32)
        lengths = [self.compression.latent(VideoShape(*reference.shape[1:])).frames for reference in given.clips]
        references = [np.zeros((1, length, 1, 1), np.float32) for length in lengths]
        for number, entry in enumerate(placements, 1):
            if entry.loop >= self.loops:
                raise ConfigError(
                    f"{given.where}: entry {number}: loop: expected one of {self.loops}, counted from 0 (loop.count), "
                    f"got {entry.loop}"
                )
        for loop in range(self.loops):
            known = [*references, *[clip] * loop]
            place(clip, known, placements, loop, self.align, given.where)
            self._refuse_too_long(known, placements, clip.shape[1], loop, given.where)
        return PlacedReferences(given.clips, tuple(placements), given.where)

    def _refuse_too_long(
        self, references: Sequence[np.ndarray], placements: Sequence[Placement], num_frames: int, loop: int, where: str
    ) -> None:
        for number, entry in enumerate(placements, 1):
            if entry.loop != loop:
                continue
            count, here = references[entry.reference].shape[1], f"{where}: entry {number}"
            start = position_of(entry.start, count, self.align, here, "the reference")
            target = position_of(entry.target, num_frames, self.align, here, "the clip")
            rooms = {"the reference": count - start, "the clip": num_frames - target}
            least = min(rooms, key=lambda name: rooms[name])
            if entry.length > rooms[least]:
                raise ConfigError(
                    f"{here}: length: expected at most {rooms[least]} latent frames, which {least} has from there, got "
                    f"{entry.length}"
                )

    def keeps_frames(self, placed: PlacedReferences) -> bool:
        """Wherever a reference is placed."""
        return bool(placed.placements)

    def prepared(self, placed: PlacedReferences, encode: Encode, seed: int) -> list[np.ndarray]:
        """Latents (C, t, h, w) of each reference."""
        return [encode(clip, f"reference {number}") for number, clip in enumerate(placed.clips)]

    def state(
        self, placed: PlacedReferences, prepared: Sequence[np.ndarray], latents: np.ndarray, loop: int
    ) -> ClipState:
        """References stand where they are placed, among noise."""
        if not any(entry.loop == loop for entry in placed.placements):
            return ClipState(latents)
        found = place(latents, prepared, placed.placements, loop, self.align, placed.where)
        return ClipState(found.latents, strength=found.strength)
