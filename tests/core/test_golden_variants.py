"""Runners of golden families on cases that nobody recorded: what they compute, by formulas of the papers."""

from contextlib import nullcontext
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from duosora.core.goldens import diffusion_cases
from duosora.core.goldens.runners import dit_meta, iddpm, sit
from duosora.core.goldens.runners.stdit import of_latents
from duosora.core.random import normal

PICTURES = (2, 5, 4, 4)
"""Of five channels, of which three are guided."""


class NumpyBackend:
    """As much of a backend as runs need."""

    def asarray(self, array: np.ndarray) -> np.ndarray:
        return array

    to_numpy = asarray

    def concat(self, arrays: list[np.ndarray], axis: int) -> np.ndarray:
        return np.concatenate(arrays, axis)


class Recorded:
    """A case of these inputs."""

    name = "family/case"

    def __init__(self, config: dict[str, Any], **inputs: np.ndarray) -> None:
        self.config, self.raw = config, {"scheduler": config, "rows": [config], "upstream_tag": "v1.1.0"}
        self.tensors = inputs


def left_of(steps: int, kept: list[int]) -> np.ndarray:
    """What is left of the data at the kept ones of as many timesteps, the noisiest first: alphas_cumprod, then 1."""
    betas = np.linspace(1e-4 * 1000 / steps, 0.02 * 1000 / steps, steps)
    return np.append(np.cumprod(1 - betas)[kept[::-1]], 1.0)


