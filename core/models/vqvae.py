"""VQ-VAE of VideoGPT: the spec, the layout and the presets of a video autoencoder whose latents are codes.

Strided convolutions, residual blocks with axial attention, and a book of codes, of which each latent is the nearest.
Nothing is drawn. Latents here are the codes' vectors: a denoiser's are decoded as they are, without a look-up.
Source: Yan et al. 2021 (arXiv:2104.10157), videogpt/vqvae.py of VideoGPT at 733d2b1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log2, prod
from typing import Any, ClassVar

from ..errors import ConfigError
from ..layout import Layout, Normal, Ones, Weight, WeightList, Zeros
from ..maths.tiling import Chunk, temporal_chunks
from ..shapes import NUM_COLOURS, Even, LatentShape, VideoShape
from .config_json import build, count, numbers, refuse_unknown, take, whole_number
from .kinds import DIGITS, Family, Share
from .work import Applied, Attention, Work

ENCODING_ALIVE, ALIVE = 7.2, 4.5
"""Work.alive of the encoder and of the decoder."""
KERNEL = 4
"""Sides of the convolutions that change the size."""
HEADS = 2
"""Of the attention along each axis."""
MOST_CHANNELS, MOST_CODES, MOST_LAYERS, MOST_STRIDE = 4096, 65_536, 64, 64
_IN_ONE_PIECE = "chunk = {}: a VQVAE looks along the whole clip, so it takes it in one piece; leave chunk out"


@dataclass(frozen=True, kw_only=True)
class VQVAESpec:
    """What a VQ-VAE is. Defaults are those of the published ones."""

    family: ClassVar[str] = "vqvae"

    embedding_dim: int = 256
    n_codes: int = 2048
    n_hiddens: int = 240
    n_res_layers: int = 4
    downsample: tuple[int, int, int] = (4, 4, 4)
    """Frames, rows and columns that a latent spans: powers of 2."""
    latents_mean: tuple[float, ...] = ()
    """By channel, taken off latents before a denoiser sees them; empty: zeros."""
    latents_std: tuple[float, ...] = ()
    """By channel, which they are divided by; empty: ones."""

    def __post_init__(self) -> None:
        if any(stride & (stride - 1) for stride in self.downsample) or max(self.downsample) < 2:
            raise ConfigError(f"downsample = {list(self.downsample)}: needs powers of 2, not all of them 1")
        if self.n_hiddens % HEADS:
            raise ConfigError(f"n_hiddens = {self.n_hiddens}: needs a multiple of {HEADS}, the heads of its attention")
        for name in ("latents_mean", "latents_std"):
            if len(getattr(self, name)) not in (0, self.embedding_dim):
                raise ConfigError(f"{name}: needs {self.embedding_dim} numbers, as many as embedding_dim, or none")

    @property
    def strides(self) -> tuple[tuple[int, int, int], ...]:
        """Of each convolution that halves the axes that are still to be halved."""
        times = [int(log2(stride)) for stride in self.downsample]
        halves = [tuple(2 if left > i else 1 for left in times) for i in range(max(times))]
        return tuple((time, height, width) for time, height, width in halves)

    @property
    def latent_channels(self) -> int:
        return self.embedding_dim

    @property
    def compression(self) -> Even:
        return Even(self.downsample[0], self.downsample[1])

    @property
    def scale(self) -> tuple[float, ...]:
        """By channel: a denoiser sees (latents - shift) * scale."""
        return tuple(1 / each for each in self.latents_std) or (1.0,) * self.embedding_dim

    @property
    def shift(self) -> tuple[float, ...]:
        return self.latents_mean or (0.0,) * self.embedding_dim

    def calibrated(self, mean: Sequence[float], deviation: Sequence[float]) -> VQVAESpec:
        """For latents of this mean and deviation, by channel."""
        means, deviations = (tuple(round(float(each), DIGITS) for each in values) for values in (mean, deviation))
        return replace(self, latents_mean=means, latents_std=deviations)

    @property
    def posteriors(self) -> tuple[str, ...]:
        """Nothing is drawn."""
        return ()

    def noise_shapes(self, video: VideoShape) -> dict[str, tuple[int, ...]]:
        """None. Raises: ShapeError."""
        self.compression.check(video)
        return {}

    @property
    def streams_exactly(self) -> bool:
        """Whether chunks in time can give the numbers of one piece: attention sees the whole clip."""
        return False

    def chunks(self, latent_frames: int, wanted: int | None) -> list[Chunk]:
        """The pieces in which a clip is decoded: one. Raises: ConfigError when others are wanted."""
        if wanted is not None:
            raise ConfigError(_IN_ONE_PIECE.format(wanted))
        return temporal_chunks(latent_frames, None)

    def pixel_chunks(self, wanted: int) -> Iterator[int]:
        """Raises: ConfigError."""
        raise ConfigError(_IN_ONE_PIECE.format(wanted))

    def encoding(self, latent: LatentShape, batch: int) -> Work:
        """Of the encoder for so many clips that have such latents."""
        places = batch * prod(latent)
        behind = [prod(prod(each) for each in self.strides[i + 1 :]) for i in range(len(self.strides))]
        convs = (Applied(f"encoder.convs.{i}.", places * each) for i, each in enumerate(behind))
        applied = (*convs, Applied("encoder.", places), Applied("pre_vq_conv.", places))
        return Work(applied, self._attention(latent, batch), ENCODING_ALIVE)

    def decoding(self, latent: LatentShape, batch: int, behind: bool = False) -> Work:
        """Of the decoder, likewise; a transposed convolution is applied at the places of its input, which is padded."""
        convs, sides = [], tuple(latent)
        for i, strides in enumerate(self.strides):
            padded = (side + KERNEL - stride for side, stride in zip(sides, strides, strict=True))
            convs.append(Applied(f"decoder.convts.{i}.", batch * prod(padded)))
            sides = tuple(side * stride for side, stride in zip(sides, strides, strict=True))
        places = batch * prod(latent)
        applied = (*convs, Applied("decoder.", places), Applied("post_vq_conv.", places))
        return Work(applied, self._attention(latent, batch), ALIVE)

    def _attention(self, latent: LatentShape, batch: int) -> tuple[Attention, ...]:
        head_dim, places = self.n_hiddens // HEADS, batch * prod(latent)
        return tuple(Attention(places // each, each, each, HEADS, head_dim, self.n_res_layers) for each in latent)

    def blocks(self) -> Mapping[str, tuple[str, ...]]:
        """Names of blocks of both halves in the order in which they work; none has a norm, whose statistics would count
        twice where a block is computed again."""
        convs, mixing = range(len(self.strides)), range(self.n_res_layers)
        encoder = (*(f"encoder.convs.{i}" for i in convs), "encoder.conv_last")
        decoder = (*(f"decoder.convts.{i}" for i in convs),)
        return {
            "encoder": (*encoder, *(f"encoder.res_stack.{i}.block.8" for i in mixing), "pre_vq_conv"),
            "decoder": ("post_vq_conv", *(f"decoder.res_stack.{i}.block.8" for i in mixing), *decoder),
        }

    @property
    def pairs(self) -> Mapping[str, Share]:
        """What training compares: the pixels, from -0.5 to 0.5, and the latents with their codes."""
        return {"reconstruction": "squares", "commitment": "squares"}

    @property
    def num_codes(self) -> int:
        return self.n_codes

    @property
    def last_layer(self) -> str:
        """Where an adversarial loss is weighed."""
        return f"decoder.convts.{len(self.strides) - 1}.convt.weight"

    def unreached(self, pixels: bool, pairs: frozenset[str]) -> tuple[str, ...]:
        """What is measured, and the decoder without a loss of pixels."""
        decoder = () if pixels or "reconstruction" in pairs else ("decoder.", "post_vq_conv.")
        return (*self.layout().untrained, *decoder)

    def facts(self) -> list[str]:
        """What `duosora inspect` says of it."""
        strides = "x".join(map(str, self.downsample))
        return [f"{strides} compression, {self.n_codes} codes of {self.embedding_dim} channels"]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str = "config.json") -> VQVAESpec:
        """Read config.json, whose keys are VideoGPT's. Raises: ConfigError for unknown keys and impossible values."""
        rest, default = dict(config), cls()
        strides = take(rest, source, "downsample", list, list(default.downsample))
        if len(strides) != 3:
            raise ConfigError(f"{source}: downsample: needs 3 numbers: frames, rows, columns")
        time, height, width = (whole_number(each, source, "downsample", MOST_STRIDE) for each in strides)
        if height != width:
            raise ConfigError(f"{source}: downsample = {strides}: duosora implements the same for rows and columns")
        spec = build(
            cls,
            source,
            embedding_dim=count(rest, source, "embedding_dim", MOST_CHANNELS, default.embedding_dim),
            n_codes=count(rest, source, "n_codes", MOST_CODES, default.n_codes),
            n_hiddens=count(rest, source, "n_hiddens", MOST_CHANNELS, default.n_hiddens, least=2),
            n_res_layers=count(rest, source, "n_res_layers", MOST_LAYERS, default.n_res_layers, least=0),
            downsample=(time, height, width),
            latents_mean=numbers(rest, source, "latents_mean", -1e6, 1e6, []),
            latents_std=numbers(rest, source, "latents_std", 1e-6, 1e6, []),
        )
        refuse_unknown(rest, source)
        return spec

    def to_config(self) -> dict[str, Any]:
        """The config.json for this spec."""
        measured = {name: list(getattr(self, name)) for name in ("latents_mean", "latents_std") if getattr(self, name)}
        return {
            "_class_name": "VQVAE",
            "embedding_dim": self.embedding_dim,
            "n_codes": self.n_codes,
            "n_hiddens": self.n_hiddens,
            "n_res_layers": self.n_res_layers,
            "downsample": list(self.downsample),
            **measured,
        }

    def layout(self) -> Layout:
        """Every weight, under VideoGPT's names; what is measured in training, not learned, among them."""
        writer = _Writer(self, WeightList())
        writer.autoencoder()
        weights = writer.weights
        norms = (name.removesuffix("running_mean") for name in weights if name.endswith(".running_mean"))
        counters = tuple(f"{norm}num_batches_tracked" for norm in norms)
        return Layout(f"VQVAE({self.n_hiddens} channels, {self.n_codes} codes)", weights, ignores=counters)


