"""The autoencoder of pictures of Stable Diffusion and SDXL: by itself, frame by frame, or as a part of another one.

Levels of residual blocks that halve each side, with attention among all pixels in the middle. Videos are encoded and
decoded frame by frame, a few of them at a time, so memory does not grow with the clip.
Source: Rombach et al. 2022 (arXiv:2112.10752); names as in diffusers' AutoencoderKL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any, ClassVar, Self

from ..errors import ConfigError
from ..layout import Layout, WeightList
from ..maths.tiling import Chunk, temporal_chunks
from ..shapes import NUM_COLOURS, Grouped, LatentShape, VideoShape
from .config_json import build, choice, count, number, numbers, refuse_unknown, take, whole_number
from .kinds import DIGITS, Family, Share
from .work import Applied, Attention, Work

MOST_CHANNELS, MOST_LEVELS, MOST_BLOCKS = 4096, 8, 16
ALIVE = {"encoder": 2.2, "decoder": 1.5}
"""Work.alive of both halves."""
FRAMES_AT_A_TIME = 4
"""Of a video; the attention in the middle keeps the square of a frame's latents for each."""
DEFAULT_SCALE = 0.18215
"""Of Stable Diffusion 1 and 2."""
EPS = 1e-6
"""Of all its norms."""
FRESH_LOG_VARIANCE = -6.0
"""About that of a fresh model's latents. From the unit variance of a plain start, noise would drown them for long."""
OLDER_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""What older versions of diffusers, and with them most published files, call the parts of the attention."""
_DOWN, _UP = "DownEncoderBlock2D", "UpDecoderBlock2D"


@dataclass(frozen=True, kw_only=True)
class PictureVAESpec:
    """What the autoencoder of pictures is. Defaults are those of all published ones."""

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
    def take_from(cls, rest: dict[str, Any], source: str, **more: Any) -> Self:
        """Take the keys of diffusers' config.json. Raises: ConfigError for values that are impossible here.

        more: of a subclass, taken already.
        """
        default = PictureVAESpec()
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
            **more,
        )

    def to_config(self) -> dict[str, Any]:
        """The keys that differ from those of the published ones."""
        default = PictureVAESpec()
        fields: Mapping[str, Any] = {**vars(self), "block_out_channels": list(self.block_out_channels)}
        return {name: value for name, value in fields.items() if getattr(self, name) != getattr(default, name)}

    def write(self, weights: WeightList, prefix: str) -> None:
        """Add every weight to a list, under diffusers' names behind a prefix."""
        _Writer(self, weights, prefix).autoencoder()

    def half_work(self, half: str, frames: int, latent: LatentShape, at_a_time: int | None, prefix: str = "") -> Work:
        """Of one half, "encoder" or "decoder", for so many pictures that have such latents, some at a time."""
        last, area = len(self.block_out_channels) - 1, latent.height * latent.width
        together = min(at_a_time or frames, frames)

        def places(level: int) -> tuple[int, bool, int]:
            """At so many times the sides of latents as a power of 2."""
            return frames * area * 4**level, False, together * area * 4**level

        inner = f"{prefix}{half}."
        if half == "encoder":
            levels = [Applied(f"{inner}down_blocks.{i}.downsamplers.", *places(last - i - 1)) for i in range(last)]
            levels += [Applied(f"{inner}down_blocks.{i}.", *places(last - i)) for i in range(last + 1)]
            levels += [Applied(f"{inner}conv_in.", *places(last)), Applied(f"{prefix}quant_conv.", *places(0))]
        else:
            levels = [Applied(f"{inner}up_blocks.{i}.upsamplers.", *places(i + 1)) for i in range(last)]
            levels += [Applied(f"{inner}up_blocks.{i}.", *places(i)) for i in range(last + 1)]
            levels += [Applied(f"{inner}conv_out.", *places(last)), Applied(f"{prefix}post_quant_conv.", *places(0))]
        applied = (*levels, Applied(inner, *places(0)))
        return Work(applied, (Attention(frames, area, area, 1, self.block_out_channels[-1]),), ALIVE[half])

    def blocks_below(self, prefix: str) -> dict[str, tuple[str, ...]]:
        """Names of the blocks of both halves behind a prefix, in the order in which they work."""
        levels = range(len(self.block_out_channels))
        return {
            "encoder": (*(f"{prefix}encoder.down_blocks.{i}" for i in levels), f"{prefix}encoder.mid_block"),
            "decoder": (f"{prefix}decoder.mid_block", *(f"{prefix}decoder.up_blocks.{i}" for i in levels)),
        }


