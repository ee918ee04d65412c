"""What golden cases of Gaussian diffusion share: how upstream's options are named here, and losses of each sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConfigError
from ..samplers.respacing import Chain, constant_stride, sections
from ..samplers.schedule import Schedule
from ..seam.backend import Backend
from ..seam.models import Given
from ..seam.training import DiffusionBatch
from ..train.objectives import DiffusionObjective, Draws
from .case import check_options

OPTIONS = (
    *("timestep_respacing", "noise_schedule", "use_kl", "sigma_small", "predict_xstart", "learn_sigma"),
    *("rescale_learned_sigmas", "diffusion_steps"),
)
SCHEDULES = {"linear": "linear", "squaredcos_cap_v2": "squared_cosine"}


class Losses(NamedTuple):
    """Of each sample, (B,)."""

    loss: np.ndarray
    bound: np.ndarray
    squared: np.ndarray


def kept(total: int, asked: Any) -> np.ndarray:
    """The timesteps that a respacing keeps: "250", "10,15,20", "ddim50", numbers themselves, or "" for all."""
    if isinstance(asked, str) and asked.startswith("ddim"):
        return constant_stride(total, int(asked.removeprefix("ddim")))
    counts = [int(each) for each in asked.split(",") if each] if isinstance(asked, str) else list(asked)
    return sections(total, counts) if counts else np.arange(total)


def options_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """Those of OPTIONS that the config of a case names beside other things."""
    return {name: config[name] for name in OPTIONS if name in config}


def schedule_of(options: Mapping[str, Any], source: str) -> Schedule:
    """Raises: ConfigError for an option that nobody follows."""
    check_options(options, source, OPTIONS)
    total, name = options.get("diffusion_steps", 1000), options.get("noise_schedule", "linear")
    if name not in SCHEDULES:
        raise ConfigError(f"{source}: noise_schedule = {name!r}: unknown, use one of {', '.join(SCHEDULES)}")
    start, end = (each * 1000 / total for each in (1e-4, 0.02))
    return Schedule(num_train_timesteps=total, beta_start=start, beta_end=end, kind=SCHEDULES[name], rounds=False)


def chain_of(options: Mapping[str, Any], source: str, asked: Any = None) -> Chain:
    """The respaced chain. asked: instead of the options' own respacing."""
    schedule = schedule_of(options, source)
    asked = options.get("timestep_respacing", "") if asked is None else asked
    return Chain.of(schedule, kept(schedule.num_train_timesteps, asked))


def kind_of(options: Mapping[str, Any]) -> str:
    """What the network predicts."""
    return "sample" if options.get("predict_xstart") else "epsilon"


def variance_of(options: Mapping[str, Any]) -> str:
    """As Chain.log_variances."""
    if options.get("learn_sigma", True):
        return "learned_range"
    return "fixed_small" if options.get("sigma_small") else "fixed_large"


def objective_of(options: Mapping[str, Any], source: str) -> DiffusionObjective:
    """The loss that upstream makes of its options."""
    variance = variance_of(options)
    bound = "hybrid" if variance == "learned_range" else "none"
    if options.get("use_kl"):
        bound = "alone_rescaled"
    elif options.get("rescale_learned_sigmas") and bound == "hybrid":
        bound = "rescaled"
    return DiffusionObjective(
        kind=kind_of(options), schedule=schedule_of(options, source), bound=bound, variance=variance
    )


def losses(backend: Backend, draws: Draws, latents: np.ndarray, noise: np.ndarray, predict: Any) -> Losses:
    """Each sample by itself. predict: (noised latents, number of the sample) -> what the network says."""
    found = [list(_losses(backend, draws, latents, noise, predict, slice(i, i + 1))) for i in range(len(latents))]
    return Losses(*np.array(found).T)


def _losses(
    backend: Backend, draws: Draws, latents: np.ndarray, noise: np.ndarray, predict: Any, part: slice
) -> Iterator[float]:
    """The loss, its bound and its squared errors."""
    loss_of = backend.function("diffusion_loss")
    whole = draws.rows(part)
    batch = DiffusionBatch(latents=latents[part], noise=noise[part], given=Given(), **whole._asdict())
    prediction = predict(loss_of(batch, batch.latents)["model_input"], part)
    squared = replace(batch, bound_weights=None)
    yield float(loss_of(batch, prediction)["loss"])
    bound = 0.0
    if batch.bound_weights is not None:
        bound = float(loss_of(replace(batch, weights=0.0 * batch.weights), prediction)["loss"])
    yield bound
    yield float(loss_of(squared, prediction)["loss"])
