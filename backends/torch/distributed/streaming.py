"""Decoding one clip on several ranks at once: its chunks lie on neighbouring ranks instead of behind one another.

Causal filters look back a few frames, which a stream keeps from chunk to chunk. Here the ranks hold neighbouring chunks
and run through the layers side by side; at each layer the frames that the next chunk needs go to the next rank, and
from the last rank to the first, for its next chunk. Nothing is computed twice, and the numbers are those of a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from torch import Tensor

from duosora.core.seam.group import Group

from ..layers import cat
from ..streaming import Stream
from ..video import channels_innermost


class RelayStream(Stream):
    """The state of one clip on one of the ranks that decode it; every chunk has at least two latent frames."""

    def __init__(self, group: Group) -> None:
        super().__init__()
        self.group = group
        self._ahead: dict[Hashable, int] = {}

    def advance(self, is_last: bool) -> None:
        """Go on to this rank's next chunk. is_last: whether it ends the clip, on whichever rank it lies."""
        super().advance(is_last)
        self.is_first = self.is_first and self.group.index == 0

    def filtered(
        self, layer: Hashable, frames: Tensor, kernel: int, causal_filter: Callable[[Tensor | None], Tensor]
    ) -> Tensor:
        """As Stream.filtered."""
        ahead = self._in_front(layer, frames, kernel, stride=1)
        return causal_filter(None if self.is_first else ahead[0])

    def double(self, layer: Hashable, frames: Tensor, interpolate: Callable[[Tensor], Tensor]) -> Tensor:
        """As Stream.double."""
        return self.double_after(frames, self._relay(layer, frames, 1), interpolate)

    def align(self, layer: Hashable, frames: Tensor, num_frames: int) -> Tensor:
        """As Stream.align. How far the branch is ahead shows in the clip's first chunk and stays."""
        if layer not in self._ahead:
            told = self.group.share(str(frames.shape[2] - num_frames).encode())
            self._ahead[layer] = int(told[0])
        if not self._ahead[layer]:
            return frames
        before = self._relay(layer, frames, self._ahead[layer])
        return cat([*before, frames], 2)[:, :, :num_frames]

    def _in_front(self, layer: Hashable, frames: Tensor, kernel: int, stride: int) -> list[Tensor]:
        """As Stream._in_front; decoders have no strides in time."""
        assert stride == 1, "only a decoder runs on several ranks"
        if kernel == 1:
            return []
        before = self._relay(layer, frames, kernel - 1)
        return [frames[:, :, :1]] * (kernel - 1) if self.is_first else before

    def _relay(self, layer: Hashable, frames: Tensor, count: int) -> list[Tensor]:
        """Hand on a chunk's last frames; returns those of the chunk before, none for the clip's first."""
        handed = channels_innermost(self.group.shift(frames[:, :, frames.shape[2] - count :]))
        if self.group.index:
            return [handed]
        before = self.take(layer)
        self.kept[layer] = handed
        return before
