"""Attention: the kernels to choose from, skiparse arrangements and text lengths on the device, rotary positions.

A model is given an Attend and knows nothing of what is behind it. Queries, keys and values are (B, N, A, K): tokens
before heads, as the projections leave them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from mindspore import Tensor, float32, ops
from mindspore.mint import cat

from duosora.core.errors import ConfigError
from duosora.core.maths.rope import NUM_PARTS
from duosora.core.maths.skiparse import AttentionPlan, Run, TextPlan

from .layers import cast, place, to_float32
from .operators import addcmul, exchange, expand, reorder, softmax, swap_halves

KERNELS = ("sdpa", "math", "flash")
"""Products in the model's dtype with softmax in float32, the default on a CPU; all in float32; Ascend's
FlashAttentionScore, the default there in half precision."""
FLASH_MAX_HEAD_DIM = 512
MOST_HEADS = 256
MOST_SAMPLES = 2048
"""Of one call of a kernel, as FlashAttentionScore has them."""
_FLASH_HEAD_DIM_UNIT = 16
"""Of which FlashAttentionScore takes multiples only."""
_PRODUCT = ops.BatchMatMul(transpose_b=True)
_MIXTURE = ops.BatchMatMul()
_LEFT_OUT = -3.0e38
"""Score of a key that is left out; finite, because MindSpore's softmax of a row of -inf is 0."""

Kernel = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Tensor]
"""q (B, N, A, K), k and v (B, M, A, K), keep (B, 1 or A, 1, M) booleans or None -> (B, N, A, K)."""


@dataclass(frozen=True)
class Arrangement:
    """A core.maths.skiparse.AttentionPlan with its tables on the device."""

    runs: tuple[Run, ...]
    order: Tensor | None
    inverse: Tensor | None
    keep: Tensor | None
    silent: Tensor | None

    @property
    def num_tokens(self) -> int:
        """Of the whole sequence."""
        return self.runs[-1].part.stop

    def arrange(self, x: Tensor) -> Tensor:
        """Tokens (B, N, ...) in the order of the runs."""
        return x if self.order is None or self.inverse is None else reorder(x, self.order, self.inverse)

    def restore(self, x: Tensor) -> Tensor:
        """Arranged tokens (B, N, ...) in their own order."""
        return x if self.order is None or self.inverse is None else reorder(x, self.inverse, self.order)


@dataclass(frozen=True)
class TextKeys:
    """Which of the M cross-attention keys count in each text of a batch; both are None when all do."""

    lengths: tuple[int, ...] | None
    """How many from the first on, known on the host."""
    keep: Tensor | None
    """The same as booleans (B, 1, 1, M)."""


class Attend(Protocol):
    """The attention that a model is built with."""

    def self_attention(self, q: Tensor, k: Tensor, v: Tensor, arrangement: Arrangement) -> Tensor:
        """Attention among tokens in their own order, all (B, N, A, K), inside the arrangement's sub-sequences."""

    def cross_attention(self, q: Tensor, k: Tensor, v: Tensor, text: TextKeys) -> Tensor:
        """Attention of tokens (B, N, A, K) to texts (B, M, A, K)."""

    def whole(self, x: Tensor, num_tokens: int) -> Tensor:
        """Tokens (B, N, D) that may be those of one rank -> those of the whole sequence."""

    def total(self, x: Tensor) -> Tensor:
        """The sum of the tokens (B, N, D) of all ranks, (B, 1, D)."""


