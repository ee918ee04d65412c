"""Pixels as latents: the spec and the presets of the autoencoder without weights, which changes nothing.

With it a denoiser works on pixels: small pictures, and what is to be compared with latents of others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any, ClassVar

from ..errors import ConfigError
from ..layout import Layout
from ..maths.tiling import Chunk, temporal_chunks
from ..shapes import NUM_COLOURS, Even, LatentShape, VideoShape
from .config_json import build, number, numbers, refuse_unknown
from .kinds import DIGITS, Family, Share
from .work import Work


@dataclass(frozen=True, kw_only=True)
class RawPixelsSpec:
    """What the autoencoder without weights is: in which range a denoiser sees the pixels."""

    family: ClassVar[str] = "raw_pixels"

    pixel_range: float = 1.0
    """Of white, black being as much below zero: 0.5 is the first release's pixels / 255 - 0.5."""
    latents_mean: tuple[float, ...] = (0.0,) * NUM_COLOURS
    """By colour, from -1 to 1, taken off before pixels are scaled."""
    latents_std: tuple[float, ...] = (1.0,) * NUM_COLOURS
    """By colour, which the scaled pixels are divided by."""

    def __post_init__(self) -> None:
        for name in ("latents_mean", "latents_std"):
            if len(getattr(self, name)) != NUM_COLOURS:
                raise ConfigError(f"{name}: needs {NUM_COLOURS} numbers, one of each colour")

    @property
    def latent_channels(self) -> int:
        return NUM_COLOURS

    @property
    def compression(self) -> Even:
        return Even(1, 1)

    @property
    def scale(self) -> tuple[float, ...]:
        """By colour: a denoiser sees (pixels - shift) * scale."""
        return tuple(self.pixel_range / each for each in self.latents_std)

    @property
    def shift(self) -> tuple[float, ...]:
        return self.latents_mean

    def calibrated(self, mean: Sequence[float], deviation: Sequence[float]) -> RawPixelsSpec:
        """For pixels of this mean and deviation, by colour."""
        means, deviations = (tuple(round(float(each), DIGITS) for each in values) for values in (mean, deviation))
        return replace(self, pixel_range=1.0, latents_mean=means, latents_std=deviations)

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
        """Whether chunks in time give the same numbers as one piece: frames know nothing of each other."""
        return True

    def chunks(self, latent_frames: int, wanted: int | None) -> list[Chunk]:
        """The pieces in which a clip is decoded: any."""
        return temporal_chunks(latent_frames, wanted)

    def pixel_chunks(self, wanted: int) -> Iterator[int]:
        """How many frames are encoded together, without end."""
        yield from repeat(wanted)

    def encoding(self, latent: LatentShape, batch: int) -> Work:
        """Nothing."""
        return Work(())

    def decoding(self, latent: LatentShape, batch: int, behind: bool = False) -> Work:
        """Nothing."""
        return Work(())

    def blocks(self) -> Mapping[str, tuple[str, ...]]:
        """It has none."""
        return {"encoder": (), "decoder": ()}

    @property
    def pairs(self) -> Mapping[str, Share]:
        """Training has nothing to compare."""
        return {}

    @property
    def num_codes(self) -> None:
        """It has no code book."""

    @property
    def last_layer(self) -> str:
        """It has none."""
        return ""

    def unreached(self, pixels: bool, pairs: frozenset[str]) -> tuple[str, ...]:
        """It has no weights."""
        return ()

    def facts(self) -> list[str]:
        """What `duosora inspect` says of it."""
        return [f"no compression, {NUM_COLOURS} colours from {-self.pixel_range:g} to {self.pixel_range:g}"]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str = "config.json") -> RawPixelsSpec:
        """Read config.json. Raises: ConfigError for unknown keys and for impossible values."""
        rest, default = dict(config), cls()
        spec = build(
            cls,
            source,
            pixel_range=number(rest, source, "pixel_range", 1e-6, 1e6, default.pixel_range),
            latents_mean=numbers(rest, source, "latents_mean", -1e6, 1e6, list(default.latents_mean)),
            latents_std=numbers(rest, source, "latents_std", 1e-6, 1e6, list(default.latents_std)),
        )
        refuse_unknown(rest, source)
        return spec

    def to_config(self) -> dict[str, Any]:
        """The config.json for this spec."""
        measured = {name: list(getattr(self, name)) for name in ("latents_mean", "latents_std")}
        return {"_class_name": "RawPixels", "pixel_range": self.pixel_range, **measured}

    def layout(self) -> Layout:
        """No weight at all."""
        return Layout("RawPixels", {})


PRESETS: Mapping[str, RawPixelsSpec] = {
    "pixels": RawPixelsSpec(),
    "pixels_half": RawPixelsSpec(pixel_range=0.5),
}
FAMILY = Family(
    kind="vae",
    title="RawPixels",
    class_names=("RawPixels",),
    telling_keys=("pixel_range",),
    spec=RawPixelsSpec,
    presets=PRESETS,
)
