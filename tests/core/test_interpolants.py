"""Interpolants: paths, what a network says on them, and the times that are kept to."""

import numpy as np
import pytest

from duosora.core.errors import ConfigError
from duosora.core.maths.interpolants import FORMS, PATHS, PREDICTIONS, Interpolant, Interval
from duosora.core.samplers.base import Sampler
from duosora.core.samplers.interpolant import SDE, log_likelihood, ode
from duosora.core.samplers.interpolant_ode import InterpolantODE
from duosora.core.samplers.interpolant_sde import InterpolantSDE
from duosora.core.samplers.solvers import FIXED
from duosora.core.train.interpolants import InterpolantObjective

TIMES = np.linspace(0.05, 0.95, 19)


@pytest.mark.parametrize("path", PATHS)
def test_slopes_are_the_derivatives_of_the_path(path: str) -> None:
    of, step = Interpolant(path), 1e-6
    alpha, sigma, alpha_slope, sigma_slope = of.rates(TIMES)
    after, before = of.rates(TIMES + step), of.rates(TIMES - step)
    np.testing.assert_allclose(alpha_slope, (after.alpha - before.alpha) / (2 * step), rtol=1e-6)
    np.testing.assert_allclose(sigma_slope, (after.sigma - before.sigma) / (2 * step), rtol=1e-6)
    if path != "linear":
        np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=1e-12)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_all_predictions_say_the_same_drift_and_score(path: str, prediction: str) -> None:
    """Where the data are one point, the network's best answers are known."""
    of, data, noise = Interpolant(path, prediction), 1.7, -0.4
    alpha, sigma, alpha_slope, sigma_slope = of.rates(TIMES)
    state = alpha * data + sigma * noise
    of_data, of_noise = of.target(TIMES)
    output = of_data * data + of_noise * noise
    drift, score = of.drift(TIMES), of.score(TIMES)
    velocity = alpha_slope * data + sigma_slope * noise
    np.testing.assert_allclose(drift.of_state * state + drift.of_output * output, velocity, rtol=1e-9)
    np.testing.assert_allclose(score.of_state * state + score.of_output * output, -noise / sigma, rtol=1e-9)


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun2", "heun3", "rk4", "dopri5"])
@pytest.mark.parametrize("path", PATHS)
def test_noise_becomes_the_data(path: str, method: str) -> None:
    """Of one point, whose network is known; a path with late times left out ends a little before it."""
    of = Interpolant(path, "noise")
    interval = Interval(of=of, sample_eps=1e-3)

    def network(x: np.ndarray, t: float) -> np.ndarray:
        alpha, sigma, _, _ = of.rates(np.float64(t))
        return (x - alpha * 1.7) / sigma

    noise = np.array([[0.3, -1.2]])
    # As no data are noise at t = 0 of vp, it starts where the point would be.
    alpha, sigma, _, _ = of.rates(np.float64(interval.ode()[0]))
    *_, last = ode(network, alpha * 1.7 + sigma * noise, interval, 400, method)
    end = of.rates(np.float64(interval.ode()[1]))
    np.testing.assert_allclose(
        last, end.alpha * 1.7 + end.sigma * noise, atol=2e-2 if method in ("euler", "dopri5") else 3e-3
    )


@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("form", FORMS)
def test_the_stochastic_equation_has_the_same_densities(method: str, form: str) -> None:
    """Of normal data, whose network is known: mean and deviation at the end are those of the data."""
    of = Interpolant("gvp", "velocity")
    draw = np.random.default_rng(0)

    def network(x: np.ndarray, t: float) -> np.ndarray:
        alpha, sigma, alpha_slope, sigma_slope = of.rates(np.float64(t))
        variance = (0.5 * alpha) ** 2 + sigma**2
        share = (x - alpha) / variance  # the posterior of data and noise, given their sum
        return alpha_slope * (1 + 0.25 * alpha * share) + sigma_slope * sigma * share

    interval = Interval(of=of, sample_eps=1e-3)
    sde = SDE(interval=interval, steps=200, method=method, form=form, norm=0.5, last_step_size=0.01)
    *_, last = sde.run(network, draw.standard_normal(20_000), lambda i: draw.standard_normal(20_000))
    assert last.mean() == pytest.approx(1.0, abs=0.03)
    assert last.std() == pytest.approx(0.5, abs=0.03)


def test_noise_that_would_be_infinite_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"form = sbdm: its noise is infinite at t = 0.*sample_eps=0\.001"):
        SDE(interval=Interval(of=Interpolant()), form="sbdm")
    SDE(interval=Interval(of=Interpolant(), sample_eps=1e-3), form="sbdm")


