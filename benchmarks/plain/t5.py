"""The encoder of mT5 and T5 v1.1 in plain PyTorch.

Source of the behaviour: Raffel et al. 2020, arXiv:1910.10683; transformers' MT5EncoderModel. As there, texts keep
their padding, which a mask hides, and attention is written out.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class T5Encoder(nn.Module):
    """The encoder of a core.models.t5.T5Spec."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.shared = nn.Embedding(spec.vocab_size, spec.d_model)
        self.encoder = Stack(spec)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ids and mask (B, L) -> states (B, L, d_model)."""
        return self.encoder(self.shared(ids), mask)


class Stack(nn.Module):
    """All layers and the final norm."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.block = nn.ModuleList([Block(spec, i == 0) for i in range(spec.num_layers)])
        self.final_layer_norm = RMSNorm(spec.d_model, spec.layer_norm_epsilon)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        bias = self.block[0].layer[0].SelfAttention.bias(x.shape[1])
        bias = bias + (1.0 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        for block in self.block:
            for layer in block.layer:
                x = layer(x, bias)
        return self.final_layer_norm(x)


class Block(nn.Module):
    """Attention and feed-forward."""

    def __init__(self, spec: Any, has_bias: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList([AttentionLayer(spec, has_bias), FeedForwardLayer(spec)])


class RMSNorm(nn.Module):
    """By the mean square, in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        variance = x.float().pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(variance + self.eps)).to(self.weight.dtype)


class AttentionLayer(nn.Module):
    """Norm, attention, sum."""

    def __init__(self, spec: Any, has_bias: bool) -> None:
        super().__init__()
        self.SelfAttention = Attention(spec, has_bias)
        self.layer_norm = RMSNorm(spec.d_model, spec.layer_norm_epsilon)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return x + self.SelfAttention(self.layer_norm(x), bias)


class Attention(nn.Module):
    """Attention without scaling, with a bias by distance."""

    def __init__(self, spec: Any, has_bias: bool) -> None:
        super().__init__()
        self.heads = spec.num_heads
        self.buckets, self.most = spec.relative_attention_num_buckets, spec.relative_attention_max_distance
        inner = spec.num_heads * spec.d_kv
        self.q = nn.Linear(spec.d_model, inner, bias=False)
        self.k = nn.Linear(spec.d_model, inner, bias=False)
        self.v = nn.Linear(spec.d_model, inner, bias=False)
        self.o = nn.Linear(inner, spec.d_model, bias=False)
        if has_bias:
            self.relative_attention_bias = nn.Embedding(self.buckets, spec.num_heads)

    def bias(self, length: int) -> Tensor:
        """(1, A, L, L)."""
        table = self.relative_attention_bias
        places = torch.arange(length, device=table.weight.device)
        distance = places[None, :] - places[:, None]
        half = self.buckets // 2
        exact = half // 2
        size = distance.abs()
        steps = torch.log(size.clamp(min=1).double() / exact) / math.log(self.most / exact) * (half - exact)
        far = (exact + (steps + 1e-6).long()).clamp(max=half - 1)
        buckets = torch.where(distance > 0, half, 0) + torch.where(size < exact, size, far)
        return table(buckets).permute(2, 0, 1)[None]

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            project(x).view(batch, length, self.heads, -1).transpose(1, 2) for project in (self.q, self.k, self.v)
        )
        scores = torch.matmul(q, k.transpose(3, 2)) + bias
        shares = functional.softmax(scores.float(), dim=-1).type_as(scores)
        return self.o(torch.matmul(shares, v).transpose(1, 2).reshape(batch, length, -1))


class FeedForwardLayer(nn.Module):
    """Norm, gated feed-forward, sum."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.DenseReluDense = GatedGELU(spec)
        self.layer_norm = RMSNorm(spec.d_model, spec.layer_norm_epsilon)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return x + self.DenseReluDense(self.layer_norm(x))


class GatedGELU(nn.Module):
    """GELU of one projection times another."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.wi_0 = nn.Linear(spec.d_model, spec.d_ff, bias=False)
        self.wi_1 = nn.Linear(spec.d_model, spec.d_ff, bias=False)
        self.wo = nn.Linear(spec.d_ff, spec.d_model, bias=False)
        self.act = nn.GELU(approximate="tanh")

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(self.act(self.wi_0(x)) * self.wi_1(x))
