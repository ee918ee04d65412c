"""PixArt: the spec, the layout and the presets of the denoisers of pictures that Open-Sora 1.0 to 1.2 carry.

All tokens of a clip look at each other and then at the text, under a modulation that all blocks share. PixArtMS adds
embedded sizes and ratios to the timestep; PixArt-Sigma may norm queries and keys, and compress keys and values.
Sources: Chen et al. 2023, arXiv:2310.00426; Chen et al. 2024, arXiv:2403.04692; opensora/models/pixart of hpcaitech
Open-Sora at v1.0.0 and v1.2.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isqrt, prod
from typing import Any, ClassVar

import numpy as np

from ..errors import ConfigError, ShapeError
from ..layout import Computed, Filled, Layout, Normal, Ones, Weight, WeightList, Zeros
from ..maths.embeddings import line_embedding, squared_embedding
from ..seam.models import Given
from ..shapes import LatentShape, TokenGrid
from .adaln_single import (
    MOST_DEPTH,
    NUM_MODULATIONS,
    AdaLNSingleSpec,
    SettledText,
    cross_attention,
    embedder,
    sizes,
    three_numbers,
    xavier,
)
from .config_json import build, choice, count, number, refuse_unknown, take, whole_number
from .kinds import Costs, Family
from .work import Attention

COMPRESSED_NORM_EPS = 1e-5
MOST_SIDE, MOST_FACTOR = 4096, 64
SPREAD = Normal(0.02)
"""Of what makes the modulation and of the captions' projection, in a fresh model."""
PUBLISHED_SIDE, PUBLISHED_HEAD_DIM = 64, 72
"""Latents of a side for which positions are not scaled, and the width of a head."""
SAMPLINGS = ("conv", "ave", "uniform", "uniform_every")
"""How keys and values become fewer: a learned mean of each square of tokens and a norm; the first token of each square,
under two names; every n-th token in their order."""


