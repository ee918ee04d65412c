"""DiT and Latte of videos, built from a core.models.dit.DiTSpec.

A transformer on (B, N, D) tokens; every block is bent by the sum of the embedded timestep and of a class or the vector
of a text. In a Latte, blocks attend by turns within a frame and at one place through all frames. Attribute names are
upstream's, as the weights' names follow from them.
Source: opensora/models/dit and opensora/models/latte of hpcaitech Open-Sora at v1.0.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from duosora.core.maths.arrangements import spatial_plan, temporal_plan
from duosora.core.maths.embeddings import counted_embedding, line_embedding, timestep_frequencies
from duosora.core.maths.skiparse import attention_plan
from duosora.core.models.adaln_single import TIMESTEP_CHANNELS
from duosora.core.models.dit import DiTSpec
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape

from ..adaln import AdaLNCondition, AdaLNDenoiser, Block, FinalLayer, SelfAttention
from ..adaln_single import Blocks, CaptionEmbedder, PatchEmbed, ScalarEmbedder, assembled
from ..attention import Arrangement, Attend, place_plan
from ..layers import (
    Embedding,
    cast,
    device_of,
    place,
)

SECOND_BLOCK = 1
"""Before which the tokens of a Latte are told their frame."""


@dataclass(frozen=True)
class Condition(AdaLNCondition):
    """What a batch is denoised under and which does not change from step to step."""

    along_tokens: ClassVar[Mapping[str, int]] = {"later": 0}
    """The tensors that have a row for each token, and along which axis."""

    arrangements: tuple[Arrangement, ...]
    """Of the blocks, by turns."""
    places: Tensor
    """(H * W, D) float32, added to the tokens of every frame."""
    frames: Tensor | None
    """(T, 1, D) float32, added to all tokens of a frame; None: nothing is."""
    later: Tensor | None
    """(N, D) float32, the same before the second block."""


def create(spec: DiTSpec, attend: Attend) -> DiT:
    """The model of a spec, without its weights."""
    return DiT(spec, attend)


class DiT(AdaLNDenoiser):
    """The denoiser; `attend` does all its attention."""

    def __init__(self, spec: DiTSpec, attend: Attend) -> None:
        super().__init__()
        self.spec = spec
        width = spec.hidden_size
        shared: Any = spec  # layers that are STDiT3's too read fields that are called alike
        self.x_embedder = PatchEmbed(shared)
        self.y_embedder: Any = LabelEmbedder(spec.table_size, width) if spec.num_classes else CaptionEmbedder(shared)
        self.t_embedder = ScalarEmbedder(width)
        self.blocks: Any = Blocks([Block(spec, SelfAttention(spec, attend)) for _ in range(spec.depth)])
        self.final_layer = FinalLayer(spec)

    def condition(self, given: Given, latent: LatentShape) -> Condition:
        """Everything that does not depend on the timestep; gradients flow through it.

        Raises: ShapeError when something that the model reads is missing or does not fit.
        """
        spec, device = self.spec, device_of(self.final_layer.linear.weight)
        grid, width = spec.grid(latent), spec.hidden_size
        plans = [spatial_plan(grid), temporal_plan(grid)] if spec.alternates else [attention_plan(grid.num_tokens)]
        frames = None if spec.no_temporal_pos_emb else line_embedding(grid.frames, width, 1.0)
        later = frames if spec.alternates else None
        in_frame = grid.height * grid.width
        about = self._about(given)
        return Condition(
            batch=about.shape[0],
            latent=latent,
            grid=grid,
            arrangements=tuple(place_plan(plan, device) for plan in plans),
            places=place(counted_embedding(grid.height, grid.width, width, 1.0), device),
            frames=None if frames is None or spec.alternates else place(frames[:, None], device),
            later=None if later is None else place(np.repeat(later, in_frame, axis=0), device),
            about=about,
            frequencies=place(timestep_frequencies(TIMESTEP_CHANNELS), device),
        )

    def embed(self, latents: Tensor, condition: Condition) -> Tensor:
        """Latents (B, C, T, H, W) -> tokens (B, N, D) at their positions."""
        x = self.x_embedder(cast(latents, like=self.final_layer.linear.weight))
        batch, _, width = x.shape
        of_frames = x.reshape(batch, condition.grid.frames, -1, width) + cast(condition.places, like=x)
        if condition.frames is not None:
            of_frames = of_frames + cast(condition.frames, like=x)
        return of_frames.reshape(x.shape)

    def run_block(self, index: int, x: Tensor, modulation: Tensor, condition: Condition) -> Tensor:
        """Tokens (B, N, D) through block `index`, as `blocks` counts them."""
        if index == SECOND_BLOCK and condition.later is not None:
            x = x + cast(condition.later, like=x)
        by_turns = condition.arrangements
        return self.blocks[index](x, modulation, by_turns[index % len(by_turns)])

    def assemble(self, patches: Tensor, condition: Condition) -> Tensor:
        """Predictions of all tokens (B, N, pt * ph * pw * Cout) -> (B, Cout, T, H, W) float32, padding cut off."""
        return assembled(patches, condition.grid, self.spec.patch_size, condition.latent)

    def _about(self, given: Given) -> Tensor:
        """The embedded classes or texts (B, D), or what stands in for some."""
        spec, like = self.spec, self.final_layer.linear.weight
        device = device_of(like)
        if spec.num_classes:
            return self.y_embedder(place(spec.rows(given), device))
        vectors = spec.vectors(given)
        is_null = spec.is_null(given, len(vectors))
        pooled = cast(place(vectors[:, None], device), like=like)
        if is_null is not None:
            pooled = self.y_embedder.dropped(pooled, place(is_null.astype(np.float32), device))
        return self.y_embedder(pooled)[:, 0]


class LabelEmbedder(nn.Module):
    """A vector for each class, and perhaps one for none."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.embedding_table = Embedding(rows, width)

    def forward(self, rows: Tensor) -> Tensor:
        """Numbers (B,) -> (B, D)."""
        return self.embedding_table(rows)
