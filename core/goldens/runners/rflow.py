"""Family `rflow`: times, sampling runs with and without references, and losses of a rectified flow.

Most cases have a formula for a model; others hold a small STDiT3. Times are computed in float32 as upstream (quirk
Q12).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ...models.stdit3 import STDiT3Spec
from ...samplers.guidance import guide
from ...samplers.late_frames import FrameStarts, choose, per_frame
from ...samplers.rflow import RFlow, bent, frame_starts, size_ratio
from ...seam.backend import Backend
from ...seam.models import Array, Given
from ...seam.training import DiffusionBatch
from ...shapes import LatentShape, VideoShape
from ...train.rflow import RFlowObjective
from ...train.timesteps import TimestepDraw
from ..case import Case, Comparison, check_options

INPUTS = r"z_init|y_cond|y_null|y|text_mask|args/.+|noise|x_start|t|weights/t|(.+/)?(mask|weights|draw|t_in)"
TIMES = re.compile(r"(?:(?P<kind>plain|discrete)|(?:bf16_args/)?(?P<size>\d+x\d+x\d+))/steps(?P<steps>\d+)")
BENT = re.compile(r"scale(?P<scale>[\d.]+)/t_out")
DRAWN = re.compile(r"(?P<tag>tsample/.+/transform_(?P<scale>.+))/t")
LOSS = re.compile(r"(?P<tag>.+)/(?P<part>loss|x_t)")
BENT_SIZE, DRAWN_SIZE = VideoShape(51, 240, 426), VideoShape(102, 240, 426)
"""Of cases that bend times by themselves."""
SCHEDULER_OPTIONS = (
    *("type", "num_sampling_steps", "num_timesteps", "cfg_scale", "use_discrete_timesteps", "use_timestep_transform"),
    *("sample_method", "loc", "scale", "transform_scale"),
)
DRAW_OPTIONS = ("sample_method", "loc", "scale", "use_discrete_timesteps", "draw")

Network = Callable[[Array, float, "np.ndarray | None"], Array]
"""Latents, time and which frames move, for [texts, null captions] -> prediction of [texts, null captions]."""


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every output tensor of a case of this family."""
    if "z_init" in case.tensors:
        yield from _run_sampling(case, backend)
    elif "x_start" in case.tensors:
        yield from _run_losses(case, backend)
    else:
        yield from _run_times(case)


def _run_times(case: Case) -> Iterator[Comparison]:
    for name in case.tensors:
        times, of_scale = TIMES.fullmatch(name), BENT.fullmatch(name)
        if times:
            size = None
            if times["size"]:
                height, width, frames = map(int, times["size"].split("x"))
                size = VideoShape(frames, height, width)
            sampler = RFlow(int(times["steps"]), size=size, discrete=times["kind"] == "discrete", rounds_times=True)
            yield Comparison(name, sampler.timesteps)
        elif of_scale:
            given = case.tensors[name.replace("t_out", "t_in")]
            yield Comparison(name, bent(given, size_ratio(BENT_SIZE, float(of_scale["scale"]))))


def _run_losses(case: Case, backend: Backend) -> Iterator[Comparison]:
    objective = RFlowObjective()
    for name in case.tensors:
        drawn, loss = DRAWN.fullmatch(name), LOSS.fullmatch(name)
        if drawn:
            config = case.raw["t_sampling"][drawn["tag"]]
            yield Comparison(name, _drawn(case, drawn["tag"], config, drawn["scale"]))
        elif loss and loss["part"] == "loss":
            tag = loss["tag"]
            times = case.tensors.get(f"{tag}/t", case.tensors["t"]).astype(np.float64)
            moves = case.tensors.get(f"{tag}/mask")
            draws = objective.at(times, moves, case.tensors.get(f"{tag}/weights"))
            losses, seen = [], []
            for i in range(len(times)):
                part = slice(i, i + 1)
                batch = DiffusionBatch(
                    latents=case.tensors["x_start"][part],
                    noise=case.tensors["noise"][part],
                    given=Given(),
                    **draws.rows(part)._asdict(),
                )
                loss_of = backend.function("diffusion_loss")
                noised = loss_of(batch, batch.latents)["model_input"]
                masked = None if moves is None else moves[part]
                velocity = formula(noised, times[part], case.tensors["y"][part], masked)
                losses.append(loss_of(batch, velocity)["loss"])
                seen.append(noised)
            yield Comparison(f"{tag}/x_t", np.concatenate(seen))
            yield Comparison(name, np.array(losses).reshape(-1))


