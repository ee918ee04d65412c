"""DiT of Open-Sora's first release: the spec, the layout and the presets of denoisers that read lists of patches.

A clip's latents are a list of patches, frame by frame and in a frame row by row, and all that a patch is told of its
place is its number in the list. So clips of any sizes go into one batch, padded to the longest list. There are three
ways to tell such a model its text; files of two of them have the same names and shapes.
Source: open_sora/modeling/dit of hpcaitech Open-Sora before v1.0 (commit 0a4a091).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any, ClassVar

import numpy as np

from ..errors import ConfigError, ShapeError
from ..layout import Layout, Normal, WeightList
from ..maths.embeddings import counted_embedding
from ..maths.skiparse import valid_tokens
from ..seam.models import Given
from ..shapes import LatentShape, Patch, TokenGrid
from .adaln import HEADS as PUBLISHED_HEADS
from .adaln import SIZES, AdaLNSpec
from .adaln_single import sizes, xavier
from .config_json import build, choice, count, number, refuse_unknown
from .kinds import Family
from .work import Applied, Attention

HEADS = PUBLISHED_HEADS | {96: 4, 144: 4}
"""By the width of the tokens, of all presets: weights do not tell."""
MOST_BLOCKS, MOST_CHANNELS, MOST_TEXT_CHANNELS = 320, 4096, 65_536
MOST_SIDE, MOST_PLACES = 64, 100_000_000
WAYS = ("cross-attn", "adaln", "token-concat")
"""To tell the text: states that every block attends to, instead of to the patches; one vector that bends all blocks; or
states as tokens before the patches."""


@dataclass(frozen=True, kw_only=True)
class DiTFirstSpec(AdaLNSpec):
    """What such a model is. Fields are the arguments of upstream's constructor."""

    family: ClassVar[str] = "dit_first"
    lists_patches: ClassVar[bool] = True

    model_arch: str = "cross-attn"
    """One of WAYS."""
    patch_size: int = 2
    """Side of a token, in latents."""
    in_channels: int = 3
    """3 for pixels themselves, 4 for latents of SD-VAE, 256 for those of a VQ-VAE."""
    text_embed_dim: int = 512
    max_num_embeddings: int = 262_144
    """Places that there are; they lie row by row in a square that holds so many."""
    text_dropout_prob: float = 0.1
    """Share of texts that training replaced by zeros."""
    counts_padding: bool = False
    """Whether places of patches begin behind the padding of a batch's texts where these come first. Upstream counts it,
    and so what it makes of a clip depends on the texts beside it. Not in config.json: golden cases set it."""

    def __post_init__(self) -> None:
        if self.model_arch not in WAYS:
            raise ConfigError(f"DiT: model_arch = {self.model_arch!r}: there are {', '.join(WAYS)}")
        super().__post_init__()

    @property
    def pools(self) -> bool:
        """Whether it reads one vector of each text, else the states of its tokens."""
        return self.model_arch == "adaln"

    @property
    def attends_to_text(self) -> bool:
        """Whether its blocks attend to the text, and patches never to each other."""
        return self.model_arch == "cross-attn"

    @property
    def given(self) -> frozenset[str]:
        """Which of kinds.GIVEN it reads."""
        return frozenset({"pooled" if self.pools else "text", "is_null", "latent_mask"})

    @property
    def text_channels(self) -> int:
        return 0 if self.pools else self.text_embed_dim

    @property
    def pooled_channels(self) -> int:
        """Width of the vector of a text that it reads."""
        return self.text_embed_dim if self.pools else 0

    @property
    def kernel(self) -> tuple[int, ...]:
        return (self.patch_size, self.patch_size)

    @property
    def patch(self) -> Patch:
        return Patch(1, self.patch_size)

    @property
    def places_side(self) -> int:
        """Places in a row of the square."""
        return 1 + isqrt(self.max_num_embeddings - 1)

    def grid(self, latent: LatentShape) -> TokenGrid:
        """The token grid of a latent. Raises: ShapeError for one that patches do not tile, or with too many of them."""
        grid = self.patch.tokens(latent)
        self.check_places(grid.num_tokens)
        return grid

    def num_joined(self, latent: LatentShape, text: int) -> int:
        """Tokens of a clip in a block: those of the text come first where nothing attends to it."""
        own = self.grid(latent).num_tokens
        return own if self.pools or self.attends_to_text else own + text

    def applied_to_text(self, batch: int, text: int) -> tuple[Applied, ...]:
        """Keys and values, where blocks attend to the text, else what makes tokens or a vector of it."""
        parts = (".attn.to_k.", ".attn.to_v.") if self.attends_to_text else ("text_embedder.",)
        return tuple(Applied(part, batch if self.pools else batch * text, once=True) for part in parts)

    def attention(self, latent: LatentShape, batch: int, text: int) -> tuple[Attention, ...]:
        """Of a call: to the text, or among all tokens."""
        tokens = self.num_joined(latent, text)
        keys = text if self.attends_to_text else tokens
        return (Attention(batch, tokens, keys, self.num_heads, self.head_dim, self.depth),)

    def check_places(self, num_tokens: int) -> None:
        """Raises: ShapeError where there are more tokens than places (where upstream moves all of them, quirk 17)."""
        if num_tokens > self.max_num_embeddings:
            raise ShapeError(
                f"DiT: {num_tokens} tokens, but it has {self.max_num_embeddings} places: make shorter or smaller clips"
            )

    def positions(self, num_tokens: int) -> np.ndarray:
        """What is added to so many tokens for their places, (N, D) float32; files do not hold it."""
        side = self.places_side
        rows = -(-num_tokens // side)
        return counted_embedding(rows, side, self.hidden_size, 1.0)[:num_tokens]

    def placed(self, settled: TextAndPatches, num_patches: int) -> np.ndarray:
        """What is added to the tokens of a batch for their places, (B, N, D) or (1, N, D) float32.

        Patches have the places behind the tokens of their text that count.
        """
        num_texts = 0 if self.pools or self.attends_to_text else settled.text.shape[1]
        table = self.positions(num_texts + num_patches)
        if not num_texts or settled.text_mask is None or self.counts_padding:
            return table[None]
        behind = settled.text_mask.sum(1, keepdims=True) + np.arange(num_patches)
        before = np.broadcast_to(np.arange(num_texts), (len(behind), num_texts))
        return table[np.concatenate([before, behind], 1)]

    def settled(self, given: Given, latent: LatentShape) -> TextAndPatches:
        """The texts for latents of a shape, zeros in place of those that are none, and what counts of the patches.

        Raises: ShapeError for what is missing or does not fit.
        """
        name, text = ("pooled", given.pooled) if self.pools else ("text", given.text)
        wanted = "batch" if self.pools else "batch x tokens"
        if text is None or text.ndim != 3 - self.pools or not text.size or text.shape[-1] != self.text_embed_dim:
            held = "nothing" if text is None else sizes(text.shape)
            raise ShapeError(f"DiT: {name}: needs {wanted} x {self.text_embed_dim}, got {held}")
        batch = len(text)
        if given.is_null is not None:
            is_null = _rows("is_null", given.is_null, batch, ())
            text = np.where(is_null.reshape(-1, *[1] * (text.ndim - 1)), np.float32(0), text)
        text_mask = None
        if given.text_mask is not None and not self.pools:
            text_mask = _rows("text_mask", given.text_mask, batch, text.shape[1:2]) > 0
        valid = None
        if given.latent_mask is not None:
            mask = _rows("latent_mask", given.latent_mask, batch, latent)
            valid = valid_tokens(mask, 1, self.patch_size)
            if not valid.any(1).all():
                raise ShapeError("DiT: latent_mask: a clip without any patch")
        return TextAndPatches(text, text_mask, valid)

    def facts(self) -> list[str]:
        """What `duosora inspect` says of it."""
        return [
            f"{self.depth} blocks, {self.num_heads} heads of {self.head_dim}, patch {self.patch_size}, "
            f"{self.in_channels} latent channels",
            f"conditioning: {self.model_arch}; reads {'one vector' if self.pools else 'states'} of a text, "
            f"{self.text_embed_dim} wide",
            "objective: the noise of a diffusion" + (", and a range for its variance" if self.learn_sigma else ""),
        ]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str = "config.json") -> DiTFirstSpec:
        """Read a config.json of upstream's arguments. Raises ConfigError for unknown keys and impossible values."""
        rest, fresh = dict(config), cls()
        spec = build(
            cls,
            source,
            model_arch=choice(rest, source, "model_arch", WAYS, fresh.model_arch),
            patch_size=count(rest, source, "patch_size", MOST_SIDE, fresh.patch_size),
            text_embed_dim=count(rest, source, "text_embed_dim", MOST_TEXT_CHANNELS, fresh.text_embed_dim),
            max_num_embeddings=count(rest, source, "max_num_embeddings", MOST_PLACES, fresh.max_num_embeddings),
            text_dropout_prob=number(rest, source, "text_dropout_prob", 0.0, 1.0, fresh.text_dropout_prob),
            **cls.common_fields(rest, source, MOST_CHANNELS, MOST_BLOCKS),
        )
        refuse_unknown(rest, source, tuple(spec.to_config()))
        return spec

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]], source: str) -> DiTFirstSpec | None:
        """What the shapes of its weights tell, all else as published; None where they are of another model.

        Raises: ConfigError for shapes that no such model has, and for those that two ways of conditioning share.
        """
        told = [shapes.get(name, ()) for name in _TELLING]
        if [*map(len, told)] != [4, 2, 2, 2] or not all(map(all, told)) or told[0][0] not in HEADS:
            return None
        if TELLS_WAY in shapes:
            raise ConfigError(
                f"{source}: weights of adaln and of token-concat have the same names and shapes: lay a config.json "
                'with {"model_arch": "adaln"} or {"model_arch": "token-concat"} beside them, or convert them with '
                "--config and a preset, such as dit_first_xl_2_adaln"
            )
        (width, channels, patch, _), (inner, _), (_, text), (outputs, _) = told
        return build(
            cls,
            source,
            patch_size=patch,
            in_channels=channels,
            text_embed_dim=text,
            hidden_size=width,
            depth=len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}),
            num_heads=HEADS[width],
            mlp_ratio=inner / width,
            learn_sigma=outputs == 2 * channels * patch**2,
        )

    def to_config(self) -> dict[str, Any]:
        """A config.json of upstream's arguments; upstream has none."""
        return self.config(
            architectures=["DiTFirst"],
            max_num_embeddings=self.max_num_embeddings,
            model_arch=self.model_arch,
            patch_size=self.patch_size,
            text_dropout_prob=self.text_dropout_prob,
            text_embed_dim=self.text_embed_dim,
        )

    def layout(self) -> Layout:
        """Every weight of the transformer, under upstream's names."""
        weights = WeightList()
        width = self.hidden_size
        self.patch_embedder(weights, "video_embedder.proj")
        if not self.attends_to_text:
            xavier(weights, "text_embedder.proj", width, self.text_embed_dim, Normal(0.02))
        self.timestep_embedder(weights)
        attended = self.text_embed_dim if self.attends_to_text else width
        for name in self.blocks():
            xavier(weights, f"{name}.attn.to_q", width, width)
            xavier(weights, f"{name}.attn.to_k", width, attended)
            xavier(weights, f"{name}.attn.to_v", width, attended)
            xavier(weights, f"{name}.attn.to_out.0", width, width)
            self.block(weights, name)
        self.last(weights)
        sizes = f"depth={self.depth}, heads={self.num_heads}x{self.head_dim}, patch={self.patch_size}"
        relative = "of model_arch = " + ("adaln or token-concat" if self.attends_to_text else "cross-attn")
        return Layout(f"DiT({self.model_arch}, {sizes})", weights, relatives={TELLS_WAY: relative})


