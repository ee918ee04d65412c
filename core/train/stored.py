"""What a training run takes from caches and embedding folders instead of computing it: opened, checked, and handed to
the loader or the encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..config.caches import CacheSettings
from ..config.data import DataSettings
from ..data.class_folders import class_names
from ..data.embedding_folder import EmbeddingFolder
from ..data.latent_cache import LatentCache, latent_identity, scaling_of
from ..data.sources import labelled_folder
from ..data.text_cache import TextCache, text_identity
from ..data.text_parts import TextParts, has_parts
from ..errors import ConfigError
from ..io.any_tokenizer import AnyTokenizer
from ..models.finding import Part
from ..models.kinds import AutoencoderSpec

CLIP_SETTINGS = ("frames", "fps", "speed_factor", "height", "width", "max_area", "stride")
"""Of the group `data`: by these a clip is cut; they are told by name when a cache was made with others."""
PIXEL_SETTINGS = ("background", "hdr")
"""Of the group `data.media`: likewise."""


class Described(Protocol):
    """A record that may bring the states of its captions."""

    @property
    def name(self) -> str:
        """Its path in the annotation."""

    @property
    def embeddings(self) -> Path | None:
        """The folder of its states."""


class RecordTexts:
    """Text states for a loader whose records may bring their own."""

    def __init__(self, channels: int, pooled: bool = False) -> None:
        """channels, pooled: of the run's text encoder."""
        self.channels, self.pooled = channels, pooled
        self._folders: dict[Path, EmbeddingFolder | TextParts] = {}

    def __call__(self, record: Described, number: int | None) -> np.ndarray | None:
        """(L, D) float32; nothing where they have to be encoded.

        number: of the caption among the record's; None for what stands in for a dropped one.
        Raises: MediaError when the record names a folder that lacks its states or holds those of another encoder.
        """
        if record.embeddings is None or number is None:
            return None
        if record.embeddings not in self._folders:
            self._folders[record.embeddings] = self._open(record.embeddings)
        return self._folders[record.embeddings].states(record.name, number)

    def _open(self, folder: Path) -> EmbeddingFolder | TextParts:
        if has_parts(folder):
            return TextParts(folder, self.channels, self.pooled)
        return EmbeddingFolder(folder, self.channels)


def open_text_cache(
    settings: CacheSettings, encoder: Part, tokenizer: AnyTokenizer, max_tokens: int
) -> TextCache | None:
    """The configured cache of text states. Raises: CheckpointError when it was made with something else."""
    if settings.text is None:
        return None
    return TextCache(settings.text, text_identity(encoder, tokenizer, max_tokens))


def open_latent_cache(
    settings: CacheSettings, autoencoder: Part, data: DataSettings, seed: int, sees_channels: bool
) -> LatentCache | None:
    """The configured cache of moments, for a loader's `moments_of`: hand over its method `moments`.

    Raises: ConfigError when the data cannot be cached; CheckpointError when the cache was made with something else.
    """
    if settings.latents is None:
        return None
    check_latents_can_be_cached(data, sees_channels)
    transform = transform_of(data, seed, autoencoder.spec)
    return LatentCache(settings.latents, latent_identity(autoencoder, transform, settings.identify))


def check_latents_can_be_cached(data: Any, sees_channels: bool) -> None:
    """Raises: ConfigError when every epoch sees other pixels."""
    if sees_channels:
        raise ConfigError(
            "caches.latents: an inpaint model is shown the latents of clips with other frames hidden each time; "
            "leave it out and cache texts only"
        )
    if data.kind == "features":
        raise ConfigError("caches.latents: data.kind = features reads latents as they are; leave it out")
    if data.kind == "moving_shapes" and data.drawn_clips is None:
        raise ConfigError("caches.latents: moving shapes are drawn anew in every epoch; set data.drawn_clips")


def transform_of(data: DataSettings, seed: int, autoencoder: AutoencoderSpec) -> dict[str, Any]:
    """The settings by which clips are cut; the seed decides where those that are too long are cut in time.

    A cache of labelled pictures can be used without them: it knows the names of the classes, and how its latents are
    scaled for a denoiser.
    """
    media = {f"data.media.{name}": getattr(data.media, name) for name in PIXEL_SETTINGS}
    if data.kind == "class_folders":
        classes = list(class_names(labelled_folder(data)))
        own = {f"data.{name}": getattr(data, name) for name in ("kind", "height")}
        return own | media | scaling_of(autoencoder) | {"classes": classes}
    return {f"data.{name}": getattr(data, name) for name in CLIP_SETTINGS} | media | {"seed": seed}
