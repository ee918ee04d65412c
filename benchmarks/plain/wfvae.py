"""WFVAE (4x8x8) in plain PyTorch, with upstream's decoding in tiles of time.

Source of the behaviour: arXiv:2411.17459; opensora/models/causalvideovae of Open-Sora Plan at 9fa322f. Decoding in
tiles keeps, in every convolution, the frames that the next tile needs; each tile sees one latent frame of the next one,
and what that frame gives is thrown away, so it is computed twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

BANDS_3D = ("h", "g", "hh", "gh", "h_v", "g_v", "hh_v", "gh_v")
BANDS_2D = ("aa", "ad", "da", "dd")


class WFVAE(nn.Module):
    """The autoencoder of a core.models.wfvae.WFVAESpec whose level 1 leaves time as it is."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.encoder = Encoder(spec)
        self.decoder = Decoder(spec)

    def encode(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, T, H, W) -> mean and log-variance (B, C, t, h, w)."""
        self.forget()
        mean, log_variance = self.encoder(video)[0].chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, t, h, w) -> pixels (B, 3, T, H, W)."""
        self.forget()
        return self.decoder(latents)[0]

    def reconstruct(self, video: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Any, Any]:
        """Pixels, mean, log-variance, and the Haar coefficients of the encoder and of the decoder."""
        self.forget()
        moments, coefficients = self.encoder(video)
        mean, log_variance = moments.chunk(2, dim=1)
        log_variance = log_variance.clamp(-30.0, 20.0)
        latents = mean + torch.exp(0.5 * log_variance) * noise
        pixels, decoded_coefficients = self.decoder(latents)
        return pixels, mean, log_variance, coefficients, decoded_coefficients

    def tiled_decode(self, latents: Tensor, tile: int = 2) -> Tensor:
        """Latents -> pixels, `tile` latent frames at a time after the first one."""
        self.forget()
        self.decoder.set_look_ahead()
        num_frames = latents.shape[2]
        starts = [0, *range(1, num_frames, tile)]
        stops = [*starts[1:], num_frames]
        pieces = []
        for start, stop in zip(starts, stops, strict=True):
            look_ahead = 1 if stop + 1 < num_frames else 0
            piece = self.decoder(latents[:, :, start : stop + look_ahead])[0]
            pieces.append(piece[:, :, : piece.shape[2] - 4 * look_ahead])
            for module in self.modules():
                if hasattr(module, "is_first"):
                    module.is_first = False
        self.forget()
        return torch.cat(pieces, dim=2)

    def forget(self) -> None:
        """Empty what the last clip left behind."""
        for module in self.modules():
            if hasattr(module, "is_first"):
                module.is_first, module.kept = True, None


