"""The autoencoder of pictures of Stable Diffusion and SDXL: spec and layout, by itself or as a part of another one.

Levels of residual blocks that halve each side, with attention among all pixels in the middle. A side that a halving
does not divide loses its last row or column.
Source: Rombach et al. 2022 (arXiv:2112.10752); names as in diffusers' AutoencoderKL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import ConfigError
from ..layout import Layout, WeightList
from ..shapes import NUM_COLOURS
from .config_json import build, choice, count, take, whole_number

MOST_CHANNELS, MOST_LEVELS, MOST_BLOCKS = 4096, 8, 16
EPS = 1e-6
"""Of all its norms."""
FRESH_LOG_VARIANCE = -6.0
"""About that of a fresh model's latents. From the unit variance of a plain start, noise would drown them for long."""
_DOWN, _UP = "DownEncoderBlock2D", "UpDecoderBlock2D"


@dataclass(frozen=True, kw_only=True)
class SDVAESpec:
    """What the autoencoder is. Defaults are those of all published ones."""

    family: ClassVar[str] = "sd_vae"

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    """Of each level; all but the last halve the sides."""
    layers_per_block: int = 2
    """Residual blocks of a level of the encoder; the decoder's have one more."""
    latent_channels: int = 4
    norm_num_groups: int = 32

    def __post_init__(self) -> None:
        for width in self.block_out_channels:
            if width % self.norm_num_groups:
                raise ConfigError(
                    f"block_out_channels: {width} is not a multiple of norm_num_groups = {self.norm_num_groups}"
                )

    @property
    def space(self) -> int:
        """Pixels along each side that a latent spans."""
        return int(2 ** (len(self.block_out_channels) - 1))

    @classmethod
    def take_from(cls, rest: dict[str, Any], source: str) -> SDVAESpec:
        """Take the keys of diffusers' config.json. Raises: ConfigError for values that are impossible here."""
        default = cls()
        given = take(rest, source, "block_out_channels", list, list(default.block_out_channels))
        if not 1 <= len(given) <= MOST_LEVELS:
            raise ConfigError(f"{source}: block_out_channels: needs 1 to {MOST_LEVELS} numbers, not {len(given)}")
        widths = tuple(whole_number(width, source, "block_out_channels", MOST_CHANNELS) for width in given)
        for key, block in (("down_block_types", _DOWN), ("up_block_types", _UP)):
            choice(rest, source, key, ([block] * len(widths),), [block] * len(widths))
        for key in ("in_channels", "out_channels"):
            choice(rest, source, key, (NUM_COLOURS,), NUM_COLOURS)
        choice(rest, source, "act_fn", ("silu",), "silu")
        for key in ("sample_size", "scaling_factor", "force_upcast"):
            rest.pop(key, None)  # which the weights do not depend on; latents are scaled by those who use them
        return build(
            cls,
            source,
            block_out_channels=widths,
            layers_per_block=count(rest, source, "layers_per_block", MOST_BLOCKS, default.layers_per_block),
            latent_channels=count(rest, source, "latent_channels", 512, default.latent_channels),
            norm_num_groups=count(rest, source, "norm_num_groups", MOST_CHANNELS, default.norm_num_groups),
        )

    def to_config(self) -> dict[str, Any]:
        """The keys that differ from those of the published ones."""
        default = SDVAESpec()
        fields: Mapping[str, Any] = {**vars(self), "block_out_channels": list(self.block_out_channels)}
        return {name: value for name, value in fields.items() if getattr(self, name) != getattr(default, name)}

    def layout(self) -> Layout:
        """Every weight of the autoencoder, under diffusers' names."""
        weights = WeightList()
        self.write(weights, "")
        return Layout(f"SDVAE({self.block_out_channels[0]} channels)", weights)

    def write(self, weights: WeightList, prefix: str) -> None:
        """Add every weight to a list, under diffusers' names behind a prefix."""
        _Writer(self, weights, prefix).autoencoder()

    def blocks(self, prefix: str = "") -> dict[str, tuple[str, ...]]:
        """Names of the blocks of both halves, in the order in which they work."""
        levels = range(len(self.block_out_channels))
        return {
            "encoder": (*(f"{prefix}encoder.down_blocks.{i}" for i in levels), f"{prefix}encoder.mid_block"),
            "decoder": (f"{prefix}decoder.mid_block", *(f"{prefix}decoder.up_blocks.{i}" for i in levels)),
        }


