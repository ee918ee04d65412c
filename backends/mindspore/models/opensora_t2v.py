"""OpenSoraT2V v1.3 and its inpaint sibling, built from a core.models.opensora_t2v.OpenSoraT2VSpec.

A DiT on (B, N, D) tokens: adaLN-single modulation, 3-D rotary positions, full or skiparse self-attention, and
cross-attention to the text on the raw residual stream. What does not depend on the timestep is a Condition, made once
per sampling run. Attribute names are upstream's, as the weights' names follow from them.
Source: arXiv:2412.00131; opensora/models/diffusion/opensora_v1_3 of Open-Sora Plan at 9fa322f.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from mindspore import Tensor, nn

from duosora.core.errors import ShapeError
from duosora.core.maths.embeddings import timestep_frequencies
from duosora.core.maths.rope import rope_tables
from duosora.core.maths.skiparse import attention_plan, text_plan, valid_tokens, with_mask
from duosora.core.models.opensora_t2v import FEED_FORWARD_FACTOR, NUM_MODULATIONS, TIMESTEP_CHANNELS, OpenSoraT2VSpec
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape, TokenGrid

from ..attention import Arrangement, Attend, TextKeys, place_plan, place_text, rotate
from ..denoiser import TokenDenoiser
from ..layers import (
    Conv2d,
    Identity,
    LayerNorm,
    Linear,
    ModuleList,
    Sequential,
    Together,
    cast,
    device_of,
    gelu_erf,
    kernel,
    linear,
    new_parameter,
    place,
    silu,
    sinusoid,
    take_tokens,
    to_float32,
)
from ..operators import addcmul, in_pieces

NORM_OUT_EPS = 1e-6
"""Whatever norm_eps the blocks have."""


@dataclass(frozen=True)
class Condition:
    """What a batch is denoised under and which does not change from step to step."""

    along_tokens: ClassVar[Mapping[str, int]] = {"cosines": 0, "sines": 0}
    """The tensors that have a row for each token, and along which axis."""

    grid: TokenGrid
    keys_values: tuple[tuple[Tensor, Tensor], ...]
    """The text's cross-attention keys and values for each block, (B, M, A, K) each."""
    text: TextKeys
    arrangements: tuple[Arrangement, ...]
    """The self-attention's arrangement for each block."""
    cosines: Tensor
    """(N, K) float32, of the rotary positions."""
    sines: Tensor
    frequencies: Tensor
    """(TIMESTEP_CHANNELS / 2,) float32, of the timestep embedding."""


@dataclass(frozen=True)
class Modulation:
    """How a timestep bends the activations."""

    blocks: Tensor
    """(B, 6 * D), shared by all blocks."""
    last: Tensor
    """(B, D), of the last layer."""


def create(spec: OpenSoraT2VSpec, attend: Attend) -> OpenSoraT2V:
    """The model of a spec, without its weights."""
    return OpenSoraT2V(spec, attend)


