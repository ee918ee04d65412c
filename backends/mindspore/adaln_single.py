"""The parts of denoisers with adaLN-single, built from a core.models.adaln_single.AdaLNSingleSpec.

PixArt brought them up, and the STDiTs of hpcaitech Open-Sora are made of them. Attribute names are upstream's, as the
weights' names follow from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from mindspore import Tensor, mint, nn

from duosora.core.errors import ShapeError
from duosora.core.maths.arrangements import rows_of_tokens, spatial_plan, temporal_plan
from duosora.core.maths.embeddings import timestep_frequencies
from duosora.core.maths.skiparse import text_plan
from duosora.core.models.adaln_single import NORM_EPS, TIMESTEP_CHANNELS, AdaLNSingleSpec, SettledText
from duosora.core.shapes import LatentShape, TokenGrid

from .attention import Arrangement, Attend, TextKeys, place_plan, place_text, rotate
from .denoiser import TokenDenoiser
from .layers import (
    Identity,
    LayerNorm,
    Linear,
    ModuleList,
    RMSNorm,
    cast,
    device_of,
    kernel,
    linear,
    new_parameter,
    place,
    silu,
    sinusoid,
    take_tokens,
    to_float32,
)
from .operators import in_pieces, pad_end

Turn = Literal["", "before_norm", "after_norm"]
AnyCondition = TypeVar("AnyCondition", bound="Condition")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What a batch is denoised under and which does not change from step to step."""

    along_tokens: ClassVar[Mapping[str, int]] = {"rows": 1}
    """The tensors that have a row for each token, and along which axis."""

    latent: LatentShape
    grid: TokenGrid
    keys_values: tuple[tuple[Tensor, Tensor], ...]
    """The text's cross-attention keys and values for each block in the order of the forward, (B, M, A, K) each."""
    text: TextKeys
    positions: Tensor
    """(H * W, D) float32, added to the tokens of every frame."""
    frequencies: Tensor
    """(TIMESTEP_CHANNELS / 2,) float32, of the timestep embedding."""
    rows: Tensor | None = None
    """(B, N, 2) float32, which modulation each token takes: 1, 0 the timestep's, 0, 1 that of clean frames. None: all
    take the timestep's."""
    kept: Tensor | None = None
    """(B, blocks, 2, 1, 1) float32, what training multiplies a block's gates by; None: nothing is left out."""


@dataclass(frozen=True, kw_only=True)
class SpatialTemporal(Condition):
    """The same for those whose blocks attend within a frame and through all frames at one place."""

    spatial: Arrangement
    temporal: Arrangement


