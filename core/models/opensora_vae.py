"""OpenSoraVAE 1.2: the spec, the layout and the presets of the video autoencoder of hpcaitech Open-Sora 1.2.

SDXL's autoencoder makes latents of each frame, a causal temporal one makes latents of those, in groups of 17 frames
that know nothing of each other. Both are Gaussian, and both are drawn from, also when sampling (quirk Q5).
Source: opensora/models/vae of hpcaitech Open-Sora at v1.2.0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any, ClassVar

from ..errors import ConfigError
from ..layout import Constant, Layout, Weight, WeightList
from ..maths.tiling import Chunk, temporal_chunks
from ..shapes import Grouped, LatentShape, VideoShape
from .config_json import build, choice, count, number, numbers, refuse_unknown, take, whole_number
from .kinds import DIGITS, Family, Share
from .sd_vae import FRESH_LOG_VARIANCE, PictureVAESpec
from .work import Applied, Work

ALIVE = {"encoder": 2.2, "decoder": 1.6}
"""Work.alive of both halves."""
SPATIAL_FACTOR = 0.18215
"""Latents of frames times this are what the temporal autoencoder sees: that of SD 1, though the frames' is SDXL's."""
MOST_CHANNELS, MOST_LEVELS, MOST_BLOCKS, MOST_FRAMES = 4096, 8, 16, 10_000
SHIFT, SPREAD = (-0.10, 0.34, 0.27, 0.98), (3.85, 2.32, 2.33, 3.06)
"""Mean and deviation of the published model's latents, by channel."""
TEMPORAL_EPS = 1e-5
"""Of the temporal autoencoder's norms."""
_IN_ONE_PIECE = "chunk = {}: this autoencoder (micro_frame_size = null) takes a clip in one piece; leave chunk out"
_SPATIAL, _TEMPORAL = "spatial_vae.module", "temporal_vae"
_SDXL = {"from_pretrained": "PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers", "subfolder": "vae"}
"""From where upstream loads the frames' autoencoder before its own weights."""


@dataclass(frozen=True, kw_only=True)
class TemporalVAESpec:
    """What the temporal autoencoder is. Defaults are those of the published one."""

    channels: int = 4
    """Of the frames' latents that it reads."""
    latent_channels: int = 4
    """Of its own latents."""
    hidden_channels: int = 4
    """Between the last convolution of the encoder and that of the moments, and on the way back."""
    filters: int = 128
    num_res_blocks: int = 4
    """Of a level, and between the levels and the latents."""
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 4)
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    """Whether the frames are halved behind each level but the last."""
    num_groups: int = 32

    def __post_init__(self) -> None:
        if len(self.temporal_downsample) != len(self.channel_multipliers) - 1:
            raise ConfigError(
                f"temporal_downsample: needs {len(self.channel_multipliers) - 1} entries, one less than "
                f"channel_multipliers, not {len(self.temporal_downsample)}"
            )
        if self.filters % self.num_groups:
            raise ConfigError(f"filters = {self.filters}: needs a multiple of num_groups = {self.num_groups}")

    @property
    def time(self) -> int:
        """Frames that a latent spans."""
        return int(2 ** sum(self.temporal_downsample))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.filters * multiplier for multiplier in self.channel_multipliers)

    @classmethod
    def take_from(cls, rest: dict[str, Any], source: str) -> TemporalVAESpec:
        """Take upstream's keys. Raises: ConfigError for values that are impossible here."""
        default = cls()
        multipliers = take(rest, source, "channel_multipliers", list, list(default.channel_multipliers))
        halved = take(rest, source, "temporal_downsample", list, list(default.temporal_downsample))
        if not 1 <= len(multipliers) <= MOST_LEVELS or not all(isinstance(each, bool) for each in halved):
            raise ConfigError(
                f"{source}: needs 1 to {MOST_LEVELS} channel_multipliers and temporal_downsample of true or false"
            )
        choice(rest, source, "activation_fn", ("swish",), "swish")
        return build(
            cls,
            source,
            channels=count(rest, source, "in_out_channels", 512, default.channels),
            latent_channels=count(rest, source, "embed_dim", 512, default.latent_channels),
            hidden_channels=count(rest, source, "latent_embed_dim", 512, default.hidden_channels),
            filters=count(rest, source, "filters", MOST_CHANNELS, default.filters),
            num_res_blocks=count(rest, source, "num_res_blocks", MOST_BLOCKS, default.num_res_blocks),
            channel_multipliers=tuple(whole_number(each, source, "channel_multipliers", 64) for each in multipliers),
            temporal_downsample=tuple(halved),
            num_groups=count(rest, source, "num_groups", MOST_CHANNELS, default.num_groups),
        )

    def to_config(self) -> dict[str, Any]:
        """Upstream's keys that differ from those of the published model."""
        default = TemporalVAESpec()
        keys = {"channels": "in_out_channels", "latent_channels": "embed_dim", "hidden_channels": "latent_embed_dim"}
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return {
            keys.get(name, name): value
            for name, value in values.items()
            if getattr(self, name) != getattr(default, name)
        }


