"""DiT and SiT of class labels: the spec, the layout and the presets of the denoisers of pictures of ImageNet.

One network, of which SiT's weights have the same names and shapes: a transformer on the patches of a square latent,
whose blocks are bent by the sum of the embedded timestep and class. What differs is what it was trained as: DiT
predicts the noise of a diffusion and behind it a range for the variance, SiT the velocity (noise, score) of an
interpolant at times in [0, 1], behind which further outputs are without meaning.
Sources: Peebles and Xie 2022, arXiv:2212.09748; Ma et al. 2024, arXiv:2401.08740.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any, ClassVar

import numpy as np

from ..errors import ConfigError, ShapeError
from ..layout import Computed, Layout, Normal, Weight, WeightList
from ..maths.embeddings import grid_embedding
from ..seam.models import Given
from ..shapes import LatentShape, Patch, TokenGrid
from .adaln import HEADS as PUBLISHED_HEADS
from .adaln import SIZES, AdaLNSpec
from .adaln_single import self_attention, sizes
from .config_json import build, choice, count, number, refuse_unknown
from .kinds import Family, Output

HEADS = PUBLISHED_HEADS | {96: 4}
"""By the width of the tokens, of all presets: weights do not tell."""
MOST_BLOCKS, MOST_CHANNELS, MOST_CLASSES = 320, 1024, 1_000_000
MOST_SIDE, MOST_PATCH = 1024, 64
"""Latents."""
TRAININGS = ("diffusion", "interpolant")


@dataclass(frozen=True, kw_only=True)
class DiTMetaSpec(AdaLNSpec):
    """What a DiT or SiT of class labels is. Fields are the arguments of upstream's constructors, and `trained_as`."""

    family: ClassVar[str] = "dit_meta"
    pooled_channels: ClassVar[int] = 0
    text_channels: ClassVar[int] = 0

    input_size: int = 32
    """Side of the square latent."""
    patch_size: int = 2
    """Side of a token, in latents."""
    num_classes: int = 1000
    class_dropout_prob: float = 0.1
    """Share of labels that training replaces by the null class, which exists only where this is above 0."""
    trained_as: str = "diffusion"
    """diffusion: DiT, outputs behind the noise are a range of variances; interpolant: SiT, they mean nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.input_size % self.patch_size:
            raise ConfigError(f"DiT: input_size = {self.input_size}: patches of {self.patch_size} do not tile it")

    @property
    def given(self) -> frozenset[str]:
        """Which of kinds.GIVEN it reads."""
        return frozenset({"label", "is_null"} if self.has_null else {"label"})

    @property
    def has_null(self) -> bool:
        """Whether there is a null class; it has the number behind the last."""
        return self.class_dropout_prob > 0

    @property
    def table_size(self) -> int:
        """Rows of the table of classes."""
        return self.num_classes + self.has_null

    @property
    def output(self) -> Output:
        if not self.learn_sigma:
            return "mean"
        return "mean_and_range" if self.trained_as == "diffusion" else "mean_and_spare"

    @property
    def kernel(self) -> tuple[int, ...]:
        return (self.patch_size, self.patch_size)

    @property
    def patch(self) -> Patch:
        return Patch(1, self.patch_size)

    @property
    def only_latent(self) -> LatentShape:
        """The one size that it makes."""
        return LatentShape(1, self.input_size, self.input_size)

    def grid(self, latent: LatentShape) -> TokenGrid:
        """The token grid of a latent. Raises: ShapeError for any but pictures of its one size."""
        if latent != self.only_latent:
            raise ShapeError(
                f"latents of {sizes(latent)}: this model makes pictures of {self.input_size} x {self.input_size} "
                "latents, one frame"
            )
        side = self.input_size // self.patch_size
        return TokenGrid(1, side, side)

    def rows(self, given: Given) -> np.ndarray:
        """Of each picture its row in the table of classes, (B,).

        Raises: ShapeError for labels that are missing, or outside the table.
        """
        label, is_null = given.label, given.is_null
        if label is None or label.ndim != 1 or not len(label) or label.dtype.kind not in "iu":
            held = "nothing" if label is None else f"{label.dtype} of {sizes(label.shape)}"
            raise ShapeError(f"DiT: label: needs a whole number for each picture, got {held}")
        if is_null is not None:
            if is_null.shape != label.shape:
                raise ShapeError(f"DiT: is_null: got {sizes(is_null.shape)} for {len(label)} labels")
            if is_null.any() and not self.has_null:
                raise ShapeError("DiT: is_null: the model was trained without a null class, so it cannot be guided")
            label = np.where(is_null, self.num_classes, label)
        outside = label[(label < 0) | (label >= self.table_size)]
        if outside.size:
            null = f", and {self.num_classes} for none" if self.has_null else ""
            raise ShapeError(f"DiT: label {outside[0]}: there are classes 0 to {self.num_classes - 1}{null}")
        return label.astype(np.int64)

    def positions(self) -> np.ndarray:
        """What is added to each token for its place, (N, D) float32; files hold it as `pos_embed`."""
        side = self.input_size // self.patch_size
        return grid_embedding(side, side, self.hidden_size, 1.0)

    def facts(self) -> list[str]:
        """What `duosora inspect` says of it."""
        null = "with" if self.has_null else "without"
        meaning = {
            "diffusion": "the noise of a diffusion" + (", and a range for its variance" if self.learn_sigma else ""),
            "interpolant": "the velocity of an interpolant (or noise or score; the file does not say)",
        }
        return [
            f"{self.depth} blocks, {self.num_heads} heads of {self.head_dim}, patch {self.patch_size}, "
            f"{self.in_channels} latent channels, pictures of {self.input_size} x {self.input_size} latents",
            f"{self.num_classes} classes, {null} a null class",
            f"objective: {meaning[self.trained_as]}",
        ]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str = "config.json") -> DiTMetaSpec:
        """Read a config.json. Raises ConfigError for unknown keys and for impossible values."""
        rest, fresh = dict(config), cls()
        spec = build(
            cls,
            source,
            input_size=count(rest, source, "input_size", MOST_SIDE, fresh.input_size),
            patch_size=count(rest, source, "patch_size", MOST_PATCH, fresh.patch_size),
            num_classes=count(rest, source, "num_classes", MOST_CLASSES, fresh.num_classes),
            class_dropout_prob=number(rest, source, "class_dropout_prob", 0.0, 1.0, fresh.class_dropout_prob),
            trained_as=choice(rest, source, "trained_as", TRAININGS, fresh.trained_as),
            **cls.common_fields(rest, source, MOST_CHANNELS, MOST_BLOCKS),
        )
        refuse_unknown(rest, source, tuple(spec.to_config()))
        return spec

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]], source: str) -> DiTMetaSpec | None:
        """What the shapes of its weights tell, all else as published; None where they are of another model.

        They do not tell DiT from SiT: a file without a config.json is taken for a DiT's.
        Raises: ConfigError for shapes that no such model has.
        """
        told = [shapes.get(name, ()) for name in _TELLING]
        if [*map(len, told)] != [3, 4, 2, 2, 2] or not all(map(all, told)):
            return None
        if told[1][0] not in HEADS:
            return None
        (_, num_tokens, _), (width, channels, patch, _), (rows, _), (inner, _), (outputs, _) = told
        return build(
            cls,
            source,
            input_size=isqrt(num_tokens) * patch,
            patch_size=patch,
            in_channels=channels,
            hidden_size=width,
            depth=len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}),
            num_heads=HEADS[width],
            mlp_ratio=inner / width,
            num_classes=max(rows - 1, 1),
            learn_sigma=outputs == 2 * channels * patch**2,
        )

    def to_config(self) -> dict[str, Any]:
        """A config.json for this spec; upstream has none."""
        return self.config(
            architectures=["DiTMeta"],
            class_dropout_prob=self.class_dropout_prob,
            input_size=self.input_size,
            num_classes=self.num_classes,
            patch_size=self.patch_size,
            trained_as=self.trained_as,
        )

    def layout(self) -> Layout:
        """Every weight of the transformer, under upstream's names."""
        weights = WeightList()
        width, patch = self.hidden_size, self.patch_size
        side = self.input_size // patch
        weights["pos_embed"] = Weight(
            (1, side**2, width), Computed(table=grid_embedding, arguments=(side, side, width, 1.0))
        )
        self.patch_embedder(weights, "x_embedder.proj")
        self.timestep_embedder(weights)
        weights["y_embedder.embedding_table.weight"] = Weight((self.table_size, width), Normal(0.02), is_table=True)
        for name in self.blocks():
            self_attention(weights, f"{name}.attn", width, head_dim=0)
            self.block(weights, name)
        self.last(weights)
        name = "DiT" if self.trained_as == "diffusion" else "SiT"
        return Layout(f"{name}(depth={self.depth}, heads={self.num_heads}x{self.head_dim}, patch={patch})", weights)


