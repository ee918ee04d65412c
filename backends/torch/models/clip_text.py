"""CLIP's text encoder, built from a core.models.clip_text.ClipTextSpec.

Norms before attention and feed-forward, learned positions, a causal mask. Attribute names are transformers', as the
weights' names follow from them.
Source: Radford et al. 2021 (arXiv:2103.00020).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn

from duosora.core.errors import ShapeError
from duosora.core.models.clip_text import LARGEST_ID, ClipTextSpec

from ..attention import Attend, biased_attention
from ..layers import (
    Embedding,
    LayerNorm,
    Linear,
    ModuleList,
    cast,
    device_of,
    first_largest,
    gelu_erf,
    lower_where_zero,
    place,
    take_tokens,
    to_float32,
)
from ..text_encoder import TextEncoder


def create(spec: ClipTextSpec, attend: Attend) -> ClipTextEncoder:
    """The model of a spec, without its weights."""
    return ClipTextEncoder(spec)


def quick_gelu(x):
    """GELU as OpenAI approximated it for CLIP."""
    return x * (1.702 * x).sigmoid()


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": gelu_erf}


class ClipTextEncoder(TextEncoder):
    """The encoder: token ids to states, or to one vector for a text.

    A token sees those before it only, so padding behind a text changes none of the text's states.
    """

    def __init__(self, spec: ClipTextSpec) -> None:
        super().__init__()
        self.spec = spec
        self.text_model = TextTransformer(spec)
        if spec.projection_dim:
            self.text_projection = Linear(spec.hidden_size, spec.projection_dim, bias=False)

    def blocks(self) -> Iterator[Any]:
        """All blocks in the order of the forward."""
        return iter(self.text_model.encoder.layers)

    def embed(self, ids: Tensor) -> Tensor:
        """Ids (B, L) -> tokens (B, L, D). Raises: ShapeError when there are more tokens than positions."""
        return self.text_model.embeddings(ids)

    def bias(self, x: Tensor, mask: Tensor) -> Tensor:
        """Lowest where a token comes later or does not count: (B, 1, L, L)."""
        table = np.tril(np.ones((x.shape[1], x.shape[1]), np.float32))
        causal = cast(place(table, device_of(x)), like=x)[None, None]  # (1, 1, L, L)
        return lower_where_zero(lower_where_zero(causal * 0, causal), mask[:, None, None])

    def finish(self, x: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Tokens after the last block -> states (B, L, D), or of each text one vector (B, D), float32."""
        states = self.text_model.final_layer_norm(x)
        if not self.spec.pooled:
            return to_float32(states)
        ends = ids if self.spec.eos_token_id == LARGEST_ID else ids == self.spec.eos_token_id
        vector = take_tokens(states, first_largest(ends))[:, 0]
        return to_float32(self.text_projection(vector) if self.spec.projection_dim else vector)


class TextTransformer(nn.Module):
    """Embeddings, all layers and the final norm."""

    def __init__(self, spec: ClipTextSpec) -> None:
        super().__init__()
        self.embeddings = Embeddings(spec)
        self.encoder = Encoder(spec)
        self.final_layer_norm = LayerNorm(spec.hidden_size, eps=spec.layer_norm_eps)


class Embeddings(nn.Module):
    """Tokens by their ids, plus their places."""

    def __init__(self, spec: ClipTextSpec) -> None:
        super().__init__()
        self.positions = spec.max_position_embeddings
        self.token_embedding = Embedding(spec.vocab_size, spec.hidden_size)
        self.position_embedding = Embedding(spec.max_position_embeddings, spec.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        if length > self.positions:
            raise ShapeError(f"{length} tokens: the CLIP text encoder takes at most {self.positions}; cut the text")
        return self.token_embedding(ids) + self.position_embedding.weight[:length]


class Encoder(nn.Module):
    """All layers."""

    def __init__(self, spec: ClipTextSpec) -> None:
        super().__init__()
        self.layers = ModuleList([Layer(spec) for _ in range(spec.num_hidden_layers)])


class Layer(nn.Module):
    """Attention, then feed-forward, each after a norm."""

    def __init__(self, spec: ClipTextSpec) -> None:
        super().__init__()
        self.self_attn = Attention(spec)
        self.layer_norm1 = LayerNorm(spec.hidden_size, eps=spec.layer_norm_eps)
        self.mlp = FeedForward(spec)
        self.layer_norm2 = LayerNorm(spec.hidden_size, eps=spec.layer_norm_eps)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), bias)
        return x + self.mlp(self.layer_norm2(x))


class Attention(nn.Module):
    """Attention among the tokens that a bias on the scores lets through."""

    def __init__(self, spec: ClipTextSpec) -> None:
        super().__init__()
        width = spec.hidden_size
        self.heads, self.head_dim = spec.num_attention_heads, width // spec.num_attention_heads
        self.k_proj, self.v_proj = Linear(width, width), Linear(width, width)
        self.q_proj, self.out_proj = Linear(width, width), Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (self.split_heads(project(x)) for project in (self.q_proj, self.k_proj, self.v_proj))
        mixed = biased_attention(q * self.head_dim**-0.5, k, v, bias)
        return self.out_proj(mixed.reshape(x.shape))

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, L, A * K) -> (B, L, A, K)."""
        return x.reshape(*x.shape[:2], self.heads, self.head_dim)


class FeedForward(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, spec: ClipTextSpec) -> None:
        super().__init__()
        self.fc1 = Linear(spec.hidden_size, spec.intermediate_size)
        self.fc2 = Linear(spec.intermediate_size, spec.hidden_size)
        self.activate = ACTIVATIONS[spec.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activate(self.fc1(x)))
