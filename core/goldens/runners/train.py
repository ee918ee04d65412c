"""Family `train`: a few optimiser steps of a small denoiser with recorded latents, noise and timesteps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import ConfigError
from ...models.opensora_t2v import OpenSoraT2VSpec
from ...samplers.schedule import Schedule
from ...seam.backend import Backend
from ...seam.models import Given
from ...seam.training import AdamW, DiffusionBatch, TrainOptions
from ...train.ema import EmaSchedule
from ...train.learning_rate import LearningRate
from ...train.objectives import DiffusionObjective
from ..case import Case, Comparison, check_options
from .t2v import upstream_spec

GRADIENTS = True
OPTIONS = (
    *("model", "optimizer", "max_grad_norm", "snr_gamma", "prediction_type", "rescale_betas_zero_snr"),
    *("lr_scheduler", "lr_warmup_steps", "steps"),
)
OPTIMIZER_OPTIONS = ("lr", "betas", "weight_decay", "eps")
POLYNOMIAL_END = 1e-7
"""The rate at which the original's `polynomial` ends."""


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every output tensor of a case of this family."""
    config = case.config
    check_options(config, case.name, OPTIONS)
    spec = upstream_spec(config["model"], case.name)
    settings = config["optimizer"]
    check_options(settings, f"{case.name}, optimizer", OPTIMIZER_OPTIONS)
    rate = _learning_rate(config, case.name)
    options = TrainOptions(
        optimizer=AdamW(betas=tuple(settings["betas"]), eps=settings["eps"], weight_decay=settings["weight_decay"]),
        max_grad_norm=config["max_grad_norm"],
    )
    objective = DiffusionObjective(
        kind=config["prediction_type"],
        schedule=Schedule(zero_terminal_snr=config["rescale_betas_zero_snr"]),
        snr_gamma=config["snr_gamma"],
        adds_noise_to_sample=True,
    )
    trainer = backend.train_denoiser(spec, case.weights(), options)
    yield from _first_gradients(case, backend, spec, options, objective)
    ema = EmaSchedule()
    losses, norms = [], []
    for number in range(config["steps"]):
        report = trainer.step([_batch(case, objective, number)], rate.at(number), ema.at(number + 1))
        losses.append(report.loss)
        norms.append(report.grad_norm)
        yield from _watched(case, f"step{number + 1}", trainer.saved().weights(use_ema=False))
    yield from _watched(case, "ema", trainer.saved().weights(use_ema=True))
    yield Comparison("loss", np.array(losses))
    yield Comparison("grad_norm", np.array(norms))


def _learning_rate(config: Mapping[str, Any], source: str) -> LearningRate:
    """The original's schedules; its `constant` knows no warm-up."""
    kind, peak = config.get("lr_scheduler", "constant"), config["optimizer"]["lr"]
    kinds = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial")
    if kind not in kinds:
        raise ConfigError(f"{source}: lr_scheduler = {kind!r}: needs one of {', '.join(kinds)}")
    return LearningRate(
        peak=peak,
        kind=kind.removesuffix("_with_warmup"),
        warmup_steps=0 if kind == "constant" else config.get("lr_warmup_steps", 0),
        total_steps=config["steps"],
        floor=POLYNOMIAL_END / peak if kind == "polynomial" else 0.0,
    )


def _first_gradients(
    case: Case, backend: Backend, spec: OpenSoraT2VSpec, options: TrainOptions, objective: DiffusionObjective
) -> Iterator[Comparison]:
    """Unclipped gradients of the first step, read off the optimiser's first moment, which is (1 - beta) * gradient."""
    trainer = backend.train_denoiser(spec, case.weights(), replace(options, max_grad_norm=None, keeps_ema=False))
    trainer.step([_batch(case, objective, 0)], lr=0.0)
    share = 1.0 - options.optimizer.betas[0]
    gradients = {name: moment / share for name, moment in trainer.first_moments().items()}
    yield from _watched(case, "first_grad", gradients)


def _batch(case: Case, objective: DiffusionObjective, number: int) -> DiffusionBatch:
    recorded = {name: case.tensors[name][number] for name in ("x0", "noise", "timesteps")}
    return DiffusionBatch(
        latents=recorded["x0"],
        noise=recorded["noise"],
        given=Given(
            text=case.tensors["encoder_hidden_states"][number][:, 0],
            text_mask=case.tensors["encoder_attention_mask"][number][:, 0],
            latent_mask=case.tensors["attention_mask"],
        ),
        **objective.at(recorded["timesteps"])._asdict(),
    )


def _watched(case: Case, prefix: str, arrays: Mapping[str, np.ndarray]) -> Iterator[Comparison]:
    for name in case.outputs():
        if name.startswith(f"{prefix}."):
            yield Comparison(name, arrays[name.removeprefix(f"{prefix}.")])
