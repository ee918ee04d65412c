"""Exact streaming in time: what the layers of a WFVAE keep between the chunks of one clip.

Every layer that looks along time asks the stream for its input, so a clip in chunks gives the same numbers as in one
piece, for any chunks of at least one latent frame. Nothing is stored in the modules: several streams may run through a
model.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from torch import Tensor

from .layers import cat, copy


class Stream:
    """The state of one clip on its way through an encoder or a decoder; the clip's frames come in chunks, in order."""

    def __init__(self) -> None:
        self.is_first = False
        """Whether the chunk at hand is the clip's first."""
        self.is_last = False
        """Whether the chunk at hand is the clip's last; nothing is kept after it."""
        self._has_started = False
        self.kept: dict[Hashable, Tensor] = {}
        """What each layer will need of the frames so far."""

    def advance(self, is_last: bool) -> None:
        """Go on to the next chunk; call it before each one."""
        assert not self.is_last, "the stream has ended"
        self.is_first = not self._has_started
        self.is_last = is_last
        self._has_started = True

    def filtered(
        self, layer: Hashable, frames: Tensor, kernel: int, causal_filter: Callable[[Tensor | None], Tensor]
    ) -> Tensor:
        """What a causal filter of `kernel` frames, at least two, gives for new ones (B, C, T, H, W).

        It is told the frames in front of them; None at the start of the clip, where copies of its first frame stand for
        them.
        """
        ahead = self._at_hand(layer, frames, kernel)
        result = causal_filter(None if self.is_first else ahead[0])
        # Only now, so that what is kept may lie where what was kept lay.
        self._go_past(layer, ahead, frames, kernel, stride=1)
        return result

    def extend(self, layer: Hashable, frames: Tensor, kernel: int, stride: int) -> Tensor:
        """New frames (B, C, T, H, W) with those in front that a causal filter of `kernel` frames needs.

        At the start of the clip these are copies of its first frame, later the frames that the filter, moving by
        `stride`, has not gone past.
        """
        ahead = self._in_front(layer, frames, kernel, stride)
        return cat([*ahead, frames], 2) if ahead else frames

    def double(self, layer: Hashable, frames: Tensor, interpolate: Callable[[Tensor], Tensor]) -> Tensor:
        """The clip's frame 0 as it is, then two frames for each later one: (B, C, T, H, W) -> (B, C, 2T - 1, H, W).

        `interpolate` doubles frames, looking one back and one ahead, clamped at its ends. The second frame made from
        the last one needs the frame after that, so it is held back until the next chunk.
        """
        if self.is_first and frames.shape[2] == 1:
            return frames
        before = self.take(layer)
        self.keep(layer, frames, frames.shape[2] - 1, frames.shape[2])
        return self.double_after(frames, before, interpolate)

    def align(self, layer: Hashable, frames: Tensor, num_frames: int) -> Tensor:
        """The next `num_frames` frames of a branch that runs ahead of the others; the rest waits for the next chunk."""
        before = self.take(layer)
        queue = cat([*before, frames], 2) if before else frames
        self.keep(layer, queue, num_frames, queue.shape[2])
        return queue[:, :, :num_frames]

    def double_after(self, frames: Tensor, before: list[Tensor], interpolate: Callable[[Tensor], Tensor]) -> Tensor:
        """`double` for a chunk with the last frame of the one before, if there is one."""
        later = frames[:, :, 1:] if self.is_first else frames
        window = cat([*before, later], 2) if before else later
        num_window = window.shape[2]
        # The first frame made from the kept one is out already.
        start = 1 if before else 0
        stop = 2 * num_window if self.is_last else 2 * num_window - 1
        doubled = interpolate(window)[:, :, start:stop]
        return cat([frames[:, :, :1], doubled], 2) if self.is_first else doubled

    def _in_front(self, layer: Hashable, frames: Tensor, kernel: int, stride: int) -> list[Tensor]:
        """What lies in front of new frames, in pieces; keeps what will lie in front of the next ones."""
        ahead = self._at_hand(layer, frames, kernel)
        self._go_past(layer, ahead, frames, kernel, stride)
        return ahead

    def _at_hand(self, layer: Hashable, frames: Tensor, kernel: int) -> list[Tensor]:
        return [frames[:, :, :1]] * (kernel - 1) if self.is_first else self.take(layer)

    def _go_past(self, layer: Hashable, ahead: list[Tensor], frames: Tensor, kernel: int, stride: int) -> None:
        num_ahead = sum(piece.shape[2] for piece in ahead)
        start, stop = self._unspent(layer, num_ahead + frames.shape[2], kernel, stride)
        if start < num_ahead:
            self.keep(layer, cat([*ahead, frames[:, :, : stop - num_ahead]], 2), start, stop)
        else:
            self.keep(layer, frames, start - num_ahead, stop - num_ahead)

    def _unspent(self, layer: Hashable, num_frames: int, kernel: int, stride: int) -> tuple[int, int]:
        """From where to where a filter will need its `num_frames` input frames again."""
        num_outputs = (num_frames - kernel) // stride + 1
        return num_outputs * stride, num_frames

    def keep(self, layer: Hashable, frames: Tensor, start: int, stop: int) -> None:
        """Keep a copy of frames [start, stop) of (B, C, T, H, W) for a layer; nothing behind the clip's last chunk."""
        if start < stop and not self.is_last:
            # A copy, because a slice would hold the memory of all frames.
            self.kept[layer] = copy(frames[:, :, start:stop])

    def take(self, layer: Hashable) -> list[Tensor]:
        """What was kept for a layer, none or one tensor."""
        return [self.kept.pop(layer)] if layer in self.kept else []


def whole_clip() -> Stream:
    """The stream of a clip that comes in one piece."""
    stream = Stream()
    stream.advance(is_last=True)
    return stream
