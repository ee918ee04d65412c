"""What other programs call the weights of each family: rules beside the names of its layout, which stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...core.io.weights import STEMS
from ...core.layout import Zeros
from ...core.models.recognise import FAMILIES, Family
from ..rules import Rule, pattern_of
from . import mt5, opensora_t2v, wfvae


@dataclass(frozen=True)
class Names:
    """How the names of one family are read."""

    family: Family
    rules: tuple[Rule, ...]
    stem: str
    """Of the files in a folder of the hub's form."""

    @property
    def title(self) -> str:
        return self.family.title

    def patterns(self) -> frozenset[str]:
        """The names that stay: those of the layouts of all presets, with `{}` for numbers."""
        return frozenset(pattern_of(name) for spec in self.family.presets.values() for name in spec.layout())

    def zeros(self) -> frozenset[str]:
        """Those of them that a fresh model has as zeros."""
        layouts = [spec.layout() for spec in self.family.presets.values()]
        drawn = ((name, weight) for layout in layouts for name, weight in layout.items())
        return frozenset(pattern_of(name) for name, weight in drawn if isinstance(weight.init, Zeros))


_BY_KIND = {family.kind: family for family in FAMILIES}
NAMES: Mapping[str, Names] = {
    "opensora_t2v": Names(_BY_KIND["denoiser"], opensora_t2v.RULES, STEMS[0]),
    "mt5": Names(_BY_KIND["text_encoder"], mt5.RULES, STEMS[1]),
    "wfvae": Names(_BY_KIND["vae"], wfvae.RULES, STEMS[0]),
}
