"""The group `caches` of a training run: what `duosora cache` writes and training reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from .schema import DType
from .settings import Settings


class CacheSettings(Settings):
    """Text states and latents that are computed once instead of in every epoch."""

    text: Path | None = None
    """Folder of the text states; nothing: captions are encoded while training."""
    latents: Path | None = None
    """Folder of the latents' moments; nothing: clips are encoded while training. It fixes what is random about a clip,
    such as the crop in time, and an inpaint model cannot use it."""
    text_dtype: DType = "bf16"
    """The number format in which text states are stored."""
    latents_dtype: DType = "fp32"
    """The number format in which moments are stored."""
    shard_mb: Annotated[int, Field(ge=1)] = 256
    """About the size of a file. So much waits in memory to be written, and is computed again after an interruption."""
    identify: Literal["stat", "content"] = "stat"
    """How a clip's file is known again: by its size and time of change, or by all its bytes, which are read each time
    then."""
