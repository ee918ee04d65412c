"""Attention: the kernels to choose from, skiparse arrangements and text lengths on the device, rotary positions.

A model is given an Attend and knows nothing of what is behind it. Queries, keys and values are (B, N, A, K): tokens
before heads, as the projections leave them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from typing import Any, Protocol

import torch
from torch import Tensor, cat
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from duosora.core.errors import ConfigError
from duosora.core.extras import needs_extra
from duosora.core.maths.rope import NUM_PARTS
from duosora.core.maths.skiparse import AttentionPlan, Run, TextPlan

from .layers import place
from .operators import exchange, linear, reorder, softmax, swap_halves

KERNELS = ("sdpa", "math", "onednn", "cudnn", "flash")
"""torch's own fused attention; the formula written out, in float32; products by oneDNN, the default on CPUs; sdpa with
cuDNN's before all others, the default on GPUs from the Hopper generation on; flash-attn's, for GPUs."""
FLASH_MAX_HEAD_DIM = 256
MOST_HEADS = 65_535
MOST_SAMPLES = 65_535
"""Of one call of a kernel: CUDA's grids have no more blocks along their second and third axes."""
_FLASH_MIN_CAPABILITY = (8, 0)
_CUDNN_MIN_CAPABILITY = (9, 0)
"""Older ones do as well with flash-attention 2, which is torch's first choice."""
_LEAST_SCORES = 2**22
"""Queries times keys times K, from which on it pays to go head by head."""
_MOST_SCORES = 2**19
"""Scores that are there at a time, so that they stay in the processor's cache."""

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
        # One after the other, so that what a caller has let go of is free before the next is made.
        q = arrangement.arrange(q)
        k = arrangement.arrange(k)
        v = arrangement.arrange(v)
        results = [self._attend_in_run(run, q, k, v, arrangement.keep) for run in arrangement.runs]
        mixed = results[0] if len(results) == 1 else cat(results, 1)
        if arrangement.silent is not None:
            mixed = mixed.masked_fill(arrangement.silent[:, :, None, None], 0.0)
        return arrangement.restore(mixed)

    def cross_attention(self, q: Tensor, k: Tensor, v: Tensor, text: TextKeys) -> Tensor:
        return self.kernel(q, k, v, text.keep)

    def whole(self, x: Tensor, num_tokens: int) -> Tensor:
        return x

    def total(self, x: Tensor) -> Tensor:
        return x.sum(1, keepdim=True)

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
            keep = by_sequence.reshape(batch * groups, fold, 1, run.length).repeat_interleave(heads, 1)
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
    """Attention by flash-attn, which knows no masks: texts are attended to one by one, each at its own length."""

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

    Raises: ConfigError for an unknown name and for a device or dtype that the kernel is not made for; PackageMissing
    when its package is not installed or does not load.
    """
    if name == "auto":
        name = _default(device, dtype)
    if name not in KERNELS:
        raise ConfigError(f"attention = {name!r}: needs one of auto, {', '.join(KERNELS)}")
    if name in _NEEDS and not _fits(name, device):
        raise ConfigError(f"attention = {name!r} needs {_NEEDS[name]}, not {device!r}; use 'sdpa'")
    if name in ("cudnn", "flash") and dtype not in ("fp16", "bf16"):
        raise ConfigError(f"attention = {name!r} computes in fp16 or bf16, not {dtype}; use 'sdpa' or another dtype")
    if name == "flash":
        return FlashAttend(_FlashKernel())
    return KernelAttend({"sdpa": sdpa, "math": math, "onednn": _onednn, "cudnn": _cudnn}[name])


def kernels(device: str) -> tuple[str, ...]:
    """The kernels that work on a device."""
    is_there = importlib.util.find_spec("flash_attn") or importlib.util.find_spec("flash_attn_interface")
    return tuple(name for name in KERNELS if _fits(name, device) and (name != "flash" or is_there))


def sdpa(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None) -> Tensor:
    """torch's scaled_dot_product_attention, which picks a fused kernel; a mask is broadcast over heads and queries."""
    return exchange(scaled_dot_product_attention(exchange(q), exchange(k), exchange(v), keep))


def math(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(K)) v written out, in float32: the reference for the others."""
    scores = exchange(q.float()) @ exchange(k.float()).swapaxes(2, 3) * q.shape[-1] ** -0.5  # (B, A, N, M)
    if keep is not None:
        scores = scores.masked_fill(~keep, -torch.inf)
    return exchange(softmax(scores) @ exchange(v.float())).to(q.dtype)


def biased_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention without scaling and with a bias on the scores, as T5 has it.

    q, k, v (B, L, A, K), bias (B or 1, A, L, L) -> (B, L, A, K); scores and softmax in float32 in any dtype.
    """
    return exchange(scaled_dot_product_attention(exchange(q), exchange(k), exchange(v), bias, scale=1.0))


