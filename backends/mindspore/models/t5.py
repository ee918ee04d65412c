"""The encoder of mT5 and T5 v1.1, built from a core.models.t5.T5Spec.

RMS norms without bias, attention without scaling, one table of relative position biases shared by all layers, gated
GELU. Attribute names are transformers', as the weights' names follow from them.
Source: Raffel et al. 2020 (arXiv:1910.10683), Xue et al. 2021 (arXiv:2010.11934).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mindspore import Tensor, nn

from duosora.core.maths.relative_position import relative_buckets
from duosora.core.models.t5 import T5Spec

from ..attention import Attend, biased_attention
from ..layers import (
    Embedding,
    Linear,
    ModuleList,
    RMSNorm,
    clamp_to_dtype,
    device_of,
    lower_where_zero,
    place,
    to_float32,
)
from ..operators import gelu_tanh
from ..text_encoder import TextEncoder


def create(spec: T5Spec, attend: Attend) -> T5Encoder:
    """The model of a spec, without its weights."""
    return T5Encoder(spec)


class T5Encoder(TextEncoder):
    """The encoder: token ids to text states, or where the spec says `pooled` to the mean of those of each text.

    States of padding are computed too. Positions are relative and padding is masked, so a batch may be cut to its
    longest text without changing the states of real tokens.
    """

    def __init__(self, spec: T5Spec) -> None:
        super().__init__()
        self.spec = spec
        self.shared = Embedding(spec.vocab_size, spec.d_model)
        self.encoder = Stack(spec)

    def blocks(self) -> Iterator[Any]:
        """All blocks in the order of the forward."""
        return iter(self.encoder.block)

    def embed(self, ids: Tensor) -> Tensor:
        """Ids (B, L) -> tokens (B, L, d_model)."""
        return self.shared(ids)

    def bias(self, x: Tensor, mask: Tensor) -> Tensor:
        """Of the distances between tokens, and lowest where a token does not count: (B, A, L, L)."""
        bias = self.encoder.block[0].layer[0].SelfAttention.relative_bias(x.shape[1])
        return lower_where_zero(bias, mask[:, None, None])

    def finish(self, x: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Tokens after the last block -> states (B, L, d_model) float32, or their mean (B, d_model)."""
        states = to_float32(self.encoder.final_layer_norm(x))
        if not self.spec.pooled:
            return states
        counts = to_float32(mask > 0)[:, :, None]
        return (states * counts).sum(1) / counts.sum(1)


class Stack(nn.Cell):
    """All layers and the final norm."""

    def __init__(self, spec: T5Spec) -> None:
        super().__init__()
        self.block: Any = ModuleList([Block(spec, has_relative_bias=i == 0) for i in range(spec.num_layers)])
        self.final_layer_norm = RMSNorm(spec.d_model, eps=spec.layer_norm_epsilon)


class Block(nn.Cell):
    """Attention, then feed-forward."""

    def __init__(self, spec: T5Spec, has_relative_bias: bool) -> None:
        super().__init__()
        self.layer = ModuleList([AttentionLayer(spec, has_relative_bias), FeedForwardLayer(spec)])

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        # In fp16 large states would overflow to infinity; transformers clamps them at the same places.
        x = clamp_to_dtype(self.layer[0](x, bias))
        return clamp_to_dtype(self.layer[1](x))


class AttentionLayer(nn.Cell):
    """Norm and attention, added to the states."""

    def __init__(self, spec: T5Spec, has_relative_bias: bool) -> None:
        super().__init__()
        self.SelfAttention = Attention(spec, has_relative_bias)
        self.layer_norm = RMSNorm(spec.d_model, eps=spec.layer_norm_epsilon)

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        return x + self.SelfAttention(self.layer_norm(x), bias)


class Attention(nn.Cell):
    """Attention without scaling; the heads together may be wider or narrower than the states."""

    def __init__(self, spec: T5Spec, has_relative_bias: bool) -> None:
        super().__init__()
        self.spec = spec
        self.q = Linear(spec.d_model, spec.inner_dim, bias=False)
        self.k = Linear(spec.d_model, spec.inner_dim, bias=False)
        self.v = Linear(spec.d_model, spec.inner_dim, bias=False)
        self.o = Linear(spec.inner_dim, spec.d_model, bias=False)
        if has_relative_bias:
            self.relative_attention_bias = Embedding(spec.relative_attention_num_buckets, spec.num_heads)

    def relative_bias(self, length: int) -> Tensor:
        """The bias on the scores of a text of L tokens, (1, A, L, L)."""
        spec = self.spec
        buckets = relative_buckets(length, spec.relative_attention_num_buckets, spec.relative_attention_max_distance)
        table = self.relative_attention_bias
        return table(place(buckets, device_of(table.weight))).permute(2, 0, 1)[None]

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (self.split_heads(project(x)) for project in (self.q, self.k, self.v))
        return self.o(biased_attention(q, k, v, bias).reshape(*x.shape[:2], self.spec.inner_dim))

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, L, A * K) -> (B, L, A, K)."""
        return x.reshape(*x.shape[:2], self.spec.num_heads, self.spec.d_kv)


class FeedForwardLayer(nn.Cell):
    """Norm and feed-forward, added to the states."""

    def __init__(self, spec: T5Spec) -> None:
        super().__init__()
        self.DenseReluDense = DenseGatedGELU(spec)
        self.layer_norm = RMSNorm(spec.d_model, eps=spec.layer_norm_epsilon)

    def construct(self, x: Tensor) -> Tensor:
        return x + self.DenseReluDense(self.layer_norm(x))


class DenseGatedGELU(nn.Cell):
    """GELU (tanh) of one projection gates the other."""

    def __init__(self, spec: T5Spec) -> None:
        super().__init__()
        self.wi_0 = Linear(spec.d_model, spec.d_ff, bias=False)
        self.wi_1 = Linear(spec.d_model, spec.d_ff, bias=False)
        self.wo = Linear(spec.d_ff, spec.d_model, bias=False)

    def construct(self, x: Tensor) -> Tensor:
        return self.wo(gelu_tanh(self.wi_0(x)) * self.wi_1(x))
