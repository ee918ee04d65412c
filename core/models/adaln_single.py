"""What denoisers with adaLN-single have in common: sizes, their config, their text, how weights start.

All blocks share one modulation, made of the timestep, to which each adds a table of its own; text enters by
cross-attention. PixArt brought this up, and the STDiTs of hpcaitech Open-Sora follow it.
Source: Chen et al. 2023, arXiv:2310.00426.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import lcm, prod
from typing import Any, ClassVar

import numpy as np

from ..errors import ConfigError, ShapeError
from ..layout import Init, Normal, Ones, Uniform, Weight, WeightList, Zeros
from ..seam.models import Given
from ..shapes import LatentShape, Patch, TokenGrid
from .config_json import count, number, take, whole_number
from .kinds import Output
from .work import Applied, Attention, Work

TIMESTEP_CHANNELS = 256
NUM_MODULATIONS = 6
"""Shift, scale and gate of the attention, then of the feed-forward."""
NORM_EPS = 1e-6
MOST_DEPTH, MOST_HEADS, MOST_WIDTH, MOST_CHANNELS, MOST_CAPTION_CHANNELS = 320, 256, 65_536, 1024, 65_536
MOST_TOKENS, MOST_SIDE = 65_536, 100_000
MOST_STEPS = 64
"""Latents of a patch along an axis."""
FACTS = ("fps", "height", "width", "num_frames", "ratio")
"""Of a clip, beside its text, what a model cannot do without if it reads it."""


@dataclass(frozen=True, kw_only=True)
class AdaLNSingleSpec:
    """The fields are keys of upstream's config.json."""

    title: ClassVar[str]
    given: ClassVar[frozenset[str]]
    """Which of kinds.GIVEN it reads."""
    further_channels: ClassVar[int] = 0
    pooled_channels: ClassVar[int] = 0
    lists_patches: ClassVar[bool] = False
    has_signal: ClassVar[bool] = True

    hidden_size: int = 1152
    """D, the width of the tokens."""
    depth: int = 28
    num_heads: int = 16
    in_channels: int = 4
    patch_size: tuple[int, int, int] = (1, 2, 2)
    """Latents of a token along time, height and width."""
    mlp_ratio: float = 4.0
    caption_channels: int = 4096
    model_max_length: int = 300
    """Tokens of the learned null caption."""
    pred_sigma: bool = True
    """Whether there are as many outputs again behind those for the latents."""
    class_dropout_prob: float = 0.1
    """Share of captions that training replaced by the null caption."""
    drop_path: float = 0.0
    """Share of the samples for which training leaves out what the last blocks add; 0 in all published models."""

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ConfigError(f"{self.title}: hidden_size = {self.hidden_size} does not make {self.num_heads} heads")
        if not self.feed_forward_size:
            raise ConfigError(
                f"{self.title}: mlp_ratio = {self.mlp_ratio:g}: hidden_size = {self.hidden_size} needs more"
            )
        if self.hidden_size % 4:
            raise ConfigError(
                f"{self.title}: hidden_size = {self.hidden_size}: needs a multiple of 4 for the positions within a "
                "frame"
            )

    @property
    def latent_channels(self) -> int:
        return self.in_channels

    @property
    def most_tokens(self) -> int:
        """Of a text: as many as the null caption has, which stands in for it."""
        return self.model_max_length

    @property
    def output(self) -> Output:
        return "mean_and_range" if self.pred_sigma else "mean"

    @property
    def out_channels(self) -> int:
        return self.in_channels * (2 if self.pred_sigma else 1)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def feed_forward_size(self) -> int:
        return int(self.hidden_size * self.mlp_ratio)

    @property
    def patch_outputs(self) -> int:
        """What a token predicts: out_channels for each of its latents."""
        time, height, width = self.patch_size
        return time * height * width * self.out_channels

    @property
    def drop_rates(self) -> tuple[float, ...]:
        """Of each block its share of drop_path, which rises from 0 over the depth."""
        return tuple(np.linspace(0.0, self.drop_path, self.depth).tolist())

    @property
    def text_channels(self) -> int:
        """Width of the texts that it is given."""
        return self.caption_channels

    @property
    def patch(self) -> Patch:
        """Latents of a token; of unequal sides what both divide."""
        time, height, width = self.patch_size
        return Patch(time, lcm(height, width))

    def grid(self, latent: LatentShape) -> TokenGrid:
        """The token grid of a latent, padded at the end of each axis to whole patches."""
        return TokenGrid(*(-(-size // patch) for size, patch in zip(latent, self.patch_size, strict=True)))

    def blocks(self) -> tuple[str, ...]:
        """Names of all blocks in the order of the forward."""
        return tuple(f"blocks.{i}" for i in range(self.depth))

    def work(self, latent: LatentShape, batch: int, text: int) -> Work:
        """Of a call for so many clips, with so many tokens of text each."""
        grid = self.grid(latent)
        tokens, texts = batch * grid.num_tokens, batch * text
        applied = (
            Applied("x_embedder.", tokens),
            Applied("y_embedding", 0),
            Applied("y_embedder.", texts, once=True),
            Applied(".kv_linear.", texts, once=True),
            Applied("_embedder.", batch),
            Applied("t_block", batch),
            Applied("", tokens),
        )
        cross = Attention(batch, grid.num_tokens, text, self.num_heads, self.head_dim, len(self.blocks()))
        return Work(applied, (*self.self_attention(grid, batch), cross))

    def self_attention(self, grid: TokenGrid, batch: int) -> tuple[Attention, ...]:
        """Of a call. Where nothing else is said: among the tokens of each frame, and of each place in all frames."""
        frames, places = grid.frames, grid.height * grid.width
        heads = (self.num_heads, self.head_dim)
        return (
            Attention(batch * frames, places, places, *heads, times=self.depth),
            Attention(batch * places, frames, frames, *heads, times=self.depth),
        )

    def settled_text(self, given: Given, latent: LatentShape) -> SettledText:
        """The texts that are given for latents of a shape, and what has a row for each of them.

        Raises: ShapeError for what is missing or does not fit.
        """
        text, channels = given.text, self.text_channels
        if text is None or text.ndim != 3 or text.shape[2] != channels:
            held = "nothing" if text is None else sizes(text.shape)
            raise ShapeError(f"{self.title}: text: needs states of batch x tokens x {channels}, got {held}")
        batch, num_tokens = text.shape[:2]
        mask = None if given.text_mask is None else self.rows("text_mask", given.text_mask, batch, (num_tokens,))
        if mask is not None and not (mask > 0).any(1).all():
            raise ShapeError(f"{self.title}: text_mask: a text without any token cannot be attended to")
        is_null = None if given.is_null is None else self.rows("is_null", given.is_null, batch)
        if is_null is not None and not is_null.any():
            is_null = None
        if is_null is not None and num_tokens > self.model_max_length:
            raise ShapeError(
                f"{self.title}: text: {num_tokens} tokens, but the null caption has {self.model_max_length}"
            )
        frame_mask = given.frame_mask
        if frame_mask is not None:
            frame_mask = self.rows("frame_mask", frame_mask, batch, (latent.frames,))
        kept = None
        if given.kept is not None:
            kept = self.rows("kept", given.kept, batch, (len(self.blocks()), 2)).astype(np.float32)
        return SettledText(text=text, text_mask=mask, is_null=is_null, frame_mask=frame_mask, kept=kept)

    def rows(self, name: str, values: np.ndarray | None, batch: int, shape: tuple[int, ...] = ()) -> np.ndarray:
        """Values with a row for each of a batch: fewer rows are repeated. Raises: ShapeError."""
        if values is None:
            *names, last = ("text", *(fact for fact in FACTS if fact in self.given))
            raise ShapeError(f"{self.title}: {name} is missing: it reads {', '.join(names)} and {last}")
        if not len(values) or batch % len(values) or values.shape[1:] != shape:
            raise ShapeError(
                f"{self.title}: {name}: got {sizes(values.shape)} for {batch} texts, needs {sizes((batch, *shape))}"
            )
        return np.tile(values, (batch // len(values), *[1] * len(shape)))

    def embedders(self, weights: WeightList, spread: Init | None = None) -> None:
        """What makes tokens, the shared modulation and the text's states. spread: of fresh ones, but the tokens'."""
        width = self.hidden_size
        weights.conv("x_embedder.proj", width, self.in_channels, *self.patch_size)
        inputs = self.in_channels * prod(self.patch_size)
        kernel = (width, self.in_channels, *self.patch_size)
        weights["x_embedder.proj.weight"] = Weight(kernel, Uniform((6 / (inputs + width)) ** 0.5))
        embedder(weights, "t_embedder", width, spread)
        xavier(weights, "t_block.1", NUM_MODULATIONS * width, width, spread)
        null_caption = Normal(self.caption_channels**-0.5)
        captions = (self.model_max_length, self.caption_channels)
        weights["y_embedder.y_embedding"] = Weight(captions, null_caption, trained=False)
        xavier(weights, "y_embedder.y_proj.fc1", width, self.caption_channels, spread)
        xavier(weights, "y_embedder.y_proj.fc2", width, width, spread)

    def last(self, weights: WeightList) -> None:
        """The last layer, which predicts nothing in a fresh model."""
        weights["final_layer.scale_shift_table"] = Weight((2, self.hidden_size), Normal(self.hidden_size**-0.5))
        xavier(weights, "final_layer.linear", self.patch_outputs, self.hidden_size, Zeros())

    @classmethod
    def common_fields(cls, rest: dict[str, Any], source: str) -> dict[str, Any]:
        """The fields above, taken from a config.json. Raises: ConfigError."""
        for key in SWITCHES:
            rest.pop(key, None)
        fresh = cls()
        return {
            "hidden_size": count(rest, source, "hidden_size", MOST_WIDTH, fresh.hidden_size),
            "depth": count(rest, source, "depth", MOST_DEPTH, fresh.depth),
            "num_heads": count(rest, source, "num_heads", MOST_HEADS, fresh.num_heads),
            "in_channels": count(rest, source, "in_channels", MOST_CHANNELS, fresh.in_channels),
            "patch_size": three_numbers(rest, source, "patch_size", MOST_STEPS, fresh.patch_size),
            "mlp_ratio": number(rest, source, "mlp_ratio", 0.1, 64.0, fresh.mlp_ratio),
            "caption_channels": count(rest, source, "caption_channels", MOST_CAPTION_CHANNELS, fresh.caption_channels),
            "model_max_length": count(rest, source, "model_max_length", MOST_TOKENS, fresh.model_max_length),
            "pred_sigma": take(rest, source, "pred_sigma", bool, fresh.pred_sigma),
            "class_dropout_prob": number(rest, source, "class_dropout_prob", 0.0, 1.0, fresh.class_dropout_prob),
            "drop_path": number(rest, source, "drop_path", 0.0, 1.0, fresh.drop_path),
        }

    def common_config(self) -> dict[str, Any]:
        """They in upstream's config.json, with the model's name."""
        return {
            "architectures": [self.title],
            "model_type": self.title,
            "hidden_size": self.hidden_size,
            "depth": self.depth,
            "num_heads": self.num_heads,
            "in_channels": self.in_channels,
            "patch_size": list(self.patch_size),
            "mlp_ratio": self.mlp_ratio,
            "caption_channels": self.caption_channels,
            "model_max_length": self.model_max_length,
            "pred_sigma": self.pred_sigma,
            "class_dropout_prob": self.class_dropout_prob,
            "drop_path": self.drop_path,
        }


SWITCHES = (
    *("enable_flash_attn", "enable_flashattn", "enable_layernorm_kernel", "enable_sequence_parallelism", "auto_map"),
    *("dtype", "no_temporal_pos_emb"),
)
"""Keys of upstream's config.json without effect on weights or results."""


FREEZES = {"not_temporal": ("attn_temp", False), "text": ("cross_attn", True)}
"""What training keeps as it is: a part of weights' names, and whether those that have it are kept, or all others."""


@dataclass(frozen=True, kw_only=True)
class SettledText:
    """What all of them are given for a batch of B clips, checked."""

    text: np.ndarray
    """(B, L, D)."""
    text_mask: np.ndarray | None
    """(B, L); None: all tokens count."""
    is_null: np.ndarray | None
    """(B,) booleans; None: no caption is replaced."""
    frame_mask: np.ndarray | None
    """(B, T); None: all frames are denoised."""
    kept: np.ndarray | None
    """(B, blocks, 2) float32; None: nothing is left out."""


def xavier(weights: WeightList, name: str, outputs: int, inputs: int, init: Init | None = None) -> None:
    """A linear map that starts as upstream's: Xavier and uniform where nothing else is said, the bias zero."""
    weights[f"{name}.weight"] = Weight((outputs, inputs), init or Uniform((6 / (inputs + outputs)) ** 0.5))
    weights[f"{name}.bias"] = Weight((outputs,), Zeros())


def self_attention(weights: WeightList, name: str, width: int, head_dim: int, init: Init | None = None) -> None:
    """head_dim: of norms of queries and keys, 0 without them. init: of the map that brings what is found back."""
    xavier(weights, f"{name}.qkv", 3 * width, width)
    for part in ("q_norm", "k_norm") if head_dim else ():
        weights[f"{name}.{part}.weight"] = Weight((head_dim,), Ones())
    xavier(weights, f"{name}.proj", width, width, init)


def cross_attention(weights: WeightList, name: str, width: int, init: Init | None = None) -> None:
    """init: as in self_attention."""
    xavier(weights, f"{name}.q_linear", width, width)
    xavier(weights, f"{name}.kv_linear", 2 * width, width)
    xavier(weights, f"{name}.proj", width, width, init)


def embedder(weights: WeightList, name: str, width: int, init: Init | None = None) -> None:
    """Of a number, by sinusoids."""
    xavier(weights, f"{name}.mlp.0", width, TIMESTEP_CHANNELS, init)
    xavier(weights, f"{name}.mlp.2", width, width, init)


def frozen_names(freeze: str, names: Iterable[str]) -> tuple[str, ...]:
    """Those that a key of FREEZES keeps as they are; none for ""."""
    if not freeze:
        return ()
    part, kept = FREEZES[freeze]
    return tuple(name for name in names if (part in name) == kept)


def three_numbers(
    rest: dict[str, Any], source: str, key: str, most: int, default: tuple[int, int, int]
) -> tuple[int, int, int]:
    """Remove a key whose value is along time, height and width. Raises: ConfigError."""
    values = take(rest, source, key, list, list(default))
    if len(values) != 3:
        raise ConfigError(f"{source}: {key}: needs three whole numbers, along time, height and width")
    time, height, width = (whole_number(value, source, key, most) for value in values)
    return time, height, width


def sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
