"""The registry of samplers, their tables, and the rules of a run."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duosora.core import samplers
from duosora.core.errors import ConfigError
from duosora.core.samplers import COGVIDEOX, LINEAR, STABLE_DIFFUSION, Schedule
from duosora.core.samplers.spacing import visit_points

NAMES = samplers.names()
WITH_SIGMAS = (
    "euler_ancestral",
    "euler",
    "heun",
    "kdpm2_ancestral",
    "dpmsolver_multistep",
    "dpmsolver_singlestep",
    "deis",
)
UPSTREAM = {
    "EulerAncestralDiscrete": "euler_ancestral",
    "EulerDiscrete": "euler",
    "DDIM": "ddim",
    "DDPM": "ddpm",
    "DPMSolverMultistep": "dpmsolver_multistep",
    "DPMSolverSinglestep": "dpmsolver_singlestep",
    "HeunDiscrete": "heun",
    "KDPM2AncestralDiscrete": "kdpm2_ancestral",
    "PNDM": "pndm",
    "DEISMultistep": "deis",
    "CogVideoX": "cogvideox_ddim",
    "FlowMatchEulerDiscrete": "flow_euler",
    "RFLOW": "rflow",
    "IDDPM": "iddpm",
    "dpm-solver": "dpm_solver",
}


class OnlyFloats:
    """An array that, like MindSpore's, must never meet a numpy scalar: it knows its like and Python floats only."""

    __array_ufunc__ = None

    def __add__(self, other: object) -> "OnlyFloats":
        assert isinstance(other, OnlyFloats)
        return self

    __sub__ = __radd__ = __add__

    def __mul__(self, other: object) -> "OnlyFloats":
        assert type(other) in (float, OnlyFloats), type(other)
        return self

    def __rpow__(self, other: object) -> "OnlyFloats":
        assert type(other) is float, type(other)
        return self

    __rmul__ = __mul__


def test_every_upstream_name_gives_our_sampler():
    assert set(UPSTREAM.values()) <= set(NAMES)
    for upstream, ours in UPSTREAM.items():
        assert samplers.create(upstream, 4).name == ours
        assert samplers.create(ours, 4).name == ours


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("eular", "euler"), ("EulerAncestral", "euler_ancestral"), ("dpmsolver", "dpm_solver")],
)
def test_an_unknown_name_is_answered_with_the_nearest(typed, meant):
    with pytest.raises(ConfigError, match=f"sampler.name = '{typed}': unknown, did you mean '{meant}'"):
        samplers.create(typed, 4)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("flow_euler", "zero_terminal_snr", True),
        ("flow_euler", "zero_terminal_snr", False),
        ("flow_euler", "spacing", "trailing"),
        ("flow_euler", "schedule", LINEAR),
        ("euler_ancestral", "shift", 3.0),
        ("ddim", "num_train_timesteps", 500),
        ("dpmsolver_singlestep", "spacing", "trailing"),
        ("pndm", "zero_terminal_snr", True),
    ],
)
def test_an_option_without_use_is_refused(name, option, value):
    with pytest.raises(ConfigError, match=rf"^sampler\.{option}: {name} "):
        samplers.create(name, 10, **{option: value})


@pytest.mark.parametrize(
    ("name", "objective", "possible"),
    [
        ("euler", "flow", "epsilon or v_prediction or sample"),
        ("pndm", "sample", "epsilon or v_prediction"),
        ("flow_euler", "epsilon", "flow"),
    ],
)
def test_an_objective_out_of_reach_is_refused_with_those_possible(name, objective, possible):
    told = rf"sampler.objective = '{objective}': {name} takes {possible}; .* sampler.objective=null"
    with pytest.raises(ConfigError, match=told):
        samplers.create(name, 10, objective=objective)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_step_counts_outside_the_training_range_are_refused(name, steps):
    with pytest.raises(ConfigError, match=rf"sampler.steps = {steps}: "):
        samplers.create(name, steps)


def test_pndm_needs_four_steps():
    with pytest.raises(ConfigError, match=r"sampler.steps = 3: pndm needs at least 4"):
        samplers.create("pndm", 3)


def test_an_unknown_spacing_is_refused():
    with pytest.raises(ConfigError, match=r"sampler.spacing = 'even': unknown, use one of leading, trailing, linspace"):
        samplers.create("euler", 10, spacing="even")


