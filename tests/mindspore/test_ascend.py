"""The forms for an Ascend, tried on a CPU with stand-ins that hold MindSpore's documentation against every call."""

from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor

from duosora.backends.mindspore import MindSporeBackend, attention, operators
from duosora.core.errors import ConfigError
from duosora.core.goldens.case import Case
from duosora.core.goldens.suite import run_case
from duosora.core.layout import FreshWeights
from duosora.core.models.opensora_t2v import TINY
from duosora.core.seam.backend import get
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape

GOLDENS = Path(__file__).parents[1] / "goldens"
TOLERANCE = {"fp32": 2e-6, "fp16": 2e-3}
CASES = ("wfvae/l1_temporal_nearest", "wfvae/gn_nearest", "t2v/skiparse_padmask", "mt5/tiny", "e2e/loop_i2v")


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_every_form_gives_what_its_twin_for_a_cpu_gives(ascend: None, dtype: str) -> None:
    found = dict(MindSporeBackend("npu").compare_forms(dtype))
    assert len(found) >= 10
    assert {name: far for name, far in found.items() if not far <= TOLERANCE[dtype]} == {}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_models_keep_within_what_the_operators_allow(ascend: None, case: str) -> None:
    result = run_case(Case(GOLDENS / case), MindSporeBackend("cpu"))
    assert result.passed, result


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [(9, 9), (9, 3)])
@pytest.mark.parametrize("valid_columns", [8, 5])
def test_flash_attention_gives_what_the_default_gives(
    ascend: None, lengths: tuple[int, int], valid_columns: int
) -> None:
    """In a whole model: skiparse runs, texts of unequal length, masked tokens."""
    draw = np.random.default_rng(0)
    backend, shape = MindSporeBackend("npu"), LatentShape(3, 8, 8)
    text = draw.standard_normal((2, 9, TINY.caption_channels), np.float32)
    text_mask = (np.arange(9) < np.array(lengths)[:, None]).astype(np.int64)
    latents = Tensor(draw.standard_normal((2, TINY.in_channels, *shape), np.float32))
    mask = np.ones((2, *shape), np.float32)
    mask[1, :, :, valid_columns:] = 0
    outputs = []
    for kernel in ("flash", "sdpa"):
        model = backend.build(TINY, FreshWeights(TINY.layout(), 0), "fp16", kernel)
        condition = model.condition(Given(text=text, text_mask=text_mask, latent_mask=mask), shape)
        times = Tensor(np.full(2, 500, np.float32))
        outputs.append(backend.to_numpy(model(latents, times, condition))[..., :valid_columns])
    np.testing.assert_allclose(*outputs, rtol=0, atol=4e-3 * np.abs(outputs[1]).max())


def test_the_forms_are_settled_when_the_backend_is_made() -> None:
    operators.settle("npu")
    npu = operators._forms
    get("mindspore", "cpu")
    host = operators._forms
    for name, form in vars(host).items():
        assert form is not vars(npu)[name], f"{name} has one form only"


def test_heads_of_any_width_up_to_the_limit_are_padded(ascend: None) -> None:
    draw = np.random.default_rng(1)
    q, k, v = (Tensor(draw.standard_normal((1, 5, 2, 20)).astype(np.float16)) for _ in range(3))
    attend = attention.make_attend("flash", "npu", "fp16")
    whole = attention.TextKeys(None, None)
    got, expected = attend.cross_attention(q, k, v, whole), attention.sdpa(q, k, v, None)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got.asnumpy(), expected.asnumpy(), rtol=0, atol=4e-3)
    wide = Tensor(np.zeros((1, 5, 2, 528), np.float16))
    with pytest.raises(ConfigError, match="up to 512 wide, not 528"):
        attend.cross_attention(wide, wide, wide, whole)


def test_the_default_attention_is_the_fast_one_in_half_precision_only() -> None:
    def kernel(device: str, dtype: str) -> object:
        attend = attention.make_attend("auto", device, dtype)
        assert isinstance(attend, attention.KernelAttend)
        return attend.kernel

    assert isinstance(attention.make_attend("auto", "npu", "bf16"), attention.FlashAttend)
    assert kernel("npu", "bf16") is kernel("npu:1", "fp16") is not attention.sdpa
    assert kernel("npu", "fp32") is kernel("cpu", "fp16") is attention.sdpa


@pytest.mark.parametrize(
    ("name", "device", "dtype", "message"),
    [
        ("flash", "cpu", "fp16", "needs an Ascend NPU, not 'cpu'"),
        ("flash", "npu", "fp32", "computes in fp16 or bf16, not fp32"),
        ("fused", "cpu", "fp32", "needs one of auto, sdpa, math, flash"),
    ],
)
def test_attention_that_cannot_be_had_is_refused(name: str, device: str, dtype: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        attention.make_attend(name, device, dtype)
