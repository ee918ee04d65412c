"""From the settings of a training run to its parts: models, loader, objective, task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..backend import Backend
from ..config.training import TrainConfig
from ..data.latent_cache import LatentCache
from ..data.loader import Loader
from ..data.sources import open_source
from ..data.text_cache import TextCache, text_identity
from ..errors import ConfigError
from ..io.tokenizer import Tokenizer
from ..models.recognise import COMPANIONS, TINY_FOLDER, Part, open_part
from ..pipelines.text_to_video import Parts, Precision, TextToVideo
from ..samplers.schedule import COGVIDEOX, LINEAR, STABLE_DIFFUSION, FlowSchedule
from .denoiser import DenoiserTask, Showing
from .encoders import ClipEncoder, TextEncoder
from .inputs import DiffusionInputs, InputOptions
from .loop import Task
from .objectives import DiffusionObjective, FlowObjective, Objective
from .start import Start
from .step import AdamW, TrainOptions
from .timesteps import TimestepDraw

SCHEDULES = {"linear": LINEAR, "scaled_linear": STABLE_DIFFUSION, "cogvideox": COGVIDEOX}
HELD_OUT_SEED = 1
"""Added to the run's, for the clips that it is measured on."""


@dataclass(frozen=True)
class TrainParts:
    """The models of a run, known but not loaded."""

    trained: Part
    text_encoder: Part | None
    """None where an autoencoder is trained."""
    vae: Part | None
    tokenizer: Tokenizer | None


def train_parts(config: TrainConfig) -> TrainParts:
    """Find the models. Raises: as open_part, and ConfigError for one that is not named."""
    model = config.model
    if config.autoencoder is not None:
        return TrainParts(open_part("vae", str(model.vae or "tiny"), config.seed), None, None, None)
    companions = COMPANIONS.get(model.denoiser, (None, None))
    names = {"text_encoder": model.text_encoder or companions[0], "vae": model.vae or companions[1]}
    for kind, name in names.items():
        if name is None:
            raise ConfigError(f"model.{kind}: name its folder, as model.denoiser = {model.denoiser} is one too")
    text_encoder = open_part("text_encoder", str(names["text_encoder"]))
    if text_encoder.is_fresh and text_encoder.source != "tiny":
        raise ConfigError(f"model.text_encoder: name the folder of its weights; {text_encoder.source} alone has none")
    tokenizer = model.tokenizer or (TINY_FOLDER if text_encoder.source == "tiny" else text_encoder.source)
    return TrainParts(
        trained=open_part("denoiser", model.denoiser, config.seed),
        text_encoder=text_encoder,
        vae=open_part("vae", str(names["vae"])),
        tokenizer=Tokenizer.open(tokenizer),
    )


def make_task(
    config: TrainConfig, backend: Backend, parts: TrainParts, start: Start, dtype: str
) -> tuple[Task, Loader]:
    """Build the models and open the data. Raises: DuosoraError of the part that does not fit."""
    return _denoiser(config, backend, parts, start, dtype)


def _denoiser(
    config: TrainConfig, backend: Backend, parts: TrainParts, start: Start, dtype: str
) -> tuple[DenoiserTask, Loader]:
    assert parts.text_encoder is not None
    assert parts.vae is not None
    assert parts.tokenizer is not None
    spec, vae = parts.trained.spec, parts.vae.spec
    pipeline = TextToVideo(
        backend,
        Parts(parts.trained, parts.text_encoder, parts.vae, parts.tokenizer),
        Precision(attention=config.compute.attention),
        config.show.max_tokens,
    )
    if spec.is_inpaint != (config.data.masks is not None):
        wish = "needs data.masks" if spec.is_inpaint else "has no use for data.masks"
        raise ConfigError(f"model.denoiser = {config.model.denoiser}: {wish}")
    frozen_dtype = config.compute.frozen_dtype or dtype
    stored = None
    if config.caches.text is not None:
        stored = TextCache(config.caches.text, text_identity(parts.text_encoder, parts.tokenizer, config.max_tokens))
    texts = TextEncoder(backend, parts.text_encoder, parts.tokenizer, frozen_dtype, config.max_tokens, stored)
    clips = ClipEncoder(backend, parts.vae, frozen_dtype, config.compute.encode_chunk)
    objective = make_objective(config)
    options = InputOptions(config.objective.noise_offset, config.objective.condition_noise)
    inputs = DiffusionInputs(config.seed, texts, clips, objective, options, spec.is_inpaint)
    trainer = backend.train_denoiser(spec, start.weights, train_options(config, dtype))
    held_out = _held_out_loader(config, vae.compression, spec.patch)
    showing = Showing(pipeline, config.show.prompts, config.show, config.seed) if config.show.prompts else None
    task = DenoiserTask(spec, trainer, inputs, held_out, config.validation.batches, showing)
    return task, _loader(config, vae.compression, spec.patch, parts)


def _loader(config: TrainConfig, compression: Any, patch: Any, parts: TrainParts) -> Loader:
    moments_of = None
    if config.caches.latents is not None and parts.vae is not None:
        moments_of = LatentCache(config.caches.latents).moments
    return Loader(
        open_source(config.data),
        config.data,
        config.seed,
        compression,
        patch,
        micro_batch=config.batch_size,
        accumulation=config.accumulate,
        moments_of=moments_of,
    )


def _held_out_loader(config: TrainConfig, compression: Any, patch: Any) -> Loader | None:
    """The clips that a run is measured on; their captions are never dropped."""
    data = config.validation.data
    if config.validation.every is None or (data is None and config.data.kind != "moving_shapes"):
        return None
    settings = (data or config.data).model_copy(update={"caption_dropout": 0.0})
    seed = config.seed + HELD_OUT_SEED
    source = open_source(settings, is_held_out=True)
    return Loader(source, settings, seed, compression, patch, micro_batch=config.batch_size)


def make_objective(config: TrainConfig) -> Objective:
    """What a denoiser is trained on. Raises: ConfigError for settings that do not go together."""
    settings = config.objective
    timesteps = TimestepDraw(**settings.timesteps.model_dump(), global_batch=config.batch_size * config.accumulate)
    if settings.kind == "flow":
        return FlowObjective(
            schedule=FlowSchedule(shift=settings.shift), weighting=settings.weighting, timesteps=timesteps
        )
    if settings.shift != 1.0 or settings.weighting != "none":
        raise ConfigError(f"objective.shift and objective.weighting are for flow, not for {settings.kind}")
    schedule = replace(SCHEDULES[settings.schedule], zero_terminal_snr=settings.zero_terminal_snr)
    return DiffusionObjective(kind=settings.kind, schedule=schedule, snr_gamma=settings.snr_gamma, timesteps=timesteps)


def train_options(config: TrainConfig, dtype: str) -> TrainOptions:
    """What the backend is told."""
    optimizer = config.optimizer
    return TrainOptions(
        dtype=dtype,
        attention=config.compute.attention,
        optimizer=AdamW(betas=optimizer.betas, eps=optimizer.eps, weight_decay=optimizer.weight_decay),
        optimizer_name=optimizer.name,
        max_grad_norm=optimizer.max_grad_norm,
        keeps_ema=config.ema is not None,
        recompute_every=config.compute.recompute_every,
        frozen=config.start.frozen,
        compile=config.compute.compile,
    )
