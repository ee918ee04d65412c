"""WFVAE: the spec, the layout and the published presets of Open-Sora Plan's wavelet-flow video autoencoder.

A side branch carries Haar coefficients of the clip around the convolutional trunk ("energy flow"), in the encoder
and mirrored in the decoder. Everything is causal in time: frame 0 depends on itself only, so an image is a clip of
one frame.
Source: arXiv:2411.17459 and opensora/models/causalvideovae of Open-Sora Plan at 9fa322f.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..errors import ConfigError
from ..layout import Constant, Layout, Weight, WeightList
from ..maths.haar import BANDS_2D, BANDS_3D, taps_2d, taps_3d
from ..maths.tiling import Chunk, pixel_chunks, temporal_chunks
from ..shapes import NUM_COLOURS, Causal, LatentShape, VideoShape
from .config_json import build, choice, count, numbers, refuse_unknown, take
from .kinds import DIGITS, Family, Share
from .work import Applied, Attention, Work

ENCODING_ALIVE, ALIVE, STREAM_ALIVE = 2.6, 1.8, 2.6
"""Work.alive of the encoder, of the decoder, and of a chunk of its stream, which holds frames that wait."""
GROUPS = 32
MOST_CHANNELS, MOST_RESBLOCKS = 2048, 32
DEFAULT_SCALE = 0.18215
"""Of the published 4x8x8 models, for configs that name no scale."""
FRESH_LOG_VARIANCE = -4.0
"""About that of a fresh model's latents. From the unit variance of a plain start, noise would drown them for long."""

# Keys of config.json that pick the level-1 modules, each with its spatial and its spatio-temporal class. The spelling
# "dowmsample" is that of the published files.
_LEVEL_1_MODULES = {
    "l1_dowmsample_block": ("Downsample", "Spatial2xTime2x3DDownsample"),
    "l1_downsample_wavelet": ("HaarWaveletTransform2D", "HaarWaveletTransform3D"),
    "l1_upsample_block": ("Upsample", "Spatial2xTime2x3DUpsample"),
    "l1_upsample_wavelet": ("InverseHaarWaveletTransform2D", "InverseHaarWaveletTransform3D"),
}
_LEVEL_2_MODULES = {
    "l2_dowmsample_block": "Spatial2xTime2x3DDownsample",
    "l2_downsample_wavelet": "HaarWaveletTransform3D",
    "l2_upsample_block": "Spatial2xTime2x3DUpsample",
    "l2_upsample_wavelet": "InverseHaarWaveletTransform3D",
}
_BLOCKS = {
    "encoder": ("down1", "down2", "connect_l1", "connect_l2", "mid", "conv_out"),
    "decoder": ("conv_in", "mid", "connect_l2", "up2", "connect_l1", "up1", "layer", "conv_out"),
}


