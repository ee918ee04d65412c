"""Solvers of ordinary differential equations."""

import numpy as np
import pytest

from duosora.core.errors import ConfigError
from duosora.core.samplers.solvers import FIXED, solve

ORDERS = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}


def bent(x: np.ndarray, t: float) -> np.ndarray:
    """Its solution is exp(sin t) times where it begins."""
    return np.cos(t) * x


def error(method: str, steps: int) -> float:
    *_, last = solve(bent, np.ones(1), np.linspace(0, 2, steps + 1).tolist(), method)
    return abs(float(last[0]) - np.exp(np.sin(2)))


@pytest.mark.parametrize("method", FIXED)
def test_the_error_falls_with_the_order(method: str) -> None:
    assert np.log2(error(method, 40) / error(method, 80)) == pytest.approx(ORDERS[method], abs=0.25)


@pytest.mark.parametrize("ends", [(0.0, 2.0), (2.0, 0.0)])
def test_dopri5_keeps_to_its_limit_at_every_point(ends: tuple[float, float]) -> None:
    times = np.linspace(*ends, 7)
    states = np.stack(list(solve(bent, np.full(3, np.exp(np.sin(ends[0]))), times.tolist(), "dopri5", rtol=1e-6)))
    np.testing.assert_allclose(states, np.exp(np.sin(times))[:, None].repeat(3, 1), rtol=2e-5)


def test_dopri5_takes_as_many_steps_as_its_limit_asks_for() -> None:
    def calls(rtol: float) -> int:
        times: list[float] = []

        def counted(x: np.ndarray, t: float) -> np.ndarray:
            times.append(t)
            return bent(x, t)

        list(solve(counted, np.ones(1), [0.0, 2.0], "dopri5", atol=rtol, rtol=rtol))
        return len(times)

    assert calls(1e-10) > 2 * calls(1e-5) > 2 * calls(1e-1)


def test_what_cannot_be_solved_is_told() -> None:
    with pytest.raises(ConfigError, match="dopri5: found no way on from time 0"):
        list(solve(lambda x, t: x * np.inf, np.ones(1), [0.0, 1.0], "dopri5"))
    with pytest.raises(ConfigError, match="method = 'rk5': needs one of euler, midpoint"):
        solve(bent, np.ones(1), [0.0, 1.0], "rk5")