@dataclass(frozen=True)
class TextAndPatches:
    """What a batch of B clips is given, checked."""

    text: np.ndarray
    """(B, L, E), or (B, E) of the whole text."""
    text_mask: np.ndarray | None
    """(B, L) booleans; None: all tokens count."""
    valid: np.ndarray | None
    """(B, N) booleans of patches; None: all count."""

    def tokens(self, num_patches: int, joined: bool) -> np.ndarray | None:
        """Which tokens count, (B, tokens) booleans; None: all. joined: the text's come first."""
        if not joined or (self.text_mask is None and self.valid is None):
            return self.valid
        batch, num_texts = self.text.shape[:2]
        of_text = np.ones((batch, num_texts), bool) if self.text_mask is None else self.text_mask
        of_patches = np.ones((batch, num_patches), bool) if self.valid is None else self.valid
        return np.concatenate([of_text, of_patches], 1)

    def padding(self, valid: np.ndarray | None, num_patches: int, attended: bool) -> np.ndarray | None:
        """Which tokens attend to nothing in particular, (B, tokens) booleans; None: none do.

        valid: of `tokens`. attended: the text is attended to, so where nothing of it counts no token does.
        """
        of_tokens = np.zeros((len(self.text), num_patches), bool) if valid is None else ~valid
        if attended and self.text_mask is not None:
            of_tokens = of_tokens | ~self.text_mask.any(1, keepdims=True)
        return of_tokens if of_tokens.any() else None


