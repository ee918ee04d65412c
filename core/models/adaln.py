"""What denoisers with plain adaLN blocks have in common: sizes, their config, how weights start.

Every block makes its own modulation of one vector, of the embedded timestep and what else bends it.
Source: Peebles and Xie 2022, arXiv:2212.09748.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

from ..errors import ConfigError
from ..layout import Normal, Weight, WeightList, Zeros
from ..shapes import LatentShape, TokenGrid
from .adaln_single import NUM_MODULATIONS, embedder, xavier
from .config_json import count, number, take
from .kinds import Costs, Output
from .work import Applied, Attention, Work

MOST_HEADS, MOST_WIDTH = 256, 65_536
SIZES: Mapping[str, Mapping[str, Any]] = {
    "s": {"hidden_size": 384, "depth": 12, "num_heads": 6},
    "b": {"hidden_size": 768, "depth": 12, "num_heads": 12},
    "l": {"hidden_size": 1024, "depth": 24, "num_heads": 16},
    "xl": {"hidden_size": 1152, "depth": 28, "num_heads": 16},
}
"""By their names in those of published models."""
HEADS = {size["hidden_size"]: size["num_heads"] for size in SIZES.values()}
"""By the width of the tokens: weights do not tell."""


@dataclass(frozen=True, kw_only=True)
class AdaLNSpec(ABC):
    """The fields are arguments of the constructors of upstream."""

    further_channels: ClassVar[int] = 0
    lists_patches: ClassVar[bool] = False
    has_signal: ClassVar[bool] = True
    most_tokens: ClassVar[int | None] = None

    in_channels: int = 4
    hidden_size: int = 1152
    """D, the width of the tokens."""
    depth: int = 28
    num_heads: int = 16
    mlp_ratio: float = 4.0
    learn_sigma: bool = True
    """Whether there are as many outputs again behind the prediction."""

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ConfigError(
                f"{self.title}: hidden_size = {self.hidden_size} makes no {self.num_heads} heads of one width"
            )
        if self.hidden_size % 4:
            raise ConfigError(
                f"{self.title}: hidden_size = {self.hidden_size}: needs a multiple of 4 for the positions"
            )
        if not self.feed_forward_size:
            raise ConfigError(
                f"{self.title}: mlp_ratio = {self.mlp_ratio:g}: hidden_size = {self.hidden_size} needs more"
            )

    @property
    def title(self) -> str:
        """The name of the class in messages."""
        return "DiT"

    @property
    @abstractmethod
    def kernel(self) -> tuple[int, ...]:
        """Sides of a patch along the axes that the patch embedder has."""

    @property
    def latent_channels(self) -> int:
        return self.in_channels

    @property
    def output(self) -> Output:
        return "mean_and_range" if self.learn_sigma else "mean"

    @property
    def out_channels(self) -> int:
        return self.in_channels * (2 if self.learn_sigma else 1)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def feed_forward_size(self) -> int:
        return int(self.hidden_size * self.mlp_ratio)

    @property
    def patch_outputs(self) -> int:
        """What a token predicts: out_channels for each of its latents."""
        return prod(self.kernel) * self.out_channels

    def blocks(self) -> tuple[str, ...]:
        """Names of all blocks in the order of the forward."""
        return tuple(f"blocks.{i}" for i in range(self.depth))

    def costs(self) -> Costs:
        """The sizes that memory and traffic follow from."""
        return Costs(self.depth, self.hidden_size, self.num_heads, self.patch_outputs)

    def work(self, latent: LatentShape, batch: int, text: int) -> Work:
        """Of a call for so many clips, with so many tokens of text each."""
        tokens = batch * self.num_joined(latent, text)
        applied = (
            Applied("x_embedder.", tokens),
            Applied("video_embedder.", tokens),
            Applied("embedding_table", 0),
            Applied("y_embedding", 0),
            Applied("y_embedder.", batch, once=True),
            *self.applied_to_text(batch, text),
            Applied("_embedder.", batch),
            Applied("adaLN_modulation", batch),
            Applied("", tokens),
        )
        return Work(applied, self.attention(latent, batch, text))

    def num_joined(self, latent: LatentShape, text: int) -> int:
        """Tokens of a clip in a block."""
        return self.grid(latent).num_tokens

    def applied_to_text(self, batch: int, text: int) -> tuple[Applied, ...]:
        """What is applied to texts of so many tokens, or to their vectors."""
        return ()

    def attention(self, latent: LatentShape, batch: int, text: int) -> tuple[Attention, ...]:
        """Of a call. Where nothing else is said: among all tokens of a clip."""
        tokens = self.num_joined(latent, text)
        return (Attention(batch, tokens, tokens, self.num_heads, self.head_dim, self.depth),)

    @abstractmethod
    def grid(self, latent: LatentShape) -> TokenGrid:
        """The tokens of latents."""

    def patch_embedder(self, weights: WeightList, name: str) -> None:
        """What makes the tokens."""
        kernel = (self.in_channels, *self.kernel)
        xavier(weights, name, self.hidden_size, prod(kernel))
        weights[f"{name}.weight"] = Weight((self.hidden_size, *kernel), weights[f"{name}.weight"].init)

    def timestep_embedder(self, weights: WeightList) -> None:
        embedder(weights, "t_embedder", self.hidden_size, Normal(0.02))

    def block(self, weights: WeightList, name: str) -> None:
        """All of a block but its attention; a fresh one adds nothing."""
        xavier(weights, f"{name}.mlp.fc1", self.feed_forward_size, self.hidden_size)
        xavier(weights, f"{name}.mlp.fc2", self.hidden_size, self.feed_forward_size)
        xavier(weights, f"{name}.adaLN_modulation.1", NUM_MODULATIONS * self.hidden_size, self.hidden_size, Zeros())

    def last(self, weights: WeightList) -> None:
        """The last layer, which predicts nothing in a fresh model."""
        xavier(weights, "final_layer.linear", self.patch_outputs, self.hidden_size, Zeros())
        xavier(weights, "final_layer.adaLN_modulation.1", 2 * self.hidden_size, self.hidden_size, Zeros())

    @classmethod
    def common_fields(cls, rest: dict[str, Any], source: str, most_channels: int, most_blocks: int) -> dict[str, Any]:
        """The fields above, taken from a config.json. Raises: ConfigError."""
        fresh = cls()
        return {
            "in_channels": count(rest, source, "in_channels", most_channels, fresh.in_channels),
            "hidden_size": count(rest, source, "hidden_size", MOST_WIDTH, fresh.hidden_size),
            "depth": count(rest, source, "depth", most_blocks, fresh.depth),
            "num_heads": count(rest, source, "num_heads", MOST_HEADS, fresh.num_heads),
            "mlp_ratio": number(rest, source, "mlp_ratio", 0.1, 64.0, fresh.mlp_ratio),
            "learn_sigma": take(rest, source, "learn_sigma", bool, fresh.learn_sigma),
        }

    def config(self, **own: Any) -> dict[str, Any]:
        """A config.json of them and of a family's own, in the order of the alphabet."""
        names = ("in_channels", "hidden_size", "depth", "num_heads", "mlp_ratio", "learn_sigma")
        return dict(sorted(({name: getattr(self, name) for name in names} | own).items()))
