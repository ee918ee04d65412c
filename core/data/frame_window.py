"""The frames that training takes of a longer clip, as Open-Sora 1.0 to 1.2 do.

Source: temporal_random_crop of opensora/datasets/utils.py of hpcaitech Open-Sora at v1.2.0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import ShapeError


def frame_window(total: int, num_frames: int, interval: int, below: Callable[[int, int], int]) -> np.ndarray:
    """Indices (num_frames,) of evenly spread frames in a window of num_frames * interval frames.

    below: a whole number between two, both included. Raises: ShapeError for a clip with fewer frames than are taken.
    """
    length = num_frames * interval
    start = below(0, max(0, total - length - 1))
    stop = min(start + length, total)
    if stop - start < num_frames:
        raise ShapeError(f"a clip of {total} frames is too short: {num_frames} are to be taken")
    return np.linspace(start, stop - 1, num_frames, dtype=np.int64)
