"""From the settings of a training run to its parts: models, loader, objective, task."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..config.training import AutoencoderSettings, TrainConfig
from ..data.latent_cache import LatentCache
from ..data.loader import ClipLoader
from ..data.sources import RecordSource, open_source
from ..errors import ConfigError, DuosoraError
from ..io.prompts import read_prompts
from ..io.tokenizer import Tokenizer
from ..layout import FreshWeights
from ..models.finding import Part, open_part
from ..models.lpips import open_lpips
from ..models.patch_discriminator import PatchDiscriminatorSpec
from ..parallel.agreement import agreed
from ..pipelines.settings import SCHEDULES, open_parts
from ..pipelines.text_to_video import Parts, Precision, TextToVideo
from ..samplers.schedule import FlowSchedule
from ..seam.backend import Backend
from ..seam.group import Group
from ..seam.ranks import Ranks
from ..seam.training import AdamW, Companion, TrainOptions
from ..shapes import Compression, Patch
from .autoencoder import AutoencoderTask, losses_of
from .denoiser import DenoiserTask, Showing
from .encoders import CaptionEncoder, ClipEncoder, StoredTexts
from .held_out import HeldOut
from .inputs import DiffusionInputs, InputOptions
from .loop import Task
from .objectives import DiffusionObjective, FlowObjective, Objective
from .start import Start
from .stored import RecordTexts, open_latent_cache, open_text_cache
from .timesteps import TimestepDraw

NO_PATCHES = Patch(1, 1)
"""An autoencoder's clips need not fit any."""
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
    perceptual: Companion | None = None
    """The LPIPS that an autoencoder is trained with."""

    @property
    def frozen(self) -> dict[str, Part]:
        """The models that are used but not trained, by kind."""
        kinds = {"text_encoder": self.text_encoder, "vae": self.vae}
        return {kind: part for kind, part in kinds.items() if part is not None}


def train_parts(config: TrainConfig) -> TrainParts:
    """Find the models. Raises: as open_parts and open_lpips."""
    if config.autoencoder is not None:
        trained = open_part("vae", str(config.model.vae or "tiny"), config.seed)
        return TrainParts(trained, None, None, None, _perceptual(config.autoencoder))
    parts = open_parts(config.model, config.seed, needs_text_weights=True)
    return TrainParts(parts.denoiser, parts.text_encoder, parts.vae, parts.tokenizer)


def make_task(
    config: TrainConfig, backend: Backend, parts: TrainParts, start: Start, dtype: str, ranks: Ranks
) -> tuple[Task, ClipLoader | None]:
    """Build the models and open the data, which of several ranks the leaders of teams do.

    Raises: DuosoraError of the part that does not fit, on all ranks.
    """
    if config.autoencoder is not None:
        return _autoencoder(config, config.autoencoder, backend, parts, start, dtype, ranks)
    return _denoiser(config, backend, parts, start, dtype, ranks)


def _autoencoder(
    config: TrainConfig,
    settings: AutoencoderSettings,
    backend: Backend,
    parts: TrainParts,
    start: Start,
    dtype: str,
    ranks: Ranks,
) -> tuple[AutoencoderTask, ClipLoader | None]:
    if config.data.autoencoder is None:
        raise ConfigError("data.autoencoder: an autoencoder is trained on clips at a stride; set it, if only to {}")
    if config.caches.text or config.caches.latents:
        raise ConfigError("caches: an autoencoder is trained on the pixels of its clips; leave text and latents out")
    spec = parts.trained.spec
    judge = PatchDiscriminatorSpec()
    discriminator = Companion(judge, FreshWeights(judge.layout(), config.seed))
    trainer = agreed(
        ranks.world,
        lambda: backend.train_autoencoder(
            spec,
            start.weights,
            losses_of(settings),
            train_options(config, dtype),
            discriminator if settings.discriminator_factor else None,
            parts.perceptual,
            ranks,
        ),
    )
    held_out = agreed(ranks.world, lambda: _held_out(config, spec.compression, NO_PATCHES, ranks))
    loader = agreed(
        ranks.world, lambda: _share(config, spec.compression, NO_PATCHES, ranks) if ranks.leads_team else None
    )
    return AutoencoderTask(spec, trainer, backend, settings, config.seed, held_out, ranks), loader


