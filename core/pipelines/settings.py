"""From settings to what the pipelines take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import recipes, samplers
from ..config.schema import ModelSettings, SamplerSettings, TileSettings
from ..data.fingerprints import model_fingerprint
from ..errors import ConfigError
from ..io.any_tokenizer import AnyTokenizer, open_tokenizer
from ..models import FAMILIES
from ..models.finding import TRAINED, Part, beside, open_part, with_loras
from ..models.kinds import AutoencoderSpec
from ..models.run_folders import RunRecord, model_folder, record_of
from ..printable import short_name
from ..recipes.recipe import Recipe
from ..samplers import COGVIDEOX, LINEAR, SQUARED_COSINE, STABLE_DIFFUSION, Sampler
from ..seam.backend import DTYPES, Backend
from ..shapes import VideoShape
from .autoencode import DecodeOptions
from .denoise import Guidance
from .text_to_video import Parts
from .tiled import SpatialTiles

if TYPE_CHECKING:  # else `duosora sample` would wait for the settings of training to be imported
    from ..config.training import ComputeSettings

SCHEDULES = {
    "linear": LINEAR,
    "scaled_linear": STABLE_DIFFUSION,
    "squared_cosine": SQUARED_COSINE,
    "cogvideox": COGVIDEOX,
}
GIVEN = frozenset((
    *("text", "pooled", "is_null", "label", "fps", "height", "width", "num_frames", "ratio"),
    *("latent_mask", "frame_mask", "kept", "channels"),
))  # fmt: skip
"""What a denoiser may read."""
READ_OF_TEXTS = frozenset(("text", "pooled"))
"""Of these, what needs a text encoder."""


def open_parts(model: ModelSettings, seed: int = 0, needs_text_weights: bool = False) -> Parts:
    """Find the models of a pipeline; a denoiser's preset has the others too, and a text encoder its tokeniser. A
    denoiser that reads classes needs neither of these two.

    seed: of a denoiser that is drawn anew. needs_text_weights: refuse a text encoder that is.
    Raises: as open_part and open_tokenizer, and ConfigError for a model that is not named,
    and for a denoiser and an autoencoder that do not belong together.
    """
    model = with_companions(model)
    denoiser = open_part("denoiser", model.denoiser, seed)  # first: one that is not there needs no companions
    denoiser = _told(with_loras(denoiser, [(each.file, each.scale) for each in model.lora]))
    if model.lora_mode == "applied":
        denoiser = beside(denoiser)
    reads_text = bool(denoiser.spec.given & READ_OF_TEXTS)
    for kind in ("text_encoder", "vae") if reads_text else ("vae",):
        if getattr(model, kind) is None:
            raise ConfigError(f"model.{kind}: name its folder, as model.denoiser = {model.denoiser} is one too")
    text_encoder, tokenizer = _open_texts(model, denoiser, needs_text_weights) if reads_text else (None, None)
    if denoiser.spec.given - GIVEN:
        asked = ", ".join(sorted(denoiser.spec.given - GIVEN))
        raise ConfigError(f"model.denoiser = {model.denoiser}: it reads {asked}, which no run gives yet")
    parts = Parts(
        denoiser=denoiser,
        text_encoder=text_encoder,
        vae=open_part("vae", str(model.vae)),
        tokenizer=tokenizer,
    )
    parts.check_latents()
    return parts


def _told(denoiser: Part) -> Part:
    """With a note where LoRA says that it was trained for another model of this kind."""
    if len(denoiser.loras) != 1 or denoiser.base is None or denoiser.base.is_fresh:
        return denoiser  # of several, the later ones may have been trained for the model with the first
    made_for, source = denoiser.loras[0].lora.base, denoiser.loras[0].lora.source
    if made_for.get("fingerprint") in (None, model_fingerprint(denoiser.base)):
        return denoiser
    line = f"{source}: was trained for other weights ({short_name(str(made_for.get('source')))})"
    return replace(denoiser, notes=(*denoiser.notes, line))


def _open_texts(model: ModelSettings, denoiser: Part, needs_weights: bool) -> tuple[Part, AnyTokenizer]:
    text_encoder = _read_by(denoiser, open_part("text_encoder", str(model.text_encoder)))
    if needs_weights and text_encoder.is_fresh and text_encoder.source not in TRAINED:
        raise ConfigError(f"model.text_encoder: name the folder of its weights; {text_encoder.source} alone has none")
    return text_encoder, open_tokenizer(model.tokenizer or TRAINED.get(text_encoder.source, Path(text_encoder.source)))


def _read_by(denoiser: Part, encoder: Part) -> Part:
    """A text encoder that gives what a denoiser reads of a text: one vector, or the states of its tokens.

    Raises: ConfigError for an encoder that cannot.
    """
    pooled = "pooled" in denoiser.spec.given
    if encoder.spec.pooled == pooled:
        return encoder
    try:
        return replace(encoder, spec=replace(encoder.spec, pooled=pooled))
    except ConfigError as error:
        raise ConfigError(f"model.text_encoder = {encoder.source}: {error}") from error


def with_companions(model: ModelSettings) -> ModelSettings:
    """With the text encoder, the tokeniser and the autoencoder that go with the denoiser, where they are not named: a
    preset has its own, and a model of one's own run those that it was trained with.

    Raises: ConfigError when one of these is no more where it was; CheckpointError when the record cannot be read.
    """
    found = _companions_of_preset(model.denoiser)
    if not found:
        record = record_of(model_folder(Path(model.denoiser)).path)
        found = {} if record is None else _recorded_companions(record, model)
    unset = {kind: place for kind, place in found.items() if getattr(model, kind) is None}
    return model.model_copy(update=unset)


def pinned(model: ModelSettings, parts: Parts) -> ModelSettings:
    """With the folders that were found, so that the same models are found again when runs have gone on."""
    named = model if recipes.of_preset("denoiser", model.denoiser) else with_companions(model)
    found = {kind: part for kind, part in parts.all.items() if kind != "denoiser"}
    folders = {kind: Path(part.source) for kind, part in found.items() if getattr(named, kind) is not None}
    return named.model_copy(update={"denoiser": parts.denoiser.source, **folders})


def _companions_of_preset(denoiser: str) -> dict[str, Path]:
    """Those of its recipe; nothing for what is no preset."""
    recipe = recipes.of_preset("denoiser", denoiser)
    if recipe is None:
        return {}
    spec = open_part("denoiser", denoiser).spec
    read = {"text_encoder": spec.text_channels or spec.pooled_channels, "vae": spec.latent_channels}
    return {kind: Path(preset) for kind, channels in read.items() if (preset := _fitting(recipe, kind, channels))}


def _fitting(recipe: Recipe, kind: str, channels: int) -> str | None:
    """Of its presets of a kind the first that gives so many channels, or else the usual one; None: it has none."""
    presets, name = recipe.parts.get(kind, ()), "channels" if kind == "text_encoder" else "latent_channels"
    fitting = (preset for preset in presets if getattr(open_part(kind, preset).spec, name) == channels)
    return next(fitting, recipe.part(kind))


def _recorded_companions(record: RunRecord, model: ModelSettings) -> dict[str, Path]:
    """Those that the run's settings name, and those that went with its own denoiser; not those that `model` names."""
    wanted = [kind for kind in ("text_encoder", "vae") if getattr(model, kind) is None]
    if "text_encoder" in wanted and model.tokenizer is None:
        wanted.append("tokenizer")
    denoiser = record.text("model.denoiser")
    found = _companions_of_preset(denoiser or "")
    for kind in wanted:
        written = record.models.get(kind) or record.text(f"model.{kind}")
        if isinstance(written, str):
            found[kind] = _find_companion(record, kind, written)
    return found