_TELLING = (
    *("pos_embed", "x_embedder.proj.weight", "y_embedder.embedding_table.weight", "blocks.0.mlp.fc1.weight"),
    "final_layer.linear.weight",
)
"""Weights whose shapes tell what a model is."""


WIDTHS = {name: DiTMetaSpec(**size) for name, size in SIZES.items()}
TINY = DiTMetaSpec(input_size=8, hidden_size=96, depth=4, num_heads=4, num_classes=10)
DIGITS = replace(TINY, in_channels=3)
"""Of pictures of 8 x 8 pixels in place of latents, for docs/lesson.md."""

TRAINED_AS = dict(zip(("dit", "sit"), TRAININGS, strict=True))
PRESETS: Mapping[str, DiTMetaSpec] = {
    f"{name}_{size}{behind}": replace(spec, patch_size=patch, trained_as=training, input_size=side)
    for name, training in TRAINED_AS.items()
    for size, spec in WIDTHS.items()
    for patch in (2, 4, 8)
    for behind, side in ((f"_{patch}", 32), *([("_2_512px", 64)] if (size, patch) == ("xl", 2) else []))
} | {
    f"{name}_{behind}": replace(spec, trained_as=training)
    for name, training in TRAINED_AS.items()
    for behind, spec in (("tiny", TINY), ("digits", DIGITS))
}
"""sit_xl_2 and its like are those of SiT."""

FAMILY = Family(
    kind="denoiser",
    title="DiT of class labels",
    class_names=("DiTMeta",),
    telling_keys=("trained_as",),
    spec=DiTMetaSpec,
    presets=PRESETS,
    from_shapes=DiTMetaSpec.from_shapes,
)