@dataclass(frozen=True)
class _Writer:
    """Writes the modules into a weight list, in diffusers' order."""

    spec: SDVAESpec
    weights: WeightList
    prefix: str

    def autoencoder(self) -> None:
        spec, widths = self.spec, self.spec.block_out_channels
        self.half("encoder", NUM_COLOURS, list(self.down()), 2 * spec.latent_channels, widths[0])
        self.half("decoder", spec.latent_channels, list(self.up()), NUM_COLOURS, widths[-1])
        self.conv("quant_conv", 2 * spec.latent_channels, 2 * spec.latent_channels, 1)
        self.weights.lower_half(f"{self.prefix}quant_conv.bias", FRESH_LOG_VARIANCE)
        self.conv("post_quant_conv", spec.latent_channels, spec.latent_channels, 1)

    def down(self) -> Iterator[tuple[str, int, int, int, str]]:
        """Levels of the encoder: name, inputs, outputs, residual blocks, what follows them."""
        widths = self.spec.block_out_channels
        for i, (inputs, outputs) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            after = "downsamplers" if i < len(widths) - 1 else ""
            yield f"down_blocks.{i}", inputs, outputs, self.spec.layers_per_block, after

    def up(self) -> Iterator[tuple[str, int, int, int, str]]:
        """Levels of the decoder, from the last width to the first."""
        widths = self.spec.block_out_channels[::-1]
        for i, (inputs, outputs) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            after = "upsamplers" if i < len(widths) - 1 else ""
            yield f"up_blocks.{i}", inputs, outputs, self.spec.layers_per_block + 1, after

    def half(
        self, half: str, inputs: int, levels: list[tuple[str, int, int, int, str]], outputs: int, first: int
    ) -> None:
        self.conv(f"{half}.conv_in", first, inputs)
        for name, before, width, num_blocks, after in levels:
            for j in range(num_blocks):
                self.resnet(f"{half}.{name}.resnets.{j}", before if j == 0 else width, width)
            if after:
                self.conv(f"{half}.{name}.{after}.0.conv", width, width)
        self.mid(f"{half}.mid_block", self.spec.block_out_channels[-1])
        self.norm(f"{half}.conv_norm_out", levels[-1][2])
        self.conv(f"{half}.conv_out", outputs, levels[-1][2])

    def mid(self, name: str, width: int) -> None:
        self.norm(f"{name}.attentions.0.group_norm", width)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            self.weights.linear(f"{self.prefix}{name}.attentions.0.{part}", width, width)
        for j in range(2):
            self.resnet(f"{name}.resnets.{j}", width, width)

    def resnet(self, name: str, inputs: int, outputs: int) -> None:
        self.norm(f"{name}.norm1", inputs)
        self.conv(f"{name}.conv1", outputs, inputs)
        self.norm(f"{name}.norm2", outputs)
        self.conv(f"{name}.conv2", outputs, outputs)
        if inputs != outputs:
            self.conv(f"{name}.conv_shortcut", outputs, inputs, 1)

    def conv(self, name: str, outputs: int, inputs: int, kernel: int = 3) -> None:
        self.weights.conv(f"{self.prefix}{name}", outputs, inputs, kernel, kernel)

    def norm(self, name: str, channels: int) -> None:
        self.weights.norm(f"{self.prefix}{name}", channels)
