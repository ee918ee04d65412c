"""Family `sched`: samplers and noise schedules against recorded tables and trajectories; no backend is involved.

A trajectory is replayed with the recorded network outputs. The settings are read from each tag's `scheduler_config`,
which has the keys of the original scheduler classes; a value that no sampler here implements is refused.

Each link is compared by itself: a sampler's own sigmas with the recorded ones, and then its steps along the recorded
sigmas; alphas_cumprod with the recorded ones, and then the betas that follow from the recorded ones. Chained, the last
digit of a float32 square root, which depends on the CPU (the original formulas in torch give the recorded bits on one
and not on another), grows to ten times the tolerance of a state at sigma = 4096.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ... import samplers
from ...errors import ConfigError
from ...samplers import FlowSchedule, Sampler, Schedule
from ..case import Case, Comparison, check_options

RUN_TENSOR = re.compile(r"(?P<tag>.+)\.n(?P<steps>\d+)\.timesteps")

SCHEDULE_KEYS = {
    "num_train_timesteps": "num_train_timesteps",
    "beta_start": "beta_start",
    "beta_end": "beta_end",
    "beta_schedule": "kind",
    "rescale_betas_zero_snr": "zero_terminal_snr",
    "snr_shift_scale": "snr_shift_scale",
}
SAMPLER_KEYS = {"prediction_type": "objective", "timestep_spacing": "spacing", "shift": "shift"}
IMPLEMENTED: dict[str, tuple[object, ...]] = {
    "trained_betas": (None,),
    "clip_sample": (False,),
    "thresholding": (False,),
    "steps_offset": (0,),
    "set_alpha_to_one": (True,),
    "variance_type": (None, "fixed_small"),
    "interpolation_type": ("linear",),
    "timestep_type": ("discrete",),
    "sigma_min": (None,),
    "sigma_max": (None,),
    "use_karras_sigmas": (False,),
    "use_lu_lambdas": (False,),
    "use_dynamic_shifting": (False,),
    "final_sigmas_type": ("zero",),
    "lambda_min_clipped": (float("-inf"),),
    "algorithm_type": ("dpmsolver++",),
    "solver_type": ("midpoint",),
    "solver_order": (2,),
    "lower_order_final": (True, False),  # a last step to sigma = 0 is of first order either way
    "euler_at_final": (True, False),  # likewise
    "skip_prk_steps": (False,),
}
IMPLEMENTED_HERE: dict[str, dict[str, tuple[object, ...]]] = {
    "cogvideox_ddim": {"clip_sample": (True, False)},  # the original class has the key and never clips
    "deis": {"algorithm_type": ("deis",), "solver_type": ("logrho",), "lower_order_final": (True,)},
    "pndm": {"set_alpha_to_one": (False,)},
}
PARAMETERS_OF_SWITCHES = {
    # Of thresholding, clip_sample and use_dynamic_shifting, which have to be off.
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "clip_sample_range",
    "base_shift",
    "max_shift",
    "base_image_seq_len",
    "max_image_seq_len",
}
TABLE_OPTIONS = (
    *("trained_betas", *SCHEDULE_KEYS),
    # Without effect on the tables:
    *("variance_type", "clip_sample", "prediction_type", "thresholding", "timestep_spacing", "steps_offset"),
    *("set_alpha_to_one", *sorted(PARAMETERS_OF_SWITCHES)),
)
SCRIPT_OPTIONS = ("sample_method", "prediction_type", "rescale_betas_zero_snr", "v1_5_scheduler")
FROM_SIGMAS_ALONE = ("euler", "euler_ancestral")
WITHOUT_ZERO_SNR = ("pndm", "deis")
"""Samplers that upstream builds without the zero-SNR flag, which then decides the spacing only."""


def sampler_from_upstream(settings: Mapping[str, Any], steps: int) -> Sampler:
    """The sampler that upstream's script makes of its options.

    settings: sample_method, prediction_type, rescale_betas_zero_snr and, where given, v1_5_scheduler.

    Raises: ConfigError for an unknown sample_method, one that cannot take the other options, or an unknown option.
    """
    check_options(settings, "scheduler", SCRIPT_OPTIONS)
    kind = samplers.resolve(settings["sample_method"])
    if kind.objectives == ("flow",):
        return samplers.create(kind.name, steps)  # upstream hands it no option at all
    zero_snr = bool(settings["rescale_betas_zero_snr"])
    # CogVideoX has the betas of --v1_5_scheduler anyhow, and its SNR shift on top.
    own_betas = settings.get("v1_5_scheduler", False) and kind.name != "cogvideox_ddim"
    return samplers.create(
        kind.name,
        steps,
        objective=settings["prediction_type"],
        schedule=samplers.STABLE_DIFFUSION if own_betas else None,
        zero_terminal_snr=zero_snr and kind.name not in WITHOUT_ZERO_SNR,
        spacing="trailing" if zero_snr else "leading",
    )


def run(case: Case, backend: object | None = None) -> Iterator[Comparison]:
    """Compute every output tensor of a case of this family.

    Raises: ConfigError for a sampler or a setting that is not implemented.
    """
    if any("scheduler_config" in entry for entry in case.config.values()):
        return _run_samplers(case)
    return _run_tables(case)


@dataclass(frozen=True, kw_only=True)
class RecordedSchedule(Schedule):
    """A schedule whose sigmas at the timesteps of one run are the recorded ones."""

    recorded: tuple[tuple[float, float], ...]
    """(timestep, sigma), the timesteps rising."""

    def sigmas_at(self, timesteps: np.ndarray) -> np.ndarray:
        known, sigmas = np.array(self.recorded).T
        assert np.isin(timesteps, known).all(), "asked for a timestep that was not recorded"
        return np.interp(timesteps, known, sigmas)


def _run_samplers(case: Case) -> Iterator[Comparison]:
    for name in case.outputs():
        match = RUN_TENSOR.fullmatch(name)
        if match is None:
            continue
        entry = case.config[match["tag"]]
        prefix = name.removesuffix(".timesteps")
        kind, steps = entry["class"].removesuffix("Scheduler"), int(match["steps"])
        sampler = _sampler(kind, steps, entry["scheduler_config"])
        yield from _tables(case, prefix, sampler)
        if f"{prefix}.prev_samples" in case.outputs():
            recorded = _recorded_sigmas(case, prefix, sampler)
            yield from _replay(case, prefix, _sampler(kind, steps, entry["scheduler_config"], recorded))


def _tables(case: Case, prefix: str, sampler: Sampler) -> Iterator[Comparison]:
    outputs = case.outputs()
    yield Comparison(f"{prefix}.timesteps", sampler.timesteps)
    if f"{prefix}.init_noise_sigma" in outputs:
        yield Comparison(f"{prefix}.init_noise_sigma", np.asarray(sampler.init_scale))
    if f"{prefix}.sigmas" in outputs:
        assert sampler.sigmas is not None, f"{sampler.name} has no sigmas"
        yield Comparison(f"{prefix}.sigmas", sampler.sigmas)


def _recorded_sigmas(case: Case, prefix: str, sampler: Sampler) -> tuple[tuple[float, float], ...] | None:
    """(timestep, sigma) of a run of the Euler family, whose steps follow from its sigmas alone; else None."""
    if sampler.name not in FROM_SIGMAS_ALONE or f"{prefix}.sigmas" not in case.tensors:
        return None
    sigmas = case.tensors[f"{prefix}.sigmas"].astype(np.float64)
    return tuple(sorted(zip(sampler.timesteps.tolist(), sigmas.tolist(), strict=False)))


def _replay(case: Case, prefix: str, sampler: Sampler) -> Iterator[Comparison]:
    x = case.tensors["initial"] * np.float32(sampler.init_scale)
    inputs, states = [], []
    for i, prediction in enumerate(case.tensors[f"{prefix}.model_outputs"]):
        inputs.append(sampler.scale_input(x, i))
        draw = case.raw["noise_index_per_step"][prefix][i]
        noise = case.tensors[f"{prefix}.noises"][draw] if sampler.draws_noise[i] else None
        x = sampler.step(x, prediction, i, noise)
        states.append(x)
    yield Comparison(f"{prefix}.model_inputs", np.stack(inputs))
    yield Comparison(f"{prefix}.prev_samples", np.stack(states))


def _run_tables(case: Case) -> Iterator[Comparison]:
    clean, noise, timesteps = (case.tensors[name] for name in ("x0", "noise", "timesteps"))
    for tag, config in case.config.items():
        check_options(config, f"{case.name}, {tag}", TABLE_OPTIONS)
        _refuse_unless_implemented("the tables", "trained_betas", config["trained_betas"])
        schedule = Schedule(**_renamed(config, SCHEDULE_KEYS))
        recorded = case.tensors[f"{tag}.alphas_cumprod"].astype(np.float64)
        yield Comparison(f"{tag}.betas", schedule.betas_of(recorded))
        yield Comparison(f"{tag}.alphas_cumprod", schedule.alphas_cumprod)
        yield Comparison(f"{tag}.snr", schedule.snr)
        yield Comparison(f"{tag}.add_noise", schedule.add_noise(clean, noise, timesteps))
        yield Comparison(f"{tag}.velocity", schedule.velocity(clean, noise, timesteps))
    flow = FlowSchedule()
    yield Comparison("flow.timesteps", flow.timesteps)
    yield Comparison("flow.sigmas", flow.sigmas)


def _sampler(
    name: str, steps: int, config: Mapping[str, Any], recorded: tuple[tuple[float, float], ...] | None = None
) -> Sampler:
    kind = samplers.resolve(name)
    for key in config.keys() - SCHEDULE_KEYS.keys() - SAMPLER_KEYS.keys() - PARAMETERS_OF_SWITCHES:
        _refuse_unless_implemented(kind.name, key, config[key])
    options = _renamed(config, SAMPLER_KEYS)
    schedule = _renamed(config, SCHEDULE_KEYS)
    if "beta_start" in config:
        options["schedule"] = RecordedSchedule(**schedule, recorded=recorded) if recorded else Schedule(**schedule)
    else:
        options |= schedule
    return samplers.create(kind.name, steps, **options)


def _renamed(config: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {ours: config[theirs] for theirs, ours in names.items() if theirs in config}


def _refuse_unless_implemented(name: str, key: str, value: object) -> None:
    if value not in IMPLEMENTED_HERE.get(name, {}).get(key, IMPLEMENTED.get(key, ())):
        raise ConfigError(f"scheduler_config.{key} = {value!r}: not implemented for {name}")
