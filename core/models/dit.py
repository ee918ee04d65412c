"""DiT and Latte of videos: the spec, the layout and the presets of two denoisers that Open-Sora 1.0 carries.

Transformers whose blocks are bent, each in its own way, by the sum of the embedded timestep and of a class or the one
vector of a text. They have the same weights: in a DiT all tokens of a clip look at each other in every block, in a
Latte the blocks look by turns at the tokens of a frame and at one place through all frames.
Sources: Peebles and Xie 2022, arXiv:2212.09748; Ma et al. 2024, arXiv:2401.03048; opensora/models/dit and
opensora/models/latte of hpcaitech Open-Sora at v1.0.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import lcm
from typing import Any, ClassVar

import numpy as np

from ..errors import ConfigError, ShapeError
from ..layout import Computed, Layout, Normal, Weight, WeightList
from ..maths.embeddings import counted_embedding, line_embedding
from ..seam.models import Given
from ..shapes import LatentShape, Patch, TokenGrid
from .adaln import AdaLNSpec
from .adaln_single import self_attention, sizes, three_numbers, xavier
from .config_json import build, count, number, refuse_unknown, take, whole_number
from .kinds import Family
from .work import Attention

MOST_BLOCKS, MOST_CHANNELS, MOST_CAPTION_CHANNELS = 640, 1024, 65_536
MOST_CLASSES, MOST_SIDE, MOST_STEPS = 1_000_000, 4096, 64


@dataclass(frozen=True, kw_only=True)
class DiTSpec(AdaLNSpec):
    """What a DiT or Latte of videos is. Fields are the arguments of upstream's classes, and `alternates`."""

    family: ClassVar[str] = "dit"
    text_channels: ClassVar[int] = 0
    model_max_length: ClassVar[int] = 1
    """Tokens of the learned null caption, which stands in for a vector."""

    alternates: bool = False
    """Whether blocks are spatial and temporal by turns, as those of Latte."""
    input_size: tuple[int, int, int] = (16, 32, 32)
    """Latents along time, height and width that it was trained on."""
    patch_size: tuple[int, int, int] = (1, 2, 2)
    """Latents of a token along time, height and width."""
    class_dropout_prob: float = 0.1
    """Share of classes or texts that training replaced by none; where it is 0 there is no null class."""
    num_classes: int = 0
    """0: it reads texts."""
    caption_channels: int = 512
    """Width of the vector of a text; 0: it reads classes."""
    no_temporal_pos_emb: bool = False
    """Tokens are not told their frame. Latte's always are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        title = self.title
        if any(size < patch for size, patch in zip(self.input_size, self.patch_size, strict=True)):
            raise ConfigError(
                f"{title}: input_size = {sizes(self.input_size)} holds no patch of {sizes(self.patch_size)}"
            )
        if 0 not in (self.num_classes, self.caption_channels) or self.num_classes == self.caption_channels:
            raise ConfigError(f"{title}: reads classes, or texts of {self.caption_channels} channels, not both")
        if self.alternates and self.no_temporal_pos_emb:
            raise ConfigError(f"{title}: no_temporal_pos_emb: its tokens are told their frame in any case")

    @property
    def title(self) -> str:
        """Upstream's name of the class."""
        return "Latte" if self.alternates else "DiT"

    @property
    def given(self) -> frozenset[str]:
        """Which of kinds.GIVEN it reads."""
        return frozenset({"label" if self.num_classes else "pooled", *(("is_null",) if self.has_null else ())})

    @property
    def has_null(self) -> bool:
        """Whether there is a null class, whose number is that behind the last, or a null caption."""
        return not self.num_classes or self.class_dropout_prob > 0

    @property
    def table_size(self) -> int:
        """Rows of the table of classes."""
        return self.num_classes + self.has_null

    @property
    def pooled_channels(self) -> int:
        """Width of the vector of a text that it reads."""
        return self.caption_channels

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.patch_size

    @property
    def patch(self) -> Patch:
        """Latents of a token; of unequal sides what both divide."""
        time, height, width = self.patch_size
        return Patch(time, lcm(height, width))

    def grid(self, latent: LatentShape) -> TokenGrid:
        """The token grid of a latent, padded at the end of each axis to whole patches."""
        return TokenGrid(*(-(-size // patch) for size, patch in zip(latent, self.patch_size, strict=True)))

    def rows(self, given: Given) -> np.ndarray:
        """Of each clip its row in the table of classes, (B,).

        Raises: ShapeError for labels that are missing, or outside the table.
        """
        label = given.label
        if label is None or label.ndim != 1 or not len(label) or label.dtype.kind not in "iu":
            held = "nothing" if label is None else f"{label.dtype} of {sizes(label.shape)}"
            raise ShapeError(f"{self.title}: label: needs a whole number for each clip, got {held}")
        is_null = self.is_null(given, len(label))
        if is_null is not None:
            label = np.where(is_null, self.num_classes, label)
        outside = label[(label < 0) | (label >= self.table_size)]
        if outside.size:
            null = f", and {self.num_classes} for none" if self.has_null else ""
            raise ShapeError(f"{self.title}: label {outside[0]}: there are classes 0 to {self.num_classes - 1}{null}")
        return label.astype(np.int64)

    def vectors(self, given: Given) -> np.ndarray:
        """Of each clip the vector of its text, (B, caption_channels). Raises: ShapeError where they do not fit."""
        pooled = given.pooled
        if pooled is None or pooled.ndim != 2 or not len(pooled) or pooled.shape[1] != self.caption_channels:
            held = "nothing" if pooled is None else sizes(pooled.shape)
            raise ShapeError(f"{self.title}: pooled: needs vectors of batch x {self.caption_channels}, got {held}")
        return pooled

    def is_null(self, given: Given, batch: int) -> np.ndarray | None:
        """Which classes or texts none stands in for, (B,); None: no one's. Raises: ShapeError."""
        is_null = given.is_null
        if is_null is None or not is_null.any():
            return None
        if is_null.ndim != 1 or batch % len(is_null):
            raise ShapeError(f"{self.title}: is_null: got {sizes(is_null.shape)} for a batch of {batch}")
        if not self.has_null:
            raise ShapeError(f"{self.title}: is_null: it was trained without a null class, so it cannot be guided")
        return np.tile(is_null, batch // len(is_null))

    def attention(self, latent: LatentShape, batch: int, text: int) -> tuple[Attention, ...]:
        """Of a call: among all tokens, or by turns within frames and through them."""
        if not self.alternates:
            return super().attention(latent, batch, text)
        grid, heads = self.grid(latent), (self.num_heads, self.head_dim)
        places, spatial = grid.height * grid.width, -(-self.depth // 2)
        return (
            Attention(batch * grid.frames, places, places, *heads, times=spatial),
            Attention(batch * places, grid.frames, grid.frames, *heads, times=self.depth - spatial),
        )

    def facts(self) -> list[str]:
        """What `duosora inspect` says of it."""
        kinds = "spatial and temporal blocks by turns" if self.alternates else "blocks"
        reads = f"{self.num_classes} classes" if self.num_classes else f"vectors of texts, {self.caption_channels} wide"
        return [
            f"{self.depth} {kinds}, {self.num_heads} heads of {self.head_dim}, patch {sizes(self.patch_size)}, "
            f"{self.in_channels} latent channels",
            f"{reads}; trained on latents of {sizes(self.input_size)}",
            "objective: not stored in the file; upstream's predict the noise of a diffusion and the range of its "
            "variance",
        ]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str = "config.json") -> DiTSpec:
        """Read a config.json of upstream's arguments. Raises ConfigError for unknown keys and impossible values."""
        rest, fresh = dict(config), cls()
        for key in _WITHOUT_EFFECT:
            rest.pop(key, None)
        classes = config.get("architectures")
        alternates = take(rest, source, "alternates", bool, isinstance(classes, list) and "Latte" in classes)
        num_classes = _classes(take(rest, source, "condition", str, "text"), source)
        channels = count(rest, source, "caption_channels", MOST_CAPTION_CHANNELS, fresh.caption_channels)
        not_told = take(rest, source, "no_temporal_pos_emb", bool, fresh.no_temporal_pos_emb)
        spec = build(
            cls,
            source,
            alternates=alternates,
            input_size=three_numbers(rest, source, "input_size", MOST_SIDE, fresh.input_size),
            patch_size=three_numbers(rest, source, "patch_size", MOST_STEPS, fresh.patch_size),
            class_dropout_prob=number(rest, source, "class_dropout_prob", 0.0, 1.0, fresh.class_dropout_prob),
            num_classes=num_classes,
            caption_channels=0 if num_classes else channels,
            no_temporal_pos_emb=not_told and not alternates,  # which upstream's Latte does not look at
            **cls.common_fields(rest, source, MOST_CHANNELS, MOST_BLOCKS),
        )
        refuse_unknown(rest, source, tuple(spec.to_config()))
        return spec

    def to_config(self) -> dict[str, Any]:
        """A config.json of upstream's arguments; upstream has none."""
        channels = {} if self.num_classes else {"caption_channels": self.caption_channels}
        return self.config(
            alternates=self.alternates,
            architectures=[self.title],
            **channels,
            class_dropout_prob=self.class_dropout_prob,
            condition=f"label_{self.num_classes}" if self.num_classes else "text",
            input_size=list(self.input_size),
            no_temporal_pos_emb=self.no_temporal_pos_emb,
            patch_size=list(self.patch_size),
        )

    def layout(self) -> Layout:
        """Every weight of the transformer, under upstream's names."""
        weights = WeightList()
        width = self.hidden_size
        frames, side, _ = (size // patch for size, patch in zip(self.input_size, self.patch_size, strict=True))
        places = Computed((), counted_embedding, (side, side, width, 1.0))  # a square of the height, as upstream's
        weights["pos_embed_spatial"] = Weight((1, side**2, width), places, trained=False)
        numbers = Computed((), line_embedding, (frames, width, 1.0))
        weights["pos_embed_temporal"] = Weight((1, frames, width), numbers, trained=False)
        self.patch_embedder(weights, "x_embedder.proj")
        if self.num_classes:
            weights["y_embedder.embedding_table.weight"] = Weight((self.table_size, width), Normal(1.0))
        else:
            null_caption = Normal(self.caption_channels**-0.5)
            weights["y_embedder.y_embedding"] = Weight((1, self.caption_channels), null_caption, trained=False)
            xavier(weights, "y_embedder.y_proj.fc1", width, self.caption_channels, Normal(0.02))
            xavier(weights, "y_embedder.y_proj.fc2", width, width, Normal(0.02))
        self.timestep_embedder(weights)
        for name in self.blocks():
            self_attention(weights, f"{name}.attn", width, head_dim=0)
            self.block(weights, name)
        self.last(weights)
        return Layout(f"{self.title}(depth={self.depth}, heads={self.num_heads}x{self.head_dim})", weights)


_WITHOUT_EFFECT = (
    *("dtype", "enable_flashattn", "enable_flash_attn", "enable_layernorm_kernel", "enable_sequence_parallelism"),
    *("from_pretrained", "model_max_length"),
)
"""Keys that say how upstream computes, and how many tokens a text has whose one vector is read."""
_LABELS = "label_"


def _classes(condition: str, source: str) -> int:
    """How many classes "label_10" has; 0 for "text"."""
    if condition == "text":
        return 0
    digits = condition.removeprefix(_LABELS)
    if digits == condition or not digits.isascii() or not digits.isdigit() or len(digits) > 9:
        raise ConfigError(f"{source}: condition: needs 'text', or 'label_' and how many classes there are")
    return whole_number(int(digits), source, "condition", MOST_CLASSES)


XL_2 = DiTSpec()
IMAGENET = DiTSpec(input_size=(1, 32, 32), no_temporal_pos_emb=True, num_classes=1000, caption_channels=0)
LATTE_XL_2 = DiTSpec(alternates=True)
UCF101 = replace(LATTE_XL_2, num_classes=101, caption_channels=0)
TINY = DiTSpec(input_size=(4, 8, 8), hidden_size=96, depth=3, num_heads=4, caption_channels=64)

PRESETS: Mapping[str, DiTSpec] = {
    "video_dit_xl_2": XL_2,
    "video_dit_xl_2x2": replace(XL_2, patch_size=(2, 2, 2)),
    "video_dit_xl_2_imagenet": IMAGENET,
    "video_dit_tiny": TINY,
    "latte_xl_2": LATTE_XL_2,
    "latte_xl_2x2": replace(LATTE_XL_2, patch_size=(2, 2, 2)),
    "latte_xl_2_ucf101": UCF101,
    "latte_tiny": replace(TINY, alternates=True, num_classes=10, caption_channels=0),
}

FAMILY = Family(
    kind="denoiser",
    title="DiT of videos",
    class_names=("DiT", "Latte"),
    telling_keys=("alternates",),
    spec=DiTSpec,
    presets=PRESETS,
)
