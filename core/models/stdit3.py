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
from math import prod
from typing import Any, ClassVar

import numpy as np

from ..errors import ConfigError
from ..layout import Constant, Init, Layout, Normal, Weight, WeightList, Zeros
from ..maths.rope import inverse_frequencies
from ..seam.models import Given
from ..shapes import LatentShape
from .adaln_single import (
    MOST_SIDE,
    NUM_MODULATIONS,
    AdaLNSingleSpec,
    SettledText,
    cross_attention,
    embedder,
    self_attention,
    xavier,
)
from .config_json import build, choice, count, refuse_unknown, take
from .kinds import Costs, Family, Output

KINDS = ("spatial", "temporal")
"""The blocks of a pair, in the order of the forward."""


@dataclass(frozen=True, kw_only=True)
class STDiT3Spec(AdaLNSingleSpec):
    """What an STDiT3 is; depth counts pairs of blocks. Fields are the keys of upstream's config.json."""

    family: ClassVar[str] = "stdit3"
    title: ClassVar[str] = "STDiT3"
    given: ClassVar[frozenset[str]] = frozenset({"text", "is_null", "fps", "height", "width", "frame_mask", "kept"})

    qk_norm: bool = True
    input_sq_size: int = 512
    """Side in pixels of the square whose positions count one by one."""
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
        super().__post_init__()

    @property
    def output(self) -> Output:
        # Nothing has been trained to use what is behind the velocity.
        return "mean_and_spare" if self.pred_sigma else "mean"

    @property
    def drop_rates(self) -> tuple[float, ...]:
        """Of each block its share of drop_path, which rises from 0 over the pairs."""
        return tuple(np.linspace(0.0, self.drop_path, self.depth).repeat(len(KINDS)).tolist())

    @property
    def text_channels(self) -> int:
        """Width of the texts that it is given."""
        return self.hidden_size if self.skip_y_embedder else self.caption_channels

    @property
    def frozen(self) -> tuple[str, ...]:
        """Beginnings of the names of weights that the config keeps as they are in training."""
        return self.layout().frozen

    def settled(self, given: Given, latent: LatentShape) -> Settled:
        """What is given for latents of a shape, with a row for each text.

        Raises: ShapeError for what is missing or does not fit.
        """
        texts = self.settled_text(given, latent)
        batch = len(texts.text)
        fps, height, width = (self.rows(name, getattr(given, name), batch) for name in ("fps", "height", "width"))
        # The first clip's pixels count for all, as where the model was trained (quirk Q1).
        scale = (float(height[0]) * float(width[0])) ** 0.5 / self.input_sq_size
        return Settled(**vars(texts), fps=fps.astype(np.float32), scale=scale)

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
        rest.pop("input_size", None)  # without effect: any size is taken
        choice(rest, source, "model_type", ("STDiT3",), "STDiT3")
        fresh = cls()
        spec = build(
            cls,
            source,
            **cls.common_fields(rest, source),
            input_sq_size=count(rest, source, "input_sq_size", MOST_SIDE, fresh.input_sq_size),
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
        return self.common_config() | {
            "freeze_y_embedder": self.freeze_y_embedder,
            "input_size": [None, None, None],
            "input_sq_size": self.input_sq_size,
            "only_train_temporal": self.only_train_temporal,
            "qk_norm": self.qk_norm,
            "skip_y_embedder": self.skip_y_embedder,
        }

    def layout(self) -> Layout:
        """Every weight of the transformer, under upstream's names."""
        weights = WeightList()
        width = self.hidden_size
        weights["rope.freqs"] = Weight((self.head_dim // 2,), Constant(tuple(inverse_frequencies(self.head_dim))))
        weights.conv("x_embedder.proj", width, self.in_channels, *self.patch_size)
        embedder(weights, "t_embedder", width)
        embedder(weights, "fps_embedder", width, Normal(0.02))
        weights["fps_embedder.mlp.2.weight"] = Weight((width, width), Zeros())
        xavier(weights, "t_block.1", NUM_MODULATIONS * width, width)
        null_caption = Normal(self.caption_channels**-0.5)
        weights["y_embedder.y_embedding"] = Weight(
            (self.model_max_length, self.caption_channels), null_caption, trained=False
        )
        xavier(weights, "y_embedder.y_proj.fc1", width, self.caption_channels)
        xavier(weights, "y_embedder.y_proj.fc2", width, width)
        for kind in KINDS:
            for i in range(self.depth):
                self._block(weights, f"{kind}_blocks.{i}", Zeros() if kind == "temporal" else None)
        weights["final_layer.scale_shift_table"] = Weight((2, width), Normal(width**-0.5))
        xavier(weights, "final_layer.linear", self.patch_outputs, width)
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
        self_attention(weights, f"{name}.attn", width, self.head_dim if self.qk_norm else 0, results)
        cross_attention(weights, f"{name}.cross_attn", width, results)
        xavier(weights, f"{name}.mlp.fc1", self.feed_forward_size, width)
        xavier(weights, f"{name}.mlp.fc2", width, self.feed_forward_size, results)


_TELLING = (
    *("x_embedder.proj.weight", "y_embedder.y_embedding", "spatial_blocks.0.mlp.fc1.weight"),
    *("final_layer.linear.weight", "temporal_blocks.0.mlp.fc1.weight"),
)
"""Weights whose shapes tell what a model is."""
_SWITCHES = ("qk_norm", "skip_y_embedder", "freeze_y_embedder", "only_train_temporal")


@dataclass(frozen=True, kw_only=True)
class Settled(SettledText):
    """What a batch of B clips is denoised under, checked."""

    fps: np.ndarray
    """(B,) float32."""
    scale: float
    """What positions within a frame are divided by."""


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
