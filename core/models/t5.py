"""T5 encoder: the spec, the layout and the presets of mT5 and T5 v1.1, which are built alike.

RMS norms without bias, attention without scaling, one table of relative position biases shared by all layers, gated
GELU.
Source: Raffel et al. 2020 (arXiv:1910.10683), Xue et al. 2021 (arXiv:2010.11934); names as in transformers'
T5EncoderModel and MT5EncoderModel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..errors import ConfigError
from ..layout import Layout, Normal, Ones, Weight, WeightList
from .config_json import build, choice, count, number, take
from .kinds import Family
from .work import Applied, Attention, Work

ALIVE = 4.0
"""Work.alive of a call."""


@dataclass(frozen=True, kw_only=True)
class T5Spec:
    """What a T5 encoder is."""

    family: ClassVar[str] = "t5"

    vocab_size: int
    d_model: int
    d_kv: int
    """Width of one attention head."""
    d_ff: int
    num_layers: int
    num_heads: int
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    """Tokens farther apart than this share the last bucket."""
    layer_norm_epsilon: float = 1e-6
    pooled: bool = False
    """Whether a text gives one vector, the mean of the states of its tokens. A key of duosora's own."""

    def __post_init__(self) -> None:
        if self.relative_attention_max_distance <= self.relative_attention_num_buckets // 4:
            raise ConfigError(
                f"T5: relative_attention_max_distance = {self.relative_attention_max_distance}: must be more than a "
                f"quarter of relative_attention_num_buckets = {self.relative_attention_num_buckets}"
            )

    @property
    def inner_dim(self) -> int:
        """Width of all heads together; it differs from d_model in some models."""
        return self.num_heads * self.d_kv

    @property
    def most_tokens(self) -> None:
        """Places are told by distances, so any number will do."""

    @property
    def channels(self) -> int:
        """Of each token's state, and of their mean."""
        return self.d_model

    @property
    def token_table(self) -> str:
        """Name of the weight with a row for each token."""
        return "shared.weight"

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str = "config.json") -> T5Spec:
        """Read a transformers config.json of (m)T5; keys that do not touch the encoder are left alone.

        Raises: ConfigError for missing keys and for values that are impossible or not implemented.
        """
        rest = dict(config)
        model_type = choice(rest, source, "model_type", ("mt5", "t5"), "mt5")
        choice(rest, source, "feed_forward_proj", ("gated-gelu",), "gated-gelu" if model_type == "mt5" else "relu")
        return build(
            cls,
            source,
            vocab_size=count(rest, source, "vocab_size", 4_000_000),
            d_model=count(rest, source, "d_model", 65_536),
            d_kv=count(rest, source, "d_kv", 1024),
            d_ff=count(rest, source, "d_ff", 131_072),
            num_layers=count(rest, source, "num_layers", 320),
            num_heads=count(rest, source, "num_heads", 1024),
            relative_attention_num_buckets=count(rest, source, "relative_attention_num_buckets", 1024, 32, least=4),
            relative_attention_max_distance=count(rest, source, "relative_attention_max_distance", 65_536, 128),
            layer_norm_epsilon=number(rest, source, "layer_norm_epsilon", 0.0, 1.0, 1e-6),
            pooled=take(rest, source, "pooled", bool, False),
        )

    def to_config(self) -> dict[str, Any]:
        """A transformers config.json for this spec; T5 v1.1 is written as the mT5 that it equals."""
        return {
            "architectures": ["MT5EncoderModel"],
            "model_type": "mt5",
            "feed_forward_proj": "gated-gelu",
            "vocab_size": self.vocab_size,
            "d_model": self.d_model,
            "d_kv": self.d_kv,
            "d_ff": self.d_ff,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "relative_attention_num_buckets": self.relative_attention_num_buckets,
            "relative_attention_max_distance": self.relative_attention_max_distance,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            **({"pooled": True} if self.pooled else {}),
        }

    def facts(self) -> list[str]:
        """What `duosora inspect` says of it."""
        return [f"{self.num_layers} layers, {self.num_heads} heads of {self.d_kv}, vocabulary {self.vocab_size}"]

    def blocks(self) -> tuple[str, ...]:
        """Names of its blocks in their order."""
        return tuple(f"encoder.block.{i}" for i in range(self.num_layers))

    def work(self, batch: int, tokens: int) -> Work:
        """Of a call for so many texts of so many tokens."""
        applied = (Applied("shared.", 0), Applied("relative_attention_bias", 0), Applied("", batch * tokens))
        return Work(applied, (Attention(batch, tokens, tokens, self.num_heads, self.d_kv, self.num_layers),), ALIVE)

    def layout(self) -> Layout:
        """Every weight of the encoder, under transformers' names."""
        weights = WeightList()
        width, inner = self.d_model, self.inner_dim
        weights[self.token_table] = Weight((self.vocab_size, width), Normal(1.0))
        for i in range(self.num_layers):
            attention, feed_forward = f"encoder.block.{i}.layer.0", f"encoder.block.{i}.layer.1"
            for part, std in (("q", (width * self.d_kv) ** -0.5), ("k", width**-0.5), ("v", width**-0.5)):
                weights[f"{attention}.SelfAttention.{part}.weight"] = Weight((inner, width), Normal(std))
            weights[f"{attention}.SelfAttention.o.weight"] = Weight((width, inner), Normal(inner**-0.5))
            if i == 0:
                shape = (self.relative_attention_num_buckets, self.num_heads)
                table = f"{attention}.SelfAttention.relative_attention_bias.weight"
                weights[table] = Weight(shape, Normal(width**-0.5))
            weights[f"{attention}.layer_norm.weight"] = Weight((width,), Ones())
            for part in ("wi_0", "wi_1"):
                weights[f"{feed_forward}.DenseReluDense.{part}.weight"] = Weight(
                    (self.d_ff, width), Normal(width**-0.5)
                )
            weights[f"{feed_forward}.DenseReluDense.wo.weight"] = Weight((width, self.d_ff), Normal(self.d_ff**-0.5))
            weights[f"{feed_forward}.layer_norm.weight"] = Weight((width,), Ones())
        weights["encoder.final_layer_norm.weight"] = Weight((width,), Ones())
        return Layout(
            f"T5 encoder(d_model={width}, num_layers={self.num_layers})",
            weights,
            aliases={"encoder.embed_tokens.weight": self.token_table},
            ignores=("decoder.", "lm_head."),
        )


XXL = T5Spec(vocab_size=250112, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)
V1_1_XXL = T5Spec(vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)
TINY = T5Spec(vocab_size=160, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)
TINY_V1_2 = replace(TINY, vocab_size=192)

PRESETS: Mapping[str, T5Spec] = {"mt5_xxl": XXL, "t5_v1_1_xxl": V1_1_XXL, "tiny": TINY, "tiny_v1_2": TINY_V1_2}
FAMILY = Family(
    kind="text_encoder",
    title="T5 encoder",
    class_names=(
        *("MT5EncoderModel", "MT5ForConditionalGeneration", "MT5Model"),
        *("T5EncoderModel", "T5ForConditionalGeneration", "T5Model"),
    ),
    telling_keys=("d_kv", "relative_attention_num_buckets"),
    spec=T5Spec,
    presets=PRESETS,
)
