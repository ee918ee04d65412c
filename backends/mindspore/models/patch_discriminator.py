"""The 3-D PatchGAN discriminator that WFVAE is trained against: core.models.patch_discriminator.

Attribute names follow upstream's list of layers, in which activations count: `main.0`, `main.2`, `main.3`, ...
"""

from __future__ import annotations

from mindspore import Tensor, nn

from duosora.core.models.patch_discriminator import PatchDiscriminatorSpec
from duosora.core.shapes import NUM_COLOURS

from ..attention import Attend
from ..layers import BatchNorm3d, Conv3d, Identity, ModuleList, leaky_relu

SLOPE = 0.2


def create(spec: PatchDiscriminatorSpec, attend: Attend) -> PatchDiscriminator:
    """The model of a spec, without its weights."""
    return PatchDiscriminator(spec)


class PatchDiscriminator(nn.Cell):
    """Judges patches of clips."""

    def __init__(self, spec: PatchDiscriminatorSpec) -> None:
        super().__init__()
        layers: list[nn.Cell] = [Conv3d(NUM_COLOURS, spec.base_channels, 3, stride=2, padding=1), Identity()]
        for stage in spec.stages:
            layers.append(Conv3d(stage.inputs, stage.outputs, 3, stride=stage.stride, padding=1, bias=False))
            layers += [BatchNorm3d(stage.outputs), Identity()]
        layers.append(Conv3d(spec.stages[-1].outputs, 1, 3, padding=1))
        self.main = ModuleList(layers)

    def construct(self, video: Tensor, is_training: bool) -> Tensor:
        """Pixels (B, 3, T, H, W) in [-1, 1] -> logits (B, 1, t, h, w), high for patches of real clips.

        is_training: norm by the batch's own statistics and add them to the running ones; else norm by these.
        """
        x = leaky_relu(self.main[0](video), SLOPE)
        for place in range(2, len(self.main) - 1, 3):
            x = self.main[place + 1](self.main[place](x), is_training)
            x = leaky_relu(x, SLOPE)
        return self.main[-1](x)
