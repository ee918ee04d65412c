"""Cases of Gaussian diffusion without a network: a formula in its place, for pictures and for lists of patches.

Pictures are (B, C, H, W), lists of patches (B, S, C, P, P); here both become (B, C, T, H, W).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import log
from typing import Any, NamedTuple

import numpy as np

from ..samplers.base import Sampler
from ..samplers.guidance import guide
from ..samplers.iddpm import IDDPM
from ..samplers.objectives import clean_weights, noise_weights
from ..samplers.respaced_ddim import RespacedDDIM
from ..samplers.respacing import Chain
from ..seam.backend import Backend
from ..train.objectives import DiffusionObjective
from .case import Case, Comparison
from .diffusion import chain_of, kept, kind_of, losses, objective_of, options_in, variance_of
from .tables import answers

GUIDED_CHANNELS = 3
RUN = re.compile(r"(?P<tag>(?:s(?P<asked>[\w,]+)\.)?(?:ancestral|ddim(?P<eta>[\d.]*\d)))\.(?:samples|states)")
MAP = re.compile(r"s(?P<asked>[\w,]+)\.(?P<table>timestep_map|betas)")

Predict = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Latents (B, C, H, W), timesteps and labels (B,) to noise and variance (B, 2C, H, W)."""


@dataclass(frozen=True, kw_only=True)
class RespacedObjective(DiffusionObjective):
    """On the timesteps of a chain, counted by their places in it."""

    respaced: Chain

    @property
    def chain(self) -> Chain:
        return self.respaced


class Posterior(NamedTuple):
    """What upstream calls p_mean_variance."""

    mean: np.ndarray
    variance: np.ndarray
    log_variance: np.ndarray
    clean: np.ndarray


def as_video(array: np.ndarray) -> np.ndarray:
    """Pictures or lists of patches as (B, C, T, H, W)."""
    return array[:, :, None] if array.ndim == 4 else array.swapaxes(1, 2)


