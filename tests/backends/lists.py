"""A small denoiser of lists of patches, and batches of clips of unequal size, for train steps alone and together."""

from dataclasses import replace

import numpy as np

from duosora.core.data.patch_lists import padded
from duosora.core.models.dit_first import DiTFirstSpec
from duosora.core.random import normal
from duosora.core.seam.models import Given
from duosora.core.seam.training import DiffusionBatch
from duosora.core.train.objectives import DiffusionObjective

SPEC = DiTFirstSpec(
    model_arch="adaln", in_channels=4, text_embed_dim=16, hidden_size=24, depth=2, num_heads=3, max_num_embeddings=25
)
"""Of 3 heads, which 2 ranks do not divide."""
CONCAT = replace(SPEC, model_arch="token-concat")
CROSS = replace(SPEC, model_arch="cross-attn")
LENGTHS = 7, 4
"""Patches of the two clips."""


def batch(spec: DiTFirstSpec, number: int) -> DiffusionBatch:
    """Two clips, one of which has no text; every other batch has clips of one length, and padding counts in some."""
    samples = range(number * 100, number * 100 + len(LENGTHS))
    lengths = LENGTHS if number % 2 else (max(LENGTHS),) * len(LENGTHS)
    latents, noise = (
        [normal((length, 4, 2, 2), 1, name, sample) for sample, length in zip(samples, lengths, strict=True)]
        for name in ("clean", "noise")
    )
    mask = padded(latents).mask[..., None, None] * np.ones((2, 2), np.float32)
    text = np.stack([normal((3, 16), 1, "text", sample) for sample in samples])
    read = {"pooled": text[:, 0]} if spec.pools else {"text": text, "text_mask": np.array([[1, 1, 0], [1, 1, 1]])}
    return DiffusionBatch(
        latents=padded(latents).values.swapaxes(1, 2),
        noise=padded(noise).values.swapaxes(1, 2),
        given=Given(**read, is_null=np.array([False, True]), latent_mask=mask if number % 2 else None),
        counts_alike=True,
        padding_counts=number % 4 == 1,
        **DiffusionObjective(bound="hybrid").draw(1, samples, number)._asdict(),
    )