class OpenSoraT2V(TokenDenoiser):
    """The text-to-video transformer; `attend` does all its attention."""

    def __init__(self, spec: OpenSoraT2VSpec, attend: Attend) -> None:
        super().__init__()
        self.spec = spec
        width = spec.hidden_size
        self.pos_embed = PatchEmbed(spec, spec.in_channels)
        if spec.is_inpaint:
            self.pos_embed_masked_hidden_states = ConditionEmbed(
                PatchEmbed(spec, spec.in_channels), Linear(width, width, bias=False)
            )
            self.pos_embed_mask = ConditionEmbed(PatchEmbed(spec, spec.mask_channels), Linear(width, width, bias=False))
        self.adaln_single = AdaLayerNormSingle(width)
        self.caption_projection = CaptionProjection(spec.caption_channels, width)
        self.transformer_blocks: Any = ModuleList([Block(spec, attend) for _ in range(spec.num_layers)])
        self.norm_out = LayerNorm(width, eps=NORM_OUT_EPS, elementwise_affine=False)
        self.scale_shift_table = new_parameter(2, width)
        self.proj_out = Linear(width, spec.patch_size**2 * spec.out_channels)

    def blocks(self) -> Iterator[Any]:
        """All blocks in the order of the forward."""
        return iter(self.transformer_blocks)

    def condition(self, given: Given, latent: LatentShape) -> Condition:
        """Everything that does not depend on the timestep; gradients flow through it.

        Raises: ShapeError when there is no text, or the patches do not tile the latents.
        """
        spec, device = self.spec, device_of(self.scale_shift_table)
        states, grid = spec.states(given), spec.grid(latent)
        cosines, sines = rope_tables(grid, spec.attention_head_dim, spec.interpolation_scale, spec.rope_shares_tables)
        plan = text_plan(given.text_mask, states.shape[1])
        text = self.caption_projection(cast(place(states, device), like=self.scale_shift_table))
        if plan.index is not None:
            text = take_tokens(text, place(plan.index, device))
        return Condition(
            grid=grid,
            keys_values=tuple(block.attn2.keys_values(text) for block in self.transformer_blocks),
            text=place_text(plan, text.shape[1], device),
            arrangements=self._arrangements(grid, given.latent_mask),
            cosines=place(cosines, device),
            sines=place(sines, device),
            frequencies=place(timestep_frequencies(TIMESTEP_CHANNELS), device),
        )

    def check(self, latents: Tensor, condition: Condition) -> None:
        """Raises: ShapeError when the condition was made for another latent shape."""
        grid = self.spec.grid(LatentShape(*latents.shape[2:]))
        if grid != condition.grid:
            raise ShapeError(f"latents of {_sizes(grid)} tokens came with a condition for {_sizes(condition.grid)}")

    def modulate(self, timestep: Tensor, condition: Condition) -> Modulation:
        """The modulation of a timestep (B,)."""
        return Modulation(*self.adaln_single(timestep, condition.frequencies))

    def embed(self, latents: Tensor, condition: Condition) -> Tensor:
        """The model's input channels (B, C, T, H, W) -> tokens (B, N, D)."""
        latents = cast(latents, like=self.scale_shift_table)
        if not self.spec.is_inpaint:
            return self.pos_embed(latents)
        channels = self.spec.in_channels
        noisy, masked, mask = latents[:, :channels], latents[:, channels : 2 * channels], latents[:, 2 * channels :]
        return self.pos_embed(noisy) + self.pos_embed_masked_hidden_states(masked) + self.pos_embed_mask(mask)

    def run_block(self, index: int, x: Tensor, modulation: Modulation, condition: Condition) -> Tensor:
        """Tokens (B, N, D) through block `index`, as `blocks` counts them."""
        block, text = self.transformer_blocks[index], (*condition.keys_values[index], condition.text)
        return block(x, modulation.blocks, condition.cosines, condition.sines, condition.arrangements[index], *text)

    def signal(self, x: Tensor, modulation: Modulation, condition: Condition) -> Tensor:
        """What the first block's self-attention reads of tokens (B, N, D)."""
        block = self.transformer_blocks[0]
        table = block.scale_shift_table + modulation.blocks.reshape(-1, NUM_MODULATIONS, x.shape[-1])
        return modulate(block.norm1, x, table[:, :1], table[:, 1:2])

    def project(self, x: Tensor, modulation: Modulation) -> Tensor:
        """Tokens (B, N, D) after the last block -> what each predicts (B, N, p * p * Cout)."""
        table = self.scale_shift_table + modulation.last.unsqueeze(1)  # (B, 2, D)
        shift, scale = table[:, :1], table[:, 1:]
        return self.proj_out(modulate(self.norm_out, x, shift, scale))

    def assemble(self, patches: Tensor, condition: Condition) -> Tensor:
        """Predictions of all tokens (B, N, p * p * Cout) -> (B, Cout, T, H, W) float32."""
        side, channels, grid = self.spec.patch_size, self.spec.out_channels, condition.grid
        patches = patches.reshape(-1, *grid, side, side, channels)  # (B, T, H / p, W / p, p, p, Cout)
        latents = patches.permute(0, 6, 1, 2, 4, 3, 5)
        return to_float32(latents.reshape(-1, channels, grid.frames, grid.height * side, grid.width * side))

    def _arrangements(self, grid: TokenGrid, mask: np.ndarray | None) -> tuple[Arrangement, ...]:
        spec, device = self.spec, device_of(self.scale_shift_table)
        valid = None if mask is None else valid_tokens(mask, spec.patch_size_t, spec.patch_size)
        kinds = [spec.skiparse_kind(layer) for layer in range(spec.num_layers)]
        of_kind = {
            kind: place_plan(with_mask(attention_plan(grid.num_tokens, spec.sparse_n, kind), valid), device)
            for kind in dict.fromkeys(kinds)
        }
        return tuple(of_kind[kind] for kind in kinds)