@dataclass(frozen=True)
class _Writer:
    """Writes the modules into a weight list, in VideoGPT's order."""

    spec: VQVAESpec
    weights: WeightList

    def autoencoder(self) -> None:
        spec, weights, width = self.spec, self.weights, self.spec.n_hiddens
        for i in range(len(spec.strides)):
            weights.conv(f"encoder.convs.{i}.conv", width, NUM_COLOURS if i == 0 else width, 4, 4, 4)
        weights.conv("encoder.conv_last.conv", width, width, 3, 3, 3)
        self.res_stack("encoder.res_stack")
        self.res_stack("decoder.res_stack")
        for i in range(len(spec.strides)):
            outputs = NUM_COLOURS if i == len(spec.strides) - 1 else width
            name = f"decoder.convts.{i}.convt"
            weights.conv(name, width, outputs, 4, 4, 4)  # kernels of transposed ones have the inputs first
            weights[f"{name}.bias"] = replace(weights[f"{name}.bias"], shape=(outputs,))
        weights.conv("pre_vq_conv.conv", spec.embedding_dim, width, 1, 1, 1)
        weights.conv("post_vq_conv.conv", width, spec.embedding_dim, 1, 1, 1)
        book = (spec.n_codes, spec.embedding_dim)
        weights["codebook.embeddings"] = Weight(book, Normal(1.0), trained=False)
        weights["codebook.N"] = Weight((spec.n_codes,), Zeros(), trained=False)
        weights["codebook.z_avg"] = Weight(book, Normal(1.0), trained=False)

    def res_stack(self, name: str) -> None:
        for i in range(self.spec.n_res_layers):
            self.resblock(f"{name}.{i}.block")
        self.norm(f"{name}.{self.spec.n_res_layers}", self.spec.n_hiddens)

    def resblock(self, name: str) -> None:
        width, half = self.spec.n_hiddens, self.spec.n_hiddens // 2
        self.norm(f"{name}.0", width)
        self.weights.conv(f"{name}.2.conv", half, width, 3, 3, 3, bias=False)
        self.norm(f"{name}.3", half)
        self.weights.conv(f"{name}.5.conv", width, half, 1, 1, 1, bias=False)
        self.norm(f"{name}.6", width)
        for axis in ("attn_w", "attn_h", "attn_t"):
            for part in ("w_qs", "w_ks", "w_vs"):
                self.weights.linear(f"{name}.8.{axis}.{part}", width, width, bias=False)
            self.weights.linear(f"{name}.8.{axis}.fc", width, width)

    def norm(self, name: str, channels: int) -> None:
        self.weights.norm(name, channels)
        self.weights[f"{name}.running_mean"] = Weight((channels,), Zeros(), trained=False)
        self.weights[f"{name}.running_var"] = Weight((channels,), Ones(), trained=False)


PRESETS: Mapping[str, VQVAESpec] = {
    "vqvae_bair_stride4x2x2": VQVAESpec(downsample=(4, 2, 2)),
    "vqvae_stride4x4x4": VQVAESpec(),
    "vqvae_stride2x4x4": VQVAESpec(downsample=(2, 4, 4)),
    "vqvae_tiny": VQVAESpec(
        embedding_dim=8,
        n_codes=16,
        n_hiddens=12,
        n_res_layers=1,
        downsample=(2, 4, 4),
        latents_mean=(0.1, -0.2, 0.3, 0.0, 0.5, 0.1, -0.3, 0.2),
        latents_std=(1.5, 0.8, 1.1, 0.9, 0.7, 1.2, 1.0, 0.6),
    ),
}
FAMILY = Family(
    kind="vae",
    title="VQVAE",
    class_names=("VQVAE",),
    telling_keys=("n_codes",),
    spec=VQVAESpec,
    presets=PRESETS,
)
