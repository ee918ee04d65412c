"""What other programs call the weights of each family: rules beside the names of its layout, which stay as they are.

A file here is called after its family and holds RULES, and STEM, which begins the names of its files in the hub's form.
A model that can begin with the weights of another says in BEGINNING how. KERNELS are weights that other
programs have as kernels of pictures, without the axis of time along which ours are 1 long. TOLD_AT leads to
where a checkpoint itself tells the values of config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module

from ...core.models import FAMILIES
from ...core.models.kinds import Family
from ..beginning import Beginning
from ..rules import Rule, pattern_of


@dataclass(frozen=True)
class Names:
    """How the names of one family are read."""

    family: Family
    rules: tuple[Rule, ...]
    stem: str
    """Of the files in a folder of the hub's form."""
    beginning: Beginning | None = None
    kernels: tuple[str, ...] = ()
    """Those that lack an axis of time where they come from models of pictures."""
    told_at: tuple[str, ...] = ()
    """Keys, one inside the other, below which a checkpoint keeps the values of config.json."""

    @property
    def title(self) -> str:
        return self.family.title

    def patterns(self) -> frozenset[str]:
        """The names that stay: those of the layouts of all presets, with `{}` for numbers."""
        return self._patterns

    @cached_property
    def _patterns(self) -> frozenset[str]:
        # Kept: they are asked for at every prefix that names may have, and the layouts are long.
        return frozenset(pattern_of(name) for spec in self.family.presets.values() for name in spec.layout())

    def zeros(self) -> frozenset[str]:
        """Those of them that a fresh model has as zeros."""
        layouts = [spec.layout() for spec in self.family.presets.values()]
        drawn = ((name, weight) for layout in layouts for name, weight in layout.items())
        return frozenset(pattern_of(name) for name, weight in drawn if weight.starts_as_zeros)


def _names_of(family: Family) -> Names:
    rules = import_module(f".{family.name}", __name__)
    return Names(
        family,
        rules.RULES,
        rules.STEM,
        getattr(rules, "BEGINNING", None),
        getattr(rules, "KERNELS", ()),
        getattr(rules, "TOLD_AT", ()),
    )


NAMES: Mapping[str, Names] = {family.name: _names_of(family) for family in FAMILIES}