class Block(nn.Cell):
    """Modulated self-attention, cross-attention, modulated feed-forward, each added to the tokens."""

    def __init__(self, spec: OpenSoraT2VSpec, attend: Attend) -> None:
        super().__init__()
        width, affine = spec.hidden_size, spec.norm_elementwise_affine
        self.scale_shift_table = new_parameter(NUM_MODULATIONS, width)
        self.norm1 = LayerNorm(width, eps=spec.norm_eps, elementwise_affine=affine)
        self.attn1 = SelfAttention(spec, attend)
        self.attn2 = CrossAttention(spec, attend)
        self.norm2 = LayerNorm(width, eps=spec.norm_eps, elementwise_affine=affine)
        self.ff = FeedForward(spec)

    def of_text(self) -> tuple[nn.Cell, ...]:
        """The layers that make keys and values of the text."""
        return self.attn2.to_k, self.attn2.to_v

    def construct(
        self,
        x: Tensor,
        modulation: Tensor,
        cosines: Tensor,
        sines: Tensor,
        arrangement: Arrangement,
        keys: Tensor,
        values: Tensor,
        text: TextKeys,
    ) -> Tensor:
        """Tokens (B, N, D) and modulation (B, 6 * D) -> tokens; the rest as in Condition."""
        table = self.scale_shift_table + modulation.reshape(-1, NUM_MODULATIONS, x.shape[-1])
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = table.chunk(NUM_MODULATIONS, 1)  # (B, 1, D)
        normed = modulate(self.norm1, x, shift_msa, scale_msa)
        x = addcmul(x, gate_msa, self.attn1(normed, cosines, sines, arrangement))
        # The text is read from the raw residual stream: no norm, no modulation, no gate. norm2 is the feed-forward's.
        x = x + self.attn2(x, keys, values, text)
        return addcmul(x, gate_mlp, self.ff(modulate(self.norm2, x, shift_mlp, scale_mlp)))


class Attention(Together):
    """The projections of an attention and its heads."""

    def __init__(self, spec: OpenSoraT2VSpec, attend: Attend) -> None:
        super().__init__()
        width = spec.hidden_size
        self.attend = attend
        self.num_heads = spec.num_attention_heads
        self.to_q = Linear(width, width, bias=spec.attention_bias)
        self.to_k = Linear(width, width, bias=spec.attention_bias)
        self.to_v = Linear(width, width, bias=spec.attention_bias)
        self.to_out = ModuleList([Linear(width, width)])

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, A, K)."""
        batch, num_tokens, width = x.shape
        return x.reshape(batch, num_tokens, self.num_heads, width // self.num_heads)

    def join_heads(self, x: Tensor) -> Tensor:
        """(B, N, A, K) -> (B, N, D)."""
        batch, num_tokens, heads, width = x.shape
        return x.reshape(batch, num_tokens, heads * width)


class SelfAttention(Attention):
    """Attention among tokens at their rotary positions."""

    together = ("to_q", "to_k", "to_v")

    def construct(self, x: Tensor, cosines: Tensor, sines: Tensor, arrangement: Arrangement) -> Tensor:
        # Nobody else holds queries, keys and values, so that each is free as soon as the attention is done with it.
        made = map(self.split_heads, self.products(x))
        mixed = self.attend.self_attention(
            rotate(next(made), cosines, sines), rotate(next(made), cosines, sines), next(made), arrangement
        )
        return self.to_out[0](self.join_heads(mixed))


class CrossAttention(Attention):
    """Attention to the text."""

    together = ("to_k", "to_v")

    def keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Text (B, M, D) -> keys and values (B, M, A, K)."""
        keys, values = map(self.split_heads, self.products(text))
        return keys, values

    def construct(self, x: Tensor, keys: Tensor, values: Tensor, text: TextKeys) -> Tensor:
        q = self.split_heads(self.to_q(x))
        return self.to_out[0](self.join_heads(self.attend.cross_attention(q, keys, values, text)))


