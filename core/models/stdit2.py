"""STDiT2: the spec, the layout and the presets of the denoiser of hpcaitech Open-Sora 1.1.

A block looks at the tokens of a frame (spatial), then at one place through all frames (temporal, with rotary
positions), each under a modulation of its own: of the timestep and the size of the clip, and of the timestep, its
length and its frame rate. Then it reads the text. Any size is taken; sizes in pixels scale the positions within a
frame. Frames that a mask names are taken for clean: they are modulated as at timestep 0.
Source: opensora/models/stdit/stdit2.py of hpcaitech Open-Sora at v1.1.0 and v1.2.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np

from ..errors import ConfigError
from ..layout import Constant, Layout, Normal, Weight, WeightList, Zeros
from ..maths.rope import inverse_frequencies
from ..seam.models import Given
from ..shapes import LatentShape
from .adaln_single import (
    FREEZES,
    MOST_SIDE,
    NUM_MODULATIONS,
    AdaLNSingleSpec,
    SettledText,
    cross_attention,
    embedder,
    frozen_names,
    self_attention,
    xavier,
)
from .config_json import build, choice, count, refuse_unknown, take
from .kinds import Costs, Family

NUM_TEMPORAL = 3
"""Shift, scale and gate of the temporal attention."""
NUM_SIZES = 3
"""Height, width and their ratio, each embedded in a part of the width."""
SPREAD = Normal(0.02)
"""Of what makes the modulation and of the captions' projection, in a fresh model."""


