"""The autoencoder of pictures of Stable Diffusion and SDXL, built from a core.models.sd_vae.SDVAESpec.

Levels of residual blocks that halve each side, with attention among all pixels in the middle. Attribute names are
diffusers', as the weights' names follow from them.
Source: Rombach et al. 2022 (arXiv:2112.10752).
"""

from __future__ import annotations

from collections.abc import Mapping

from mindspore import Tensor, nn, ops

from duosora.core.models.sd_vae import EPS, FRAMES_AT_A_TIME, PictureVAESpec, SDVAESpec
from duosora.core.shapes import NUM_COLOURS

from ..attention import Attend
from ..layers import Conv2d, GroupNorm, Linear, ModuleList, silu_over
from ..posteriors import Encoded, Reconstruction, draw
from ..streaming import Stream
from ..video import by_frames, double_picture, pad_right_and_bottom, position_attention


def create(spec: SDVAESpec, attend: Attend) -> SDVAE:
    """The model of a spec, without its weights."""
    return SDVAE(spec)


class PictureVAE(nn.Cell):
    """The autoencoder of pictures. Latents here are those of its own scale."""

    def __init__(self, spec: PictureVAESpec) -> None:
        super().__init__()
        latents = spec.latent_channels
        self.encoder = PictureEncoder(spec)
        self.decoder = PictureDecoder(spec)
        self.quant_conv = Conv2d(2 * latents, 2 * latents, 1)
        self.post_quant_conv = Conv2d(latents, latents, 1)

    def moments(self, pictures: Tensor) -> Tensor:
        """Pixels (N, 3, H, W) in [-1, 1] -> moments (N, 2C, h, w): mean, then log-variance."""
        return self.quant_conv(self.encoder(pictures))

    def pictures(self, latents: Tensor) -> Tensor:
        """Latents (N, C, h, w) -> pixels (N, 3, H, W) in about [-1, 1], not clamped."""
        return self.decoder(self.post_quant_conv(latents))

    def moments_of_frames(self, video: Tensor, at_a_time: int | None) -> Tensor:
        """Pixels (B, 3, T, H, W) -> moments (B, 2C, T, h, w) float32, by so many frames; None: all."""
        return by_frames(self.moments, video, at_a_time, self.quant_conv.weight)

    def frames(self, latents: Tensor, at_a_time: int | None) -> Tensor:
        """Latents (B, C, T, h, w) -> pixels (B, 3, T, H, W) float32, by so many frames; None: all."""
        return by_frames(self.pictures, latents, at_a_time, self.quant_conv.weight)


class SDVAE(PictureVAE):
    """The autoencoder of videos, frame by frame. Latents here are unscaled; scale is core.pipelines.autoencode's."""

    def __init__(self, spec: SDVAESpec) -> None:
        super().__init__(spec)
        self.spec = spec

    def encode(self, video: Tensor, noise: Mapping[str, Tensor] | None = None, stream: Stream | None = None) -> Encoded:
        """Pixels (B, 3, T, H, W) in [-1, 1] -> latents, drawn with unit noise "latent" (B, C, T, h, w); None: means.

        stream: makes no difference, as frames know nothing of each other.
        """
        moments = self.moments_of_frames(self.spec.input_range * video, FRAMES_AT_A_TIME)
        return Encoded(draw(moments, (noise or {}).get("latent")), {"latent": moments})

    def decode(self, latents: Tensor, num_frames: int | None = None, stream: Stream | None = None) -> Tensor:
        """Latents (B, C, T, h, w) -> pixels (B, 3, T, H, W) float32 in about [-1, 1], not clamped."""
        return self.frames(latents, FRAMES_AT_A_TIME) / self.spec.input_range

    def reconstruct(
        self,
        video: Tensor,
        noise: Mapping[str, Tensor],
        makes_pixels: bool = True,
        wanted: frozenset[str] = frozenset(),
    ) -> Reconstruction:
        """Pixels (B, 3, T, H, W) in [-1, 1] through latents drawn with unit noise, as in `encode`, for training."""
        latents, moments = self.encode(video, noise)
        pixels = self.decode(latents) if makes_pixels else None
        still = ops.stop_gradient(latents)
        return Reconstruction(pixels, latents, moments, {}, lambda: self.decode(still))

    def stream(self) -> Stream:
        """The state for one clip in chunks: they need nothing of each other."""
        return Stream()


