"""Weights in 8 bits: whole numbers from -127 to 127, and a scale for each row.

Symmetric, so that zero stays zero; a scale for each output of a layer, so that one large weight does not coarsen the
others. Dettmers et al. 2022 (arXiv:2208.07339) call it vector-wise quantisation.
"""

from __future__ import annotations

import numpy as np

EIGHT_BITS = "int8"
"""In the place of a dtype."""
LARGEST = 127


def to_eight_bits(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (R, C) -> whole numbers (R, C) int8 and scales (R,) float32, whose product they are about.

    A number is off by at most half a scale, which is a 254th of the largest number of its row.
    """
    wide = rows.astype(np.float32, copy=False)
    scales = np.maximum(wide.max(1), -wide.min(1)) / np.float32(LARGEST)
    scales[scales == 0] = 1  # a row of zeros
    scaled = wide / scales[:, None]
    np.rint(scaled, out=scaled)
    # Of numbers below the smallest normal one the scale is so coarse that the quotient can be more.
    return np.clip(scaled, -LARGEST, LARGEST, out=scaled).astype(np.int8), scales
