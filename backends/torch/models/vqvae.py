"""VQ-VAE of VideoGPT, built from a core.models.vqvae.VQVAESpec.

Attribute names are upstream's, whose lists count activations: `block.0`, `block.2`, `block.3`, ...; the weights' names
follow. Convolutions are padded by hand, the larger half in front.
Source: Yan et al. 2021 (arXiv:2104.10157), videogpt/vqvae.py of VideoGPT at 733d2b1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from duosora.core.models.vqvae import HEADS, VQVAESpec
from duosora.core.shapes import NUM_COLOURS

from ..attention import Attend
from ..layers import (
    BatchNorm3d,
    Conv3d,
    ConvTranspose3d,
    Identity,
    Linear,
    ModuleList,
    cast,
    detach,
    new_parameter,
    relu,
    to_float32,
)
from ..operators import nearest, pad_end, pad_start, take_rows
from ..posteriors import Encoded, Levels, Reconstruction
from ..streaming import Stream
from ..video import position_attention

Strides = tuple[int, int, int]


def create(spec: VQVAESpec, attend: Attend) -> VQVAE:
    """The model of a spec, without its weights."""
    return VQVAE(spec)


class VQVAE(nn.Module):
    """The autoencoder. Latents here are the codes' vectors, unscaled."""

    def __init__(self, spec: VQVAESpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = Encoder(spec)
        self.decoder = Decoder(spec)
        self.pre_vq_conv = SamePadConv3d(spec.n_hiddens, spec.embedding_dim, 1)
        self.post_vq_conv = SamePadConv3d(spec.embedding_dim, spec.n_hiddens, 1)
        self.codebook = CodebookLookUp(spec)

    def encode(self, video: Tensor, noise: Mapping[str, Tensor] | None = None, stream: Stream | None = None) -> Encoded:
        """Pixels (B, 3, T, H, W) in [-1, 1] -> the vectors of their codes (B, C, t, h, w) float32; nothing is drawn."""
        return Encoded(self.codebook.vectors(self.codes(video)), {})

    def decode(self, latents: Tensor, num_frames: int | None = None, stream: Stream | None = None) -> Tensor:
        """Latents (B, C, t, h, w) -> pixels (B, 3, T, H, W) float32 in about [-1, 1], not clamped.

        They are decoded as they are, codes' vectors or not.
        """
        return 2 * self.halved(latents, False)

    def reconstruct(
        self,
        video: Tensor,
        noise: Mapping[str, Tensor],
        makes_pixels: bool = True,
        wanted: frozenset[str] = frozenset(),
        is_training: bool = False,
    ) -> Reconstruction:
        """Pixels (B, 3, T, H, W) in [-1, 1] through their codes, for training.

        The pair "commitment" are latents (B, C, t, h, w) and the vectors of their codes, which have no gradient; that
        of the pixels goes to the latents as they are. "reconstruction", where it is wanted, are the pixels from -0.5 to
        0.5 and what becomes of them. is_training: norm by the batch's own statistics and add them to the running ones.
        """
        z = self.latents(video, is_training)
        vectors = detach(self.codebook.vectors(self.codebook.codes(detach(z))))
        straight = detach(vectors - z) + z
        pairs: dict[str, tuple[Levels, Levels]] = {"commitment": (z, vectors)}
        if not makes_pixels and "reconstruction" not in wanted:
            return Reconstruction(None, straight, {}, pairs)
        made = self.halved(straight, is_training)
        if "reconstruction" in wanted:
            pairs["reconstruction"] = (0.5 * video, made)
        return Reconstruction(2 * made, straight, {}, pairs)

    def stream(self) -> Stream:
        """The state for one clip, which comes in one piece."""
        return Stream()

    def codes(self, video: Tensor) -> Tensor:
        """Pixels (B, 3, T, H, W) in [-1, 1] -> the numbers of their codes (B, t, h, w)."""
        return self.codebook.codes(self.latents(video, False))

    def decode_codes(self, codes: Tensor) -> Tensor:
        """Numbers of codes (B, t, h, w) -> pixels, as `decode`."""
        return self.decode(self.codebook.vectors(codes))

    def latents(self, video: Tensor, is_training: bool) -> Tensor:
        """Pixels (B, 3, T, H, W) in [-1, 1] -> latents (B, C, t, h, w) float32 before the look-up."""
        hidden = self.encoder(0.5 * cast(video, like=self.pre_vq_conv.conv.weight), is_training)
        return to_float32(self.pre_vq_conv(hidden))

    def halved(self, latents: Tensor, is_training: bool) -> Tensor:
        """Latents (B, C, t, h, w) -> pixels (B, 3, T, H, W) float32 in about [-0.5, 0.5]."""
        latents = cast(latents, like=self.post_vq_conv.conv.weight)
        return to_float32(self.decoder(self.post_vq_conv(latents), is_training))


class CodebookLookUp(nn.Module):
    """The codes, and the averages that they follow: core.maths.codebook."""

    def __init__(self, spec: VQVAESpec) -> None:
        super().__init__()
        self.embeddings = new_parameter(spec.n_codes, spec.embedding_dim)
        self.N = new_parameter(spec.n_codes)
        self.z_avg = new_parameter(spec.n_codes, spec.embedding_dim)

    def codes(self, z: Tensor) -> Tensor:
        """Latents (B, C, t, h, w) -> the number of the nearest code of each, (B, t, h, w); of equals the first."""
        rows = z.permute(0, 2, 3, 4, 1)
        found = nearest(rows.reshape(-1, rows.shape[-1]), to_float32(self.embeddings))
        return found.reshape(rows.shape[:-1])

    def vectors(self, codes: Tensor) -> Tensor:
        """Numbers of codes (B, t, h, w) -> their vectors (B, C, t, h, w) float32."""
        found = take_rows(to_float32(self.embeddings), codes.reshape(-1))
        return found.reshape(*codes.shape, found.shape[-1]).permute(0, 4, 1, 2, 3)


class Encoder(nn.Module):
    """Pixels to features."""

    def __init__(self, spec: VQVAESpec) -> None:
        super().__init__()
        width = spec.n_hiddens
        self.convs = ModuleList(
            [SamePadConv3d(NUM_COLOURS if i == 0 else width, width, 4, stride) for i, stride in enumerate(spec.strides)]
        )
        self.conv_last = SamePadConv3d(width, width, 3)
        self.res_stack = res_stack(spec)

    def forward(self, x: Tensor, is_training: bool) -> Tensor:
        for conv in self.convs:
            x = relu(conv(x))
        return through(self.res_stack, self.conv_last(x), is_training)


class Decoder(nn.Module):
    """Features to pixels."""

    def __init__(self, spec: VQVAESpec) -> None:
        super().__init__()
        width, last = spec.n_hiddens, len(spec.strides) - 1
        self.res_stack = res_stack(spec)
        self.convts = ModuleList(
            [
                SamePadConvTranspose3d(width, NUM_COLOURS if i == last else width, stride)
                for i, stride in enumerate(spec.strides)
            ]
        )

    def forward(self, x: Tensor, is_training: bool) -> Tensor:
        x = through(self.res_stack, x, is_training)
        for i, conv in enumerate(self.convts):
            x = conv(x if i == 0 else relu(x))
        return x


class AttentionResidualBlock(nn.Module):
    """Convolutions through half the width, then attention along each axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.block = ModuleList(
            [
                *(BatchNorm3d(width), Identity(), SamePadConv3d(width, half, 3, bias=False)),
                *(BatchNorm3d(half), Identity(), SamePadConv3d(half, width, 1, bias=False)),
                *(BatchNorm3d(width), Identity(), AxialBlock(width)),
            ]
        )

    def forward(self, x: Tensor, is_training: bool) -> Tensor:
        hidden = x
        for place in (0, 3, 6):
            hidden = self.block[place + 2](relu(self.block[place](hidden, is_training)))
        return x + hidden


class AxialBlock(nn.Module):
    """The sum of attentions along width, height and time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn_w = AxialAttention(width, 4)
        self.attn_h = AxialAttention(width, 3)
        self.attn_t = AxialAttention(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.attn_w(x) + self.attn_h(x) + self.attn_t(x)


class AxialAttention(nn.Module):
    """Attention among the positions along one axis of (B, C, T, H, W)."""

    def __init__(self, width: int, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.w_qs = Linear(width, width, bias=False)
        self.w_ks = Linear(width, width, bias=False)
        self.w_vs = Linear(width, width, bias=False)
        self.fc = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        order = (0, *(axis for axis in (2, 3, 4) if axis != self.axis), self.axis, 1)
        rows = x.permute(*order)  # (B, two other axes, N, C)
        mixed = position_attention(*(heads(layer(rows)) for layer in (self.w_qs, self.w_ks, self.w_vs)))
        joined = mixed.reshape(-1, HEADS, *mixed.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
        back = tuple(order.index(axis) for axis in range(5))
        return self.fc(joined).permute(*back)


class SamePadConv3d(nn.Module):
    """Convolution that divides each axis by its stride."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: Strides = (1, 1, 1), bias: bool = True) -> None:
        super().__init__()
        self.paddings = [kernel - step for step in stride]
        self.conv = Conv3d(inputs, outputs, kernel, stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(padded(x, self.paddings))


class SamePadConvTranspose3d(nn.Module):
    """Transposed convolution of kernel 4 that multiplies each axis by its stride."""

    def __init__(self, inputs: int, outputs: int, stride: Strides) -> None:
        super().__init__()
        self.paddings = [4 - step for step in stride]
        self.convt = ConvTranspose3d(inputs, outputs, 4, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.convt(padded(x, self.paddings))


def padded(x: Tensor, counts: Sequence[int]) -> Tensor:
    """So many zeros around each axis of (B, C, T, H, W), the larger half in front."""
    for axis, count in enumerate(counts, start=2):
        x = pad_end(pad_start(x, axis, count - count // 2), axis, count // 2)
    return x


def heads(x: Tensor) -> Tensor:
    """(..., N, C) -> (sequences * heads, N, C / heads)."""
    parts = x.reshape(-1, x.shape[-2], HEADS, x.shape[-1] // HEADS).swapaxes(1, 2)
    return parts.reshape(-1, x.shape[-2], x.shape[-1] // HEADS)


def res_stack(spec: VQVAESpec) -> nn.Module:
    """Residual blocks and a norm."""
    blocks = [AttentionResidualBlock(spec.n_hiddens) for _ in range(spec.n_res_layers)]
    return ModuleList([*blocks, BatchNorm3d(spec.n_hiddens)])


def through(stack: Any, x: Tensor, is_training: bool) -> Tensor:
    """Features through a stack."""
    for each in stack:
        x = each(x, is_training)
    return relu(x)
