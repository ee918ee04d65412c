"""A code book that follows the vectors it stands for: moving averages instead of gradients.

Each code is the mean of the vectors that chose it, by moving averages of how many and of their sum. Codes that hardly
any vector chooses start again as vectors of the batch.
Source: van den Oord et al. 2017, arXiv:1711.00937, appendix; restarts as in VideoGPT, arXiv:2104.10157.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

DECAY = 0.99
EPS = 1e-7
"""Keeps the division from zero counts."""
SPREAD = 0.01
"""Of the noise, together, by which repeated vectors differ."""


class Codebook(NamedTuple):
    """All float32."""

    embeddings: np.ndarray
    """(K, E)."""
    counts: np.ndarray
    """(K,), how many vectors a step choose each; all 0 in a book that has not begun."""
    sums: np.ndarray
    """(K, E), of those."""


class Restarts(NamedTuple):
    """What of a batch's vectors becomes new codes."""

    order: np.ndarray
    """A permutation of the vectors, repeated to at least as many as there are codes."""
    noise: np.ndarray
    """Unit noise (len(order), E), for repeated ones."""


def draw(num_vectors: int, num_codes: int, width: int, generator: np.random.Generator) -> Restarts:
    """The draws for a batch of so many vectors of a width."""
    count = num_vectors * _repeats(num_vectors, num_codes)
    order = generator.permutation(count)
    is_repeated = count != num_vectors
    return Restarts(order, generator.standard_normal((count if is_repeated else 0, width), dtype=np.float32))


def candidates(vectors: np.ndarray, draws: Restarts, num_codes: int) -> np.ndarray:
    """Vectors (N, E) of a batch that could be codes: (K, E)."""
    repeats = _repeats(len(vectors), num_codes)
    if repeats > 1:
        spread = np.float32(SPREAD / np.sqrt(vectors.shape[1]))
        vectors = np.tile(vectors, (repeats, 1)) + draws.noise * spread
    return vectors[draws.order[:num_codes]]


def begun(rows: np.ndarray) -> Codebook:
    """The book whose codes are these candidates."""
    return Codebook(rows, np.ones(len(rows), np.float32), rows)


def usage(vectors: np.ndarray, codes: np.ndarray, num_codes: int) -> tuple[np.ndarray, np.ndarray]:
    """How many of the vectors (N, E) chose each code, (K,), and their sum (K, E)."""
    counts = np.bincount(codes, minlength=num_codes).astype(np.float32)
    sums = np.zeros((num_codes, vectors.shape[1]), np.float32)
    np.add.at(sums, codes, vectors)
    return counts, sums


def updated(
    book: Codebook, counts: np.ndarray, sums: np.ndarray, rows: np.ndarray, restart_below: float = 1.0
) -> Codebook:
    """The book after a step in which vectors chose its codes as `usage` says.

    rows: candidates (K, E), of which those become codes whose own are chosen less often a step than `restart_below`.
    """
    keep, add = np.float32(DECAY), np.float32(1 - DECAY)
    counts, sums = keep * book.counts + add * counts, keep * book.sums + add * sums
    total = counts.sum(dtype=np.float32)
    smoothed = (counts + np.float32(EPS)) / (total + np.float32(len(counts) * EPS)) * total
    is_used = (counts >= restart_below)[:, None]
    return Codebook(np.where(is_used, sums / smoothed[:, None], rows), counts, sums)


def perplexity(counts: np.ndarray) -> float:
    """Over how many codes the choices are spread, 1 to K."""
    shares = counts / counts.sum()
    return float(np.exp(-(shares * np.log(shares + 1e-10)).sum()))


def _repeats(num_vectors: int, num_codes: int) -> int:
    return -(-num_codes // num_vectors)
