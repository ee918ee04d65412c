"""3-D rotary position tables."""

import numpy as np
import pytest

from duosora.core.maths.rope import rope_tables
from duosora.core.shapes import TokenGrid

PLAIN = (1.0, 1.0, 1.0)


def rotate(x: np.ndarray, cosines: np.ndarray, sines: np.ndarray) -> np.ndarray:
    """x (N, K) turned as the tables' docstring says."""
    halves = x.reshape(len(x), 3, 2, -1)
    return x * cosines + halves[:, :, ::-1].reshape(x.shape) * sines


def turned_by_complex_numbers(x: np.ndarray, grid: TokenGrid, scale: tuple[float, float, float]) -> np.ndarray:
    """The definition: pair j of a part of size d is multiplied by exp(i * position / scale * 10000^(-2 j / d))."""
    positions = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, 3)
    part = x.shape[1] // 3
    result = np.empty(x.shape)
    for axis in range(3):
        for j in range(part // 2):
            real, imaginary = axis * part + j, axis * part + j + part // 2
            angle = positions[:, axis] / scale[axis] * 10000.0 ** (-2 * j / part)
            turned = (x[:, real] + 1j * x[:, imaginary]) * np.exp(1j * angle)
            result[:, real], result[:, imaginary] = turned.real, turned.imag
    return result


@pytest.mark.parametrize("scale", [PLAIN, (2.0, 0.5, 1.5)])
@pytest.mark.parametrize("grid", [TokenGrid(3, 4, 4), TokenGrid(1, 1, 7), TokenGrid(24, 2, 40)])
@pytest.mark.parametrize("head_dim", [6, 24, 96])
def test_pairs_turn_by_their_position(grid: TokenGrid, head_dim: int, scale: tuple[float, float, float]) -> None:
    x = np.random.default_rng(3).standard_normal((grid.num_tokens, head_dim))
    expected = turned_by_complex_numbers(x, grid, scale)
    np.testing.assert_allclose(rotate(x, *rope_tables(grid, head_dim, scale)), expected, rtol=0, atol=1e-6)


def test_products_depend_on_the_distance_only() -> None:
    grid = TokenGrid(4, 5, 6)
    generator = np.random.default_rng(4)
    query, key = (np.tile(generator.standard_normal(24), (grid.num_tokens, 1)) for _ in range(2))
    tables = rope_tables(grid, 24, PLAIN)
    scores = rotate(query, *tables) @ rotate(key, *tables).T
    scores = scores.reshape(*grid, *grid)
    assert scores[0, 1, 2, 2, 2, 5] == pytest.approx(scores[1, 3, 0, 3, 4, 3], abs=1e-5)
    assert scores[0, 1, 2, 2, 2, 5] != pytest.approx(scores[2, 2, 5, 0, 1, 2], abs=1e-2)


def test_shared_tables_take_the_scale_of_the_first_axis_of_that_length() -> None:
    scale = (2.0, 0.5, 1.5)
    for grid, effective in (
        (TokenGrid(3, 3, 3), (2.0, 2.0, 2.0)),
        (TokenGrid(2, 4, 4), (2.0, 0.5, 0.5)),
        (TokenGrid(5, 4, 5), (2.0, 0.5, 2.0)),
        (TokenGrid(2, 3, 4), scale),
    ):
        shared, expected = rope_tables(grid, 12, scale, True), rope_tables(grid, 12, effective)
        np.testing.assert_array_equal(shared, expected)


def test_tables_are_float32_and_cannot_be_changed_through_the_cache() -> None:
    cosines, sines = rope_tables(TokenGrid(2, 3, 4), 12, PLAIN)
    assert cosines.dtype == sines.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        sines[0, 0] = 1.0
