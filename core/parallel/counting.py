"""Bytes that one rank sends to others, by formula. The groups of the backends count the same; tests compare."""

from __future__ import annotations

from ..maths.parts import Blocks

_EXCHANGED = 4
"""Queries, keys and values to whole sequences of some heads, and what comes out back to blocks of tokens."""


def attention_bytes(batch: int, num_tokens: int, heads: int, head_dim: int, itemsize: int, ranks: int) -> int:
    """Of one self-attention whose sequence is shared by so many ranks, itemsize being of an element.

    Four tensors of a rank's block of tokens and all heads, both padded to what the ranks divide; of each one rank's
    share stays. Source: Jacobs et al. 2023, arXiv:2309.14509.
    """
    block = Blocks(num_tokens, ranks).length
    heads_per_rank = Blocks(heads, ranks).length
    return _EXCHANGED * (ranks - 1) * batch * block * heads_per_rank * head_dim * itemsize


def prediction_bytes(batch: int, num_tokens: int, outputs: int, itemsize: int, ranks: int) -> int:
    """Of bringing the predictions of all tokens together at the end of a network call; outputs are those of a token."""
    return (ranks - 1) * batch * Blocks(num_tokens, ranks).length * outputs * itemsize
