"""The task of training a denoiser."""

from __future__ import annotations

from dataclasses import replace

from ...config.training import ShowSettings, TrainConfig
from ...data.loader import ClipLoader
from ...errors import ConfigError
from ...io.prompts import read_prompts
from ...parallel.agreement import agreed
from ...pipelines.text_to_video import Parts, Precision, TextToVideo
from ...seam.backend import Backend
from ...seam.ranks import Ranks
from ..denoiser import DenoiserTask, Showing
from ..inputs import DiffusionInputs, InputOptions
from ..start import Start
from ..stored import open_latent_cache, open_text_cache
from .frozen import clip_encoder, text_encoder
from .objective import make_objective
from .options import train_options
from .parts import TrainParts
from .readers import Readers


def denoiser_task(
    config: TrainConfig, backend: Backend, parts: TrainParts, start: Start, dtype: str, ranks: Ranks
) -> tuple[DenoiserTask, ClipLoader | None]:
    """As make_task of core.train.setup.task."""
    assert parts.text_encoder is not None
    assert parts.vae is not None
    spec, vae = parts.trained.spec, parts.vae
    sees_channels = "channels" in spec.given
    showing = _showing(config.show, config.compute.attention, config.seed, backend, parts, ranks)
    if sees_channels != (config.data.masks is not None):
        wish = "needs data.masks" if sees_channels else "has no use for data.masks"
        raise ConfigError(f"model.denoiser = {config.model.denoiser}: {wish}")
    inputs = agreed(ranks.world, lambda: _inputs(config, backend, parts, dtype, ranks) if ranks.leads_team else None)
    options = train_options(
        config.compute, config.optimizer, config.parallel, dtype, config.ema is not None, config.start.frozen
    )
    trainer = agreed(ranks.world, lambda: backend.train_denoiser(spec, start.weights, options, ranks))
    readers = Readers(
        seed=config.seed,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        compression=vae.spec.compression,
        patch=spec.patch,
        recipe=config.model.recipe,
        text_channels=parts.text_encoder.spec.channels,
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
    return DenoiserTask(spec, trainer, inputs, held_out, showing, ranks), loader


def _showing(
    settings: ShowSettings, attention: str, seed: int, backend: Backend, parts: TrainParts, ranks: Ranks
) -> Showing | None:
    """The videos that are sampled while training. Raises: ConfigError when there is no prompt for them."""
    assert parts.text_encoder is not None
    assert parts.vae is not None
    assert parts.tokenizer is not None
    pipeline = TextToVideo(
        backend,
        Parts(parts.trained, parts.text_encoder, parts.vae, parts.tokenizer),
        Precision(attention=attention),
        settings.max_tokens,
        ranks=replace(ranks, team=ranks.world),  # all ranks together make what is shown
    )
    if settings.every is not None and not settings.prompts:
        raise ConfigError(f"show.every = {settings.every}: needs show.prompts, or nothing is shown")
    prompts = agreed(ranks.world, lambda: _texts(settings.prompts))
    return Showing(pipeline, prompts, settings, seed) if prompts else None


def _texts(prompts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(prompt.text for prompt in read_prompts(prompts)) if prompts else ()


def _inputs(config: TrainConfig, backend: Backend, parts: TrainParts, dtype: str, ranks: Ranks) -> DiffusionInputs:
    """For the leader of a team."""
    assert parts.text_encoder is not None
    assert parts.tokenizer is not None
    stored = open_text_cache(config.caches, parts.text_encoder, parts.tokenizer, config.max_tokens)
    return DiffusionInputs(
        config.seed,
        text_encoder(config.compute, backend, parts, dtype, config.max_tokens, stored, ranks.leaders),
        clip_encoder(config.compute, backend, parts, dtype),
        make_objective(config.objective, config.batch_size * config.accumulate),
        InputOptions(config.objective.noise_offset, config.objective.condition_noise),
        "channels" in parts.trained.spec.given,
    )
