"""Family `iddpm`: tables, respacing, sampling runs and losses of IDDPM, with a formula for a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...samplers.guidance import guide
from ...samplers.iddpm import IDDPM
from ...samplers.late_frames import choose, per_frame
from ...samplers.objectives import clean_weights
from ...samplers.respacing import Chain
from ...samplers.schedule import Schedule
from ...seam.backend import Backend
from ...seam.models import Array
from ...train.objectives import DiffusionObjective, Draws
from ..case import Case, Comparison, check_options
from ..diffusion import OPTIONS, kept, kind_of, losses, objective_of, options_in, schedule_of, variance_of
from ..tables import answers

INPUTS = r"z_init|y_cond|y_null|y|text_mask|noise|mask|mask_frames|x_start|t"
FIRST_RELEASE_CHANNELS = 3
"""That v1.0 guides; a case of it does not say so."""
RUN_OPTIONS = ("type", "num_sampling_steps", "cfg_scale", "cfg_channel")
"""Beside those of a diffusion."""
CFG_SCALE = 4.0
"""Upstream's, where a case says none."""


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every output tensor of a case of this family."""
    if "z_init" in case.tensors:
        yield from _run_sampling(case, backend)
    elif "x_start" in case.tensors:
        yield from _run_losses(case, backend)
    else:
        yield from _run_tables(case)


def _run_tables(case: Case) -> Iterator[Comparison]:
    for entry in case.raw.get("space_timesteps", ()):
        total, asked = entry["num_timesteps"], entry["sections"]
        yield answers(f"{asked} of {total}", entry["out"], lambda *given: kept(*given).tolist(), total, asked)
    for row in case.raw["rows"]:
        steps, schedule = row["num_sampling_steps"], schedule_of(options_in(row), case.name)
        rounds = str(row.get("betas_dtype")).endswith("float32")
        kept_ones = None if steps is None else kept(schedule.num_train_timesteps, str(steps))
        chain = Chain.of(schedule, kept_ones, rounds)
        tables = {
            "betas": chain.betas,
            "alphas_cumprod": chain.alphas_cumprod,
            "alphas_cumprod_prev": chain.cleaner,
            "posterior_variance": chain.posterior_variance,
            "posterior_log_variance_clipped": chain.posterior_log_variance,
            "posterior_mean_coef1": chain.posterior_mean[0],
            "posterior_mean_coef2": chain.posterior_mean[1],
            "timestep_map": chain.timesteps,
        }
        for name, values in tables.items():
            yield Comparison(f"steps{steps or 1000}/{name}", values)


def _run_losses(case: Case, backend: Backend) -> Iterator[Comparison]:
    recorded = case.tensors
    objective = objective_of(_without_run(case.raw.get("scheduler", {})), case.name)
    for tag in case.tags():
        if f"{tag}/loss" not in recorded:
            continue
        moves = recorded["mask_frames"] if tag == "mask" else None
        draws = objective.at(recorded["t"], moves)

        def predict(noised: np.ndarray, part: slice, moves: np.ndarray | None = moves) -> np.ndarray:
            masked = None if moves is None else moves[part]
            return formula(noised, recorded["t"][part], recorded["y"][part], masked)

        loss, bound, squared = losses(backend, draws, recorded["x_start"], recorded["noise"], predict)
        if not _is_first_release(case):
            rounded = _rounded(objective, draws, recorded["t"], moves)
            bound = losses(backend, rounded, recorded["x_start"], recorded["noise"], predict).bound
            loss = squared + bound
        yield Comparison(f"{tag}/loss", loss)
        yield Comparison(f"{tag}/vb", bound)
        yield Comparison(f"{tag}/mse", squared)


def _rounded(objective: DiffusionObjective, draws: Draws, timesteps: np.ndarray, moves: np.ndarray | None) -> Draws:
    """With the bound of float32 tables, as upstream's from v1.1 on.

    There the posterior's mean at the cleanest timestep is not the data but a little less. The bound sees that as an
    error of the prediction.
    """
    of_tables = replace(objective, rounds_tables=True).at(timesteps, moves)
    chain = Chain.of(objective.schedule, rounds=True)
    share = chain.posterior_mean[0][0]
    _, of_prediction = clean_weights(objective.kind, *(rate[:1] for rate in chain.rates))
    lost = np.where(timesteps == 0, (1.0 - share) / (share * of_prediction), 0.0)
    return of_tables._replace(of_clean=draws.of_clean + lost)


def _run_sampling(case: Case, backend: Backend) -> Iterator[Comparison]:
    recorded, sampler = case.tensors, sampler_of(case.raw["scheduler"], case.name)
    starts = sampler.frame_starts(recorded["mask"]) if "mask" in recorded else None
    x, draws, seen = backend.asarray(recorded["z_init"]), iter(_noises(case)), []
    for i, time in enumerate(sampler.timesteps):
        state = x
        if starts is not None:
            entering = backend.asarray(per_frame(starts.enters[i]))
            state = sampler.with_noise(x, backend.asarray(next(draws)), entering, i)
        seen.append(np.concatenate([backend.to_numpy(state)] * 2))
        told = None if starts is None else starts.tells[i]
        mean, variance = _guided(case, backend, state, float(time), told)
        noise = backend.asarray(next(draws))
        moved = sampler.step(
            state, mean, i, noise if sampler.draws_noise[i] else None, variance if sampler.reads_range else None
        )
        x = moved if starts is None else choose(backend.asarray(per_frame(starts.moves[i])), moved, x)
    yield Comparison("model_t", sampler.timesteps[:, None])
    yield Comparison("model_x", np.stack(seen))
    yield Comparison("out", backend.to_numpy(x))
    if starts is not None:
        yield Comparison("x_mask", np.concatenate([starts.tells] * 2, 1))


def sampler_of(scheduler: Mapping[str, Any], source: str) -> IDDPM:
    """Upstream's scheduler of a config. Raises: ConfigError for an option that nobody follows."""
    check_options(scheduler, f"{source}, scheduler", (*OPTIONS, *RUN_OPTIONS))
    options = _without_run(scheduler)
    schedule = schedule_of(options, source)
    return IDDPM(
        **_respacing(scheduler.get("num_sampling_steps") or options.get("timestep_respacing"), schedule),
        objective=kind_of(options),
        schedule=schedule,
        variance=variance_of(options),
        tells_late=True,
    )


