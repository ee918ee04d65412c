"""CLIP's text encoder, built from a core.models.clip_text.ClipTextSpec.

Norms before attention and feed-forward, learned positions, a causal mask. Attribute names are transformers', as the
weights' names follow from them.
Source: Radford et al. 2021 (arXiv:2103.00020).
"""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn

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


def create(spec: ClipTextSpec, attend: Attend) -> ClipTextEncoder:
    """The model of a spec, without its weights."""
    return ClipTextEncoder(spec)


def quick_gelu(x):
    """GELU as OpenAI approximated it for CLIP."""
    return x * (1.702 * x).sigmoid()


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": gelu_erf}


class ClipTextEncoder(nn.Cell):
    """The encoder: token ids to states, or to one vector for a text."""

    def __init__(self, spec: ClipTextSpec) -> None:
        super().__init__()
        self.spec = spec
        self.text_model = TextTransformer(spec)
        if spec.projection_dim:
            self.text_projection = Linear(spec.hidden_size, spec.projection_dim, bias=False)

    def construct(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ids (B, L) and mask (B, L), above 0 where a token counts -> states (B, L, D), or (B, D), float32.

        A token sees those before it only, so padding behind a text changes none of the text's states.
        Raises: ShapeError when there are more tokens than positions.
        """
        states = self.text_model(ids, mask)
        if not self.spec.pooled:
            return to_float32(states)
        ends = ids if self.spec.eos_token_id == LARGEST_ID else ids == self.spec.eos_token_id
        vector = take_tokens(states, first_largest(ends))[:, 0]
        return to_float32(self.text_projection(vector) if self.spec.projection_dim else vector)


class TextTransformer(nn.Cell):
    """Embeddings, all layers and the final norm."""

    def __init__(self, spec: ClipTextSpec) -> None:
        super().__init__()
        self.embeddings = Embeddings(spec)
        self.encoder = Encoder(spec)
        self.final_layer_norm = LayerNorm(spec.hidden_size, eps=spec.layer_norm_eps)

    def construct(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.embeddings(ids)
        table = np.tril(np.ones((ids.shape[1], ids.shape[1]), np.float32))
        causal = cast(place(table, device_of(x)), like=x)[None, None]  # (1, 1, L, L)
        bias = lower_where_zero(lower_where_zero(causal * 0, causal), mask[:, None, None])  # (B, 1, L, L)
        return self.final_layer_norm(self.encoder(x, bias))


class Embeddings(nn.Cell):
    """Tokens by their ids, plus their places."""

    def __init__(self, spec: ClipTextSpec) -> None:
        super().__init__()
        self.positions = spec.max_position_embeddings
        self.token_embedding = Embedding(spec.vocab_size, spec.hidden_size)
        self.position_embedding = Embedding(spec.max_position_embeddings, spec.hidden_size)

    def construct(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        if length > self.positions:
            raise ShapeError(f"{length} tokens: the CLIP text encoder takes at most {self.positions}; cut the text")
        return self.token_embedding(ids) + self.position_embedding.weight[:length]


class Encoder(nn.Cell):
    """All layers."""

    def __init__(self, spec: ClipTextSpec) -> None:
        super().__init__()
        self.layers = ModuleList([Layer(spec) for _ in range(spec.num_hidden_layers)])

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, bias)
        return x


class Layer(nn.Cell):
    """Attention, then feed-forward, each after a norm."""

    def __init__(self, spec: ClipTextSpec) -> None:
        super().__init__()
        self.self_attn = Attention(spec)
        self.layer_norm1 = LayerNorm(spec.hidden_size, eps=spec.layer_norm_eps)
        self.mlp = FeedForward(spec)
        self.layer_norm2 = LayerNorm(spec.hidden_size, eps=spec.layer_norm_eps)

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), bias)
        return x + self.mlp(self.layer_norm2(x))


class Attention(nn.Cell):
    """Attention among the tokens that a bias on the scores lets through."""

    def __init__(self, spec: ClipTextSpec) -> None:
        super().__init__()
        width = spec.hidden_size
        self.heads, self.head_dim = spec.num_attention_heads, width // spec.num_attention_heads
        self.k_proj, self.v_proj = Linear(width, width), Linear(width, width)
        self.q_proj, self.out_proj = Linear(width, width), Linear(width, width)

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (self.split_heads(project(x)) for project in (self.q_proj, self.k_proj, self.v_proj))
        mixed = biased_attention(q * self.head_dim**-0.5, k, v, bias)
        return self.out_proj(mixed.reshape(x.shape))

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, L, A * K) -> (B, L, A, K)."""
        return x.reshape(*x.shape[:2], self.heads, self.head_dim)


class FeedForward(nn.Cell):
    """Two linear layers with an activation between them."""

    def __init__(self, spec: ClipTextSpec) -> None:
        super().__init__()
        self.fc1 = Linear(spec.hidden_size, spec.intermediate_size)
        self.fc2 = Linear(spec.intermediate_size, spec.hidden_size)
        self.activate = ACTIVATIONS[spec.hidden_act]

    def construct(self, x: Tensor) -> Tensor:
        return self.fc2(self.activate(self.fc1(x)))
