"""Samplers against data whose ideal network is known in closed form, independent of any recorded number.

For data at one point the noise in a state never changes along a deterministic run; for Gaussian data the end of the run
is known, so the order of a method shows.
"""

from collections.abc import Iterator

import numpy as np
import pytest

from duosora.core import samplers
from duosora.core.samplers import Sampler, Schedule

POINT = 0.7
MEAN, SPREAD = 0.3, 0.5
DETERMINISTIC = (
    "euler",
    "ddim",
    "cogvideox_ddim",
    "heun",
    "dpmsolver_multistep",
    "dpmsolver_singlestep",
    "deis",
    "pndm",
)
STOCHASTIC = ("euler_ancestral", "ddpm", "kdpm2_ancestral")
OBJECTIVES = ("epsilon", "v_prediction", "sample")
LAST_RESTS_AT_TIMESTEP_0 = ("deis", "pndm")


def make(name: str, steps: int, objective: str, schedule: Schedule, spacing: str) -> Sampler:
    options = {} if name == "dpmsolver_singlestep" else {"spacing": spacing}
    return samplers.create(name, steps, objective=objective, schedule=schedule, **options)


def rates(sampler: Sampler, schedule: Schedule, timestep: float) -> tuple[float, float]:
    """Signal and noise in what the network sees."""
    if sampler.sigmas is None:
        a = schedule.alphas_cumprod[round(timestep)]
        return float(np.sqrt(a)), float(np.sqrt(1 - a))
    sigma = float(schedule.sigmas_at(np.asarray(timestep)))
    return 1 / np.sqrt(1 + sigma**2), sigma / np.sqrt(1 + sigma**2)


