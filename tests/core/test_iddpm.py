"""Improved diffusion: respaced chains, learned variance, frames that begin late, the variational bound, SpeeD."""

import re
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duosora.core import samplers
from duosora.core.errors import ConfigError
from duosora.core.samplers import LINEAR, SQUARED_COSINE
from duosora.core.samplers.dpm_solver import DPMSolver
from duosora.core.samplers.iddpm import IDDPM
from duosora.core.samplers.respaced_ddim import RespacedDDIM
from duosora.core.samplers.respacing import Chain, constant_stride, kept_timesteps, sections
from duosora.core.train.objectives import DiffusionObjective
from duosora.core.train.speed import SpeedDraw

# Respacing


@settings(deadline=None, max_examples=60)
@given(steps=st.integers(2, 1000))
def test_sections_keep_both_ends_and_as_many_timesteps_as_asked_for(steps):
    kept = sections(1000, [steps])
    assert (kept[0], kept[-1], len(kept)) == (0, 999, steps)
    assert np.all(np.diff(kept) > 0)


def test_a_constant_stride_that_does_not_exist_names_the_nearest():
    assert constant_stride(1000, 7).tolist() == [0, 143, 286, 429, 572, 715, 858]
    with pytest.raises(ConfigError, match=r"sampler.steps = 300: .* the nearest are 250 and 334"):
        constant_stride(1000, 300)


