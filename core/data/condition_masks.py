"""Which frames an inpaint model is given, drawn sample by sample from a mixture of kinds.

Source: Open-Sora Plan v1.3, opensora/utils/mask_utils.py and its mask_config.yaml.
"""

from __future__ import annotations

from random import Random

import numpy as np

from .. import random
from ..config.data import MaskSettings
from ..config.settings import Settings
from ..maths.masks import frame_mask


class ConditionMasks:
    """Draws masks of frames."""

    def __init__(self, settings: MaskSettings, seed: int) -> None:
        self.settings, self.seed = settings, seed

    def draw(self, num_frames: int, sample: int) -> np.ndarray:
        """The mask of a sample's frames, (T,) float32, 1 = to generate. sample: its number in the whole run."""
        draw = random.stream(self.seed, "condition mask", sample)
        weights = self.settings.video if num_frames > 1 else self.settings.image
        kind = _pick(weights, draw.random())
        python_draw = Random(int(draw.integers(2**63)))  # frame_mask draws as upstream does, with Python's generator
        return frame_mask(kind, num_frames, python_draw, self.settings.min_clear, self.settings.max_clear)


def _pick(weights: Settings, uniform: float) -> str:
    """The name of a weight, as often as its part of all weights; of zeros, all alike."""
    names = list(type(weights).model_fields)
    values = np.array([getattr(weights, name) for name in names], np.float64)
    edges = np.cumsum(values if values.any() else np.ones(len(names)))
    return names[int(np.searchsorted(edges, uniform * edges[-1], side="right"))]