def rotate(x: Tensor, cosines: Tensor, sines: Tensor, parts: int = NUM_PARTS) -> Tensor:
    """Turn queries or keys (B, N, A, K) to their positions by the tables (N, K) of core.maths.rope, in the wider dtype.

    parts: of a head, in each of which the halves are exchanged; K / 2 for tables whose pairs are neighbours.
    """
    # In place in what is new here.
    turned = (x * cosines[:, None]).addcmul_(swap_halves(x, parts), sines[:, None])
    return turned.to(x.dtype)


def place_plan(plan: AttentionPlan, device: torch.device) -> Arrangement:
    """An attention plan with its tables on a device."""
    tables = (plan.order, plan.inverse, plan.keep, plan.silent)
    return Arrangement(plan.runs, *(None if table is None else place(table, device) for table in tables))


def place_text(plan: TextPlan, num_keys: int, device: torch.device) -> TextKeys:
    """What a text plan says of the keys that it picks, on a device."""
    if plan.lengths is None:
        return TextKeys(None, None)
    lengths = torch.tensor(plan.lengths, device=device)
    return TextKeys(plan.lengths, (torch.arange(num_keys, device=device) < lengths[:, None])[:, None, None])


def _onednn(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(K)) v head by head, with products by oneDNN.

    On processors by AMD torch's own takes MKL for them, twice as slow in float32, and gains nothing by bfloat16. It
    does short sequences, and keeps what gradients need.
    """
    batch, num_queries, heads, width = q.shape
    num_keys = k.shape[1]
    keeps_gradient = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if keeps_gradient or torch.compiler.is_compiling() or num_queries * num_keys * width < _LEAST_SCORES:
        return sdpa(q, k, v, keep)
    mixed = q.new_empty(q.shape)
    rows = max(1, _MOST_SCORES // num_keys)
    for sample, head in product(range(batch), range(heads)):
        keys, values = k[sample, :, head].contiguous(), v[sample, :, head].contiguous()  # oneDNN is slow on others
        for start in range(0, num_queries, rows):
            part = slice(start, start + rows)
            scores = linear(q[sample, part, head] * width**-0.5, keys)
            if keep is not None:
                scores.masked_fill_(~keep[sample, min(head, keep.shape[1] - 1)], -torch.inf)
            mixed[sample, part, head] = linear(softmax(scores), values.t())
    return mixed


def _cudnn(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None) -> Tensor:
    """As `sdpa`, with cuDNN's kernel wherever it does: with masks, too, which rule out flash attention."""
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(order, set_priority=True):
        return sdpa(q, k, v, keep)


class _FlashKernel:
    """flash-attn's kernel; where there is a mask, which it has no way for, torch's."""

    def __init__(self) -> None:
        self.function = _flash_function()

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None) -> Tensor:
        if q.shape[-1] > FLASH_MAX_HEAD_DIM:
            raise ConfigError(
                f"attention = 'flash' takes heads up to {FLASH_MAX_HEAD_DIM} wide, not {q.shape[-1]}; use 'sdpa'"
            )
        return self.function(q, k, v) if keep is None else sdpa(q, k, v, keep)


_NEEDS = {
    "onednn": "a CPU, and torch with oneDNN",
    "cudnn": "an NVIDIA GPU of the Hopper generation or newer",
    "flash": "an NVIDIA GPU of the Ampere generation or newer",
}
"""What kernels that are not for all devices are for."""


def _fits(name: str, device: str) -> bool:
    """Whether a device has what a kernel needs."""
    kind = torch.device(device).type
    if name == "onednn":
        return kind == "cpu" and torch.backends.mkldnn.is_available()
    least = {"cudnn": _CUDNN_MIN_CAPABILITY, "flash": _FLASH_MIN_CAPABILITY}.get(name)
    if least is None:
        return True
    is_nvidia = kind == "cuda" and torch.version.cuda is not None
    return is_nvidia and torch.cuda.get_device_capability(device) >= least


def _default(device: str, dtype: str) -> str:
    """The kernel that "auto" stands for."""
    if _fits("onednn", device):
        return "onednn"
    return "cudnn" if dtype != "fp32" and _fits("cudnn", device) else "sdpa"


def _flash_function() -> Any:
    if importlib.util.find_spec("flash_attn_interface") is not None:  # flash-attention 3, which is a package of its own
        return import_module("flash_attn_interface").flash_attn_func
    with needs_extra("flash-attn", "attention = 'flash'", "use 'sdpa'"):
        from flash_attn import flash_attn_func
    return flash_attn_func
