"""What a model is by the names and shapes of its weights, where no config.json lies beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..errors import LayoutError
from ..layout import Layout
from . import FAMILIES
from .kinds import Family

Shapes = Mapping[str, tuple[int, ...]]


class Seen(NamedTuple):
    """A spec whose layout has the names and shapes of some weights."""

    family: Family
    spec: Any
    told: str
    """How it was found, in words."""


def seen_by_shapes(shapes: Shapes, source: str, families: Iterable[Family] = FAMILIES) -> Seen | None:
    """The preset that has such weights, or else what its family reads from them; None where nothing tells.

    source: for error messages. Raises: ConfigError when shapes tell of a model that cannot be; LayoutError when some of
    its weights are missing or have other shapes.
    """
    for family in families:
        fitting = {name: spec for name, spec in family.presets.items() if _fits(spec.layout(), shapes)}
        if len(fitting) == 1:
            ((name, spec),) = fitting.items()
            return Seen(family, spec, f"its shapes are those of {name}")
    for family in families:
        spec = family.from_shapes(shapes, source) if family.from_shapes is not None else None
        if spec is not None:
            layout = spec.layout()
            layout.check(shapes, source)
            return Seen(family, spec, f"by its shapes it is {layout.model}; what they do not tell is as published")
    return None


def _fits(layout: Layout, shapes: Shapes) -> bool:
    try:
        layout.check(shapes, "")
    except LayoutError:
        return False
    return True
