"""The sampling loop with frames that start late, on numpy arrays and a model by a formula."""

import threading
from collections.abc import Callable
from time import sleep
from typing import Any

import numpy as np
import pytest

from duosora.core.errors import NumericsError
from duosora.core.pipelines.ahead import done_ahead
from duosora.core.pipelines.denoise import Guidance, denoise
from duosora.core.random import normal
from duosora.core.samplers import LINEAR
from duosora.core.samplers.ddpm import DDPM
from duosora.core.samplers.iddpm import IDDPM
from duosora.core.samplers.interpolant_ode import InterpolantODE
from duosora.core.samplers.rflow import RFlow

SHAPE = (2, 3, 4, 2, 2)


class NumpyBackend:
    """As much of a backend as the loop needs."""

    def asarray(self, array: np.ndarray) -> np.ndarray:
        return array

    def stage(self, array: np.ndarray) -> Callable[[], np.ndarray]:
        return lambda: array

    def is_finite(self, array: np.ndarray) -> Callable[[], bool]:
        return lambda: bool(np.isfinite(array).all())

    to_numpy = asarray

    def concat(self, arrays: list[np.ndarray], axis: int) -> np.ndarray:
        return np.concatenate(arrays, axis)


class Model:
    """A velocity of as many channels again as the latents have, which are to be cut off."""

    def __init__(self) -> None:
        self.masks: list[Any] = []

    def with_frames(self, condition: Any, mask: np.ndarray | None) -> Any:
        return mask

    def __call__(self, latents: np.ndarray, times: np.ndarray, condition: Any) -> np.ndarray:
        self.masks.append(condition)
        velocity = 0.3 * latents + times.reshape(-1, 1, 1, 1, 1) / 1000
        return np.concatenate([velocity, np.full_like(velocity, 7.0)], axis=1)


def run(strength: np.ndarray | None, guidance: float = 1.0) -> tuple[np.ndarray, Model]:
    model = Model()
    latents = denoise(
        NumpyBackend(),
        model,
        None,
        normal(SHAPE, 0, "latents"),
        RFlow(4),
        Guidance(guidance),
        noise=lambda i: pytest.fail("rflow draws no noise"),
        strength=strength,
        late_noise=lambda i: normal(SHAPE, 1, "late", step=i),
    )
    return latents, model


def test_frames_of_strength_0_stay_and_those_of_1_are_as_without() -> None:
    free, _ = run(None)
    strength = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(run(strength)[0], free, rtol=1e-6)
    strength[0, 1], strength[1, :] = 0, 0
    got, _ = run(strength)
    before = normal(SHAPE, 0, "latents")
    np.testing.assert_array_equal(got[0, :, 1], before[0, :, 1])
    np.testing.assert_array_equal(got[1], before[1])
    np.testing.assert_allclose(got[0, :, [0, 2, 3]], free[0, :, [0, 2, 3]], rtol=1e-6)


def test_a_frame_joins_with_noise_at_the_time_of_its_strength() -> None:
    strength = np.ones((2, 4), np.float32)
    strength[0, 2] = 0.5
    got, model = run(strength)
    # Calls at 1000, 750, 500 and 250: the frame joins at the third, mixed half and half with that call's noise.
    state = 0.5 * normal(SHAPE, 0, "latents")[0, :, 2] + 0.5 * normal(SHAPE, 1, "late", step=2)[0, :, 2]
    for time in (500, 250):
        state = state + 0.25 * (0.3 * state + time / 1000)
    np.testing.assert_allclose(got[0, :, 2], state, rtol=1e-5)
    assert [None if mask is None else bool(mask[0, 2]) for mask in model.masks] == [False, False, None, None]


def test_both_halves_of_guidance_get_the_mask() -> None:
    strength = np.ones((2, 4), np.float32)
    strength[0, 0] = 0
    _, model = run(strength, guidance=3.0)
    assert all(mask.shape == (4, 4) for mask in model.masks)
    np.testing.assert_array_equal(model.masks[0][:2], model.masks[0][2:])


class Denoiser:
    """Noise and a variance of latents of three channels, other ones for negative texts, which are the first half."""

    def __call__(self, latents: np.ndarray, times: np.ndarray, condition: Any) -> np.ndarray:
        strength = np.full((len(latents), 1, 1, 1, 1), 0.5)
        strength[: len(latents) - SHAPE[0]] = 0.2
        return np.concatenate([strength * latents, np.tanh(strength * latents + times[0] / 1000)], axis=1)


def by_iddpm(guidance: Guidance) -> np.ndarray:
    noises = [normal(SHAPE, 2, "noise", step=step) for step in range(2)]
    start = normal(SHAPE, 0, "latents")
    return denoise(NumpyBackend(), Denoiser(), None, start, IDDPM(2), guidance, noise=lambda i: noises[i])


def test_of_the_channels_the_first_are_guided_and_the_others_are_the_texts() -> None:
    all_of_them, none_of_them = by_iddpm(Guidance(3.0)), by_iddpm(Guidance(1.0))
    two_of_them = by_iddpm(Guidance(3.0, channels=2))
    np.testing.assert_array_equal(two_of_them[:, :2], all_of_them[:, :2])
    np.testing.assert_array_equal(two_of_them[:, 2:], none_of_them[:, 2:])
    assert np.abs(all_of_them - none_of_them).min() > 0
    np.testing.assert_array_equal(by_iddpm(Guidance(3.0, channels=3)), all_of_them)