@dataclass(frozen=True, kw_only=True)
class STDiT2Spec(AdaLNSingleSpec):
    """What an STDiT2 is. Fields are the keys of upstream's config.json."""

    family: ClassVar[str] = "stdit2"
    title: ClassVar[str] = "STDiT2"
    given: ClassVar[frozenset[str]] = frozenset(
        {"text", "is_null", "fps", "height", "width", "num_frames", "ratio", "frame_mask", "kept"}
    )

    model_max_length: int = 200
    input_sq_size: int = 512
    """Side in pixels of the square whose positions count one by one."""
    qk_norm: bool = True
    qk_norm_legacy: bool = True
    """Whether queries and keys are turned by their rotary positions before they are normed, as in version 1.1 and so in
    all published weights, which say nothing of it, or after it."""
    freeze: str = ""
    """What training keeps as it is: "" nothing, one of FREEZES."""

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads or self.head_dim % 2:
            raise ConfigError(
                f"STDiT2: hidden_size = {self.hidden_size} does not make {self.num_heads} heads of an even width, as "
                "rotary positions need"
            )
        super().__post_init__()
        if self.hidden_size % NUM_SIZES:
            raise ConfigError(
                f"STDiT2: hidden_size = {self.hidden_size}: needs a multiple of 3 for height, width and their ratio"
            )
        if self.freeze not in ("", *FREEZES):
            raise ConfigError(f"STDiT2: freeze = {self.freeze!r}: needs {' or '.join(FREEZES)}")

    def settled(self, given: Given, latent: LatentShape) -> SettledFacts:
        """What is given for latents of a shape, with a row for each text.

        Raises: ShapeError for what is missing or does not fit.
        """
        texts = self.settled_text(given, latent)
        batch = len(texts.text)
        fps, height, width, num_frames, ratio = (
            self.rows(name, getattr(given, name), batch).astype(np.float32)
            for name in ("fps", "height", "width", "num_frames", "ratio")
        )
        # The first clip's pixels count for all, as where the model was trained (quirk Q1).
        scale = (float(height[0]) * float(width[0])) ** 0.5 / self.input_sq_size
        sides = np.stack([height, width], 1)
        return SettledFacts(**vars(texts), sides=sides, ratio=ratio, num_frames=num_frames, fps=fps, scale=scale)

    def costs(self) -> Costs:
        """The sizes that memory and traffic follow from."""
        return Costs(2 * self.depth, self.hidden_size, self.num_heads, self.patch_outputs)

    def facts(self) -> list[str]:
        """What `duosora inspect` says of it."""
        return [
            f"{self.depth} blocks, spatial then temporal, {self.num_heads} heads of {self.head_dim}, patch "
            f"{'x'.join(map(str, self.patch_size))}, {self.in_channels} latent channels",
            "objective: not stored in the file; the published model predicts the noise, and its variance",
        ]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str = "config.json") -> STDiT2Spec:
        """Read upstream's config.json. Raises ConfigError for unknown keys and for impossible values."""
        rest = dict(config)
        rest.pop("input_size", None)  # without effect: any size is taken
        choice(rest, source, "model_type", (cls.title,), cls.title)
        fresh = cls()
        spec = build(
            cls,
            source,
            **cls.common_fields(rest, source),
            input_sq_size=count(rest, source, "input_sq_size", MOST_SIDE, fresh.input_sq_size),
            qk_norm=take(rest, source, "qk_norm", bool, fresh.qk_norm),
            qk_norm_legacy=take(rest, source, "qk_norm_legacy", bool, fresh.qk_norm_legacy),
            freeze=choice(rest, source, "freeze", (None, *FREEZES), None) or "",
        )
        refuse_unknown(rest, source, tuple(spec.to_config()))
        return spec

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]], source: str) -> STDiT2Spec | None:
        """What the shapes of its weights tell, all else as published; None where they are of another model.

        Raises: ConfigError for shapes that no such model has.
        """
        told = [shapes.get(name, ()) for name in _TELLING]
        head = shapes.get("blocks.0.attn.q_norm.weight") or [2 * size for size in shapes.get("rope.freqs", ())]
        if [*map(len, told), len(head)] != [5, 2, 2, 2, 2, 1] or not all(map(all, [*told, head])):
            return None
        (width, channels, *patch), (tokens, caption), (inner, _), (outputs, _), _ = told
        return build(
            cls,
            source,
            hidden_size=width,
            depth=len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}),
            num_heads=max(width // head[0], 1),
            in_channels=channels,
            patch_size=tuple(patch),
            mlp_ratio=inner / width,
            caption_channels=caption,
            model_max_length=tokens,
            qk_norm="blocks.0.attn.q_norm.weight" in shapes,
            pred_sigma=outputs == 2 * channels * prod(patch),
        )

    def to_config(self) -> dict[str, Any]:
        """Upstream's config.json for this spec."""
        return self.common_config() | {
            "freeze": self.freeze or None,
            "input_size": [None, None, None],
            "input_sq_size": self.input_sq_size,
            "qk_norm": self.qk_norm,
            "qk_norm_legacy": self.qk_norm_legacy,
        }

    def layout(self) -> Layout:
        """Every weight of the transformer, under upstream's names."""
        weights = WeightList()
        width = self.hidden_size
        weights["rope.freqs"] = Weight((self.head_dim // 2,), Constant(tuple(inverse_frequencies(self.head_dim))))
        self.embedders(weights, SPREAD)
        xavier(weights, "t_block_temp.1", NUM_TEMPORAL * width, width, SPREAD)
        for name in ("csize_embedder", "ar_embedder"):
            embedder(weights, name, width // NUM_SIZES)
        for name in ("fl_embedder", "fps_embedder"):
            embedder(weights, name, width)
        for i in range(self.depth):
            self._block(weights, f"blocks.{i}")
        self.last(weights)
        name = f"STDiT2(depth={self.depth}, heads={self.num_heads}x{self.head_dim})"
        return Layout(name, weights, frozen=frozen_names(self.freeze, weights))

    def _block(self, weights: WeightList, name: str) -> None:
        width, normed = self.hidden_size, self.head_dim if self.qk_norm else 0
        weights[f"{name}.scale_shift_table"] = Weight((NUM_MODULATIONS, width), Normal(width**-0.5))
        weights[f"{name}.scale_shift_table_temporal"] = Weight((NUM_TEMPORAL, width), Normal(width**-0.5))
        self_attention(weights, f"{name}.attn", width, normed)
        cross_attention(weights, f"{name}.cross_attn", width, Zeros())
        xavier(weights, f"{name}.mlp.fc1", self.feed_forward_size, width)
        xavier(weights, f"{name}.mlp.fc2", width, self.feed_forward_size)
        self_attention(weights, f"{name}.attn_temp", width, normed, Zeros())


_TELLING = (
    *("x_embedder.proj.weight", "y_embedder.y_embedding", "blocks.0.mlp.fc1.weight"),
    *("final_layer.linear.weight", "t_block_temp.1.weight"),
)
"""Weights whose shapes tell what a model is."""


@dataclass(frozen=True, kw_only=True)
class SettledFacts(SettledText):
    """What a batch of B clips is denoised under, checked; numbers are float32."""

    sides: np.ndarray
    """(B, 2), height and width in pixels."""
    ratio: np.ndarray
    """(B,)."""
    num_frames: np.ndarray
    """(B,)."""
    fps: np.ndarray
    """(B,)."""
    scale: float
    """What positions within a frame are divided by."""


XL_2 = STDiT2Spec()
TINY = STDiT2Spec(hidden_size=96, depth=3, num_heads=4, caption_channels=64, model_max_length=32, input_sq_size=64)

PRESETS: Mapping[str, STDiT2Spec] = {"stdit2_xl_2": XL_2, "stdit2_tiny": TINY}

FAMILY = Family(
    kind="denoiser",
    title="STDiT2",
    class_names=("STDiT2", "STDiT2-XL/2"),
    telling_keys=("qk_norm_legacy",),
    spec=STDiT2Spec,
    presets=PRESETS,
    from_shapes=STDiT2Spec.from_shapes,
)