def test_multistep_solvers_refuse_step_counts_that_repeat_a_timestep():
    with pytest.raises(ConfigError, match=r"sampler.steps = 1000: leading spacing"):
        samplers.create("deis", 1000, spacing="leading")
    assert len(samplers.create("deis", 1000, spacing="trailing").timesteps) == 1000


@pytest.mark.parametrize("name", ["ddim", "ddpm", "cogvideox_ddim"])
def test_predicted_noise_cannot_start_from_noise_only(name):
    with pytest.raises(ConfigError, match=r"^sampler.objective = 'epsilon': "):
        samplers.create(name, 10, objective="epsilon", zero_terminal_snr=True)
    samplers.create(name, 10, objective="epsilon", zero_terminal_snr=True, spacing="leading")


def test_defaults_are_those_of_the_original_classes():
    assert samplers.create("euler", 10).sigmas[0] == pytest.approx(LINEAR.sigmas[900])
    assert samplers.create("heun", 10).sigmas[0] == pytest.approx(
        Schedule(beta_start=0.00085, beta_end=0.012).sigmas[900]
    )
    assert samplers.create("euler", 10, schedule=STABLE_DIFFUSION).sigmas[0] == pytest.approx(
        STABLE_DIFFUSION.sigmas[900]
    )
    ours, plain = samplers.create("cogvideox_ddim", 10), samplers.create("ddim", 10, schedule=COGVIDEOX)
    x, prediction = np.ones(3), np.full(3, 0.5)
    np.testing.assert_array_equal(ours.step(x, prediction, 0), plain.step(x, prediction, 0))


@pytest.mark.parametrize("name", ["euler_ancestral", "euler", "heun", "kdpm2_ancestral"])
def test_only_a_leading_start_adds_the_variance_of_the_data(name):
    leading, trailing = (samplers.create(name, 10, spacing=spacing) for spacing in ("leading", "trailing"))
    assert leading.init_scale == pytest.approx((leading.sigmas[0] ** 2 + 1) ** 0.5)
    assert trailing.init_scale == trailing.sigmas[0]


def test_zero_terminal_snr_starts_at_sigma_4096():
    for name in ("euler_ancestral", "euler", "heun", "kdpm2_ancestral"):
        sampler = samplers.create(name, 25, objective="v_prediction", zero_terminal_snr=True)
        assert sampler.init_scale == sampler.sigmas[0] == 4096.0
        assert sampler.timesteps[0] == 999
    assert samplers.create("dpmsolver_multistep", 25, zero_terminal_snr=True).sigmas[0] == 4096.0


@settings(deadline=None, max_examples=25)
@given(steps=st.integers(1, 1000), zero_snr=st.booleans(), name=st.sampled_from(WITH_SIGMAS))
def test_sigmas_fall_and_end_at_the_clean_end(steps, zero_snr, name):
    schedule = Schedule(zero_terminal_snr=zero_snr)
    single = name == "dpmsolver_singlestep"  # its own spacing repeats a timestep at 1000 steps
    spacing = {} if single else {"spacing": "trailing"}
    sampler = samplers.create(name, min(steps, 999) if single else steps, schedule=schedule, **spacing)
    assert np.all(np.diff(sampler.sigmas) <= 0)
    assert sampler.sigmas[-1] == (schedule.sigmas[0] if name == "deis" else 0.0)
    assert sampler.sigmas[0] == schedule.sigmas[999]


@settings(deadline=None, max_examples=40)
@given(steps=st.integers(1, 1000), shift=st.floats(0.2, 20))
def test_flow_sigmas_fall_from_one_to_zero(steps, shift):
    sampler = samplers.create("flow_euler", steps, shift=shift)
    assert sampler.sigmas[0] == pytest.approx(1.0)
    assert sampler.sigmas[-1] == 0.0
    assert np.all(np.diff(sampler.sigmas) < 0)
    np.testing.assert_allclose(sampler.timesteps, 1000 * sampler.sigmas[:-1])


def test_shift_moves_flow_sigmas_up():
    plain, shifted = samplers.create("flow_euler", 11), samplers.create("flow_euler", 11, shift=3.0)
    expected = 3 * plain.sigmas / (1 + 2 * plain.sigmas)
    np.testing.assert_allclose(shifted.sigmas, expected, atol=0.009)  # but for the small end, which is shifted twice
    assert shifted.sigmas[-2] == pytest.approx(expected[-2] * 3 / (1 + 2 * expected[-2]))


