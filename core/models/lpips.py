"""LPIPS v0.1: how different two pictures look, by the features of a network that was trained to name what is in them.

The features of a few layers are scaled to length 1 at each pixel; their squared differences, weighted by channel and
averaged over the picture, are summed over the layers.
Source: Zhang et al. 2018 (arXiv:1801.03924), the "lin" form of its version 0.1. Names of the backbone as in
torchvision, those of the heads as in the paper's published files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import ClassVar, NamedTuple

from ..errors import CheckpointError, ShapeError
from ..io.weights import WeightsReader, open_joined_weights
from ..layout import Layout, Normal, Ones, Weight, Zeros
from ..loading import check_headers, check_zeros
from .work import Applied, Work

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""Pixels in [-1, 1] become (pixels - SHIFT) / SCALE per colour: the mean and spread of the backbone's training set."""
POOL_STRIDE = 2
FIRST_WEIGHT = "features.0.weight"
"""Its shape tells one backbone from the other."""


class Convolution(NamedTuple):
    """A convolution with bias, followed by a ReLU."""

    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1


class FeatureStage(NamedTuple):
    """Convolutions after whose last ReLU the features are compared."""

    convolutions: tuple[Convolution, ...]
    pool: int | None = None
    """Side of the max-pooling in front, if there is one; its stride is POOL_STRIDE."""


BACKBONES: Mapping[str, tuple[FeatureStage, ...]] = {
    "vgg16": (
        FeatureStage((Convolution(64),) * 2),
        FeatureStage((Convolution(128),) * 2, pool=2),
        FeatureStage((Convolution(256),) * 3, pool=2),
        FeatureStage((Convolution(512),) * 3, pool=2),
        FeatureStage((Convolution(512),) * 3, pool=2),
    ),
    "alexnet": (
        FeatureStage((Convolution(64, kernel=11, stride=4, padding=2),)),
        FeatureStage((Convolution(192, kernel=5, padding=2),), pool=3),
        FeatureStage((Convolution(384),), pool=3),
        FeatureStage((Convolution(256),)),
        FeatureStage((Convolution(256),)),
    ),
}
"""The layers that are used; the published files go on behind them."""


@dataclass(frozen=True)
class LPIPSSpec:
    """What an LPIPS is: "vgg16" is customary as a loss, "alexnet" for figures that are reported."""

    family: ClassVar[str] = "lpips"

    backbone: str

    @property
    def stages(self) -> tuple[FeatureStage, ...]:
        return BACKBONES[self.backbone]

    @property
    def min_side(self) -> int:
        """Pixels of a side below which nothing is left for the last stage."""
        side = 1
        for stage in reversed(self.stages):
            for convolution in reversed(stage.convolutions):
                side = (side - 1) * convolution.stride + convolution.kernel - 2 * convolution.padding
            if stage.pool:
                side = (side - 1) * POOL_STRIDE + stage.pool
        return side

    def check_size(self, height: int, width: int) -> None:
        """Raises ShapeError when a picture is too small for the backbone."""
        if min(height, width) < self.min_side:
            raise ShapeError(
                f"LPIPS by {self.backbone} needs pictures of at least {self.min_side}x{self.min_side} pixels, not "
                f"{height}x{width}"
            )

    def work(self, height: int, width: int, pictures: int) -> Work:
        """Of a call that looks at so many pictures."""
        applied: list[Applied] = []
        number = 0
        for level, stage in enumerate(self.stages):
            if stage.pool:
                height, width, number = _less(height, stage.pool), _less(width, stage.pool), number + 1
            for convolution in stage.convolutions:
                reach = 2 * convolution.padding - convolution.kernel
                height, width = ((side + reach) // convolution.stride + 1 for side in (height, width))
                applied.append(Applied(f"features.{number}.", pictures * height * width))
                number += 2
            applied.append(Applied(f"lin{level}.", pictures * height * width // 2))
        return Work(applied)

    def layout(self) -> Layout:
        """Every weight, under its published name.

        Fresh ones are He's normal ones for the backbone, and heads for which all channels count alike.
        """
        weights: dict[str, Weight] = {}
        inputs, number = 3, 0
        for stage in self.stages:
            number += 1 if stage.pool else 0
            for convolution in stage.convolutions:
                shape = (convolution.channels, inputs, convolution.kernel, convolution.kernel)
                weights[f"features.{number}.weight"] = Weight(shape, Normal((2 / prod(shape[1:])) ** 0.5))
                weights[f"features.{number}.bias"] = Weight(shape[:1], Zeros())
                inputs, number = convolution.channels, number + 2  # the ReLU has a number as well
        for level, stage in enumerate(self.stages):
            weights[f"lin{level}.model.1.weight"] = Weight((1, stage.convolutions[-1].channels, 1, 1), Ones())
        return Layout(f"LPIPS({self.backbone})", weights, ignores=("classifier.",))


def _less(side: int, pool: int) -> int:
    """After max-pooling."""
    return (side - pool) // POOL_STRIDE + 1


def open_lpips(folder: Path) -> tuple[LPIPSSpec, WeightsReader]:
    """The LPIPS in a folder of safetensors files that together hold a backbone and its heads.

    Raises: CheckpointError when the folder or a backbone is not there, LayoutError when the weights do not fit it.
    """
    weights = open_joined_weights(folder)
    layouts = {spec: spec.layout() for spec in map(LPIPSSpec, BACKBONES)}
    for spec, layout in layouts.items():
        if FIRST_WEIGHT in weights and weights.shape(FIRST_WEIGHT) == layout[FIRST_WEIGHT].shape:
            check_zeros(layout, weights, check_headers(layout, weights))
            return spec, weights
    raise CheckpointError(
        f"{folder}: holds no safetensors with the backbone of LPIPS ({' or '.join(BACKBONES)}); docs/evaluation.md "
        "says how to make them"
    )
