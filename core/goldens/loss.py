"""Family `loss`: losses of training with a recorded prediction, averages of weights, and discriminators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..backend import Backend
from ..samplers.schedule import FlowSchedule, Schedule
from ..train.ema import EmaSchedule
from ..train.objectives import FLOW_WEIGHTINGS, DiffusionObjective, FlowObjective
from ..train.step import DiffusionBatch
from .case import Case, Comparison


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every output tensor of a case of this family."""
    name = case.name.split("/")[1]
    if name.startswith("diffusion"):
        return _run_diffusion(case, backend)
    return _run_ema(case)


def _run_diffusion(case: Case, backend: Backend) -> Iterator[Comparison]:
    loss_of = backend.function("diffusion_loss")
    outputs = case.outputs()
    for tag, config in case.config.items():
        noise = case.tensors["noise"]
        if config.get("noise_offset"):
            noise = noise + np.float32(config["noise_offset"]) * case.tensors["noise_offset_draw"]
        if config.get("rf_scheduler"):
            draws, told = _flow(config, case.tensors[f"{tag}.timesteps"])
            yield Comparison(f"{tag}.timesteps", told)
        else:
            draws = _objective(config).at(case.tensors[config["ts"]])
        batch = DiffusionBatch(
            latents=case.tensors["x0"],
            noise=noise,
            text=np.zeros((0, 0, 0), np.float32),
            text_mask=None,
            mask=case.tensors[config["mask"]],
            condition=case.tensors.get("condition"),
            **draws._asdict(),
        )
        results = loss_of(batch, case.tensors["model_pred"])
        names = {"loss": "loss", "grad_model_pred": "gradient", "model_input": "model_input"}
        for theirs, ours in names.items():
            if f"{tag}.{theirs}" in outputs:
                yield Comparison(f"{tag}.{theirs}", results[ours])


def _objective(config: Mapping[str, Any]) -> DiffusionObjective:
    return DiffusionObjective(
        kind=config["prediction_type"],
        schedule=Schedule(zero_terminal_snr=config["zero_snr"]),
        snr_gamma=config["snr_gamma"],
        adds_noise_to_sample=True,
    )


def _flow(config: Mapping[str, Any], timesteps: np.ndarray) -> tuple[Any, np.ndarray]:
    """Coefficients at the recorded draws, and the timesteps of our grid nearest to them."""
    scheme = config["weighting_scheme"]
    objective = FlowObjective(weighting=scheme if scheme in FLOW_WEIGHTINGS else "none", on_grid=True)
    grid = FlowSchedule().sigmas
    nearest = np.abs(grid[:, None] * 1000 - timesteps).argmin(axis=0)
    draws = objective.at(grid[nearest])
    return draws, draws.timesteps


def _run_ema(case: Case) -> Iterator[Comparison]:
    parameters = case.tensors["params"].astype(np.float64)
    for tag, config in case.config.items():
        schedule = EmaSchedule(
            decay=config["decay"],
            warms_up="update_after_step" in config,
            start_step=config.get("update_after_step", 0),
        )
        shadow = parameters[0]
        shadows, decays = [], []
        for update in range(1, len(parameters)):
            decay = schedule.at(update)
            shadow = decay * shadow + (1 - decay) * parameters[update]
            decays.append(decay)
            shadows.append(shadow)
        yield Comparison(f"{tag}.shadow", np.stack(shadows))
        if f"{tag}.decays" in case.outputs():
            yield Comparison(f"{tag}.decays", np.array(decays))
