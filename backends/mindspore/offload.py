"""A denoiser whose blocks lie in the host's memory and come to the device one ahead of their use.

Of the matrices of the blocks' linear layers, nearly all of a model, those of two blocks are on the device at a time:
while one computes, the next is copied, on a stream of its own. What is not run is not copied, save for one that was
copied ahead and stays until it is run. On a CPU, where tests run it, arrays become tensors in their own memory; with
streams, on an Ascend, it was not run yet.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from contextlib import nullcontext
from typing import Any

import mindspore
from mindspore import Tensor

from duosora.core.loading import CheckedWeights, Matrix

from .denoiser import TokenDenoiser
from .matrices import drop, linear_layers, put


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
        hosted = [[(layer, weights.matrix(name, dtype)) for name, layer in layers.items()] for layers in of_blocks]
        self._texts = [each for block in hosted for each in block if id(each[0]) in of_text]
        """Layers that only `condition` calls, and their weights."""
        self._hosted = [[each for each in block if id(each[0]) not in of_text] for block in hosted]
        self._held: dict[int, Any] = {}
        """Blocks on the device, and the events of their copies."""
        self._aside = _Aside(device)
        model.run_block, model.condition = self.run_block, self.condition

    def condition(self, given: Any, latent: Any) -> Any:
        """As TokenDenoiser.condition, with the weights of the text's layers on the device meanwhile."""
        for layer, matrix in self._texts:
            put(layer, matrix, self.device)
        try:
            return self._condition(given, latent)
        finally:
            for layer, _ in self._texts:
                drop(layer)

    def run_block(self, index: int, tokens: Tensor, modulation: Any, condition: Any) -> Tensor:
        """As TokenDenoiser.run_block."""
        following = (index + 1) % len(self._hosted)
        for held in set(self._held) - {index, following}:
            self._let_go(held)
        self._fetch(index)
        self._aside.await_copy(self._held[index])
        self._fetch(following)
        tokens = self._run_block(index, tokens, modulation, condition)
        self._aside.follow()
        return tokens

    def _fetch(self, index: int) -> None:
        """Begin to copy a block, if it is not there."""
        if index not in self._held:
            self._held[index] = self._aside.copy(self._hosted[index])

    def _let_go(self, index: int) -> None:
        for layer, _ in self._hosted[index]:
            drop(layer)
        del self._held[index]


class _Aside:
    """Copies to a device beside what computes there; on a CPU nothing is copied."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.stream = None if device.startswith("cpu") else mindspore.runtime.Stream()

    def copy(self, block: list[tuple[Any, Matrix]]) -> Any:
        """Begin to copy the weights of a block; gives the event of their arrival."""
        with nullcontext() if self.stream is None else mindspore.runtime.StreamCtx(self.stream):
            for layer, matrix in block:
                put(layer, matrix, self.device)
                if self.stream is not None:
                    layer.weight = layer.weight.to("Ascend", non_blocking=True)
        return None if self.stream is None else self.stream.record_event()

    def await_copy(self, arrival: Any) -> None:
        """Have the device compute only when a block is there. The host does not wait."""
        if arrival is not None:
            mindspore.runtime.current_stream().wait_event(arrival)

    def follow(self) -> None:
        """Copy on only after what was begun: it may compute in memory that is given back and taken for the copies."""
        if self.stream is not None:
            self.stream.wait_stream(mindspore.runtime.current_stream())
