"""Upstream's own tiling in time, with its fault, for the numbers that were made with it.

Upstream decodes each chunk of latent frames with one frame more and throws away what that frame gave; its layers keep
the frames before it, at distances written for chunks that have it. A chunk without it that is not the last one (that
before a single last frame) goes wrong. The chunks, and what is thrown away of them: core.maths.tiling.upstream_chunks.
Source: opensora/models/causalvideovae/model/modules of Open-Sora Plan at 9fa322f; quirk Q7 of the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from torch import Tensor

from .layers import cat, submodules
from .streaming import Stream

LOOK_AHEAD = 1
"""Frames of look-ahead that layers before the level-2 upsampling see."""
LOOK_AHEAD_DOUBLED = 2
"""The same after it."""


class UpstreamTiling(Stream):
    """A stream that keeps what upstream's layers keep. Encoding by it is exact, decoding is not for every length."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        num_resblocks = len(decoder.up2) - 2
        before = [decoder.conv_in, decoder.mid, decoder.connect_l2, *decoder.up2[:num_resblocks]]
        after = [*decoder.up2[num_resblocks:], decoder.connect_l1, decoder.up1, decoder.layer]
        self._look_ahead: dict[Hashable, int] = {}
        """Frames at the end of each decoder layer's input that count as look-ahead."""
        for parts, frames in ((before, LOOK_AHEAD), (after, LOOK_AHEAD_DOUBLED)):
            self._look_ahead |= {layer: frames for part in parts for layer in submodules(part)}

    def double(self, layer: Hashable, frames: Tensor, interpolate: Callable[[Tensor], Tensor]) -> Tensor:
        """As in Stream, but nothing is held back: the look-ahead frame stands in for the next one."""
        if self.is_first:
            self.keep(layer, frames, frames.shape[2] - 1, frames.shape[2])
            if frames.shape[2] == 1:
                return frames
            return cat([frames[:, :, :1], interpolate(frames[:, :, 1:])], 2)
        window = cat([*self.take(layer), frames], 2)
        self.keep(layer, window, window.shape[2] - 2, window.shape[2] - 1)
        return interpolate(window)[:, :, 2:]

    def _unspent(self, layer: Hashable, num_frames: int, kernel: int, stride: int) -> tuple[int, int]:
        stop = num_frames - self._look_ahead.get(layer, 0)
        return stop - (kernel - stride), stop
