"""OpenSoraVAE 1.2: the video autoencoder of hpcaitech Open-Sora, built from a core.models.opensora_vae.OpenSoraVAESpec.

SDXL's autoencoder makes latents of each frame, a causal temporal one makes latents of those, in groups of frames that
know nothing of each other. Frames go through the first a few at a time and groups through the second one at a time, so
memory does not grow with the clip. Attribute names are upstream's; the weights' names follow.
Source: opensora/models/vae of hpcaitech Open-Sora at v1.2.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindspore import Tensor, nn, ops

from duosora.core.errors import ShapeError
from duosora.core.models.opensora_vae import SPATIAL_FACTOR, TEMPORAL_EPS, OpenSoraVAESpec, TemporalVAESpec
from duosora.core.models.sd_vae import PictureVAESpec
from duosora.core.shapes import VideoShape

from ..attention import Attend
from ..causal import convolve_causally
from ..layers import Conv3d, GroupNorm, Identity, ModuleList, cast, cat, silu_over, to_float32
from ..operators import pad_start
from ..posteriors import Encoded, Levels, Reconstruction, draw
from ..streaming import Stream
from ..video import channels_to_frames
from .sd_vae import PictureVAE


def create(spec: OpenSoraVAESpec, attend: Attend) -> OpenSoraVAE:
    """The model of a spec, without its weights."""
    return OpenSoraVAE(spec)


class OpenSoraVAE(nn.Cell):
    """The autoencoder. Latents here are unscaled; scale and shift are core.pipelines.autoencode's."""

    def __init__(self, spec: OpenSoraVAESpec) -> None:
        super().__init__()
        self.spec = spec
        self.spatial_vae = SpatialVAE(spec.spatial, spec.micro_batch_size)
        self.temporal_vae = TemporalVAE(spec.temporal)

    def encode(self, video: Tensor, noise: Mapping[str, Tensor] | None = None, stream: Stream | None = None) -> Encoded:
        """Pixels (B, 3, T, H, W) in [-1, 1] -> latents, drawn with unit noise of the shapes of both latents.

        noise: "spatial" (B, C, T, h, w) and "temporal" (B, C, t, h, w); None: the means. With a stream, the clip's next
        frames: whole groups, save at its end.
        """
        return self._encode(video, noise or {})[0]

    def decode(self, latents: Tensor, num_frames: int, stream: Stream | None = None) -> Tensor:
        """Latents (B, C, t, h, w) -> pixels (B, 3, num_frames, H, W) float32 in about [-1, 1], not clamped.

        With a stream, the clip's next latents: whole groups, save at its end; num_frames are theirs.
        Raises: ShapeError when so many frames have another number of latents.
        """
        return cat([self.spatial_vae.decode(group) for group in self._decode_groups(latents, num_frames)], 2)

    def reconstruct(
        self,
        video: Tensor,
        noise: Mapping[str, Tensor],
        makes_pixels: bool = True,
        wanted: frozenset[str] = frozenset(),
    ) -> Reconstruction:
        """Pixels (B, 3, T, H, W) in [-1, 1] through latents drawn with unit noise, as in `encode`, for training.

        The pair "spatial" are the frames' latents (B, C, T, h, w) that the temporal autoencoder is given and those that
        it gives back; "identity", of single frames, those that it is given and what it makes of them; "frames", where
        it is wanted, the clip and what the autoencoder of frames makes of it by itself. makes_pixels: False makes none
        of the latents.
        """
        (latents, moments), frames = self._encode(video, noise)
        rebuilt = cat(self._decode_groups(latents, video.shape[2]), 2)
        pairs: dict[str, tuple[Levels, Levels]] = {"spatial": (frames, rebuilt)}
        if video.shape[2] == 1 and "identity" in self.spec.pairs:
            pairs["identity"] = (frames, latents)
        if "frames" in wanted:
            pairs["frames"] = (video, self.spatial_vae.decode(frames))
        pixels = self.spatial_vae.decode(rebuilt) if makes_pixels else None
        still = ops.stop_gradient(latents)
        return Reconstruction(pixels, latents, moments, pairs, lambda: self.decode(still, video.shape[2]))

    def stream(self) -> Stream:
        """The state for one clip that is encoded or decoded in whole groups: they need nothing of each other."""
        return Stream()

    def _encode(self, video: Tensor, noise: Mapping[str, Tensor]) -> tuple[Encoded, Tensor]:
        """Latents, and the frames' latents that they were made of."""
        spatial = self.spatial_vae.encode(video)
        frames = SPATIAL_FACTOR * draw(spatial, noise.get("spatial"))
        groups = self._groups(frames, self.spec.micro_frame_size)
        temporal = cat([self.temporal_vae.encode(group) for group in groups], 2)
        return Encoded(draw(temporal, noise.get("temporal")), {"spatial": spatial, "temporal": temporal}), frames

    def _decode_groups(self, latents: Tensor, num_frames: int) -> list[Tensor]:
        """The frames' latents of each group."""
        spec = self.spec
        self._check(latents, num_frames)
        if spec.micro_frame_size is None:
            return [self.temporal_vae.decode(latents, num_frames)]
        groups = self._groups(latents, spec.compression.latent_frames)
        starts = range(0, num_frames, spec.micro_frame_size)
        lengths = [min(spec.micro_frame_size, num_frames - start) for start in starts]
        return [self.temporal_vae.decode(group, length) for group, length in zip(groups, lengths, strict=True)]

    def _check(self, latents: Tensor, num_frames: int) -> None:
        frames, height, width = latents.shape[2:]
        sides = height * self.spec.spatial.space, width * self.spec.spatial.space
        expected = self.spec.compression.latent(VideoShape(num_frames, *sides)).frames
        if frames != expected:
            raise ShapeError(f"num_frames = {num_frames}: these have {expected} latent frames, not {frames}")

    def _groups(self, x: Tensor, size: int | None) -> list[Tensor]:
        """(B, C, T, H, W) cut into groups of frames."""
        size = size or x.shape[2]
        return [x[:, :, start : start + size] for start in range(0, x.shape[2], size)]


