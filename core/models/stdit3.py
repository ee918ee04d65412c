"""STDiT3: the spec, the layout and the presets of the denoiser of hpcaitech Open-Sora 1.2.

Pairs of blocks look at the tokens of a frame (spatial) and at one place through all frames (temporal, with rotary
positions), and read the text from the raw residual stream. Modulation comes from timestep and frame rate; sizes in
pixels scale the positions within a frame. Frames that a mask names are taken for clean: they are modulated as at
timestep 0.
Source: opensora/models/stdit/stdit3.py of hpcaitech Open-Sora at v1.2.0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import lcm, prod
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..errors import ConfigError, ShapeError
from ..layout import Constant, Init, Layout, Normal, Ones, Uniform, Weight, WeightList, Zeros
from ..maths.rope import inverse_frequencies
from ..seam.models import Given
from ..shapes import LatentShape, Patch, TokenGrid
from .config_json import build, choice, count, number, refuse_unknown, take, whole_number
from .kinds import Costs, Family, Output

TIMESTEP_CHANNELS = 256
NUM_MODULATIONS = 6
"""Shift, scale and gate of the attention, then of the feed-forward."""
NORM_EPS = 1e-6
MOST_PAIRS, MOST_HEADS, MOST_WIDTH, MOST_CHANNELS, MOST_CAPTION_CHANNELS = 320, 256, 65_536, 1024, 65_536
MOST_TOKENS, MOST_SIDE = 65_536, 100_000
MOST_STEPS = 64
"""Latents of a patch along an axis."""
KINDS = ("spatial", "temporal")
"""The blocks of a pair, in the order of the forward."""


@dataclass(frozen=True, kw_only=True)
class STDiT3Spec:
    """What an STDiT3 is. Fields are the keys of upstream's config.json."""

    family: ClassVar[str] = "stdit3"
    given: ClassVar[frozenset[str]] = frozenset({"text", "is_null", "fps", "height", "width", "frame_mask", "kept"})
    """Which of kinds.GIVEN it reads."""
    further_channels: ClassVar[int] = 0

    hidden_size: int = 1152
    """D, the width of the tokens."""
    depth: int = 28
    """Pairs of blocks."""
    num_heads: int = 16
    in_channels: int = 4
    patch_size: tuple[int, int, int] = (1, 2, 2)
    """Latents of a token along time, height and width."""
    mlp_ratio: float = 4.0
    caption_channels: int = 4096
    model_max_length: int = 300
    """Tokens of the learned null caption."""
    qk_norm: bool = True
    pred_sigma: bool = True
    """Whether there are as many outputs again behind the velocity; nothing has been trained to use them."""
    input_sq_size: int = 512
    """Side in pixels of the square whose positions count one by one."""
    class_dropout_prob: float = 0.1
    """Share of captions that training replaced by the null caption."""
    drop_path: float = 0.0
    """Share of the samples for which training leaves out what the last blocks add; 0 in all published models."""
    skip_y_embedder: bool = False
    """Texts come projected to the width of the tokens already."""
    freeze_y_embedder: bool = False
    only_train_temporal: bool = False

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads or self.head_dim % 2:
            raise ConfigError(
                f"STDiT3: hidden_size = {self.hidden_size} does not make {self.num_heads} heads of an even width, as "
                "rotary positions need"
            )
        if not self.feed_forward_size:
            raise ConfigError(f"STDiT3: mlp_ratio = {self.mlp_ratio:g}: hidden_size = {self.hidden_size} needs more")
        if self.hidden_size % 4:
            raise ConfigError(
                f"STDiT3: hidden_size = {self.hidden_size}: needs a multiple of 4 for the positions within a frame"
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
        return "mean_and_spare" if self.pred_sigma else "mean"

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
        """Of each block its share of drop_path, which rises from 0 over the pairs."""
        return tuple(np.linspace(0.0, self.drop_path, self.depth).repeat(len(KINDS)).tolist())

    @property
    def text_channels(self) -> int:
        """Width of the texts that it is given."""
        return self.hidden_size if self.skip_y_embedder else self.caption_channels

    @property
    def patch(self) -> Patch:
        """Latents of a token; of unequal sides what both divide."""
        time, height, width = self.patch_size
        return Patch(time, lcm(height, width))

    @property
    def frozen(self) -> tuple[str, ...]:
        """Beginnings of the names of weights that the config keeps as they are in training."""
        return self.layout().frozen

    def grid(self, latent: LatentShape) -> TokenGrid:
        """The token grid of a latent, padded at the end of each axis to whole patches."""
        return TokenGrid(*(-(-size // patch) for size, patch in zip(latent, self.patch_size, strict=True)))

    def settled(self, given: Given, latent: LatentShape) -> Settled:
        """What is given for latents of a shape, with a row for each text.

        Raises: ShapeError for what is missing or does not fit.
        """
        text, channels = given.text, self.text_channels
        if text is None or text.ndim != 3 or text.shape[2] != channels:
            held = "nothing" if text is None else _sizes(text.shape)
            raise ShapeError(f"STDiT3: text: needs states of batch x tokens x {channels}, got {held}")
        batch, num_tokens = text.shape[:2]
        mask = None if given.text_mask is None else _rows("text_mask", given.text_mask, batch, (num_tokens,))
        if mask is not None and not (mask > 0).any(1).all():
            raise ShapeError("STDiT3: text_mask: a text without any token cannot be attended to")
        is_null = None if given.is_null is None else _rows("is_null", given.is_null, batch)
        if is_null is not None and not is_null.any():
            is_null = None
        if is_null is not None and num_tokens > self.model_max_length:
            raise ShapeError(f"STDiT3: text: {num_tokens} tokens, but the null caption has {self.model_max_length}")
        fps, height, width = (_rows(name, getattr(given, name), batch) for name in ("fps", "height", "width"))
        # The first clip's pixels count for all, as where the model was trained (quirk Q1).
        scale = (float(height[0]) * float(width[0])) ** 0.5 / self.input_sq_size
        frame_mask = given.frame_mask
        if frame_mask is not None:
            frame_mask = _rows("frame_mask", frame_mask, batch, (latent.frames,))
        kept = None
        if given.kept is not None:
            kept = _rows("kept", given.kept, batch, (len(self.blocks()), 2)).astype(np.float32)
        return Settled(text, mask, is_null, fps.astype(np.float32), scale, frame_mask, kept)

    def blocks(self) -> tuple[str, ...]:
        """Names of all blocks in the order of the forward."""
        return tuple(f"{kind}_blocks.{i}" for i in range(self.depth) for kind in KINDS)

    def costs(self) -> Costs:
        """The sizes that memory and traffic follow from."""
        return Costs(len(KINDS) * self.depth, self.hidden_size, self.num_heads, self.patch_outputs)

    def facts(self) -> list[str]:
        """What `duosora inspect` says of it."""
        patch = "x".join(map(str, self.patch_size))
        return [
            f"{self.depth} pairs of spatial and temporal blocks, {self.num_heads} heads of {self.head_dim}, patch "
            f"{patch}, {self.in_channels} latent channels",
            "objective: not stored in the file; the published model predicts the velocity of a rectified flow",
        ]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str = "config.json") -> STDiT3Spec:
        """Read upstream's config.json. Raises ConfigError for unknown keys and for impossible values."""
        rest = dict(config)
        for key in ("input_size", "enable_flash_attn", "enable_layernorm_kernel", "enable_sequence_parallelism"):
            rest.pop(key, None)  # switches of the implementation, without effect on weights or results
        rest.pop("auto_map", None)
        choice(rest, source, "model_type", ("STDiT3",), "STDiT3")
        fresh = cls()
        spec = build(
            cls,
            source,
            hidden_size=count(rest, source, "hidden_size", MOST_WIDTH, fresh.hidden_size),
            depth=count(rest, source, "depth", MOST_PAIRS, fresh.depth),
            num_heads=count(rest, source, "num_heads", MOST_HEADS, fresh.num_heads),
            in_channels=count(rest, source, "in_channels", MOST_CHANNELS, fresh.in_channels),
            patch_size=_patch_size(rest, source),
            mlp_ratio=number(rest, source, "mlp_ratio", 0.1, 64.0, fresh.mlp_ratio),
            caption_channels=count(rest, source, "caption_channels", MOST_CAPTION_CHANNELS, fresh.caption_channels),
            model_max_length=count(rest, source, "model_max_length", MOST_TOKENS, fresh.model_max_length),
            input_sq_size=count(rest, source, "input_sq_size", MOST_SIDE, fresh.input_sq_size),
            class_dropout_prob=number(rest, source, "class_dropout_prob", 0.0, 1.0, fresh.class_dropout_prob),
            drop_path=number(rest, source, "drop_path", 0.0, 1.0, fresh.drop_path),
            **{switch: take(rest, source, switch, bool, getattr(fresh, switch)) for switch in _SWITCHES},
        )
        refuse_unknown(rest, source, tuple(spec.to_config()))
        return spec

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]], source: str) -> STDiT3Spec | None:
        """What the shapes of its weights tell, all else as published; None where they are of another model.

        Raises: ConfigError for shapes that no such model has.
        """
        told = [shapes.get(name, ()) for name in _TELLING]
        head = shapes.get("spatial_blocks.0.attn.q_norm.weight") or [2 * size for size in shapes.get("rope.freqs", ())]
        if [*map(len, told), len(head)] != [5, 2, 2, 2, 2, 1] or not all(map(all, [*told, head])):
            return None
        (width, channels, *patch), (tokens, caption), (inner, _), (outputs, _), _ = told
        return build(
            cls,
            source,
            hidden_size=width,
            depth=len({name.split(".")[1] for name in shapes if name.startswith("spatial_blocks.")}),
            num_heads=max(width // head[0], 1),
            in_channels=channels,
            patch_size=tuple(patch),
            mlp_ratio=inner / width,
            caption_channels=caption,
            model_max_length=tokens,
            qk_norm="spatial_blocks.0.attn.q_norm.weight" in shapes,
            pred_sigma=outputs == 2 * channels * prod(patch),
        )

    def to_config(self) -> dict[str, Any]:
        """Upstream's config.json for this spec."""
        return {
            "architectures": ["STDiT3"],
            "model_type": "STDiT3",
            "caption_channels": self.caption_channels,
            "class_dropout_prob": self.class_dropout_prob,
            "depth": self.depth,
            "drop_path": self.drop_path,
            "freeze_y_embedder": self.freeze_y_embedder,
            "hidden_size": self.hidden_size,
            "in_channels": self.in_channels,
            "input_size": [None, None, None],
            "input_sq_size": self.input_sq_size,
            "mlp_ratio": self.mlp_ratio,
            "model_max_length": self.model_max_length,
            "num_heads": self.num_heads,
            "only_train_temporal": self.only_train_temporal,
            "patch_size": list(self.patch_size),
            "pred_sigma": self.pred_sigma,
            "qk_norm": self.qk_norm,
            "skip_y_embedder": self.skip_y_embedder,
        }

    def layout(self) -> Layout:
        """Every weight of the transformer, under upstream's names."""
        weights = WeightList()
        width = self.hidden_size
        weights["rope.freqs"] = Weight((self.head_dim // 2,), Constant(tuple(inverse_frequencies(self.head_dim))))
        weights.conv("x_embedder.proj", width, self.in_channels, *self.patch_size)
        for name, first, second in (("t_embedder", None, None), ("fps_embedder", Normal(0.02), Zeros())):
            _linear(weights, f"{name}.mlp.0", width, TIMESTEP_CHANNELS, first)
            _linear(weights, f"{name}.mlp.2", width, width, second)
        _linear(weights, "t_block.1", NUM_MODULATIONS * width, width)
        null_caption = Normal(self.caption_channels**-0.5)
        weights["y_embedder.y_embedding"] = Weight(
            (self.model_max_length, self.caption_channels), null_caption, trained=False
        )
        _linear(weights, "y_embedder.y_proj.fc1", width, self.caption_channels)
        _linear(weights, "y_embedder.y_proj.fc2", width, width)
        for kind in KINDS:
            for i in range(self.depth):
                self._block(weights, f"{kind}_blocks.{i}", Zeros() if kind == "temporal" else None)
        weights["final_layer.scale_shift_table"] = Weight((2, width), Normal(width**-0.5))
        _linear(weights, "final_layer.linear", self.patch_outputs, width)
        name = f"STDiT3(depth={self.depth}, heads={self.num_heads}x{self.head_dim})"
        return Layout(name, weights, frozen=self._frozen(weights))

    def _frozen(self, names: Iterable[str]) -> tuple[str, ...]:
        if self.only_train_temporal:
            return tuple(first for first in dict.fromkeys(map(_first, names)) if first != "temporal_blocks.")
        return ("y_embedder.",) if self.freeze_y_embedder else ()

    def _block(self, weights: WeightList, name: str, results: Init | None) -> None:
        """results: how the weights start that bring what a block finds out back to the tokens."""
        width = self.hidden_size
        weights[f"{name}.scale_shift_table"] = Weight((NUM_MODULATIONS, width), Normal(width**-0.5))
        _linear(weights, f"{name}.attn.qkv", 3 * width, width)
        if self.qk_norm:
            for part in ("q_norm", "k_norm"):
                weights[f"{name}.attn.{part}.weight"] = Weight((self.head_dim,), Ones())
        _linear(weights, f"{name}.attn.proj", width, width, results)
        _linear(weights, f"{name}.cross_attn.q_linear", width, width)
        _linear(weights, f"{name}.cross_attn.kv_linear", 2 * width, width)
        _linear(weights, f"{name}.cross_attn.proj", width, width, results)
        _linear(weights, f"{name}.mlp.fc1", self.feed_forward_size, width)
        _linear(weights, f"{name}.mlp.fc2", width, self.feed_forward_size, results)


_TELLING = (
    *("x_embedder.proj.weight", "y_embedder.y_embedding", "spatial_blocks.0.mlp.fc1.weight"),
    *("final_layer.linear.weight", "temporal_blocks.0.mlp.fc1.weight"),
)
"""Weights whose shapes tell what a model is."""
_SWITCHES = ("qk_norm", "pred_sigma", "skip_y_embedder", "freeze_y_embedder", "only_train_temporal")


def _linear(weights: WeightList, name: str, outputs: int, inputs: int, init: Init | None = None) -> None:
    """A linear map that starts as upstream's: Xavier and uniform where nothing else is said, the bias zero."""
    weights[f"{name}.weight"] = Weight((outputs, inputs), init or Uniform((6 / (inputs + outputs)) ** 0.5))
    weights[f"{name}.bias"] = Weight((outputs,), Zeros())


def _patch_size(rest: dict[str, Any], source: str) -> tuple[int, int, int]:
    sizes = take(rest, source, "patch_size", list, [1, 2, 2])
    if len(sizes) != 3:
        raise ConfigError(f"{source}: patch_size: needs three whole numbers, along time, height and width")
    time, height, width = (whole_number(size, source, "patch_size", MOST_STEPS) for size in sizes)
    return time, height, width


class Settled(NamedTuple):
    """What a batch of B clips is denoised under, checked."""

    text: np.ndarray
    """(B, L, D)."""
    text_mask: np.ndarray | None
    """(B, L); None: all tokens count."""
    is_null: np.ndarray | None
    """(B,) booleans; None: no caption is replaced."""
    fps: np.ndarray
    """(B,) float32."""
    scale: float
    """What positions within a frame are divided by."""
    frame_mask: np.ndarray | None
    """(B, T); None: all frames are denoised."""
    kept: np.ndarray | None
    """(B, blocks, 2) float32; None: nothing is left out."""


def _rows(name: str, values: np.ndarray | None, batch: int, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Values with a row for each of a batch: fewer rows are repeated. Raises ShapeError."""
    if values is None:
        raise ShapeError(f"STDiT3: {name} is missing: it reads text, fps, height and width")
    if not len(values) or batch % len(values) or values.shape[1:] != shape:
        raise ShapeError(
            f"STDiT3: {name}: got {_sizes(values.shape)} for {batch} texts, needs {_sizes((batch, *shape))}"
        )
    return np.tile(values, (batch // len(values), *[1] * len(shape)))


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _first(name: str) -> str:
    """The first part of a weight's name, with its dot."""
    return name.partition(".")[0] + "."


XL_2 = STDiT3Spec()
LARGE_2 = STDiT3Spec(hidden_size=1872, num_heads=26)
TINY = STDiT3Spec(hidden_size=96, depth=3, num_heads=4, caption_channels=64, model_max_length=32, input_sq_size=64)
TINY_V1_2 = replace(TINY, hidden_size=144, num_heads=3, in_channels=8)

PRESETS: Mapping[str, STDiT3Spec] = {
    "stdit3_xl_2": XL_2,
    "stdit3_3b_2": LARGE_2,
    "stdit3_tiny": TINY,
    "tiny_v1_2": TINY_V1_2,
}

FAMILY = Family(
    kind="denoiser",
    title="STDiT3",
    class_names=("STDiT3",),
    telling_keys=("skip_y_embedder",),
    spec=STDiT3Spec,
    presets=PRESETS,
    from_shapes=STDiT3Spec.from_shapes,
)