@dataclass(frozen=True, kw_only=True)
class WFVAESpec:
    """What a WFVAE is. Defaults are those of upstream's class; the published models are in PRESETS."""

    family: ClassVar[str] = "wfvae"

    latent_dim: int = 8
    base_channels: int = 128
    encoder_num_resblocks: int = 2
    decoder_num_resblocks: int = 2
    encoder_energy_flow_hidden_size: int = 64
    decoder_energy_flow_hidden_size: int = 128
    use_attention: bool = True
    norm_type: str = "groupnorm"
    """"groupnorm" (32 groups, statistics over time) or "layernorm" (over channels)."""
    t_interpolation: str = "nearest"
    """How the level-2 upsampling doubles frames: "nearest" or "trilinear"."""
    connect_res_layer_num: int = 1
    temporal_level_1: bool = False
    """Whether level 1 halves time as well: 8x8x8 compression instead of 4x8x8."""
    scale: tuple[float, ...] = (DEFAULT_SCALE,) * 8
    """Per latent channel: latents = (sample - shift) * scale."""
    shift: tuple[float, ...] = (0.0,) * 8

    def __post_init__(self) -> None:
        if len(self.scale) != self.latent_dim or len(self.shift) != self.latent_dim:
            raise ConfigError(
                f"WFVAE: scale and shift need latent_dim = {self.latent_dim} entries each, "
                f"not {len(self.scale)} and {len(self.shift)}"
            )
        if self.norm_type == "groupnorm":
            for name, width in self._normed_widths():
                if width % GROUPS:
                    raise ConfigError(f"WFVAE: {name} = {width} is not a multiple of {GROUPS}, as groupnorm needs")

    def _normed_widths(self) -> tuple[tuple[str, int], ...]:
        return (
            ("base_channels", self.base_channels),
            ("encoder_energy_flow_hidden_size", self.encoder_energy_flow_hidden_size),
            ("decoder_energy_flow_hidden_size", self.decoder_energy_flow_hidden_size),
        )

    @property
    def latent_channels(self) -> int:
        return self.latent_dim

    def calibrated(self, mean: Sequence[float], deviation: Sequence[float]) -> WFVAESpec:
        """For latents of this mean and deviation, by channel."""
        scale = tuple(round(float(1 / each), DIGITS) for each in deviation)
        return replace(self, scale=scale, shift=tuple(round(float(each), DIGITS) for each in mean))

    @property
    def posteriors(self) -> tuple[str, ...]:
        """What encoding draws."""
        return ("latent",)

    def noise_shapes(self, video: VideoShape) -> dict[str, tuple[int, ...]]:
        """Shapes (C, T, H, W) of the unit noise that it is drawn with. Raises: ShapeError."""
        return {"latent": (self.latent_channels, *self.compression.latent(video))}

    @property
    def compression(self) -> Causal:
        return Causal(time=8 if self.temporal_level_1 else 4, space=8)

    @property
    def level_1_channels(self) -> int:
        """Channels of the level-1 wavelet coefficients of three colours."""
        return NUM_COLOURS * (8 if self.temporal_level_1 else 4)

    @property
    def streams_exactly(self) -> bool:
        """Whether chunks in time can give the same numbers as one piece: group norm looks at all frames at once."""
        return self.norm_type == "layernorm"

    def chunks(self, latent_frames: int, wanted: int | None) -> list[Chunk]:
        """The pieces in which a clip is decoded. Raises: ConfigError when only one piece gives the right numbers."""
        if wanted is not None:
            self._check_streams()
        return temporal_chunks(latent_frames, wanted)

    def pixel_chunks(self, wanted: int) -> Iterator[int]:
        """How many frames are encoded together, without end. Raises: as `chunks`."""
        self._check_streams()
        return pixel_chunks(wanted, self.compression.time)

    def _check_streams(self) -> None:
        if not self.streams_exactly:
            raise ConfigError(
                f"chunk: a WFVAE with norm_type = {self.norm_type} needs the clip in one piece, its norms look at all "
                "frames at once; leave chunk out"
            )

    def encoding(self, latent: LatentShape, batch: int) -> Work:
        """Of the encoder for so many clips that have such latents."""
        deep, middle, shallow = self._levels(latent, batch)
        last = self.encoder_num_resblocks + 1
        applied = (
            Applied("wavelet", 0),
            Applied("decoder.", 0),
            Applied(f".down1.{last}.", *middle),
            Applied(f".down2.{last}.", *deep),
            Applied(".down1.", *shallow),
            Applied(".down2.", *middle),
            Applied(".connect_l1.", *middle),
            Applied("", *deep),
        )
        return Work(applied, self._attention(latent, batch), ENCODING_ALIVE, copied=0.0)

    def decoding(self, latent: LatentShape, batch: int, behind: bool = False) -> Work:
        """Of the decoder, likewise."""
        deep, middle, shallow = self._levels(latent, batch, behind)
        doubling = self.decoder_num_resblocks
        applied = (
            Applied("wavelet", 0),
            Applied("encoder.", 0),
            *(Applied(f".up2.{i}.", *deep) for i in range(doubling)),
            *(Applied(f".up1.{i}.", *middle) for i in range(doubling)),
            Applied(".up2.", *middle),
            Applied(".connect_l1.", *middle),
            *(Applied(part, *shallow) for part in (".up1.", ".layer.", ".conv_out.")),
            Applied("", *deep),
        )
        return Work(applied, self._attention(latent, batch), STREAM_ALIVE if behind else ALIVE, copied=0.0)

    def _levels(self, latent: LatentShape, batch: int, behind: bool = False) -> list[tuple[int, bool, int, int]]:
        """Of latents, of level 2 and of level 1: places, not once, all together, frames."""
        alone = 0 if behind else 1  # the first frame stays one
        frames = [latent.frames, 2 * latent.frames - alone]
        frames.append(2 * frames[1] - alone if self.temporal_level_1 else frames[1])
        area = batch * latent.height * latent.width
        return [(each * area * 4**level, False, 0, each) for level, each in enumerate(frames)]

    def _attention(self, latent: LatentShape, batch: int) -> tuple[Attention, ...]:
        places = latent.height * latent.width
        groups = batch * latent.frames if self.use_attention else 0
        return (Attention(groups, places, places, 1, 4 * self.base_channels),)

    def blocks(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the blocks of both halves, in the order in which they work."""
        return {half: tuple(f"{half}.{name}" for name in names) for half, names in _BLOCKS.items()}

    @property
    def pairs(self) -> Mapping[str, Share]:
        """What training can compare beside pixels: Haar coefficients of the encoder and of the decoder."""
        return {"wavelet": "clips"}

    @property
    def num_codes(self) -> None:
        """It has no code book."""

    @property
    def last_layer(self) -> str:
        """Where the adversarial loss is weighed."""
        return "decoder.conv_out.weight"

    def unreached(self, pixels: bool, pairs: frozenset[str]) -> tuple[str, ...]:
        """Without a loss of pixels the end of the decoder."""
        return () if pixels else tuple(f"decoder.{name}." for name in ("up1", "layer", "norm_out", "conv_out"))

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str = "config.json") -> WFVAESpec:
        """Read upstream's config.json. Raises ConfigError for unknown keys and for impossible values."""
        rest = dict(config)
        latent_dim = count(rest, source, "latent_dim", 512, 8)
        choice(rest, source, "attention_type", ("AttnBlock3DFix",), "AttnBlock3DFix")
        choice(rest, source, "dropout", (0, 0.0), 0.0)
        for key, module in _LEVEL_2_MODULES.items():
            choice(rest, source, key, (module,), module)
        temporal = {
            key: choice(rest, source, key, modules, modules[0]) == modules[1]
            for key, modules in _LEVEL_1_MODULES.items()
        }
        if len(set(temporal.values())) > 1:
            raise ConfigError(f"{source}: the level-1 modules mix spatial and spatio-temporal kinds: {temporal}")
        spec = build(
            cls,
            source,
            latent_dim=latent_dim,
            base_channels=count(rest, source, "base_channels", MOST_CHANNELS, 128),
            encoder_num_resblocks=count(rest, source, "encoder_num_resblocks", MOST_RESBLOCKS, 2, least=0),
            decoder_num_resblocks=count(rest, source, "decoder_num_resblocks", MOST_RESBLOCKS, 2, least=0),
            encoder_energy_flow_hidden_size=count(rest, source, "encoder_energy_flow_hidden_size", MOST_CHANNELS, 64),
            decoder_energy_flow_hidden_size=count(rest, source, "decoder_energy_flow_hidden_size", MOST_CHANNELS, 128),
            use_attention=take(rest, source, "use_attention", bool, True),
            norm_type=choice(rest, source, "norm_type", ("groupnorm", "layernorm"), "groupnorm"),
            t_interpolation=choice(rest, source, "t_interpolation", ("nearest", "trilinear"), "nearest"),
            connect_res_layer_num=count(rest, source, "connect_res_layer_num", MOST_RESBLOCKS, 1, least=0),
            temporal_level_1=temporal["l1_dowmsample_block"],
            scale=numbers(rest, source, "scale", 1e-6, 1e6, [DEFAULT_SCALE] * latent_dim),
            shift=numbers(rest, source, "shift", -1e6, 1e6, [0.0] * latent_dim),
        )
        refuse_unknown(rest, source)
        return spec

    def to_config(self) -> dict[str, Any]:
        """Upstream's config.json for this spec."""
        level_1 = {key: modules[self.temporal_level_1] for key, modules in _LEVEL_1_MODULES.items()}
        return {
            "_class_name": "WFVAEModel",
            "latent_dim": self.latent_dim,
            "base_channels": self.base_channels,
            "encoder_num_resblocks": self.encoder_num_resblocks,
            "decoder_num_resblocks": self.decoder_num_resblocks,
            "encoder_energy_flow_hidden_size": self.encoder_energy_flow_hidden_size,
            "decoder_energy_flow_hidden_size": self.decoder_energy_flow_hidden_size,
            "attention_type": "AttnBlock3DFix",
            "use_attention": self.use_attention,
            "dropout": 0.0,
            "norm_type": self.norm_type,
            "t_interpolation": self.t_interpolation,
            "connect_res_layer_num": self.connect_res_layer_num,
            "scale": list(self.scale),
            "shift": list(self.shift),
            **level_1,
            **_LEVEL_2_MODULES,
        }

    def facts(self) -> list[str]:
        """What `duosora inspect` says of it."""
        time, space = self.compression
        return [f"{time}x{space}x{space} compression, {self.latent_dim} latent channels, {self.norm_type}"]

    def layout(self) -> Layout:
        """Every weight of the autoencoder, under upstream's names."""
        weights = WeightList()
        _Writer(self, weights).encoder()
        _Writer(self, weights).decoder()
        return Layout(f"WFVAE(base_channels={self.base_channels}, latent_dim={self.latent_dim})", weights)


@dataclass(frozen=True)
class _Writer:
    """Writes the modules of a WFVAE into a weight list, in upstream's order."""

    spec: WFVAESpec
    weights: WeightList

    def encoder(self) -> None:
        spec, weights = self.spec, self.weights
        base, flow = spec.base_channels, spec.encoder_energy_flow_hidden_size
        n = spec.encoder_num_resblocks
        weights.conv("encoder.down1.0", base, 24, 3, 3)
        for i in range(1, n + 1):
            self.resblock_2d(f"encoder.down1.{i}", base)
        if spec.temporal_level_1:
            weights.conv(f"encoder.down1.{n + 1}.conv.conv", base, base, 3, 3, 3)
        else:
            weights.conv(f"encoder.down1.{n + 1}.conv", base, base, 3, 3)
        weights.conv("encoder.down2.0", 2 * base, base + flow, 3, 3)
        for i in range(1, n + 1):
            self.resblock_3d(f"encoder.down2.{i}", 2 * base, 2 * base)
        weights.conv(f"encoder.down2.{n + 1}.conv.conv", 2 * base, 2 * base, 3, 3, 3)
        weights.conv("encoder.connect_l1", flow, spec.level_1_channels, 3, 3)
        weights.conv("encoder.connect_l2", flow, 24, 3, 3)
        self.mid("encoder.mid", 2 * base + flow, 4 * base, 4 * base)
        self.norm("encoder.norm_out", 4 * base)
        weights.conv("encoder.conv_out.conv", 2 * spec.latent_dim, 4 * base, 3, 3, 3)
        weights.lower_half("encoder.conv_out.conv.bias", FRESH_LOG_VARIANCE)
        self.analysis_3d("encoder.wavelet_transform_in")
        if spec.temporal_level_1:
            self.analysis_3d("encoder.wavelet_transform_l1")
        else:
            self.taps_2d("encoder.wavelet_transform_l1")
        self.analysis_3d("encoder.wavelet_transform_l2")

    def decoder(self) -> None:
        spec, weights = self.spec, self.weights
        base, flow = spec.base_channels, spec.decoder_energy_flow_hidden_size
        n = spec.decoder_num_resblocks
        weights.conv("decoder.conv_in.conv", 4 * base, spec.latent_dim, 3, 3, 3)
        self.mid("decoder.mid", 4 * base, 4 * base, 4 * base + flow)
        for i in range(n):
            self.resblock_3d(f"decoder.up2.{i}", 4 * base, 4 * base)
        weights.conv(f"decoder.up2.{n}.conv.conv", 4 * base, 4 * base, 3, 3, 3)
        self.resblock_3d(f"decoder.up2.{n + 1}", 4 * base, 4 * base + flow)
        for i in range(n):
            self.resblock_3d(f"decoder.up1.{i}", 4 * base if i == 0 else 2 * base, 2 * base)
        if spec.temporal_level_1:
            weights.conv(f"decoder.up1.{n}.conv.conv", 2 * base, 2 * base, 3, 3, 3)
        else:
            weights.conv(f"decoder.up1.{n}.conv", 2 * base, 2 * base, 3, 3)
        self.resblock_3d(f"decoder.up1.{n + 1}", 2 * base if n else 4 * base, 2 * base)
        self.resblock_3d("decoder.layer.0", 2 * base, base)
        self.resblock_3d("decoder.layer.1", base, base)
        self.connect("decoder.connect_l1", flow, spec.level_1_channels)
        self.connect("decoder.connect_l2", flow, 24)
        self.norm("decoder.norm_out", base)
        weights.conv("decoder.conv_out", 24, base, 3, 3)
        self.synthesis_3d("decoder.inverse_wavelet_transform_out")
        if spec.temporal_level_1:
            self.synthesis_3d("decoder.inverse_wavelet_transform_l1")
        else:
            self.taps_2d("decoder.inverse_wavelet_transform_l1")
        self.synthesis_3d("decoder.inverse_wavelet_transform_l2")

    def mid(self, name: str, inputs: int, width: int, outputs: int) -> None:
        self.resblock_3d(f"{name}.0", inputs, width)
        if self.spec.use_attention:
            self.norm(f"{name}.1.norm", width)
            for part in ("q", "k", "v", "proj_out"):
                self.weights.conv(f"{name}.1.{part}.conv", width, width, 1, 1, 1)
        self.resblock_3d(f"{name}.{2 if self.spec.use_attention else 1}", width, outputs)

    def connect(self, name: str, flow: int, outputs: int) -> None:
        for i in range(self.spec.connect_res_layer_num):
            self.resblock_3d(f"{name}.{i}", flow, flow)
        self.weights.conv(f"{name}.{self.spec.connect_res_layer_num}", outputs, flow, 3, 3)

    def resblock_2d(self, name: str, width: int) -> None:
        for i in (1, 2):
            self.norm(f"{name}.norm{i}", width)
            self.weights.conv(f"{name}.conv{i}", width, width, 3, 3)

    def resblock_3d(self, name: str, inputs: int, outputs: int) -> None:
        self.norm(f"{name}.norm1", inputs)
        self.weights.conv(f"{name}.conv1.conv", outputs, inputs, 3, 3, 3)
        self.norm(f"{name}.norm2", outputs)
        self.weights.conv(f"{name}.conv2.conv", outputs, outputs, 3, 3, 3)
        if inputs != outputs:
            self.weights.conv(f"{name}.nin_shortcut.conv", outputs, inputs, 1, 1, 1)

    def norm(self, name: str, channels: int) -> None:
        self.weights.norm(f"{name}.norm" if self.spec.norm_type == "layernorm" else name, channels)

    def analysis_3d(self, name: str) -> None:
        for band in BANDS_3D:
            self.weights[f"{name}.{band.name}_conv.conv.weight"] = _constant(taps_3d(band))

    def synthesis_3d(self, name: str) -> None:
        for band in BANDS_3D:
            self.weights[f"{name}.{band.name}"] = _constant(taps_3d(band))

    def taps_2d(self, name: str) -> None:
        for band in BANDS_2D:
            self.weights[f"{name}.{band.name}"] = _constant(taps_2d(band))


def _constant(taps: Any) -> Weight:
    return Weight((1, 1, *taps.shape), Constant(tuple(map(float, taps.reshape(-1)))))


D8_4X8X8 = WFVAESpec(
    norm_type="layernorm",
    t_interpolation="trilinear",
    connect_res_layer_num=2,
)
D4_4X8X8 = WFVAESpec(
    latent_dim=4,
    norm_type="layernorm",
    t_interpolation="trilinear",
    encoder_energy_flow_hidden_size=128,
    scale=(DEFAULT_SCALE,) * 4,
    shift=(0.0,) * 4,
)
D16_4X8X8 = WFVAESpec(
    latent_dim=16,
    norm_type="layernorm",
    t_interpolation="trilinear",
    scale=(DEFAULT_SCALE,) * 16,
    shift=(0.0,) * 16,
)
D32_8X8X8 = WFVAESpec(
    latent_dim=32,
    base_channels=160,
    norm_type="layernorm",
    t_interpolation="trilinear",
    encoder_energy_flow_hidden_size=128,
    temporal_level_1=True,
    scale=(
        *(0.7031, 0.7109, 1.5391, 1.2969, 0.7109, 1.4141, 1.3828, 2.1719, 1.7266, 1.8281, 1.9141, 1.2031),
        *(0.6875, 0.9609, 1.6484, 1.1875, 1.5312, 1.1328, 0.8828, 0.6836, 0.8828, 0.9219, 1.6953, 1.4453),
        *(1.5312, 0.6836, 0.7656, 0.8242, 1.2344, 1.0312, 1.7266, 0.9492),
    ),
    shift=(
        *(-0.2129, 0.1226, 1.6328, 0.6211, -0.875, 0.6172, -0.5703, 0.1348, -0.2178, -0.9375, 0.3184, 0.3281),
        *(-0.0544, -0.1826, -0.2812, 0.4355, 0.1621, -0.2578, 0.7148, -0.7422, -0.2295, -0.2324, -1.4922, 0.6328),
        *(1.125, -0.2578, -2.1094, 1.0391, 1.1797, -1.2422, -0.2988, -0.957),
    ),
)
TINY = WFVAESpec(
    base_channels=8,
    encoder_num_resblocks=1,
    decoder_num_resblocks=1,
    encoder_energy_flow_hidden_size=8,
    decoder_energy_flow_hidden_size=8,
    norm_type="layernorm",
    t_interpolation="trilinear",
    scale=(1.0,) * 8,
)

PRESETS: Mapping[str, WFVAESpec] = {
    "wfvae_d8_4x8x8": D8_4X8X8,
    "wfvae_d4_4x8x8": D4_4X8X8,
    "wfvae_d16_4x8x8": D16_4X8X8,
    "wfvae_d32_8x8x8": D32_8X8X8,
    "tiny": TINY,
}
FAMILY = Family(
    kind="vae",
    title="WFVAE",
    class_names=("WFVAEModel",),
    telling_keys=("encoder_energy_flow_hidden_size", "connect_res_layer_num"),
    spec=WFVAESpec,
    presets=PRESETS,
)
