"""Models as compiled graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import mindspore
from mindspore import Tensor, nn

from duosora.core.apart import call_apart
from duosora.core.errors import ConfigError

from .denoiser import TokenDenoiser

_FIRST_TO_COMPILE = (2, 10)


def compile_forward(model: nn.Cell) -> None:
    """Let a model's `construct` run as compiled graphs, one for each combination of shapes.

    Raises: ConfigError for a MindSpore whose tracing is not to be trusted.
    """
    if tuple(map(int, mindspore.__version__.split(".")[:2])) < _FIRST_TO_COMPILE:
        raise ConfigError(
            f"compile: needs MindSpore {'.'.join(map(str, _FIRST_TO_COMPILE))} or newer, not {mindspore.__version__}, "
            "which takes numbers of one shape for another's while it traces; leave it out"
        )
    model.construct = _Graphs(model.construct)


def compile_blocks(model: TokenDenoiser) -> None:
    """The same for each block by itself, of a model that does more between its blocks than compute.

    Raises: ConfigError, as a graph keeps the weights that it was traced with.
    """
    raise ConfigError("backend.compile: MindSpore's graphs keep all weights on the device; drop it or backend.offload")


class _Graphs:
    """A function compiled by tracing.

    Only tensors may go into a graph, so tuples and dataclasses are taken apart before it and put together inside; all
    else in them is constant there, and another graph is made for other values.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.graphs: dict[Any, Callable[..., Tensor]] = {}

    def __call__(self, *arguments: Any) -> Tensor:
        tensors: list[Tensor] = []
        pattern = _take_apart(arguments, tensors)
        if pattern not in self.graphs:
            self.graphs[pattern] = self._compile(pattern)
        # Tracing asks for the source of every caller and fails at one without, such as `python -m`; a thread has few.
        return call_apart(self.graphs[pattern], *tensors)

    def _compile(self, pattern: Any) -> Callable[..., Tensor]:
        def run(*tensors: Tensor) -> Tensor:
            return self.function(*_put_together(pattern, iter(tensors)))

        return mindspore.jit(run, capture_mode="trace")


def _take_apart(value: Any, tensors: list[Tensor]) -> Any:
    """What is left of a value without its tensors, which are added to the list: hashable and equal for equal values."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return Tensor
    if is_dataclass(value):
        return type(value), tuple(_take_apart(getattr(value, field.name), tensors) for field in fields(value))
    if type(value) is tuple:
        return tuple, tuple(_take_apart(each, tensors) for each in value)
    return None, value


def _put_together(pattern: Any, tensors: Iterator[Tensor]) -> Any:
    """The inverse of _take_apart."""
    if pattern is Tensor:
        return next(tensors)
    kind, content = pattern
    if kind is None:
        return content
    parts = [_put_together(part, tensors) for part in content]
    if kind is tuple:
        return tuple(parts)
    return kind(**{field.name: part for field, part in zip(fields(kind), parts, strict=True)})
