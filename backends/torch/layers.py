"""The layers that the models are built from, under names that the MindSpore backend shares.

Here they are torch's own; the twin file owns cells whose parameters are called `weight` and `bias` as well, so that one
layout serves both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, cat, nn
from torch.nn import functional
from torch.nn.functional import gelu, leaky_relu, silu

from duosora.core.maths.haar import TAP_2D, TAP_3D

from .precision import to_tensor

__all__ = ["Conv2d", "Conv3d", "Embedding", "GroupNorm", "LayerNorm", "Linear", "cat", "leaky_relu", "silu"]

Conv2d = nn.Conv2d
Embedding = nn.Embedding
GroupNorm = nn.GroupNorm
LayerNorm = nn.LayerNorm
Linear = nn.Linear
ModuleList = nn.ModuleList
Identity = nn.Identity
MaxPool2d = nn.MaxPool2d
ReLU = nn.ReLU
RMSNorm = nn.RMSNorm
Sequential = nn.Sequential
addcmul = torch.addcmul
linear = functional.linear

# transformers' margin below the largest number of fp16.
HALF_LIMIT = torch.finfo(torch.float16).max - 1000


def autocast(device: str, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """A context in which matrix products and convolutions compute in a dtype; nothing changes for float32."""
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32)


class Conv3d(nn.Conv3d):
    """3-D convolution that on a CPU is as fast for small inputs as for large ones.

    By itself torch 2.13 hands a float32 clip with C * T * H up to 20480 to a kernel that unfolds it, 2 to 9 times
    slower than oneDNN's and hungry for memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.dtype == self.weight.dtype == torch.float32 and _has_onednn():
            padding = [int(width) for width in self.padding]  # in numbers, never "same" or "valid"
            options = (padding, self.stride, self.dilation, self.groups)
            return torch.mkldnn_convolution(x, self.weight, self.bias, *options)
        return super().forward(x)


class BatchNorm3d(nn.Module):
    """Norm of each channel over batch, time and space, with running statistics for use outside training.

    These are parameters without gradients, so that they are weights of the layout like all others.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.running_mean = nn.Parameter(torch.empty(channels), requires_grad=False)
        self.running_var = nn.Parameter(torch.empty(channels), requires_grad=False)

    def forward(self, x: Tensor, is_training: bool) -> Tensor:
        statistics = self.running_mean, self.running_var
        return functional.batch_norm(x, *statistics, self.weight, self.bias, is_training, self.momentum, self.eps)


def _has_onednn() -> bool:
    # Autocast knows conv3d and would not see the call by its other name.
    return torch.backends.mkldnn.is_available() and not torch.is_autocast_enabled("cpu")


def gelu_tanh(x):
    """GELU by its tanh approximation."""
    return gelu(x, approximate="tanh")


def gelu_erf(x):
    """GELU by the error function."""
    return gelu(x)


def submodules(module: nn.Module) -> Iterator[nn.Module]:
    """A module and all that are inside it."""
    return module.modules()


def cast(x: Tensor, like: Tensor) -> Tensor:
    """A tensor in another one's dtype."""
    return x.to(like.dtype)


def to_float32(x: Tensor) -> Tensor:
    """A tensor in float32."""
    return x.float()


def copy(x: Tensor) -> Tensor:
    """A tensor with memory of its own."""
    return x.clone()


def channels_innermost(x: Tensor) -> Tensor:
    """A video (B, C, T, H, W) in the memory order that spares convolutions, channel norms and folding their copies."""
    return x.contiguous(memory_format=torch.channels_last_3d)


def fold_frames(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B * T, C, H, W)."""
    batch, channels, frames, height, width = x.shape
    return x.permute(0, 2, 1, 3, 4).reshape(batch * frames, channels, height, width)


def unfold_frames(x: Tensor, batch: int) -> Tensor:
    """(B * T, C, H, W) -> (B, C, T, H, W)."""
    return x.unflatten(0, (batch, -1)).permute(0, 2, 1, 3, 4)


def norm_over_channels(norm: nn.Module, x: Tensor) -> Tensor:
    """A norm of the last axis applied to the channels of (B, C, ...)."""
    return norm(x.movedim(1, -1)).movedim(-1, 1)


def unit_channels(x: Tensor, eps: float) -> Tensor:
    """The channels of each pixel of (B, C, H, W) scaled to length 1 in float32; eps is a length added in quadrature.

    So pixels of zeros stay zeros, and the slope there is finite.
    """
    x = x.float()
    return x * torch.rsqrt((x * x).sum(1, keepdim=True) + eps**2)


def pad_right_and_bottom(x: Tensor) -> Tensor:
    """One column and one row of zeros at the ends of (..., H, W)."""
    return functional.pad(x, (0, 1, 0, 1))


def frame_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with one head among the positions of each frame by itself; all (B, C, T, H, W)."""
    batch, channels, frames, height, width = q.shape

    def positions(x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 4, 1).reshape(batch * frames, 1, height * width, channels)

    mixed = functional.scaled_dot_product_attention(positions(q), positions(k), positions(v))
    return mixed.reshape(batch, frames, height, width, channels).permute(0, 4, 1, 2, 3)


def double_space_linear(x: Tensor) -> Tensor:
    """Each frame twice as high and wide, bilinear with half-pixel centres: (B, C, T, H, W) -> (B, C, T, 2H, 2W)."""
    frames = functional.interpolate(fold_frames(x), scale_factor=2, mode="bilinear", align_corners=False)
    return unfold_frames(frames, x.shape[0])