def predict(objective: str, clean: np.ndarray, noise: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
    return {"epsilon": noise, "v_prediction": alpha * noise - sigma * clean, "sample": clean}[objective]


def cases() -> Iterator[tuple[str, str, bool]]:
    for name in (*DETERMINISTIC, *STOCHASTIC):
        for objective in OBJECTIVES:
            for zero_snr in (False, True):
                noise_only = zero_snr and objective == "epsilon" and name in ("ddim", "cogvideox_ddim", "ddpm")
                if not noise_only and not (name == "pndm" and (zero_snr or objective != "epsilon")):
                    yield name, objective, zero_snr


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("steps", [4, 5, 20])
@pytest.mark.parametrize(("name", "objective", "zero_snr"), list(cases()))
def test_data_at_one_point_is_found_and_its_noise_stays(name, objective, zero_snr, steps, spacing):
    schedule = Schedule(zero_terminal_snr=zero_snr)
    sampler = make(name, steps, objective, schedule, spacing)
    rng = np.random.Generator(np.random.Philox(3))
    x = rng.standard_normal(5) * sampler.init_scale
    noises = []
    for i, timestep in enumerate(sampler.timesteps):
        z = sampler.scale_input(x, i)
        alpha, sigma = rates(sampler, schedule, timestep)
        noises.append((z - alpha * POINT) / sigma)
        draw = rng.standard_normal(5) if sampler.draws_noise[i] else None
        x = sampler.step(x, predict(objective, np.full(5, POINT), noises[-1], alpha, sigma), i, draw)
    if name in DETERMINISTIC:
        np.testing.assert_allclose(noises, np.broadcast_to(noises[0], np.shape(noises)), atol=1e-7)
    expected = np.full(5, POINT)
    if name in LAST_RESTS_AT_TIMESTEP_0:
        a = schedule.alphas_cumprod[0]
        expected = np.sqrt(a) * POINT + np.sqrt(1 - a) * noises[0]
    np.testing.assert_allclose(x, expected, atol=1e-7)


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("name", STOCHASTIC)
def test_drawn_noise_keeps_the_spread_that_the_schedule_has(name, zero_snr):
    schedule = Schedule(zero_terminal_snr=zero_snr)
    sampler = make(name, 10, "v_prediction", schedule, "trailing")
    rng = np.random.Generator(np.random.Philox(5))
    count = 20_000
    x = rng.standard_normal(count) * sampler.init_scale
    for i, timestep in enumerate(sampler.timesteps):
        z = sampler.scale_input(x, i)
        alpha, sigma = rates(sampler, schedule, timestep)
        noise = (z - alpha * POINT) / sigma
        if i > 0:  # the first state of a finite schedule holds no data and is a little narrow
            assert np.std(noise) == pytest.approx(1, abs=0.02)  # 4 standard errors of 20000 draws
        draw = rng.standard_normal(count) if sampler.draws_noise[i] else None
        x = sampler.step(x, predict("v_prediction", np.full(count, POINT), noise, alpha, sigma), i, draw)


def gaussian_error(name: str, objective: str, steps: int, zero_snr: bool = False) -> float:
    """Distance of a run on Gaussian data from the exact end of the probability-flow ODE."""
    schedule = Schedule(zero_terminal_snr=zero_snr)
    sampler = make(name, steps, objective, schedule, "trailing")
    first = np.array([1.7, -0.4]) * sampler.init_scale
    x = first
    for i, timestep in enumerate(sampler.timesteps):
        z = sampler.scale_input(x, i)
        alpha, sigma = rates(sampler, schedule, timestep)
        clean = (MEAN * sigma**2 + SPREAD**2 * alpha * z) / (sigma**2 + SPREAD**2 * alpha**2)
        x = sampler.step(x, predict(objective, clean, (z - alpha * clean) / sigma, alpha, sigma), i)
    start = float(schedule.sigmas_at(sampler.timesteps[0]))
    end = schedule.sigmas[0] if name in LAST_RESTS_AT_TIMESTEP_0 else 0.0
    from_mean = sampler.scale_input(first, 0) * np.sqrt(1 + start**2) - MEAN
    exact = MEAN + from_mean * np.sqrt((SPREAD**2 + end**2) / (SPREAD**2 + start**2))
    return float(np.abs(x - exact / np.sqrt(1 + end**2)).max())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_methods_of_second_order_beat_euler_by_far(objective):
    euler = gaussian_error("euler", objective, 200)
    assert 0.01 < euler < 0.015
    # The same method in other variables; it starts from the same noise scaled by sqrt(1 + 1 / 157^2).
    assert gaussian_error("ddim", objective, 200) == pytest.approx(euler, rel=1e-4)
    for name, share in {"heun": 0.1, "dpmsolver_multistep": 0.04, "dpmsolver_singlestep": 0.25, "deis": 0.08}.items():
        assert gaussian_error(name, objective, 200) < share * euler, name


def test_pndm_is_of_high_order_with_predicted_noise_and_of_first_with_velocities():
    assert gaussian_error("pndm", "epsilon", 100) < 1e-4
    few, many = gaussian_error("pndm", "v_prediction", 20), gaussian_error("pndm", "v_prediction", 100)
    assert few / many == pytest.approx(5, rel=0.1)


@pytest.mark.parametrize("name", ["heun", "dpmsolver_multistep", "dpmsolver_singlestep", "deis"])
def test_starting_from_noise_only_costs_no_accuracy(name):
    plain, zero_snr = (
        gaussian_error(name, "v_prediction", 100),
        gaussian_error(name, "v_prediction", 100, zero_snr=True),
    )
    assert zero_snr == pytest.approx(plain, rel=0.05)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 30])
def test_flow_finds_data_at_one_point(steps, shift):
    sampler = samplers.create("flow_euler", steps, shift=shift)
    noise = np.random.Generator(np.random.Philox(11)).standard_normal(5)
    x = noise * sampler.init_scale
    for i, timestep in enumerate(sampler.timesteps):
        sigma = timestep / 1000
        np.testing.assert_allclose(x, (1 - sigma) * POINT + sigma * noise, atol=1e-12)
        x = sampler.step(x, (sampler.scale_input(x, i) - POINT) / sigma, i)
    np.testing.assert_allclose(x, POINT, atol=1e-12)