def _drawn(case: Case, tag: str, config: Mapping[str, Any], scale: str) -> np.ndarray:
    """Times from recorded draws: normal ones about `loc`, uniform ones, or whole times themselves."""
    check_options(config, f"{case.name}, {tag}", DRAW_OPTIONS)
    is_normal = config.get("sample_method") == "logit-normal"
    mean, std = config.get("loc", 0.0), config.get("scale", 1.0)
    objective = RFlowObjective(
        timesteps=TimestepDraw(kind="logit_normal" if is_normal else "uniform", logit_mean=mean, logit_std=std),
        discrete=config.get("use_discrete_timesteps", False),
        bends=scale != "off",
        bend_scale=1.0 if scale == "off" else float(scale),
    )
    draws = case.tensors[f"{tag}/draw"].astype(np.float64)
    if is_normal:
        draws = (draws - mean) / std
    if objective.discrete:
        draws = (draws + 0.5) / 1000
    return objective.times(np.array([objective.timesteps.shaped(draw) for draw in draws.tolist()]), DRAWN_SIZE)


def _run_sampling(case: Case, backend: Backend) -> Iterator[Comparison]:
    scheduler, recorded = case.raw["scheduler"], case.tensors
    check_options(scheduler, f"{case.name}, scheduler", SCHEDULER_OPTIONS)
    size = VideoShape(*(int(recorded[f"args/{name}"][0]) for name in ("num_frames", "height", "width")))
    sampler = RFlow(
        scheduler["num_sampling_steps"],
        size=size if scheduler.get("use_timestep_transform") else None,
        discrete=scheduler.get("use_discrete_timesteps", False),
        rounds_times=True,
    )
    network = _network(case, backend)
    starts = frame_starts(recorded["mask"], sampler.timesteps) if "mask" in recorded else None
    x, seen = backend.asarray(recorded["z_init"]), []
    for i, time in enumerate(sampler.timesteps):
        state = x
        if starts is not None and starts.draws_noise[i]:
            entering = backend.asarray(per_frame(starts.enters[i]))
            state = sampler.with_noise(x, backend.asarray(recorded["noise"][i]), entering, i)
        seen.append(backend.to_numpy(state))
        moved = sampler.step(state, _guided(case, network, state, float(time), starts, i), i)
        x = moved if starts is None else choose(backend.asarray(per_frame(starts.moves[i])), moved, x)
    yield Comparison("timesteps", sampler.timesteps)
    yield Comparison("model_z_in", np.stack(seen))
    yield Comparison("out", backend.to_numpy(x))
    if starts is not None:
        yield Comparison("x_mask", np.concatenate([starts.moves] * 2, 1))


def _guided(case: Case, network: Network, state: Array, time: float, starts: FrameStarts | None, i: int) -> Array:
    velocity = network(state, time, None if starts is None else starts.moves[i])
    velocity = velocity[:, : state.shape[1]]
    half = state.shape[0]
    return guide(velocity[:half], velocity[half:], case.raw["guidance_scale"])


def _network(case: Case, backend: Backend) -> Network:
    recorded = case.tensors
    batch = len(recorded["z_init"])
    texts = np.concatenate([recorded["y_cond"][:, 0], np.tile(recorded["y_null"], (batch, 1, 1))])

    def both(moves: np.ndarray | None) -> np.ndarray | None:
        return None if moves is None else np.concatenate([moves] * 2)

    def by_formula(state: Array, time: float, moves: np.ndarray | None) -> Array:
        latents = np.concatenate([backend.to_numpy(state)] * 2)
        return backend.asarray(formula(latents, np.full(2 * batch, time), texts[:, None], both(moves)))

    if "STDiT3" not in case.raw["model"]:
        return by_formula
    model = backend.build(STDiT3Spec.from_config(case.raw["model"]["STDiT3"], case.name), case.weights())
    numbers = {name: recorded[f"args/{name}"] for name in ("fps", "height", "width")}
    given = Given(text=texts, text_mask=recorded["text_mask"], **numbers)
    condition = model.condition(given, LatentShape(*recorded["z_init"].shape[2:]))

    def by_model(state: Array, time: float, moves: np.ndarray | None) -> Array:
        times = backend.asarray(np.full(2 * batch, time, np.float32))
        return model(backend.concat([state] * 2, 0), times, model.with_frames(condition, both(moves)))

    return by_model


def formula(latents: np.ndarray, times: np.ndarray, texts: np.ndarray, moves: np.ndarray | None) -> np.ndarray:
    """The model of the cases, (B, 2 * C, T, H, W): its second half is to be dropped."""
    times = times.reshape(-1, 1, 1, 1, 1)
    of_text = texts.mean(axis=tuple(range(1, texts.ndim))).reshape(-1, 1, 1, 1, 1)
    velocity = 0.5 * latents - 0.3 * (times / 1000) + 0.2 * of_text + 0.1 * np.cos(times / 100)
    if moves is not None:
        velocity = velocity - 0.4 * latents * ~moves[:, None, :, None, None]
    return np.concatenate([velocity, np.full_like(velocity, 7.0)], 1).astype(np.float32)
