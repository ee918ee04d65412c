"""STDiT3, built from a core.models.stdit3.STDiT3Spec.

A transformer on (B, N, D) tokens in pairs of blocks: spatial ones attend within a frame, temporal ones through all
frames at their rotary positions; each reads the text from the raw residual stream. What does not depend on the timestep
is a Condition, made once per sampling run. Attribute names are upstream's, as the weights' names follow from them.
Source: opensora/models/stdit/stdit3.py of hpcaitech Open-Sora at v1.2.0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from duosora.core.errors import ShapeError
from duosora.core.maths.arrangements import rows_of_tokens, spatial_plan, temporal_plan
from duosora.core.maths.embeddings import grid_embedding, timestep_frequencies
from duosora.core.maths.rope import frame_rope_tables
from duosora.core.maths.skiparse import text_plan
from duosora.core.models.stdit3 import NORM_EPS, NUM_MODULATIONS, TIMESTEP_CHANNELS, Settled, STDiT3Spec
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape, TokenGrid

from ..attention import Arrangement, Attend, TextKeys, place_plan, place_text, rotate
from ..denoiser import TokenDenoiser
from ..layers import (
    Identity,
    LayerNorm,
    Linear,
    ModuleList,
    RMSNorm,
    cast,
    cat,
    device_of,
    linear,
    new_parameter,
    place,
    silu,
    sinusoid,
    take_tokens,
    to_float32,
)
from ..operators import addcmul, gelu_tanh, pad_end


@dataclass(frozen=True)
class Condition:
    """What a batch is denoised under and which does not change from step to step."""

    along_tokens: ClassVar[Mapping[str, int]] = {"cosines": 0, "sines": 0, "rows": 1}
    """The tensors that have a row for each token, and along which axis."""

    latent: LatentShape
    grid: TokenGrid
    keys_values: tuple[tuple[Tensor, Tensor], ...]
    """The text's cross-attention keys and values for each block in the order of the forward, (B, M, A, K) each."""
    text: TextKeys
    spatial: Arrangement
    temporal: Arrangement
    positions: Tensor
    """(H * W, D) float32, added to the tokens of every frame."""
    cosines: Tensor
    """(N, K) float32, of the temporal blocks' rotary positions."""
    sines: Tensor
    frame_rate: Tensor
    """(B, D), embedded."""
    frequencies: Tensor
    """(TIMESTEP_CHANNELS / 2,) float32, of the timestep embedding."""
    rows: Tensor | None = None
    """(B, N, 2) float32, which modulation each token takes: 1, 0 the timestep's, 0, 1 that of clean frames. None: all
    take the timestep's."""
    kept: Tensor | None = None
    """(B, blocks, 2, 1, 1) float32, what training multiplies a block's gates by; None: nothing is left out."""


@dataclass(frozen=True)
class Modulation:
    """How a timestep bends the activations: R = 1, or 2 where some frames are modulated as at timestep 0."""

    blocks: Tensor
    """(B, R, 6, D), shared by all blocks."""
    last: Tensor
    """(B, R, D), of the last layer."""
    rows: Tensor | None
    """(B, N, 2), which of two each token takes; None where there is one."""


def create(spec: STDiT3Spec, attend: Attend) -> STDiT3:
    """The model of a spec, without its weights."""
    return STDiT3(spec, attend)


