"""STDiT: the spec, the layout and the presets of the denoiser of hpcaitech Open-Sora 1.0.

A block looks at the tokens of a frame (spatial), then at one place through all frames (temporal), which it reads from
the raw residual stream, and lets both in by one gate; then it reads the text. Positions are counted at two scales, with
which each length and size was trained. Frames that a mask names are taken for clean: they are modulated as at timestep
0 (from version 1.1 on).
Source: opensora/models/stdit/stdit.py of hpcaitech Open-Sora at v1.0.0 and v1.2.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isqrt, prod
from typing import Any, ClassVar

from ..errors import ConfigError, ShapeError
from ..layout import Computed, Layout, Normal, Weight, WeightList, Zeros
from ..maths.embeddings import counted_embedding, line_embedding
from ..seam.models import Given
from ..shapes import LatentShape, TokenGrid
from .adaln_single import (
    FREEZES,
    MOST_SIDE,
    NUM_MODULATIONS,
    AdaLNSingleSpec,
    SettledText,
    cross_attention,
    frozen_names,
    self_attention,
    sizes,
    three_numbers,
    xavier,
)
from .config_json import build, choice, number, refuse_unknown
from .kinds import Costs, Family

PUBLISHED_SIDE, PUBLISHED_FRAMES, PUBLISHED_HEAD_DIM = 64, 16, 72
"""Latents of a side and of a clip for which positions are not scaled, and the width of a head."""
SPREAD = Normal(0.02)
"""Of what makes the modulation and of the captions' projection, in a fresh model."""


