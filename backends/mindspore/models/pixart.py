"""PixArt, built from a core.models.pixart.PixArtSpec.

A transformer on (B, N, D) tokens that all look at each other, then at the text from the raw residual stream. What does
not depend on the timestep is a Condition, made once per sampling run. Attribute names are upstream's, as the weights'
names follow from them.
Source: opensora/models/pixart of hpcaitech Open-Sora at v1.0.0 and v1.2.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mindspore import Tensor, nn

from duosora.core.maths.skiparse import attention_plan
from duosora.core.models.adaln_single import NORM_EPS, NUM_MODULATIONS
from duosora.core.models.pixart import COMPRESSED_NORM_EPS, KVCompression, PixArtSpec
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape, TokenGrid

from .. import adaln_single
from ..adaln_single import (
    AdaLNSingle,
    Blocks,
    CaptionEmbedder,
    CrossAttention,
    FeedForward,
    FinalLayer,
    PatchEmbed,
    ScalarEmbedder,
    join_heads,
    modulate,
    split_heads,
)
from ..attention import Arrangement, Attend, TextKeys, place_plan
from ..layers import (
    Identity,
    LayerNorm,
    Linear,
    ModuleList,
    RMSNorm,
    cast,
    cat,
    device_of,
    new_parameter,
    place,
    silu,
    to_float32,
)
from ..operators import addcmul

ALL_KEYS = TextKeys(None, None)


@dataclass(frozen=True, kw_only=True)
class Condition(adaln_single.Condition):
    """What a batch is denoised under and which does not change from step to step."""

    whole: Arrangement
    """Of the attention among all tokens."""
    frames: Tensor | None
    """(T, 1, D) float32, added to all tokens of a frame; None: nothing is."""
    size: Tensor | None
    """(B, D), embedded height, width and ratio; None where the model does not read them."""


@dataclass(frozen=True)
class Modulation:
    """How a timestep bends the activations."""

    blocks: Tensor
    """(B, 6, D), shared by all blocks."""
    last: Tensor
    """(B, 1, D), of the last layer."""


def create(spec: PixArtSpec, attend: Attend) -> PixArt:
    """The model of a spec, without its weights."""
    return PixArt(spec, attend)


class PixArt(AdaLNSingle):
    """The denoiser; `attend` does all its attention."""

    spec: PixArtSpec

    def __init__(self, spec: PixArtSpec, attend: Attend) -> None:
        super().__init__()
        self.spec = spec
        width = spec.hidden_size
        self.x_embedder = PatchEmbed(spec)
        self.t_embedder = ScalarEmbedder(width)
        self.t_block: Any = ModuleList([Identity(), Linear(width, NUM_MODULATIONS * width)])
        self.y_embedder = CaptionEmbedder(spec)
        self.blocks: Any = Blocks([Block(spec, attend, spec.compression(i)) for i in range(spec.depth)])
        self.final_layer = FinalLayer(spec)
        if spec.reads_size:
            self.csize_embedder = ScalarEmbedder(width // 3)
            self.ar_embedder = ScalarEmbedder(width // 3)

    def condition(self, given: Given, latent: LatentShape) -> Condition:
        """Everything that does not depend on the timestep; gradients flow through it.

        Raises: ShapeError when something that the model reads is missing or does not fit.
        """
        spec, device = self.spec, device_of(self.final_layer.scale_shift_table)
        settled, grid = spec.settled(given, latent), spec.grid(latent)
        places, frames = spec.positions(grid)
        shared = self.shared(settled, latent, places)
        size = None if settled.size is None else self._size(place(settled.size, device), shared["frequencies"])
        return Condition(
            **shared,
            whole=place_plan(attention_plan(grid.num_tokens), device),
            frames=None if frames is None else place(frames[:, None], device),
            size=size,
        )

    def modulate(self, timestep: Tensor, condition: Condition) -> Modulation:
        """The modulation of a timestep (B,)."""
        embedded = self.t_embedder(to_float32(timestep), condition.frequencies)
        if condition.size is not None:
            embedded = embedded + condition.size
        width = self.spec.hidden_size
        of_blocks = self.t_block[1](silu(embedded)).reshape(-1, NUM_MODULATIONS, width)
        return Modulation(blocks=of_blocks, last=embedded.reshape(-1, 1, width))

    def embed(self, latents: Tensor, condition: Any) -> Tensor:
        """Latents (B, C, T, H, W) -> tokens (B, N, D) at their positions."""
        x = super().embed(latents, condition)
        if condition.frames is None:
            return x
        batch, _, width = x.shape
        of_frames = x.reshape(batch, condition.grid.frames, -1, width) + cast(condition.frames, like=x)
        return of_frames.reshape(x.shape)

    def run_block(self, index: int, x: Tensor, modulation: Modulation, condition: Condition) -> Tensor:
        """Tokens (B, N, D) through block `index`, as `blocks` counts them."""
        kept = None if condition.kept is None else condition.kept[:, index]
        among, text = (condition.whole, condition.grid), (*condition.keys_values[index], condition.text)
        return self.blocks[index](x, modulation.blocks, *among, *text, kept)

    def signal(self, x: Tensor, modulation: Modulation, condition: Any) -> Tensor:
        """What the first block's self-attention reads of tokens (B, N, D)."""
        block = self.blocks[0]
        table = block.scale_shift_table + modulation.blocks
        return modulate(block.norm1, x, table[:, :1], table[:, 1:2])

    def project(self, x: Tensor, modulation: Modulation) -> Tensor:
        """Tokens (B, N, D) after the last block -> what each predicts (B, N, pt * ph * pw * Cout)."""
        return self.final_layer(x, modulation.last, None)

    def _size(self, size: Tensor, frequencies: Tensor) -> Tensor:
        """Height, width and ratio (B, 3) -> (B, D)."""
        sides = self.csize_embedder(size[:, :2].reshape(-1), frequencies)
        return cat([sides.reshape(size.shape[0], -1), self.ar_embedder(size[:, 2], frequencies)], 1)


