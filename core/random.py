"""Counter-based random streams: the same numbers on every backend, rank count and batch split.

A stream is named by (seed, purpose, sample, step). Philox takes the seed and the purpose as its key and starts at a
counter made of sample and step, so any stream can be opened without drawing the ones before it, and no two overlap
(each has 2^128 blocks to itself). Everything random in duosora is drawn here, in numpy, for the whole problem, and
sliced afterwards.
Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".

numpy promises the bits of Philox between versions but not the numbers that Generator makes of them; a test pins the
first ones.
"""

from __future__ import annotations

import hashlib

import numpy as np

from .errors import ConfigError

SEED_LIMIT = 2**64


def stream(seed: int, purpose: str, sample: int = 0, step: int = 0) -> np.random.Generator:
    """The random stream of one purpose ("latents", "step noise", "posterior", ...) for one sample at one step.

    Raises: ConfigError when the seed is outside 0 .. 2^64 - 1.
    """
    check_seed(seed)
    digest = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    key = np.array([seed, digest], dtype=np.uint64)
    counter = np.array([0, 0, sample, step], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def normal(shape: tuple[int, ...], seed: int, purpose: str, sample: int = 0, step: int = 0) -> np.ndarray:
    """Standard normal float32 numbers of one stream."""
    return stream(seed, purpose, sample, step).standard_normal(shape, dtype=np.float32)


def check_seed(seed: int) -> None:
    """Raises ConfigError when the seed does not fit the generator's 64-bit key."""
    if not 0 <= seed < SEED_LIMIT:
        raise ConfigError(f"seed = {seed}: needs a whole number from 0 to 2^64 - 1")