@pytest.mark.parametrize(
    ("steps", "spacing", "counts", "told"),
    [
        (10, "trailing", "", "sampler.spacing = 'trailing': needs linspace or leading here"),
        (10, "linspace", "3,4", "sampler.options.sections = 3,4: needs whole numbers"),
        (10, "linspace", "3,x", "sampler.options.sections = 3,x: needs whole numbers"),
        (10, "linspace", "10,x", "sampler.options.sections = 10,x: needs whole numbers"),
        (1001, "linspace", "", "sampler.steps = 1001: of 1000 timesteps"),
    ],
)
def test_a_respacing_that_cannot_be_is_refused(steps, spacing, counts, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        kept_timesteps(1000, steps, spacing, counts)


@pytest.mark.parametrize("schedule", [LINEAR, SQUARED_COSINE])
def test_a_respaced_chain_keeps_the_noise_of_its_timesteps(schedule):
    whole, short = Chain.of(schedule), Chain.of(schedule, sections(1000, [12]))
    np.testing.assert_array_equal(short.alphas_cumprod, whole.alphas_cumprod[short.timesteps])
    np.testing.assert_allclose(np.cumprod(1 - short.betas), short.alphas_cumprod, rtol=1e-6)
    assert short.posterior_variance[0] == 0
    assert np.isfinite(short.posterior_log_variance).all()


# Sampling


def test_what_is_said_of_the_variance_is_the_way_between_its_logarithms():
    chain = Chain.of(LINEAR, sections(1000, [6]))
    least, largest = chain.log_variances("learned_range")
    x, unit = np.zeros(3), np.ones(3)
    for says in (-1.0, 0.0, 1.0):
        sampler = IDDPM(6)
        moved = sampler.step(x, x, 0, unit, np.full(3, says))
        expected = np.exp(0.5 * (least[-1] + (says + 1) / 2 * (largest[-1] - least[-1])))
        np.testing.assert_allclose(moved, expected)


@pytest.mark.parametrize(
    ("variance", "reads"), [("learned_range", True), ("fixed_small", False), ("fixed_large", False)]
)
def test_only_a_learned_variance_is_read(variance, reads):
    assert IDDPM(6, variance=variance).reads_range == reads
    with pytest.raises(AssertionError, match="reads_range is"):
        IDDPM(6, variance=variance).step(*[np.zeros(2)] * 2, 0, np.zeros(2), None if reads else np.zeros(2))


def test_ddim_with_all_its_noise_spreads_as_the_small_variance():
    x = np.ones(4)
    ancestral = IDDPM(8, variance="fixed_small").step(x, 0.3 * x, 0, 2 * x)
    np.testing.assert_allclose(RespacedDDIM(8, eta=1.0, spacing="linspace").step(x, 0.3 * x, 0, 2 * x), ancestral)


@pytest.mark.parametrize(
    "make", [DPMSolver, RespacedDDIM, lambda steps, **o: IDDPM(steps, variance="fixed_small", **o)]
)
@pytest.mark.parametrize("schedule", [LINEAR, SQUARED_COSINE])
def test_a_network_that_knows_the_data_leads_to_it(make, schedule):
    data, x = np.array([0.4, -1.2]), np.array([0.3, 2.0])
    sampler = make(50, objective="sample", schedule=schedule)
    for i, draws in enumerate(sampler.draws_noise):
        x = sampler.step(x, data, i, np.ones(2) if draws else None)
    np.testing.assert_allclose(x, data, atol=0.03 if make is DPMSolver else 1e-12)


def test_frames_start_as_late_as_their_strength_says_and_zero_keeps_them():
    starts = IDDPM(6).frame_starts(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert starts.moves[:, 0].astype(int).T.tolist() == [[0] * 6, [0, 0, 1, 1, 1, 1], [1] * 6]
    assert starts.enters[:, 0].astype(int).T.tolist() == [[0] * 6, [0, 0, 1, 0, 0, 0], [0] * 6]
    assert starts.tells is starts.moves
    late = IDDPM(6, tells_late=True).frame_starts(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert late.tells[:, 0].astype(int).T.tolist() == [[0] * 6, [0, 0, 0, 1, 1, 1], [1] * 6]
    assert late.moves[:, 0, 0].tolist() == [False] * 5 + [True]


def test_options_of_samplers_are_known_by_name():
    samplers.check_options("iddpm", {"variance": "fixed_large", "sections": "5,3", "tells_late": True})
    with pytest.raises(ConfigError, match="it has variance, sections, tells_late"):
        samplers.check_options("iddpm", {"eta": 0.5})
    with pytest.raises(ConfigError, match=r"sampler.options.variance = 'small': needs one of learned_range, fixed"):
        IDDPM(6, variance="small")


# Training


def test_without_a_bound_nothing_is_added():
    assert DiffusionObjective(kind="epsilon").at(np.array([3])).bound_weights is None
    with pytest.raises(ConfigError, match=r"objective.bound = 'all': needs one of none, hybrid"):
        DiffusionObjective(bound="all")


@pytest.mark.parametrize(("kind", "says"), [("epsilon", "noise"), ("sample", "data")])
def test_the_bound_is_the_divergence_of_the_posterior(kind, says):
    """At a timestep, for a known error of the prediction, against the formula of two Gaussians written out."""
    chain, t, error, v = Chain.of(LINEAR), 400, 0.3, 0.5
    draws = DiffusionObjective(kind=kind, bound="hybrid").at(np.array([t]))
    wider = draws.log_range[0] * (v + 1) / 2
    ours = 0.5 * (wider - 1 + np.exp(-wider) * (1 + (draws.gain[0] * error) ** 2))
    signal, spread = np.sqrt(chain.alphas_cumprod[t]), np.sqrt(1 - chain.alphas_cumprod[t])
    of_data = error if says == "data" else error * spread / signal
    apart = chain.posterior_mean[0][t] * of_data
    least, largest = np.log(chain.posterior_variance[t]), np.log(chain.betas[t])
    log_variance = (v + 1) / 2 * largest + (1 - v) / 2 * least
    theirs = 0.5 * (log_variance - least - 1 + np.exp(least - log_variance) + apart**2 * np.exp(-log_variance))
    assert ours == pytest.approx(theirs, rel=1e-9)
    assert draws.half_bin[0] == 0


def test_only_the_cleanest_timestep_has_bins():
    draws = DiffusionObjective(kind="epsilon", bound="hybrid").at(np.array([0, 1]))
    narrow = np.exp(-0.5 * Chain.of(LINEAR).posterior_log_variance[0])
    np.testing.assert_allclose(draws.half_bin, [narrow / 255, 0])


def test_frames_that_do_not_move_are_as_noisy_as_the_cleanest_timestep_and_do_not_count():
    moves = np.array([[True, False, True, True], [False] * 4])
    draws = DiffusionObjective(kind="epsilon", bound="rescaled").at(np.array([500, 20]), moves)
    chain = Chain.of(LINEAR)
    np.testing.assert_allclose(draws.spread[0], np.sqrt(1 - chain.alphas_cumprod[[500, 0, 500, 500]]))
    np.testing.assert_allclose(draws.weights, [[4 / 3, 0, 4 / 3, 4 / 3], [0] * 4])
    np.testing.assert_allclose(draws.bound_weights, draws.weights)
    assert draws.rows(slice(1, 2)).gain.shape == (1,)


@pytest.mark.parametrize(
    ("bound", "squared", "weight"), [("rescaled", 1, 0.2), ("alone", 0, 1), ("alone_rescaled", 0, 200)]
)
def test_what_the_bound_weighs(bound, squared, weight):
    schedule = samplers.Schedule(num_train_timesteps=200)
    draws = DiffusionObjective(kind="epsilon", schedule=schedule, bound=bound).at(np.array([5]))
    assert (draws.weights[0], draws.bound_weights[0]) == (squared, pytest.approx(weight))


def test_speed_favours_timesteps_that_grow_fast_and_pairs_clips():
    speed = SpeedDraw(LINEAR)
    objective = DiffusionObjective(kind="epsilon", speed=True)
    draws = objective.draw(3, range(4000), 0)
    first, second = draws.timesteps[::2], draws.timesteps[1::2]
    np.testing.assert_array_equal(second, np.abs(speed.meaningful - first))
    growth = np.gradient(np.sqrt(1 - Chain.of(LINEAR).alphas_cumprod))
    fast = growth > 1e-4
    expected = 5 * fast.sum() / (5 * fast.sum() + (~fast).sum())
    assert np.mean(fast[first.astype(int)]) == pytest.approx(expected, abs=0.02)
    np.testing.assert_allclose(draws.weights, 1 - Chain.of(LINEAR).alphas_cumprod[draws.timesteps.astype(int)])
    assert objective.draw(3, [7], 0).timesteps[0] == draws.timesteps[7]


def test_speed_has_weights_of_its_own():
    with pytest.raises(ConfigError, match=r"objective.speed has weights of its own"):
        DiffusionObjective(speed=True, snr_gamma=5.0)


def test_the_cosine_falls_as_its_square():
    left = SQUARED_COSINE.alphas_cumprod
    at = np.array([100, 500, 900])
    expected = (np.cos(((at + 1) / 1000 + 0.008) / 1.008 * np.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2)) ** 2
    np.testing.assert_allclose(left[at], expected, rtol=1e-4)
    assert log(left[-1]) < -15
