"""The three layers for torch; the test writes its twin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from duosora.core.models.stub import NUM_LAYERS, StubSpec
from torch import Tensor, nn

from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape, TokenGrid

from ..attention import Attend
from ..denoiser import TokenDenoiser
from ..layers import Linear, ModuleList, cast, device_of, place, silu, to_float32


@dataclass(frozen=True)
class Condition:
    along_tokens: ClassVar[Mapping[str, int]] = {}

    grid: TokenGrid
    text: Tensor


def create(spec: StubSpec, attend: Attend) -> Stub:
    return Stub(spec)


class Stub(TokenDenoiser):
    def __init__(self, spec: StubSpec) -> None:
        super().__init__()
        self.spec = spec
        self.enter = Linear(spec.latent_channels, spec.stub_width)
        self.read = Linear(spec.text_channels, spec.stub_width)
        self.clock = Linear(1, spec.stub_width)
        self.layers: Any = ModuleList([Layer(spec) for _ in range(NUM_LAYERS)])
        self.leave = Linear(spec.stub_width, spec.latent_channels)

    def blocks(self) -> Iterator[Any]:
        return iter(self.layers)

    def condition(self, given: Given, latent: LatentShape) -> Condition:
        text = place(given.text.mean(1, keepdims=True), device_of(self.enter.weight))
        return Condition(self.spec.grid(latent), self.read(cast(text, like=self.enter.weight)))

    def check(self, latents: Tensor, condition: Condition) -> None:
        assert self.spec.grid(LatentShape(*latents.shape[2:])) == condition.grid

    def modulate(self, timestep: Tensor, condition: Condition) -> Tensor:
        time = cast(to_float32(timestep) / 1000, like=self.enter.weight)
        return condition.text + self.clock(time.reshape(-1, 1, 1))

    def embed(self, latents: Tensor, condition: Condition) -> Tensor:
        tokens = latents.reshape(*latents.shape[:2], -1).swapaxes(1, 2)
        return self.enter(cast(tokens, like=self.enter.weight))

    def run_block(self, index: int, x: Tensor, modulation: Tensor, condition: Condition) -> Tensor:
        return self.layers[index](x, modulation)

    def project(self, x: Tensor, modulation: Tensor) -> Tensor:
        return self.leave(x)

    def assemble(self, patches: Tensor, condition: Condition) -> Tensor:
        latents = to_float32(patches).swapaxes(1, 2)
        return latents.reshape(*latents.shape[:2], *condition.grid)


class Layer(nn.Module):
    def __init__(self, spec: StubSpec) -> None:
        super().__init__()
        self.map = Linear(spec.stub_width, spec.stub_width)

    def of_text(self) -> tuple[nn.Module, ...]:
        return ()

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        return x + self.map(silu(x + modulation))
