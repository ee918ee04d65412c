"""Solvers of ordinary differential equations on plain arrays: with fixed steps, and dopri5, which chooses its own.

Only operators and `mean` of the arrays are used, so numpy's and those of both frameworks will do.
Sources: torchdiffeq 0.2.5, whose names and coefficients these are; Dormand and Prince 1980; Shampine 1986 (the
interpolation); Hairer, Norsett and Wanner 1993, section II.4 (step sizes).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ..errors import ConfigError
from .base import Array

Field = Callable[[Array, float], Array]
"""(state, time) -> its derivative by the time."""


class Query(NamedTuple):
    """Whose derivative is wanted."""

    state: Array
    time: float


class Reached(NamedTuple):
    """The state at the next of the times."""

    state: Array


ATOL, RTOL = 1e-6, 1e-3
SAFETY, MOST_GROWTH, MOST_SHRINKING = 0.9, 10.0, 0.2
STAGES = (
    (1 / 5, (1 / 5,)),
    (3 / 10, (3 / 40, 9 / 40)),
    (4 / 5, (44 / 45, -56 / 15, 32 / 9)),
    (8 / 9, (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729)),
    (1.0, (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656)),
    (1.0, (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)),
)
"""Of dopri5: when each slope after the first is taken, and by which of those before; the last is the next first."""
ERROR = (
    *(35 / 384 - 1951 / 21600, 0.0, 500 / 1113 - 22642 / 50085, 125 / 192 - 451 / 720),
    *(-2187 / 6784 + 12231 / 42400, 11 / 84 - 649 / 6300, -1 / 60),
)
MIDDLE = (
    *(6025192743 / 30085553152 / 2, 0.0, 51252292925 / 65400821598 / 2, -2691868925 / 45128329728 / 2),
    *(187940372067 / 1594534317056 / 2, -1776094331 / 19743644256 / 2, 11237099 / 235043384 / 2),
)


def solve(
    field: Field, state: Array, times: Sequence[float], method: str, *, atol: float = ATOL, rtol: float = RTOL
) -> Iterator[Array]:
    """The states at times, which rise or fall; the first is the state that is given.

    atol, rtol: of dopri5, whose error is measured over the whole batch, so that a sample depends a little on its
    companions. Raises: ConfigError for an unknown method, or a field that dopri5 finds no way through.
    """
    return _answered(field, solving(state, times, method, atol, rtol))


def solving(
    state: Array, times: Sequence[float], method: str, atol: float = ATOL, rtol: float = RTOL
) -> Generator[Query | Reached, Array, None]:
    """The same for those who compute the field: each Query is to be sent its derivative. Raises: as solve."""
    if method == "dopri5":
        return _dopri5(state, times, atol, rtol)
    if method not in FIXED:
        raise ConfigError(f"method = {method!r}: needs one of {', '.join((*FIXED, 'dopri5'))}")
    return _fixed(state, times, FIXED[method])


def _answered(field: Field, events: Generator[Query | Reached, Array, None]) -> Iterator[Array]:
    slope: Array = None
    while True:
        try:
            event = events.send(slope)
        except StopIteration:
            return
        slope = field(*event) if isinstance(event, Query) else None
        if isinstance(event, Reached):
            yield event.state


def _fixed(state: Array, times: Sequence[float], method: Tableau) -> Generator[Query | Reached, Array, None]:
    yield Reached(state)
    for time, after in pairwise(map(float, times)):
        step, slopes = after - time, [(yield Query(state, time))]
        for stage in method.stages:
            slopes.append((yield Query(state + step * mixed(stage.of_slopes, slopes), time + stage.share * step)))
        state = state + step * mixed(method.of_slopes, slopes)
        yield Reached(state)


class SlopeStage(NamedTuple):
    """When a slope is taken, as a share of the step, and where: that much of those before it."""

    share: float
    of_slopes: tuple[float, ...]


class Tableau(NamedTuple):
    """A step with slopes at its begin and at the stages; the state moves by that much of each."""

    stages: tuple[SlopeStage, ...]
    of_slopes: tuple[float, ...]


FIXED: dict[str, Tableau] = {
    "euler": Tableau((), (1.0,)),
    "midpoint": Tableau((SlopeStage(1 / 2, (1 / 2,)),), (0.0, 1.0)),
    "heun2": Tableau((SlopeStage(1.0, (1.0,)),), (1 / 2, 1 / 2)),
    "heun3": Tableau((SlopeStage(1 / 3, (1 / 3,)), SlopeStage(2 / 3, (0.0, 2 / 3))), (1 / 4, 0.0, 3 / 4)),
    "rk4": Tableau(
        (SlopeStage(1 / 3, (1 / 3,)), SlopeStage(2 / 3, (-1 / 3, 1.0)), SlopeStage(1.0, (1.0, -1.0, 1.0))),
        (1 / 8, 3 / 8, 3 / 8, 1 / 8),
    ),
}
"""By torchdiffeq's names; its rk4 is the 3/8 rule."""


