"""What a run holds and sends on each rank, in bytes, before it is started: whole numbers only.

What stands in memory beside it (the framework, its caches, the encoders, fragments) is not counted.
"""

from __future__ import annotations

from typing import NamedTuple

from ..maths.parts import Blocks
from ..models.kinds import Costs
from .counting import attention_bytes, prediction_bytes

ITEMSIZE = {"fp32": 4, "bf16": 2, "fp16": 2}
KEPT = {"fp32": 95, "bf16": 60, "fp16": 60}
"""Bytes that a block keeps for the backward pass, for each token and unit of its width; tests measure it on torch."""
RESIDUAL = 4
"""Of them those of the block's input, the tokens in float32: what stays where a block is computed again."""
WORKING = 11
"""Elements for each token and unit of width while a block computes without gradients: its input, the modulated one,
what comes of it, and the widened ones of the feed-forward before and after their activation."""


class State(NamedTuple):
    """Bytes of a model in training on each rank, activations not counted."""

    weights: int
    """In float32: the rank's own, or those of all ranks brought together for the passes."""
    slices: int
    """Of the weights, beside what is brought together."""
    casts: int
    """The weights in the dtype of the passes."""
    gradients: int
    moments: int
    """Of AdamW: two."""
    average: int

    @property
    def total(self) -> int:
        return sum(self)


def training_state(
    num_parameters: int, ranks: int, zero: int, dtype: str = "bf16", keeps_ema: bool = True, num_blocks: int = 1
) -> State:
    """Of a model whose state so many ranks share; num_blocks: parts of the model that zero = 3 brings together, one
    while the one before still stands.

    Rajbhandari et al. 2020, arXiv:1910.02054, with what the passes need on top.
    """
    whole = ITEMSIZE["fp32"] * num_parameters
    own = ITEMSIZE["fp32"] * Blocks(num_parameters, ranks).length
    is_split = zero > 0 and ranks > 1
    share = own if is_split else whole
    together = whole * min(2, num_blocks) // num_blocks if is_split and zero == 3 else whole
    return State(
        weights=together,
        slices=own if is_split else 0,
        casts=0 if dtype == "fp32" else ITEMSIZE[dtype] * num_parameters,
        gradients=share,
        moments=2 * share,
        average=share if keeps_ema else 0,
    )


def activation_bytes(
    costs: Costs, batch: int, num_tokens: int, sequence: int, dtype: str = "bf16", recompute_every: int = 0
) -> int:
    """Kept by all blocks for the backward pass, on each of so many ranks that share the tokens.

    With recomputation only a block's input stays of every n-th block, and one of these stands whole at a time.
    """
    of_one = batch * Blocks(num_tokens, sequence).length * costs.width
    again = -(-costs.layers // recompute_every) if recompute_every else 0
    whole = costs.layers - again + min(1, again)
    return of_one * (KEPT[dtype] * whole + RESIDUAL * again)


def inference_bytes(costs: Costs, batch: int, num_tokens: int, sequence: int, dtype: str = "bf16") -> int:
    """At the widest point of a network call without gradients, on each of so many ranks that share the tokens."""
    return WORKING * ITEMSIZE[dtype] * batch * Blocks(num_tokens, sequence).length * costs.width


def call_bytes(costs: Costs, batch: int, num_tokens: int, sequence: int, dtype: str = "bf16") -> int:
    """Sent by each of the ranks that share the tokens of a network call."""
    heads, head_dim, itemsize = costs.heads, costs.head_dim, ITEMSIZE[dtype]
    attention = attention_bytes(batch, num_tokens, heads, head_dim, itemsize, sequence)
    return costs.layers * attention + prediction_bytes(batch, num_tokens, costs.outputs, itemsize, sequence)


def micro_batch_bytes(
    costs: Costs, batch: int, num_tokens: int, sequence: int, dtype: str = "bf16", recomputes: bool = False
) -> int:
    """Sent by each of the ranks that share the tokens, forward and backward: the gradients take the attention's way
    back, those of the predictions are there already; blocks that are computed again send again."""
    heads, head_dim, itemsize = costs.heads, costs.head_dim, ITEMSIZE[dtype]
    attention = costs.layers * attention_bytes(batch, num_tokens, heads, head_dim, itemsize, sequence)
    return call_bytes(costs, batch, num_tokens, sequence, dtype) + attention * (2 if recomputes else 1)


def state_bytes(num_parameters: int, ranks: int, zero: int, micro_batches: int = 1) -> int:
    """Sent by each rank in an optimiser step for weights and gradients in float32, micro_batches being a rank's own.

    zero = 0 adds gradients up once, there and back. 2 brings weights together once and adds gradients up into slices
    for each micro-batch, 3 brings weights together for each forward and each backward pass. This is torch's way;
    MindSpore, which has 0 and 2, exchanges gradients once in a step.
    """
    slice_to_others = ITEMSIZE["fp32"] * Blocks(num_parameters, ranks).length * (ranks - 1)
    times = {0: 2, 2: 1 + micro_batches, 3: 3 * micro_batches}[zero]
    return times * slice_to_others
