"""What a denoiser is trained on: mixtures, targets, weights, and draws that depend on nothing but seed and number."""

import numpy as np
import pytest

from duosora.core.errors import ConfigError
from duosora.core.samplers.schedule import FlowSchedule, Schedule
from duosora.core.train.ema import EmaSchedule
from duosora.core.train.learning_rate import KINDS as LEARNING_RATES
from duosora.core.train.learning_rate import LearningRate
from duosora.core.train.objectives import DiffusionObjective, FlowObjective
from duosora.core.train.timesteps import KINDS, TimestepDraw

ZERO_SNR = Schedule(zero_terminal_snr=True)
TIMES = np.array([0, 1, 500, 998, 999])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_mixture_and_target_are_those_of_the_schedule(kind: str) -> None:
    rng = np.random.default_rng(0)
    clean, noise = rng.standard_normal((2, 5, 3))
    draws = DiffusionObjective(kind=kind, schedule=ZERO_SNR).at(TIMES)
    mixed = draws.signal[:, None] * clean + draws.spread[:, None] * noise
    target = draws.of_clean[:, None] * clean + draws.of_noise[:, None] * noise
    np.testing.assert_allclose(mixed, ZERO_SNR.add_noise(clean, noise, TIMES))
    expected = {"epsilon": noise, "v_prediction": ZERO_SNR.velocity(clean, noise, TIMES), "sample": clean}[kind]
    np.testing.assert_allclose(target, expected)


def test_a_flow_goes_straight_from_noise_to_data() -> None:
    draws = FlowObjective().at(np.array([1.0, 0.25]))
    np.testing.assert_array_equal(draws.signal, [0.0, 0.75])
    np.testing.assert_array_equal(draws.spread, [1.0, 0.25])
    np.testing.assert_array_equal(draws.timesteps, [1000.0, 250.0])
    np.testing.assert_array_equal((draws.of_clean, draws.of_noise), [[-1, -1], [1, 1]])


def test_min_snr_weights_have_their_limits() -> None:
    snr = ZERO_SNR.snr[TIMES]
    epsilon, velocity, sample = (
        DiffusionObjective(kind=kind, schedule=ZERO_SNR, snr_gamma=5.0).at(TIMES).weights
        for kind in ("epsilon", "v_prediction", "sample")
    )
    np.testing.assert_allclose(velocity, np.minimum(snr, 5) / (snr + 1))
    np.testing.assert_allclose(sample, np.minimum(snr, 5))
    np.testing.assert_allclose(epsilon[:-1], np.minimum(snr, 5)[:-1] / snr[:-1])
    assert epsilon[-1] == 1.0
    assert velocity[-1] == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_depends_on_seed_step_and_number_only(kind: str) -> None:
    draw = TimestepDraw(kind=kind, global_batch=8)
    together = draw.draw(3, range(16, 24), step=2)
    assert together == [draw.draw(3, [sample], step=2)[0] for sample in range(16, 24)]
    assert all(0 <= u < 1 for u in together)
    assert together != draw.draw(3, range(16, 24), step=3)
    assert together != draw.draw(4, range(16, 24), step=2)


def test_strata_cover_every_part_once_a_step() -> None:
    draw = TimestepDraw(kind="stratified", global_batch=8)
    for step in range(20):
        parts = [int(u * 8) for u in draw.draw(0, range(8 * step, 8 * step + 8), step)]
        assert sorted(parts) == list(range(8))
    assert parts != list(range(8))


def test_draws_have_their_distributions() -> None:
    samples = range(4000)
    logits = np.array(TimestepDraw(kind="logit_normal", logit_mean=0.5, logit_std=0.8).draw(0, samples, 0))
    values = np.log(logits / (1 - logits))
    assert abs(values.mean() - 0.5) < 0.05
    assert abs(values.std() - 0.8) < 0.05
    uniform = DiffusionObjective().draw(0, samples, 0).timesteps
    assert uniform.min() < 10
    assert uniform.max() > 989
    assert abs(uniform.mean() - 499.5) < 15
    shifted = FlowObjective(schedule=FlowSchedule(shift=3.0)).draw(0, samples, 0).spread
    assert abs((shifted > 0.9).mean() - 0.25) < 0.03  # t = 3u / (1 + 2u) is above 0.9 for a quarter of all u


def test_flows_on_the_grid_are_told_whole_timesteps() -> None:
    told = FlowObjective(on_grid=True).draw(0, range(500), 0).timesteps
    np.testing.assert_allclose(told, np.rint(told), atol=1e-9)
    assert told.min() >= 1
    assert told.max() <= 1000


@pytest.mark.parametrize("kind", LEARNING_RATES)
def test_rates_rise_from_zero_and_fall_to_their_floor(kind: str) -> None:
    rate = LearningRate(peak=2.0, kind=kind, warmup_steps=10, total_steps=110, floor=0.1, cycles=1)
    rates = [rate.at(step) for step in range(140)]
    assert rates[0] == 0.0
    np.testing.assert_allclose(rates[5], 1.0)
    assert max(rates) == pytest.approx(rates[10]) == pytest.approx(2.0)
    falling = np.diff(rates[10:])
    assert (falling <= 1e-12).all()
    assert rates[-1] == pytest.approx(2.0 if kind == "constant" else 0.2)


def test_restarts_go_back_to_the_peak() -> None:
    rate = LearningRate(peak=1.0, kind="cosine_with_restarts", total_steps=100, cycles=4)
    assert rate.at(25) == pytest.approx(1.0)
    assert rate.at(24) < 0.01
    assert LearningRate(peak=1.0, kind="hold_cosine", total_steps=100, hold=0.5).at(50) == 1.0


def test_averages_copy_first_and_slow_down() -> None:
    ema = EmaSchedule(decay=0.99)
    decays = [ema.at(update) for update in range(1, 2000)]
    assert decays[0] == 0.0
    assert decays[1] == pytest.approx(2 / 11)
    assert (np.diff(decays) >= 0).all()
    assert decays[-1] == 0.99
    assert EmaSchedule(decay=0.9, warms_up=False, start_step=3).at(3) == 0.0
    assert EmaSchedule(decay=0.9, warms_up=False, start_step=3).at(4) == 0.9


@pytest.mark.parametrize(
    "make",
    [
        lambda: DiffusionObjective(kind="noise"),
        lambda: DiffusionObjective(snr_gamma=0.0),
        lambda: FlowObjective(weighting="cos"),
        lambda: TimestepDraw(kind="normal"),
        lambda: TimestepDraw(logit_std=0.0),
        lambda: LearningRate(peak=1.0, kind="step"),
        lambda: LearningRate(peak=-1.0),
    ],
)
def test_impossible_settings_are_refused(make) -> None:
    with pytest.raises(ConfigError):
        make()
