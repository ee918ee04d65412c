"""The variational bound in a train step: what it teaches, on each backend."""

import numpy as np
import pytest

from duosora.core.seam.backend import Backend
from duosora.core.seam.models import Given
from duosora.core.seam.training import DiffusionBatch
from duosora.core.train.objectives import DiffusionObjective

SHAPE = (1, 2, 2, 3, 3)
TIMESTEPS = np.array([0, 1, 400])


def batch_of(objective: DiffusionObjective) -> DiffusionBatch:
    rng = np.random.Generator(np.random.Philox(5))
    latents, noise = rng.standard_normal((2, len(TIMESTEPS), *SHAPE[1:]), np.float32)
    latents[:, :, 0, 0] = 1.5  # in an open bin
    latents[:, :, 0, 1] = -1.5
    return DiffusionBatch(latents=latents, noise=noise, given=Given(), **objective.at(TIMESTEPS)._asdict())


def prediction_of(batch: DiffusionBatch) -> np.ndarray:
    rng = np.random.Generator(np.random.Philox(6))
    near = batch.noise + 0.5 * rng.standard_normal(batch.noise.shape, np.float32)
    return np.concatenate([near, rng.uniform(-1, 1, near.shape).astype(np.float32)], 1)


@pytest.mark.parametrize("bound", ["hybrid", "alone"])
def test_gradients_are_those_of_differences(backend: Backend, bound: str) -> None:
    """hybrid: the bound's reach what is said of the variance only."""
    loss_of = backend.function("diffusion_loss")
    batch = batch_of(DiffusionObjective(kind="epsilon", bound=bound))
    prediction = prediction_of(batch)
    gradient = loss_of(batch, prediction)["gradient"]
    squared = loss_of(batch_of(DiffusionObjective(kind="epsilon")), prediction)["gradient"]
    if bound == "hybrid":
        np.testing.assert_allclose(gradient[:, :2], squared[:, :2], rtol=1e-5)
    assert not squared[:, 2:].any()
    places = [(0, 2, 0, 0, 0), (0, 2, 1, 1, 1), (1, 3, 0, 2, 0), (2, 2, 0, 0, 0)]
    for place in places + [(1, 0, 0, 0, 0)] * (bound == "alone"):
        ends = []
        for step in (0.02, -0.02):
            moved = prediction.copy()
            moved[place] += step
            ends.append(float(loss_of(batch, moved)["loss"]))
        assert gradient[place] == pytest.approx((ends[0] - ends[1]) / 0.04, rel=0.05, abs=2e-5)