@dataclass(frozen=True, kw_only=True)
class OpenSoraVAESpec:
    """What an OpenSoraVAE is."""

    family: ClassVar[str] = "opensora_vae"

    spatial: PictureVAESpec = field(default_factory=PictureVAESpec)
    temporal: TemporalVAESpec = field(default_factory=TemporalVAESpec)
    micro_frame_size: int | None = 17
    """Frames of a group; None: a clip is one group."""
    micro_batch_size: int | None = 4
    """Frames that the spatial autoencoder works on at a time, which changes memory alone; None: all."""
    mean: tuple[float, ...] = SHIFT
    """Of the latents, by channel or one for all; config.json and the weights call it shift."""
    spread: tuple[float, ...] = SPREAD
    """Standard deviation of the latents; config.json and the weights call it scale."""

    def __post_init__(self) -> None:
        if self.spatial.latent_channels != self.temporal.channels:
            raise ConfigError(
                f"OpenSoraVAE: vae_2d.latent_channels = {self.spatial.latent_channels} is not "
                f"vae_temporal.in_out_channels = {self.temporal.channels}"
            )
        if {len(self.mean), len(self.spread)} - {1, self.latent_channels}:
            raise ConfigError(
                f"OpenSoraVAE: shift and scale need one number or {self.latent_channels} each, "
                f"not {len(self.mean)} and {len(self.spread)}"
            )

    @property
    def latent_channels(self) -> int:
        return self.temporal.latent_channels

    @property
    def compression(self) -> Grouped:
        return Grouped(self.micro_frame_size, self.temporal.time, self.spatial.space)

    @property
    def shift(self) -> tuple[float, ...]:
        """By channel: a denoiser sees (latents - shift) * scale."""
        return self.mean * (self.latent_channels // len(self.mean))

    @property
    def scale(self) -> tuple[float, ...]:
        return tuple(1 / spread for spread in self.spread) * (self.latent_channels // len(self.spread))

    def calibrated(self, mean: Sequence[float], deviation: Sequence[float]) -> OpenSoraVAESpec:
        """For latents of this mean and deviation, by channel."""
        rounded = [tuple(round(float(each), DIGITS) for each in values) for values in (mean, deviation)]
        return replace(self, mean=rounded[0], spread=rounded[1])

    @property
    def posteriors(self) -> tuple[str, ...]:
        """What encoding draws, in its order."""
        return ("spatial", "temporal")

    def noise_shapes(self, video: VideoShape) -> dict[str, tuple[int, ...]]:
        """Shapes (C, T, H, W) of the unit noise that both are drawn with. Raises: ShapeError."""
        latent = self.compression.latent(video)
        return {
            "spatial": (self.spatial.latent_channels, video.frames, latent.height, latent.width),
            "temporal": (self.latent_channels, *latent),
        }

    @property
    def streams_exactly(self) -> bool:
        """Whether chunks of any length give the numbers of one piece: only whole groups do."""
        return False

    def chunks(self, latent_frames: int, wanted: int | None) -> list[Chunk]:
        """The pieces in which a clip is decoded: as many whole groups as `wanted` holds, None: one.

        Raises: ConfigError when it holds none.
        """
        if self.micro_frame_size is None:
            if wanted is not None and wanted < latent_frames:
                raise ConfigError(_IN_ONE_PIECE.format(wanted))
            return temporal_chunks(latent_frames, None)
        groups = 1 if wanted is None else self._groups_in(wanted)
        return temporal_chunks(latent_frames, groups * self.compression.latent_frames)

    def pixel_chunks(self, wanted: int) -> Iterator[int]:
        """How many frames are encoded together, without end. Raises: as `chunks`."""
        size = self.micro_frame_size
        if size is None:
            raise ConfigError(_IN_ONE_PIECE.format(wanted))
        yield from repeat(self._groups_in(wanted) * size)

    def _groups_in(self, wanted: int) -> int:
        groups = wanted // self.compression.latent_frames
        if not groups:
            size = self.compression.latent_frames
            raise ConfigError(f"chunk = {wanted}: this autoencoder works in groups of {size} latent frames or more")
        return groups

    def encoding(self, latent: LatentShape, batch: int) -> Work:
        """Of the encoder for so many clips that have such latents."""
        return self._half_work("encoder", latent, batch)

    def decoding(self, latent: LatentShape, batch: int, behind: bool = False) -> Work:
        """Of the decoder, likewise."""
        return self._half_work("decoder", latent, batch)

    def _half_work(self, half: str, latent: LatentShape, batch: int) -> Work:
        """Of one half of both autoencoders: frames by pictures, their latents by groups."""
        temporal, frames = self.temporal, self.compression.video(latent).frames
        spatial = self.spatial.half_work(half, batch * frames, latent, self.micro_batch_size, f"{_SPATIAL}.")
        area, size = batch * latent.height * latent.width, self.micro_frame_size
        in_group = -(-size // temporal.time) if size else latent.frames

        def places(halvings: int) -> tuple[int, bool, int, int]:
            """At so many frames of latents as a power of 2."""
            count = latent.frames * 2**halvings
            return count * area, False, min(in_group, latent.frames) * 2**halvings * area, count

        halved = temporal.temporal_downsample
        left = [sum(halved[i:]) for i in range(len(halved) + 1)]  # halvings behind each level
        inner = f"{_TEMPORAL}.{half}."
        levels = [Applied(f"{inner}block_res_blocks.{i}.", *places(each)) for i, each in enumerate(left)]
        if half == "encoder":
            levels += [Applied(f"{inner}conv_blocks.{i}.", *places(left[i + 1])) for i in range(len(halved))]
            ends = [Applied(f"{inner}conv_in.", *places(left[0])), Applied(f"{_TEMPORAL}.quant_conv.", *places(0))]
        else:
            levels += [Applied(f"{inner}conv_blocks.{i}.", *places(left[i + 1])) for i in range(len(halved))]
            ends = [Applied(f"{inner}conv_out.", *places(left[0])), Applied(f"{_TEMPORAL}.post_quant", *places(0))]
        return Work((*levels, *ends, Applied(inner, *places(0)), *spatial.applied), spatial.attention, ALIVE[half])

    def blocks(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the blocks of both halves, in the order in which they work."""
        spatial, levels = self.spatial.blocks_below(f"{_SPATIAL}."), range(len(self.temporal.widths))
        encoder = [name for i in levels for name in self._resnets(f"encoder.block_res_blocks.{i}")]
        decoder = [name for i in reversed(levels) for name in self._resnets(f"decoder.block_res_blocks.{i}")]
        return {
            "encoder": (*spatial["encoder"], *encoder, *self._resnets("encoder.res_blocks")),
            "decoder": (*self._resnets("decoder.res_blocks"), *decoder, *spatial["decoder"]),
        }

    @property
    def pairs(self) -> Mapping[str, Share]:
        """What training can compare beside pixels: the clip and what the autoencoder of frames makes of it by itself;
        the frames' latents that the temporal autoencoder is given and those that it gives back; of single frames, those
        that it is given and its own, where they are as many."""
        if self.latent_channels == self.temporal.channels:
            return {"frames": "like_pixels", "spatial": "frames", "identity": "frames"}
        return {"frames": "like_pixels", "spatial": "frames"}

    @property
    def num_codes(self) -> None:
        """It has no code book."""

    @property
    def last_layer(self) -> str:
        """Where the adversarial loss is weighed: the last convolution of the temporal autoencoder, as upstream's."""
        return f"{_TEMPORAL}.decoder.conv_out.conv.weight"

    def unreached(self, pixels: bool, pairs: frozenset[str]) -> tuple[str, ...]:
        """The decoder of frames without a loss of pixels, the temporal one where the frames alone are compared."""
        names = ("decoder.", "post_quant_conv.")
        spatial = [] if pixels or "frames" in pairs else [f"{_SPATIAL}.{name}" for name in names]
        temporal = [] if pixels or "spatial" in pairs else [f"{_TEMPORAL}.{name}" for name in names]
        return (*spatial, *temporal)

    def _resnets(self, level: str) -> list[str]:
        return [f"{_TEMPORAL}.{level}.{i}" for i in range(self.temporal.num_res_blocks)]

    def facts(self) -> list[str]:
        """What `duosora inspect` says of it."""
        group = f"groups of {self.micro_frame_size} frames" if self.micro_frame_size else "clips in one piece"
        space = self.spatial.space
        return [f"{self.temporal.time}x{space}x{space} compression, {self.latent_channels} latent channels, {group}"]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str = "config.json") -> OpenSoraVAESpec:
        """Read upstream's config.json; what says where it loads weights from is left alone.

        Raises: ConfigError for unknown keys and for values that are impossible or not implemented.
        """
        rest = dict(config)
        choice(rest, source, "model_type", ("VideoAutoencoderPipeline",), "VideoAutoencoderPipeline")
        for key in ("cal_loss", "freeze_vae_2d"):
            take(rest, source, key, bool, False)  # of training
        rest.pop("from_pretrained", None)
        spatial, temporal = (dict(take(rest, source, key, dict, {})) for key in ("vae_2d", "vae_temporal"))
        for part, key, kinds in (
            (spatial, "vae_2d", ("VideoAutoencoderKL",)),
            (temporal, "vae_temporal", ("VAE_Temporal_SD", "VAE_Temporal")),
        ):
            choice(part, f"{source}: {key}", "type", kinds, kinds[0])
            for where in ("from_pretrained", "subfolder", "local_files_only", "cache_dir"):
                part.pop(where, None)
        micro_batch_size = _count_or_none(spatial, f"{source}: vae_2d", "micro_batch_size")
        spec = build(
            cls,
            source,
            spatial=PictureVAESpec.take_from(spatial, f"{source}: vae_2d"),
            temporal=TemporalVAESpec.take_from(temporal, f"{source}: vae_temporal"),
            micro_frame_size=_count_or_none(rest, source, "micro_frame_size"),
            micro_batch_size=micro_batch_size,
            mean=_one_or_more(rest, source, "shift", -1e6, 0.0),
            spread=_one_or_more(rest, source, "scale", 1e-6, 1.0),
        )
        refuse_unknown(spatial, f"{source}: vae_2d")
        refuse_unknown(temporal, f"{source}: vae_temporal")
        refuse_unknown(rest, source)
        return spec

    def to_config(self) -> dict[str, Any]:
        """Upstream's config.json for this spec."""
        return {
            "architectures": ["VideoAutoencoderPipeline"],
            "model_type": "VideoAutoencoderPipeline",
            "vae_2d": {
                "type": "VideoAutoencoderKL",
                **_SDXL,
                "micro_batch_size": self.micro_batch_size,
                **self.spatial.to_config(),
            },
            "vae_temporal": {"type": "VAE_Temporal_SD", "from_pretrained": None, **self.temporal.to_config()},
            "micro_frame_size": self.micro_frame_size,
            "shift": list(self.mean) if len(self.mean) > 1 else self.mean[0],
            "scale": list(self.spread) if len(self.spread) > 1 else self.spread[0],
        }

    def layout(self) -> Layout:
        """Every weight of the autoencoder, under upstream's names."""
        weights = WeightList()
        for name, values in (("scale", self.spread), ("shift", self.mean)):
            shape = (1, len(values), 1, 1, 1) if len(values) > 1 else ()
            weights[name] = Weight(shape, Constant(values))
        self.spatial.write(weights, f"{_SPATIAL}.")
        _TemporalWriter(self.temporal, weights).autoencoder()
        widths = f"{self.spatial.block_out_channels[0]} and {self.temporal.filters}"
        return Layout(f"OpenSoraVAE({widths} channels)", weights)


@dataclass(frozen=True)
class _TemporalWriter:
    """Writes the modules of the temporal autoencoder into a weight list, in upstream's order."""

    spec: TemporalVAESpec
    weights: WeightList

    def autoencoder(self) -> None:
        spec = self.spec
        self.encoder()
        self.conv("quant_conv", 2 * spec.latent_channels, 2 * spec.hidden_channels, 1)
        self.weights.lower_half(f"{_TEMPORAL}.quant_conv.conv.bias", FRESH_LOG_VARIANCE)
        self.conv("post_quant_conv", spec.hidden_channels, spec.latent_channels, 1)
        self.decoder()

    def encoder(self) -> None:
        spec, widths = self.spec, self.spec.widths
        self.conv("encoder.conv_in", spec.filters, spec.channels, bias=False)
        for i, (inputs, outputs) in enumerate(zip((spec.filters, *widths), widths, strict=False)):
            self.resblocks(f"encoder.block_res_blocks.{i}", inputs, outputs)
        for i, is_halved in enumerate(spec.temporal_downsample):
            if is_halved:
                self.conv(f"encoder.conv_blocks.{i}", widths[i], widths[i])
        self.resblocks("encoder.res_blocks", widths[-1], widths[-1])
        self.norm("encoder.norm1", widths[-1])
        self.conv("encoder.conv2", 2 * spec.hidden_channels, widths[-1], 1)

    def decoder(self) -> None:
        spec, widths = self.spec, self.spec.widths
        self.conv("decoder.conv1", widths[-1], spec.hidden_channels)
        self.resblocks("decoder.res_blocks", widths[-1], widths[-1])
        for i, (outputs, inputs) in enumerate(zip(widths, (*widths[1:], widths[-1]), strict=True)):
            self.resblocks(f"decoder.block_res_blocks.{i}", inputs, outputs)
        for i, is_doubled in enumerate(spec.temporal_downsample):
            if is_doubled:
                self.conv(f"decoder.conv_blocks.{i}", 2 * widths[i + 1], widths[i + 1])
        self.norm("decoder.norm1", widths[0])
        self.conv("decoder.conv_out", spec.channels, widths[0])

    def resblocks(self, name: str, inputs: int, outputs: int) -> None:
        for j in range(self.spec.num_res_blocks):
            self.resblock(f"{name}.{j}", inputs if j == 0 else outputs, outputs)

    def resblock(self, name: str, inputs: int, outputs: int) -> None:
        self.norm(f"{name}.norm1", inputs)
        self.conv(f"{name}.conv1", outputs, inputs, bias=False)
        self.norm(f"{name}.norm2", outputs)
        self.conv(f"{name}.conv2", outputs, outputs, bias=False)
        if inputs != outputs:
            self.conv(f"{name}.conv3", outputs, inputs, 1, bias=False)

    def conv(self, name: str, outputs: int, inputs: int, kernel: int = 3, bias: bool = True) -> None:
        self.weights.conv(f"{_TEMPORAL}.{name}.conv", outputs, inputs, kernel, kernel, kernel, bias=bias)

    def norm(self, name: str, channels: int) -> None:
        self.weights.norm(f"{_TEMPORAL}.{name}", channels)


def _count_or_none(rest: dict[str, Any], source: str, key: str) -> int | None:
    return count(rest, source, key, MOST_FRAMES) if rest.get(key) is not None else rest.pop(key, None)


def _one_or_more(rest: dict[str, Any], source: str, key: str, least: float, default: float) -> tuple[float, ...]:
    if isinstance(rest.get(key), list):
        return numbers(rest, source, key, least, 1e6, [])
    return (number(rest, source, key, least, 1e6, default),)


PRESETS: Mapping[str, OpenSoraVAESpec] = {
    "opensora_vae_v1_2": OpenSoraVAESpec(),
    "opensora_vae_tiny": OpenSoraVAESpec(
        spatial=PictureVAESpec(block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=8),
        temporal=TemporalVAESpec(filters=16, num_res_blocks=1, channel_multipliers=(1, 1, 2, 2), num_groups=8),
        mean=(0.0,) * 4,
        spread=(1.0,) * 4,
    ),
    "tiny_v1_2": OpenSoraVAESpec(
        spatial=PictureVAESpec(
            block_out_channels=(16, 16, 32, 64), layers_per_block=1, latent_channels=8, norm_num_groups=1
        ),
        temporal=TemporalVAESpec(
            channels=8,
            latent_channels=8,
            hidden_channels=8,
            filters=24,
            num_res_blocks=1,
            channel_multipliers=(1, 1, 2),
            temporal_downsample=(True, True),
            num_groups=1,
        ),
        micro_batch_size=None,
        mean=(0.0,) * 8,
        spread=(1.0,) * 8,
    ),
}
FAMILY = Family(
    kind="vae",
    title="OpenSoraVAE",
    class_names=("VideoAutoencoderPipeline",),
    telling_keys=("vae_2d", "vae_temporal"),
    spec=OpenSoraVAESpec,
    presets=PRESETS,
)
