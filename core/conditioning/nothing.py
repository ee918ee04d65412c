"""The conditioner of denoisers that make videos from text only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from ..config.schema import SampleConfig
from ..errors import ConfigError
from ..io.prompts import Prompt
from ..shapes import Compression, VideoShape
from .base import FOR_INPAINTING, Conditioner, Note, Wish, refuse_references, refuse_useless
from .files import asked_files
from .prompt_parts import PromptParts


@dataclass(frozen=True)
class Nothing(Conditioner):
    """A clip starts from noise."""

    @classmethod
    def of(cls, compression: Compression, config: SampleConfig) -> Self:
        """Raises: ConfigError, by name, for settings that are for other denoisers."""
        refuse_references(config)
        refuse_useless(config, FOR_INPAINTING, _why(config))
        return cls()

    def ask(self, prompt: Prompt, parts: PromptParts, config: SampleConfig, note: Note) -> Wish:
        """Nothing but the size. Raises: ConfigError for files."""
        files, _ = asked_files(prompt, parts, config.condition)
        if files:
            raise ConfigError(
                f"{files[0]}: {_why(config)}; pictures and videos need one that sees them, such as an inpaint model"
            )
        return Wish(VideoShape(config.video.frames, config.video.height, config.video.width))


def _why(config: SampleConfig) -> str:
    return f"model.denoiser = {config.model.denoiser} makes videos from text only"