@dataclass(frozen=True, kw_only=True)
class SDVAESpec(PictureVAESpec):
    """What the autoencoder of videos, frame by frame, is: diffusers' AutoencoderKL."""

    family: ClassVar[str] = "sd_vae"

    scaling_factor: float = DEFAULT_SCALE
    """Of the latents that a denoiser sees."""
    latents_mean: tuple[float, ...] = ()
    """By channel, taken off before they are scaled; empty: zeros."""
    latents_std: tuple[float, ...] = ()
    """By channel, which the scaled latents are divided by; empty: ones."""
    input_range: float = 1.0
    """Of white as the network sees it, black being as much below zero: 0.5 in the first release of Open-Sora."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("latents_mean", "latents_std"):
            if len(getattr(self, name)) not in (0, self.latent_channels):
                raise ConfigError(f"{name}: needs {self.latent_channels} numbers, as many as latent_channels, or none")

    @property
    def compression(self) -> Grouped:
        """Frames know nothing of each other; pixels that fill no latent are lost at the right and the bottom."""
        return Grouped(1, 1, self.space)

    @property
    def scale(self) -> tuple[float, ...]:
        """By channel: a denoiser sees (latents - shift) * scale."""
        return tuple(self.scaling_factor / each for each in self.latents_std or (1.0,) * self.latent_channels)

    @property
    def shift(self) -> tuple[float, ...]:
        return self.latents_mean or (0.0,) * self.latent_channels

    def calibrated(self, mean: Sequence[float], deviation: Sequence[float]) -> SDVAESpec:
        """For latents of this mean and deviation, by channel."""
        means, deviations = (tuple(round(float(each), DIGITS) for each in values) for values in (mean, deviation))
        return replace(self, scaling_factor=1.0, latents_mean=means, latents_std=deviations)

    @property
    def posteriors(self) -> tuple[str, ...]:
        """What encoding draws."""
        return ("latent",)

    def noise_shapes(self, video: VideoShape) -> dict[str, tuple[int, ...]]:
        """Shapes (C, T, H, W) of the unit noise that it is drawn with. Raises: ShapeError."""
        return {"latent": (self.latent_channels, *self.compression.latent(video))}

    @property
    def streams_exactly(self) -> bool:
        """Whether chunks in time give the same numbers as one piece: frames know nothing of each other."""
        return True

    def chunks(self, latent_frames: int, wanted: int | None) -> list[Chunk]:
        """The pieces in which a clip is decoded: any."""
        return temporal_chunks(latent_frames, wanted)

    def pixel_chunks(self, wanted: int) -> Iterator[int]:
        """How many frames are encoded together, without end."""
        yield from repeat(wanted)

    def encoding(self, latent: LatentShape, batch: int) -> Work:
        """Of the encoder for so many clips that have such latents."""
        return self.half_work("encoder", batch * latent.frames, latent, FRAMES_AT_A_TIME)

    def decoding(self, latent: LatentShape, batch: int, behind: bool = False) -> Work:
        """Of the decoder, likewise."""
        return self.half_work("decoder", batch * latent.frames, latent, FRAMES_AT_A_TIME)

    def blocks(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the blocks of both halves, in the order in which they work."""
        return self.blocks_below("")

    @property
    def pairs(self) -> Mapping[str, Share]:
        """Training compares pixels alone."""
        return {}

    @property
    def num_codes(self) -> None:
        """It has no code book."""

    @property
    def last_layer(self) -> str:
        """Where the adversarial loss is weighed."""
        return "decoder.conv_out.weight"

    def unreached(self, pixels: bool, pairs: frozenset[str]) -> tuple[str, ...]:
        """Without a loss of pixels the decoder."""
        return () if pixels else ("decoder.", "post_quant_conv.")

    def facts(self) -> list[str]:
        """What `duosora inspect` says of it."""
        return [f"1x{self.space}x{self.space} compression, {self.latent_channels} latent channels, frame by frame"]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str = "config.json") -> SDVAESpec:
        """Read diffusers' config.json. Raises: ConfigError for unknown keys and for impossible values."""
        rest = dict(config)
        for key in ("use_quant_conv", "use_post_quant_conv", "mid_block_add_attention"):
            choice(rest, source, key, (True,), True)
        for key in ("shift_factor", "latents_mean", "latents_std"):
            if rest.get(key) is None:
                rest.pop(key, None)  # diffusers writes null
        choice(rest, source, "shift_factor", (0,), 0)
        spec = cls.take_from(
            rest,
            source,
            scaling_factor=number(rest, source, "scaling_factor", 1e-6, 1e6, DEFAULT_SCALE),
            latents_mean=numbers(rest, source, "latents_mean", -1e6, 1e6, []),
            latents_std=numbers(rest, source, "latents_std", 1e-6, 1e6, []),
            input_range=number(rest, source, "input_range", 1e-6, 1e6, 1.0),
        )
        refuse_unknown(rest, source)
        return spec

    def to_config(self) -> dict[str, Any]:
        """Diffusers' config.json for this spec."""
        levels = len(self.block_out_channels)
        seen = {} if self.input_range == 1 else {"input_range": self.input_range}
        measured = {name: list(getattr(self, name)) for name in ("latents_mean", "latents_std") if getattr(self, name)}
        return {
            "_class_name": "AutoencoderKL",
            "in_channels": NUM_COLOURS,
            "out_channels": NUM_COLOURS,
            "down_block_types": [_DOWN] * levels,
            "up_block_types": [_UP] * levels,
            "block_out_channels": list(self.block_out_channels),
            "layers_per_block": self.layers_per_block,
            "act_fn": "silu",
            "latent_channels": self.latent_channels,
            "norm_num_groups": self.norm_num_groups,
            "scaling_factor": self.scaling_factor,
            **measured,
            **seen,
        }

    def layout(self) -> Layout:
        """Every weight of the autoencoder, under diffusers' names."""
        weights = WeightList()
        self.write(weights, "")
        aliases = {
            f"{half}.mid_block.attentions.0.{old}.{kind}": f"{half}.mid_block.attentions.0.{new}.{kind}"
            for half in ("encoder", "decoder")
            for old, new in OLDER_NAMES.items()
            for kind in ("weight", "bias")
        }
        return Layout(f"SDVAE({self.block_out_channels[0]} channels)", weights, aliases)


@dataclass(frozen=True)
class _Writer:
    """Writes the modules into a weight list, in diffusers' order."""

    spec: PictureVAESpec
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


PRESETS: Mapping[str, SDVAESpec] = {
    "sd_vae": SDVAESpec(),
    "sd_vae_ft_mse": SDVAESpec(),
    "sd_vae_ft_ema": SDVAESpec(),
    "sd_vae_tiny": SDVAESpec(
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        latents_mean=(0.1, -0.2, 0.3, 0.0),
        latents_std=(1.5, 0.8, 1.1, 0.9),
    ),
}
FAMILY = Family(
    kind="vae",
    title="SDVAE",
    class_names=("AutoencoderKL",),
    telling_keys=("block_out_channels",),
    spec=SDVAESpec,
    presets=PRESETS,
)