class Encoder(nn.Module):
    """Pixels to moments."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        base, flow, norm = spec.base_channels, spec.encoder_energy_flow_hidden_size, spec.norm_type
        n = spec.encoder_num_resblocks
        self.down1 = nn.Sequential(
            Conv2d(24, base, 3, padding=1), *(ResnetBlock2D(base, norm) for _ in range(n)), Downsample(base)
        )
        self.down2 = nn.Sequential(
            Conv2d(base + flow, 2 * base, 3, padding=1),
            *(ResnetBlock3D(2 * base, 2 * base, norm) for _ in range(n)),
            Spatial2xTime2x3DDownsample(2 * base),
        )
        self.connect_l1 = Conv2d(12, flow, 3, padding=1)
        self.connect_l2 = Conv2d(24, flow, 3, padding=1)
        self.mid = nn.Sequential(*mid_blocks(spec, 2 * base + flow, 4 * base, 4 * base))
        self.norm_out = make_norm(4 * base, norm)
        self.conv_out = CausalConv3d(4 * base, 2 * spec.latent_dim, 3, padding=1)
        self.wavelet_transform_in = HaarWaveletTransform3D()
        self.wavelet_transform_l1 = HaarWaveletTransform2D()
        self.wavelet_transform_l2 = HaarWaveletTransform3D()

    def forward(self, video: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        coefficients = self.wavelet_transform_in(video)
        l1 = self.wavelet_transform_l1(coefficients[:, :3])
        l2 = self.wavelet_transform_l2(l1[:, :3])
        h = self.down1(coefficients)
        h = torch.cat([h, self.connect_l1(l1)], dim=1)
        h = self.down2(h)
        h = torch.cat([h, self.connect_l2(l2)], dim=1)
        h = self.mid(h)
        return self.conv_out(functional.silu(self.norm_out(h))), (l1, l2)


class Decoder(nn.Module):
    """Latents to pixels."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        base, flow, norm = spec.base_channels, spec.decoder_energy_flow_hidden_size, spec.norm_type
        n = spec.decoder_num_resblocks
        self.flow = flow
        self.conv_in = CausalConv3d(spec.latent_dim, 4 * base, 3, padding=1)
        self.mid = nn.Sequential(*mid_blocks(spec, 4 * base, 4 * base, 4 * base + flow))
        self.up2 = nn.Sequential(
            *(ResnetBlock3D(4 * base, 4 * base, norm) for _ in range(n)),
            Spatial2xTime2x3DUpsample(4 * base, spec.t_interpolation),
            ResnetBlock3D(4 * base, 4 * base + flow, norm),
        )
        self.up1 = nn.Sequential(
            *(ResnetBlock3D(4 * base if i == 0 else 2 * base, 2 * base, norm) for i in range(n)),
            Upsample(2 * base),
            ResnetBlock3D(2 * base, 2 * base, norm),
        )
        self.layer = nn.Sequential(ResnetBlock3D(2 * base, base, norm), ResnetBlock3D(base, base, norm))
        m = spec.connect_res_layer_num
        self.connect_l1 = nn.Sequential(
            *(ResnetBlock3D(flow, flow, norm) for _ in range(m)), Conv2d(flow, 12, 3, padding=1)
        )
        self.connect_l2 = nn.Sequential(
            *(ResnetBlock3D(flow, flow, norm) for _ in range(m)), Conv2d(flow, 24, 3, padding=1)
        )
        self.norm_out = make_norm(base, norm)
        self.conv_out = Conv2d(base, 24, 3, padding=1)
        self.inverse_wavelet_transform_out = InverseHaarWaveletTransform3D()
        self.inverse_wavelet_transform_l1 = InverseHaarWaveletTransform2D()
        self.inverse_wavelet_transform_l2 = InverseHaarWaveletTransform3D()

    def forward(self, latents: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        h = self.mid(self.conv_in(latents))
        l2_coefficients = self.connect_l2(h[:, -self.flow :])
        l2 = self.inverse_wavelet_transform_l2(l2_coefficients)
        h = self.up2(h[:, : -self.flow])
        l1_coefficients = self.connect_l1(h[:, -self.flow :])
        l1_coefficients[:, :3] = l1_coefficients[:, :3] + l2
        l1 = self.inverse_wavelet_transform_l1(l1_coefficients)
        h = self.layer(self.up1(h[:, : -self.flow]))
        h = self.conv_out(functional.silu(self.norm_out(h)))
        h[:, :3] = h[:, :3] + l1
        return self.inverse_wavelet_transform_out(h), (l1_coefficients, l2_coefficients)

    def set_look_ahead(self) -> None:
        """How many frames at the end of each layer's input belong to the next tile."""
        num_blocks = len(self.up2) - 2
        before = [self.conv_in, self.mid, self.connect_l2, *self.up2[:num_blocks]]
        after = [*self.up2[num_blocks:], self.connect_l1, self.up1, self.layer]
        for parts, frames in ((before, 1), (after, 2)):
            for part in parts:
                for module in part.modules():
                    if isinstance(module, CausalConv3d):
                        module.look_ahead = frames


def mid_blocks(spec: Any, inputs: int, width: int, outputs: int) -> list[nn.Module]:
    attention = [AttnBlock3D(width, spec.norm_type)] if spec.use_attention else []
    return [ResnetBlock3D(inputs, width, spec.norm_type), *attention, ResnetBlock3D(width, outputs, spec.norm_type)]


def make_norm(channels: int, norm_type: str) -> nn.Module:
    if norm_type == "layernorm":
        return ChannelLayerNorm(channels)
    return nn.GroupNorm(32, channels, eps=1e-6)


def to_frames(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B * T, C, H, W)."""
    batch, channels, frames, height, width = x.shape
    return x.permute(0, 2, 1, 3, 4).reshape(batch * frames, channels, height, width)


def to_video(x: Tensor, batch: int) -> Tensor:
    """(B * T, C, H, W) -> (B, C, T, H, W)."""
    return x.reshape(batch, -1, *x.shape[1:]).permute(0, 2, 1, 3, 4)


class ChannelLayerNorm(nn.Module):
    """Layer norm over the channels, which go to the end and back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1).contiguous()


