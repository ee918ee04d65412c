"""A denoiser whose blocks lie in the host's memory and come to the device one ahead of their use.

The matrices of a block's linear layers, nearly all of a model, go through two places on the device by turns: while a
block computes in one, the next is copied to the other, on a stream of its own. What is not run is not copied, save for
one that was copied ahead and stays until it is run.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from duosora.core.loading import CheckedWeights

from .denoiser import TokenDenoiser
from .matrices import drop, linear_layers
from .precision import TORCH_DTYPES, to_tensor

_ALIGNMENT = 64
"""Bytes, of each matrix, as in torch's own memory."""
_PINNED_BYTES = 1 << 24
"""Of each piece of pinned memory, of which torch takes powers of two."""


class HostedBlocks:
    """The blocks of a model, on the host."""

    def __init__(self, model: TokenDenoiser, weights: CheckedWeights, dtype: str, device: str) -> None:
        """All other weights of the model are set beside this. dtype: of the matrices."""
        self.model, self.weights, self.dtype, self.device = model, weights, dtype, device
        of_text = {id(layer) for block in model.blocks() for layer in block.of_text()}
        of_blocks = [linear_layers(model, name) for name in model.spec.blocks()]
        self.names: Container[str] = {name for layers in of_blocks for name in layers}
        """Of the weights that are here."""
        self._run_block: Callable[..., Any] = model.run_block
        self._condition: Callable[..., Any] = model.condition
        self._texts = [
            (layer, to_tensor(weights.matrix(name, dtype).numbers))
            for layers in of_blocks
            for name, layer in layers.items()
            if id(layer) in of_text
        ]
        """Layers that only `condition` calls, and their weights."""
        inner = [{name: each for name, each in layers.items() if id(each) not in of_text} for layers in of_blocks]
        size = max(sum(map(self._length, layers.values())) for layers in inner)
        self._places = [torch.empty(size, dtype=TORCH_DTYPES[dtype], device=device) for _ in range(2)]
        self._held: list[int | None] = [None, None]
        """Which block is in each place."""
        self._aside = _Aside(device)
        self._hosted = [self._host(layers, self._places[index % 2]) for index, layers in enumerate(inner)]
        model.run_block, model.condition = self.run_block, self.condition

    def condition(self, given: Any, latent: Any) -> Any:
        """As TokenDenoiser.condition, with the weights of the text's layers on the device meanwhile."""
        for layer, weight in self._texts:
            layer.weight = nn.Parameter(weight.to(self.device), requires_grad=False)
        try:
            return self._condition(given, latent)
        finally:
            for layer, _ in self._texts:
                drop(layer)

    def run_block(self, index: int, tokens: Tensor, modulation: Any, condition: Any) -> Tensor:
        """As TokenDenoiser.run_block."""
        self._fetch(index)
        self._aside.await_copy(index % 2)
        following = (index + 1) % len(self._hosted)
        if following % 2 != index % 2:  # of an odd number of blocks, first and last share a place
            self._fetch(following)
        tokens = self._run_block(index, tokens, modulation, condition)
        self._aside.has_computed(index % 2)
        return tokens

    def _fetch(self, index: int) -> None:
        """Begin to copy a block to its place, if it is not there."""
        place = index % 2
        if self._held[place] != index:
            self._aside.copy(place, self._places[place], self._hosted[index])
            self._held[place] = index

    def _length(self, layer: Any) -> int:
        """Numbers of a matrix, up to where the next may begin."""
        step = _ALIGNMENT // TORCH_DTYPES[self.dtype].itemsize
        return -(-layer.weight.numel() // step) * step

    def _host(self, layers: Mapping[str, Any], place: Tensor) -> list[Tensor]:
        """The weights of a block, one behind another, in pieces; its layers look for them in a place on the device."""
        whole = torch.zeros(sum(map(self._length, layers.values())), dtype=place.dtype)
        start = 0
        for name, layer in layers.items():
            span, shape = slice(start, start + layer.weight.numel()), layer.weight.shape
            whole[span].view(shape).copy_(to_tensor(self.weights.matrix(name, self.dtype).numbers))
            layer.weight = nn.Parameter(place[span].view(shape), requires_grad=False)
            start += self._length(layer)
        return self._aside.keep(whole)


class _Aside:
    """Copies to two places of a device beside what computes there; on a CPU they are done at once."""

    def __init__(self, device: str) -> None:
        self.stream = torch.cuda.Stream(device) if torch.device(device).type == "cuda" else None
        self._copied: list[Any] = [None, None]
        """Events on the stream aside, by place."""
        self._computed: list[Any] = [None, None]
        """Events on the stream that computes."""

    def keep(self, whole: Tensor) -> list[Tensor]:
        """A tensor on the host in pieces that a device reads by itself."""
        if self.stream is None:
            return [whole]
        return [piece.pin_memory() for piece in whole.split(_PINNED_BYTES // whole.itemsize)]

    def copy(self, number: int, place: Tensor, pieces: list[Tensor]) -> None:
        """Begin to copy pieces to a place, after what computes in it now."""
        if self.stream is not None:
            # At first too, as the memory of the place may be in use by what had it before.
            self.stream.wait_event(self._computed[number] or torch.cuda.current_stream(place.device).record_event())
        # The tensors may have been made in another mode than they are used in.
        with torch.inference_mode(), nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
            start = 0
            for piece in pieces:
                place[start : start + piece.numel()].copy_(piece, non_blocking=True)
                start += piece.numel()
        if self.stream is not None:
            place.record_stream(self.stream)  # its memory is not given away while this goes on
            self._copied[number] = self.stream.record_event()

    def await_copy(self, number: int) -> None:
        """Have the device compute with a place only when it is filled. The host does not wait."""
        if self.stream is not None:
            torch.cuda.current_stream(self.stream.device).wait_event(self._copied[number])

    def has_computed(self, number: int) -> None:
        """Say that all that computes in a place was begun."""
        if self.stream is not None:
            self._computed[number] = torch.cuda.current_stream(self.stream.device).record_event()