@dataclass(frozen=True)
class KVCompression:
    """In which blocks keys and values are fewer than queries."""

    sampling: str
    factor: int
    """Sides of the squares of tokens, or how many follow each other."""
    layers: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PixArtSpec(AdaLNSingleSpec):
    """What a PixArt is. Fields are the arguments of upstream's classes, and `reads_size` tells PixArtMS."""

    family: ClassVar[str] = "pixart"
    title: ClassVar[str] = "PixArt"

    input_size: tuple[int, int, int] = (1, 64, 64)
    """Latents along time, height and width that it was trained on: what positions are counted by."""
    model_max_length: int = 120
    no_temporal_pos_emb: bool = False
    freeze_text: bool = False
    """Training leaves the attention to the text as it is."""
    space_scale: float = 1.0
    """What positions within a frame are divided by."""
    time_scale: float = 1.0
    """What numbers of frames are divided by."""
    base_size: int = 0
    """Side in latents of the square on which positions within a frame are counted; 0: that of input_size."""
    qk_norm: bool = False
    kv_compression: KVCompression | None = None
    reads_size: bool = False
    """Whether sizes and ratios in pixels are added to the timestep, as PixArtMS does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reads_size and self.hidden_size % 3:
            raise ConfigError(f"PixArtMS: hidden_size = {self.hidden_size}: needs a multiple of 3 for height and width")
        if any(size < patch for size, patch in zip(self.input_size, self.patch_size, strict=True)):
            raise ConfigError(f"PixArt: input_size = {sizes(self.input_size)} holds no patch {sizes(self.patch_size)}")
        if not (self.kv_compression is None or isinstance(self.kv_compression, KVCompression)):
            raise ConfigError("PixArt: kv_compress_config: needs an object")

    @property
    def given(self) -> frozenset[str]:  # type: ignore[override]
        """Which of kinds.GIVEN it reads."""
        return frozenset({"text", "is_null", "kept", *(("height", "width", "ratio") if self.reads_size else ())})

    @property
    def trained_grid(self) -> TokenGrid:
        """The tokens of input_size."""
        return TokenGrid(*(size // patch for size, patch in zip(self.input_size, self.patch_size, strict=True)))

    @property
    def square(self) -> int:
        """Side in tokens of the square on which positions within a frame are counted."""
        _, height, width = self.trained_grid
        return self.base_size // self.patch_size[1] if self.base_size else int((height * width) ** 0.5)

    def compression(self, block: int) -> KVCompression | None:
        """How keys and values of a block become fewer; None: they do not."""
        held = self.kv_compression
        return held if held is not None and block in held.layers else None

    def grid(self, latent: LatentShape) -> TokenGrid:
        """As of all of them. Raises: ShapeError for frames too small for their keys to be compressed."""
        grid, held = super().grid(latent), self.kv_compression
        if held is not None and min(grid.height, grid.width) < held.factor:
            raise ShapeError(
                f"latents of {sizes(latent)}: PixArt compresses keys by {held.factor}, and needs as many tokens along "
                f"height and width, not {grid.height} x {grid.width}"
            )
        return grid

    def positions(self, grid: TokenGrid) -> tuple[np.ndarray, np.ndarray | None]:
        """What is added to tokens for their places, (H * W, D), and for their frames, (T, D) or None; float32."""
        places = squared_embedding(grid.height, grid.width, self.hidden_size, self.space_scale, self.square)
        frames = None if self.no_temporal_pos_emb else line_embedding(grid.frames, self.hidden_size, self.time_scale)
        return places, frames

    def settled(self, given: Given, latent: LatentShape) -> SettledSize:
        """What is given for latents of a shape, with a row for each text.

        Raises: ShapeError for what is missing or does not fit.
        """
        texts = self.settled_text(given, latent)
        return SettledSize(**vars(texts), size=self._size_of(given, len(texts.text)))

    def _size_of(self, given: Given, batch: int) -> np.ndarray | None:
        if not self.reads_size:
            return None
        size = [self.rows(name, getattr(given, name), batch) for name in ("height", "width", "ratio")]
        return np.stack(size, 1).astype(np.float32)

    def costs(self) -> Costs:
        """The sizes that memory and traffic follow from."""
        return Costs(self.depth, self.hidden_size, self.num_heads, self.patch_outputs)

    def self_attention(self, grid: TokenGrid, batch: int) -> tuple[Attention, ...]:
        """Among all tokens of a clip, in some blocks to fewer keys."""
        tokens = grid.num_tokens
        return tuple(
            Attention(batch, tokens, self._keys(i, tokens), self.num_heads, self.head_dim) for i in range(self.depth)
        )

    def _keys(self, block: int, tokens: int) -> int:
        held = self.compression(block)
        if held is None:
            return tokens
        return -(-tokens // (held.factor if held.sampling == "uniform_every" else held.factor**2))

    def facts(self) -> list[str]:
        """What `duosora inspect` says of it."""
        held = self.kv_compression
        fewer = "" if held is None else f", keys compressed by {held.factor} in {len(held.layers)} of them"
        return [
            f"{self.depth} blocks, {self.num_heads} heads of {self.head_dim}, patch {sizes(self.patch_size)}, "
            f"{self.in_channels} latent channels{fewer}",
            f"trained on latents of {sizes(self.input_size)}",
            "objective: not stored in the file; the published models predict the noise of a diffusion and the range of "
            "its variance",
        ]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str = "config.json") -> PixArtSpec:
        """Read a config.json of upstream's arguments. Raises ConfigError for unknown keys and impossible values."""
        rest, fresh = dict(config), cls()
        rest.pop("from_pretrained", None)
        choice(rest, source, "model_type", (cls.title,), cls.title)
        classes = config.get("architectures")
        switches = {name: take(rest, source, name, bool, getattr(fresh, name)) for name in _SWITCHES}
        spec = build(
            cls,
            source,
            **cls.common_fields(rest, source),
            **switches,
            input_size=three_numbers(rest, source, "input_size", MOST_SIDE, fresh.input_size),
            freeze_text=choice(rest, source, "freeze", (None, "text"), None) == "text",
            space_scale=number(rest, source, "space_scale", 1e-3, 1e3, fresh.space_scale),
            time_scale=number(rest, source, "time_scale", 1e-3, 1e3, fresh.time_scale),
            base_size=0 if rest.pop("base_size", None) is None else _base_size(config, source),
            kv_compression=_compression(rest.pop("kv_compress_config", None), source),
            reads_size=take(rest, source, "reads_size", bool, isinstance(classes, list) and "PixArtMS" in classes),
        )
        refuse_unknown(rest, source, tuple(spec.to_config()))
        return spec

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]], source: str) -> PixArtSpec | None:
        """What the shapes of its weights tell, all else as published; None where they are of another model.

        Positions are scaled as all published models have it, by what they were trained on. Models of pictures, which
        have no table of frames, do not tell tokens theirs. Raises: ConfigError for shapes that no such model has.
        """
        told = [shapes.get(name, ()) for name in _TELLING]
        if [*map(len, told)] != [5, 2, 2, 2, 2] or not all(map(all, told)) or "blocks.0.attn_temp.qkv.weight" in shapes:
            return None
        (width, channels, *patch), (tokens, caption), (inner, _), (outputs, _), _ = told
        side = isqrt(shapes.get("pos_embed", (1, (PUBLISHED_SIDE // patch[1]) ** 2, width))[1]) * patch[1]
        frames = shapes.get("pos_embed_temporal", (1, 1, width))[1]
        heads = shapes.get("blocks.0.attn.q_norm.weight") or (PUBLISHED_HEAD_DIM,)
        kernels = {int(name.split(".")[1]): shape for name, shape in shapes.items() if name.endswith(".attn.sr.weight")}
        return build(
            cls,
            source,
            input_size=(frames * patch[0], side, side),
            in_channels=channels,
            patch_size=tuple(patch),
            hidden_size=width,
            depth=len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}),
            num_heads=max(width // max(heads[0], 1), 1),
            mlp_ratio=inner / width,
            caption_channels=caption,
            model_max_length=tokens,
            pred_sigma=outputs == 2 * channels * prod(patch),
            no_temporal_pos_emb="pos_embed_temporal" not in shapes,
            space_scale=max(side / PUBLISHED_SIDE, 1.0),
            qk_norm="blocks.0.attn.q_norm.weight" in shapes,
            kv_compression=KVCompression("conv", min(kernels.values())[-1], tuple(sorted(kernels)))
            if kernels
            else None,
            reads_size="csize_embedder.mlp.0.weight" in shapes,
        )

    def to_config(self) -> dict[str, Any]:
        """A config.json of upstream's arguments; upstream has none."""
        held = self.kv_compression
        fewer = None
        if held is not None:
            fewer = {"sampling": held.sampling, "scale_factor": held.factor, "kv_compress_layer": list(held.layers)}
        return self.common_config() | {
            "architectures": ["PixArtMS" if self.reads_size else "PixArt"],
            "base_size": self.base_size or None,
            "freeze": "text" if self.freeze_text else None,
            "input_size": list(self.input_size),
            "kv_compress_config": fewer,
            "no_temporal_pos_emb": self.no_temporal_pos_emb,
            "qk_norm": self.qk_norm,
            "reads_size": self.reads_size,
            "space_scale": self.space_scale,
            "time_scale": self.time_scale,
        }

    def layout(self) -> Layout:
        """Every weight of the transformer, under upstream's names."""
        weights = WeightList()
        width, (frames, rows, columns) = self.hidden_size, self.trained_grid
        in_square = (rows, columns, width, self.space_scale, self.square)
        weights["pos_embed"] = Weight(
            (1, rows * columns, width), Computed((), squared_embedding, in_square), trained=False
        )
        in_line = (frames, width, self.time_scale)
        weights["pos_embed_temporal"] = Weight((1, frames, width), Computed((), line_embedding, in_line), trained=False)
        self.embedders(weights, SPREAD)
        for i, name in enumerate(self.blocks()):
            self._block(weights, name, self.compression(i))
        self.last(weights)
        for name in ("csize_embedder", "ar_embedder") if self.reads_size else ():
            embedder(weights, name, width // 3)
        title = f"PixArt{'MS' if self.reads_size else ''}(depth={self.depth}, heads={self.num_heads}x{self.head_dim})"
        frozen = tuple(f"{name}.cross_attn." for name in self.blocks()) if self.freeze_text else ()
        return Layout(title, weights, frozen=frozen)

    def _block(self, weights: WeightList, name: str, fewer: KVCompression | None) -> None:
        width = self.hidden_size
        weights[f"{name}.scale_shift_table"] = Weight((NUM_MODULATIONS, width), Normal(width**-0.5))
        xavier(weights, f"{name}.attn.qkv", 3 * width, width)
        if fewer is not None and fewer.sampling == "conv":
            mean = Filled(1 / fewer.factor**2)
            weights[f"{name}.attn.sr.weight"] = Weight((width, 1, fewer.factor, fewer.factor), mean)
            weights[f"{name}.attn.sr.bias"] = Weight((width,), Zeros())
            weights.norm(f"{name}.attn.norm", width)
        for part in ("q_norm", "k_norm") if self.qk_norm else ():
            weights[f"{name}.attn.{part}.weight"] = Weight((self.head_dim,), Ones())
        xavier(weights, f"{name}.attn.proj", width, width)
        cross_attention(weights, f"{name}.cross_attn", width, Zeros())
        xavier(weights, f"{name}.mlp.fc1", self.feed_forward_size, width)
        xavier(weights, f"{name}.mlp.fc2", width, self.feed_forward_size)


@dataclass(frozen=True, kw_only=True)
class SettledSize(SettledText):
    """What a batch of B clips is denoised under, checked."""

    size: np.ndarray | None
    """(B, 3) float32: height and width in pixels, and the one over the other; None: the model does not read them."""


_TELLING = (
    *("x_embedder.proj.weight", "y_embedder.y_embedding", "blocks.0.mlp.fc1.weight", "final_layer.linear.weight"),
    "blocks.0.cross_attn.kv_linear.weight",
)
"""Weights whose shapes tell what a model is."""
_SWITCHES = ("no_temporal_pos_emb", "qk_norm")


def _base_size(config: Mapping[str, Any], source: str) -> int:
    return whole_number(config["base_size"], source, "base_size", MOST_SIDE)


def _compression(held: Any, source: str) -> KVCompression | None:
    """kv_compress_config. None where it compresses nothing."""
    where = f"{source}: kv_compress_config"
    if held is None:
        return None
    if not isinstance(held, dict):
        raise ConfigError(f"{where}: needs an object of sampling, scale_factor and kv_compress_layer")
    rest = dict(held)
    sampling = choice(rest, where, "sampling", (None, *SAMPLINGS), None)
    factor = count(rest, where, "scale_factor", MOST_FACTOR, 1)
    layers = take(rest, where, "kv_compress_layer", list, [])
    numbers = tuple(whole_number(layer, where, "kv_compress_layer", MOST_DEPTH, least=0) for layer in layers)
    refuse_unknown(rest, where, ("sampling", "scale_factor", "kv_compress_layer"))
    return KVCompression(sampling, factor, numbers) if sampling and factor > 1 and numbers else None


XL_2 = PixArtSpec(no_temporal_pos_emb=True)
LARGE_2 = replace(XL_2, hidden_size=1872, num_heads=26, input_size=(1, 256, 256), space_scale=4.0)
MS_XL_2 = replace(XL_2, input_size=(1, 128, 128), space_scale=2.0, reads_size=True)
SIGMA_XL_2 = replace(XL_2, model_max_length=300)
TINY = PixArtSpec(input_size=(1, 8, 8), hidden_size=96, depth=3, num_heads=4, caption_channels=64, model_max_length=32)

PRESETS: Mapping[str, PixArtSpec] = {
    "pixart_xl_2": XL_2,
    "pixart_1b_2": LARGE_2,
    "pixart_ms_xl_2": MS_XL_2,
    "pixart_sigma_xl_2": SIGMA_XL_2,
    "pixart_tiny": TINY,
    "pixart_ms_tiny": replace(TINY, reads_size=True, qk_norm=True),
}

FAMILY = Family(
    kind="denoiser",
    title="PixArt",
    class_names=("PixArt", "PixArtMS", "PixArt_Sigma"),
    telling_keys=("kv_compress_config",),
    spec=PixArtSpec,
    presets=PRESETS,
    from_shapes=PixArtSpec.from_shapes,
)