class AdaLNSingle(TokenDenoiser):
    """What such a denoiser has in common with others; it has blocks and what belongs to them itself."""

    spec: AdaLNSingleSpec
    x_embedder: Any
    y_embedder: Any
    final_layer: Any

    def shared(self, settled: SettledText, latent: LatentShape, positions: np.ndarray) -> dict[str, Any]:
        """What all their conditions have, by name, but for `rows`. positions: (H * W, D)."""
        device = device_of(self.final_layer.scale_shift_table)
        text = self.states(settled)
        plan = text_plan(settled.text_mask, text.shape[1])
        if plan.index is not None:
            text = take_tokens(text, place(plan.index, device))
        return {
            "latent": latent,
            "grid": self.spec.grid(latent),
            "keys_values": tuple(block.cross_attn.keys_values(text) for block in self.blocks()),
            "text": place_text(plan, text.shape[1], device),
            "positions": place(positions, device),
            "frequencies": place(timestep_frequencies(TIMESTEP_CHANNELS), device),
            "kept": None if settled.kept is None else place(settled.kept[..., None, None], device),
        }

    def arrangements(self, latent: LatentShape) -> dict[str, Any]:
        """Those of a SpatialTemporal, by name."""
        device, grid = device_of(self.final_layer.scale_shift_table), self.spec.grid(latent)
        plans = {"spatial": spatial_plan(grid), "temporal": temporal_plan(grid)}
        return {name: place_plan(plan, device) for name, plan in plans.items()}

    def with_frames(self, condition: AnyCondition, frame_mask: np.ndarray | None) -> AnyCondition:
        """The condition with other frames denoised: a mask (B, T) as in Given."""
        rows = None
        if frame_mask is not None:
            rows = rows_of_tokens(frame_mask, condition.grid, self.spec.patch_size[0])
        device = device_of(self.final_layer.scale_shift_table)
        return replace(condition, rows=None if rows is None else place(rows, device))

    def check(self, latents: Tensor, condition: Condition) -> None:
        """Raises: ShapeError when the condition was made for other latents."""
        made_for = (condition.keys_values[0][0].shape[0], self.spec.in_channels, *condition.latent)
        if tuple(latents.shape) != made_for:
            raise ShapeError(f"latents of {_sizes(latents.shape)} came with a condition for {_sizes(made_for)}")

    def embed(self, latents: Tensor, condition: Condition) -> Tensor:
        """Latents (B, C, T, H, W) -> tokens (B, N, D) at their positions."""
        x = self.x_embedder(cast(latents, like=self.final_layer.scale_shift_table))
        batch, _, width = x.shape
        of_frames = x.reshape(batch, condition.grid.frames, -1, width) + cast(condition.positions, like=x)
        return of_frames.reshape(x.shape)

    def signal(self, x: Tensor, modulation: Any, condition: Condition) -> Tensor:
        """What the first block's self-attention reads of tokens (B, N, D)."""
        block = next(iter(self.blocks()))
        table = block.scale_shift_table + modulation.blocks  # (B, R, 6, D)
        shift, scale = (of_tokens(table[:, :, i], modulation.rows) for i in range(2))
        return modulate(block.norm1, x, shift, scale)

    def assemble(self, patches: Tensor, condition: Condition) -> Tensor:
        """Predictions of all tokens (B, N, pt * ph * pw * Cout) -> (B, Cout, T, H, W) float32, padding cut off."""
        return assembled(patches, condition.grid, self.spec.patch_size, condition.latent)

    def states(self, settled: SettledText) -> Tensor:
        """Texts (B, L, D); the null caption, as long as they are, in place of some."""
        like = self.final_layer.scale_shift_table
        text = cast(place(settled.text, device_of(like)), like=like)
        if settled.is_null is not None:
            text = self.y_embedder.dropped(text, place(settled.is_null.astype(np.float32), device_of(like)))
        return self.y_embedder(text)


class Blocks(ModuleList):
    """All blocks in the order of the forward, of a model whose weights' names begin with `blocks`.

    Called, it gives them, as a denoiser's `blocks` does.
    """

    def __call__(self) -> Iterator[Any]:
        return iter(self)


class SelfAttention(nn.Cell):
    """Attention among the tokens of a frame, or of a place at their positions in time."""

    def __init__(self, spec: AdaLNSingleSpec, attend: Attend, qk_norm: bool, turn: Turn = "") -> None:
        """turn: when queries and keys are turned by their rotary positions."""
        super().__init__()
        width = spec.hidden_size
        self.attend, self.num_heads, self.turn = attend, spec.num_heads, turn
        self.qkv = Linear(width, 3 * width)
        self.q_norm: Any = RMSNorm(spec.head_dim, eps=NORM_EPS) if qk_norm else Identity()
        self.k_norm: Any = RMSNorm(spec.head_dim, eps=NORM_EPS) if qk_norm else Identity()
        self.proj = Linear(width, width)

    def construct(
        self, x: Tensor, arrangement: Arrangement, cosines: Tensor | None = None, sines: Tensor | None = None
    ) -> Tensor:
        """Tokens (B, N, D) -> (B, N, D). cosines and sines: (N, K), where they are turned."""
        q, k, v = (split_heads(part, self.num_heads) for part in self.qkv(x).chunk(3, -1))
        if self.turn == "before_norm":
            q, k = turned(q, cosines, sines), turned(k, cosines, sines)
        # In the dtype of the norms' own weights, which autocast leaves in float32.
        q, k = self.q_norm(cast(q, like=self.proj.weight)), self.k_norm(cast(k, like=self.proj.weight))
        if self.turn == "after_norm":
            q, k = turned(q, cosines, sines), turned(k, cosines, sines)
        mixed = self.attend.self_attention(cast(q, like=v), cast(k, like=v), v, arrangement)
        return self.proj(join_heads(mixed))


