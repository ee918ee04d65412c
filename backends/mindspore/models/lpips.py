"""LPIPS: the perceptual distance of pictures, built from a core.models.lpips.LPIPSSpec.

Attribute names are those of the published weights.
Source: Zhang et al. 2018 (arXiv:1801.03924), equation 1, and the constants of its published version 0.1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mindspore import Tensor, nn

from duosora.core.models.lpips import POOL_STRIDE, SCALE, SHIFT, LPIPSSpec

from ..attention import Attend
from ..layers import Conv2d, Identity, MaxPool2d, ModuleList, ReLU, cast, device_of, place, to_float32
from ..video import unit_channels

EPS = 1e-10
"""Added in quadrature to the length of a pixel's features. The published code adds it outside of the root, which at a
pixel of zeros has no slope; for features longer than 1e-3 both are the same in float32."""


def create(spec: LPIPSSpec, attend: Attend) -> LPIPS:
    """The model of a spec, without its weights."""
    return LPIPS(spec)


class LPIPS(nn.Cell):
    """The distance of pictures."""

    def __init__(self, spec: LPIPSSpec) -> None:
        super().__init__()
        self.spec = spec
        self.features = ModuleList()
        self.ends: list[int] = []
        """The numbers of the last layers of the stages."""
        inputs = 3
        for level, stage in enumerate(spec.stages):
            if stage.pool:
                self.features.append(MaxPool2d(stage.pool, POOL_STRIDE))
            for channels, kernel, stride, padding in stage.convolutions:
                self.features.append(Conv2d(inputs, channels, kernel, stride, padding))
                self.features.append(ReLU())
                inputs = channels
            self.ends.append(len(self.features) - 1)
            setattr(self, f"lin{level}", Head(inputs))

    def construct(self, first: Tensor, second: Tensor) -> Tensor:
        """The distances (B,) float32 of pictures (B, 3, H, W) in [-1, 1], two at a time.

        Raises: ShapeError when they are too small for the backbone.
        """
        self.spec.check_size(*first.shape[2:])
        x, y = self.normalise(first), self.normalise(second)
        distances: list[Tensor] = []
        for number, layer in enumerate(self.features):
            x, y = layer(x), layer(y)
            if number in self.ends:
                distances.append(getattr(self, f"lin{len(distances)}")(x, y))
        return sum(distances[1:], distances[0])

    def normalise(self, pictures: Tensor) -> Tensor:
        """Pictures as the backbone was trained on them."""
        shift, scale = (
            place(np.array(values, np.float32)[:, None, None], device_of(pictures)) for values in (SHIFT, SCALE)
        )
        first_layer: Any = self.features[0]
        return cast((to_float32(pictures) - shift) / scale, like=first_layer.weight)


class Head(nn.Cell):
    """The weights of one stage's channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The first place is that of a dropout, which only the training of the heads had.
        self.model = ModuleList([Identity(), Conv2d(channels, 1, 1, bias=False)])

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        """The distances (B,) float32 of features (B, C, H, W)."""
        difference = unit_channels(x, EPS) - unit_channels(y, EPS)
        weighted = self.model[1](cast(difference * difference, like=x))
        return to_float32(weighted).mean((1, 2, 3))