def _respacing(asked: Any, schedule: Schedule) -> dict[str, Any]:
    """What a sampler is told of "250", 250, "10,15,20", [10, 15, 20], "ddim50", or of nothing for all timesteps."""
    if isinstance(asked, str) and asked.startswith("ddim"):
        return {"steps": int(asked.removeprefix("ddim")), "spacing": "leading"}
    counts = asked.split(",") if isinstance(asked, str) else asked if isinstance(asked, list) else [asked]
    if not asked:
        counts = [schedule.num_train_timesteps]
    return {"steps": sum(map(int, counts)), "sections": ",".join(map(str, counts))}


def _without_run(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in scheduler.items() if name not in RUN_OPTIONS}


def _noises(case: Case) -> Iterator[np.ndarray]:
    """Of the conditional half, which alone is seen."""
    return (noise[: len(case.tensors["z_init"])] for noise in case.tensors["noise"])


def _guided(case: Case, backend: Backend, state: Array, time: float, moves: np.ndarray | None) -> tuple[Array, Array]:
    recorded, options = case.tensors, case.raw["scheduler"]
    batch, count = state.shape[:2]
    texts = np.concatenate([recorded["y_cond"], np.tile(recorded["y_null"], (batch, 1, 1, 1))])
    latents = np.concatenate([backend.to_numpy(state)] * 2)
    both = None if moves is None else np.concatenate([moves] * 2)
    output = backend.asarray(formula(latents, np.full(2 * batch, time), texts, both))
    of_release = FIRST_RELEASE_CHANNELS if _is_first_release(case) else None
    channels = options.get("cfg_channel", of_release) or count
    with_text, without = output[:batch], output[batch:]
    guided = guide(with_text[:, :channels], without[:, :channels], options.get("cfg_scale", CFG_SCALE))
    return backend.concat([guided, with_text[:, channels:count]], 1), with_text[:, count:]


def _is_first_release(case: Case) -> bool:
    return str(case.raw.get("upstream_tag")).startswith("v1.0")


def formula(latents: np.ndarray, times: np.ndarray, texts: np.ndarray, moves: np.ndarray | None) -> np.ndarray:
    """The model of the cases, (B, 2 * C, T, H, W): noise, then what it says of the variance."""
    times = times.astype(np.float64).reshape(-1, 1, 1, 1, 1)
    of_text = texts.mean(axis=tuple(range(1, texts.ndim))).reshape(-1, 1, 1, 1, 1)
    noise = 0.6 * latents + 0.1 * np.sin(times / 50) + 0.2 * of_text
    if moves is not None:
        noise = noise - 0.3 * latents * ~moves[:, None, :, None, None]
    return np.concatenate([noise, 0.3 * np.tanh(latents)], 1).astype(np.float32)
