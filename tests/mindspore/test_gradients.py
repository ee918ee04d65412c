"""Gradients that MindSpore's own operators get wrong, and those of compiled models."""

import subprocess
import sys
from dataclasses import replace

import mindspore
import numpy as np
import pytest

from duosora.backends.mindspore.operators import gelu_tanh
from duosora.core.errors import ConfigError
from duosora.core.layout import FreshWeights
from duosora.core.models import opensora_t2v, wfvae
from duosora.core.random import normal
from duosora.core.seam.backend import get
from duosora.core.seam.models import Given
from duosora.core.seam.training import AdamW, AutoencoderLosses, DiffusionBatch, TrainOptions
from duosora.core.train.objectives import DiffusionObjective

AFTER_SINGLE_KEYS = """
import numpy as np
import mindspore
from mindspore import Tensor
from duosora.backends.mindspore.attention import sdpa
from duosora.backends.mindspore.video import frame_attention

draw = np.random.default_rng(0)
def new(*shape): return Tensor(draw.standard_normal(shape, np.float32))
q, slope = new(1, 6, 2, 8), new(1, 6, 2, 8)
for num_keys in (1, 5):
    k, v = new(1, num_keys, 2, 8), new(1, num_keys, 2, 8)
    by_keys = mindspore.grad(lambda k: (sdpa(q, k, v, None) * slope).sum())(k)
for side in (1, 3):
    x, k, frame_slope = (new(1, 8, 2, side, side) for _ in range(3))
    by_positions = mindspore.grad(lambda k: (frame_attention(x, k, x) * frame_slope).sum())(k)
# What all keys have in common moves no share.
print(np.abs(by_keys.asnumpy()).max() > 0.1, np.abs(by_keys.asnumpy().sum(1)).max() < 1e-4)
print(np.abs(by_positions.asnumpy()).max() > 0.1, np.abs(by_positions.asnumpy().sum((3, 4))).max() < 1e-4)
"""


def test_gradients_of_attention_are_right_after_attention_to_a_single_key() -> None:
    # In a process of its own: what went before decides.
    script = [sys.executable, "-c", AFTER_SINGLE_KEYS]
    run = subprocess.run(script, capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout.split() == ["True"] * 4


def test_gelu_of_large_values_has_a_slope_in_fp16() -> None:
    get("mindspore", "cpu")  # settles MindSpore's device
    x = mindspore.Tensor(np.array([-6e4, -300, -2, 0, 2, 300, 6e4], np.float16))
    slope = mindspore.grad(lambda x: gelu_tanh(x).sum())(x)
    np.testing.assert_allclose(slope.asnumpy(), [0, 0, -0.0861, 0.5, 1.0861, 1, 1], rtol=0, atol=1e-3)
    np.testing.assert_allclose(gelu_tanh(x).asnumpy()[[0, 1, 3, 5, 6]], [0, 0, 0, 300, 6e4], rtol=1e-3)


@pytest.mark.slow
def test_a_compiled_denoiser_learns_as_one_that_is_not() -> None:
    spec = replace(opensora_t2v.TINY, num_layers=2, num_attention_heads=2, attention_head_dim=12)
    weights, plain = FreshWeights(spec.layout(), 0), TrainOptions(optimizer=AdamW(eps=1e-8), keeps_ema=False)
    trainers = [get("mindspore", "cpu").train_denoiser(spec, weights, replace(plain, compile=c)) for c in (False, True)]
    for number, frames in enumerate((1, 2, 1)):
        shape = (2, spec.in_channels, frames, 4, 4)
        batch = DiffusionBatch(
            latents=normal(shape, number, "clean"),
            noise=normal(shape, number, "noise"),
            given=Given(text=normal((2, 3, spec.caption_channels), number, "text")),
            **DiffusionObjective().draw(1, (0, 1), number)._asdict(),
        )
        expected, got = (trainer.step([batch], 1e-3) for trainer in trainers)
        assert got.loss == pytest.approx(expected.loss, rel=1e-5)
        assert got.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5)
        moments = trainers[1].first_moments()
        for name, moment in trainers[0].first_moments().items():
            limit = 1e-4 * np.abs(moment).max() + 1e-7  # keys' biases have no gradient but rounding
            np.testing.assert_allclose(moments[name], moment, rtol=0, atol=limit, err_msg=name)


def test_a_compiled_autoencoder_is_refused() -> None:
    spec = replace(wfvae.TINY, base_channels=4)
    with pytest.raises(ConfigError, match="compile"):
        get("mindspore", "cpu").train_autoencoder(
            spec, FreshWeights(spec.layout(), 0), AutoencoderLosses(), TrainOptions(compile=True)
        )
