"""CLIP's text encoder: the spec, the layout and the presets of OpenAI's models and of OpenCLIP's largest.

Norms before attention and feed-forward, learned positions, a causal mask. A spec tells whether its user wants the
states of all tokens or one vector of a text: the state of its first end token, projected where the file has a
projection.
Source: Radford et al. 2021 (arXiv:2103.00020); names as in transformers' CLIPTextModel and
CLIPTextModelWithProjection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..errors import ConfigError
from ..layout import Layout, Normal, Ones, Weight, WeightList, Zeros
from .config_json import build, choice, count, number, take
from .kinds import Family
from .work import Applied, Attention, Work

ACTIVATIONS = ("quick_gelu", "gelu")
"""x * sigmoid(1.702 x), as OpenAI trained; the exact one, as OpenCLIP did."""
LARGEST_ID = 2
"""As eos_token_id: the end token is where the largest id is. Configs that were published before transformers looked for
the id have this number, whatever their end token is."""
ALIVE = 3.8
"""Work.alive of a call."""
HEAD_DIM = 64
"""Of all published models."""
_PROJECTING = "CLIPTextModelWithProjection"
_PROJECTION = "text_projection."
_OF_PICTURES = ("vision_model.", "visual_projection.", "logit_scale")
_POSITION_IDS = "text_model.embeddings.position_ids"


@dataclass(frozen=True, kw_only=True)
class ClipTextSpec:
    """What a CLIP text encoder is."""

    family: ClassVar[str] = "clip_text"

    vocab_size: int = 49408
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    """One of ACTIVATIONS."""
    layer_norm_eps: float = 1e-5
    eos_token_id: int = 49407
    """Whose first place in a text the pooled state is taken from; LARGEST_ID stands for the largest id of the text."""
    pooled: bool = False
    """Whether a text gives one vector instead of a state for each token."""
    projection_dim: int = 0
    """Width of that vector after its projection; 0: there is none."""

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"CLIP text encoder: hidden_size = {self.hidden_size}: needs a multiple of "
                f"num_attention_heads = {self.num_attention_heads}"
            )
        if self.projection_dim and not self.pooled:
            raise ConfigError("CLIP text encoder: pooled = False: only the vector of a text is projected")

    @property
    def most_tokens(self) -> int:
        """There are so many positions."""
        return self.max_position_embeddings

    @property
    def channels(self) -> int:
        """Of each token's state, or of the one vector of a text."""
        return self.projection_dim or self.hidden_size

    @property
    def token_table(self) -> str:
        """Name of the weight with a row for each token."""
        return "text_model.embeddings.token_embedding.weight"

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str = "config.json") -> ClipTextSpec:
        """Read a transformers config.json of CLIP's text encoder, or of the whole CLIP; other keys are left alone.

        `pooled` is a key of duosora's own; a model with a projection is pooled. Raises: ConfigError for missing keys
        and for values that are impossible or not implemented.
        """
        rest = _of_texts(config, source)
        names = config.get("architectures")
        projects = isinstance(names, list) and _PROJECTING in names
        return build(
            cls,
            source,
            vocab_size=count(rest, source, "vocab_size", 4_000_000, 49408),
            hidden_size=count(rest, source, "hidden_size", 65_536, 512),
            intermediate_size=count(rest, source, "intermediate_size", 131_072, 2048),
            num_hidden_layers=count(rest, source, "num_hidden_layers", 320, 12),
            num_attention_heads=count(rest, source, "num_attention_heads", 1024, 8),
            max_position_embeddings=count(rest, source, "max_position_embeddings", 65_536, 77),
            hidden_act=choice(rest, source, "hidden_act", ACTIVATIONS, "quick_gelu"),
            layer_norm_eps=number(rest, source, "layer_norm_eps", 0.0, 1.0, 1e-5),
            eos_token_id=count(rest, source, "eos_token_id", 4_000_000, 49407, least=0),
            pooled=take(rest, source, "pooled", bool, projects),
            # The configs of models without a projection tell its width too.
            projection_dim=count(rest, source, "projection_dim", 65_536, 512) if projects else 0,
        )

    def to_config(self) -> dict[str, Any]:
        """A transformers config.json for this spec."""
        return {
            "architectures": [_PROJECTING if self.projection_dim else "CLIPTextModel"],
            "model_type": "clip_text_model",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "max_position_embeddings": self.max_position_embeddings,
            "hidden_act": self.hidden_act,
            "layer_norm_eps": self.layer_norm_eps,
            "eos_token_id": self.eos_token_id,
            "pooled": self.pooled,
            "projection_dim": self.projection_dim or self.hidden_size,
        }

    def facts(self) -> list[str]:
        """What `duosora inspect` says of it."""
        gives = f"one vector of {self.channels} for a text" if self.pooled else f"states of {self.channels}"
        size = f"{self.num_hidden_layers} layers, {self.num_attention_heads} heads, vocabulary {self.vocab_size}"
        return [f"{size}, at most {self.max_position_embeddings} tokens", gives]

    def blocks(self) -> tuple[str, ...]:
        """Names of its blocks in their order."""
        return tuple(f"text_model.encoder.layers.{i}" for i in range(self.num_hidden_layers))

    def work(self, batch: int, tokens: int) -> Work:
        """Of a call for so many texts of so many tokens."""
        applied = (Applied(".embeddings.", 0), Applied(_PROJECTION, batch), Applied("", batch * tokens))
        heads, head_dim = self.num_attention_heads, self.hidden_size // self.num_attention_heads
        return Work(applied, (Attention(batch, tokens, tokens, heads, head_dim, self.num_hidden_layers),), ALIVE)

    def layout(self) -> Layout:
        """Every weight of the encoder, under transformers' names."""
        weights = WeightList()
        width, wide = self.hidden_size, self.intermediate_size
        weights[self.token_table] = Weight((self.vocab_size, width), Normal(0.02))
        positions = Weight((self.max_position_embeddings, width), Normal(0.02))
        weights["text_model.embeddings.position_embedding.weight"] = positions
        for block in self.blocks():
            for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
                _linear(weights, f"{block}.self_attn.{part}", width, width, width**-0.5)
            _norm(weights, f"{block}.layer_norm1", width)
            _linear(weights, f"{block}.mlp.fc1", width, wide, (2 * width) ** -0.5)
            _linear(weights, f"{block}.mlp.fc2", wide, width, width**-0.5)
            _norm(weights, f"{block}.layer_norm2", width)
        _norm(weights, "text_model.final_layer_norm", width)
        if self.projection_dim:
            weights[f"{_PROJECTION}weight"] = Weight((self.projection_dim, width), Normal(width**-0.5))
        return Layout(
            f"CLIP text encoder(hidden_size={width}, num_hidden_layers={self.num_hidden_layers})",
            weights,
            ignores=(_POSITION_IDS, *_OF_PICTURES, *(() if self.projection_dim else (_PROJECTION,))),
        )