@dataclass(frozen=True, kw_only=True)
class STDiTSpec(AdaLNSingleSpec):
    """What an STDiT is. Fields are the arguments of upstream's class."""

    family: ClassVar[str] = "stdit"
    title: ClassVar[str] = "STDiT"
    given: ClassVar[frozenset[str]] = frozenset({"text", "is_null", "frame_mask", "kept"})

    input_size: tuple[int, int, int] = (1, 32, 32)
    """Latents along time, height and width that the tables of positions in its files are of. Others are taken as well,
    and their positions counted likewise."""
    model_max_length: int = 120
    space_scale: float = 1.0
    """What positions within a frame are divided by."""
    time_scale: float = 1.0
    """The same of positions in time."""
    freeze: str = ""
    """What training keeps as it is: "" nothing, one of FREEZES."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.freeze not in ("", *FREEZES):
            raise ConfigError(f"{self.title}: freeze = {self.freeze!r}: needs {' or '.join(FREEZES)}")
        try:
            self.grid(LatentShape(*self.input_size))
        except ShapeError as error:
            raise ConfigError(f"{self.title}: input_size: {error}") from error

    def grid(self, latent: LatentShape) -> TokenGrid:
        """The token grid of a latent. Raises: ShapeError for sides that the patches do not divide."""
        if any(size % patch for size, patch in zip(latent, self.patch_size, strict=True)):
            raise ShapeError(
                f"{self.title}: latents of {sizes(latent)}: needs multiples of the patch, {sizes(self.patch_size)}"
            )
        return super().grid(latent)

    def settled(self, given: Given, latent: LatentShape) -> SettledText:
        """What is given for latents of a shape, with a row for each text.

        Raises: ShapeError for what is missing or does not fit.
        """
        return self.settled_text(given, latent)

    def costs(self) -> Costs:
        """The sizes that memory and traffic follow from."""
        return Costs(2 * self.depth, self.hidden_size, self.num_heads, self.patch_outputs)

    def facts(self) -> list[str]:
        """What `duosora inspect` says of it."""
        return [
            f"{self.depth} blocks, spatial then temporal, {self.num_heads} heads of {self.head_dim}, patch "
            f"{'x'.join(map(str, self.patch_size))}, {self.in_channels} latent channels",
            f"positions of {sizes(self.input_size)} latents, at scales {self.space_scale:g} in space and "
            f"{self.time_scale:g} in time",
            "objective: not stored in the file; the published model predicts the noise, and its variance",
        ]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str = "config.json") -> STDiTSpec:
        """Read the arguments of upstream's class. Raises ConfigError for unknown keys and for impossible values."""
        rest = dict(config)
        choice(rest, source, "model_type", (cls.title,), cls.title)
        fresh = cls()
        spec = build(
            cls,
            source,
            **cls.common_fields(rest, source),
            input_size=three_numbers(rest, source, "input_size", MOST_SIDE, fresh.input_size),
            space_scale=number(rest, source, "space_scale", 1e-3, 1e3, fresh.space_scale),
            time_scale=number(rest, source, "time_scale", 1e-3, 1e3, fresh.time_scale),
            freeze=choice(rest, source, "freeze", (None, *FREEZES), None) or "",
        )
        refuse_unknown(rest, source, tuple(spec.to_config()))
        return spec

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]], source: str) -> STDiTSpec | None:
        """What the shapes of its weights and of its tables of positions tell, all else as published; None where they
        are of another model, or the tables are not there.

        Positions are scaled as all published models have it, by what they were trained on.
        Raises: ConfigError for shapes that no such model has.
        """
        told = [shapes.get(name, ()) for name in _TELLING]
        if [*map(len, told)] != [5, 2, 2, 2, 2, 3, 3] or not all(map(all, told)) or "t_block_temp.1.weight" in shapes:
            return None
        (width, channels, *patch), (tokens, caption), (inner, _), (outputs, _), _, (_, places, _), (_, times, _) = told
        height, frames = isqrt(places) * patch[1], times * patch[0]
        return build(
            cls,
            source,
            input_size=(frames, height, isqrt(places) * patch[2]),
            in_channels=channels,
            patch_size=tuple(patch),
            hidden_size=width,
            depth=len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}),
            num_heads=max(width // PUBLISHED_HEAD_DIM, 1),
            mlp_ratio=inner / width,
            caption_channels=caption,
            model_max_length=tokens,
            pred_sigma=outputs == 2 * channels * prod(patch),
            space_scale=height / PUBLISHED_SIDE,
            time_scale=2 / 3 if frames > PUBLISHED_FRAMES else 1.0,
        )

    def to_config(self) -> dict[str, Any]:
        """The arguments of upstream's class for this spec."""
        return self.common_config() | {
            "freeze": self.freeze or None,
            "input_size": list(self.input_size),
            "space_scale": self.space_scale,
            "time_scale": self.time_scale,
        }

    def layout(self) -> Layout:
        """Every weight of the transformer, under upstream's names."""
        weights = WeightList()
        width, grid = self.hidden_size, self.grid(LatentShape(*self.input_size))
        places = Computed(table=counted_embedding, arguments=(grid.height, grid.width, width, self.space_scale))
        weights["pos_embed"] = Weight((1, grid.height * grid.width, width), places, trained=False)
        frames = Computed(table=line_embedding, arguments=(grid.frames, width, self.time_scale))
        weights["pos_embed_temporal"] = Weight((1, grid.frames, width), frames, trained=False)
        self.embedders(weights, SPREAD)
        for i in range(self.depth):
            self._block(weights, f"blocks.{i}")
        self.last(weights)
        name = f"STDiT(depth={self.depth}, heads={self.num_heads}x{self.head_dim})"
        return Layout(name, weights, frozen=frozen_names(self.freeze, weights))

    def _block(self, weights: WeightList, name: str) -> None:
        width = self.hidden_size
        weights[f"{name}.scale_shift_table"] = Weight((NUM_MODULATIONS, width), Normal(width**-0.5))
        self_attention(weights, f"{name}.attn", width, 0)
        cross_attention(weights, f"{name}.cross_attn", width, Zeros())
        xavier(weights, f"{name}.mlp.fc1", self.feed_forward_size, width)
        xavier(weights, f"{name}.mlp.fc2", width, self.feed_forward_size)
        self_attention(weights, f"{name}.attn_temp", width, 0, Zeros())


_TELLING = (
    *("x_embedder.proj.weight", "y_embedder.y_embedding", "blocks.0.mlp.fc1.weight", "final_layer.linear.weight"),
    *("blocks.0.attn_temp.qkv.weight", "pos_embed", "pos_embed_temporal"),
)
"""Weights whose shapes tell what a model is."""

XL_2 = STDiTSpec()
TINY = STDiTSpec(
    hidden_size=96,
    depth=3,
    num_heads=4,
    caption_channels=64,
    model_max_length=32,
    input_size=(4, 8, 8),
    space_scale=0.25,
)

PRESETS: Mapping[str, STDiTSpec] = {
    "stdit_xl_2_16x256": replace(XL_2, input_size=(16, 32, 32), space_scale=0.5),
    "stdit_xl_2_16x512": replace(XL_2, input_size=(16, 64, 64)),
    "stdit_xl_2_64x512": replace(XL_2, input_size=(64, 64, 64), time_scale=2 / 3),
    "stdit_tiny": TINY,
}

FAMILY = Family(
    kind="denoiser",
    title="STDiT",
    class_names=("STDiT", "STDiT-XL/2"),
    telling_keys=(),
    spec=STDiTSpec,
    presets=PRESETS,
    from_shapes=STDiTSpec.from_shapes,
)
