"""A denoiser of three layers, written by somebody who only read what the house asks of a family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..layout import Layout, WeightList
from ..shapes import LatentShape, Patch, TokenGrid
from .config_json import build, count, refuse_unknown
from .kinds import Costs, Family
from .work import Applied, Work

NUM_LAYERS = 3


@dataclass(frozen=True, kw_only=True)
class StubSpec:
    """What a stub is."""

    family: ClassVar[str] = "stub"
    given: ClassVar[frozenset[str]] = frozenset({"text"})
    output: ClassVar[str] = "mean"
    further_channels: ClassVar[int] = 0
    pooled_channels: ClassVar[int] = 0
    lists_patches: ClassVar[bool] = False
    most_tokens: ClassVar[int | None] = None
    latent_channels: ClassVar[int] = 8
    text_channels: ClassVar[int] = 64
    patch: ClassVar[Patch] = Patch(1, 1)

    stub_width: int = 16

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str = "config.json") -> StubSpec:
        rest = dict(config)
        spec = build(cls, source, stub_width=count(rest, source, "stub_width", 64))
        refuse_unknown(rest, source)
        return spec

    def to_config(self) -> dict[str, Any]:
        return {"_class_name": "Stub", "stub_width": self.stub_width}

    def facts(self) -> list[str]:
        return [f"{NUM_LAYERS} stubborn layers"]

    def grid(self, latent: LatentShape) -> TokenGrid:
        return self.patch.tokens(latent)

    def blocks(self) -> tuple[str, ...]:
        return tuple(f"layers.{i}" for i in range(NUM_LAYERS))

    def costs(self) -> Costs:
        return Costs(NUM_LAYERS, self.stub_width, 1, self.latent_channels)

    def work(self, latent: LatentShape, batch: int, text: int) -> Work:
        tokens = batch * self.grid(latent).num_tokens
        return Work((Applied("read.", batch * text, once=True), Applied("clock.", batch), Applied("", tokens)))

    def layout(self) -> Layout:
        weights, width = WeightList(), self.stub_width
        weights.linear("enter", width, self.latent_channels)
        weights.linear("read", width, self.text_channels)
        weights.linear("clock", width, 1)
        for block in self.blocks():
            weights.linear(f"{block}.map", width, width)
        weights.linear("leave", self.latent_channels, width)
        return Layout(f"Stub(stub_width={width})", weights)


FAMILY = Family(
    kind="denoiser",
    title="Stub",
    class_names=("Stub",),
    telling_keys=("stub_width",),
    spec=StubSpec,
    presets={"stub_16": StubSpec()},
)