class CrossAttention(nn.Cell):
    """Attention to the text."""

    def __init__(self, spec: AdaLNSingleSpec, attend: Attend) -> None:
        super().__init__()
        width = spec.hidden_size
        self.attend, self.num_heads = attend, spec.num_heads
        self.q_linear = Linear(width, width)
        self.kv_linear = Linear(width, 2 * width)
        self.proj = Linear(width, width)

    def keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Text (B, M, D) -> keys and values (B, M, A, K)."""
        keys, values = (split_heads(part, self.num_heads) for part in self.kv_linear(text).chunk(2, -1))
        return keys, values

    def construct(self, x: Tensor, keys: Tensor, values: Tensor, text: TextKeys) -> Tensor:
        q = split_heads(self.q_linear(x), self.num_heads)
        return self.proj(join_heads(self.attend.cross_attention(q, keys, values, text)))


class FeedForward(nn.Cell):
    """Two linear maps with GELU by tanh between them."""

    def __init__(self, inputs: int, inner: int, outputs: int) -> None:
        super().__init__()
        self.fc1 = Linear(inputs, inner)
        self.fc2 = Linear(inner, outputs)

    def construct(self, x: Tensor) -> Tensor:
        return in_pieces(lambda rows: self.fc2(self.fc1(rows, "gelu_tanh")), x)


class FinalLayer(nn.Cell):
    """A modulated norm and what each token predicts."""

    def __init__(self, spec: AdaLNSingleSpec) -> None:
        super().__init__()
        self.scale_shift_table = new_parameter(2, spec.hidden_size)
        self.norm_final = LayerNorm(spec.hidden_size, eps=NORM_EPS, elementwise_affine=False)
        self.linear = Linear(spec.hidden_size, spec.patch_outputs)

    def construct(self, x: Tensor, embedded: Tensor, rows: Tensor | None) -> Tensor:
        """Tokens (B, N, D) and embedded timesteps (B, R, D) -> (B, N, outputs)."""
        table = self.scale_shift_table + embedded.unsqueeze(2)  # (B, R, 2, D)
        bent = modulate(self.norm_final, x, table[:, :1, 0], table[:, :1, 1])
        if rows is not None:
            # Clean frames are bent twice, as upstream does (quirk Q3): nobody reads what comes of them.
            again = modulate(self.norm_final, bent, table[:, 1:, 0], table[:, 1:, 1])
            rows = cast(rows, like=bent)
            bent = rows[:, :, :1] * bent + rows[:, :, 1:] * again
        return self.linear(bent)


class PatchEmbed(nn.Cell):
    """A convolution whose steps are as long as its kernel, and whose outputs are the tokens."""

    def __init__(self, spec: AdaLNSingleSpec) -> None:
        super().__init__()
        self.proj = PatchProjection(spec)

    def construct(self, latents: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, N, D); zeros fill up the last patches."""
        return self.proj(latents)


