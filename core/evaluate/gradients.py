"""What one optimiser step of each trained model would go along, for comparing backends.

Inputs are drawn for this alone, and the step is of length 0: with betas of 0 the optimiser's running mean is the
gradient itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import random
from ..conditioning.clip_facts import facts_for
from ..models.kinds import AutoencoderSpec, DenoiserSpec
from ..pipelines.autoencode import posterior_noise
from ..pipelines.sample import Sampling
from ..seam.models import Given
from ..seam.training import AdamW, AutoencoderBatch, AutoencoderLosses, DiffusionBatch, TrainOptions, TrainStep
from ..train.objectives import DiffusionObjective

NUM_TEXT_TOKENS = 12
UNSEEN = ("to_k.bias", ".k.conv.bias")
"""Ends of the names of weights without a gradient but rounding: what all keys have in common moves no share."""


def given_to(run: Sampling) -> Given:
    """What a run's denoiser reads of the first job, the text drawn: without a text encoder, the same everywhere."""
    spec, job = run.pipeline.parts.denoiser.spec, run.jobs[0]
    facts = facts_for(spec.given, job.video, run.config.video.fps)
    if "label" in spec.given:
        return Given(label=np.array([int(job.text)]), **facts)
    if "pooled" in spec.given:
        return Given(pooled=random.normal((1, spec.pooled_channels), job.seed, "parity text"), **facts)
    return Given(text=random.normal((1, NUM_TEXT_TOKENS, spec.text_channels), job.seed, "parity text"), **facts)


def denoiser_gradients(run: Sampling, dtype: str) -> dict[str, np.ndarray]:
    """The gradients of a run's denoiser in a compute dtype, by the names of the weights."""
    part, job = run.pipeline.parts.denoiser, run.jobs[0]
    spec: DenoiserSpec = part.spec
    latent = run.pipeline.sizes(job.video).latent
    shape = (1, spec.latent_channels, *latent)
    further = spec.further_channels
    batch = DiffusionBatch(
        latents=random.normal(shape, job.seed, "parity latents"),
        noise=random.normal(shape, job.seed, "parity noise"),
        given=given_to(run),
        condition=random.normal((1, further, *latent), job.seed, "parity condition") if further else None,
        **DiffusionObjective().at(np.array([500]))._asdict(),
    )
    return _gradients(run.backend.train_denoiser(spec, part.open(), _options(dtype)), batch)


def autoencoder_gradients(run: Sampling, dtype: str) -> dict[str, np.ndarray]:
    """The same of its autoencoder, whose loss is squared errors: absolute ones would turn about at differences of 0."""
    part, job = run.pipeline.parts.vae, run.jobs[0]
    spec: AutoencoderSpec = part.spec
    drawn = posterior_noise(spec, job.video, job.seed, purpose="parity posterior")
    batch = AutoencoderBatch(
        video=np.tanh(random.normal((1, 3, *job.video), job.seed, "parity video")),
        noise={name: noise[None] for name, noise in drawn.items()},
        update="generator",
        adversarial=False,
    )
    losses = AutoencoderLosses(loss="l2")
    return _gradients(run.backend.train_autoencoder(spec, part.open(), losses, _options(dtype)), batch)


def block_of(name: str) -> str:
    """The block that a weight belongs to: the first two parts of its path."""
    return ".".join(name.split(".")[:-1][:2]) or name


def _options(dtype: str) -> TrainOptions:
    return TrainOptions(dtype=dtype, optimizer=AdamW(betas=(0.0, 0.0)), max_grad_norm=None, keeps_ema=False)


def _gradients(trainer: TrainStep[Any], batch: Any) -> dict[str, np.ndarray]:
    trainer.step([batch], lr=0.0)
    moments: Mapping[str, np.ndarray] = trainer.first_moments()
    return {name: moments[name] for name in moments if not name.endswith(UNSEEN)}
