"""DiT and SiT of class labels, built from a core.models.dit_meta.DiTMetaSpec.

A transformer on (B, N, D) tokens of a picture; every block is bent by the sum of the embedded timestep and class.
Attribute names are upstream's, as the weights' names follow from them.
Source: Peebles and Xie 2022, arXiv:2212.09748.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from mindspore import Tensor, mint, nn

from duosora.core.errors import ShapeError
from duosora.core.maths.arrangements import spatial_plan
from duosora.core.maths.embeddings import timestep_frequencies
from duosora.core.models.dit_meta import NORM_EPS, NUM_MODULATIONS, TIMESTEP_CHANNELS, DiTMetaSpec
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape, TokenGrid

from ..adaln_single import Blocks, FeedForward, ScalarEmbedder, join_heads, modulate, split_heads
from ..attention import Arrangement, Attend, place_plan
from ..denoiser import TokenDenoiser
from ..layers import (
    Identity,
    LayerNorm,
    Linear,
    ModuleList,
    cast,
    device_of,
    linear,
    new_parameter,
    place,
    silu,
    to_float32,
)
from ..operators import addcmul


@dataclass(frozen=True)
class Condition:
    """What a batch is denoised under and which does not change from step to step."""

    along_tokens: ClassVar[Mapping[str, int]] = {}
    """The tensors that have a row for each token, and along which axis."""

    latent: LatentShape
    grid: TokenGrid
    arrangement: Arrangement
    positions: Tensor
    """(N, D) float32, added to the tokens."""
    label: Tensor
    """(B, D), embedded."""
    frequencies: Tensor
    """(TIMESTEP_CHANNELS / 2,) float32, of the timestep embedding."""


def create(spec: DiTMetaSpec, attend: Attend) -> DiTMeta:
    """The model of a spec, without its weights."""
    return DiTMeta(spec, attend)


class DiTMeta(TokenDenoiser):
    """The denoiser; `attend` does all its attention."""

    def __init__(self, spec: DiTMetaSpec, attend: Attend) -> None:
        super().__init__()
        self.spec = spec
        self.x_embedder = PatchEmbed(spec)
        self.t_embedder = ScalarEmbedder(spec.hidden_size)
        self.y_embedder = LabelEmbedder(spec)
        self.blocks: Any = Blocks([Block(spec, attend) for _ in range(spec.depth)])
        self.final_layer = FinalLayer(spec)

    def condition(self, given: Given, latent: LatentShape) -> Condition:
        """Everything that does not depend on the timestep; gradients flow through it.

        Raises: ShapeError when labels are missing or do not fit, or for latents of another size than the model's.
        """
        spec, device = self.spec, device_of(self.final_layer.linear.weight)
        rows, grid = spec.rows(given), spec.grid(latent)
        return Condition(
            latent=latent,
            grid=grid,
            arrangement=place_plan(spatial_plan(grid), device),
            positions=place(spec.positions(), device),
            label=self.y_embedder(place(np.eye(spec.table_size, dtype=np.float32)[rows], device)),
            frequencies=place(timestep_frequencies(TIMESTEP_CHANNELS), device),
        )

    def check(self, latents: Tensor, condition: Condition) -> None:
        """Raises: ShapeError when the condition was made for other latents."""
        made_for = (condition.label.shape[0], self.spec.in_channels, *condition.latent)
        if tuple(latents.shape) != made_for:
            raise ShapeError(f"latents of {_sizes(latents.shape)} came with a condition for {_sizes(made_for)}")

    def modulate(self, timestep: Tensor, condition: Condition) -> Tensor:
        """What bends all layers: of a timestep (B,) and the class, (B, D)."""
        return silu(self.t_embedder(to_float32(timestep), condition.frequencies) + condition.label)

    def embed(self, latents: Tensor, condition: Condition) -> Tensor:
        """Latents (B, C, 1, H, W) -> tokens (B, N, D) at their positions."""
        x = self.x_embedder(cast(latents, like=self.final_layer.linear.weight))
        return x + cast(condition.positions, like=x)

    def transform(self, x: Tensor, modulation: Tensor, condition: Condition) -> Tensor:
        """Tokens (B, N, D) through all blocks."""
        for block in self.blocks():
            x = block(x, modulation, condition.arrangement)
        return x

    def project(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Tokens (B, N, D) after the last block -> what each predicts (B, N, p * p * Cout)."""
        return self.final_layer(x, modulation)

    def assemble(self, patches: Tensor, condition: Condition) -> Tensor:
        """Predictions of all tokens (B, N, p * p * Cout) -> (B, Cout, 1, H, W) float32."""
        spec, grid = self.spec, condition.grid
        patches = patches.reshape(-1, grid.height, grid.width, spec.patch_size, spec.patch_size, spec.out_channels)
        return to_float32(patches.permute(0, 5, 1, 3, 2, 4).reshape(-1, spec.out_channels, *condition.latent))


