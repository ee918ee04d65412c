"""A small STDiT3 and batches of a rectified flow for it, for train steps on each backend, alone and together."""

from typing import Any

import numpy as np

from duosora.core.layout import Constant, FreshWeights, GivenWeights
from duosora.core.models.stdit3 import STDiT3Spec
from duosora.core.random import normal
from duosora.core.seam.models import Given
from duosora.core.seam.training import DiffusionBatch
from duosora.core.shapes import VideoShape
from duosora.core.train.rflow import RFlowObjective

SPEC = STDiT3Spec(hidden_size=24, depth=2, num_heads=3, caption_channels=16, model_max_length=4, input_sq_size=64)
"""Of 3 heads, which 2 ranks do not divide."""
SHAPE = (3, 6, 6)
"""Of the latents: 27 tokens."""
VIDEO = VideoShape(9, 48, 40)


def batch(number: int, size: int = 2) -> DiffusionBatch:
    """Texts of unequal length, of which the null caption stands in for one; every other batch has clean frames, and
    every third leaves out parts of blocks."""
    samples = range(number * 100, number * 100 + size)
    moves = np.ones((size, SHAPE[0]), bool)
    moves[0, 0] = moves[-1, -1] = False
    clean = moves if number % 2 else None
    kept = np.where(normal((size, len(SPEC.blocks()), 2), 1, "kept", number) > -0.5, 1.5, 0).astype(np.float32)
    return DiffusionBatch(
        latents=np.stack([normal((4, *SHAPE), 1, "clean", sample) for sample in samples]),
        noise=np.stack([normal((4, *SHAPE), 1, "noise", sample) for sample in samples]),
        given=Given(
            text=np.stack([normal((3, 16), 1, "text", sample) for sample in samples]),
            text_mask=np.arange(3) < np.array([[2], *[[3]] * (size - 1)]),
            is_null=np.arange(size) == 1,
            fps=np.linspace(8, 24, size, dtype=np.float32),
            height=np.full(size, VIDEO.height, np.float32),
            width=np.full(size, VIDEO.width, np.float32),
            frame_mask=clean,
            kept=None if number % 3 else kept,
        ),
        counts_alike=True,
        **RFlowObjective(bends=True).draw(1, samples, number, [VIDEO] * size, clean)._asdict(),
    )


def awake(spec: Any, seed: int = 0) -> GivenWeights:
    """Fresh weights whose output is not zero, so that every part has a gradient."""
    layout = spec.layout()
    fresh = FreshWeights(layout, seed)
    names = [name for name in layout if not isinstance(layout[name].init, Constant)]
    return GivenWeights({name: fresh[name] + 0.02 * normal(fresh.shape(name), 5, name) for name in names}, "awake")
