"""The group `caches` of a training run: what `duosora cache` writes and training reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from .schema import DType
from .settings import Settings


class CacheSettings(Settings):
    """Precomputed text embeddings and latents."""

    text: Path | None = None
    """Folder of text embeddings. Default: encode captions during training."""
    latents: Path | None = None
    """Folder of latent moments. Default: encode clips during training. A cache fixes what is random about a clip, such
    as its temporal crop; inpaint models cannot use it. Of autoencoders that draw several times it keeps the last
    draw's moments, made with the means of those before."""
    text_dtype: DType = "bf16"
    """Dtype of the stored text embeddings."""
    latents_dtype: DType = "fp32"
    """Dtype of the stored moments."""
    shard_mb: Annotated[int, Field(ge=1)] = 256
    """Approximate size of a file. This much waits in memory, and is computed again after an interruption."""
    identify: Literal["stat", "content"] = "stat"
    """How a changed clip is noticed: by the file's size and modification time, or by its content, which is then read
    every time."""