class SpatialVAE(nn.Cell):
    """The autoencoder of frames, a few of them at a time."""

    def __init__(self, spec: PictureVAESpec, micro_batch_size: int | None) -> None:
        super().__init__()
        self.module = PictureVAE(spec)
        self.micro_batch_size = micro_batch_size

    def encode(self, video: Tensor) -> Tensor:
        """Pixels (B, 3, T, H, W) -> moments (B, 2C, T, h, w) float32."""
        return self.module.moments_of_frames(video, self.micro_batch_size)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, T, h, w), scaled -> pixels (B, 3, T, H, W) float32."""
        return self.module.frames(latents / SPATIAL_FACTOR, self.micro_batch_size)


class TemporalVAE(nn.Cell):
    """The causal autoencoder of one group of frames' latents."""

    def __init__(self, spec: TemporalVAESpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = TemporalEncoder(spec)
        self.quant_conv = PaddedConv3d(2 * spec.hidden_channels, 2 * spec.latent_channels, 1)
        self.post_quant_conv = PaddedConv3d(spec.latent_channels, spec.hidden_channels, 1)
        self.decoder = TemporalDecoder(spec)

    def encode(self, frames: Tensor) -> Tensor:
        """(B, C, T, h, w) -> moments (B, 2C, t, h, w) float32; zeros in front fill up the first latent frame."""
        frames = cast(frames, like=self.quant_conv.conv.weight)
        padded = pad_start(frames, 2, -frames.shape[2] % self.spec.time)
        return to_float32(self.quant_conv(self.encoder(padded)))

    def decode(self, latents: Tensor, num_frames: int) -> Tensor:
        """(B, C, t, h, w) -> (B, C, num_frames, h, w) float32, without the frames that filled up the first latent."""
        latents = cast(latents, like=self.quant_conv.conv.weight)
        frames = self.decoder(self.post_quant_conv(latents))
        return to_float32(frames[:, :, -num_frames % self.spec.time :])


class TemporalEncoder(nn.Cell):
    """Frames' latents to moments, before the last convolution."""

    def __init__(self, spec: TemporalVAESpec) -> None:
        super().__init__()
        widths = spec.widths
        self.conv_in = PaddedConv3d(spec.channels, spec.filters, bias=False)
        self.block_res_blocks = ModuleList(
            [
                ModuleList(temporal_blocks(inputs, outputs, spec))
                for inputs, outputs in zip((spec.filters, *widths[:-1]), widths, strict=True)
            ]
        )
        self.conv_blocks = ModuleList(
            [
                PaddedConv3d(width, width, stride=2) if is_halved else Identity()
                for width, is_halved in zip(widths, spec.temporal_downsample, strict=False)
            ]
        )
        self.res_blocks = ModuleList(temporal_blocks(widths[-1], widths[-1], spec))
        self.norm1 = GroupNorm(spec.num_groups, widths[-1], eps=TEMPORAL_EPS)
        self.conv2 = PaddedConv3d(widths[-1], 2 * spec.hidden_channels, 1)

    def construct(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for i, level in enumerate(self.block_res_blocks):
            x = apply_all(level, x)
            if i < len(self.conv_blocks):
                x = self.conv_blocks[i](x)
        return self.conv2(silu_over(self.norm1(apply_all(self.res_blocks, x))))


class TemporalDecoder(nn.Cell):
    """Latents, behind the first convolution, to frames' latents."""

    def __init__(self, spec: TemporalVAESpec) -> None:
        super().__init__()
        widths = spec.widths
        self.spec = spec
        self.conv1 = PaddedConv3d(spec.hidden_channels, widths[-1])
        self.res_blocks = ModuleList(temporal_blocks(widths[-1], widths[-1], spec))
        self.block_res_blocks = ModuleList(
            [
                ModuleList(temporal_blocks(inputs, outputs, spec))
                for inputs, outputs in zip((*widths[1:], widths[-1]), widths, strict=True)
            ]
        )
        self.conv_blocks = ModuleList(
            [
                PaddedConv3d(width, 2 * width) if is_doubled else Identity()
                for width, is_doubled in zip(widths[1:], spec.temporal_downsample, strict=True)
            ]
        )
        self.norm1 = GroupNorm(spec.num_groups, widths[0], eps=TEMPORAL_EPS)
        self.conv_out = PaddedConv3d(widths[0], spec.channels)

    def construct(self, x: Tensor) -> Tensor:
        x = apply_all(self.res_blocks, self.conv1(x))
        for i in reversed(range(len(self.block_res_blocks))):
            x = apply_all(self.block_res_blocks[i], x)
            if i > 0 and self.spec.temporal_downsample[i - 1]:
                x = channels_to_frames(self.conv_blocks[i - 1](x))
        return self.conv_out(silu_over(self.norm1(x)))


class TemporalResnet(nn.Cell):
    """Residual block of causal convolutions."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, inputs, eps=TEMPORAL_EPS)
        self.conv1 = PaddedConv3d(inputs, outputs, bias=False)
        self.norm2 = GroupNorm(groups, outputs, eps=TEMPORAL_EPS)
        self.conv2 = PaddedConv3d(outputs, outputs, bias=False)
        if inputs != outputs:
            self.conv3 = PaddedConv3d(inputs, outputs, 1, bias=False)
        self.has_shortcut = inputs != outputs

    def construct(self, x: Tensor) -> Tensor:
        hidden = self.conv1(silu_over(self.norm1(x)))
        return self.conv2(silu_over(self.norm2(hidden)), self.conv3(x) if self.has_shortcut else x)


class PaddedConv3d(nn.Cell):
    """3-D convolution that sees the frames before each frame, and zeros before the first."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.before = max(0, kernel - stride)
        self.is_of_neighbours = kernel == 3 and stride == 1
        padding = (0, kernel // 2, kernel // 2)
        self.conv = Conv3d(inputs, outputs, kernel, (stride, 1, 1), padding=padding, bias=bias)

    def construct(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """onto: what the result is added to."""
        if self.is_of_neighbours:
            return convolve_causally(self.conv, x, x[:, :, :0], onto)
        return self.conv(pad_start(x, 2, self.before))


def temporal_blocks(inputs: int, outputs: int, spec: TemporalVAESpec) -> list[nn.Cell]:
    """The residual blocks of a level."""
    counts = range(spec.num_res_blocks)
    return [TemporalResnet(inputs if i == 0 else outputs, outputs, spec.num_groups) for i in counts]


def apply_all(blocks: Any, x: Tensor) -> Tensor:
    """Blocks one after the other."""
    for block in blocks:
        x = block(x)
    return x
