"""Index plans of skiparse attention and text, against upstream's padded arrangement written out."""

import numpy as np
import pytest

from duosora.core.maths.skiparse import attention_plan, text_plan, valid_tokens, with_mask

KINDS = ("single", "group")


def upstream_sub_sequences(num_tokens: int, k: int, kind: str) -> list[list[int]]:
    """Upstream pads to a multiple of k * k and rearranges axes; here with the padding taken out again."""
    padded = np.arange(-(-num_tokens // k**2) * k**2)
    rows = padded.reshape(-1, k).T if kind == "single" else padded.reshape(-1, k, k).swapaxes(0, 1).reshape(k, -1)
    return [[int(token) for token in row if token < num_tokens] for row in rows]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", range(1, 7))
def test_plans_are_upstreams_arrangement_without_the_padding(k: int, kind: str) -> None:
    for num_tokens in range(1, 201):
        plan = attention_plan(num_tokens, k, kind)
        expected = [row for row in upstream_sub_sequences(num_tokens, k, kind) if row]
        assert [row.tolist() for row in plan.sub_sequences()] == expected, num_tokens
        assert plan.padded_length == -(-num_tokens // k**2) * k


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", range(1, 7))
def test_every_token_is_arranged_once_and_brought_back(k: int, kind: str) -> None:
    for num_tokens in range(1, 201):
        plan = attention_plan(num_tokens, k, kind)
        tokens = np.arange(num_tokens)
        if plan.order is not None and plan.inverse is not None:
            assert sorted(plan.order) == tokens.tolist()
            assert plan.order[plan.inverse].tolist() == tokens.tolist()
        starts = [run.part for run in plan.runs]
        assert np.concatenate([tokens[part] for part in starts]).tolist() == tokens.tolist()
        assert len(plan.runs) <= 3


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_one_sub_sequence_is_full_attention(kind: str | None) -> None:
    plan = attention_plan(10, 1, kind)
    assert [(run.start, run.count, run.length) for run in plan.runs] == [(0, 1, 10)]
    assert plan.order is None


def test_every_kth_token_of_a_whole_number_needs_no_arranging() -> None:
    plan = attention_plan(36, 4, "single")
    assert plan.order is None
    assert [(run.count, run.length) for run in plan.runs] == [(4, 9)]
    assert attention_plan(32, 4, "group").order is not None


def test_plans_cannot_be_changed_through_the_cache() -> None:
    order = attention_plan(45, 4, "group").order
    assert order is not None
    with pytest.raises(ValueError, match="read-only"):
        order[0] = 1


def upstream_probabilities(num_tokens: int, k: int, kind: str, valid: np.ndarray) -> np.ndarray:
    """Attention probabilities (N, N) that upstream's additive masks give to equal scores."""
    result = np.zeros((num_tokens, num_tokens))
    padded_length = -(-num_tokens // k**2) * k
    for row in upstream_sub_sequences(num_tokens, k, kind):
        bias = [0.0 if valid[token] else -10000.0 for token in row] + [-9980.0] * (padded_length - len(row))
        weights = np.exp(np.array(bias) - max(bias, default=0.0))
        weights = weights / max(weights.sum(), 1.0)
        for token in row:
            result[token, row] = weights[: len(row)]
    return result


@pytest.mark.parametrize("num_tokens", [7, 16, 45, 48])
@pytest.mark.parametrize("kind", KINDS)
def test_masks_leave_the_keys_that_upstreams_additive_masks_leave(num_tokens: int, kind: str) -> None:
    generator = np.random.default_rng(5)
    k = 4
    for share in (0.05, 0.2, 0.7):
        valid = generator.random((1, num_tokens)) < share
        valid[0, 0] = True
        plan = with_mask(attention_plan(num_tokens, k, kind), valid)
        keep = np.ones((1, num_tokens), bool) if plan.keep is None else plan.keep
        silent = np.zeros((1, num_tokens), bool) if plan.silent is None else plan.silent
        arranged_at = np.arange(num_tokens) if plan.inverse is None else plan.inverse
        got = np.zeros((num_tokens, num_tokens))
        for row in plan.sub_sequences():
            weights = keep[0, arranged_at[row]] * 1.0
            got[np.ix_(row, row)] = weights / weights.sum()
            got[row[silent[0, arranged_at[row]]]] = 0.0
        # Beside the padding, masked keys keep exp(-20) of their weight upstream.
        np.testing.assert_allclose(got, upstream_probabilities(num_tokens, k, kind, valid[0]), rtol=0, atol=1e-7)


def test_a_mask_without_holes_changes_nothing() -> None:
    plan = attention_plan(45, 4, "group")
    assert with_mask(plan, None) is plan
    assert with_mask(plan, np.ones((2, 45), bool)) is plan


def test_with_everything_masked_each_query_still_has_keys() -> None:
    plan = with_mask(attention_plan(32, 4, "single"), np.zeros((1, 32), bool))
    assert plan.keep is None
    assert plan.silent is None


def test_a_token_is_valid_when_any_of_its_latents_is() -> None:
    mask = np.zeros((1, 2, 4, 6))
    mask[0, 1, 3, 2] = 0.5
    assert np.flatnonzero(valid_tokens(mask, 1, 2)).tolist() == [6 + 3 + 1]
    assert np.flatnonzero(valid_tokens(mask, 2, 2)).tolist() == [3 + 1]


def test_text_padding_is_cut_to_the_longest_text() -> None:
    plan = text_plan(np.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]), 5)
    assert plan.index is not None
    assert plan.index.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert plan.lengths == (3, 1)


def test_holes_in_a_text_are_closed() -> None:
    plan = text_plan(np.array([[1, 0, 1, 1], [1, 1, 1, 1]]), 4)
    assert plan.index is not None
    assert plan.index.tolist() == [[0, 2, 3, 1], [0, 1, 2, 3]]
    assert plan.lengths == (3, 4)


@pytest.mark.parametrize("mask", [None, np.ones((2, 5)), np.zeros((2, 5))])
def test_texts_of_full_length_or_without_any_token_are_taken_whole(mask: np.ndarray | None) -> None:
    plan = text_plan(mask, 5)
    assert plan.index is None
    assert plan.lengths is None
