"""The MindSpore backend itself: devices, dtypes, compiled models, and what it does to the process."""

import os
import subprocess
import sys
from dataclasses import replace

import mindspore
import ml_dtypes
import numpy as np
import pytest

from duosora.backends.mindspore.precision import to_array, to_tensor, to_weight
from duosora.core.errors import BackendMissing, ConfigError
from duosora.core.layout import FreshWeights
from duosora.core.models.opensora_t2v import TINY
from duosora.core.seam.backend import Backend, get
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape

IMPORT = """
import os, sys
from duosora.core.seam.backend import get
backend = get("mindspore")
assert "torch" not in sys.modules
print(backend.device, len(os.sched_getaffinity(0)))
"""


@pytest.fixture(scope="module")
def backend() -> Backend:
    return get("mindspore", "cpu")


def test_it_starts_on_one_core_without_torch_and_without_a_word() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GLOG_v"}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "cpu 1\n"
    assert done.stderr == ""


def test_it_does_not_warn_into_the_output_of_other_tests() -> None:
    assert mindspore.get_level() == "3", "errors only, though this file loads MindSpore before the backend does"


@pytest.mark.parametrize("device", ["npu", "npu:1", "cpu:x"])
def test_devices_that_are_not_there_are_refused(device: str) -> None:
    with pytest.raises(BackendMissing, match=f"cannot use the device '{device}'"):
        get("mindspore", device)


def test_a_device_of_the_other_backend_is_told_with_its_name() -> None:
    with pytest.raises(BackendMissing, match="device cuda: NVIDIA GPUs are used with --backend torch"):
        get("mindspore", "cuda")


def test_bf16_is_refused_on_a_cpu(backend: Backend) -> None:
    with pytest.raises(ConfigError, match="computes in it on Ascend only; use fp32 or fp16"):
        backend.build(TINY, FreshWeights(TINY.layout(), 0), "bf16")


def test_weights_and_their_names_are_set_and_keep_no_gradients(backend: Backend) -> None:
    weights = FreshWeights(TINY.layout(), 0)
    model = backend.build(TINY, weights)
    parameters = dict(model.parameters_and_names())
    assert parameters.keys() == set(weights)
    for name, parameter in parameters.items():
        assert parameter.name == name
        assert not parameter.requires_grad
        np.testing.assert_array_equal(parameter.asnumpy(), weights[name], err_msg=name)


def test_arrays_keep_their_numbers_both_ways() -> None:
    values = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    halves = values.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(to_array(to_tensor(halves)), halves.astype(np.float32))
    np.testing.assert_array_equal(to_array(to_weight(values, "cpu", "fp16")), values.astype(np.float16))
    tensor = to_tensor(values)
    got = to_array(tensor)
    values[:] = 0
    got[0] = 7
    assert tensor.asnumpy()[0] not in (0, 7), "memory is shared"


def test_an_older_mindspore_does_not_compile(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mindspore, "__version__", "2.7.1")
    with pytest.raises(ConfigError, match=r"needs MindSpore 2\.10 or newer, not 2\.7\.1"):
        backend.build(TINY, FreshWeights(TINY.layout(), 0), compile=True)


@pytest.mark.slow
def test_a_compiled_denoiser_gives_the_same_numbers(backend: Backend) -> None:
    """For several texts and sizes one after the other, as in a run over many prompts."""
    spec = replace(TINY, num_layers=4)
    weights, draw = FreshWeights(spec.layout(), 0), np.random.default_rng(0)
    plain, compiled = (backend.build(spec, weights, compile=wanted) for wanted in (False, True))
    for frames, lengths in ((1, (4, 2)), (2, (4, 4)), (1, (4, 2))):
        shape = LatentShape(frames, 4, 4)
        text = draw.standard_normal((2, 4, TINY.caption_channels), np.float32)
        mask = (np.arange(4) < np.array(lengths)[:, None]).astype(np.int64)
        given = Given(text=text, text_mask=mask)
        latents = backend.asarray(draw.standard_normal((2, TINY.in_channels, *shape), np.float32))
        times = backend.asarray(draw.uniform(0, 1000, 2).astype(np.float32))
        got, expected = (model(latents, times, model.condition(given, shape)) for model in (compiled, plain))
        np.testing.assert_allclose(got.asnumpy(), expected.asnumpy(), rtol=0, atol=5e-6)