@pytest.mark.parametrize(("name", "value"), [("method", "rk4"), ("form", "cubic"), ("last_step", "maybe")])
def test_names_that_there_are_not_are_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} = '{value}': needs one of"):
        SDE(interval=Interval(of=Interpolant()), **{name: value})


def test_each_eps_counts_by_itself() -> None:
    of = Interpolant("vp", "noise")
    assert Interval(of=of).eps == (1e-5, 1e-3)
    assert Interval(of=of, sample_eps=0.01).eps == (1e-5, 0.01)
    assert Interval(of=of, sample_eps=0.01, as_upstream=True).eps == (1e-5, 1e-3)
    assert Interval(of=Interpolant(), sample_eps=0.01).ode() == (0.01, 0.99)
    assert Interval(of=Interpolant()).ode(reverse=True) == (1.0, 0.0)
    assert Interval(of=Interpolant()).sde(0.04, "sigma") == (0.0, 0.96)


def test_the_likelihood_of_normal_data() -> None:
    """A flow that only stretches has a trace that is known; the data are normal with deviation 0.5."""
    of, data = Interpolant(), np.random.default_rng(0).standard_normal((5, 3)) * 0.5

    def change(x: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
        pull = (0.25 * t - (1 - t)) / ((0.5 * t) ** 2 + (1 - t) ** 2)
        return pull * x, np.full(len(x), pull * x.shape[1])

    logp, _ = log_likelihood(change, data, Interval(of=of), 50, "rk4")
    expected = (-((data / 0.5) ** 2) / 2 - np.log(0.5 * np.sqrt(2 * np.pi))).sum(1)
    np.testing.assert_allclose(logp, expected, atol=1e-4)


@pytest.mark.parametrize("path", PATHS)
def test_what_is_trained_on_is_between_noise_and_data(path: str) -> None:
    objective = InterpolantObjective(of=Interpolant(path, "score"), weighting="likelihood")
    draws = objective.draw(0, [1, 2, 3], 0)
    again = objective.draw(0, [3], 0)
    assert draws.rows(slice(2, 3)).weights == again.weights
    assert draws.timesteps[2] == again.timesteps[0]
    assert ((draws.timesteps > 0) & (draws.timesteps < 1)).all()
    clean, noisy = objective.at_shares(np.array([0.0, 1.0])).timesteps
    assert (round(clean, 2), round(noisy, 2)) == (1.0, 0.0)


def test_a_velocity_has_no_weights() -> None:
    with pytest.raises(ConfigError, match="a velocity has none; noise and score have"):
        InterpolantObjective(weighting="likelihood")


def network(x: np.ndarray, t: float) -> np.ndarray:
    return np.cos(3 * t) * x - 0.3 * np.tanh(x)


def sampled(sampler: Sampler, x: np.ndarray, noises: np.ndarray) -> np.ndarray:
    left = iter(noises)
    for i, time in enumerate(sampler.timesteps):
        if sampler.draws_before and sampler.draws_before[i]:
            x = sampler.before(x, next(left), i)
        x = sampler.step(x, network(x, float(time)), i, next(left) if sampler.draws_noise[i] else None)
    return x


@pytest.mark.parametrize("method", FIXED)
@pytest.mark.parametrize(("path", "prediction"), [("linear", "velocity"), ("gvp", "score"), ("vp", "velocity")])
def test_the_sampler_takes_the_solvers_steps(path: str, prediction: str, method: str) -> None:
    x = np.random.default_rng(0).standard_normal(5) / 4
    *_, expected = ode(network, x, Interval(of=Interpolant(path, prediction)), 8, method)
    sampler = InterpolantODE(7, objective=prediction, path=path, method=method)
    np.testing.assert_allclose(sampled(sampler, x, np.zeros(0)), expected, rtol=1e-9)


@pytest.mark.parametrize("steps", [1, 30])
@pytest.mark.parametrize(("path", "prediction"), [("linear", "velocity"), ("gvp", "score"), ("vp", "velocity")])
def test_the_sampler_chooses_its_calls_as_dopri5_does(path: str, prediction: str, steps: int) -> None:
    x = np.random.default_rng(0).standard_normal(5) / 4
    interval = Interval(of=Interpolant(path, prediction), sample_eps=1e-3)
    *_, expected = ode(network, x, interval, steps + 1, "dopri5", atol=1e-7, rtol=1e-4)
    options = {"objective": prediction, "path": path, "sample_eps": 1e-3}
    sampler = InterpolantODE(steps, method="dopri5", atol=1e-7, rtol=1e-4, **options)
    assert (sampler.adapts, sampler.runs_alone, len(sampler.timesteps)) == (True, True, 1)
    np.testing.assert_allclose(sampled(sampler, x, np.zeros(0)), expected, rtol=1e-9)
    coarse = InterpolantODE(steps, method="dopri5", atol=1e-2, rtol=1e-2, together=True, **options)
    sampled(coarse, x, np.zeros(0))
    assert 7 <= len(coarse.timesteps) < len(sampler.timesteps) == len(sampler.draws_noise)
    assert not coarse.runs_alone


def test_limits_of_the_error_are_for_dopri5() -> None:
    with pytest.raises(ConfigError, match="together are for method dopri5, not for heun2"):
        InterpolantODE(4, rtol=0.1)
    with pytest.raises(ConfigError, match="need numbers from 0 on"):
        InterpolantODE(4, method="dopri5", rtol=-1.0)


@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("last_step", ["mean", "euler", "tweedie", "none"])
def test_the_sampler_takes_the_stochastic_steps(last_step: str, method: str) -> None:
    draw = np.random.default_rng(0)
    x, noises = draw.standard_normal(5) / 4, draw.standard_normal((7, 5))
    sde = SDE(interval=Interval(of=Interpolant("gvp")), steps=8, last_step=last_step, method=method)
    *_, expected = sde.run(network, x, lambda i: noises[i])
    sampler = InterpolantSDE(8, path="gvp", last_step=last_step, method=method)
    assert sum((*sampler.draws_noise, *sampler.draws_before)) == 7
    np.testing.assert_allclose(sampled(sampler, x, noises), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", [InterpolantODE, InterpolantSDE])
def test_steps_that_are_impossible_are_refused(kind: type[Sampler]) -> None:
    for steps in (0, -1, 1001):
        with pytest.raises(ConfigError, match=rf"sampler\.steps = {steps}: from"):
            kind(steps)


@pytest.mark.parametrize(
    ("path", "amounts"),
    [
        ("linear", (0.7, 1.63333333, 0.49, 0.49, 0.498047547, 0.458155948)),
        ("gvp", (0.7, 2.15800296, 0.623704567, 0.49, 0.498047547, 0.458155948)),
        ("vp", (0.7, 4.9105, 0.69750518, 0.49, 0.498047547, 0.458155948)),
    ],
)
def test_how_much_noise_comes_in(path: str, amounts: tuple[float, ...]) -> None:
    """At t = 0.3 and a norm of 0.7, by the formulas of the paper."""
    found = [Interpolant(path).diffusion(form, 0.7, np.float64(0.3)) for form in FORMS]
    np.testing.assert_allclose(found, amounts, rtol=1e-8)


@pytest.mark.parametrize(
    ("path", "of_velocity", "of_likelihood"),
    [
        ("linear", 11.1111111, 4.76190476),
        ("gvp", 11.9714353, 3.88322208),
        ("vp", 49.5628826, 7.06527193),
    ],
)
def test_weights_of_the_error(path: str, of_velocity: float, of_likelihood: float) -> None:
    """At t = 0.3, by the formulas of the paper; a score's error times sigma is that of the noise."""
    t, weightings = np.float64(0.3), ("none", "velocity", "likelihood")
    square = Interpolant(path).rates(t).sigma ** 2
    noise, score = ([Interpolant(path, kind).weight(each, t) for each in weightings] for kind in ("noise", "score"))
    np.testing.assert_allclose(noise, [1.0, of_velocity, of_likelihood], rtol=1e-8)
    np.testing.assert_allclose(score, square * np.array(noise), rtol=1e-12)


@pytest.mark.parametrize(
    ("path", "prediction", "training", "sampling"),
    [
        ("linear", "velocity", (0.0, 1.0), (0.0, 1.0)),
        ("gvp", "velocity", (0.0, 1.0), (0.0, 1.0)),
        ("linear", "score", (1e-3, 1 - 1e-3), (1e-3, 1 - 1e-3)),
        ("gvp", "noise", (1e-3, 1 - 1e-3), (1e-3, 1 - 1e-3)),
        ("vp", "velocity", (0.0, 1 - 1e-5), (0.0, 1 - 1e-3)),
        ("vp", "noise", (0.0, 1 - 1e-5), (0.0, 1 - 1e-3)),
    ],
)
def test_the_times_that_are_kept_to(
    path: str, prediction: str, training: tuple[float, float], sampling: tuple[float, float]
) -> None:
    interval = Interval(of=Interpolant(path, prediction))
    assert (interval.training(), interval.ode()) == (training, sampling)
