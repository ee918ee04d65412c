"""Haar wavelet bands of WFVAE: which axes each band differentiates, and its filter taps.

A band's filter is `tap` everywhere, with the sign turned on the second element along every differentiated axis.
Source: WF-VAE, arXiv:2411.17459; names, order and rounding of the taps are those of the published weights.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# 0.3536, not 1 / (2 * sqrt(2)): the published weights were trained with the rounded value.
TAP_3D = 0.3536
TAP_2D = 0.5


class Band(NamedTuple):
    """A sub-band: its name in the state dict and whether it differentiates along time, height and width."""

    name: str
    time: bool
    height: bool
    width: bool


BANDS_3D = (
    Band("h", False, False, False),
    Band("g", False, False, True),
    Band("hh", False, True, False),
    Band("gh", False, True, True),
    Band("h_v", True, False, False),
    Band("g_v", True, False, True),
    Band("hh_v", True, True, False),
    Band("gh_v", True, True, True),
)
BANDS_2D = (
    Band("aa", False, False, False),
    Band("ad", False, True, False),
    Band("da", False, False, True),
    Band("dd", False, True, True),
)


def taps_3d(band: Band) -> np.ndarray:
    """The filter of a 3-D band, (2, 2, 2) over time, height and width."""
    signs = [np.array([1.0, -1.0 if axis else 1.0]) for axis in (band.time, band.height, band.width)]
    return TAP_3D * signs[0][:, None, None] * signs[1][:, None] * signs[2]


def taps_2d(band: Band) -> np.ndarray:
    """The filter of a 2-D band, (2, 2) over height and width."""
    signs = [np.array([1.0, -1.0 if axis else 1.0]) for axis in (band.height, band.width)]
    return TAP_2D * signs[0][:, None] * signs[1]