class FeedForward(nn.Cell):
    """Widen, activate, narrow; upstream has a dropout in the middle, whose place is kept for the names."""

    def __init__(self, spec: OpenSoraT2VSpec) -> None:
        super().__init__()
        activation = GEGLU(spec) if spec.activation_fn == "geglu" else GELU(spec)
        inner = FEED_FORWARD_FACTOR * spec.hidden_size
        self.net = ModuleList([activation, Identity(), Linear(inner, spec.hidden_size)])

    def construct(self, x: Tensor) -> Tensor:
        return in_pieces(lambda rows: self.net[2](self.net[0](rows)), x)


class GELU(nn.Cell):
    """A projection and GELU, by tanh or by the error function."""

    def __init__(self, spec: OpenSoraT2VSpec) -> None:
        super().__init__()
        self.proj = Linear(spec.hidden_size, spec.feed_forward_inputs)
        self.activation = "gelu_tanh" if spec.activation_fn == "gelu-approximate" else "gelu_erf"

    def construct(self, x: Tensor) -> Tensor:
        return self.proj(x, self.activation)


class GEGLU(nn.Cell):
    """A projection to values and gates; the gates go through GELU by the error function."""

    def __init__(self, spec: OpenSoraT2VSpec) -> None:
        super().__init__()
        self.proj = Linear(spec.hidden_size, spec.feed_forward_inputs)

    def construct(self, x: Tensor) -> Tensor:
        values, gates = self.proj(x).chunk(2, -1)
        return values * gelu_erf(gates)


class PatchEmbed(nn.Cell):
    """A strided convolution per frame whose outputs are the tokens."""

    def __init__(self, spec: OpenSoraT2VSpec, channels: int) -> None:
        super().__init__()
        self.proj = Conv2d(channels, spec.hidden_size, spec.patch_size, spec.patch_size)

    def construct(self, latents: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, N, D)."""
        # Patches do not overlap, so one matrix product does it and leaves the tokens in order.
        batch, channels, frames, height, width = latents.shape
        hidden_size, _, side, _ = self.proj.weight.shape
        patches = latents.reshape(batch, channels, frames, height // side, side, width // side, side)
        patches = patches.permute(0, 2, 3, 5, 1, 4, 6)  # (B, T, H / p, W / p, C, p, p)
        patches = patches.reshape(batch, -1, channels * side * side)
        return linear(patches, kernel(self.proj).reshape(hidden_size, -1), self.proj.bias)


class ConditionEmbed(Sequential):
    """A patch embedding and a linear map that starts at zero, so that a text-to-video model grows without a jump."""


class AdaLayerNormSingle(nn.Cell):
    """The modulation that all blocks share, from the timestep."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.emb = TimestepEmbeddings(width)
        self.linear = Linear(width, NUM_MODULATIONS * width)

    def construct(self, timestep: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
        """Timesteps (B,) -> modulation (B, 6 * D), embedded timestep (B, D)."""
        embedded = self.emb(timestep, frequencies)
        return self.linear(silu(embedded)), embedded


class TimestepEmbeddings(nn.Cell):
    """Upstream's wrapper, which gives the weights their names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedder(width)

    def construct(self, timestep: Tensor, frequencies: Tensor) -> Tensor:
        return self.timestep_embedder(timestep, frequencies)


class TimestepEmbedder(nn.Cell):
    """Sinusoids of the timestep, in float32, and two linear maps."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = Linear(TIMESTEP_CHANNELS, width)
        self.linear_2 = Linear(width, width)

    def construct(self, timestep: Tensor, frequencies: Tensor) -> Tensor:
        """Timesteps (B,) -> (B, D)."""
        waves = cast(sinusoid(timestep, frequencies), like=self.linear_1.weight)
        return self.linear_2(silu(self.linear_1(waves)))


class CaptionProjection(nn.Cell):
    """Two linear maps that bring text states to the model's width."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear_1 = Linear(channels, width)
        self.linear_2 = Linear(width, width)

    def construct(self, text: Tensor) -> Tensor:
        """(B, L, caption_channels) -> (B, L, D)."""
        return self.linear_2(self.linear_1(text, "gelu_tanh"))


def modulate(norm: Any, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(x) * (1 + scale) + shift."""
    return norm(x, shift, scale)


def _sizes(grid: TokenGrid) -> str:
    return " x ".join(map(str, grid))