def _perceptual(settings: AutoencoderSettings) -> Companion | None:
    """The LPIPS that autoencoders are trained with. Raises: ConfigError and CheckpointError when it is not there."""
    if not settings.perceptual_weight:
        return None
    if settings.perceptual_backbone is None:
        raise ConfigError(
            f"autoencoder.perceptual_weight = {settings.perceptual_weight:g} needs autoencoder.perceptual_backbone, a "
            "folder with VGG16 and the LPIPS heads (docs/evaluation.md says how to make it); 0 leaves LPIPS out"
        )
    return Companion(*open_lpips(settings.perceptual_backbone))


def _denoiser(
    config: TrainConfig, backend: Backend, parts: TrainParts, start: Start, dtype: str, ranks: Ranks
) -> tuple[DenoiserTask, ClipLoader | None]:
    assert parts.text_encoder is not None
    assert parts.vae is not None
    assert parts.tokenizer is not None
    spec, vae_part, vae = parts.trained.spec, parts.vae, parts.vae.spec
    pipeline = TextToVideo(
        backend,
        Parts(parts.trained, parts.text_encoder, parts.vae, parts.tokenizer),
        Precision(attention=config.compute.attention),
        config.show.max_tokens,
        ranks=replace(ranks, team=ranks.world),  # all ranks together make what is shown
    )
    if config.show.every is not None and not config.show.prompts:
        raise ConfigError(f"show.every = {config.show.every}: needs show.prompts, or nothing is shown")
    shown = agreed(ranks.world, lambda: _shown_prompts(config))
    sees_channels = "channels" in spec.given
    if sees_channels != (config.data.masks is not None):
        wish = "needs data.masks" if sees_channels else "has no use for data.masks"
        raise ConfigError(f"model.denoiser = {config.model.denoiser}: {wish}")
    inputs = agreed(ranks.world, lambda: _inputs(config, backend, parts, dtype, ranks) if ranks.leads_team else None)
    options = train_options(config, dtype)
    trainer = agreed(ranks.world, lambda: backend.train_denoiser(spec, start.weights, options, ranks))
    channels = parts.text_encoder.spec.channels
    held_out = agreed(ranks.world, lambda: _held_out(config, vae.compression, spec.patch, ranks, channels))

    def open_share() -> ClipLoader | None:
        if not ranks.leads_team:
            return None
        latents = open_latent_cache(config.caches, vae_part, config.data, config.seed, sees_channels)
        return _share(config, vae.compression, spec.patch, ranks, channels, latents)

    loader = agreed(ranks.world, open_share)
    showing = Showing(pipeline, shown, config.show, config.seed) if shown else None
    return DenoiserTask(spec, trainer, inputs, held_out, showing, ranks), loader


def _shown_prompts(config: TrainConfig) -> tuple[str, ...]:
    return tuple(prompt.text for prompt in read_prompts(config.show.prompts)) if config.show.prompts else ()


def _inputs(config: TrainConfig, backend: Backend, parts: TrainParts, dtype: str, ranks: Ranks) -> DiffusionInputs:
    """For the leader of a team."""
    assert parts.text_encoder is not None
    assert parts.tokenizer is not None
    stored = open_text_cache(config.caches, parts.text_encoder, parts.tokenizer, config.max_tokens)
    texts = text_encoder(config, backend, parts, dtype, stored, ranks.leaders)
    clips = clip_encoder(config, backend, parts, dtype)
    options = InputOptions(config.objective.noise_offset, config.objective.condition_noise)
    sees_channels = "channels" in parts.trained.spec.given
    return DiffusionInputs(config.seed, texts, clips, make_objective(config), options, sees_channels)


def text_encoder(
    config: TrainConfig,
    backend: Backend,
    parts: TrainParts,
    dtype: str,
    stored: StoredTexts | None = None,
    leaders: Group | None = None,
) -> CaptionEncoder:
    """The run's frozen text encoder.

    dtype: of the run, where `compute.frozen_dtype` is not set. leaders: those who have one model between them.
    """
    assert parts.text_encoder is not None
    assert parts.tokenizer is not None
    frozen = config.compute.frozen_dtype or dtype
    part, tokenizer = parts.text_encoder, parts.tokenizer
    return CaptionEncoder(backend, part, tokenizer, frozen, config.max_tokens, stored, leaders=leaders)