def as_recorded(array: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The other way."""
    return array[:, :, 0] if like.ndim == 4 else array.swapaxes(1, 2)


def formula(latents: np.ndarray, pattern: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
    """(B, C, T, H, W) to noise and variance (B, 2C, T, H, W), by a pattern of that shape; timesteps (B,) of 1000."""
    shares = timesteps.astype(np.float64).reshape(-1, 1, 1, 1, 1) / 1000
    first, second = np.split(pattern, 2, 1)
    noise = 0.6 * np.tanh(latents) + 0.3 * first * (1 - shares)
    return np.concatenate([noise, 0.8 * np.sin(second + shares)], 1).astype(np.float32)


def respacing(case: Case) -> Iterator[Comparison]:
    """Which timesteps are kept, and the betas of what is left."""
    for row in case.raw["kept"]:
        expected = (
            {"raises": ""} if row.get("refused") else {key: row[key] for key in ("count", "first", "last", "sum")}
        )

        def told(total: int, asked: str) -> dict[str, Any]:
            found = kept(total, asked).tolist()
            return {"count": len(found), "first": found[:6], "last": found[-6:], "sum": sum(found)}

        yield answers(f"{row['ask']} of {row['steps']}", expected, told, row["steps"], row["ask"])
        if row.get("kept") is not None:
            yield Comparison(
                f"kept {row['ask']} of {row['steps']}", kept(row["steps"], row["ask"]), expected=np.array(row["kept"])
            )
    for row in case.raw["betas"]:
        chain = chain_of(row["options"], case.name, row["ask"])
        tables = {
            "betas": chain.betas,
            "alphas_cumprod": chain.alphas_cumprod,
            "posterior_log_variance_clipped": chain.posterior_log_variance,
            "posterior_mean_coef1": chain.posterior_mean[0],
        }
        for name, values in tables.items():
            got, recorded = values[row["at"]], np.array(row[name])
            # As shares of what is recorded: the case's limit is a relative one of 1e-9.
            yield Comparison(
                f"{name} of {row['ask'] or 'all'} {row['options']}",
                1e3 * got / recorded,
                expected=np.full(len(recorded), 1e3),
            )


def diffusion(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Sampling runs, and losses with and without a mask of patches."""
    options = {"diffusion_steps": case.config.get("steps", 1000)} | options_in(case.config)
    pattern = as_video(case.tensors["pattern"])
    for name, recorded in case.tensors.items():
        table, run = MAP.fullmatch(name), RUN.fullmatch(name)
        if table:
            chain = chain_of(options, case.name, table["asked"])
            yield Comparison(name, chain.timesteps if table["table"] == "timestep_map" else chain.betas)
        elif run:
            eta = None if run["eta"] is None else float(run["eta"])
            asked = run["asked"] or case.config["ancestral" if eta is None else "ddim"]
            states = run_formula(case, backend, new_sampler(asked, options, case.name, eta), run, pattern)
            yield Comparison(name, np.stack([as_recorded(state, recorded[0]) for state in states]))
    yield from _losses(case, backend, objective_of(options, case.name))


def new_sampler(asked: str, options: Mapping[str, Any], source: str, eta: float | None = None) -> Sampler:
    """Of a respacing as upstream writes it; eta None: ancestral."""
    schedule = objective_of(options, source).schedule
    common: dict[str, Any] = {
        "objective": kind_of(options),
        "schedule": schedule,
        "spacing": "leading" if asked.startswith("ddim") else "linspace",
        "sections": asked if "," in asked else "",
    }
    steps = len(kept(schedule.num_train_timesteps, asked))
    if eta is None:
        return IDDPM(steps, variance=variance_of(options), **common)
    return RespacedDDIM(steps, eta=eta, **common)


def run_formula(
    case: Case, backend: Backend, sampler: Sampler, run: re.Match[str], pattern: np.ndarray
) -> Iterator[np.ndarray]:
    """The state after each step, (B, C, T, H, W)."""
    group = f"s{run['asked']}." if run["asked"] else ""
    noises = case.tensors.get(f"{group}noises", case.tensors.get(f"{run['tag']}.noises"))
    x = backend.asarray(as_video(case.tensors[f"{group}initial"]))
    for i, time in enumerate(sampler.timesteps):
        output = formula(backend.to_numpy(x), pattern, np.full(len(pattern), time))
        mean, variance = (backend.asarray(half) for half in np.split(output, 2, 1))
        noise = None
        if sampler.draws_noise[i]:
            assert noises is not None, f"{run['tag']} has no noises"
            noise = backend.asarray(as_video(noises[i]))
        x = sampler.step(x, mean, i, noise, variance if sampler.reads_range else None)
        yield backend.to_numpy(x)


def guided_runs(case: Case, backend: Backend, predict: Predict, null: int) -> Iterator[Comparison]:
    """Sampling of pictures by a network with class labels. null: the label of no class."""
    config, labels, count = case.config, case.tensors["labels"], case.tensors["initial"].shape[1]
    without, options = np.full_like(labels, null), options_in(config["model"]) | options_in(config)
    for tag, asked in (("ancestral", "ancestral"), ("ddim", "ddim"), ("plain", "ancestral")):
        if f"{tag}.states" not in case.tensors:
            continue
        eta = config["eta"] if asked == "ddim" else None
        sampler = new_sampler(config[asked], options, case.name, eta)
        yield Comparison(f"{tag}.timestep_map", sampler.timesteps[::-1])
        all_labels = labels if tag == "plain" else np.concatenate([labels, without])
        x, states = backend.asarray(case.tensors["initial"]), []
        for i, time in enumerate(sampler.timesteps):
            copies = len(all_labels) // len(labels)
            output = predict(
                np.tile(backend.to_numpy(x), (copies, 1, 1, 1)), np.full(len(all_labels), time), all_labels
            )
            mean, variance = output[: len(labels), :count], output[: len(labels), count:]
            if copies == 2:
                mean = _guided(mean, output[len(labels) :], config["cfg_scale"])
            noise = backend.asarray(case.tensors[f"{tag}.noises"][i][: len(labels)]) if sampler.draws_noise[i] else None
            says = backend.asarray(variance) if sampler.reads_range else None
            x = sampler.step(x, backend.asarray(mean), i, noise, says)
            states.append(backend.to_numpy(x))
        yield Comparison(f"{tag}.states", np.stack(states))


def _guided(mean: np.ndarray, without: np.ndarray, scale: float) -> np.ndarray:
    """With the first channels guided."""
    first = guide(mean[:, :GUIDED_CHANNELS], without[:, :GUIDED_CHANNELS], scale)
    return np.concatenate([first, mean[:, GUIDED_CHANNELS:]], 1)


def _losses(case: Case, backend: Backend, objective: DiffusionObjective) -> Iterator[Comparison]:
    recorded = case.tensors
    if "loss.x0" not in recorded:
        return
    draws = objective.at(recorded["loss.t"])
    pattern = as_video(recorded.get("loss.pattern", recorded["pattern"]))
    for tag in sorted({name.rpartition(".")[0] for name in recorded if name.startswith("loss.") and "mse" in name}):
        counted = draws
        if tag.endswith(".masked"):
            mask = recorded["loss.mask"].astype(np.float64)
            assert draws.bound_weights is not None, "a loss without a bound"
            counted = draws._replace(
                weights=draws.weights[:, None] * mask, bound_weights=draws.bound_weights[:, None] * mask
            )

        def predict(noised: np.ndarray, part: slice) -> np.ndarray:
            return formula(noised, pattern[part], recorded["loss.t"][part])

        latents, noise = (as_video(recorded[f"loss.{name}"]) for name in ("x0", "noise"))
        found = losses(backend, counted, latents, noise, predict)
        for name, values in zip(("loss", "vb", "mse"), found, strict=True):
            yield Comparison(f"{tag}.{name}", values)


def diffusion_options(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Mean and variance of one step and the losses of each set of options; bits per dimension of a chain."""
    pattern, seen = (as_video(case.tensors[name]) for name in ("pattern", "xt"))
    for tag, options in case.config.items():
        chain, places = chain_of(options, f"{case.name}, {tag}"), case.tensors["t"]
        output = formula(seen, pattern, chain.timesteps[places])
        for name, clips in (("", False), ("clipped.", True)):
            found = _posterior(chain, options, seen, output, places, clips)
            like = case.tensors["xt"]
            yield Comparison(f"{tag}.{name}mean", as_recorded(found.mean, like))
            yield Comparison(f"{tag}.{name}variance", as_recorded(found.variance, like))
            yield Comparison(f"{tag}.{name}log_variance", as_recorded(found.log_variance, like))
            yield Comparison(f"{tag}.{name}pred_xstart", as_recorded(found.clean, like))
        yield from _option_losses(case, backend, tag, options, chain)
    yield from _bits(case, backend)


def _posterior(
    chain: Chain, options: Mapping[str, Any], x: np.ndarray, output: np.ndarray, places: np.ndarray, clips: bool
) -> Posterior:
    """In float64, all (B, C, T, H, W)."""

    def at(table: np.ndarray) -> np.ndarray:
        return table[places].reshape(-1, 1, 1, 1, 1)

    prediction, says = np.split(output.astype(np.float64), 2, 1)
    of_x, of_prediction = clean_weights(kind_of(options), *chain.rates)
    clean = at(of_x) * x + at(of_prediction) * prediction
    clean = np.clip(clean, -1.0, 1.0) if clips else clean
    of_clean, of_state = chain.posterior_mean
    least, largest = chain.log_variances(variance_of(options))
    share = (says + 1.0) / 2.0
    log_variance = share * at(largest) + (1.0 - share) * at(least)
    variance = np.exp(log_variance)
    if variance_of(options) == "fixed_small":  # not that of the logarithm, whose first entry is another
        variance = np.broadcast_to(at(chain.posterior_variance), variance.shape)
    return Posterior(at(of_clean) * clean + at(of_state) * x, variance, log_variance, clean)


def _objective(options: Mapping[str, Any], source: str, chain: Chain) -> RespacedObjective:
    plain = objective_of(options, source)
    return RespacedObjective(
        kind=plain.kind, schedule=plain.schedule, bound=plain.bound, variance=plain.variance, respaced=chain
    )


def _option_losses(
    case: Case, backend: Backend, tag: str, options: Mapping[str, Any], chain: Chain
) -> Iterator[Comparison]:
    recorded, pattern = case.tensors, as_video(case.tensors["pattern"])
    objective, places = _objective(options, f"{case.name}, {tag}", chain), recorded["loss.t"]
    latents, noise = (as_video(recorded[name]) for name in ("x0", "noise"))

    def predict(noised: np.ndarray, part: slice) -> np.ndarray:
        output = formula(noised, pattern[part], chain.timesteps[places[part]])
        return output if objective.variance == "learned_range" else output[:, : noised.shape[1]]

    found = losses(backend, objective.at(places), latents, noise, predict)
    for name, values in zip(("loss", "vb", "mse"), found, strict=True):
        yield Comparison(f"{tag}.loss.{name}", values)


def _bits(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Of upstream's calc_bpd_loop, which clips x_0: the bound of each step of a short chain, the noisiest first."""
    recorded = case.tensors
    if "bpd.noises" not in recorded:
        return
    steps, options = len(recorded["bpd.noises"]), dict(case.config.get("bpd", {}))
    chain = chain_of(options, case.name, str(steps))
    objective = replace(_objective(options, case.name, chain), bound="hybrid")
    latents, pattern = as_video(recorded["x0"]), as_video(recorded["pattern"])
    found: dict[str, list[np.ndarray]] = {"vb": [], "xstart_mse": [], "mse": []}
    for noise, place in zip(recorded["bpd.noises"], reversed(range(steps)), strict=True):
        places, drawn = np.full(len(latents), place), as_video(noise)
        signal, spread = (rate[place] for rate in chain.rates)
        state = (signal * latents + spread * drawn).astype(np.float32)
        output = formula(state, pattern, chain.timesteps[places])
        clean = _posterior(chain, options, state, output, places, clips=True).clean
        of_x, of_clean = noise_weights("sample", *(np.array([rate]) for rate in (signal, spread)))
        clipped = of_x * state + of_clean * clean
        said = np.concatenate([clipped, output[:, latents.shape[1] :]], 1).astype(np.float32)
        bound = losses(backend, objective.at(places), latents, drawn, lambda _, part, said=said: said[part]).bound
        found["vb"].append(bound)
        found["xstart_mse"].append(((clean - latents) ** 2).reshape(len(latents), -1).mean(1))
        found["mse"].append(((clipped - drawn) ** 2).reshape(len(latents), -1).mean(1))
    for name, values in found.items():
        yield Comparison(f"bpd.{name}", np.stack(values, 1))
    prior = _prior_bits(latents, chain)
    yield Comparison("bpd.prior_bpd", prior)
    yield Comparison("bpd.total_bpd", prior + np.sum(found["vb"], 0))


def _prior_bits(latents: np.ndarray, chain: Chain) -> np.ndarray:
    """How far the noisiest state is from unit noise, (B,)."""
    left = chain.alphas_cumprod[-1]
    nats = 0.5 * (left * latents.astype(np.float64) ** 2 - left - np.log1p(-left))
    return nats.reshape(len(latents), -1).mean(1) / log(2.0)