class Block(nn.Cell):
    """Modulated self-attention, cross-attention, modulated feed-forward, each added to the tokens."""

    def __init__(self, spec: PixArtSpec, attend: Attend, compression: KVCompression | None) -> None:
        super().__init__()
        width = spec.hidden_size
        self.scale_shift_table = new_parameter(NUM_MODULATIONS, width)
        self.norm1 = LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.attn = SelfAttention(spec, attend, compression)
        self.cross_attn = CrossAttention(spec, attend)
        self.norm2 = LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.mlp = FeedForward(width, spec.feed_forward_size, width)

    def of_text(self) -> tuple[nn.Cell, ...]:
        """The layers that make keys and values of the text."""
        return (self.cross_attn.kv_linear,)

    def construct(
        self,
        x: Tensor,
        modulation: Tensor,
        whole: Arrangement,
        grid: TokenGrid,
        keys: Tensor,
        values: Tensor,
        text: TextKeys,
        kept: Tensor | None,
    ) -> Tensor:
        """Tokens (B, N, D) and modulation (B, 6, D) -> tokens; the rest as in Condition."""
        table = self.scale_shift_table + modulation
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = (
            table[:, i : i + 1] for i in range(NUM_MODULATIONS)
        )
        if kept is not None:
            gate_msa, gate_mlp = gate_msa * cast(kept[:, 0], like=gate_msa), gate_mlp * cast(kept[:, 1], like=gate_mlp)
        x = addcmul(x, gate_msa, self.attn(modulate(self.norm1, x, shift_msa, scale_msa), whole, grid))
        # The text is read from the raw residual stream: no norm, no modulation, no gate.
        x = x + self.cross_attn(x, keys, values, text)
        return addcmul(x, gate_mlp, self.mlp(modulate(self.norm2, x, shift_mlp, scale_mlp)))


class SelfAttention(nn.Cell):
    """Attention among all tokens, to fewer keys and values where they are compressed."""

    def __init__(self, spec: PixArtSpec, attend: Attend, compression: KVCompression | None) -> None:
        super().__init__()
        width = spec.hidden_size
        self.attend, self.num_heads, self.compression = attend, spec.num_heads, compression
        self.qkv = Linear(width, 3 * width)
        if compression is not None and compression.sampling == "conv":
            self.sr = SquareMeans(width, compression.factor)
            self.norm = LayerNorm(width, eps=COMPRESSED_NORM_EPS)
        self.q_norm: Any = RMSNorm(spec.head_dim, eps=NORM_EPS) if spec.qk_norm else Identity()
        self.k_norm: Any = RMSNorm(spec.head_dim, eps=NORM_EPS) if spec.qk_norm else Identity()
        self.proj = Linear(width, width)

    def construct(self, x: Tensor, whole: Arrangement, grid: TokenGrid) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.compression is not None:
            k, v = (self._compressed(part, self.compression, grid) for part in (k, v))
        q, k, v = (split_heads(part, self.num_heads) for part in (q, k, v))
        # In the dtype of the norms' own weights, which autocast leaves in float32.
        q_normed = self.q_norm(cast(q, like=self.proj.weight))
        k_normed = self.k_norm(cast(k, like=self.proj.weight))
        q, k, v = cast(q_normed, like=q), cast(k_normed, like=q), cast(v, like=q)
        if self.compression is None:
            return self.proj(join_heads(self.attend.self_attention(q, k, v, whole)))
        return self.proj(join_heads(self.attend.cross_attention(q, k, v, ALL_KEYS)))

    def _compressed(self, x: Tensor, compression: KVCompression, grid: TokenGrid) -> Tensor:
        """Keys or values (B, N, D) of all tokens, or of this rank's -> fewer, of all (B, M, D)."""
        x = self.attend.whole(x, grid.num_tokens)
        if compression.sampling == "conv":
            return self.norm(self.sr(squares(x, grid, compression.factor)))
        if compression.sampling == "uniform_every":
            count = grid.num_tokens // compression.factor
            runs = x[:, : count * compression.factor].reshape(x.shape[0], count, compression.factor, -1)
            return runs[:, :, 0]
        return squares(x, grid, compression.factor)[:, :, 0]


class SquareMeans(nn.Cell):
    """A convolution of each channel by itself whose steps are as long as its kernel: a weighted sum of each square."""

    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.weight = new_parameter(width, 1, factor, factor)
        self.bias = new_parameter(width)

    def construct(self, tokens: Tensor) -> Tensor:
        """(B, M, factor * factor, D) -> (B, M, D)."""
        weight = self.weight.reshape(self.weight.shape[0], -1).swapaxes(0, 1)
        return (tokens * weight).sum(2) + self.bias


def squares(x: Tensor, grid: TokenGrid, factor: int) -> Tensor:
    """Tokens (B, N, D) -> those of each square of a frame (B, M, factor * factor, D); what is left over is cut off."""
    rows, columns, width = grid.height // factor, grid.width // factor, x.shape[2]
    x = x.reshape(-1, grid.height, grid.width, width)[:, : rows * factor, : columns * factor]
    x = x.reshape(-1, rows, factor, columns, factor, width).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, grid.frames * rows * columns, factor * factor, width)
