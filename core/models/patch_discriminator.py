"""The discriminator that WFVAE is trained against: a 3-D PatchGAN, which judges overlapping patches of a clip.

Source: Isola et al. 2017, arXiv:1611.07004, in three dimensions; NLayerDiscriminator3D of opensora/models/
causalvideovae/model/losses/discriminator.py of Open-Sora Plan at 9fa322f. In a training checkpoint of upstream its
weights have these names behind "discriminator.".
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar, NamedTuple

from ..layout import Layout, Normal, Ones, Weight, WeightList, Zeros
from ..shapes import NUM_COLOURS, VideoShape
from .work import Applied, Work

STD = 0.02
"""Of fresh weights of convolutions and norms."""
WIDEST = 8
"""Channels grow to at most so many times the first layer's."""


class Stage(NamedTuple):
    """A convolution of kernel 3, normed and activated."""

    inputs: int
    outputs: int
    stride: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class PatchDiscriminatorSpec:
    """What the discriminator is; the defaults are what upstream trains with."""

    family: ClassVar[str] = "patch_discriminator"

    base_channels: int = 64
    num_layers: int = 4
    """Normed stages between the first convolution and the last."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The normed stages: time is halved in the first, space in all but the last."""
        widths = [self.base_channels * min(2**stage, WIDEST) for stage in range(self.num_layers + 1)]
        strides = [(2 if stage == 0 else 1, 2, 2) for stage in range(self.num_layers - 1)] + [(1, 1, 1)]
        return tuple(map(Stage, widths, widths[1:], strides))

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names of what the norms measure instead of learning it by gradients."""
        return tuple(name for name in self.layout() if ".running_" in name)

    def work(self, video: VideoShape, batch: int) -> Work:
        """Of a call for so many clips."""
        frames, height, width = video
        applied = [Applied("main.0.", batch * prod(video))]
        for number, stage in enumerate(self.stages, start=1):
            frames, height, width = (
                -(-side // step) for side, step in zip((frames, height, width), stage.stride, strict=True)
            )
            applied.append(Applied(f"main.{3 * number - 1}.", batch * frames * height * width))
        return Work((*applied, Applied("", batch * frames * height * width)))

    def layout(self) -> Layout:
        """Every weight under upstream's names, the norms' running statistics included."""
        weights = WeightList()
        weights.conv("main.0", self.base_channels, NUM_COLOURS, 3, 3, 3)
        weights["main.0.weight"] = Weight(weights["main.0.weight"].shape, Normal(STD))
        for number, stage in enumerate(self.stages, start=1):
            convolution, norm = f"main.{3 * number - 1}", f"main.{3 * number}"
            weights[f"{convolution}.weight"] = Weight((stage.outputs, stage.inputs, 3, 3, 3), Normal(STD))
            weights[f"{norm}.weight"] = Weight((stage.outputs,), Normal(STD, mean=1.0))
            weights[f"{norm}.bias"] = Weight((stage.outputs,), Zeros())
            weights[f"{norm}.running_mean"] = Weight((stage.outputs,), Zeros())
            weights[f"{norm}.running_var"] = Weight((stage.outputs,), Ones())
        last, width = f"main.{3 * self.num_layers + 2}", self.stages[-1].outputs
        weights.conv(last, 1, width, 3, 3, 3)
        weights[f"{last}.weight"] = Weight((1, width, 3, 3, 3), Normal(STD))
        counters = tuple(f"main.{3 * number}.num_batches_tracked" for number in range(1, self.num_layers + 1))
        return Layout(f"PatchDiscriminator(base_channels={self.base_channels})", weights, ignores=counters)