class STDiT3(TokenDenoiser):
    """The denoiser; `attend` does all its attention."""

    def __init__(self, spec: STDiT3Spec, attend: Attend) -> None:
        super().__init__()
        self.spec = spec
        width = spec.hidden_size
        self.x_embedder = PatchEmbed(spec)
        self.t_embedder = ScalarEmbedder(width)
        self.fps_embedder = ScalarEmbedder(width)
        self.t_block: Any = ModuleList([Identity(), Linear(width, NUM_MODULATIONS * width)])
        self.y_embedder = CaptionEmbedder(spec)
        self.spatial_blocks: Any = ModuleList([Block(spec, attend, False) for _ in range(spec.depth)])
        self.temporal_blocks: Any = ModuleList([Block(spec, attend, True) for _ in range(spec.depth)])
        self.final_layer = FinalLayer(spec)

    def blocks(self) -> Iterator[Any]:
        """All blocks in the order of the forward."""
        for spatial, temporal in zip(self.spatial_blocks, self.temporal_blocks, strict=True):
            yield spatial
            yield temporal

    def condition(self, given: Given, latent: LatentShape) -> Condition:
        """Everything that does not depend on the timestep; gradients flow through it.

        Raises: ShapeError when something that the model reads is missing or does not fit.
        """
        spec, device = self.spec, device_of(self.final_layer.scale_shift_table)
        settled, grid = spec.settled(given, latent), spec.grid(latent)
        text = self._text(settled)
        plan = text_plan(settled.text_mask, text.shape[1])
        if plan.index is not None:
            text = take_tokens(text, place(plan.index, device))
        positions = grid_embedding(grid.height, grid.width, spec.hidden_size, settled.scale)
        cosines, sines = frame_rope_tables(grid, spec.head_dim)
        frequencies = place(timestep_frequencies(TIMESTEP_CHANNELS), device)
        condition = Condition(
            latent=latent,
            grid=grid,
            keys_values=tuple(block.cross_attn.keys_values(text) for block in self.blocks()),
            text=place_text(plan, text.shape[1], device),
            spatial=place_plan(spatial_plan(grid), device),
            temporal=place_plan(temporal_plan(grid), device),
            positions=place(positions, device),
            cosines=place(cosines, device),
            sines=place(sines, device),
            frame_rate=self.fps_embedder(place(settled.fps, device), frequencies),
            frequencies=frequencies,
            kept=None if settled.kept is None else place(settled.kept[..., None, None], device),
        )
        return self.with_frames(condition, settled.frame_mask)

    def with_frames(self, condition: Condition, frame_mask: np.ndarray | None) -> Condition:
        """The condition with other frames denoised: a mask (B, T) as in Given."""
        rows = None
        if frame_mask is not None:
            rows = rows_of_tokens(frame_mask, condition.grid, self.spec.patch_size[0])
        device = device_of(self.final_layer.scale_shift_table)
        return replace(condition, rows=None if rows is None else place(rows, device))

    def check(self, latents: Tensor, condition: Condition) -> None:
        """Raises: ShapeError when the condition was made for other latents."""
        made_for = (condition.frame_rate.shape[0], self.spec.in_channels, *condition.latent)
        if tuple(latents.shape) != made_for:
            raise ShapeError(f"latents of {_sizes(latents.shape)} came with a condition for {_sizes(made_for)}")

    def modulate(self, timestep: Tensor, condition: Condition) -> Modulation:
        """The modulation of a timestep (B,), and of timestep 0 behind it where some frames are clean."""
        times, frame_rate = to_float32(timestep), condition.frame_rate
        batch, width = frame_rate.shape
        if condition.rows is not None:
            times = cat([times, 0.0 * times], 0)
            frame_rate = cat([frame_rate, frame_rate], 0)
        embedded = self.t_embedder(times, condition.frequencies) + frame_rate  # (R * B, D)
        of_blocks = self.t_block[1](silu(embedded))
        return Modulation(
            blocks=of_blocks.reshape(-1, batch, NUM_MODULATIONS, width).swapaxes(0, 1),
            last=embedded.reshape(-1, batch, width).swapaxes(0, 1),
            rows=condition.rows,
        )

    def embed(self, latents: Tensor, condition: Condition) -> Tensor:
        """Latents (B, C, T, H, W) -> tokens (B, N, D) at their positions."""
        x = self.x_embedder(cast(latents, like=self.final_layer.scale_shift_table))
        batch, _, width = x.shape
        of_frames = x.reshape(batch, condition.grid.frames, -1, width) + cast(condition.positions, like=x)
        return of_frames.reshape(x.shape)

    def transform(self, x: Tensor, modulation: Modulation, condition: Condition) -> Tensor:
        """Tokens (B, N, D) through all blocks."""
        bent = modulation.blocks, modulation.rows
        rope = condition.cosines, condition.sines
        for i, block in enumerate(self.blocks()):
            arrangement = condition.temporal if i % 2 else condition.spatial
            kept = None if condition.kept is None else condition.kept[:, i]
            x = block(x, *bent, *rope, arrangement, *condition.keys_values[i], condition.text, kept)
        return x

    def project(self, x: Tensor, modulation: Modulation) -> Tensor:
        """Tokens (B, N, D) after the last block -> what each predicts (B, N, pt * ph * pw * Cout)."""
        return self.final_layer(x, modulation.last, modulation.rows)

    def assemble(self, patches: Tensor, condition: Condition) -> Tensor:
        """Predictions of all tokens (B, N, pt * ph * pw * Cout) -> (B, Cout, T, H, W) float32, padding cut off."""
        spec, grid, latent = self.spec, condition.grid, condition.latent
        patches = patches.reshape(-1, *grid, *spec.patch_size, spec.out_channels)
        padded = (size * patch for size, patch in zip(grid, spec.patch_size, strict=True))
        latents = patches.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(-1, spec.out_channels, *padded)
        return to_float32(latents[:, :, : latent.frames, : latent.height, : latent.width])

    def _text(self, settled: Settled) -> Tensor:
        """Texts (B, L, D); the null caption, as long as they are, in place of some."""
        like = self.final_layer.scale_shift_table
        text = cast(place(settled.text, device_of(like)), like=like)
        if self.spec.skip_y_embedder:
            return text
        if settled.is_null is not None:
            text = self.y_embedder.dropped(text, place(settled.is_null.astype(np.float32), device_of(like)))
        return self.y_embedder(text)