def double_space_nearest(x: Tensor) -> Tensor:
    """Each frame twice as high and wide, pixels repeated: (B, C, T, H, W) -> (B, C, T, 2H, 2W)."""
    return unfold_frames(functional.interpolate(fold_frames(x), scale_factor=2, mode="nearest"), x.shape[0])


def double_time_linear(x: Tensor) -> Tensor:
    """Two frames for each, linear with half-pixel centres and clamped ends: (B, C, T, H, W) -> (B, C, 2T, H, W)."""
    before = cat([x[:, :, :1], x[:, :, :-1]], 2)
    after = cat([x[:, :, 1:], x[:, :, -1:]], 2)
    return interleave(torch.lerp(x, before, 0.25), torch.lerp(x, after, 0.25), 2)


def double_time_nearest(x: Tensor) -> Tensor:
    """Each frame twice: (B, C, T, H, W) -> (B, C, 2T, H, W)."""
    return interleave(x, x, 2)


def interleave(even: Tensor, odd: Tensor, axis: int) -> Tensor:
    """The slices of two tensors (B, C, ...) by turns along an axis behind the channels."""
    # Channels go last meanwhile, so that the result has them innermost in memory too; every axis is one lower then.
    pairs = torch.stack([even.movedim(1, -1), odd.movedim(1, -1)], axis)
    return pairs.flatten(axis - 1, axis).movedim(-1, 1)


def haar_analysis_3d(x: Tensor) -> Tensor:
    """Haar bands of 2 x 2 x 2 blocks: (B, C, T, H, W) -> (B, 8 * C, T // 2, H // 2, W // 2), computed in float32.

    Channels are band-major, in the order of core.maths.haar.BANDS_3D.
    """
    return (TAP_3D * _split_pairs(_split_pairs(_split_pairs(x.float(), 4), 3), 2)).to(x.dtype)


def haar_synthesis_3d(bands: Tensor) -> Tensor:
    """The inverse of haar_analysis_3d, up to 8 * TAP_3D ** 2: (B, 8 * C, T, H, W) -> (B, C, 2T, 2H, 2W)."""
    return (TAP_3D * _join_pairs(_join_pairs(_join_pairs(bands.float(), 2), 3), 4)).to(bands.dtype)


def haar_analysis_2d(x: Tensor) -> Tensor:
    """Haar bands of 2 x 2 blocks of each frame: (B, C, T, H, W) -> (B, 4 * C, T, H // 2, W // 2), computed in float32.

    Channels are band-major, in the order of core.maths.haar.BANDS_2D.
    """
    return (TAP_2D * _split_pairs(_split_pairs(x.float(), 3), 4)).to(x.dtype)


def haar_synthesis_2d(bands: Tensor) -> Tensor:
    """The inverse of haar_analysis_2d: (B, 4 * C, T, H, W) -> (B, C, T, 2H, 2W)."""
    return (TAP_2D * _join_pairs(_join_pairs(bands.float(), 4), 3)).to(bands.dtype)


def _split_pairs(x: Tensor, axis: int) -> Tensor:
    """Sums and, as further channels behind them, differences of neighbours along an axis; an odd one out is dropped."""
    first, second = x.narrow(axis, 0, x.shape[axis] // 2 * 2).unflatten(axis, (-1, 2)).unbind(axis + 1)
    return cat([first + second, first - second], 1)


def _join_pairs(x: Tensor, axis: int) -> Tensor:
    """The inverse of _split_pairs, up to a factor of 2."""
    sums, differences = x.chunk(2, 1)
    return interleave(sums + differences, sums - differences, axis)


def new_parameter(*shape: int) -> nn.Parameter:
    """A trainable tensor that a model holds by itself, to be filled with its weight."""
    return nn.Parameter(torch.empty(*shape))


def parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter by its name, whether or not its weight has been set."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def set_parameter(model: nn.Module, name: str, weight: Tensor) -> None:
    """Put a weight in its place in a model; it gets no gradients until it is told to."""
    parent, _, leaf = name.rpartition(".")
    model.get_submodule(parent).register_parameter(leaf, nn.Parameter(weight, requires_grad=False))


def compile_forward(model: nn.Module) -> None:
    """Let a model's `forward` run as compiled graphs, one for each combination of shapes."""
    model.compile(dynamic=False)


def device_of(x: Tensor) -> torch.device:
    """The device that a tensor is on."""
    return x.device


def place(table: np.ndarray, device: torch.device) -> Tensor:
    """A table of core as a tensor on a device."""
    return to_tensor(table).to(device)


def take_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Some tokens of each sample: (B, N, D) and indices (B, M) -> (B, M, D)."""
    return x.take_along_dim(index[:, :, None], 1)


def sinusoid(values: Tensor, frequencies: Tensor) -> Tensor:
    """Cosines, then sines, of values (B,) times frequencies (F,), (B, 2 * F) float32."""
    angles = values.float()[:, None] * frequencies
    return cat([angles.cos(), angles.sin()], 1)


def lower_where_zero(bias: Tensor, mask: Tensor) -> Tensor:
    """A bias on scores that becomes the dtype's lowest finite number where the mask is zero; both broadcast."""
    return bias.where(mask > 0, torch.finfo(bias.dtype).min)


def clamp_to_dtype(x: Tensor) -> Tensor:
    """A tensor whose values are kept finite in fp16; other dtypes have room enough."""
    return x.clamp(-HALF_LIMIT, HALF_LIMIT) if x.dtype == torch.float16 else x
