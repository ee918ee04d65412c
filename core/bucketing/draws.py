"""The first draws of many numpy generators at once: one by one, seeding takes far longer than drawing.

numpy promises that SeedSequence and PCG64 give the same bits in all versions (NEP 19).
Source: numpy.random.SeedSequence; O'Neill 2014, "PCG: a family of better random number generators", of 128 bits with
the output XSL RR.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_WORDS, _STATES = 4, 8
"""Of 32 bits, that a SeedSequence holds and that a PCG64 is seeded with."""
_HASH, _HASH_STEP = 0x43B0D7E5, 0x931E8875
_STATE_HASH, _STATE_HASH_STEP = 0x8B51F9DD, 0x58F38DED
_MIX_LEFT, _MIX_RIGHT = np.uint32(0xCA01F9DD), np.uint32(0x4973F715)
_MULTIPLIER = 0x2360ED051FC65DA44385DF649FCCF645
_AT_ONCE = 1 << 14
"""Seeds whose states stay in the processor's cache."""

Halves = tuple[np.ndarray, np.ndarray]
"""The upper and the lower 64 bits of numbers of 128."""


def first_draws(seeds: np.ndarray) -> np.ndarray:
    """What `np.random.default_rng(seed).random(2)` gives for each seed (N,) uint64, as (N, 2) float64."""
    draws = np.empty((len(seeds), 2))
    with np.errstate(over="ignore"):
        for start in range(0, len(seeds), _AT_ONCE):
            stop = start + _AT_ONCE
            state, increment = _seeded(_state_words(seeds[start:stop].astype(np.uint64)))
            for column in range(2):
                state = _stepped(state, increment)
                draws[start:stop, column] = (_output(state) >> np.uint64(11)) * 2.0**-53
    return draws


def _state_words(seeds: np.ndarray) -> list[np.ndarray]:
    """The 32-bit words that a SeedSequence of each seed generates."""
    constants = _hash_constants(_HASH, _HASH_STEP)
    halves = [seeds.astype(np.uint32), (seeds >> np.uint64(32)).astype(np.uint32)]
    zeros = np.zeros_like(halves[0])
    pool = [_hashed(word, constants) for word in (*halves, *[zeros] * (_WORDS - 2))]
    for source in range(_WORDS):
        for target in range(_WORDS):
            if source != target:
                pool[target] = _mixed(pool[target], _hashed(pool[source], constants))
    constants = _hash_constants(_STATE_HASH, _STATE_HASH_STEP)
    return [_hashed(pool[number % _WORDS], constants) for number in range(_STATES)]


def _hash_constants(first: int, step: int) -> Iterator[tuple[np.uint32, np.uint32]]:
    constant = first
    while True:
        following = constant * step & 0xFFFFFFFF
        yield np.uint32(constant), np.uint32(following)
        constant = following


def _hashed(words: np.ndarray, constants: Iterator[tuple[np.uint32, np.uint32]]) -> np.ndarray:
    before, after = next(constants)
    words = (words ^ before) * after
    return words ^ (words >> np.uint32(16))


def _mixed(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    words = _MIX_LEFT * one - _MIX_RIGHT * other
    return words ^ (words >> np.uint32(16))


def _seeded(words: list[np.ndarray]) -> tuple[Halves, Halves]:
    """States and increments of generators that were seeded with these words."""
    numbers = [low | high.astype(np.uint64) << np.uint64(32) for low, high in zip(words[::2], words[1::2], strict=True)]
    start, sequence = (numbers[0], numbers[1]), (numbers[2], numbers[3])
    increment = sequence[0] << np.uint64(1) | sequence[1] >> np.uint64(63), sequence[1] << np.uint64(1) | np.uint64(1)
    return _stepped(_sum(increment, start), increment), increment


def _stepped(state: Halves, increment: Halves) -> Halves:
    high, low = np.uint64(_MULTIPLIER >> 64), np.uint64(_MULTIPLIER & (1 << 64) - 1)
    product = _high_part(state[1], low) + state[0] * low + state[1] * high, state[1] * low
    return _sum(product, increment)


def _high_part(one: np.ndarray, other: np.uint64) -> np.ndarray:
    """The upper 64 bits of products of 64 by 64 bits."""
    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    high, low, other_high, other_low = one >> half, one & mask, other >> half, other & mask
    middle = high * other_low + (low * other_low >> half)
    return high * other_high + (middle >> half) + ((middle & mask) + low * other_high >> half)


def _sum(one: Halves, other: Halves) -> Halves:
    low = one[1] + other[1]
    return one[0] + other[0] + (low < one[1]), low


def _output(state: Halves) -> np.ndarray:
    words, turn = state[0] ^ state[1], state[0] >> np.uint64(58)
    return words >> turn | words << (np.uint64(64) - turn & np.uint64(63))