class Conv2d(nn.Conv2d):
    """A convolution of each frame."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 4:
            return super().forward(x)
        return to_video(super().forward(to_frames(x)), x.shape[0])


class CausalConv3d(nn.Module):
    """A convolution that sees the frames before, of which the first one is repeated."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, padding=(0, padding, padding))
        self.is_first, self.kept, self.look_ahead = True, None, 0

    def forward(self, x: Tensor) -> Tensor:
        if self.is_first:
            x = torch.cat([x[:, :, :1].repeat(1, 1, self.kernel - 1, 1, 1), x], dim=2)
        elif self.kept is not None:
            x = torch.cat([self.kept, x], dim=2)
        if self.look_ahead and self.kernel > self.stride:
            stop = x.shape[2] - self.look_ahead
            self.kept = x[:, :, stop - (self.kernel - self.stride) : stop].clone()
        return self.conv(x)


class ResnetBlock2D(nn.Module):
    """Norm, SiLU and convolution of frames, twice."""

    def __init__(self, channels: int, norm_type: str) -> None:
        super().__init__()
        self.norm1 = make_norm(channels, norm_type)
        self.conv1 = Conv2d(channels, channels, 3, padding=1)
        self.norm2 = make_norm(channels, norm_type)
        self.conv2 = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        frames = to_frames(x)
        h = self.conv1(functional.silu(self.norm1(frames)))
        h = self.conv2(functional.silu(self.norm2(h)))
        return to_video(frames + h, x.shape[0])


class ResnetBlock3D(nn.Module):
    """Norm, SiLU and causal convolution, twice."""

    def __init__(self, inputs: int, outputs: int, norm_type: str) -> None:
        super().__init__()
        self.norm1 = make_norm(inputs, norm_type)
        self.conv1 = CausalConv3d(inputs, outputs, 3, padding=1)
        self.norm2 = make_norm(outputs, norm_type)
        self.conv2 = CausalConv3d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.nin_shortcut = CausalConv3d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(functional.silu(self.norm1(x)))
        h = self.conv2(functional.silu(self.norm2(h)))
        if hasattr(self, "nin_shortcut"):
            x = self.nin_shortcut(x)
        return x + h


class AttnBlock3D(nn.Module):
    """Attention with one head inside each frame."""

    def __init__(self, channels: int, norm_type: str) -> None:
        super().__init__()
        self.norm = make_norm(channels, norm_type)
        self.q = CausalConv3d(channels, channels, 1)
        self.k = CausalConv3d(channels, channels, 1)
        self.v = CausalConv3d(channels, channels, 1)
        self.proj_out = CausalConv3d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, _, height, width = x.shape
        normed = self.norm(x)
        q, k, v = (
            to_frames(each).flatten(2).transpose(1, 2).contiguous()[:, None]  # (B * T, 1, H * W, C)
            for each in (self.q(normed), self.k(normed), self.v(normed))
        )
        mixed = functional.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2)
        mixed = mixed.reshape(mixed.shape[0], -1, height, width)
        return x + self.proj_out(to_video(mixed, batch))


class Downsample(nn.Module):
    """Half as high and wide."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.pad(x, (0, 1, 0, 1)))


class Spatial2xTime2x3DDownsample(nn.Module):
    """Half as long, high and wide."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.pad(x, (0, 1, 0, 1, 0, 0)))


