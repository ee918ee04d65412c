"""WFVAE: the wavelet-flow video autoencoder of Open-Sora Plan v1.3, built from a core.models.wfvae.WFVAESpec.

A convolutional trunk with side branches that carry Haar coefficients of the clip; causal in time, so frame 0 depends on
itself only and an image is a clip of one frame. Every layer that looks along time gets its frames from a Stream, which
makes a clip in chunks equal to one in one piece. Class and attribute names are upstream's; the weights' names follow.
Source: arXiv:2411.17459; layout and constants from opensora/models/causalvideovae of Open-Sora Plan at 9fa322f.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from duosora.core.models.wfvae import GROUPS, WFVAESpec
from duosora.core.shapes import NUM_COLOURS

from ..attention import Attend
from ..causal import convolve_causally
from ..layers import Conv2d, Conv3d, GroupNorm, LayerNorm, ModuleList, cast, cat, silu_over, to_float32
from ..operators import channel_norm
from ..posteriors import Encoded, Levels, Reconstruction, draw
from ..streaming import Stream, whole_clip
from ..upstream_tiling import UpstreamTiling
from ..video import (
    channels_innermost,
    double_space_linear,
    double_space_nearest,
    double_time_linear,
    double_time_nearest,
    fold_frames,
    frame_attention,
    haar_analysis_2d,
    haar_analysis_3d,
    haar_synthesis_2d,
    haar_synthesis_3d,
    pad_right_and_bottom,
    unfold_frames,
)

EPS = 1e-6
BANDS_2D, BANDS_3D = 4, 8


def create(spec: WFVAESpec, attend: Attend) -> WFVAE:
    """The model of a spec, without its weights."""
    return WFVAE(spec)


class WFVAE(nn.Module):
    """The autoencoder. Latents here are unscaled; scale and shift are core.pipelines.autoencode's."""

    def __init__(self, spec: WFVAESpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = Encoder(spec)
        self.decoder = Decoder(spec)

    def encode(self, video: Tensor, noise: Mapping[str, Tensor] | None = None, stream: Stream | None = None) -> Encoded:
        """Pixels (B, 3, T, H, W) in [-1, 1] -> latents, drawn with unit noise of their shape, named "latent".

        noise: None: the means. With a stream, the clip's next frames: their number is to give whole latent frames.
        """
        x = cast(video, like=self.encoder.conv_out.conv.weight)
        moments = to_float32(self.encoder(channels_innermost(x), stream or whole_clip())[0])
        return Encoded(draw(moments, (noise or {}).get("latent")), {"latent": moments})

    def decode(self, latents: Tensor, num_frames: int | None = None, stream: Stream | None = None) -> Tensor:
        """Latents (B, C, t, h, w) -> pixels (B, 3, T, H, W) float32 in about [-1, 1], not clamped.

        num_frames: T, which follows from the latents. With a stream, the clip's next latents; the last of their pixel
        frames come with the next chunk.
        """
        x = cast(latents, like=self.decoder.conv_out.weight)
        return self.decoder(channels_innermost(x), stream or whole_clip())

    def reconstruct(
        self,
        video: Tensor,
        noise: Mapping[str, Tensor],
        makes_pixels: bool = True,
        wanted: frozenset[str] = frozenset(),
    ) -> Reconstruction:
        """Pixels (B, 3, T, H, W) in [-1, 1] through latents drawn with unit noise, as in `encode`, for training.

        The pair "wavelet" are, of both levels, the Haar coefficients that the side branches of the encoder read, and
        those that the side branches of the decoder make of the latents. makes_pixels: they come along in any case.
        """
        moments, encoder_bands = self.encoder(channels_innermost(video), whole_clip())
        moments = to_float32(moments)
        latents = draw(moments, noise["latent"])
        x, lowest, decoder_bands = self.decoder.trunk(channels_innermost(latents), whole_clip())
        pixels = self.decoder.finish(x, lowest, whole_clip())
        pairs: dict[str, tuple[Levels, Levels]] = {"wavelet": (encoder_bands, decoder_bands)}
        return Reconstruction(pixels, latents, {"latent": moments}, pairs)

    def stream(self, upstream_tiling: bool = False) -> Stream:
        """The state for one clip that is encoded or decoded in chunks; `advance` it before each chunk."""
        return UpstreamTiling(self.decoder) if upstream_tiling else Stream()


class Encoder(nn.Module):
    """Pixels to moments."""

    def __init__(self, spec: WFVAESpec) -> None:
        super().__init__()
        base, flow, n = spec.base_channels, spec.encoder_energy_flow_hidden_size, spec.encoder_num_resblocks
        norm = spec.norm_type
        self.down1 = Stages(
            [
                FrameConv2d(BANDS_3D * NUM_COLOURS, base),
                *(ResnetBlock2D(base, norm) for _ in range(n)),
                Spatial2xTime2x3DDownsample(base) if spec.temporal_level_1 else Downsample(base),
            ]
        )
        self.down2 = Stages(
            [
                FrameConv2d(base + flow, 2 * base),
                *(ResnetBlock3D(2 * base, 2 * base, norm) for _ in range(n)),
                Spatial2xTime2x3DDownsample(2 * base),
            ]
        )
        self.connect_l1 = FrameConv2d(spec.level_1_channels, flow)
        self.connect_l2 = FrameConv2d(BANDS_3D * NUM_COLOURS, flow)
        self.mid = Stages(mid_blocks(2 * base + flow, 4 * base, 4 * base, spec))
        self.norm_out = make_norm(4 * base, norm)
        self.conv_out = CausalConv3d(4 * base, 2 * spec.latent_dim)
        self.wavelet_transform_in = HaarWaveletTransform3D()
        self.wavelet_transform_l1 = HaarWaveletTransform3D() if spec.temporal_level_1 else HaarWaveletTransform2D()
        self.wavelet_transform_l2 = HaarWaveletTransform3D()

    def forward(self, video: Tensor, stream: Stream) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Moments, and the coefficients of the side branches."""
        bands = self.wavelet_transform_in(video, stream)
        l1_bands = self.wavelet_transform_l1(bands[:, :NUM_COLOURS], stream)
        l2_bands = self.wavelet_transform_l2(l1_bands[:, :NUM_COLOURS], stream)
        x = self.down1(bands, stream)
        x = cat([x, self.connect_l1(l1_bands, stream)], 1)
        x = self.down2(x, stream)
        x = cat([x, self.connect_l2(l2_bands, stream)], 1)
        x = self.mid(x, stream)
        return self.conv_out(x, stream, norm=self.norm_out), (l1_bands, l2_bands)


class Decoder(nn.Module):
    """Latents to pixels."""

    def __init__(self, spec: WFVAESpec) -> None:
        super().__init__()
        base, flow, n = spec.base_channels, spec.decoder_energy_flow_hidden_size, spec.decoder_num_resblocks
        norm = spec.norm_type
        self.flow = flow
        self.conv_in = CausalConv3d(spec.latent_dim, 4 * base)
        self.mid = Stages(mid_blocks(4 * base, 4 * base, 4 * base + flow, spec))
        self.up2 = Stages(
            [
                *(ResnetBlock3D(4 * base, 4 * base, norm) for _ in range(n)),
                Spatial2xTime2x3DUpsample(4 * base, spec.t_interpolation),
                ResnetBlock3D(4 * base, 4 * base + flow, norm),
            ]
        )
        self.up1 = Stages(
            [
                *(ResnetBlock3D(4 * base if i == 0 else 2 * base, 2 * base, norm) for i in range(n)),
                # Always trilinear, whatever the spec says: upstream builds this one without the setting (quirk Q22).
                Spatial2xTime2x3DUpsample(2 * base, "trilinear") if spec.temporal_level_1 else Upsample(2 * base),
                ResnetBlock3D(2 * base if n else 4 * base, 2 * base, norm),
            ]
        )
        self.layer = Stages([ResnetBlock3D(2 * base, base, norm), ResnetBlock3D(base, base, norm)])
        self.connect_l1 = Stages(connect_blocks(flow, spec.level_1_channels, spec))
        self.connect_l2 = Stages(connect_blocks(flow, BANDS_3D * NUM_COLOURS, spec))
        self.norm_out = make_norm(base, norm)
        self.conv_out = FrameConv2d(base, BANDS_3D * NUM_COLOURS)
        self.inverse_wavelet_transform_out = InverseHaarWaveletTransform3D()
        self.inverse_wavelet_transform_l1 = (
            InverseHaarWaveletTransform3D() if spec.temporal_level_1 else InverseHaarWaveletTransform2D()
        )
        self.inverse_wavelet_transform_l2 = InverseHaarWaveletTransform3D()

    def forward(self, latents: Tensor, stream: Stream) -> Tensor:
        """Pixels."""
        x, l1, _ = self.trunk(latents, stream)
        return self.finish(x, l1, stream)

    def trunk(self, latents: Tensor, stream: Stream) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """All before the last layer: its input, what is added to its lowest band, coefficients of the side branches."""
        x = self.mid(self.conv_in(latents, stream), stream)
        l2_bands = self.connect_l2(x[:, -self.flow :], stream)
        l2 = self.inverse_wavelet_transform_l2(l2_bands, stream)
        x = self.up2(x[:, : -self.flow], stream)
        l1_bands = self.connect_l1(x[:, -self.flow :], stream)
        # The synthesis runs ahead of the trunk, which in a stream waits at each doubling of frames for the next one.
        l1_bands = add_to_colours(l1_bands, stream.align(self.inverse_wavelet_transform_l2, l2, l1_bands.shape[2]))
        l1 = self.inverse_wavelet_transform_l1(l1_bands, stream)
        x = silu_over(self.norm_out(self.layer(self.up1(x[:, : -self.flow], stream), stream)))
        l1 = stream.align(self.inverse_wavelet_transform_l1, l1, x.shape[2])
        return x, l1, (l1_bands, l2_bands)

    def finish(self, x: Tensor, l1: Tensor, stream: Stream) -> Tensor:
        """What the trunk gives to pixels."""
        bands = self.conv_out(x, stream)
        # In float32 from here: bfloat16 would leave steps of 1/256 between pixels.
        return self.inverse_wavelet_transform_out(to_float32(add_to_colours(bands, l1)), stream)


def mid_blocks(inputs: int, width: int, outputs: int, spec: WFVAESpec) -> list[nn.Module]:
    """The blocks at the lowest resolution."""
    attention = [AttnBlock3DFix(width, spec.norm_type)] if spec.use_attention else []
    return [ResnetBlock3D(inputs, width, spec.norm_type), *attention, ResnetBlock3D(width, outputs, spec.norm_type)]


def connect_blocks(flow: int, outputs: int, spec: WFVAESpec) -> list[nn.Module]:
    """A side branch of the decoder: from its part of the trunk's channels to Haar coefficients."""
    return [
        *(ResnetBlock3D(flow, flow, spec.norm_type) for _ in range(spec.connect_res_layer_num)),
        FrameConv2d(flow, outputs),
    ]


def add_to_colours(bands: Tensor, colours: Tensor) -> Tensor:
    """Add (B, 3, T, H, W) to the first three channels, the lowest band, of Haar coefficients."""
    return cat([bands[:, :NUM_COLOURS] + colours, bands[:, NUM_COLOURS:]], 1)


def make_norm(channels: int, norm_type: str) -> nn.Module:
    """The norm of a spec's norm_type, over axis 1 of (B, C, T, H, W) or (B, C, H, W)."""
    if norm_type == "layernorm":
        return ChannelLayerNorm(channels)
    return GroupNorm(GROUPS, channels, eps=EPS)


def norm_and_silu(norm: Any, x: Tensor) -> Tensor:
    """A norm and the SiLU behind it."""
    return silu_over(norm(x))


class Stages(ModuleList):
    """Blocks that are applied one after the other."""

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        for stage in self:
            x = stage(x, stream)
        return x


class ChannelLayerNorm(nn.Module):
    """Layer norm over the channels of each position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = LayerNorm(channels, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        return channel_norm(x, self.norm.weight, self.norm.bias, EPS)


class CausalConv3d(nn.Module):
    """3-D convolution that sees the frames before each frame, never those behind it."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, pads_space: bool = True) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride
        padding = kernel // 2 if pads_space else 0
        self.conv = Conv3d(inputs, outputs, kernel, stride, padding=(0, padding, padding))

    def forward(self, x: Tensor, stream: Stream, onto: Tensor | None = None, norm: Any = None) -> Tensor:
        """norm: what x goes through first, with a SiLU. onto: what the result is added to, maybe in its memory."""
        activation = None if norm is None else partial(norm_and_silu, norm)
        if activation and not isinstance(norm, ChannelLayerNorm):
            x, activation = activation(x), None  # a group norm looks at more than one position
        if self.kernel == 3 and self.stride == 1:
            return stream.filtered(
                self, x, self.kernel, lambda before: convolve_causally(self.conv, x, before, onto, activation)
            )
        return self.conv(stream.extend(self, x, self.kernel, self.stride))


class FrameConv2d(Conv2d):
    """2-D convolution, 3 x 3, of each frame of a video."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:  # type: ignore[override]
        return unfold_frames(super().forward(fold_frames(x)), x.shape[0])


class ResnetBlock2D(nn.Module):
    """Residual block that treats each frame as an image, group norm included (quirk Q24)."""

    def __init__(self, channels: int, norm_type: str) -> None:
        super().__init__()
        self.norm1 = make_norm(channels, norm_type)
        self.conv1 = Conv2d(channels, channels, 3, padding=1)
        self.norm2 = make_norm(channels, norm_type)
        self.conv2 = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        frames = fold_frames(x)
        hidden = self.conv1(silu_over(self.norm1(frames)))
        hidden = self.conv2(silu_over(self.norm2(hidden)))
        return unfold_frames(frames + hidden, x.shape[0])


class ResnetBlock3D(nn.Module):
    """Residual block of causal convolutions."""

    def __init__(self, inputs: int, outputs: int, norm_type: str) -> None:
        super().__init__()
        self.norm1 = make_norm(inputs, norm_type)
        self.conv1 = CausalConv3d(inputs, outputs)
        self.norm2 = make_norm(outputs, norm_type)
        self.conv2 = CausalConv3d(outputs, outputs)
        if inputs != outputs:
            self.nin_shortcut = CausalConv3d(inputs, outputs, kernel=1)
        self.has_shortcut = inputs != outputs

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """x is done with afterwards: the result may lie in its memory."""
        hidden = self.conv1(x, stream, norm=self.norm1)
        return self.conv2(hidden, stream, self.nin_shortcut(x, stream) if self.has_shortcut else x, self.norm2)


class AttnBlock3DFix(nn.Module):
    """Residual attention with a single head among the positions of each frame."""

    def __init__(self, channels: int, norm_type: str) -> None:
        super().__init__()
        self.norm = make_norm(channels, norm_type)
        self.q = CausalConv3d(channels, channels, kernel=1)
        self.k = CausalConv3d(channels, channels, kernel=1)
        self.v = CausalConv3d(channels, channels, kernel=1)
        self.proj_out = CausalConv3d(channels, channels, kernel=1)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        normed = self.norm(x)
        mixed = frame_attention(self.q(normed, stream), self.k(normed, stream), self.v(normed, stream))
        return x + self.proj_out(mixed, stream)


class Downsample(nn.Module):
    """Each frame half as high and wide; zeros are added at right and bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        return unfold_frames(self.conv(pad_right_and_bottom(fold_frames(x))), x.shape[0])


class Spatial2xTime2x3DDownsample(nn.Module):
    """A clip half as long (T frames to (T + 1) / 2), high and wide; zeros are added at right and bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels, stride=2, pads_space=False)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        return self.conv(pad_right_and_bottom(x), stream)


class Upsample(nn.Module):
    """Each frame twice as high and wide, by repeated pixels and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        return unfold_frames(self.conv(fold_frames(double_space_nearest(x))), x.shape[0])


class Spatial2xTime2x3DUpsample(nn.Module):
    """A clip twice as long (T frames to 2T - 1), high and wide; frame 0 is enlarged only.

    The setting is about time: space is linear with "nearest" as well (quirk Q23).
    """

    def __init__(self, channels: int, t_interpolation: str) -> None:
        super().__init__()
        self.double_time = double_time_linear if t_interpolation == "trilinear" else double_time_nearest
        self.conv = CausalConv3d(channels, channels)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = stream.double(self, x, self.double_time)
        return self.conv(double_space_linear(x), stream)


class HaarWaveletTransform3D(nn.Module):
    """Haar analysis, causal in time: (B, C, T, H, W) -> (B, 8 * C, (T + 1) // 2, H // 2, W // 2), bands outermost."""

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        return haar_analysis_3d(stream.extend(self, x, kernel=2, stride=2))


class InverseHaarWaveletTransform3D(nn.Module):
    """Haar synthesis: (B, 8 * C, T, H, W) -> (B, C, 2T - 1, 2H, 2W); the copy of the clip's first frame is dropped."""

    def forward(self, bands: Tensor, stream: Stream) -> Tensor:
        frames = haar_synthesis_3d(bands)
        return frames[:, :, 1:] if stream.is_first else frames


class HaarWaveletTransform2D(nn.Module):
    """Haar analysis of each frame: (B, C, T, H, W) -> (B, 4 * C, T, H // 2, W // 2), bands outermost."""

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        return haar_analysis_2d(x)


class InverseHaarWaveletTransform2D(nn.Module):
    """Haar synthesis of each frame: (B, 4 * C, T, H, W) -> (B, C, T, 2H, 2W)."""

    def forward(self, bands: Tensor, stream: Stream) -> Tensor:
        return haar_synthesis_2d(bands)


def _of_whole_clip(wavelet: type[nn.Module], x: Tensor) -> Tensor:
    return wavelet()(x, whole_clip())


FUNCTIONS: Mapping[str, Callable[..., Tensor]] = {
    wavelet.__name__: partial(_of_whole_clip, wavelet)
    for wavelet in (
        HaarWaveletTransform2D,
        HaarWaveletTransform3D,
        InverseHaarWaveletTransform2D,
        InverseHaarWaveletTransform3D,
    )
}
"""Pieces that are tested by themselves, on whole clips."""
