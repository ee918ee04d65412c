"""OpenSoraT2V v1.3: the spec, the layout and the presets of the text-to-video transformer and its inpaint sibling.

A DiT with adaLN-single, 3-D rotary positions, cross-attention to the text on the raw residual stream, and skiparse
attention: from layer 2 on, tokens attend inside every k-th-token sub-sequences (even layers) or runs of k tokens
(odd layers). The inpaint sibling (image-to-video, transition, continuation) adds two condition embeddings to the
tokens.
Source: arXiv:2412.00131 and opensora/models/diffusion/opensora_v1_3 of Open-Sora Plan at 9fa322f.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ..errors import ConfigError, ShapeError
from ..layout import Layout, Normal, Weight, WeightList, Zeros
from ..seam.models import Given
from ..shapes import LatentShape, Patch, TokenGrid
from .config_json import build, choice, count, number, refuse_unknown, take, whole_number
from .kinds import Costs, Family, Output
from .work import Applied, Attention, Work

TIMESTEP_CHANNELS = 256
NUM_MODULATIONS = 6
"""Shift, scale and gate of the attention, then of the feed-forward."""
FEED_FORWARD_FACTOR = 4
MOST_LAYERS, MOST_HEADS, MOST_CHANNELS, MOST_CAPTION_CHANNELS = 320, 256, 1024, 65_536
MOST_STEPS = 64
"""Of a patch, of skiparse, and of frames in a latent one."""
MOST_SIDE = 100_000
FIRST_SKIPARSE_LAYER, LAST_SKIPARSE_LAYER = 2, 29
"""Whatever the depth: the published 32-layer model keeps two full layers at each end."""


@dataclass(frozen=True, kw_only=True)
class OpenSoraT2VSpec:
    """What an OpenSoraT2V v1.3 is."""

    family: ClassVar[str] = "opensora_t2v"
    pooled_channels: ClassVar[int] = 0
    lists_patches: ClassVar[bool] = False
    has_signal: ClassVar[bool] = True

    num_layers: int
    num_attention_heads: int
    attention_head_dim: int
    in_channels: int
    out_channels: int
    caption_channels: int
    patch_size: int = 2
    patch_size_t: int = 1
    activation_fn: str = "gelu-approximate"
    """"gelu-approximate" (tanh), "gelu" (erf) or "geglu"."""
    attention_bias: bool = True
    norm_elementwise_affine: bool = False
    norm_eps: float = 1e-6
    interpolation_scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Rotary positions of time, height and width are divided by these."""
    sparse1d: bool = True
    """Whether the inner layers use skiparse attention."""
    sparse_n: int = 4
    """k of skiparse: each token attends to one k-th of the sequence."""
    mask_channels: int = 0
    """0 for text-to-video; for the inpaint sibling the frames folded into one latent frame of the mask (4)."""
    sample_size: LatentShape | None = None
    """The latent shape it was trained on, as far as the config tells."""
    rope_shares_tables: bool = False
    """Upstream's rotary cache forgets the scale: axes of equal length all use the first one's table. Matters only for
    models trained with unequal interpolation scales; see docs/architecture.md, quirk Q4."""

    def __post_init__(self) -> None:
        if self.attention_head_dim % 6:
            raise ConfigError(
                f"OpenSoraT2V: attention_head_dim = {self.attention_head_dim} is not a multiple of 6, "
                "as 3-D rotary positions need"
            )
        if self.patch_size_t != 1:
            # Upstream's patch embedding folds frames into the batch, so it cannot have been trained either.
            raise ConfigError(f"OpenSoraT2V: patch_size_t = {self.patch_size_t}: duosora implements 1")
        if self.sparse_n < 1:
            raise ConfigError(f"OpenSoraT2V: sparse_n = {self.sparse_n}: needs 1 or more")

    @property
    def hidden_size(self) -> int:
        """D, the width of the tokens."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def patch(self) -> Patch:
        return Patch(self.patch_size_t, self.patch_size)

    @property
    def is_inpaint(self) -> bool:
        return self.mask_channels > 0

    @property
    def latent_channels(self) -> int:
        return self.in_channels

    @property
    def further_channels(self) -> int:
        """Of the inpaint sibling: latents of the masked video, and the mask."""
        return self.in_channels + self.mask_channels if self.is_inpaint else 0

    @property
    def text_channels(self) -> int:
        return self.caption_channels

    @property
    def given(self) -> frozenset[str]:
        """Which of kinds.GIVEN it reads."""
        return frozenset(("text", "latent_mask", *(("channels",) if self.is_inpaint else ())))

    @property
    def output(self) -> Output:
        return "mean" if self.out_channels == self.in_channels else "mean_and_spare"

    @property
    def most_tokens(self) -> None:
        """Texts may have any number of tokens."""

    def states(self, given: Given) -> np.ndarray:
        """The states of the text that is given. Raises: ShapeError when there are none of this width."""
        if given.text is None or given.text.shape[-1] != self.caption_channels:
            held = "nothing" if given.text is None else f"states of {given.text.shape[-1]}"
            raise ShapeError(f"OpenSoraT2V: text: needs states of {self.caption_channels} channels, got {held}")
        return given.text

    def grid(self, latent: LatentShape) -> TokenGrid:
        """The tokens of latents. Raises: ShapeError when the patches do not tile them."""
        return self.patch.tokens(latent)

    def blocks(self) -> tuple[str, ...]:
        """Names of its blocks in their order."""
        return tuple(f"transformer_blocks.{i}" for i in range(self.num_layers))

    def costs(self) -> Costs:
        """The sizes that memory and traffic follow from."""
        outputs = self.patch_size_t * self.patch_size**2 * self.out_channels
        return Costs(self.num_layers, self.hidden_size, self.num_attention_heads, outputs)

    def work(self, latent: LatentShape, batch: int, text: int) -> Work:
        """Of a call for so many clips, with so many tokens of text each."""
        tokens, heads = self.grid(latent).num_tokens, (self.num_attention_heads, self.attention_head_dim)
        applied = (
            Applied("caption_projection.", batch * text, once=True),
            Applied(".attn2.to_k.", batch * text, once=True),
            Applied(".attn2.to_v.", batch * text, once=True),
            Applied("adaln_single.", batch),
            Applied("", batch * tokens),
        )
        num_sparse = sum(self.skiparse_kind(layer) is not None for layer in range(self.num_layers))
        parts = -(-tokens // self.sparse_n)
        attention = (
            Attention(batch, tokens, tokens, *heads, times=self.num_layers - num_sparse),
            Attention(batch * self.sparse_n, parts, parts, *heads, times=num_sparse),
            Attention(batch, tokens, text, *heads, times=self.num_layers),
        )
        return Work(applied, attention)

    @property
    def feed_forward_inputs(self) -> int:
        """Width of the first feed-forward projection; GEGLU computes a gate beside the values."""
        width = FEED_FORWARD_FACTOR * self.hidden_size
        return 2 * width if self.activation_fn == "geglu" else width

    def skiparse_kind(self, layer: int) -> str | None:
        """How tokens are grouped in a layer: None (full attention), "single" or "group"."""
        inner = FIRST_SKIPARSE_LAYER <= layer <= LAST_SKIPARSE_LAYER
        if not (self.sparse1d and inner and self.sparse_n > 1):
            return None
        return "group" if layer % 2 else "single"

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str = "config.json") -> OpenSoraT2VSpec:
        """Read upstream's config.json. Raises ConfigError for unknown keys and for impossible values."""
        rest = dict(config)
        for key in ("only_cross_attention", "double_self_attention", "upcast_attention"):
            choice(rest, source, key, (False,), False)
        choice(rest, source, "dropout", (0, 0.0), 0.0)
        rest.pop("skip_connection", None)  # accepted and ignored upstream, without effect on weights or results
        heads = count(rest, source, "num_attention_heads", MOST_HEADS)
        head_dim = count(rest, source, "attention_head_dim", MOST_CHANNELS)
        in_channels = count(rest, source, "in_channels", MOST_CHANNELS)
        choice(rest, source, "cross_attention_dim", (heads * head_dim,), heads * head_dim)
        if rest.get("out_channels", 0) is None:
            rest["out_channels"] = in_channels
        spec = build(
            cls,
            source,
            num_layers=count(rest, source, "num_layers", MOST_LAYERS),
            num_attention_heads=heads,
            attention_head_dim=head_dim,
            in_channels=in_channels,
            out_channels=count(rest, source, "out_channels", MOST_CHANNELS, in_channels),
            caption_channels=count(rest, source, "caption_channels", MOST_CAPTION_CHANNELS),
            patch_size=count(rest, source, "patch_size", MOST_STEPS),
            patch_size_t=count(rest, source, "patch_size_t", MOST_STEPS),
            activation_fn=choice(rest, source, "activation_fn", ("gelu-approximate", "gelu", "geglu")),
            attention_bias=take(rest, source, "attention_bias", bool),
            norm_elementwise_affine=take(rest, source, "norm_elementwise_affine", bool),
            norm_eps=number(rest, source, "norm_eps", 0.0, 1.0),
            interpolation_scale=tuple(
                number(rest, source, f"interpolation_scale_{axis}", 1e-3, 1e3, 1.0) for axis in "thw"
            ),
            sparse1d=take(rest, source, "sparse1d", bool),
            sparse_n=count(rest, source, "sparse_n", MOST_STEPS),
            mask_channels=_mask_channels(rest, source),
            sample_size=_sample_size(rest, source),
        )
        refuse_unknown(rest, source)
        return spec

    def to_config(self) -> dict[str, Any]:
        """Upstream's config.json for this spec."""
        scale_t, scale_h, scale_w = self.interpolation_scale
        config: dict[str, Any] = {
            "_class_name": "OpenSoraInpaint_v1_3" if self.is_inpaint else "OpenSoraT2V_v1_3",
            "activation_fn": self.activation_fn,
            "attention_bias": self.attention_bias,
            "attention_head_dim": self.attention_head_dim,
            "caption_channels": self.caption_channels,
            "cross_attention_dim": self.hidden_size,
            "double_self_attention": False,
            "dropout": 0.0,
            "in_channels": self.in_channels,
            "interpolation_scale_h": scale_h,
            "interpolation_scale_t": scale_t,
            "interpolation_scale_w": scale_w,
            "norm_elementwise_affine": self.norm_elementwise_affine,
            "norm_eps": self.norm_eps,
            "num_attention_heads": self.num_attention_heads,
            "num_layers": self.num_layers,
            "only_cross_attention": False,
            "out_channels": self.out_channels,
            "patch_size": self.patch_size,
            "patch_size_t": self.patch_size_t,
            "sparse1d": self.sparse1d,
            "sparse_n": self.sparse_n,
            "upcast_attention": False,
        }
        if self.sample_size:
            config["sample_size_t"] = self.sample_size.frames
            config["sample_size_h"] = config["sample_size_w"] = [self.sample_size.height, self.sample_size.width]
        if self.is_inpaint:
            config["vae_scale_factor_t"] = self.mask_channels
        return config

    def facts(self) -> list[str]:
        """What `duosora inspect` says of it."""
        sparse = f"skiparse k={self.sparse_n}" if self.sparse1d else "full attention"
        facts = [
            f"{self.num_layers} layers, {self.num_attention_heads} heads of {self.attention_head_dim}, {sparse}, "
            f"patch {self.patch_size_t}x{self.patch_size}x{self.patch_size}, {self.in_channels} latent channels",
            "objective: not stored in the file; the published v1.3 models predict v with zero terminal SNR",
        ]
        if self.sample_size:
            facts.append("trained on latents of {}x{}x{}".format(*self.sample_size))
        return facts

    def layout(self) -> Layout:
        """Every weight of the transformer, under upstream's names."""
        weights = WeightList()
        width = self.hidden_size
        patch = (self.patch_size, self.patch_size)
        weights["scale_shift_table"] = Weight((2, width), Normal(width**-0.5))
        weights.linear("caption_projection.linear_1", width, self.caption_channels)
        weights.linear("caption_projection.linear_2", width, width)
        weights.conv("pos_embed.proj", width, self.in_channels * self.patch_size_t, *patch)
        for i in range(self.num_layers):
            self._block(weights, f"transformer_blocks.{i}")
        outputs = self.patch_size_t * self.patch_size**2 * self.out_channels
        weights.linear("proj_out", outputs, width)
        weights.linear("adaln_single.emb.timestep_embedder.linear_1", width, TIMESTEP_CHANNELS)
        weights.linear("adaln_single.emb.timestep_embedder.linear_2", width, width)
        weights.linear("adaln_single.linear", NUM_MODULATIONS * width, width)
        if self.is_inpaint:
            for name, channels in (
                ("pos_embed_masked_hidden_states", self.in_channels),
                ("pos_embed_mask", self.mask_channels),
            ):
                weights.conv(f"{name}.0.proj", width, channels * self.patch_size_t, *patch)
                if channels == self.in_channels:
                    for part in ("weight", "bias"):
                        entry = weights[f"{name}.0.proj.{part}"]
                        weights[f"{name}.0.proj.{part}"] = replace(entry, grows_from=f"pos_embed.proj.{part}")
                # Zero, so that a model grown from a text-to-video one starts with the same outputs.
                weights[f"{name}.1.weight"] = Weight((width, width), Zeros())
        name = "OpenSoraInpaint" if self.is_inpaint else "OpenSoraT2V"
        heads = f"{self.num_attention_heads}x{self.attention_head_dim}"
        return Layout(f"{name}(num_layers={self.num_layers}, heads={heads})", weights)

    def _block(self, weights: WeightList, name: str) -> None:
        width = self.hidden_size
        weights[f"{name}.scale_shift_table"] = Weight((NUM_MODULATIONS, width), Normal(width**-0.5))
        if self.norm_elementwise_affine:
            weights.norm(f"{name}.norm1", width)
        for attention in ("attn1", "attn2"):
            for part in ("to_q", "to_k", "to_v"):
                weights.linear(f"{name}.{attention}.{part}", width, width, bias=self.attention_bias)
            weights.linear(f"{name}.{attention}.to_out.0", width, width)
        if self.norm_elementwise_affine:
            weights.norm(f"{name}.norm2", width)
        weights.linear(f"{name}.ff.net.0.proj", self.feed_forward_inputs, width)
        weights.linear(f"{name}.ff.net.2", width, FEED_FORWARD_FACTOR * width)