def predicted(latents: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return 0.3 * latents + 0.1 * labels.reshape(-1, 1, 1, 1)


def computed(comparisons: Any) -> dict[str, np.ndarray]:
    return {each.name: each.got for each in comparisons}


@pytest.mark.parametrize("says_variance", [True, False])
def test_a_guided_run_of_pictures_has_any_channels_steps_and_eta(says_variance: bool) -> None:
    config = {
        "model": {"learn_sigma": says_variance}, "diffusion_steps": 500, "ddim": "ddim5", "eta": 0.0, "cfg_scale": 2.5
    }  # fmt: skip
    x, labels = normal(PICTURES, 0, "initial").astype(np.float64), np.array([3, 7])
    case = Recorded(config, initial=x, labels=labels, **{"ddim.states": x})

    def predict(latents: np.ndarray, times: np.ndarray, labels: np.ndarray) -> np.ndarray:
        noise = predicted(latents, labels)
        return np.concatenate([noise, np.full_like(noise, 9.0)], 1) if says_variance else noise

    found = computed(diffusion_cases.guided_runs(case, NumpyBackend(), predict, null=10))
    left, states = left_of(500, [0, 100, 200, 300, 400]), []
    for now, after in pairwise(left):
        of_class, of_none = predicted(x, labels), predicted(x, np.array([10, 10]))
        noise = of_class.copy()
        noise[:, :3] = of_none[:, :3] + 2.5 * (of_class - of_none)[:, :3]
        clean = (x - np.sqrt(1 - now) * noise) / np.sqrt(now)
        x = np.sqrt(after) * clean + np.sqrt(1 - after) * noise
        states.append(x)
    np.testing.assert_allclose(found["ddim.states"], np.stack(states), rtol=1e-6)
    np.testing.assert_array_equal(found["ddim.timestep_map"], [0, 100, 200, 300, 400])


@pytest.mark.parametrize("channels", [None, 2])
def test_a_run_of_open_sora_has_any_clean_prediction_and_a_fixed_variance(channels: int | None) -> None:
    config = {"type": "iddpm", "num_sampling_steps": 3, "cfg_scale": 2.0, "cfg_channel": channels}
    options = {"predict_xstart": True, "learn_sigma": False, "diffusion_steps": 400}
    shape = (1, 4, 3, 2, 2)
    x, noises = normal(shape, 0, "z").astype(np.float64), normal((3, 2, *shape[1:]), 0, "noise")
    texts, null = normal((1, 1, 5, 6), 0, "y"), normal((5, 6), 0, "null")
    case = Recorded(config | options, z_init=x, noise=noises, y_cond=texts, y_null=null)
    found = computed(iddpm.run(case, NumpyBackend()))
    kept = [0, 200, 399]  # the halves of 399 are rounded to even
    left = left_of(400, kept)
    for i, (now, after) in enumerate(pairwise(left)):
        of_texts = [0.6 * x + 0.1 * np.sin(kept[2 - i] / 50) + 0.2 * text.mean() for text in (null, texts)]
        clean = of_texts[1].copy()
        clean[:, :channels] = (of_texts[0] + 2.0 * (of_texts[1] - of_texts[0]))[:, :channels]
        beta = 1 - now / after
        mean = (np.sqrt(after) * beta * clean + np.sqrt(now / after) * (1 - after) * x) / (1 - now)
        x = mean + np.sqrt(beta) * noises[i, :1] * (i < 2)
    np.testing.assert_allclose(found["out"], x, rtol=1e-5, atol=1e-6)


def test_a_table_may_be_of_another_schedule() -> None:
    row = {"num_sampling_steps": 4, "noise_schedule": "squaredcos_cap_v2", "diffusion_steps": 100}
    found = computed(iddpm.run(Recorded(row), NumpyBackend()))
    times = np.arange(101) / 100
    curve = np.cos((times + 0.008) / 1.008 * np.pi / 2) ** 2
    left = np.cumprod(1 - np.minimum(1 - curve[1:] / curve[:-1], 0.999))
    np.testing.assert_allclose(found["steps4/alphas_cumprod"], left[[0, 33, 66, 99]], rtol=1e-6)


def test_a_run_of_a_sit_is_on_the_path_and_of_the_prediction_that_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def predict(backend: Any, model: Any, x: np.ndarray, times: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return predicted(x, labels)

    model = {"hidden_size": 48, "depth": 1, "num_heads": 3, "num_classes": 10, "input_size": 4, "in_channels": 5}
    run = {"path": "GVP", "prediction": "noise", "method": "euler", "num_steps": 4, "cfg_scale": None}
    x, labels = normal(PICTURES, 0, "initial").astype(np.float64), np.array([3, 7])
    case: Any = Recorded({"model": model, "runs": {"ode.euler": run}}, initial=x, labels=labels)
    case.weights = dict
    backend: Any = NumpyBackend()
    backend.inference, backend.build = nullcontext, lambda spec, weights: SimpleNamespace(spec=spec)
    monkeypatch.setattr(dit_meta, "predict", predict)
    states = computed(sit._sampling(case, backend))["ode.euler.states"]
    times = np.linspace(0.001, 0.999, 4).astype(np.float32).astype(np.float64)
    for i, (time, after) in enumerate(pairwise(times)):
        angle = time * np.pi / 2
        pull, sigma = np.pi / 2 / np.tan(angle), np.cos(angle)
        pace = pull * sigma**2 + sigma * np.pi / 2 * np.sin(angle)
        x = x + (after - time) * (pull * x - pace / sigma * predicted(x, labels))
        np.testing.assert_allclose(states[i + 1], x, rtol=1e-6)


@pytest.mark.parametrize(
    ("asked", "timesteps"),
    [
        ({"num_sampling_steps": "3,2"}, [0, 250, 499, 500, 999]),
        ({"timestep_respacing": [2, 1]}, [0, 499, 500]),
        ({"timestep_respacing": "ddim5"}, [0, 200, 400, 600, 800]),
        ({"num_sampling_steps": None, "diffusion_steps": 40}, [*range(40)]),
    ],
)
def test_a_scheduler_of_open_sora_is_respaced_in_any_way(asked: dict[str, Any], timesteps: list[int]) -> None:
    sampler = iddpm.sampler_of({"type": "iddpm", "cfg_scale": 7.0, **asked}, "family/case")
    assert sampler.timesteps.tolist() == timesteps[::-1]


def test_masks_of_the_tokens_frames_are_those_of_the_latents() -> None:
    moves = np.array([[True, False, True]])
    assert of_latents(moves, 2, 5).tolist() == [[True, True, False, False, True]]  # type: ignore[union-attr]
    assert of_latents(moves, 1, 3) is not None
    assert of_latents(None, 2, 5) is None