def _dopri5(state: Array, times: Sequence[float], atol: float, rtol: float) -> Generator[Query | Reached, Array, None]:
    """Fifth order with steps of its own; `times` are only read off. Inside, time runs forwards."""
    sign = 1.0 if float(times[-1]) >= float(times[0]) else -1.0
    yield Reached(state)
    time = sign * float(times[0])
    slope = yield from _slope(state, time, sign)
    step = yield from _first_step(state, slope, time, sign, atol, rtol)
    begin, piece = time, (state, 0.0 * state, 0.0 * state, 0.0 * state, 0.0 * state)
    for wanted in (sign * float(each) for each in times[1:]):
        while time < wanted:
            after, slopes = yield from _stages(state, slope, time, step, sign)
            limit = atol + rtol * _larger(abs(state), abs(after))
            ratio = _size(step * mixed(ERROR, slopes) / limit)
            if time + step == time or not np.isfinite(step):
                raise ConfigError(f"dopri5: found no way on from time {sign * time:g}: the prediction has no limits")
            if ratio <= 1.0:
                begin, piece = time, _polynomial(state, after, slopes, step)
                state, slope, time = after, slopes[-1], time + step
            step *= _growth(ratio)
        yield Reached(_at(piece, (wanted - begin) / (time - begin)))


Slope = Generator[Query, Array, Array]


def _slope(x: Array, t: float, sign: float) -> Slope:
    slope = yield Query(x, sign * t)
    return sign * slope


def _stages(
    x: Array, slope: Array, t: float, step: float, sign: float
) -> Generator[Query, Array, tuple[Array, list[Array]]]:
    """The state after a step, and the slopes on the way there."""
    slopes, after = [slope], x
    for share, weights in STAGES:
        after = x + step * mixed(weights, slopes)
        slopes.append((yield from _slope(after, t + share * step, sign)))
    return after, slopes


def _growth(ratio: float) -> float:
    """What the next step is to this one, by the error's share of its limit."""
    if ratio == 0.0:
        return MOST_GROWTH
    if not np.isfinite(ratio):  # beyond the end of the interval there may be no prediction
        return MOST_SHRINKING
    return min(MOST_GROWTH, max(SAFETY * ratio ** (-1 / 5), 1.0 if ratio < 1.0 else MOST_SHRINKING))


def _first_step(
    x: Array, slope: Array, t: float, sign: float, atol: float, rtol: float
) -> Generator[Query, Array, float]:
    """By Hairer's rule, which looks one Euler step ahead."""
    scale = atol + rtol * abs(x)
    size, speed = _size(x / scale), _size(slope / scale)
    probe = 0.01 * size / speed if min(size, speed) >= 1e-5 and np.isfinite(speed) else 1e-6
    there = yield from _slope(x + probe * slope, t + probe, sign)
    bend = _size((there - slope) / scale) / probe
    if max(speed, bend) <= 1e-15:
        return min(100 * probe, max(1e-6, 1e-3 * probe))
    return min(100 * probe, (0.01 / max(speed, bend)) ** (1 / 5))


def _polynomial(before: Array, after: Array, slopes: list[Array], step: float) -> tuple[Array, ...]:
    """Coefficients, from the constant on, of the fourth degree through both ends, their slopes and the middle."""
    middle = before + step * mixed(MIDDLE, slopes)
    first, last = step * slopes[0], step * slopes[-1]
    return (
        before,
        first,
        last - 4.0 * first - 11.0 * before - 5.0 * after + 16.0 * middle,
        5.0 * first - 3.0 * last + 18.0 * before + 14.0 * after - 32.0 * middle,
        2.0 * (last - first) - 8.0 * (after + before) + 16.0 * middle,
    )


def _at(polynomial: tuple[Array, ...], share: float) -> Array:
    return sum((share**power * coefficient for power, coefficient in enumerate(polynomial[1:], 1)), polynomial[0])


def mixed(weights: Sequence[float], slopes: Sequence[Array]) -> Array:
    """The sum of slopes, that much of each."""
    terms = [weight * slope for weight, slope in zip(weights, slopes, strict=True) if weight]
    return sum(terms[1:], terms[0])


def _larger(one: Array, other: Array) -> Array:
    return (one + other + abs(one - other)) / 2.0


def _size(x: Array) -> float:
    """Root mean square over all entries."""
    return float((x * x).mean()) ** 0.5
