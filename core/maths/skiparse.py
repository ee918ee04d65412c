"""Which tokens attend to each other: the sub-sequences of skiparse attention, and what masks do in them.

With k sub-sequences, token g * k + r belongs to number r in "single" layers (every k-th token), and token (n * k + m)
* k + q to number m in "group" layers (runs of k tokens, every k-th run). Upstream pads the tokens with zeros to a
multiple of k * k first; a plan holds the real tokens only, so nothing is padded and nothing needs a mask for it.
Source: arXiv:2412.00131, section on skiparse attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby

import numpy as np


@dataclass(frozen=True)
class Run:
    """Neighbouring sub-sequences of equal length, attended to as one batch.

    In the arranged tokens they alternate: token j of sub-sequence c stands at start + j * count + c. So the run is
    (length, count) in memory, and its sub-sequences can be taken for more heads, (length, count * A), without a copy,
    as far as a kernel takes so many; "single" layers of a whole number of k tokens need no arranging at all. Where they
    are in_turn, one behind the other, the run is (count, length) instead, and they are taken for more samples.
    """

    start: int
    count: int
    length: int
    in_turn: bool = False

    @property
    def part(self) -> slice:
        """Where the run lies in the arranged tokens."""
        return slice(self.start, self.start + self.count * self.length)

    def fold(self, heads: int, most_heads: int) -> int:
        """How many sub-sequences are taken for more heads, a part of all; the others are taken for more samples."""
        if self.in_turn:
            return 1
        fitting = range(1, min(self.count, max(1, most_heads // heads)) + 1)
        return max(fold for fold in fitting if self.count % fold == 0)

    @property
    def shape(self) -> tuple[int, int]:
        """The run as it is in memory."""
        return (self.count, self.length) if self.in_turn else (self.length, self.count)


@dataclass(frozen=True, eq=False)
class AttentionPlan:
    """How N tokens are arranged for one attention."""

    runs: tuple[Run, ...]
    """One run of one sub-sequence for full attention, at most three runs for skiparse."""
    padded_length: int
    """What each sub-sequence would hold after upstream's padding."""
    order: np.ndarray | None = None
    """(N,) indices: arranged[i] = tokens[order[i]]; None leaves the order as it is."""
    inverse: np.ndarray | None = None
    """(N,) indices that undo `order`."""
    keep: np.ndarray | None = None
    """(B, N) booleans in the arranged order: which keys may be attended to; None when all may."""
    silent: np.ndarray | None = None
    """(B, N) booleans in the arranged order: whose attention result is zero; None when no one's is."""

    def sub_sequences(self) -> Iterator[np.ndarray]:
        """The indices of each sub-sequence's tokens, in the order of their numbers; empty ones are left out."""
        for run in self.runs:
            arranged = np.arange(run.part.start, run.part.stop)
            tokens = arranged if self.order is None else self.order[arranged]
            placed = tokens.reshape(run.shape)
            yield from placed if run.in_turn else placed.T


@lru_cache(maxsize=64)
def attention_plan(num_tokens: int, k: int = 1, kind: str | None = None) -> AttentionPlan:
    """The plan of an attention without masks; kind is None (full), "single" or "group"."""
    if kind is None or k == 1:
        return AttentionPlan(runs=(Run(0, 1, num_tokens),), padded_length=num_tokens)
    tokens = np.arange(num_tokens)
    number = tokens % k if kind == "single" else tokens // k % k
    by_number = np.argsort(number, kind="stable")
    lengths = [int(n) for n in np.bincount(number, minlength=k) if n]
    runs, pieces, start = [], [], 0
    for length, equal in groupby(lengths):  # lengths never grow, so there are few runs
        run = Run(start, len(list(equal)), length)
        pieces.append(by_number[run.part].reshape(run.count, run.length).T.reshape(-1))
        runs.append(run)
        start = run.part.stop
    order = np.concatenate(pieces)
    inverse = np.argsort(order)
    order.flags.writeable = inverse.flags.writeable = False
    padded_length = -(-num_tokens // k**2) * k
    if np.array_equal(order, tokens):
        return AttentionPlan(runs=tuple(runs), padded_length=padded_length)
    return AttentionPlan(runs=tuple(runs), padded_length=padded_length, order=order, inverse=inverse)


def with_mask(plan: AttentionPlan, valid: np.ndarray | None) -> AttentionPlan:
    """The plan with invalid tokens left out as keys; valid is (B, N) booleans in the tokens' own order.

    Upstream adds -10000 to the scores of invalid keys and -9980 to those of its padding. So a sub-sequence without any
    valid key attends to its zero padding, which gives zero, or, where it has no padding, to all its keys alike (quirk
    Q6). Only invalid tokens ever see this.
    """
    if valid is None or valid.all():
        return plan
    keep = valid.copy() if plan.order is None else valid[:, plan.order]
    silent = np.zeros_like(keep)
    batch = len(keep)
    for run in plan.runs:
        inside = keep[:, run.part].reshape(batch, *run.shape)
        dead = ~inside.any(axis=2 if run.in_turn else 1, keepdims=True)
        dead = np.broadcast_to(dead, inside.shape).reshape(batch, -1)
        keep[:, run.part] |= dead
        silent[:, run.part] = dead & (run.length < plan.padded_length)
    return replace(plan, keep=None if keep.all() else keep, silent=silent if silent.any() else None)


def valid_tokens(mask: np.ndarray, patch_time: int, patch_space: int) -> np.ndarray:
    """Which tokens hold any valid latent: (B, T, H, W) mask of the latents to (B, N) booleans."""
    b, t, h, w = mask.shape
    blocks = (mask > 0).reshape(
        b, t // patch_time, patch_time, h // patch_space, patch_space, w // patch_space, patch_space
    )
    return blocks.any(axis=(2, 4, 6)).reshape(b, -1)


@dataclass(frozen=True, eq=False)
class TextPlan:
    """Which text tokens are cross-attention keys."""

    index: np.ndarray | None
    """(B, M) picks the M tokens of the longest text of the batch; None when that is all of them."""
    lengths: tuple[int, ...] | None
    """How many of a text's M tokens, from the first on, are its own; None when all are."""


def text_plan(mask: np.ndarray | None, num_tokens: int) -> TextPlan:
    """The plan of a batch of texts with their padding cut off.

    mask: (B, L), above 0 where a token counts. A text that is masked altogether is attended to in full, as upstream's
    finite mask does.
    """
    if mask is None:
        return TextPlan(None, None)
    valid = mask > 0
    valid[~valid.any(axis=1)] = True
    lengths = tuple(int(n) for n in valid.sum(axis=1))
    longest = max(lengths)
    index = np.argsort(~valid, axis=1, kind="stable")[:, :longest]
    is_whole = longest == num_tokens and bool((index == np.arange(num_tokens)).all())
    return TextPlan(None if is_whole else index, None if min(lengths) == longest else lengths)
