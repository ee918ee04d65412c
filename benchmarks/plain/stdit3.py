"""STDiT3 of Open-Sora 1.2 in plain PyTorch.

Source of the behaviour: opensora/models/stdit/stdit3.py of hpcaitech Open-Sora at v1.2.0, without masks of frames. As
there, everything that depends on the text alone is computed in every call.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

FREQUENCIES = 256


class STDiT3(nn.Module):
    """The denoiser of a core.models.stdit3.STDiT3Spec."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.spec, self.gradient_checkpointing = spec, False
        width = spec.hidden_size
        self.rope = Rotary(spec.head_dim)
        self.x_embedder = PatchEmbed3D(spec)
        self.t_embedder = ScalarEmbedder(width)
        self.fps_embedder = ScalarEmbedder(width)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.y_embedder = CaptionEmbedder(spec)
        self.spatial_blocks = nn.ModuleList([Block(spec, False) for _ in range(spec.depth)])
        self.temporal_blocks = nn.ModuleList([Block(spec, True) for _ in range(spec.depth)])
        self.final_layer = FinalLayer(spec)

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        text: Tensor,
        text_mask: Tensor,
        fps: Tensor,
        height: Tensor,
        width: Tensor,
    ) -> Tensor:
        """Latents (B, C, T, H, W), (B,) of each number, text (B, L, channels), mask (B, L) -> (B, Cout, T, H, W)."""
        batch, _, *sizes = latents.shape
        dtype, patch = self.x_embedder.proj.weight.dtype, self.spec.patch_size
        pads = [-size % step for size, step in zip(sizes, patch, strict=True)]
        latents = functional.pad(latents.to(dtype), (0, pads[2], 0, pads[1], 0, pads[0]))
        frames, rows, columns = (size // step for size, step in zip(latents.shape[2:], patch, strict=True))
        scale = (float(height[0]) * float(width[0])) ** 0.5 / self.spec.input_sq_size
        x = self.x_embedder(latents).reshape(batch, frames, rows * columns, -1)
        x = (x + self.positions(rows, columns, scale, x)).reshape(batch, frames * rows * columns, -1)
        embedded = self.t_embedder(timestep, dtype) + self.fps_embedder(fps, dtype)
        modulation = self.t_block(embedded)
        text = self.y_embedder.y_proj(text.to(dtype))
        keep = text_mask.bool()[:, None, None, :]
        for pair in zip(self.spatial_blocks, self.temporal_blocks, strict=True):
            for block in pair:
                if self.gradient_checkpointing and self.training:
                    x = checkpoint(block, x, modulation, text, keep, frames, self.rope, use_reentrant=False)
                else:
                    x = block(x, modulation, text, keep, frames, self.rope)
        x = self.final_layer(x, embedded).reshape(batch, frames, rows, columns, *patch, -1)
        x = x.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(batch, -1, *latents.shape[2:])
        return x[:, :, : sizes[0], : sizes[1], : sizes[2]].float()

    def positions(self, rows: int, columns: int, scale: float, like: Tensor) -> Tensor:
        """Of each place of a frame, (rows * columns, D): of its column, then of its row."""
        half = self.spec.hidden_size // 2
        base = round((rows * columns) ** 0.5)
        frequencies = 10000.0 ** (-torch.arange(0, half, 2, device=like.device).float() / half)
        row = torch.arange(rows, device=like.device).float() / scale * base / rows
        column = torch.arange(columns, device=like.device).float() / scale * base / columns
        row, column = torch.meshgrid(row, column, indexing="ij")
        waves = []
        for places in (column, row):
            angles = places.reshape(-1, 1) * frequencies
            waves.append(torch.cat([angles.sin(), angles.cos()], dim=-1))
        return torch.cat(waves, dim=-1).to(like.dtype)


class Rotary(nn.Module):
    """Rotary positions whose pairs are neighbours; the frequencies are in the file."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.freqs = nn.Parameter(torch.empty(head_dim // 2), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, A, N, K) at positions 0 .. N - 1."""
        angles = torch.arange(x.shape[2], device=x.device).float()[:, None] * self.freqs.float()
        angles = angles.repeat_interleave(2, dim=-1)
        wide = x.float()
        first, second = wide[..., 0::2], wide[..., 1::2]
        turned = torch.stack([-second, first], dim=-1).flatten(-2)
        return (wide * angles.cos() + turned * angles.sin()).to(x.dtype)


class PatchEmbed3D(nn.Module):
    """A strided convolution."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.proj = nn.Conv3d(spec.in_channels, spec.hidden_size, spec.patch_size, spec.patch_size)

    def forward(self, latents: Tensor) -> Tensor:
        return self.proj(latents).flatten(2).transpose(1, 2)


class ScalarEmbedder(nn.Module):
    """Two layers on sinusoids of a number."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        half = FREQUENCIES // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
        angles = values[:, None].float() * frequencies.to(values.device)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype))