class Block(nn.Module):
    """Modulated self-attention, cross-attention, modulated feed-forward, each added to the tokens."""

    def __init__(self, spec: STDiT3Spec, attend: Attend, is_temporal: bool) -> None:
        super().__init__()
        width = spec.hidden_size
        self.scale_shift_table = new_parameter(NUM_MODULATIONS, width)
        self.norm1 = LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.attn = SelfAttention(spec, attend, is_temporal)
        self.cross_attn = CrossAttention(spec, attend)
        self.norm2 = LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.mlp = FeedForward(width, spec.feed_forward_size, width)

    def of_text(self) -> tuple[nn.Module, ...]:
        """The layers that make keys and values of the text."""
        return (self.cross_attn.kv_linear,)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        rows: Tensor | None,
        cosines: Tensor,
        sines: Tensor,
        arrangement: Arrangement,
        keys: Tensor,
        values: Tensor,
        text: TextKeys,
        kept: Tensor | None,
    ) -> Tensor:
        """Tokens (B, N, D) and modulation (B, R, 6, D) -> tokens; the rest as in Modulation and Condition."""
        table = self.scale_shift_table + modulation
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = (
            of_tokens(table[:, :, i], rows) for i in range(NUM_MODULATIONS)
        )
        if kept is not None:
            gate_msa, gate_mlp = gate_msa * cast(kept[:, 0], like=gate_msa), gate_mlp * cast(kept[:, 1], like=gate_mlp)
        normed = modulate(self.norm1(x), shift_msa, scale_msa)
        x = addcmul(x, gate_msa, self.attn(normed, cosines, sines, arrangement))
        # The text is read from the raw residual stream: no norm, no modulation, no gate.
        x = x + self.cross_attn(x, keys, values, text)
        return addcmul(x, gate_mlp, self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp)))


class SelfAttention(nn.Module):
    """Attention among the tokens of a frame, or of a place at their rotary positions in time."""

    def __init__(self, spec: STDiT3Spec, attend: Attend, is_temporal: bool) -> None:
        super().__init__()
        width = spec.hidden_size
        self.attend, self.num_heads, self.is_temporal = attend, spec.num_heads, is_temporal
        self.qkv = Linear(width, 3 * width)
        self.q_norm: Any = RMSNorm(spec.head_dim, eps=NORM_EPS) if spec.qk_norm else Identity()
        self.k_norm: Any = RMSNorm(spec.head_dim, eps=NORM_EPS) if spec.qk_norm else Identity()
        self.proj = Linear(width, width)

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor, arrangement: Arrangement) -> Tensor:
        q, k, v = (split_heads(part, self.num_heads) for part in self.qkv(x).chunk(3, -1))
        # In the dtype of the norms' own weights, which autocast leaves in float32.
        q, k = self.q_norm(cast(q, like=self.proj.weight)), self.k_norm(cast(k, like=self.proj.weight))
        if self.is_temporal:
            pairs = q.shape[-1] // 2
            q, k = rotate(q, cosines, sines, pairs), rotate(k, cosines, sines, pairs)
        mixed = self.attend.self_attention(cast(q, like=v), cast(k, like=v), v, arrangement)
        return self.proj(join_heads(mixed))