def test_a_rescaled_guidance_has_the_spread_of_the_texts_prediction() -> None:
    start, of_text = normal(SHAPE, 0, "latents"), 0.5 * normal(SHAPE, 0, "latents")
    for channels in (2, None):
        guidance = Guidance(3.0, rescale=1.0, channels=channels)
        made = denoise(
            NumpyBackend(), Denoiser(), None, start, RFlow(1), guidance, noise=lambda i: pytest.fail("no noise")
        )
        for guided, alone in zip((made - start)[:, :channels], of_text[:, :channels], strict=True):
            np.testing.assert_allclose(guided.std(), alone.std(), rtol=1e-5)


def test_a_learned_variance_is_that_of_the_text_and_never_guided() -> None:
    left = LINEAR.alphas_cumprod[[0, 999]]
    betas = 1 - left / np.array([1.0, left[0]])
    x = normal(SHAPE, 0, "latents").astype(np.float64)
    noise = normal(SHAPE, 2, "noise", step=0)
    for step, kept in ((1, 999), (0, 0)):
        predicted = (0.2 + 3.0 * (0.5 - 0.2)) * x
        before = left[0] if step else 1.0
        clean = (x - np.sqrt(1 - left[step]) * predicted) / np.sqrt(left[step])
        mean = np.sqrt(before) * betas[step] * clean + np.sqrt(1 - betas[step]) * (1 - before) * x
        mean = mean / (1 - left[step])
        share = (np.tanh(0.5 * x + kept / 1000) + 1) / 2
        least = betas[1] * (1 - left[0]) / (1 - left[1])
        deviation = np.exp((share * np.log(betas[1]) + (1 - share) * np.log(least)) / 2)
        x = mean + deviation * noise * step
    np.testing.assert_allclose(by_iddpm(Guidance(3.0)), x, rtol=1e-4, atol=1e-5 * np.abs(x).max())


class WatchfulBackend(NumpyBackend):
    """Notes what makes the host wait for the device, and how many calls of the network had been begun by then."""

    def __init__(self) -> None:
        self.calls, self.waits = 0, []
        self.spoils = -1

    def __call__(self, latents: np.ndarray, times: np.ndarray, condition: Any) -> np.ndarray:
        self.calls += 1
        return 0.5 * latents if self.calls - 1 < self.spoils or self.spoils < 0 else np.nan * latents

    def asarray(self, array: np.ndarray) -> np.ndarray:
        self.waits.append((self.calls, "asarray"))
        return array

    def is_finite(self, array: np.ndarray) -> Callable[[], bool]:
        begun = self.calls

        def answer() -> bool:
            self.waits.append((self.calls, f"is_finite {begun}"))
            return bool(np.isfinite(array).all())

        return answer

    def to_numpy(self, array: np.ndarray) -> np.ndarray:
        self.waits.append((self.calls, "to_numpy"))
        return array


def watched(sampler: Any, spoils: int = -1, draw: Any = None) -> tuple[WatchfulBackend, np.ndarray]:
    backend = WatchfulBackend()
    backend.spoils = spoils
    draw = draw or (lambda i: normal(SHAPE, 2, "noise", step=i))
    start = normal(SHAPE, 0, "latents")
    return backend, denoise(backend, backend, None, start, sampler, Guidance(3.0), noise=draw)


def test_a_step_waits_for_nothing_that_the_device_computes() -> None:
    backend, _ = watched(DDPM(4))
    # The state and the times of all steps are placed before the first; what a step checks is read a step later.
    late = [(step + 1, f"is_finite {step}") for step in (1, 2, 3)]
    assert backend.waits == [(0, "asarray")] * 5 + [*late, (4, "is_finite 4"), (4, "to_numpy")]


@pytest.mark.parametrize("spoils", range(4))
def test_the_step_that_spoils_the_latents_is_named_although_it_is_read_late(spoils: int) -> None:
    with pytest.raises(NumericsError, match=f"step {spoils + 1} of 4"):
        watched(DDPM(4), spoils)


def test_a_sampler_that_chooses_its_calls_is_told_of_latents_that_are_not_finite_at_once() -> None:
    with pytest.raises(NumericsError, match="step 3 of 4"):
        watched(InterpolantODE(2, method="dopri5", together=True), 2)


def test_noise_is_drawn_on_another_thread_with_the_same_numbers_however_long_it_takes() -> None:
    drawn_on = set()

    def slowly(i: int) -> np.ndarray:
        drawn_on.add(threading.current_thread().name)
        sleep(0.02 if i % 2 else 0.0)
        return normal(SHAPE, 2, "noise", step=i)

    np.testing.assert_array_equal(watched(DDPM(4), draw=slowly)[1], watched(DDPM(4))[1])
    assert drawn_on == {"noise_0"}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("noise")]


def test_the_thread_ends_with_the_run_whatever_ends_it() -> None:
    def fails(i: int) -> np.ndarray:
        raise OSError("no numbers")

    with pytest.raises(OSError, match="no numbers"):
        watched(DDPM(4), draw=fails)
    with pytest.raises(NumericsError):
        watched(DDPM(4), spoils=1)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("noise")]


def test_no_more_than_two_results_wait_for_being_asked_for() -> None:
    begun = []
    with done_ahead((lambda i=i: begun.append(i) for i in range(9)), "counting") as results:
        next(results)
        sleep(0.05)
        assert begun == [0, 1, 2]
    assert len(begun) == 3
