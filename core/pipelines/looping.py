"""Videos of one clip or several, each of which begins with the end of the one before.

The clip before is decoded and encoded again, as a further reference, and its last latent frames begin the next clip:
the denoiser is told that they are clean. When the clips are joined, the frames that are there twice are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from ..conditioning.base import ClipState, Conditioner
from ..conditioning.mask_strategy import Placement
from ..config.schema import LoopSettings
from ..errors import ConfigError
from ..samplers import Sampler
from ..shapes import Compression, Grouped, VideoShape, group_of
from .denoise import Guidance, Step
from .text import EncodedTexts
from .text_to_video import OnCached, TextToVideo, VideoRequest


@dataclass(frozen=True)
class Loops:
    """How clips are joined."""

    count: int = 1
    condition_frames: int = 1
    """Latent frames that a clip has from the one before."""
    edit: float = 0.0
    """How freely they may change: 0 keeps them, 1 makes them anew."""

    @classmethod
    def of(cls, settings: LoopSettings, compression: Compression) -> Self:
        """As the settings say, and one group of the autoencoder where they do not."""
        frames = settings.condition_frames or group_of(compression) or 1
        return cls(settings.count, frames, settings.edit)

    def check(self, compression: Compression, video: VideoShape) -> None:
        """Raises: ConfigError for clips that cannot be joined so."""
        if self.count == 1:
            return
        frames = compression.latent(video).frames
        size = group_of(compression)
        if size is None:
            raise ConfigError(f"loop.count = {self.count}: needs an autoencoder that works in groups of frames")
        if self.condition_frames % size or not 0 < self.condition_frames < frames:
            raise ConfigError(
                f"loop.condition_frames = {self.condition_frames}: needs a multiple of {size} latent frames below the "
                f"{frames} of a clip of video.frames = {video.frames}"
            )

    def frames(self, compression: Compression, video: VideoShape) -> int:
        """Of the whole video."""
        return video.frames + (self.count - 1) * (video.frames - self.shared(compression))

    def shared(self, compression: Compression) -> int:
        """Pixel frames that two clips have in common."""
        if self.count == 1:
            return 0
        assert isinstance(compression, Grouped)
        return compression.whole_groups(self.condition_frames)


@dataclass(frozen=True)
class LoopedRequest:
    """One video of some clips."""

    prompts: tuple[str, ...]
    """Of each clip."""
    negative: str | None
    seed: int
    fps: float
    placed: Any
    """What the conditioner has placed."""


@dataclass
class Progressed:
    """A video between two clips."""

    request: LoopedRequest
    prepared: Any
    """What the conditioner has encoded: of References the latents of each, then of each clip that is done."""
    placed: Any = field(init=False)

    def __post_init__(self) -> None:
        self.placed = self.request.placed


@dataclass(frozen=True)
class SampledClip:
    """One clip of some videos, for golden tests."""

    loop: int
    states: Sequence[ClipState]
    placements: Sequence[tuple[Placement, ...]]
    references: Sequence[Sequence[np.ndarray]]
    latents: np.ndarray
    """(B, C, t, h, w)."""


@dataclass(frozen=True)
class Looping:
    """The way from requests to the latents of all clips."""

    pipeline: TextToVideo
    conditioner: Conditioner
    loops: Loops
    guidance: Guidance
    new_sampler: Callable[[], Sampler]

    def latents(
        self,
        requests: Sequence[LoopedRequest],
        texts: EncodedTexts,
        video: VideoShape,
        on_step: Callable[[Step], None] | None = None,
        on_clip: Callable[[SampledClip], None] | None = None,
        on_cached: OnCached | None = None,
    ) -> np.ndarray:
        """Latents (B, C, loops * t, h, w) of some videos, their clips one behind the other.

        Raises: as TextToVideo.denoise.
        """
        videos = [Progressed(request, self._prepared(request)) for request in requests]
        clips: list[np.ndarray] = []
        for loop in range(self.loops.count):
            if loop:
                self._carry_over(videos, clips[-1], video, loop)
            states = [self._state(each, video, loop) for each in videos]
            wishes = [self._wish(each.request, state, loop) for each, state in zip(videos, states, strict=True)]
            how = self.new_sampler, self.guidance, on_step, on_cached
            clips.append(self.pipeline.denoise(wishes, texts, video, *how))
            if on_clip:
                placements = [each.placed.placements for each in videos]
                references = [list(each.prepared) for each in videos]
                on_clip(SampledClip(loop, states, placements, references, clips[-1]))
        return np.concatenate(clips, axis=2)

    def frames(self, latents: np.ndarray, video: VideoShape) -> Iterator[np.ndarray]:
        """Pixels (1, 3, t, H, W) of one video's latents (C, loops * t, h, w), in parts as they are decoded."""
        shared = self.loops.shared(self.pipeline.parts.vae.spec.compression)
        for number, clip in enumerate(np.split(latents, self.loops.count, axis=1)):
            left_out = shared if number else 0
            for frames in self.pipeline.decode(clip[None], video.frames):
                skipped = min(left_out, frames.shape[2])
                left_out -= skipped
                if skipped < frames.shape[2]:
                    yield frames[:, :, skipped:]

    def _prepared(self, request: LoopedRequest) -> Any:
        return self.conditioner.prepared(request.placed, self.pipeline.encoder(request.seed), request.seed)

    def _state(self, made: Progressed, video: VideoShape, loop: int) -> ClipState:
        noise = self.pipeline.noise(video, made.request.seed, loop)
        return self.conditioner.state(made.placed, made.prepared, noise, loop)

    def _wish(self, request: LoopedRequest, state: ClipState, loop: int) -> VideoRequest:
        return VideoRequest(request.prompts[loop], request.negative, request.seed, state, request.fps, loop)

    def _carry_over(self, videos: Sequence[Progressed], clip: np.ndarray, video: VideoShape, loop: int) -> None:
        """Make the clip (B, C, t, h, w) before a loop a reference of each video."""
        for made, latents in zip(videos, clip, strict=True):
            pixels = np.concatenate(list(self.pipeline.decode(latents[None], video.frames)), axis=2)[0]
            made.prepared.append(self.pipeline.encoder(made.request.seed)(pixels, f"clip {loop}"))
            number, loops = len(made.prepared) - 1, self.loops
            made.placed = made.placed.carried_over(loop, number, loops.condition_frames, loops.edit)