class Block(nn.Cell):
    """Modulated self-attention and modulated feed-forward, each added to the tokens."""

    def __init__(self, spec: DiTMetaSpec, attend: Attend) -> None:
        super().__init__()
        width = spec.hidden_size
        self.norm1 = LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.attn = SelfAttention(spec, attend)
        self.norm2 = LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.mlp = FeedForward(width, spec.feed_forward_size, width)
        self.adaLN_modulation: Any = ModuleList([Identity(), Linear(width, NUM_MODULATIONS * width)])

    def of_text(self) -> tuple[nn.Cell, ...]:
        """The layers that make keys and values of the text: there is none."""
        return ()

    def construct(self, x: Tensor, modulation: Tensor, arrangement: Arrangement) -> Tensor:
        """Tokens (B, N, D) and what bends them (B, D) -> tokens."""
        bent = self.adaLN_modulation[1](modulation).reshape(x.shape[0], 1, -1)
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = bent.chunk(NUM_MODULATIONS, -1)
        x = addcmul(x, gate_msa, self.attn(modulate(self.norm1(x), shift_msa, scale_msa), arrangement))
        return addcmul(x, gate_mlp, self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp)))


class SelfAttention(nn.Cell):
    """Attention among all tokens of a picture."""

    def __init__(self, spec: DiTMetaSpec, attend: Attend) -> None:
        super().__init__()
        width = spec.hidden_size
        self.attend, self.num_heads = attend, spec.num_heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def construct(self, x: Tensor, arrangement: Arrangement) -> Tensor:
        q, k, v = (split_heads(part, self.num_heads) for part in self.qkv(x).chunk(3, -1))
        return self.proj(join_heads(self.attend.self_attention(q, k, v, arrangement)))


class FinalLayer(nn.Cell):
    """A modulated norm and what each token predicts."""

    def __init__(self, spec: DiTMetaSpec) -> None:
        super().__init__()
        width = spec.hidden_size
        self.norm_final = LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.linear = Linear(width, spec.patch_outputs)
        self.adaLN_modulation: Any = ModuleList([Identity(), Linear(width, 2 * width)])

    def construct(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Tokens (B, N, D) and what bends them (B, D) -> (B, N, outputs)."""
        shift, scale = self.adaLN_modulation[1](modulation).reshape(x.shape[0], 1, -1).chunk(2, -1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class PatchEmbed(nn.Cell):
    """A convolution whose steps are as long as its kernel, and whose outputs are the tokens."""

    def __init__(self, spec: DiTMetaSpec) -> None:
        super().__init__()
        self.proj = PatchProjection(spec)

    def construct(self, latents: Tensor) -> Tensor:
        """(B, C, 1, H, W) -> (B, N, D)."""
        return self.proj(latents)


class PatchProjection(nn.Cell):
    """Its weights. Patches do not overlap, so one matrix product does it and leaves the tokens in order."""

    def __init__(self, spec: DiTMetaSpec) -> None:
        super().__init__()
        self.patch_size = spec.patch_size
        self.weight = new_parameter(spec.hidden_size, spec.in_channels, spec.patch_size, spec.patch_size)
        self.bias = new_parameter(spec.hidden_size)

    def construct(self, latents: Tensor) -> Tensor:
        size = self.patch_size
        batch, channels, _, height, width = latents.shape
        patches = latents.reshape(batch, channels, height // size, size, width // size, size)
        patches = patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * size * size)
        return linear(patches, self.weight.reshape(self.weight.shape[0], -1), self.bias)


class LabelEmbedder(nn.Cell):
    """A vector for each class, the last of which may stand for none."""

    def __init__(self, spec: DiTMetaSpec) -> None:
        super().__init__()
        self.embedding_table = Table(spec)

    def construct(self, chosen: Tensor) -> Tensor:
        """Rows (B, classes), 1 at the class and 0 elsewhere -> (B, D)."""
        return self.embedding_table(chosen)


class Table(nn.Cell):
    """Its weights. A product, because its gradient adds up in a fixed order, which that of an index does not."""

    def __init__(self, spec: DiTMetaSpec) -> None:
        super().__init__()
        self.weight = new_parameter(spec.table_size, spec.hidden_size)

    def construct(self, chosen: Tensor) -> Tensor:
        return mint.matmul(cast(chosen, like=self.weight), self.weight)


def _sizes(shape: Any) -> str:
    return " x ".join(map(str, shape))