def _find_companion(record: RunRecord, kind: str, written: str) -> Path:
    if any(written in family.presets for family in FAMILIES if family.kind == kind):
        return Path(written)
    found = record.find(written)
    if found is None:
        raise ConfigError(
            f"model.{kind}: {record.checkpoint} was trained with {written}, which is not there "
            f"({', '.join(map(str, record.places(written)))}); name its folder as model.{kind}"
        )
    return found


def default_dtype(backend: Backend) -> str:
    """The compute dtype where none is set: half precision is what accelerators are fast at, and not all CPUs are.

    Those with AVX512-BF16 or AMX are nearly twice as fast in bf16; its rounding has to be asked for.
    """
    return "fp32" if backend.on_host else "bf16"


def chosen_dtype(backend: Backend, dtype: str | None, setting: str, allows_slow: bool) -> str:
    """The compute dtype of a model: what its setting says, or the default.

    Raises: ConfigError for one that the device is slow in, unless a setting beside it, allow_slow_dtype, asks for it.
    """
    if dtype is None:
        return default_dtype(backend)
    if dtype in backend.slow_dtypes and not allows_slow:
        others = " or ".join(name for name in DTYPES if name not in backend.slow_dtypes)
        group = setting.partition(".")[0]
        beside = f"{group}.allow_slow_dtype" if group != setting else "allow_slow_dtype"
        raise ConfigError(
            f"{setting} = {dtype}: on {backend.device} that is 40 to 100 times slower than fp32; use {others}, or set "
            f"{beside}=true to have it all the same"
        )
    return dtype


def compute_dtype(backend: Backend, settings: ComputeSettings) -> str:
    """The compute dtype of a training run. Raises: as chosen_dtype, of that of its frozen models too."""
    chosen_dtype(backend, settings.frozen_dtype, "compute.frozen_dtype", settings.allow_slow_dtype)
    return chosen_dtype(backend, settings.dtype, "compute.dtype", settings.allow_slow_dtype)


def decode_options(autoencoder: AutoencoderSpec, chunk: int | None, tile: TileSettings | None) -> DecodeOptions:
    """Raises: ConfigError when a tile is no whole number of latents."""
    if tile is None:
        return DecodeOptions(chunk=chunk)
    side = autoencoder.compression.space
    for name, pixels in (("size", tile.size), ("overlap", tile.overlap)):
        if pixels % side:
            raise ConfigError(f"tile.{name} = {pixels}: needs a multiple of {side} pixels")
    return DecodeOptions(chunk=chunk, tiles=SpatialTiles(tile.size // side, tile.overlap // side))


def guidance_of(settings: SamplerSettings) -> Guidance:
    """How predictions with and without the prompt are combined."""
    return Guidance(settings.guidance, settings.guidance_rescale, settings.guidance_channels)


def make_sampler(settings: SamplerSettings, video: VideoShape | None = None) -> Sampler:
    """A fresh sampling run. video: whose size some samplers' times depend on.

    Raises: ConfigError for settings that the sampler has no use for or cannot do.
    """
    options: dict[str, Any] = dict(settings.options)
    samplers.check_options(settings.name, options)
    return samplers.create(
        settings.name,
        settings.steps,
        objective=settings.objective,
        path=settings.path,
        schedule=SCHEDULES[settings.schedule] if settings.schedule else None,
        zero_terminal_snr=settings.zero_terminal_snr,
        spacing=settings.spacing,
        shift=settings.shift,
        size=video,
        **options,
    )