class Mlp(nn.Module):
    """Two layers with GELU between them."""

    def __init__(self, inputs: int, inner: int, outputs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, inner)
        self.act = nn.GELU(approximate="tanh")
        self.fc2 = nn.Linear(inner, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class CaptionEmbedder(nn.Module):
    """A projection of the text, and the null caption of training."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.y_embedding = nn.Parameter(torch.empty(spec.model_max_length, spec.caption_channels), requires_grad=False)
        self.y_proj = Mlp(spec.caption_channels, spec.hidden_size, spec.hidden_size)


class RMSNorm(nn.Module):
    """By the mean square, in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * wide.to(x.dtype)


class SelfAttention(nn.Module):
    """Attention of sequences (B, N, D)."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        width = spec.hidden_size
        self.heads = spec.num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm: nn.Module = RMSNorm(spec.head_dim) if spec.qk_norm else nn.Identity()
        self.k_norm: nn.Module = RMSNorm(spec.head_dim) if spec.qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rope: Rotary | None) -> Tensor:
        batch, num_tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, num_tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rope(q), rope(k)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, num_tokens, width))


class CrossAttention(nn.Module):
    """Attention to the text."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        width = spec.hidden_size
        self.heads = spec.num_heads
        self.q_linear = nn.Linear(width, width)
        self.kv_linear = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, text: Tensor, keep: Tensor) -> Tensor:
        batch, num_tokens, width = x.shape
        q = self.q_linear(x).reshape(batch, num_tokens, self.heads, -1).transpose(1, 2)
        kv = self.kv_linear(text).reshape(batch, text.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, kv[0], kv[1], attn_mask=keep)
        return self.proj(mixed.transpose(1, 2).reshape(batch, num_tokens, width))


class Block(nn.Module):
    """Attention within a frame or through all frames, then the text, then a feed-forward."""

    def __init__(self, spec: Any, is_temporal: bool) -> None:
        super().__init__()
        width = spec.hidden_size
        self.is_temporal = is_temporal
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attn = SelfAttention(spec)
        self.cross_attn = CrossAttention(spec)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = Mlp(width, int(width * spec.mlp_ratio), width)

    def forward(self, x: Tensor, modulation: Tensor, text: Tensor, keep: Tensor, frames: int, rope: Rotary) -> Tensor:
        batch, num_tokens, width = x.shape
        table = self.scale_shift_table[None] + modulation.reshape(batch, 6, -1)
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = table.chunk(6, dim=1)
        h = self.norm1(x) * (1 + scale_msa) + shift_msa
        h = h.reshape(batch, frames, -1, width)
        if self.is_temporal:
            h = h.transpose(1, 2).reshape(-1, frames, width)  # (B * S, T, D)
            h = self.attn(h, rope).reshape(batch, -1, frames, width).transpose(1, 2)
        else:
            h = self.attn(h.reshape(batch * frames, -1, width), None)
        x = x + gate_msa * h.reshape(batch, num_tokens, width)
        x = x + self.cross_attn(x, text, keep)
        return x + gate_mlp * self.mlp(self.norm2(x) * (1 + scale_mlp) + shift_mlp)


class FinalLayer(nn.Module):
    """A modulated norm and what each token predicts."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        width = spec.hidden_size
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.norm_final = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(width, math.prod(spec.patch_size) * spec.out_channels)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        shift, scale = (self.scale_shift_table[None] + embedded[:, None]).chunk(2, dim=1)
        return self.linear(self.norm_final(x) * (1 + scale) + shift)
