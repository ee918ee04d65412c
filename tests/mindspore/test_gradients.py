"""Gradients that MindSpore's own operators get wrong."""

import subprocess
import sys

AFTER_SINGLE_KEYS = """
import numpy as np
import mindspore
from mindspore import Tensor
from duosora.backends.mindspore.attention import sdpa
from duosora.backends.mindspore.layers import frame_attention

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
