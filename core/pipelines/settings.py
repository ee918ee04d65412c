"""From settings to what the pipelines take."""

from __future__ import annotations

from .. import samplers
from ..config.schema import ModelSettings, SamplerSettings, TileSettings
from ..errors import ConfigError
from ..io.tokenizer import Tokenizer
from ..models.finding import COMPANIONS, TINY_FOLDER, open_part
from ..samplers import LINEAR, STABLE_DIFFUSION, Sampler
from ..seam.backend import Backend
from .autoencode import DecodeOptions, SpatialTiles
from .text_to_video import Parts

SCHEDULES = {"linear": LINEAR, "scaled_linear": STABLE_DIFFUSION}
PUBLISHED_OBJECTIVE, PUBLISHED_SCHEDULE = "v_prediction", "linear"
"""Of Open-Sora Plan v1.3, which has zero terminal SNR too."""
PIXELS_PER_LATENT = 8
"""Along each side, in every published autoencoder."""


def open_parts(model: ModelSettings, seed: int = 0, needs_text_weights: bool = False) -> Parts:
    """Find the models of a pipeline; a denoiser's preset has the others too, and a text encoder its tokeniser.

    seed: of a denoiser that is drawn anew. needs_text_weights: refuse a text encoder that is.
    Raises: as open_part and Tokenizer.open, and ConfigError for a model that is not named.
    """
    companions = COMPANIONS.get(model.denoiser, (None, None))
    names = {"text_encoder": model.text_encoder or companions[0], "vae": model.vae or companions[1]}
    for kind, name in names.items():
        if name is None:
            raise ConfigError(f"model.{kind}: name its folder, as model.denoiser = {model.denoiser} is one too")
    text_encoder = open_part("text_encoder", str(names["text_encoder"]))
    if needs_text_weights and text_encoder.is_fresh and text_encoder.source != "tiny":
        raise ConfigError(f"model.text_encoder: name the folder of its weights; {text_encoder.source} alone has none")
    tokenizer = model.tokenizer or (TINY_FOLDER if text_encoder.source == "tiny" else text_encoder.source)
    return Parts(
        denoiser=open_part("denoiser", model.denoiser, seed),
        text_encoder=text_encoder,
        vae=open_part("vae", str(names["vae"])),
        tokenizer=Tokenizer.open(tokenizer),
    )


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
