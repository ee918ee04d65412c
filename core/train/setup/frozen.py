"""The models that a denoiser's training uses as they are."""

from __future__ import annotations

from ...config.training import ComputeSettings
from ...seam.backend import Backend
from ...seam.group import Group
from ..encoders import CaptionEncoder, ClipEncoder, StoredTexts
from .parts import TrainParts


def text_encoder(
    settings: ComputeSettings,
    backend: Backend,
    parts: TrainParts,
    dtype: str,
    max_tokens: int,
    stored: StoredTexts | None = None,
    leaders: Group | None = None,
) -> CaptionEncoder:
    """The run's text encoder.

    dtype: of the run, where `compute.frozen_dtype` is not set. leaders: those who have one model between them.
    """
    assert parts.text_encoder is not None
    assert parts.tokenizer is not None
    frozen = settings.frozen_dtype or dtype
    part, tokenizer = parts.text_encoder, parts.tokenizer
    return CaptionEncoder(backend, part, tokenizer, frozen, max_tokens, stored, leaders=leaders)


def clip_encoder(settings: ComputeSettings, backend: Backend, parts: TrainParts, dtype: str) -> ClipEncoder:
    """The run's autoencoder. dtype: of the run, where `compute.frozen_dtype` is not set."""
    assert parts.vae is not None
    return ClipEncoder(backend, parts.vae, settings.frozen_dtype or dtype, settings.encode_chunk)
