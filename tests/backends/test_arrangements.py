"""Attention within frames and through them on both backends, also where a kernel takes few heads or samples at once."""

from importlib import import_module
from typing import Any

import numpy as np
import pytest

from duosora.core.maths.arrangements import rows_of_tokens, spatial_plan, temporal_plan
from duosora.core.maths.skiparse import AttentionPlan, Run, with_mask
from duosora.core.seam.backend import Backend
from duosora.core.shapes import TokenGrid

GRID = TokenGrid(5, 3, 4)
PLANS = {"spatial": spatial_plan(GRID), "temporal": temporal_plan(GRID)}
LIMITS = {"none": (10**6, 10**6), "heads": (7, 10**6), "odd heads": (2, 10**6), "samples": (12, 4)}
"""Most heads and most samples of one call, where there are 3 heads and 2 samples, and 12 places."""


@pytest.fixture
def attention(backend: Backend) -> Any:
    return import_module(f"duosora.backends.{backend.name}.attention")


def written_out(q: np.ndarray, k: np.ndarray, v: np.ndarray, plan: AttentionPlan, valid: np.ndarray) -> np.ndarray:
    """Attention in float64, a sub-sequence at a time."""
    out = np.zeros(q.shape)
    for tokens in plan.sub_sequences():
        for sample, kept in enumerate(valid[:, tokens]):
            kept = kept if kept.any() else np.ones_like(kept)
            scores = np.einsum("nak,mak->anm", q[sample, tokens], k[sample, tokens[kept]]) / np.sqrt(q.shape[-1])
            shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
            out[sample, tokens] = np.einsum("anm,mak->nak", shares, v[sample, tokens[kept]])
    return out


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("kind", PLANS)
def test_tokens_attend_inside_their_frame_or_place(
    backend: Backend,
    attention: Any,
    kind: str,
    is_masked: bool,
    limits: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = np.random.default_rng(0)
    q, k, v = (draw.standard_normal((2, GRID.num_tokens, 3, 8), np.float32) for _ in range(3))
    valid = draw.random((2, GRID.num_tokens)) < (0.7 if is_masked else 2.0)
    calls = []

    def kernel(*inputs: Any) -> Any:
        calls.append(inputs[0].shape)
        return attention.sdpa(*inputs)

    monkeypatch.setattr(attention, "MOST_HEADS", limits[0])
    monkeypatch.setattr(attention, "MOST_SAMPLES", limits[1])
    arrangement = attention.place_plan(with_mask(PLANS[kind], valid), backend.device)
    got = attention.KernelAttend(kernel).self_attention(*map(backend.asarray, (q, k, v)), arrangement)
    np.testing.assert_allclose(backend.to_numpy(got), written_out(q, k, v, PLANS[kind], valid), rtol=0, atol=2e-6)
    most_heads, most_samples = limits
    assert all(samples <= most_samples and heads <= max(3, most_heads) for samples, _, heads, _ in calls)


def test_plans_name_every_token_once() -> None:
    tokens = np.arange(GRID.num_tokens).reshape(GRID.frames, -1)
    np.testing.assert_array_equal(np.stack(list(PLANS["spatial"].sub_sequences())), tokens)
    np.testing.assert_array_equal(np.stack(list(PLANS["temporal"].sub_sequences())), tokens.T)


def test_as_many_heads_are_filled_as_fit_and_divide() -> None:
    run = Run(0, 12, 5)
    assert [run.fold(3, most) for most in (1, 3, 6, 12, 17, 18, 36, 100)] == [1, 1, 2, 4, 4, 6, 12, 12]
    assert Run(0, 12, 5, in_turn=True).fold(3, 100) == 1


def test_a_token_moves_where_any_of_its_frames_does() -> None:
    moves = np.array([[True, True, True], [False, True, False]])
    rows = rows_of_tokens(moves, TokenGrid(2, 1, 2), 2)
    assert rows is not None
    assert rows[:, :, 0].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    np.testing.assert_array_equal(rows.sum(-1), np.ones((2, 4)))
    assert rows_of_tokens(np.ones((2, 3), bool), TokenGrid(2, 1, 2), 2) is None
