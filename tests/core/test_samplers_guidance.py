"""Classifier-free guidance and its rescaling, on numpy and torch."""

import numpy as np
import pytest
import torch

from duosora.core.samplers import guide, rescale, split_guidance

SHAPE = (2, 3, 2, 4, 5)


@pytest.fixture
def predictions() -> tuple[np.ndarray, np.ndarray]:
    conditional, unconditional = np.random.Generator(np.random.Philox(2)).standard_normal((2, *SHAPE), np.float32)
    return conditional * 0.5 + 0.1, unconditional


def test_guidance_goes_from_the_negative_prompt_through_the_prompt(predictions):
    conditional, unconditional = predictions
    np.testing.assert_allclose(guide(conditional, unconditional, 1.0), conditional, atol=1e-6)
    np.testing.assert_array_equal(guide(conditional, unconditional, 0.0), unconditional)
    expected = 7.5 * conditional - 6.5 * unconditional
    np.testing.assert_allclose(guide(conditional, unconditional, 7.5), expected, atol=1e-5)


def test_rescaling_gives_each_sample_the_conditional_contrast(predictions):
    conditional, unconditional = predictions
    guided = guide(conditional, unconditional, 7.5)
    axes = (1, 2, 3, 4)
    ratio = conditional.std(axes, ddof=1, keepdims=True) / guided.std(axes, ddof=1, keepdims=True)
    np.testing.assert_allclose(rescale(guided, conditional, 1.0), guided * ratio, rtol=1e-5)
    np.testing.assert_allclose(rescale(guided, conditional, 0.7), guided * (0.7 * ratio + 0.3), rtol=1e-5)
    np.testing.assert_allclose(rescale(guided, conditional, 0.0), guided, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_torch_gives_the_same_in_its_own_dtype(predictions, dtype):
    conditional, unconditional = (torch.from_numpy(prediction).to(dtype) for prediction in predictions)
    guided = guide(conditional, unconditional, 7.5)
    rescaled = rescale(guided, conditional, 0.7)
    assert guided.dtype == rescaled.dtype == dtype
    expected = rescale(guide(*predictions, 7.5), predictions[0], 0.7)
    # Guided values reach 25 and are rounded five times in a row.
    error = 5 * torch.finfo(dtype).eps * np.abs(guide(*predictions, 7.5)).max()
    np.testing.assert_allclose(rescaled.float().numpy(), expected, atol=error)


def test_numpy_keeps_half_precision(predictions):
    conditional, unconditional = (prediction.astype(np.float16) for prediction in predictions)
    guided = guide(conditional, unconditional, 7.5)
    assert guided.dtype == rescale(guided, conditional, 0.7).dtype == np.float16


def test_batches_hold_negative_prompts_first():
    conditional, unconditional = split_guidance(np.arange(6).reshape(6, 1))
    np.testing.assert_array_equal(unconditional.ravel(), [0, 1, 2])
    np.testing.assert_array_equal(conditional.ravel(), [3, 4, 5])