@settings(deadline=None, max_examples=60)
@given(steps=st.integers(1, 1000), spacing=st.sampled_from(["leading", "trailing", "linspace"]))
def test_visits_are_exactly_the_steps_asked_for_and_fall(steps, spacing):
    points = visit_points(steps, LINEAR, spacing)
    assert points.shape == (steps,)
    assert np.all(np.diff(points) < 0)
    assert points[-1] >= 0
    assert points[0] <= 999
    if spacing == "trailing":
        assert points[0] == 999


def test_trailing_visits_keep_the_rounding_and_the_count_of_published_tables():
    np.testing.assert_array_equal(visit_points(48, LINEAR, "trailing")[:5], [999, 978, 957, 936, 916])
    # 1000 / 61 is such that numpy's range has a 62nd entry just above zero.
    assert visit_points(61, LINEAR, "trailing")[-1] == 15


def test_second_order_samplers_call_the_network_more_often():
    calls = {name: len(samplers.create(name, 10).timesteps) for name in NAMES}
    more = {"heun": 19, "kdpm2_ancestral": 19, "pndm": 19, "interpolant_ode": 20}
    assert calls == {name: more.get(name, 10) for name in NAMES}


def test_pndm_calls_start_middle_middle_end_and_then_once_a_step():
    expected = [800, 700, 700, 600, 600, 500, 500, 400, 400, 300, 300, 200, 200, 0]
    np.testing.assert_array_equal(samplers.create("pndm", 5, spacing="leading").timesteps, expected)


def test_noise_is_asked_for_only_where_it_is_used():
    drawing = {name: sum(samplers.create(name, 10).draws_noise) for name in NAMES}
    used = {"euler_ancestral": 9, "ddpm": 9, "kdpm2_ancestral": 9, "iddpm": 9, "interpolant_sde": 9}
    assert drawing == {name: used.get(name, 0) for name in NAMES}


def test_steps_out_of_turn_or_with_the_wrong_noise_are_our_own_slips():
    sampler = samplers.create("euler_ancestral", 4)
    x = np.zeros(2)
    with pytest.raises(AssertionError, match="euler_ancestral: step 1 was called when 0 was due"):
        sampler.step(x, x, 1, x)
    with pytest.raises(AssertionError, match=r"draws_noise\[0\] is True"):
        sampler.step(x, x, 0)
    sampler.step(x, x, 0, x)
    with pytest.raises(AssertionError, match="step 0 was called when 1 was due"):
        sampler.step(x, x, 0, x)


@pytest.mark.parametrize("name", NAMES)
def test_steps_use_operators_and_python_floats_only(name):
    sampler = samplers.create(name, 6)
    x = OnlyFloats()
    for i, draws in enumerate(sampler.draws_noise):
        sampler.scale_input(x, i)
        x = sampler.step(x, OnlyFloats(), i, OnlyFloats() if draws else None, *[OnlyFloats()] * sampler.reads_range)
    assert type(sampler.init_scale) is float


@pytest.mark.parametrize("name", NAMES)
def test_torch_and_numpy_give_the_same_states(name):
    import torch

    rng = np.random.Generator(np.random.Philox(7))
    shape = (2, 3, 4)
    with_numpy, with_torch = samplers.create(name, 8), samplers.create(name, 8)
    x = rng.standard_normal(shape, np.float32) * with_numpy.init_scale
    x_torch = torch.from_numpy(x)
    for i, draws in enumerate(with_numpy.draws_noise):
        prediction = rng.standard_normal(shape, np.float32)
        noise = rng.standard_normal(shape, np.float32) if draws else None
        variance = [prediction] * with_numpy.reads_range
        x = with_numpy.step(x, prediction, i, noise, *variance)
        noise_torch = None if noise is None else torch.from_numpy(noise)
        x_torch = with_torch.step(
            x_torch, torch.from_numpy(prediction), i, noise_torch, *map(torch.from_numpy, variance)
        )
        assert x.dtype == np.float32
        assert x_torch.dtype == torch.float32
        np.testing.assert_allclose(x_torch.numpy(), x, rtol=0, atol=2e-6 * np.abs(x).max())