def clip_encoder(config: TrainConfig, backend: Backend, parts: TrainParts, dtype: str) -> ClipEncoder:
    """The run's frozen autoencoder. dtype: of the run, where `compute.frozen_dtype` is not set."""
    assert parts.vae is not None
    return ClipEncoder(backend, parts.vae, config.compute.frozen_dtype or dtype, config.compute.encode_chunk)


def _share(
    config: TrainConfig,
    compression: Compression,
    patch: Patch,
    ranks: Ranks,
    channels: int | None = None,
    latents: LatentCache | None = None,
) -> ClipLoader:
    """For the leader of a team, its share of the clips."""
    plan = ranks.plan
    return open_loader(config, compression, patch, channels, latents, plan.data, plan.place(ranks.rank).data)


def open_loader(
    config: TrainConfig,
    compression: Compression,
    patch: Patch,
    channels: int | None = None,
    latents: LatentCache | None = None,
    readers: int = 1,
    reader: int = 0,
) -> ClipLoader:
    """The clips that a run is trained on, or the share of one of several readers.

    channels: of text states, for records that bring them. latents: instead of pixels.
    """
    source = open_source(config.data)
    return ClipLoader(
        source,
        config.data,
        config.seed,
        compression,
        patch,
        micro_batch=config.batch_size,
        accumulation=config.accumulate,
        readers=readers,
        reader=reader,
        text_of=_record_texts(source, channels),
        moments_of=None if latents is None else latents.moments,
    )


def _record_texts(source: RecordSource, channels: int | None) -> RecordTexts | None:
    """For a loader where a record brings text states."""
    brings_states = any(source.record(number).embeddings is not None for number in range(len(source)))
    return RecordTexts(channels) if channels is not None and brings_states else None


def _held_out(
    config: TrainConfig, compression: Compression, patch: Patch, ranks: Ranks, channels: int | None = None
) -> HeldOut | None:
    """What a run is measured on: leaders of teams read their share, and all ranks take part."""
    if not _is_measured(config):
        return None
    loader = held_out_loader(config, compression, patch, channels) if ranks.leads_team else None
    return HeldOut(loader, config.validation.batches, ranks)


def _is_measured(config: TrainConfig) -> bool:
    every = config.validation.every
    if every is not None and config.validation.data is None and config.data.kind != "moving_shapes":
        raise ConfigError(f"validation.every = {every}: needs validation.data, or nothing is measured")
    return every is not None


def held_out_loader(
    config: TrainConfig, compression: Compression, patch: Patch, channels: int | None = None
) -> ClipLoader | None:
    """The clips that a run is measured on; their captions are never dropped."""
    if not _is_measured(config):
        return None
    data = config.validation.data or config.data
    settings = data.model_copy(update={"caption_dropout": 0.0})
    seed = config.seed + HELD_OUT_SEED
    try:
        source = open_source(settings, is_held_out=True)
        return ClipLoader(
            source,
            settings,
            seed,
            compression,
            patch,
            micro_batch=config.batch_size,
            mixes_sizes=True,
            text_of=_record_texts(source, channels),
        )
    except DuosoraError as error:
        raise type(error)(f"validation: {error}") from error


def make_objective(config: TrainConfig) -> Objective:
    """What a denoiser is trained on. Raises: ConfigError for settings that do not go together."""
    settings = config.objective
    timesteps = TimestepDraw(**settings.timesteps.model_dump(), global_batch=config.batch_size * config.accumulate)
    if settings.kind == "flow":
        return FlowObjective(
            schedule=FlowSchedule(shift=settings.shift or 1.0), weighting=settings.weighting, timesteps=timesteps
        )
    if settings.kind == "rflow":
        raise ConfigError("objective.kind = rflow: no run trains this yet; flow is the same towards the noise")
    if (settings.shift or 1.0) != 1.0 or settings.weighting != "none":
        raise ConfigError(
            f"objective.shift and objective.weighting are for flow, not for {settings.kind}; leave them out, or set "
            "objective.shift=1 and objective.weighting=none"
        )
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
        zero=config.parallel.zero,
        engine=config.parallel.engine,
    )
