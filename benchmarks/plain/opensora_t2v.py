"""OpenSoraT2V v1.3 in plain PyTorch.

Source of the behaviour: arXiv:2412.00131; opensora/models/diffusion/opensora_v1_3 of Open-Sora Plan at 9fa322f. As
there, everything that depends on the text alone is computed in every call, texts come with their padding and a mask,
and layers with skiparse rearrange queries, keys and values each, also those of cross-attention.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

TIMESTEP_CHANNELS = 256
MASKED = -10000.0
FIRST_SPARSE_LAYER, LAST_SPARSE_LAYER = 2, 29


class OpenSoraT2V(nn.Module):
    """The text-to-video transformer of a core.models.opensora_t2v.OpenSoraT2VSpec (GELU only)."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        width = spec.hidden_size
        self.patch_size, self.out_channels = spec.patch_size, spec.out_channels
        self.gradient_checkpointing = False
        self.pos_embed = PatchEmbed(spec.in_channels, width, spec.patch_size)
        self.adaln_single = AdaLayerNormSingle(width)
        self.caption_projection = CaptionProjection(spec.caption_channels, width)
        self.rope = RotaryPositions(spec.attention_head_dim, spec.interpolation_scale)
        self.transformer_blocks = nn.ModuleList([Block(spec, layer) for layer in range(spec.num_layers)])
        self.norm_out = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.proj_out = nn.Linear(width, spec.patch_size**2 * spec.out_channels)

    def forward(self, latents: Tensor, timestep: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """Latents (B, C, T, H, W), timesteps (B,), text (B, L, channels) and its mask (B, L) -> prediction."""
        batch, _, frames, height, width = latents.shape
        grid = (frames, height // self.patch_size, width // self.patch_size)
        x = self.pos_embed(latents)
        modulation, embedded = self.adaln_single(timestep, x.dtype)
        text = self.caption_projection(text)
        bias = ((1 - text_mask.to(x.dtype)) * MASKED)[:, None, None, :]  # (B, 1, 1, L)
        rope = self.rope(grid, x.device)
        for block in self.transformer_blocks:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, modulation, text, bias, rope, use_reentrant=False)
            else:
                x = block(x, modulation, text, bias, rope)
        shift, scale = (self.scale_shift_table[None] + embedded[:, None]).chunk(2, dim=1)
        x = self.proj_out(self.norm_out(x) * (1 + scale) + shift)
        p, channels = self.patch_size, self.out_channels
        x = x.reshape(batch, *grid, p, p, channels)
        return x.permute(0, 6, 1, 2, 4, 3, 5).reshape(batch, channels, frames, height, width)


class PatchEmbed(nn.Module):
    """A strided convolution of each frame."""

    def __init__(self, channels: int, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, latents: Tensor) -> Tensor:
        batch, channels, frames, height, width = latents.shape
        x = latents.permute(0, 2, 1, 3, 4).reshape(batch * frames, channels, height, width)
        x = self.proj(x)  # (B * T, D, H / p, W / p)
        return x.flatten(2).transpose(1, 2).reshape(batch, -1, x.shape[1])


class TimestepEmbedder(nn.Module):
    """Two layers on a sinusoidal embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(TIMESTEP_CHANNELS, width)
        self.act = nn.SiLU()
        self.linear_2 = nn.Linear(width, width)

    def forward(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        half = TIMESTEP_CHANNELS // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
        angles = timestep[:, None].float() * frequencies.to(timestep.device)
        embedding = torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype)
        return self.linear_2(self.act(self.linear_1(embedding)))


class Embeddings(nn.Module):
    """The timestep is all that is embedded."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedder(width)


class AdaLayerNormSingle(nn.Module):
    """Six modulation vectors from the timestep."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.emb = Embeddings(width)
        self.silu = nn.SiLU()
        self.linear = nn.Linear(width, 6 * width)

    def forward(self, timestep: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        embedded = self.emb.timestep_embedder(timestep, dtype)
        return self.linear(self.silu(embedded)), embedded


class CaptionProjection(nn.Module):
    """Two layers on the states of the text."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, width)
        self.act = nn.GELU(approximate="tanh")
        self.linear_2 = nn.Linear(width, width)

    def forward(self, text: Tensor) -> Tensor:
        return self.linear_2(self.act(self.linear_1(text)))


class RotaryPositions(nn.Module):
    """Cosines and sines of each axis, kept from one call to the next."""

    def __init__(self, head_dim: int, scale: tuple[float, float, float]) -> None:
        super().__init__()
        self.part, self.scale = head_dim // 3, scale
        self.kept: dict[Any, list[tuple[Tensor, Tensor]]] = {}

    def forward(self, grid: tuple[int, int, int], device: torch.device) -> list[tuple[Tensor, Tensor]]:
        if (grid, device) not in self.kept:
            positions = torch.meshgrid(*(torch.arange(n, device=device) for n in grid), indexing="ij")
            self.kept[grid, device] = [
                self.tables(axis.reshape(-1), scale) for axis, scale in zip(positions, self.scale, strict=True)
            ]
        return self.kept[grid, device]

    def tables(self, positions: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        exponents = torch.arange(0, self.part, 2, dtype=torch.float32, device=positions.device) / self.part
        angles = (positions.float() / scale)[:, None] * 10000.0**-exponents
        angles = torch.cat([angles, angles], dim=-1)  # (N, K / 3)
        return angles.cos(), angles.sin()


def rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def apply_rope(x: Tensor, tables: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Turn heads (B, A, N, K), a third for each axis."""
    parts = x.float().chunk(3, dim=-1)
    turned = [part * cosines + rotate_half(part) * sines for part, (cosines, sines) in zip(parts, tables, strict=True)]
    return torch.cat(turned, dim=-1).to(x.dtype)


def pad_tokens(x: Tensor, k: int) -> Tensor:
    """Zeros behind the tokens (B, N, D), up to a multiple of k * k."""
    return functional.pad(x, (0, 0, 0, -x.shape[1] % (k * k)))


def sparse(x: Tensor, k: int, by_group: bool) -> Tensor:
    """(B, N, D) -> (k * B, N / k, D): every k-th token together, or every k-th run of k tokens."""
    batch, num_tokens, width = x.shape
    if by_group:
        x = x.reshape(batch, num_tokens // (k * k), k, k, width).permute(2, 0, 1, 3, 4)
    else:
        x = x.reshape(batch, num_tokens // k, k, width).permute(2, 0, 1, 3)
    return x.reshape(k * batch, num_tokens // k, width)


def undo_sparse(x: Tensor, k: int, by_group: bool) -> Tensor:
    """The inverse of `sparse`."""
    batch, num_tokens, width = x.shape[0] // k, x.shape[1] * k, x.shape[2]
    if by_group:
        x = x.reshape(k, batch, num_tokens // (k * k), k, width).permute(1, 2, 0, 3, 4)
    else:
        x = x.reshape(k, batch, num_tokens // k, width).permute(1, 2, 0, 3)
    return x.reshape(batch, num_tokens, width)


class Attention(nn.Module):
    """Self- or cross-attention, of all tokens or of skiparse's groups."""

    def __init__(self, spec: Any, layer: int, is_self: bool) -> None:
        super().__init__()
        width = spec.hidden_size
        self.heads, self.is_self, self.k = spec.num_attention_heads, is_self, spec.sparse_n
        inner = FIRST_SPARSE_LAYER <= layer <= LAST_SPARSE_LAYER
        self.is_sparse = spec.sparse1d and spec.sparse_n > 1 and inner
        self.by_group = layer % 2 == 1
        self.to_q = nn.Linear(width, width, bias=spec.attention_bias)
        self.to_k = nn.Linear(width, width, bias=spec.attention_bias)
        self.to_v = nn.Linear(width, width, bias=spec.attention_bias)
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Dropout(0.0)])

    def forward(self, x: Tensor, text: Tensor | None, bias: Tensor | None, rope: Any) -> Tensor:
        source = x if text is None else text
        q, k, v = self.to_q(x), self.to_k(source), self.to_v(source)
        if self.is_self:
            q = self.join(apply_rope(self.split(q), rope))
            k = self.join(apply_rope(self.split(k), rope))
        num_tokens = x.shape[1]
        if self.is_sparse:
            q = sparse(pad_tokens(q, self.k), self.k, self.by_group)
            if self.is_self:
                bias = self.padding_bias(x)
                k = sparse(pad_tokens(k, self.k), self.k, self.by_group)
                v = sparse(pad_tokens(v, self.k), self.k, self.by_group)
            else:
                k, v = k.repeat(self.k, 1, 1), v.repeat(self.k, 1, 1)
                bias = None if bias is None else bias.repeat(self.k, 1, 1, 1)
        q, k, v = self.split(q), self.split(k), self.split(v)
        mixed = self.join(functional.scaled_dot_product_attention(q, k, v, attn_mask=bias))
        if self.is_sparse:
            mixed = undo_sparse(mixed, self.k, self.by_group)[:, :num_tokens]
        return self.to_out[1](self.to_out[0](mixed))

    def padding_bias(self, x: Tensor) -> Tensor | None:
        """What keeps the padding of the tokens out of their groups, (k * B, 1, 1, N / k); None where there is none."""
        batch, num_tokens, _ = x.shape
        if num_tokens % (self.k * self.k) == 0:
            return None
        keep = pad_tokens(x.new_ones(batch, num_tokens, 1), self.k)
        return ((1 - sparse(keep, self.k, self.by_group)) * MASKED)[:, None, :, 0][:, None]

    def split(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, A, N, K)."""
        batch, num_tokens, width = x.shape
        return x.reshape(batch, num_tokens, self.heads, width // self.heads).transpose(1, 2)

    def join(self, x: Tensor) -> Tensor:
        """(B, A, N, K) -> (B, N, D)."""
        return x.transpose(1, 2).flatten(2)


class GELU(nn.Module):
    """A projection and an activation."""

    def __init__(self, width: int, inner: int, approximate: str) -> None:
        super().__init__()
        self.proj = nn.Linear(width, inner)
        self.act = nn.GELU(approximate=approximate)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.proj(x))


class FeedForward(nn.Module):
    """Four times as wide in between."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        width, approximate = spec.hidden_size, "tanh" if spec.activation_fn == "gelu-approximate" else "none"
        self.net = nn.ModuleList([GELU(width, 4 * width, approximate), nn.Dropout(0.0), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = layer(x)
        return x


class Block(nn.Module):
    """Modulated self-attention, cross-attention on the raw stream, modulated feed-forward."""

    def __init__(self, spec: Any, layer: int) -> None:
        super().__init__()
        width, affine = spec.hidden_size, spec.norm_elementwise_affine
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)
        self.norm1 = nn.LayerNorm(width, eps=spec.norm_eps, elementwise_affine=affine)
        self.attn1 = Attention(spec, layer, is_self=True)
        self.attn2 = Attention(spec, layer, is_self=False)
        self.norm2 = nn.LayerNorm(width, eps=spec.norm_eps, elementwise_affine=affine)
        self.ff = FeedForward(spec)

    def forward(self, x: Tensor, modulation: Tensor, text: Tensor, bias: Tensor, rope: Any) -> Tensor:
        table = self.scale_shift_table[None] + modulation.reshape(x.shape[0], 6, -1)
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = table.chunk(6, dim=1)
        normed = self.norm1(x) * (1 + scale_msa) + shift_msa
        x = x + gate_msa * self.attn1(normed, None, None, rope)
        x = x + self.attn2(x, text, bias, None)
        normed = self.norm2(x) * (1 + scale_mlp) + shift_mlp
        return x + gate_mlp * self.ff(normed)
