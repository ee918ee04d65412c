"""What tests of the torch backend share: counting of the tensors that are alive, unlike a process's memory exact."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Alive(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make, for as long as they are there; not a model's weights."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self.seen: set[int] = {weight.untyped_storage()._cdata for weight in model.parameters()}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **kwargs or {})
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self._note(tensor)
        return made

    def _note(self, tensor: torch.Tensor) -> None:
        # Tensors in an order of oneDNN's own have no storage and no views.
        holder = tensor if tensor.is_mkldnn else tensor.untyped_storage()
        key = id(tensor) if tensor.is_mkldnn else holder._cdata
        size = tensor.numel() * tensor.element_size() if tensor.is_mkldnn else holder.nbytes()
        if key in self.seen:
            return
        self.seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(holder, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


@pytest.fixture
def alive() -> type[Alive]:
    """Alive(model) as a context counts in `peak` the bytes of tensors alive at once."""
    return Alive