class PatchProjection(nn.Cell):
    """Its weights. Patches do not overlap, so one matrix product does it and leaves the tokens in order."""

    def __init__(self, spec: AdaLNSingleSpec) -> None:
        super().__init__()
        self.patch_size = spec.patch_size
        self.weight = new_parameter(spec.hidden_size, spec.in_channels, *spec.patch_size)
        self.bias = new_parameter(spec.hidden_size)

    def construct(self, latents: Tensor) -> Tensor:
        for axis, patch in enumerate(self.patch_size, 2):
            latents = pad_end(latents, axis, -latents.shape[axis] % patch)
        time, height, width = self.patch_size
        batch, channels, t, h, w = latents.shape
        patches = latents.reshape(batch, channels, t // time, time, h // height, height, w // width, width)
        patches = patches.permute(0, 2, 4, 6, 1, 3, 5, 7)  # (B, T / pt, H / ph, W / pw, C, pt, ph, pw)
        patches = patches.reshape(batch, -1, channels * time * height * width)
        return linear(patches, kernel(self).reshape(self.weight.shape[0], -1), self.bias)


class ScalarEmbedder(nn.Cell):
    """Sinusoids of a number, in float32, and two linear maps."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp: Any = ModuleList([Linear(TIMESTEP_CHANNELS, width), Identity(), Linear(width, width)])

    def construct(self, values: Tensor, frequencies: Tensor) -> Tensor:
        """(B,) -> (B, D)."""
        waves = cast(sinusoid(values, frequencies), like=self.mlp[0].weight)
        return self.mlp[2](silu(self.mlp[0](waves)))


class CaptionEmbedder(nn.Cell):
    """Brings text states to the model's width; holds the null caption, which training replaced some captions by."""

    def __init__(self, spec: AdaLNSingleSpec) -> None:
        super().__init__()
        self.y_embedding = new_parameter(spec.model_max_length, spec.caption_channels)
        self.y_proj = FeedForward(spec.caption_channels, spec.hidden_size, spec.hidden_size)

    def dropped(self, text: Tensor, is_null: Tensor) -> Tensor:
        """Texts (B, L, caption_channels), of which the null caption replaces those where is_null (B,) is 1, not 0."""
        share = cast(is_null, like=text).reshape(-1, 1, 1)
        return text * (1 - share) + self.y_embedding[: text.shape[1]] * share

    def construct(self, text: Tensor) -> Tensor:
        """(B, L, caption_channels) -> (B, L, D)."""
        return self.y_proj(text)


def assembled(patches: Tensor, grid: TokenGrid, patch_size: tuple[int, int, int], latent: LatentShape) -> Tensor:
    """Predictions (B, N, pt * ph * pw * C) of the tokens of a grid -> (B, C, T, H, W) float32, padding cut off."""
    time, height, width = patch_size
    channels = patches.shape[2] // (time * height * width)
    patches = patches.reshape(-1, *grid, *patch_size, channels)
    padded = (size * patch for size, patch in zip(grid, patch_size, strict=True))
    latents = patches.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(-1, channels, *padded)
    return to_float32(latents[:, :, : latent.frames, : latent.height, : latent.width])


def of_tokens(values: Tensor, rows: Tensor | None) -> Tensor:
    """Values (B, R, D) as they broadcast over tokens: (B, 1, D), or (B, N, D) by the row that each token takes.

    A product, because its gradient adds up over the tokens in a fixed order, which that of an index does not.
    """
    return values if rows is None else mint.matmul(cast(rows, like=values), values)


def modulate(norm: Any, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(x) * (1 + scale) + shift."""
    return norm(x, shift, scale)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, N, D) -> (B, N, A, K)."""
    batch, num_tokens, width = x.shape
    return x.reshape(batch, num_tokens, num_heads, width // num_heads)


def join_heads(x: Tensor) -> Tensor:
    """(B, N, A, K) -> (B, N, D)."""
    batch, num_tokens, heads, width = x.shape
    return x.reshape(batch, num_tokens, heads * width)


def turned(x: Tensor, cosines: Tensor | None, sines: Tensor | None) -> Tensor:
    """Heads (B, N, A, K) at their rotary positions (N, K), neighbours as pairs."""
    assert cosines is not None
    assert sines is not None
    return rotate(x, cosines, sines, x.shape[-1] // 2)


def _sizes(shape: Any) -> str:
    return " x ".join(map(str, shape))
