"""The task of training a denoiser."""

from __future__ import annotations

from dataclasses import replace

from ... import recipes
from ...config.training import TrainConfig
from ...data.labels import check_labels
from ...data.latent_cache import scaling_of
from ...data.loader import ClipLoader
from ...data.sources import has_labels, open_source
from ...errors import ConfigError
from ...io.prompts import read_prompts
from ...models.finding import Part
from ...models.kinds import DenoiserSpec, tokens_read
from ...parallel.agreement import agreed
from ...pipelines.following import shown_prompts
from ...pipelines.text_to_video import Parts, Precision, TextToVideo
from ...seam.backend import Backend
from ...seam.ranks import Ranks
from ..denoiser import DenoiserTask, FixedTimes, Showing
from ..encoders import CaptionEncoder
from ..inputs import DiffusionInputs, InputOptions
from ..model_folders import Adapting
from ..objectives import DrawsNoise
from ..start import Start
from ..stored import open_latent_cache, open_text_cache
from ..tuning import tuning_of
from .frozen import clip_encoder, text_encoder
from .objective import check_bound, frame_masks, make_objective
from .options import train_options
from .parts import TrainParts
from .readers import NO_PATCHES, Readers


def check_denoiser(config: TrainConfig, part: Part) -> None:
    """Raises: ConfigError for settings that do not go together, or that the denoiser has no use for."""
    make_objective(config.objective, config.batch_size * config.accumulate)
    frame_masks(config.objective)
    check_data(config, part)
    given, sees_channels = part.spec.given, "channels" in part.spec.given
    if sees_channels != (config.data.masks is not None):
        wish = "needs data.masks" if sees_channels else "has no use for data.masks"
        raise ConfigError(f"model.denoiser = {config.model.denoiser}: {wish}")
    if "latent_mask" not in given and not config.data.grouped:
        raise ConfigError(f"data.grouped = false: {part.family.title} takes clips of one size together; leave it true")
    check_bound(config.objective, part.spec.output, part.source)
    if "label" in given and config.caches.text is not None:
        raise ConfigError(f"caches.text: {part.source} reads classes, no texts; leave it out")
    if "frame_mask" not in given and config.objective.frame_masks:
        raise ConfigError(f"objective.frame_masks: {part.family.title} has no use for it; leave it out")


def check_data(config: TrainConfig, part: Part) -> None:
    """Raises: ConfigError for clips with captions where the denoiser reads labels, and the other way round."""
    reads_labels = "label" in part.spec.given
    for where, data in (("data", config.data), ("validation.data", config.validation.data)):
        if data is not None and has_labels(data) != reads_labels:
            wish = "class_folders or features, as it reads labels" if reads_labels else "files, as it reads texts"
            raise ConfigError(f"{where}.kind = {data.kind}: model.denoiser = {config.model.denoiser} needs {wish}")


def check_pictures(config: TrainConfig, parts: TrainParts) -> None:
    """Look over labelled pictures, before anything is written. Raises: as check_labels of core.data.labels."""
    known, vae = num_classes(parts.trained.spec), parts.vae
    if known is None or vae is None:
        return
    for data in filter(None, (config.data, config.validation.data)):
        check_labels(open_source(data), data, known, vae.spec.compression, scaling_of(vae.spec))


def num_classes(spec: DenoiserSpec) -> int | None:
    """That a denoiser knows; None where it reads no labels."""
    return spec.num_classes if "label" in spec.given else None


