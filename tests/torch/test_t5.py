"""The T5 encoder of the torch backend, against transformers' and against itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import MT5Config, MT5EncoderModel

from duosora.core.layout import FreshWeights, GivenWeights
from duosora.core.models.t5 import T5Spec
from duosora.core.seam.backend import Backend, get

SPEC = T5Spec(vocab_size=97, d_model=32, d_kv=6, d_ff=48, num_layers=3, num_heads=4)
OTHER_BUCKETS = replace(SPEC, relative_attention_num_buckets=16, relative_attention_max_distance=40)


@pytest.fixture(scope="module")
def backend() -> Backend:
    return get("torch", "cpu")


def some_weights(spec: T5Spec) -> GivenWeights:
    """Fresh weights; biases on positions large enough to tell one bucket from another."""
    fresh = FreshWeights(spec.layout(), seed=0)
    arrays = {name: fresh[name] * (8.0 if "relative" in name else 1.0) for name in fresh}
    return GivenWeights(arrays, "test weights")


def texts(lengths: tuple[int, ...], padded_length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of random texts of these lengths, padded with 0."""
    generator = np.random.default_rng(len(lengths) + padded_length)
    mask = np.arange(padded_length) < np.array(lengths)[:, None]
    ids = generator.integers(1, SPEC.vocab_size, mask.shape) * mask
    return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


def transformers_encoder(spec: T5Spec, weights: GivenWeights) -> MT5EncoderModel:
    model = MT5EncoderModel(MT5Config(**spec.to_config())).eval()
    state = {name: torch.from_numpy(array) for name, array in weights.items()}
    model.load_state_dict(state | {"encoder.embed_tokens.weight": state["shared.weight"]})
    return model


@pytest.mark.parametrize("spec", [SPEC, OTHER_BUCKETS], ids=["mt5", "other buckets"])
def test_states_are_those_of_transformers(backend: Backend, spec: T5Spec) -> None:
    assert spec.inner_dim != spec.d_model
    weights = some_weights(spec)
    ours, theirs = backend.build(spec, weights), transformers_encoder(spec, weights)
    for lengths, padded_length in (((1,), 1), ((12, 5), 12), ((130, 1, 64), 140), ((300, 211), 300)):
        ids, mask = texts(lengths, padded_length)
        with backend.inference():
            expected = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
            got = ours(ids, mask)
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)  # padded positions too


def test_a_batch_may_be_cut_to_its_longest_text(backend: Backend) -> None:
    model = backend.build(SPEC, some_weights(SPEC))
    ids, mask = texts((9, 4), 64)
    with backend.inference():
        whole, cut = model(ids, mask), model(ids[:, :9], mask[:, :9])
        alone = model(ids[1:, :4], mask[1:, :4])
    torch.testing.assert_close(cut[0], whole[0, :9], rtol=0, atol=2e-6)
    torch.testing.assert_close(cut[1, :4], whole[1, :4], rtol=0, atol=2e-6)
    torch.testing.assert_close(alone[0], whole[1, :4], rtol=0, atol=2e-6)


def test_a_text_without_any_token_gives_finite_states(backend: Backend) -> None:
    for dtype in ("fp32", "fp16", "bf16"):
        model = backend.build(SPEC, some_weights(SPEC), dtype)
        ids, mask = texts((0, 5), 8)
        with backend.inference():
            assert torch.isfinite(model(ids, mask)).all()


@pytest.mark.parametrize(("dtype", "limit"), [("fp16", 0.004), ("bf16", 0.03)])
def test_half_precision_is_near_float32(backend: Backend, dtype: str, limit: float) -> None:
    weights = some_weights(SPEC)
    ids, mask = texts((40, 13), 40)
    with backend.inference():
        expected = backend.build(SPEC, weights)(ids, mask)
        got = backend.build(SPEC, weights, dtype)(ids, mask)
    assert got.dtype == torch.float32
    assert 0 < (got - expected).std() < limit * expected.std()


def test_states_beyond_the_range_of_fp16_stay_finite(backend: Backend) -> None:
    weights = some_weights(SPEC)
    for block in range(SPEC.num_layers):
        name = f"encoder.block.{block}.layer.1.DenseReluDense.wo.weight"
        weights[name] = weights[name] * 5e4  # as large as fp16 holds; their sums are larger
    ids, mask = texts((12, 7), 12)
    with backend.inference():
        states = backend.build(SPEC, weights, "fp16")(ids, mask)
    assert torch.isfinite(states).all()


def test_norms_are_computed_in_float32(backend: Backend) -> None:
    """The squares of these states overflow fp16; the norm brings them back to 1 before anything else is done."""
    weights = some_weights(SPEC)
    weights["shared.weight"] = weights["shared.weight"] * 300
    ids, mask = texts((12,), 12)
    with backend.inference():
        expected = backend.build(SPEC, weights)(ids, mask)
        got = backend.build(SPEC, weights, "fp16")(ids, mask)
    assert (got - expected).std() < 0.01 * expected.std()


def test_state_dict_is_the_layouts(backend: Backend) -> None:
    model = backend.build(SPEC, some_weights(SPEC))
    assert set(model.state_dict()) == set(SPEC.layout())
