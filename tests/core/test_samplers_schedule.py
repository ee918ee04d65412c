"""Noise schedules as numbers."""

import numpy as np
import pytest

from duosora.core.errors import ConfigError
from duosora.core.samplers import COGVIDEOX, LINEAR, STABLE_DIFFUSION, FlowSchedule, Schedule

SCHEDULES = [
    LINEAR,
    STABLE_DIFFUSION,
    COGVIDEOX,
    Schedule(zero_terminal_snr=True),
    Schedule(beta_start=0.00085, beta_end=0.012, kind="scaled_linear", snr_shift_scale=3.0, zero_terminal_snr=True),
]


def test_published_values():
    assert LINEAR.betas[[0, -1]] == pytest.approx([1e-4, 0.02])
    assert LINEAR.alphas_cumprod[-1] == pytest.approx(4.0358e-5, rel=1e-4)
    assert LINEAR.sigmas[[0, -1]] == pytest.approx([0.010001, 157.407], rel=1e-4)
    assert STABLE_DIFFUSION.betas[[0, -1]] == pytest.approx([0.00085, 0.012])
    assert STABLE_DIFFUSION.sigmas[-1] == pytest.approx(14.6146, rel=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_signal_falls_noise_rises_and_tables_agree(schedule):
    assert schedule.alphas_cumprod.dtype == schedule.betas.dtype == np.float64
    assert np.all(np.diff(schedule.alphas_cumprod) < 0)
    assert np.all(np.diff(schedule.sigmas) > 0)
    np.testing.assert_allclose(schedule.snr, schedule.alphas_cumprod / (1 - schedule.alphas_cumprod))
    if schedule.snr_shift_scale is None:
        np.testing.assert_allclose(np.cumprod(1 - schedule.betas), schedule.alphas_cumprod, rtol=3e-6, atol=1e-12)


@pytest.mark.parametrize("schedule", [LINEAR, STABLE_DIFFUSION, Schedule(zero_terminal_snr=True)])
def test_signal_has_the_float32_values_that_models_were_trained_with(schedule):
    np.testing.assert_array_equal(schedule.alphas_cumprod, schedule.alphas_cumprod.astype(np.float32))
    assert np.any(COGVIDEOX.alphas_cumprod != COGVIDEOX.alphas_cumprod.astype(np.float32))


def test_zero_terminal_snr_moves_the_end_to_noise_and_keeps_the_start():
    plain, rescaled = LINEAR, Schedule(zero_terminal_snr=True)
    assert rescaled.alphas_cumprod[-1] == rescaled.snr[-1] == 0.0
    assert rescaled.betas[-1] == 1.0
    assert rescaled.alphas_cumprod[0] == pytest.approx(plain.alphas_cumprod[0], rel=1e-7)
    assert rescaled.sigmas[-1] == 4096.0
    roots, before = np.sqrt(rescaled.alphas_cumprod), np.sqrt(plain.alphas_cumprod)
    np.testing.assert_allclose(
        (roots - roots[-1]) / roots[0], (before - before[-1]) / (before[0] - before[-1]), atol=1e-6
    )


def test_the_snr_shift_divides_every_ratio():
    unshifted = Schedule(beta_start=0.00085, beta_end=0.012, kind="scaled_linear", snr_shift_scale=1.0)
    np.testing.assert_allclose(COGVIDEOX.snr * 3, unshifted.snr, rtol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_noised_data_and_velocity_give_the_data_back(schedule):
    rng = np.random.Generator(np.random.Philox(1))
    clean, noise = rng.standard_normal((2, 4, 3, 2), np.float32)
    timesteps = np.array([0, 400, 998, 999])
    noised, velocity = schedule.add_noise(clean, noise, timesteps), schedule.velocity(clean, noise, timesteps)
    signal, spread = (rate.reshape(4, 1, 1) for rate in schedule.rates(timesteps))
    assert noised.dtype == velocity.dtype == np.float32
    np.testing.assert_allclose(signal * noised - spread * velocity, clean, atol=1e-6)
    np.testing.assert_allclose(spread * noised + signal * velocity, noise, atol=1e-6)


def test_timesteps_before_the_first_are_what_the_caller_says():
    values = LINEAR.alphas_cumprod_at(np.array([-3, 0, 5]), before_first=1.0)
    np.testing.assert_array_equal(values, [1.0, LINEAR.alphas_cumprod[0], LINEAR.alphas_cumprod[5]])


def test_flow_timesteps_are_a_thousand_sigmas():
    np.testing.assert_allclose(FlowSchedule().timesteps, np.arange(1000, 0, -1))
    shifted = FlowSchedule(shift=5.0)
    assert shifted.sigmas[0] == 1.0
    assert shifted.sigmas[500] == pytest.approx(5 * 0.5 / 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "cosine"}, "sampler.schedule.kind = 'cosine': unknown, use one of linear, scaled_linear"),
        ({"beta_start": 0.0}, "beta_start <= beta_end < 1 is needed, not 0.0 and 0.02"),
        ({"beta_start": 0.03}, "not 0.03 and 0.02"),
        ({"snr_shift_scale": 0.0}, "snr_shift_scale = 0.0: a positive number is needed"),
        ({"num_train_timesteps": 1}, "num_train_timesteps = 1: at least 2 are needed"),
    ],
)
def test_impossible_schedules_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Schedule(**options)


def test_a_shift_must_be_positive():
    with pytest.raises(ConfigError, match=r"sampler.shift = 0.0: a positive number is needed"):
        FlowSchedule(shift=0.0)
