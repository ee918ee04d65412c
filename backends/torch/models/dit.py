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

from duosora.core.errors import ShapeError
from duosora.core.maths.arrangements import spatial_plan, temporal_plan
from duosora.core.maths.embeddings import counted_embedding, line_embedding, timestep_frequencies
from duosora.core.maths.skiparse import attention_plan
from duosora.core.models.dit import NORM_EPS, NUM_MODULATIONS, TIMESTEP_CHANNELS, DiTSpec
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape, TokenGrid

from ..adaln_single import (
    Blocks,
    CaptionEmbedder,
    FeedForward,
    PatchEmbed,
    ScalarEmbedder,
    assembled,
    join_heads,
    modulate,
    split_heads,
)
from ..attention import Arrangement, Attend, place_plan
from ..denoiser import TokenDenoiser
from ..layers import (
    Embedding,
    Identity,
    LayerNorm,
    Linear,
    ModuleList,
    cast,
    device_of,
    place,
    silu,
    to_float32,
)
from ..operators import addcmul

SECOND_BLOCK = 1
"""Before which the tokens of a Latte are told their frame."""


@dataclass(frozen=True)
class Condition:
    """What a batch is denoised under and which does not change from step to step."""

    along_tokens: ClassVar[Mapping[str, int]] = {"later": 0}
    """The tensors that have a row for each token, and along which axis."""

    latent: LatentShape
    grid: TokenGrid
    arrangements: tuple[Arrangement, ...]
    """Of the blocks, by turns."""
    places: Tensor
    """(H * W, D) float32, added to the tokens of every frame."""
    frames: Tensor | None
    """(T, 1, D) float32, added to all tokens of a frame; None: nothing is."""
    later: Tensor | None
    """(N, D) float32, the same before the second block."""
    about: Tensor
    """(B, D), the embedded class or text."""
    frequencies: Tensor
    """(TIMESTEP_CHANNELS / 2,) float32, of the timestep embedding."""


def create(spec: DiTSpec, attend: Attend) -> DiT:
    """The model of a spec, without its weights."""
    return DiT(spec, attend)


class DiT(TokenDenoiser):
    """The denoiser; `attend` does all its attention."""

    def __init__(self, spec: DiTSpec, attend: Attend) -> None:
        super().__init__()
        self.spec = spec
        width = spec.hidden_size
        shared: Any = spec  # layers that are STDiT3's too read fields that are called alike
        self.x_embedder = PatchEmbed(shared)
        self.y_embedder: Any = LabelEmbedder(spec.table_size, width) if spec.num_classes else CaptionEmbedder(shared)
        self.t_embedder = ScalarEmbedder(width)
        self.blocks: Any = Blocks([Block(spec, attend) for _ in range(spec.depth)])
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
        return Condition(
            latent=latent,
            grid=grid,
            arrangements=tuple(place_plan(plan, device) for plan in plans),
            places=place(counted_embedding(grid.height, grid.width, width, 1.0), device),
            frames=None if frames is None or spec.alternates else place(frames[:, None], device),
            later=None if later is None else place(np.repeat(later, in_frame, axis=0), device),
            about=self._about(given),
            frequencies=place(timestep_frequencies(TIMESTEP_CHANNELS), device),
        )

    def check(self, latents: Tensor, condition: Condition) -> None:
        """Raises: ShapeError when the condition was made for other latents."""
        made_for = (condition.about.shape[0], self.spec.in_channels, *condition.latent)
        if tuple(latents.shape) != made_for:
            raise ShapeError(f"latents of {_sizes(latents.shape)} came with a condition for {_sizes(made_for)}")

    def modulate(self, timestep: Tensor, condition: Condition) -> Tensor:
        """What bends all blocks at a timestep (B,), (B, D)."""
        return silu(self.t_embedder(to_float32(timestep), condition.frequencies) + condition.about)

    def embed(self, latents: Tensor, condition: Condition) -> Tensor:
        """Latents (B, C, T, H, W) -> tokens (B, N, D) at their positions."""
        x = self.x_embedder(cast(latents, like=self.final_layer.linear.weight))
        batch, _, width = x.shape
        of_frames = x.reshape(batch, condition.grid.frames, -1, width) + cast(condition.places, like=x)
        if condition.frames is not None:
            of_frames = of_frames + cast(condition.frames, like=x)
        return of_frames.reshape(x.shape)

    def transform(self, x: Tensor, modulation: Tensor, condition: Condition) -> Tensor:
        """Tokens (B, N, D) through all blocks."""
        by_turns = condition.arrangements
        for i, block in enumerate(self.blocks()):
            if i == SECOND_BLOCK and condition.later is not None:
                x = x + cast(condition.later, like=x)
            x = block(x, modulation, by_turns[i % len(by_turns)])
        return x

    def project(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Tokens (B, N, D) after the last block -> what each predicts (B, N, pt * ph * pw * Cout)."""
        return self.final_layer(x, modulation)

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


class Block(nn.Module):
    """Modulated self-attention and modulated feed-forward, each added to the tokens."""

    def __init__(self, spec: DiTSpec, attend: Attend) -> None:
        super().__init__()
        width = spec.hidden_size
        self.norm1 = LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.attn = SelfAttention(spec, attend)
        self.norm2 = LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.mlp = FeedForward(width, spec.feed_forward_size, width)
        self.adaLN_modulation: Any = ModuleList([Identity(), Linear(width, NUM_MODULATIONS * width)])

    def of_text(self) -> tuple[nn.Module, ...]:
        """The layers that make keys and values of the text: there is none."""
        return ()

    def forward(self, x: Tensor, modulation: Tensor, arrangement: Arrangement) -> Tensor:
        """Tokens (B, N, D) and what bends them (B, D) -> tokens."""
        table = self.adaLN_modulation[1](modulation).reshape(x.shape[0], NUM_MODULATIONS, -1)
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = (
            table[:, i : i + 1] for i in range(NUM_MODULATIONS)
        )
        x = addcmul(x, gate_msa, self.attn(modulate(self.norm1(x), shift_msa, scale_msa), arrangement))
        return addcmul(x, gate_mlp, self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp)))


class SelfAttention(nn.Module):
    """Attention among the tokens that an arrangement puts together."""

    def __init__(self, spec: DiTSpec, attend: Attend) -> None:
        super().__init__()
        width = spec.hidden_size
        self.attend, self.num_heads = attend, spec.num_heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(self, x: Tensor, arrangement: Arrangement) -> Tensor:
        q, k, v = (split_heads(part, self.num_heads) for part in self.qkv(x).chunk(3, -1))
        return self.proj(join_heads(self.attend.self_attention(q, k, v, arrangement)))


class FinalLayer(nn.Module):
    """A modulated norm and what each token predicts."""

    def __init__(self, spec: DiTSpec) -> None:
        super().__init__()
        width = spec.hidden_size
        self.norm_final = LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.linear = Linear(width, spec.patch_outputs)
        self.adaLN_modulation: Any = ModuleList([Identity(), Linear(width, 2 * width)])

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Tokens (B, N, D) and what bends them (B, D) -> (B, N, outputs)."""
        table = self.adaLN_modulation[1](modulation).reshape(x.shape[0], 2, -1)
        return self.linear(modulate(self.norm_final(x), table[:, :1], table[:, 1:]))


def _sizes(shape: Any) -> str:
    return " x ".join(map(str, shape))
