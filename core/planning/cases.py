"""From settled runs to what is planned of them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from ..caching import CacheKind
from ..layout import Layout
from ..models.lora.adapter import adapter_layout
from ..models.lpips import LPIPSSpec
from ..models.patch_discriminator import PatchDiscriminatorSpec
from ..pipelines.following import EXAMPLE
from ..pipelines.jobs import Job, by_size
from ..pipelines.settled import SettledRun
from ..recipes import named
from ..seam.ranks import ParallelPlan
from ..shapes import Patch, VideoShape
from .sampling import SamplingCase
from .training import TrainingCase

if TYPE_CHECKING:  # else `duosora sample` would wait for all that trains to be imported
    from ..config.training import TrainConfig
    from ..train.setup.parts import TrainParts

MOST_TEXTS = 1000
"""That are tokenised to plan; of more, the others are taken to be alike."""
CACHED_SHARE = 0.8
"""Guessed: of the calls that a cache may leave out, those that it does, as most hardly differ."""
ADAPTIVE_CALLS = 50
"""Guessed of samplers that take as many as their error asks for."""


def sampling_case(settled: SettledRun, jobs: Sequence[Job]) -> SamplingCase:
    """What a `sample` run needs."""
    pipeline, sampler = settled.pipeline, settled.sampler()
    parts, precision, options = pipeline.parts, pipeline.precision, pipeline.decode_options
    return SamplingCase(
        denoiser=parts.denoiser.spec,
        vae=parts.vae.spec,
        text_encoder=None if parts.text_encoder is None else parts.text_encoder.spec,
        dtypes={kind: getattr(precision, kind) for kind in parts.all},
        offload=precision.offload,
        streams_text_encoder=precision.streams_text_encoder,
        fresh=frozenset(kind for kind, part in parts.all.items() if part.is_fresh),
        videos={video: len(alike) for video, alike in by_size(jobs).items()},
        calls=ADAPTIVE_CALLS if sampler.adapts else len(sampler.timesteps),
        is_guided=settled.guidance.is_on,
        texts=_texts(settled, jobs),
        batch=settled.config.batch_size,
        left_out=0.0 if pipeline.cache is None else _left_out(pipeline.cache, len(sampler.timesteps)),
        clips=settled.loops.count,
        chunk=options.chunk,
        tile=None if options.tiles is None else options.tiles.size,
        split=pipeline.ranks.plan,
    )


def _left_out(cache: CacheKind, calls: int) -> float:
    """The share of calls that leave out blocks: of those that may, what a cache is guessed to find alike."""
    free = max(0, calls - max(1, cache.warmup) - cache.keep_last)
    row = cache.most_reused or getattr(cache, "interval", 2) - 1
    return CACHED_SHARE * free / max(1, calls) * row / (row + 1)


def _texts(settled: SettledRun, jobs: Sequence[Job]) -> tuple[int, ...]:
    """Tokens of each different text."""
    pipeline = settled.pipeline
    if pipeline.parts.tokenizer is None:
        return ()
    texts = [text for job in jobs for text in (*job.texts, job.negative) if text is not None]
    unique = list(dict.fromkeys(texts))
    _, mask, _ = pipeline.parts.tokenizer.encode(unique[:MOST_TEXTS], pipeline.max_tokens)
    lengths = [int(length) for length in mask.sum(axis=1)]
    return (*lengths, *[max(lengths)] * (len(unique) - len(lengths)))


CAPTION_TOKENS = 120
"""Assumed of captions that nobody has read; those of moving shapes are all about as long as EXAMPLE."""


def training_case(config: TrainConfig, parts: TrainParts, dtype: str, split: ParallelPlan) -> TrainingCase:
    """What a step of a `train` run needs, for its largest clips. dtype: that it computes in."""
    from ..train.tuning import Tuning, tuning_of

    denoiser = None if config.autoencoder is not None else parts.trained.spec
    vae = (parts.vae or parts.trained).spec
    video, batch = _largest(config, parts)
    layout = parts.trained.layout
    frozen = (*config.start.frozen, *layout.frozen, *layout.untrained)
    tuning = tuning_of(config, parts.trained) if config.autoencoder is None else Tuning()
    left = sum(
        _size(layout, name)
        for name in layout.weights
        if (frozen and name.startswith(frozen)) or (tuning.only and not tuning.adapters and name not in tuning.only)
    )
    judged = config.autoencoder is not None and config.autoencoder.discriminator_factor > 0
    looked_at = config.autoencoder is not None and config.autoencoder.perceptual_weight > 0
    return TrainingCase(
        denoiser=denoiser,
        vae=vae,
        text_encoder=None if parts.text_encoder is None else parts.text_encoder.spec,
        video=video,
        batch=batch,
        micro_batches=config.accumulate,
        text=_caption_tokens(config, parts),
        dtype=dtype,
        frozen_dtype=config.compute.frozen_dtype or dtype,
        zero=config.parallel.zero,
        recompute_every=config.compute.recompute_every,
        keeps_average=config.ema is not None,
        adapters=adapter_layout(layout, tuning.adapters).num_parameters if tuning.adapters else 0,
        trained_share=1 - left / max(1, layout.num_parameters),
        encodes_texts=config.caches.text is None,
        encodes_clips=config.caches.latents is None and config.data.kind != "features",
        encode_chunk=config.compute.encode_chunk,
        held_out=config.validation.every is not None,
        discriminator=PatchDiscriminatorSpec() if judged else None,
        perceptual=LPIPSSpec("vgg16") if looked_at else None,
        split=split,
    )


def _size(layout: Layout, name: str) -> int:
    return prod(layout[name].shape)


def _largest(config: TrainConfig, parts: TrainParts) -> tuple[VideoShape, int]:
    """The clips of a micro-batch that need the most, and how many they are."""
    from ..data.sources import fitted

    vae = (parts.vae or parts.trained).spec
    data = fitted(config.data, vae.compression)
    if data.buckets is not None:
        table = named(config.model.recipe).buckets(data.buckets)
        sized = [(table.video(bucket), table.batch_size(bucket)) for bucket in table.buckets if table.takes(bucket)]
        return max(sized, key=lambda each: prod(vae.compression.latent(each[0])) * each[1])
    if data.max_area is None:
        return VideoShape(data.frames, data.height or 0, data.width or 0), config.batch_size
    patch = Patch(1, 1) if parts.vae is None else parts.trained.spec.patch
    row = vae.compression.space * patch.space
    return VideoShape(data.frames, row, data.max_area // row**2 * row), config.batch_size


def _caption_tokens(config: TrainConfig, parts: TrainParts) -> int:
    """Of a caption."""
    if parts.tokenizer is None or config.autoencoder is not None:
        return 1
    if config.data.kind != "moving_shapes":
        return min(config.max_tokens, CAPTION_TOKENS)
    _, mask, _ = parts.tokenizer.encode([EXAMPLE], config.max_tokens)
    return int(mask.sum())