class PictureEncoder(nn.Cell):
    """Pixels to moments."""

    def __init__(self, spec: PictureVAESpec) -> None:
        super().__init__()
        widths, groups, last = spec.block_out_channels, spec.norm_num_groups, len(spec.block_out_channels) - 1
        self.conv_in = Conv2d(NUM_COLOURS, widths[0], 3, padding=1)
        self.down_blocks = ModuleList(
            [
                DownLevel(widths[max(0, i - 1)], width, spec.layers_per_block, groups, halves=i < last)
                for i, width in enumerate(widths)
            ]
        )
        self.mid_block = MidBlock(widths[-1], groups)
        self.conv_norm_out = GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_out = Conv2d(widths[-1], 2 * spec.latent_channels, 3, padding=1)

    def construct(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(silu_over(self.conv_norm_out(self.mid_block(x))))


class PictureDecoder(nn.Cell):
    """Latents to pixels."""

    def __init__(self, spec: PictureVAESpec) -> None:
        super().__init__()
        widths, groups, last = spec.block_out_channels[::-1], spec.norm_num_groups, len(spec.block_out_channels) - 1
        self.conv_in = Conv2d(spec.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], groups)
        self.up_blocks = ModuleList(
            [
                UpLevel(widths[max(0, i - 1)], width, spec.layers_per_block + 1, groups, doubles=i < last)
                for i, width in enumerate(widths)
            ]
        )
        self.conv_norm_out = GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_out = Conv2d(widths[-1], NUM_COLOURS, 3, padding=1)

    def construct(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(silu_over(self.conv_norm_out(x)))


class DownLevel(nn.Cell):
    """Residual blocks, then half the height and width."""

    def __init__(self, inputs: int, outputs: int, num_blocks: int, groups: int, halves: bool) -> None:
        super().__init__()
        self.resnets = ModuleList(resnets(inputs, outputs, num_blocks, groups))
        self.halves = halves
        if halves:
            self.downsamplers = ModuleList([HalvePicture(outputs)])

    def construct(self, x: Tensor) -> Tensor:
        for block in self.resnets:
            x = block(x)
        return self.downsamplers[0](x) if self.halves else x


class UpLevel(nn.Cell):
    """Residual blocks, then twice the height and width."""

    def __init__(self, inputs: int, outputs: int, num_blocks: int, groups: int, doubles: bool) -> None:
        super().__init__()
        self.resnets = ModuleList(resnets(inputs, outputs, num_blocks, groups))
        self.doubles = doubles
        if doubles:
            self.upsamplers = ModuleList([DoublePicture(outputs)])

    def construct(self, x: Tensor) -> Tensor:
        for block in self.resnets:
            x = block(x)
        return self.upsamplers[0](x) if self.doubles else x


class MidBlock(nn.Cell):
    """Attention between two residual blocks."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.attentions = ModuleList([PictureAttention(channels, groups)])
        self.resnets = ModuleList(resnets(channels, channels, 2, groups))

    def construct(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class PictureResnet(nn.Cell):
    """Residual block of one picture."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, inputs, eps=EPS)
        self.conv1 = Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = GroupNorm(groups, outputs, eps=EPS)
        self.conv2 = Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.conv_shortcut = Conv2d(inputs, outputs, 1)
        self.has_shortcut = inputs != outputs

    def construct(self, x: Tensor) -> Tensor:
        hidden = self.conv1(silu_over(self.norm1(x)))
        hidden = self.conv2(silu_over(self.norm2(hidden)))
        return (self.conv_shortcut(x) if self.has_shortcut else x) + hidden


class PictureAttention(nn.Cell):
    """Residual attention with a single head among all pixels."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = GroupNorm(groups, channels, eps=EPS)
        self.to_q = Linear(channels, channels)
        self.to_k = Linear(channels, channels)
        self.to_v = Linear(channels, channels)
        self.to_out = ModuleList([Linear(channels, channels)])

    def construct(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        pixels = self.group_norm(x).reshape(batch, channels, height * width).swapaxes(1, 2)  # (N, H * W, C)
        mixed = position_attention(self.to_q(pixels), self.to_k(pixels), self.to_v(pixels))
        return x + self.to_out[0](mixed).swapaxes(1, 2).reshape(batch, channels, height, width)


class HalvePicture(nn.Cell):
    """Half as high and wide; zeros are added at right and bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2)

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(pad_right_and_bottom(x))


class DoublePicture(nn.Cell):
    """Twice as high and wide: pixels repeated, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(double_picture(x))


def resnets(inputs: int, outputs: int, count: int, groups: int) -> list[nn.Cell]:
    """The residual blocks of a level."""
    return [PictureResnet(inputs if i == 0 else outputs, outputs, groups) for i in range(count)]