class KernelAttend:
    """Attention by one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def self_attention(self, q: Tensor, k: Tensor, v: Tensor, arrangement: Arrangement) -> Tensor:
        q, k, v = arrangement.arrange(q), arrangement.arrange(k), arrangement.arrange(v)
        results = [self._attend_in_run(run, q, k, v, arrangement.keep) for run in arrangement.runs]
        mixed = results[0] if len(results) == 1 else cat(results, 1)
        if arrangement.silent is not None:
            mixed = mixed.masked_fill(arrangement.silent.unsqueeze(2).unsqueeze(3), 0.0)
        return arrangement.restore(mixed)

    def cross_attention(self, q: Tensor, k: Tensor, v: Tensor, text: TextKeys) -> Tensor:
        return self.kernel(q, k, v, text.keep)

    def whole(self, x: Tensor, num_tokens: int) -> Tensor:
        return x

    def total(self, x: Tensor) -> Tensor:
        return x.sum(1, keepdims=True)

    def _attend_in_run(self, run: Run, q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None) -> Tensor:
        batch, _, heads, width = q.shape
        fold = run.fold(heads, MOST_HEADS)
        groups = run.count // fold
        is_view = run.in_turn or groups == 1  # see core's Run

        def as_heads(x: Tensor) -> Tensor:
            x = x[:, run.part]
            if not is_view:
                x = x.reshape(batch, run.length, groups, fold * heads, width).swapaxes(1, 2)
            return x.reshape(batch * groups, run.length, fold * heads, width)

        if keep is not None:
            of_run = keep[:, run.part].reshape(batch, *run.shape)
            by_sequence = of_run if run.in_turn else of_run.swapaxes(1, 2)  # (B, count, length)
            by_head = by_sequence.unsqueeze(2).broadcast_to((batch, run.count, heads, run.length))
            keep = by_head.reshape(batch * groups, fold * heads, 1, run.length)
        mixed = self._attend_in_parts(as_heads(q), as_heads(k), as_heads(v), keep)
        if not is_view:
            mixed = mixed.reshape(batch, groups, run.length, fold * heads, width).swapaxes(1, 2)
        return mixed.reshape(batch, run.length * run.count, heads, width)

    def _attend_in_parts(self, q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None) -> Tensor:
        if q.shape[0] <= MOST_SAMPLES:
            return self.kernel(q, k, v, keep)
        starts = range(0, q.shape[0], MOST_SAMPLES)
        parts = [slice(start, start + MOST_SAMPLES) for start in starts]
        return cat([self.kernel(q[part], k[part], v[part], None if keep is None else keep[part]) for part in parts], 0)


class FlashAttend(KernelAttend):
    """Attention by FlashAttentionScore, whose masks hold every pair of query and key: texts are attended to one by one,
    each at its own length, and need none."""

    def cross_attention(self, q: Tensor, k: Tensor, v: Tensor, text: TextKeys) -> Tensor:
        if text.lengths is None:
            return self.kernel(q, k, v, None)
        one_by_one = [
            self.kernel(q[i : i + 1], k[i : i + 1, :length], v[i : i + 1, :length], None)
            for i, length in enumerate(text.lengths)
        ]
        return cat(one_by_one, 0)


def make_attend(name: str, device: str, dtype: str) -> Attend:
    """The attention of a kernel's name, one of KERNELS or "auto", for a device and a compute dtype.

    Raises: ConfigError for an unknown name and for a device or dtype that the kernel is not made for.
    """
    if name not in ("auto", *KERNELS):
        raise ConfigError(f"attention = {name!r}: needs one of auto, {', '.join(KERNELS)}")
    if name == "auto":
        name = "flash" if "flash" in kernels(device) and dtype != "fp32" else "sdpa"
    if name != "flash":
        return KernelAttend(sdpa if name == "sdpa" else math)
    if "flash" not in kernels(device):
        raise ConfigError(f"attention = 'flash' needs an Ascend NPU, not {device!r}; use 'sdpa'")
    if dtype == "fp32":
        raise ConfigError("attention = 'flash' computes in fp16 or bf16, not fp32; use 'sdpa' or another dtype")
    return FlashAttend(_flash)


def kernels(device: str) -> tuple[str, ...]:
    """The kernels that work on a device."""
    return KERNELS if device.startswith("npu") else tuple(name for name in KERNELS if name != "flash")


def sdpa(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(K)) v with products in the tensors' dtype; a mask is broadcast over heads and queries."""
    scale = q.shape[-1] ** -0.5
    if q.dtype == float32:  # in half precision rounding would count
        return _mix(_PRODUCT(exchange(ops.mul(q, scale)), exchange(k)), v, keep)  # of (B, A, N, M)
    return _mix(_PRODUCT(exchange(q), exchange(k)) * scale, v, keep)


def math(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(K)) v written out, in float32: the reference for the others."""
    return cast(sdpa(to_float32(q), to_float32(k), to_float32(v), keep), like=q)


def biased_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention without scaling and with a bias on the scores, as T5 has it.

    q, k, v (B, L, A, K), bias (B or 1, A, L, L) -> (B, L, A, K); scores and softmax in float32 in any dtype.
    """
    scores = _PRODUCT(exchange(to_float32(q)), exchange(to_float32(k)))
    return _mix(scores + to_float32(bias), v, None)


def _mix(scores: Tensor, v: Tensor, keep: Tensor | None) -> Tensor:
    """Values (B, M, A, K) mixed by the softmax, in float32, of scores (B, A, N, M): (B, N, A, K)."""
    scores = to_float32(scores)
    if keep is not None:
        scores = scores.masked_fill(ops.logical_not(keep), _LEFT_OUT)
    shares = cast(softmax(scores), like=v)
    return exchange(_MIXTURE(shares, exchange(v)))


def rotate(x: Tensor, cosines: Tensor, sines: Tensor, parts: int = NUM_PARTS) -> Tensor:
    """Turn queries or keys (B, N, A, K) to their positions by the tables (N, K) of core.maths.rope; in float32.

    parts: of a head, in each of which the halves are exchanged; K / 2 for tables whose pairs are neighbours.
    """
    wide = to_float32(x)
    swapped = swap_halves(wide, parts)
    turned = addcmul(wide * expand(cosines.unsqueeze(1), x.shape), swapped, sines.unsqueeze(1))
    return cast(turned, like=x)


def place_plan(plan: AttentionPlan, device: str) -> Arrangement:
    """An attention plan with its tables on a device."""
    tables = (plan.order, plan.inverse, plan.keep, plan.silent)
    return Arrangement(plan.runs, *(None if table is None else place(table, device) for table in tables))


def place_text(plan: TextPlan, num_keys: int, device: str) -> TextKeys:
    """What a text plan says of the keys that it picks, on a device."""
    if plan.lengths is None:
        return TextKeys(None, None)
    keep = np.arange(num_keys) < np.array(plan.lengths)[:, None]
    return TextKeys(plan.lengths, place(keep[:, None, None], device))


def _flash(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None) -> Tensor:
    """Ascend's FlashAttentionScore, which takes (B, N, A, K) as it is under the name BSND."""
    heads, width = q.shape[2:]
    if width > FLASH_MAX_HEAD_DIM:
        raise ConfigError(f"attention = 'flash' takes heads up to {FLASH_MAX_HEAD_DIM} wide, not {width}; use 'sdpa'")
    mask = None
    if keep is not None:
        # Its mask is the other way round, True leaves out, and is not broadcast over queries.
        heads_of_mask = keep.shape[1]
        mask = ops.logical_not(keep).broadcast_to((q.shape[0], heads_of_mask, q.shape[1], k.shape[1]))
    missing = -width % _FLASH_HEAD_DIM_UNIT
    if missing:
        q, k, v = (ops.pad(x, (0, missing)) for x in (q, k, v))
    mixed = ops.flash_attention_score(q, k, v, heads, attn_mask=mask, scalar_value=width**-0.5, input_layout="BSND")
    return mixed[..., :width] if missing else mixed