class Upsample(nn.Module):
    """Twice as high and wide."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        frames = functional.interpolate(to_frames(x), scale_factor=2.0, mode="nearest")
        return to_video(self.conv(frames), x.shape[0])


class Spatial2xTime2x3DUpsample(nn.Module):
    """Twice as high and wide, and twice as long but for the first frame."""

    def __init__(self, channels: int, t_interpolation: str) -> None:
        super().__init__()
        self.mode = t_interpolation
        self.conv = CausalConv3d(channels, channels, 3, padding=1)
        self.is_first, self.kept = True, None

    def forward(self, x: Tensor) -> Tensor:
        if self.is_first:
            self.kept = x[:, :, -1:]
            if x.shape[2] == 1:
                return self.conv(self.wider(x))
            first, rest = x[:, :, :1], x[:, :, 1:]
            rest = functional.interpolate(rest, scale_factor=(2.0, 1.0, 1.0), mode=self.mode)
            return self.conv(torch.cat([self.wider(first), self.wider(rest)], dim=2))
        x = torch.cat([self.kept, x], dim=2)
        self.kept = x[:, :, -2:-1]
        x = functional.interpolate(x, scale_factor=(2.0, 1.0, 1.0), mode=self.mode)[:, :, 2:]
        return self.conv(self.wider(x))

    def wider(self, x: Tensor) -> Tensor:
        return functional.interpolate(x, scale_factor=(1.0, 2.0, 2.0), mode="trilinear")


def one_by_one(x: Tensor) -> Tensor:
    """(B, C, ...) -> (B * C, 1, ...)."""
    return x.reshape(-1, 1, *x.shape[2:])


class Filter(nn.Module):
    """A constant filter under the name that files have for it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 1, 2, 2, bias=False)
        self.conv.weight.requires_grad_(False)


class HaarWaveletTransform3D(nn.Module):
    """Eight filters of two frames, rows and columns on each channel."""

    def __init__(self) -> None:
        super().__init__()
        for band in BANDS_3D:
            setattr(self, f"{band}_conv", Filter())
        self.is_first, self.kept = True, None

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        if self.is_first:
            x = torch.cat([x[:, :, :1], x], dim=2)
        x = one_by_one(x)
        bands = [getattr(self, f"{band}_conv").conv(x) for band in BANDS_3D]
        x = torch.stack(bands, dim=1)  # (B * C, 8, 1, T, H, W)
        x = x.reshape(batch, -1, len(BANDS_3D), *x.shape[3:]).transpose(1, 2)
        return x.reshape(batch, -1, *x.shape[3:])


class InverseHaarWaveletTransform3D(nn.Module):
    """The transposed convolutions of the eight filters, summed."""

    def __init__(self) -> None:
        super().__init__()
        for band in BANDS_3D:
            self.register_parameter(band, nn.Parameter(torch.empty(1, 1, 2, 2, 2), requires_grad=False))
        self.is_first, self.kept = True, None

    def forward(self, coefficients: Tensor) -> Tensor:
        batch = coefficients.shape[0]
        x = sum(
            functional.conv_transpose3d(one_by_one(part), getattr(self, band), stride=2)
            for band, part in zip(BANDS_3D, coefficients.chunk(8, dim=1), strict=True)
        )
        x = x.reshape(batch, -1, *x.shape[2:])
        return x[:, :, 1:] if self.is_first else x


class HaarWaveletTransform2D(nn.Module):
    """Four filters of two rows and columns on each channel of each frame."""

    def __init__(self) -> None:
        super().__init__()
        for band in BANDS_2D:
            self.register_parameter(band, nn.Parameter(torch.empty(1, 1, 2, 2), requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        frames = to_frames(x)
        bands = [functional.conv2d(one_by_one(frames), getattr(self, band), stride=2) for band in BANDS_2D]
        bands = [band.reshape(frames.shape[0], -1, *band.shape[2:]) for band in bands]
        return to_video(torch.cat(bands, dim=1), batch)


class InverseHaarWaveletTransform2D(nn.Module):
    """The transposed convolutions of the four filters, summed."""

    def __init__(self) -> None:
        super().__init__()
        for band in BANDS_2D:
            self.register_parameter(band, nn.Parameter(torch.empty(1, 1, 2, 2), requires_grad=False))

    def forward(self, coefficients: Tensor) -> Tensor:
        batch = coefficients.shape[0]
        frames = to_frames(coefficients)
        x = sum(
            functional.conv_transpose2d(one_by_one(part), getattr(self, band), stride=2)
            for band, part in zip(BANDS_2D, frames.chunk(4, dim=1), strict=True)
        )
        return to_video(x.reshape(frames.shape[0], -1, *x.shape[2:]), batch)
