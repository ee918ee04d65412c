"""Our mT5 encoder and samplers beside mindone's, where that is installed: a second opinion on the same framework.

mindone is no dependency and not in CI: it wants one exact transformers. Its encoder takes logarithms on the device,
which on a CPU moves buckets of distances from 16 on; texts here are shorter.
"""

import os
from typing import Any

import numpy as np
import pytest

from duosora.core import samplers
from duosora.core.layout import FreshWeights
from duosora.core.models.t5 import PRESETS
from duosora.core.random import normal, stream
from duosora.core.seam.backend import Backend, get

TOKENS = 8
STEPS = 8
LIMIT = 1e-5
"""Of the largest value: float32 on both sides."""

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("mindone.transformers")
diffusers = pytest.importorskip("mindone.diffusers")


@pytest.fixture(scope="module")
def backend() -> Backend:
    return get("mindspore", "cpu")


def assert_near(got: Any, expected: Any) -> None:
    got, expected = np.asarray(got), np.asarray(expected)
    np.testing.assert_allclose(got, expected, rtol=0, atol=LIMIT * np.abs(expected).max())


def test_the_encoder_gives_mindones_states(backend: Backend) -> None:
    import mindspore
    from transformers import MT5Config

    spec = PRESETS["tiny"]
    weights = FreshWeights(spec.layout(), 3)
    theirs = transformers.MT5EncoderModel(MT5Config(**spec.to_config(), dropout_rate=0.0)).set_train(False)
    for name, parameter in theirs.parameters_and_names():
        held = weights[name.replace("embedding_table", "weight")]
        parameter.set_data(mindspore.Tensor(held))
    ids = stream(1, "ids").integers(3, spec.vocab_size, (2, TOKENS)).astype(np.int64)
    mask = np.ones((2, TOKENS), np.int64)
    mask[1, 5:] = 0
    expected = theirs(mindspore.Tensor(ids), attention_mask=mindspore.Tensor(mask))[0].asnumpy()
    with backend.inference():
        got = backend.to_numpy(backend.build(spec, weights)(backend.asarray(ids), backend.asarray(mask)))
    assert_near(got[mask > 0], expected[mask > 0])


@pytest.mark.parametrize(
    ("name", "theirs", "objective", "options"),
    [
        (
            *("euler_ancestral", "EulerAncestralDiscreteScheduler", "v_prediction"),
            {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
        ),
        ("flow_euler", "FlowMatchEulerDiscreteScheduler", "flow", {}),
    ],
)
def test_samplers_go_mindones_way(
    name: str, theirs: str, objective: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mindspore

    shape = (1, 4, 2, 4, 4)
    is_flow = objective == "flow"
    schedule = None if is_flow else samplers.LINEAR
    ours = samplers.create(
        *(name, STEPS), objective=objective, schedule=schedule, zero_terminal_snr=None if is_flow else True
    )
    scheduler = getattr(diffusers, theirs)(**options)
    scheduler.set_timesteps(STEPS)
    noises = [normal(shape, 1, "noise", step) for step in range(STEPS)]
    drawn = iter(noises)
    module = __import__(type(scheduler).__module__, fromlist=["randn_tensor"])
    if not is_flow:
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: mindspore.Tensor(next(drawn)))
    assert_near(ours.timesteps, scheduler.timesteps.asnumpy())
    x = normal(shape, 1, "latents") * np.float32(ours.init_scale)
    other = mindspore.Tensor(x)
    for step, timestep in enumerate(scheduler.timesteps):
        prediction = normal(shape, 1, "prediction", step)
        if not is_flow:
            assert_near(ours.scale_input(x, step), scheduler.scale_model_input(other, timestep).asnumpy())
        x = ours.step(x, prediction, step, noises[step] if ours.draws_noise[step] else None)
        other = scheduler.step(mindspore.Tensor(prediction), timestep, other, return_dict=False)[0]
        assert_near(x, other.asnumpy())
