"""What a model that begins with the weights of another has in common with it.

So hpcaitech began with pictures: the weights of PixArt, whose blocks look at one frame, between temporal blocks that
change nothing at first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..core.errors import ConfigError, LayoutError
from ..core.layout import Constant, Layout, some_names
from .rules import match

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Beginning:
    """What a model and the one that it begins as differ in, by names of the model's layout."""

    title: str
    """Of the other one."""
    lacks: tuple[str, ...]
    """Patterns of weights that the other never has."""
    may_lack: tuple[str, ...] = ()
    """Patterns of those that it has or has not."""
    tables: tuple[str, ...] = ()
    """Weights of as many rows as it likes: what is too much is cut off, the last row stands for what is too little."""

    def is_of(self, names: Iterable[str]) -> bool:
        """Whether tensors are the other's."""
        return not any(_is_in(self.lacks, name) for name in names)

    def check(self, layout: Layout, shapes: Shapes, source: str) -> None:
        """See that the other's tensors make a model, whose constants are its own. Raises: LayoutError."""
        own = [name for name, weight in layout.items() if isinstance(weight.init, Constant)]
        expected = [name for name in layout if not _is_in((*self.lacks, *self.may_lack), name) and name not in own]
        problems = {
            "missing": [name for name in expected if name not in shapes],
            "unexpected": [name for name in shapes if name not in layout],
            "mis-shaped": [
                f"{name} is {list(shape)} instead of {list(layout[name].shape)}"
                for name, shape in shapes.items()
                if name in layout and name not in own and not self._fits(name, shape, layout[name].shape)
            ],
        }
        told = [f"{len(names)} {what} ({some_names(names)})" for what, names in problems.items() if names]
        if told:
            raise LayoutError(f"{source}: {self.title} does not begin {layout.model}: {', '.join(told)}")

    def _fits(self, name: str, held: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
        """Also a kernel of pictures, which lacks the axis of time, where that is 1."""
        if name in self.tables:
            return held[1:] == wanted[1:] and len(held) == len(wanted) and held[0] > 0
        return [size for size in held if size != 1] == [size for size in wanted if size != 1]


def _is_in(patterns: tuple[str, ...], name: str) -> bool:
    return any(match(pattern, name) is not None for pattern in patterns)


def begun_preset(beginning: Beginning, presets: Mapping[str, Any], shapes: Shapes, source: str) -> tuple[str, Any]:
    """The one preset that may begin with such tensors. Raises: ConfigError when there is none, or several."""
    fitting = {}
    for name, spec in presets.items():
        try:
            beginning.check(spec.layout(), shapes, source)
        except LayoutError:
            continue
        fitting[name] = spec
    if len(fitting) != 1:
        raise ConfigError(
            f"{source}: {beginning.title} of these shapes begins {' or '.join(fitting) or 'no preset'}; name the "
            f"model's with --config ({', '.join(presets)}, or a config.json)"
        )
    return next(iter(fitting.items()))