def _mask_channels(rest: dict[str, Any], source: str) -> int:
    if rest.get("_class_name") == "OpenSoraInpaint_v1_3" or "vae_scale_factor_t" in rest:
        return count(rest, source, "vae_scale_factor_t", MOST_STEPS, 4)
    return 0


def _sample_size(rest: dict[str, Any], source: str) -> LatentShape | None:
    """Upstream's trainer saves the pair [height, width] under both keys; older configs hold one number each."""
    frames, height, width = (rest.pop(f"sample_size_{axis}", None) for axis in "thw")
    if isinstance(height, list) and len(height) == 2:
        height, width = height
    sizes = {"t": frames, "h": height, "w": width}
    if None in sizes.values():
        return None
    return LatentShape(*(whole_number(size, source, f"sample_size_{axis}", MOST_SIDE) for axis, size in sizes.items()))


T2V_2B = OpenSoraT2VSpec(
    num_layers=32,
    num_attention_heads=24,
    attention_head_dim=96,
    in_channels=8,
    out_channels=8,
    caption_channels=4096,
)
INPAINT_2B = replace(T2V_2B, mask_channels=4)
TINY = OpenSoraT2VSpec(
    num_layers=6,
    num_attention_heads=3,
    attention_head_dim=48,
    in_channels=8,
    out_channels=8,
    caption_channels=64,
)
TINY_INPAINT = replace(TINY, mask_channels=4)

PRESETS: Mapping[str, OpenSoraT2VSpec] = {
    "opensora_plan_v1_3_t2v": T2V_2B,
    "opensora_plan_v1_3_inpaint": INPAINT_2B,
    "tiny": TINY,
    "tiny_inpaint": TINY_INPAINT,
}
FAMILY = Family(
    kind="denoiser",
    title="OpenSoraT2V v1.3",
    class_names=("OpenSoraT2V_v1_3", "OpenSoraInpaint_v1_3"),
    telling_keys=("sparse1d", "sparse_n"),
    spec=OpenSoraT2VSpec,
    presets=PRESETS,
)
