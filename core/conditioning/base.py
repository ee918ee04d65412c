"""How a run is given more than text: what of a clip is given, and what its sampling starts from.

A conditioner is the way of a denoiser: further channels beside the latents (channels.py), or latents that some frames
start from (references.py); without one (nothing.py) a run starts from noise. A recipe says which is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from ..config.schema import SampleConfig
from ..errors import ConfigError
from ..io.prompts import Prompt
from ..shapes import Compression, VideoShape
from .prompt_parts import PromptParts

Encode = Callable[[np.ndarray, str], np.ndarray]
"""Pixels (3, T, H, W) in [-1, 1] to scaled latents (C, t, h, w); the text names the noise that they are drawn with."""
Note = Callable[[str], None]
"""Is told what a user should know, a line each."""

FOR_INPAINTING = ("indices", "mask_type", "noise_strength")
"""Settings of `condition` that only inpaint models have a use for."""


@dataclass(frozen=True)
class ClipState:
    """What the sampling of one clip starts from."""

    latents: np.ndarray
    """(C, t, h, w) float32: unit noise, or what is given where something is."""
    channels: np.ndarray | None = None
    """(C', t, h, w) that the denoiser sees beside its latents."""
    strength: np.ndarray | None = None
    """(t,) float32: 1 where a frame is made from noise alone, 0 where it stays, between them from where it starts.
    None: all are made from noise."""


@dataclass(frozen=True)
class Wish:
    """What a prompt asks for beside its text, its files read."""

    video: VideoShape
    """The size of what is made; it may follow a picture."""
    given: Any = None
    """As the conditioner's `place` takes it."""


class Conditioner:
    """One way to give more than text. What is placed and prepared is for its own eyes only."""

    reads: ClassVar[str] = ""
    """What a denoiser has to read for it, one of models.kinds.GIVEN; nothing of the one that gives nothing."""

    @classmethod
    def of(cls, compression: Compression, config: SampleConfig) -> Self:
        """That of a run. Raises: ConfigError, by name, for settings that it has no use for."""
        raise NotImplementedError

    def ask(self, prompt: Prompt, parts: PromptParts, config: SampleConfig, note: Note) -> Wish:
        """Read the files that a prompt brings, or the settings name.

        Raises: MediaError for one that is missing or cannot be read; ConfigError for what the model cannot be given.
        """
        raise NotImplementedError

    def place(self, given: Any, video: VideoShape, seed: int = 0) -> Any:
        """Put what is given where it belongs. Raises: DuosoraError for what does not fit, before any long work."""
        return None

    def keeps_frames(self, placed: Any) -> bool:
        """Whether some frames stay as they are given or start later, which not every sampler can do."""
        return False

    def prepared(self, placed: Any, encode: Encode, seed: int) -> Any:
        """What is encoded once for all clips of a video; all else that is random comes from the seed."""
        return None

    def state(self, placed: Any, prepared: Any, latents: np.ndarray, loop: int) -> ClipState:
        """What the clip of a loop starts from, for unit noise (C, t, h, w)."""
        return ClipState(latents)


def refuse_useless(config: SampleConfig, names: Iterable[str], why: str) -> None:
    """Raises: ConfigError that names a setting of `condition` among the names which says something."""
    for name in names:
        if getattr(config.condition, name) not in (None, 0.0):
            raise ConfigError(f"condition.{name}: {why}")


def refuse_references(config: SampleConfig) -> None:
    """Raises: ConfigError that names a setting for models that read references."""
    why = f"model.denoiser = {config.model.denoiser} reads no references, so leave it out"
    if config.loop.count > 1:
        raise ConfigError(f"loop.count: {why}")
    refuse_useless(config, ("mask_strategy", "align"), why)
