"""The sampling loop with frames that start late, on numpy arrays and a model by a formula."""

from typing import Any

import numpy as np
import pytest

from duosora.core.pipelines.denoise import Guidance, denoise
from duosora.core.random import normal
from duosora.core.samplers.rflow import RFlow

SHAPE = (2, 3, 4, 2, 2)


class NumpyBackend:
    """As much of a backend as the loop needs."""

    def asarray(self, array: np.ndarray) -> np.ndarray:
        return array

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
