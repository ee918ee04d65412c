"""HDR video (PQ and HLG, BT.2020 colours) to standard range: what an ordinary screen shows of it.

Reference white, 203 cd/m2 by BT.2408, becomes the white of standard range. Below about half of it light stays as it
is; what is brighter is rolled off by the curve of BT.2390, of the brightest of red, green and blue, so that hues stay.
Sources: ITU-R BT.2100-2 (PQ, HLG and its OOTF), BT.2390-10 section 5.4.1 (EETF), BT.2408-5, BT.2087 (colours),
BT.1886 (the screen's gamma).
"""

from __future__ import annotations

from functools import cache

import numpy as np

HDR = {16: "PQ", 18: "HLG"}
"""By the code of the transfer curve in ITU-T H.273."""
PEAK = 1000.0
"""cd/m2 of the master; most are graded for it, and HLG is shown so."""
WHITE = 203.0
"""cd/m2 that white of standard range stands for."""
BRIGHTEST = 10_000.0
"""cd/m2 of PQ's last code."""
GAMMA = 2.4
HLG_GAMMA = 1.2
LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)
"""Of BT.2020's red, green and blue."""
TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)
"""Linear red, green and blue of BT.2020 to those of BT.709."""
LEVELS = 1 << 16


def tone_mapped(frame: np.ndarray, kind: str) -> np.ndarray:
    """A frame (H, W, 3) of uint16 code values from 0 to 65535 as uint8. kind: a value of HDR."""
    light = _light_of_code(kind)[frame]  # (H, W, 3) in cd/m2
    if kind == "HLG":
        luminance = light @ LUMINANCE
        light *= (np.maximum(luminance, 1e-6) / PEAK)[..., None] ** (HLG_GAMMA - 1)
    brightest = light.max(axis=2)
    light *= np.interp(brightest, *_gains()).astype(np.float32)[..., None] / np.float32(WHITE)
    shown = np.clip(light @ TO_BT709.T, 0, 1)
    return _codes()[(shown * (LEVELS - 1) + 0.5).astype(np.uint16)]


@cache
def _light_of_code(kind: str) -> np.ndarray:
    """cd/m2 of every code value; of HLG, of the scene, in which 1 is the peak."""
    code = np.arange(LEVELS) / (LEVELS - 1)
    return (_pq_to_light(code) if kind == "PQ" else PEAK * _hlg_to_scene(code)).astype(np.float32)


@cache
def _gains() -> tuple[np.ndarray, np.ndarray]:
    """What light is multiplied by, at some levels of cd/m2 of the brightest colour."""
    code = np.linspace(0, 1, 1025)[1:]
    light = _pq_to_light(code)
    return light, _rolled_off(light) / light


@cache
def _codes() -> np.ndarray:
    """The uint8 level of each of LEVELS steps of light."""
    light = np.arange(LEVELS) / (LEVELS - 1)
    return (255 * light ** (1 / GAMMA) + 0.5).astype(np.uint8)


def _rolled_off(light: np.ndarray) -> np.ndarray:
    """cd/m2 up to PEAK to cd/m2 up to WHITE: the Hermite spline of BT.2390 on PQ's scale."""
    top = _light_to_pq(np.array(PEAK))
    level = np.minimum(_light_to_pq(light) / top, 1.0)
    highest = _light_to_pq(np.array(WHITE)) / top
    knee = 1.5 * highest - 0.5
    part = np.clip((level - knee) / (1 - knee), 0, 1)
    bent = (
        (2 * part**3 - 3 * part**2 + 1) * knee
        + (part**3 - 2 * part**2 + part) * (1 - knee)
        + (3 * part**2 - 2 * part**3) * highest
    )
    return _pq_to_light(np.where(level < knee, level, bent) * top)


_M1, _M2, _C1, _C2, _C3 = 2610 / 16384, 2523 / 4096 * 128, 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32


def _pq_to_light(code: np.ndarray) -> np.ndarray:
    """PQ from 0 to 1 to cd/m2."""
    power = code ** (1 / _M2)
    return BRIGHTEST * (np.maximum(power - _C1, 0) / (_C2 - _C3 * power)) ** (1 / _M1)


def _light_to_pq(light: np.ndarray) -> np.ndarray:
    power = (light / BRIGHTEST) ** _M1
    return ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2


def _hlg_to_scene(code: np.ndarray) -> np.ndarray:
    """HLG from 0 to 1 to light of the scene from 0 to 1."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(code <= 0.5, code**2 / 3, (np.exp((np.maximum(code, 0.5) - c) / a) + b) / 12)