def from_shapes(shapes: Mapping[str, tuple[int, ...]], source: str) -> ClipTextSpec | None:
    """The spec of weights without a config.json; None for those of another family.

    The end token is the last of the vocabulary, and heads are as wide as in all published models. Whether there is a
    projection is told by its own class alone, as whole CLIPs have one too. Raises: ConfigError for an impossible width.
    """
    tokens = shapes.get("text_model.embeddings.token_embedding.weight", ())
    positions = shapes.get("text_model.embeddings.position_embedding.weight", ())
    wide = shapes.get("text_model.encoder.layers.0.mlp.fc1.weight", ())
    if not len(tokens) == len(positions) == len(wide) == 2:
        return None
    layers = sum(name.startswith("text_model.encoder.layers.") and name.endswith(".fc1.weight") for name in shapes)
    return build(
        ClipTextSpec,
        source,
        vocab_size=tokens[0],
        hidden_size=tokens[1],
        intermediate_size=wide[0],
        num_hidden_layers=layers,
        num_attention_heads=max(1, tokens[1] // HEAD_DIM),
        max_position_embeddings=positions[0],
        eos_token_id=tokens[0] - 1,
    )


def _of_texts(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The keys of the text encoder: where the config is that of the whole CLIP, those that are inside of it."""
    if "text_config" not in config and "text_config_dict" not in config:
        return dict(config)
    rest: dict[str, Any] = {}
    for key in ("text_config", "text_config_dict"):  # what both say, transformers takes from the second
        if config.get(key) is not None:
            rest |= take(dict(config), source, key, dict)
    return rest


def _linear(weights: WeightList, name: str, inputs: int, outputs: int, std: float) -> None:
    weights[f"{name}.weight"] = Weight((outputs, inputs), Normal(std))
    weights[f"{name}.bias"] = Weight((outputs,), Zeros())


def _norm(weights: WeightList, name: str, width: int) -> None:
    weights[f"{name}.weight"] = Weight((width,), Ones())
    weights[f"{name}.bias"] = Weight((width,), Zeros())


VIT_B_32 = ClipTextSpec(hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8)
VIT_L_14 = ClipTextSpec(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
VIT_BIGG_14 = ClipTextSpec(
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=20,
    hidden_act="gelu",
    pooled=True,
    projection_dim=1280,
)
TINY = ClipTextSpec(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=32,
    eos_token_id=7,
    pooled=True,
)

PRESETS: Mapping[str, ClipTextSpec] = {
    "clip_vit_b_32": VIT_B_32,
    "clip_vit_b_32_pooled": replace(VIT_B_32, pooled=True),
    "clip_vit_l_14": VIT_L_14,
    "clip_vit_l_14_pooled": replace(VIT_L_14, pooled=True),
    "clip_vit_bigg_14": VIT_BIGG_14,
    "clip_tiny": TINY,
}
FAMILY = Family(
    kind="text_encoder",
    title="CLIP text encoder",
    class_names=("CLIPTextModel", _PROJECTING, "CLIPModel"),
    telling_keys=("max_position_embeddings", "text_config", "text_config_dict"),
    spec=ClipTextSpec,
    presets=PRESETS,
    from_shapes=from_shapes,
)
