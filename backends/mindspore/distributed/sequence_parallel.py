"""Sequence parallelism: the tokens of one network call over several ranks, with the numbers of one.

Each rank keeps a block of the tokens, padded at the end to equal lengths. Everything but self-attention looks at one
token at a time; around self-attention an all-to-all turns (some tokens, all heads) into (all tokens, some heads) and
back, the padding is cut off in between, and so the arrangement of skiparse layers and masks are those of one rank.
Heads that the ranks do not divide are filled up with heads of zeros.
Source: Jacobs et al. 2023, arXiv:2309.14509 (DeepSpeed-Ulysses).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from mindspore import Tensor, mint
from mindspore.common import _Function

from duosora.core.maths.parts import Blocks
from duosora.core.seam.group import Group
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape

from ..attention import Arrangement, Attend, TextKeys
from ..denoiser import BlockByBlock, TokenDenoiser
from ..layers import cat
from ..operators import pad_end


class SequenceAttend:
    """Attention of a rank's block of tokens to those of all ranks, by another Attend."""

    def __init__(self, attend: Attend, group: Group) -> None:
        self.attend, self.group = attend, group

    def self_attention(self, q: Tensor, k: Tensor, v: Tensor, arrangement: Arrangement) -> Tensor:
        heads, num_tokens = q.shape[2], arrangement.num_tokens
        q_whole, k_whole, v_whole = self._to_heads(cat([q, k, v], 0))[:, :num_tokens].chunk(3, 0)
        mixed = self.attend.self_attention(q_whole, k_whole, v_whole, arrangement)
        return self._to_tokens(mixed, q.shape[1])[:, :, :heads]

    def cross_attention(self, q: Tensor, k: Tensor, v: Tensor, text: TextKeys) -> Tensor:
        return self.attend.cross_attention(q, k, v, text)

    def whole(self, x: Tensor, num_tokens: int) -> Tensor:
        # A copy for each rank, as if it were a head: gradients add up on the way back.
        return self._to_heads(cat([x[:, :, None]] * self.group.size, 2))[:, :num_tokens, 0]

    def total(self, x: Tensor) -> Tensor:
        return self.attend.total(self.whole(self.attend.total(x), self.group.size))

    def _to_heads(self, x: Tensor) -> Tensor:
        """A block of tokens (B, n, A, K) -> all tokens with padding and some heads (B, n * size, A / size, K)."""
        padding = Blocks(x.shape[2], self.group.size).padding
        return all_to_all(pad_end(x, 2, padding), self.group, 2, 1)

    def _to_tokens(self, x: Tensor, length: int) -> Tensor:
        """All tokens and some heads (B, N, a, K) -> a block of tokens and all heads (B, length, a * size, K)."""
        padding = length * self.group.size - x.shape[1]
        return all_to_all(pad_end(x, 1, padding), self.group, 1, 2)


class SequenceParallel(BlockByBlock):
    """A denoiser whose tokens are shared by the ranks of a group; it is called like the model itself.

    The model is built with a SequenceAttend of the same group.
    """

    def __init__(self, model: TokenDenoiser, group: Group) -> None:
        super().__init__(auto_prefix=False)  # the parameters keep their names
        self.model: Any = model
        self.group = group

    def condition(self, given: Given, latent: LatentShape) -> Any:
        """As the model's; what has a row for each token is that of the own block."""
        whole = self.model.condition(given, latent)
        return self._own(whole, tuple(whole.along_tokens))

    def with_frames(self, condition: Any, frame_mask: np.ndarray | None) -> Any:
        """As the model's, of a condition that was made here."""
        changed = self.model.with_frames(condition, frame_mask)
        names = condition.along_tokens
        return self._own(changed, [name for name in names if getattr(changed, name) is not getattr(condition, name)])

    @property
    def num_blocks(self) -> int:
        return self.model.num_blocks

    def begin(self, latents: Tensor, timestep: Tensor, condition: Any) -> tuple[Tensor, Any]:
        """As the model's, of whole latents: this rank's block of tokens."""
        tokens, modulation = self.model.begin(latents, timestep, condition)
        return self._block(tokens, 1), modulation

    def run_block(self, index: int, tokens: Tensor, modulation: Any, condition: Any) -> Tensor:
        """As the model's, of this rank's tokens."""
        return self.model.run_block(index, tokens, modulation, condition)

    def finish(self, tokens: Tensor, modulation: Any, condition: Any) -> Tensor:
        """As the model's, of this rank's tokens: the whole prediction, on every rank."""
        patches = self.model.project(tokens, modulation)
        whole = gather(patches, self.group, 1)[:, : condition.grid.num_tokens]
        return self.model.assemble(whole, condition)

    def signal(self, tokens: Tensor, modulation: Any, condition: Any) -> Tensor:
        """As the model's, of this rank's tokens."""
        return self.model.signal(tokens, modulation, condition)

    def change(self, now: Tensor, before: Tensor, condition: Any) -> Tensor:
        """As the model's, a row of each rank; padding does not count."""
        num_own = len(Blocks(condition.grid.num_tokens, self.group.size).own(self.group.index))
        shown = max(num_own, 1)  # MindSpore has no slices of length 0 that can be counted on
        sums = self.model.change(now[:, :shown], before[:, :shown], condition)
        return self.group.gather(sums * float(num_own > 0), 0)

    def _own(self, condition: Any, names: Sequence[str]) -> Any:
        """A condition with this rank's block of the named tensors."""
        whole = {name: getattr(condition, name) for name in names}
        axes = condition.along_tokens
        return replace(condition, **{name: self._block(x, axes[name]) for name, x in whole.items() if x is not None})

    def _block(self, x: Tensor, axis: int) -> Tensor:
        """This rank's block of tokens along an axis, zeros behind the last one."""
        blocks = Blocks(x.shape[axis], self.group.size)
        # Padded as a whole, for MindSpore has no slices of length 0 that can be counted on.
        padded = pad_end(x, axis, blocks.padding)
        return mint.narrow(padded, axis, self.group.index * blocks.length, blocks.length)


def all_to_all(x: Tensor, group: Group, split: int, concat: int) -> Tensor:
    """Group.all_to_all with its gradient, which goes the way back."""
    return _AllToAll.apply(x, group, split, concat)


def gather(x: Tensor, group: Group, axis: int) -> Tensor:
    """Group.gather with its gradient for what all ranks compute alike from the whole: the own part's."""
    return _Gather.apply(x, group, axis)


class _AllToAll(_Function):
    @staticmethod
    def forward(context: Any, x: Tensor, group: Group, split: int, concat: int) -> Tensor:
        context.way_back = (group, concat, split)
        return group.all_to_all(x, split, concat)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        group, split, concat = context.way_back
        return group.all_to_all(gradient, split, concat), None, None, None


class _Gather(_Function):
    @staticmethod
    def forward(context: Any, x: Tensor, group: Group, axis: int) -> Tensor:
        context.own = (axis, group.index * x.shape[axis], x.shape[axis])
        return group.gather(x, axis)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        return mint.narrow(gradient, *context.own), None, None
