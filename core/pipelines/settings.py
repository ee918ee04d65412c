"""From settings to what the pipelines take."""

from __future__ import annotations

from .. import samplers
from ..backend import Backend
from ..config.schema import SamplerSettings, TileSettings
from ..errors import ConfigError
from ..samplers import LINEAR, STABLE_DIFFUSION, Sampler
from .autoencode import DecodeOptions, SpatialTiles

SCHEDULES = {"linear": LINEAR, "scaled_linear": STABLE_DIFFUSION}
PUBLISHED_OBJECTIVE, PUBLISHED_SCHEDULE = "v_prediction", "linear"
"""Of Open-Sora Plan v1.3, which has zero terminal SNR too."""
PIXELS_PER_LATENT = 8
"""Along each side, in every published autoencoder."""


def default_dtype(backend: Backend) -> str:
    """The compute dtype where none is set: half precision is what accelerators are fast at, and CPUs are not."""
    return "fp32" if backend.on_host else "bf16"


def decode_options(chunk: int | None, tile: TileSettings | None) -> DecodeOptions:
    """Raises: ConfigError when a tile is no whole number of latents."""
    if tile is None:
        return DecodeOptions(chunk=chunk)
    for name, pixels in (("size", tile.size), ("overlap", tile.overlap)):
        if pixels % PIXELS_PER_LATENT:
            raise ConfigError(f"tile.{name} = {pixels}: needs a multiple of {PIXELS_PER_LATENT} pixels")
    return DecodeOptions(
        chunk=chunk, tiles=SpatialTiles(tile.size // PIXELS_PER_LATENT, tile.overlap // PIXELS_PER_LATENT)
    )


def make_sampler(settings: SamplerSettings) -> Sampler:
    """A fresh sampling run; what is not set is as the published models were trained, whatever sampler is taken.

    Raises: ConfigError for settings that the sampler has no use for or cannot do.
    """
    objective: str | None = settings.objective
    schedule: str | None = settings.schedule
    zero_terminal_snr = settings.zero_terminal_snr
    if "flow" not in samplers.resolve(settings.name).objectives:
        objective = objective or PUBLISHED_OBJECTIVE
        schedule = schedule or PUBLISHED_SCHEDULE
        zero_terminal_snr = True if zero_terminal_snr is None else zero_terminal_snr
    return samplers.create(
        settings.name,
        settings.steps,
        objective=objective,
        schedule=SCHEDULES[schedule] if schedule else None,
        zero_terminal_snr=zero_terminal_snr,
        spacing=settings.spacing,
        shift=settings.shift,
    )