TELLS_WAY = "text_embedder.proj.weight"
"""Only models have it whose blocks do not attend to the text."""
_TELLING = (
    *("video_embedder.proj.weight", "blocks.0.mlp.fc1.weight", "blocks.0.attn.to_k.weight"),
    "final_layer.linear.weight",
)
"""Weights whose shapes tell what a model is."""


def _rows(name: str, values: np.ndarray, batch: int, shape: tuple[int, ...]) -> np.ndarray:
    """Values with a row for each of the batch. Raises: ShapeError when they do not fit."""
    if tuple(values.shape[1:]) != tuple(shape) or not len(values) or batch % len(values):
        raise ShapeError(f"DiT: {name}: got {sizes(values.shape)} for a batch of {sizes((batch, *shape))}")
    return np.tile(values, (batch // len(values), *[1] * len(shape)))


WIDTHS = {name: DiTFirstSpec(**size) for name, size in SIZES.items()}
TINY = DiTFirstSpec(hidden_size=96, depth=4, num_heads=4, text_embed_dim=64, max_num_embeddings=1024)
SHAPES = replace(TINY, in_channels=8, hidden_size=144, depth=6)
"""For the latents of the tiny autoencoder, of moving shapes."""
CHANNELS = {"": 3, "_vae": 4, "_vqvae": 256}
"""By the end of a preset's name: of pixels themselves, and of latents."""

PRESETS: Mapping[str, DiTFirstSpec] = {
    f"dit_first_{size}_{patch}_{way.replace('-', '_')}{behind}": replace(
        spec, patch_size=patch, model_arch=way, in_channels=channels
    )
    for behind, channels in CHANNELS.items()
    for size, spec in WIDTHS.items()
    for patch in ((2,) if behind else (2, 4, 8))
    for way in WAYS
} | {
    f"{name}{way.replace('-', '_')}": replace(spec, model_arch=way)
    for name, spec in (("dit_first_tiny_", TINY), ("tiny_first_", SHAPES))
    for way in WAYS
}
"""Of pixels themselves where the name does not end in the kind of an autoencoder."""

FAMILY = Family(
    kind="denoiser",
    title="DiT of the first release",
    class_names=("DiTFirst",),
    telling_keys=("model_arch",),
    spec=DiTFirstSpec,
    presets=PRESETS,
    from_shapes=DiTFirstSpec.from_shapes,
    untold=("model_arch",),
)