class CrossAttention(nn.Module):
    """Attention to the text."""

    def __init__(self, spec: STDiT3Spec, attend: Attend) -> None:
        super().__init__()
        width = spec.hidden_size
        self.attend, self.num_heads = attend, spec.num_heads
        self.q_linear = Linear(width, width)
        self.kv_linear = Linear(width, 2 * width)
        self.proj = Linear(width, width)

    def keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Text (B, M, D) -> keys and values (B, M, A, K)."""
        keys, values = (split_heads(part, self.num_heads) for part in self.kv_linear(text).chunk(2, -1))
        return keys, values

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, text: TextKeys) -> Tensor:
        q = split_heads(self.q_linear(x), self.num_heads)
        return self.proj(join_heads(self.attend.cross_attention(q, keys, values, text)))


class FeedForward(nn.Module):
    """Two linear maps with GELU by tanh between them."""

    def __init__(self, inputs: int, inner: int, outputs: int) -> None:
        super().__init__()
        self.fc1 = Linear(inputs, inner)
        self.fc2 = Linear(inner, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(gelu_tanh(self.fc1(x)))


class FinalLayer(nn.Module):
    """A modulated norm and what each token predicts."""

    def __init__(self, spec: STDiT3Spec) -> None:
        super().__init__()
        self.scale_shift_table = new_parameter(2, spec.hidden_size)
        self.norm_final = LayerNorm(spec.hidden_size, eps=NORM_EPS, elementwise_affine=False)
        self.linear = Linear(spec.hidden_size, spec.patch_outputs)

    def forward(self, x: Tensor, embedded: Tensor, rows: Tensor | None) -> Tensor:
        """Tokens (B, N, D) and embedded timesteps (B, R, D) -> (B, N, outputs)."""
        table = self.scale_shift_table + embedded[:, :, None]  # (B, R, 2, D)
        bent = modulate(self.norm_final(x), table[:, :1, 0], table[:, :1, 1])
        if rows is not None:
            # Clean frames are bent twice, as upstream does (quirk Q3): nobody reads what comes of them.
            again = modulate(self.norm_final(bent), table[:, 1:, 0], table[:, 1:, 1])
            rows = cast(rows, like=bent)
            bent = rows[:, :, :1] * bent + rows[:, :, 1:] * again
        return self.linear(bent)


class PatchEmbed(nn.Module):
    """A convolution whose steps are as long as its kernel, and whose outputs are the tokens."""

    def __init__(self, spec: STDiT3Spec) -> None:
        super().__init__()
        self.proj = PatchProjection(spec)

    def forward(self, latents: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, N, D); zeros fill up the last patches."""
        return self.proj(latents)


class PatchProjection(nn.Module):
    """Its weights. Patches do not overlap, so one matrix product does it and leaves the tokens in order."""

    def __init__(self, spec: STDiT3Spec) -> None:
        super().__init__()
        self.patch_size = spec.patch_size
        self.weight = new_parameter(spec.hidden_size, spec.in_channels, *spec.patch_size)
        self.bias = new_parameter(spec.hidden_size)

    def forward(self, latents: Tensor) -> Tensor:
        for axis, patch in enumerate(self.patch_size, 2):
            latents = pad_end(latents, axis, -latents.shape[axis] % patch)
        time, height, width = self.patch_size
        batch, channels, t, h, w = latents.shape
        patches = latents.reshape(batch, channels, t // time, time, h // height, height, w // width, width)
        patches = patches.permute(0, 2, 4, 6, 1, 3, 5, 7)  # (B, T / pt, H / ph, W / pw, C, pt, ph, pw)
        patches = patches.reshape(batch, -1, channels * time * height * width)
        return linear(patches, self.weight.reshape(self.weight.shape[0], -1), self.bias)


class ScalarEmbedder(nn.Module):
    """Sinusoids of a number, in float32, and two linear maps."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp: Any = ModuleList([Linear(TIMESTEP_CHANNELS, width), Identity(), Linear(width, width)])

    def forward(self, values: Tensor, frequencies: Tensor) -> Tensor:
        """(B,) -> (B, D)."""
        waves = cast(sinusoid(values, frequencies), like=self.mlp[0].weight)
        return self.mlp[2](silu(self.mlp[0](waves)))


class CaptionEmbedder(nn.Module):
    """Brings text states to the model's width; holds the null caption, which training replaced some captions by."""

    def __init__(self, spec: STDiT3Spec) -> None:
        super().__init__()
        self.y_embedding = new_parameter(spec.model_max_length, spec.caption_channels)
        self.y_proj = FeedForward(spec.caption_channels, spec.hidden_size, spec.hidden_size)

    def dropped(self, text: Tensor, is_null: Tensor) -> Tensor:
        """Texts (B, L, caption_channels), of which the null caption replaces those where is_null (B,) is 1, not 0."""
        share = cast(is_null, like=text).reshape(-1, 1, 1)
        return text * (1 - share) + self.y_embedding[: text.shape[1]] * share

    def forward(self, text: Tensor) -> Tensor:
        """(B, L, caption_channels) -> (B, L, D)."""
        return self.y_proj(text)


def of_tokens(values: Tensor, rows: Tensor | None) -> Tensor:
    """Values (B, R, D) as they broadcast over tokens: (B, 1, D), or (B, N, D) by the row that each token takes.

    A product, because its gradient adds up over the tokens in a fixed order, which that of an index does not.
    """
    return values if rows is None else cast(rows, like=values) @ values


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x * (1 + scale) + shift."""
    return addcmul(shift, x, 1 + scale)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, N, D) -> (B, N, A, K)."""
    batch, num_tokens, width = x.shape
    return x.reshape(batch, num_tokens, num_heads, width // num_heads)


def join_heads(x: Tensor) -> Tensor:
    """(B, N, A, K) -> (B, N, D)."""
    batch, num_tokens, heads, width = x.shape
    return x.reshape(batch, num_tokens, heads * width)


def _sizes(shape: Any) -> str:
    return " x ".join(map(str, shape))