def denoiser_task(
    config: TrainConfig, backend: Backend, parts: TrainParts, start: Start, dtype: str, ranks: Ranks
) -> tuple[DenoiserTask, ClipLoader | None]:
    """As make_task of core.train.setup.task."""
    assert parts.vae is not None
    spec, vae = parts.trained.spec, parts.vae
    sees_channels = "channels" in spec.given
    learned_null = "is_null" in spec.given and recipes.named(config.model.recipe).prompts.negative is None
    showing = _showing(config, backend, parts, ranks, learned_null)
    objective = make_objective(config.objective, config.batch_size * config.accumulate)
    inputs = agreed(ranks.world, lambda: _inputs(config, objective, backend, parts, dtype, ranks))
    tuning = tuning_of(config, parts.trained)
    frozen = () if tuning.adapters else (*config.start.frozen, *parts.trained.layout.frozen)
    options = train_options(
        config.compute, config.optimizer, config.parallel, dtype, config.ema is not None, frozen, tuning
    )
    trainer = agreed(ranks.world, lambda: backend.train_denoiser(spec, start.weights, options, ranks))
    readers = Readers(
        seed=config.seed,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        compression=vae.spec.compression,
        patch=spec.patch if "latent_mask" in spec.given else NO_PATCHES,  # others pad clips of one size themselves
        recipe=config.model.recipe,
        num_classes=num_classes(spec),
        scaling=scaling_of(vae.spec),
        text_channels=None if parts.text_encoder is None else parts.text_encoder.spec.channels,
        text_pooled=parts.text_encoder is not None and parts.text_encoder.spec.pooled,
        keeps_dropped=learned_null,
    )
    held_out = agreed(ranks.world, lambda: readers.held_out(config.validation, config.data, ranks))
    loader = agreed(
        ranks.world,
        lambda: readers.open_share(
            config.data,
            ranks,
            lambda: open_latent_cache(config.caches, vae, config.data, config.seed, sees_channels),
        ),
    )
    times = config.validation.timesteps
    fixed = None if times is None else FixedTimes(objective, times)
    adapting = Adapting(tuning.adapters, start.base) if tuning.adapters else None
    return DenoiserTask(spec, trainer, inputs, held_out, showing, ranks, fixed, adapting), loader


def _showing(config: TrainConfig, backend: Backend, parts: TrainParts, ranks: Ranks, null: bool) -> Showing | None:
    """The videos that are sampled while training. null: the learned caption of nothing stands for the negative prompt.

    Raises: ConfigError when there is no prompt for them.
    """
    assert parts.vae is not None
    settings = config.show
    pipeline = TextToVideo(
        backend,
        Parts(parts.trained, parts.text_encoder, parts.vae, parts.tokenizer),
        Precision(attention=config.compute.attention),
        settings.max_tokens,
        ranks=replace(ranks, team=ranks.world),  # all ranks together make what is shown
    )
    if settings.every is not None and not settings.prompts:
        raise ConfigError(f"show.every = {settings.every}: needs show.prompts, or nothing is shown")
    prompts = agreed(ranks.world, lambda: _prompts(config))
    return Showing(pipeline, prompts, settings, config.seed, None if null else "") if prompts else None


def _prompts(config: TrainConfig) -> tuple[str, ...]:
    if not config.show.prompts:
        return ()
    return tuple(shown_prompts(config, [prompt.text for prompt in read_prompts(config.show.prompts)]))


def _inputs(
    config: TrainConfig, objective: DrawsNoise, backend: Backend, parts: TrainParts, dtype: str, ranks: Ranks
) -> DiffusionInputs | None:
    """For the leader of a team; nothing for others."""
    if not ranks.leads_team:
        return None
    settings, spec = config.objective, parts.trained.spec
    options = InputOptions(
        noise_offset=settings.noise_offset,
        condition_noise=settings.condition_noise,
        frame_masks=frame_masks(settings),
        drop_rates=spec.drop_rates if "kept" in spec.given else (),
        counts_alike=bool(settings.equal_micro_batches),
        padding_counts=bool(settings.padding_counts),
        list_side=spec.patch.space if spec.lists_patches else None,
    )
    return DiffusionInputs(
        config.seed,
        _texts(config, backend, parts, dtype, ranks),
        clip_encoder(config.compute, backend, parts, dtype),
        objective,
        options,
        spec.given,
    )


def _texts(config: TrainConfig, backend: Backend, parts: TrainParts, dtype: str, ranks: Ranks) -> CaptionEncoder | None:
    """Nothing for a denoiser that reads labels."""
    if parts.text_encoder is None or parts.tokenizer is None:
        return None
    max_tokens = tokens_read(parts.trained.spec, parts.text_encoder.spec, config.max_tokens)
    stored = open_text_cache(config.caches, parts.text_encoder, parts.tokenizer, max_tokens)
    return text_encoder(config.compute, backend, parts, dtype, max_tokens, stored, ranks.leaders)
