"""The text-to-video transformer on torch: what it promises beside the original numbers, which the goldens compare."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from duosora.backends.torch import attention
from duosora.backends.torch.models.opensora_t2v import OpenSoraT2V
from duosora.backends.torch.precision import TORCH_DTYPES
from duosora.core.errors import ConfigError, ShapeError
from duosora.core.layout import GivenWeights
from duosora.core.models.opensora_t2v import OpenSoraT2VSpec
from duosora.core.seam.backend import Backend, get
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape

T2V = OpenSoraT2VSpec(
    num_layers=5, num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, caption_channels=20
)
INPAINT = replace(T2V, mask_channels=4)
VIDEO = LatentShape(3, 10, 6)  # 45 tokens, not a multiple of 16
EVEN_VIDEO = LatentShape(2, 8, 8)
IMAGE = LatentShape(1, 6, 6)
BATCH_TOLERANCE = 1e-6  # of the outputs' range: the order of float32 sums depends on the batch


@pytest.fixture(scope="module")
def backend() -> Backend:
    return get("torch", "cpu")


def some_weights(spec: OpenSoraT2VSpec, seed: int = 0) -> GivenWeights:
    """Weights that are nowhere zero, so that every part of the model shows in the output."""
    generator = np.random.default_rng(seed)
    layout = spec.layout()
    arrays = {
        name: (generator.standard_normal(weight.shape) / np.sqrt(weight.shape[-1])).astype(np.float32)
        for name, weight in layout.items()
    }
    return GivenWeights(arrays, "test weights")


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32))


def latents_for(spec: OpenSoraT2VSpec, shape: LatentShape, batch: int = 2) -> torch.Tensor:
    return noise(batch, spec.latent_channels + spec.further_channels, *shape)


TEXT = noise(2, 7, 20, seed=2).numpy()
TWO_LENGTHS = np.array([[1] * 7, [1] * 3 + [0] * 4])
TIMESTEPS = torch.tensor([999.0, 250.5])


@pytest.mark.parametrize("spec", [T2V, INPAINT, replace(T2V, norm_elementwise_affine=True, attention_bias=False)])
def test_parameters_and_state_dict_are_the_layouts(backend: Backend, spec: OpenSoraT2VSpec) -> None:
    model = backend.build(spec, some_weights(spec))
    with backend.inference():
        model(latents_for(spec, VIDEO), TIMESTEPS, model.condition(Given(text=TEXT), VIDEO))
    assert set(model.state_dict()) == set(spec.layout())


@pytest.mark.parametrize("shape", [VIDEO, EVEN_VIDEO, IMAGE])
@pytest.mark.parametrize("spec", [T2V, INPAINT, replace(T2V, out_channels=5)])
def test_predictions_have_the_latents_shape_in_float32(
    backend: Backend, spec: OpenSoraT2VSpec, shape: LatentShape
) -> None:
    model = backend.build(spec, some_weights(spec))
    with backend.inference():
        got = model(latents_for(spec, shape), TIMESTEPS, model.condition(Given(text=TEXT), shape))
    assert got.shape == (2, spec.out_channels, *shape)
    assert got.dtype == torch.float32


def test_block_norms_have_the_models_eps_and_the_last_norm_its_own(backend: Backend) -> None:
    spec = replace(T2V, norm_eps=0.1)
    model = backend.build(spec, some_weights(spec))
    x = noise(2, 5, spec.hidden_size)
    centred = x - x.mean(-1, keepdim=True)
    for norm, eps in (
        (model.transformer_blocks[0].norm1, 0.1),
        (model.transformer_blocks[0].norm2, 0.1),
        (model.norm_out, 1e-6),
    ):
        expected = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        torch.testing.assert_close(norm(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("activation", ["gelu-approximate", "gelu", "geglu"])
def test_the_feed_forward_has_the_activation_that_the_spec_names(backend: Backend, activation: str) -> None:
    spec = replace(T2V, activation_fn=activation)
    feed_forward = backend.build(spec, some_weights(spec)).transformer_blocks[0].ff
    x = 4 * noise(2, 5, spec.hidden_size)
    widened, narrow = feed_forward.net[0].proj(x), feed_forward.net[2]

    def gelu_erf(x: torch.Tensor) -> torch.Tensor:
        return x * (1 + torch.erf(x / 2**0.5)) / 2

    def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
        return x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2

    values, gates = widened.chunk(2, -1)
    expected = {"gelu-approximate": gelu_tanh(widened), "gelu": gelu_erf(widened), "geglu": values * gelu_erf(gates)}
    # The two forms of GELU differ by up to 5e-4 before the last projection.
    torch.testing.assert_close(feed_forward(x), narrow(expected[activation]), rtol=0, atol=2e-5)


def test_a_condition_serves_every_step(backend: Backend) -> None:
    model = backend.build(T2V, some_weights(T2V))
    latents = latents_for(T2V, VIDEO)
    with backend.inference():
        kept = model.condition(Given(text=TEXT, text_mask=TWO_LENGTHS), VIDEO)
        for timestep in (999.0, 500.0, 1.0):
            fresh = model.condition(Given(text=TEXT, text_mask=TWO_LENGTHS), VIDEO)
            times = torch.full((2,), timestep)
            assert torch.equal(model(latents, times, kept), model(latents, times, fresh))


def test_whole_and_fractional_timesteps_are_one_scale(backend: Backend) -> None:
    model = backend.build(T2V, some_weights(T2V))
    latents = latents_for(T2V, VIDEO)
    with backend.inference():
        condition = model.condition(Given(text=TEXT), VIDEO)
        whole = model(latents, torch.tensor([999, 250]), condition)
        assert torch.equal(whole, model(latents, torch.tensor([999.0, 250.0]), condition))
        assert not torch.allclose(whole, model(latents, torch.tensor([999.0, 250.5]), condition))


@pytest.mark.parametrize("spec", [T2V, INPAINT])
@pytest.mark.parametrize("attention", ["sdpa", "math"])
def test_a_batch_is_its_samples_one_by_one(backend: Backend, spec: OpenSoraT2VSpec, attention: str) -> None:
    model = backend.build(spec, some_weights(spec), attention=attention)
    latents, lengths = latents_for(spec, VIDEO), (7, 3)
    text_mask = np.arange(7) < np.array(lengths)[:, None]
    with backend.inference():
        together = model(latents, TIMESTEPS, model.condition(Given(text=TEXT, text_mask=text_mask), VIDEO))
        for i, length in enumerate(lengths):
            alone = model.condition(Given(text=TEXT[i : i + 1, :length]), VIDEO)
            single = model(latents[i : i + 1], TIMESTEPS[i : i + 1], alone)[0]
            assert_near(single, together[i], BATCH_TOLERANCE)


def test_text_padding_is_never_read(backend: Backend) -> None:
    model = backend.build(T2V, some_weights(T2V))
    latents, text_mask = latents_for(T2V, VIDEO), np.arange(7) < np.array([[5], [2]])
    garbled = TEXT.copy()
    garbled[0, 5:], garbled[1, 2:] = 1e4, -1e4
    with backend.inference():
        given = [Given(text=text, text_mask=text_mask) for text in (TEXT, garbled)]
        clean, dirty = (model(latents, TIMESTEPS, model.condition(each, VIDEO)) for each in given)
    assert torch.equal(clean, dirty)


@pytest.mark.parametrize("sparse", [True, False])
def test_masked_frames_count_as_little_as_removed_ones(backend: Backend, sparse: bool) -> None:
    spec = replace(T2V, sparse1d=sparse)
    model = backend.build(spec, some_weights(spec))
    latents = latents_for(spec, VIDEO)
    mask = np.ones((2, *VIDEO))
    mask[:, 2] = 0  # the last frame; the tokens before it keep their place in every sub-sequence
    shorter = LatentShape(2, 10, 6)
    with backend.inference():
        masked = model(latents, TIMESTEPS, model.condition(Given(text=TEXT, latent_mask=mask), VIDEO))[:, :, :2]
        removed = model(latents[:, :, :2], TIMESTEPS, model.condition(Given(text=TEXT), shorter))
        unmasked = model(latents, TIMESTEPS, model.condition(Given(text=TEXT), VIDEO))[:, :, :2]
    assert_near(masked, removed, BATCH_TOLERANCE)
    assert not torch.allclose(unmasked, removed, atol=1e-3)


def test_samples_with_different_masks_are_those_samples_alone(backend: Backend) -> None:
    model = backend.build(T2V, some_weights(T2V))
    latents = latents_for(T2V, VIDEO)
    mask = np.ones((2, *VIDEO))
    mask[1, :, :, 3:] = 0
    mask[1, 1:] = 0  # few valid tokens: some sub-sequences have none
    with backend.inference():
        together = model(latents, TIMESTEPS, model.condition(Given(text=TEXT, latent_mask=mask), VIDEO))
        for i in range(2):
            one = slice(i, i + 1)
            condition = model.condition(Given(text=TEXT[one], latent_mask=mask[one]), VIDEO)
            alone = model(latents[one], TIMESTEPS[one], condition)
            assert_near(alone[0], together[i], BATCH_TOLERANCE)
    assert torch.isfinite(together).all()


@pytest.mark.parametrize(
    ("dtype", "limit"),
    # Relative to the spread of the fp32 output; measured 0.0010 and 0.0087 at this depth and width.
    [("fp16", 0.003), ("bf16", 0.025)],
)
@pytest.mark.parametrize("attention", ["sdpa", "math"])
def test_half_precision_is_finite_and_near_float32(backend: Backend, dtype: str, limit: float, attention: str) -> None:
    full, half = (backend.build(T2V, some_weights(T2V), d, attention) for d in ("fp32", dtype))
    latents, mask = latents_for(T2V, VIDEO), np.ones((2, *VIDEO))
    mask[1, 1:] = 0
    text_mask = np.arange(7) < np.array([[7], [3]])
    with backend.inference():
        given = Given(text=TEXT, text_mask=text_mask, latent_mask=mask)
        expected, got = (m(latents, TIMESTEPS, m.condition(given, VIDEO)) for m in (full, half))
    assert got.dtype == torch.float32
    assert torch.isfinite(got).all()
    assert 0 < (got - expected).std() < limit * expected.std()


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (T2V, VIDEO),
        (T2V, IMAGE),
        (INPAINT, VIDEO),
        (replace(T2V, activation_fn="geglu", attention_bias=False, norm_elementwise_affine=True), EVEN_VIDEO),
    ],
)
def test_gradients_reach_every_weight(backend: Backend, spec: OpenSoraT2VSpec, shape: LatentShape) -> None:
    model = backend.build(spec, some_weights(spec)).train().requires_grad_(True)
    condition = model.condition(Given(text=TEXT, text_mask=np.arange(7) < np.array([[7], [3]])), shape)
    model(latents_for(spec, shape), TIMESTEPS, condition).square().mean().backward()
    silent = {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert silent == set()


def test_training_works_after_sampling_at_the_same_size(backend: Backend) -> None:
    """Tables made in inference mode cannot take part in a backward pass, so none may be kept."""
    model = backend.build(T2V, some_weights(T2V)).requires_grad_(True)
    latents = latents_for(T2V, VIDEO)
    with backend.inference():
        sampled = model(latents, TIMESTEPS, model.condition(Given(text=TEXT), VIDEO))
    trained = model(latents, TIMESTEPS, model.condition(Given(text=TEXT), VIDEO))
    trained.sum().backward()
    torch.testing.assert_close(trained.detach(), sampled, rtol=0, atol=0)


def test_conditions_of_other_sizes_leave_a_condition_alone(backend: Backend) -> None:
    model = backend.build(T2V, some_weights(T2V))
    latents = latents_for(T2V, VIDEO)
    with backend.inference():
        condition = model.condition(Given(text=TEXT), VIDEO)
        before = model(latents, TIMESTEPS, condition)
        for shape in (IMAGE, EVEN_VIDEO, LatentShape(3, 6, 10)):
            model.condition(Given(text=TEXT), shape)
        assert torch.equal(model(latents, TIMESTEPS, condition), before)


def test_a_condition_for_another_size_is_refused(backend: Backend) -> None:
    model = backend.build(T2V, some_weights(T2V))
    condition = model.condition(Given(text=TEXT), LatentShape(3, 6, 10))  # as many tokens as VIDEO
    with pytest.raises(ShapeError, match="latents of 3 x 5 x 3 tokens came with a condition for 3 x 3 x 5"):
        model(latents_for(T2V, VIDEO), TIMESTEPS, condition)


def test_latents_that_patches_do_not_tile_are_refused(backend: Backend) -> None:
    model = backend.build(T2V, some_weights(T2V))
    with pytest.raises(ShapeError, match="latent height = 7: needs a multiple of the patch size 2"):
        model.condition(Given(text=TEXT), LatentShape(3, 7, 6))


def test_the_inpaint_sibling_starts_as_the_text_to_video_model(backend: Backend) -> None:
    """Its two linear maps start at zero: whatever the condition channels hold, the output is the grown model's."""
    weights = some_weights(INPAINT)
    for name in ("pos_embed_masked_hidden_states.1.weight", "pos_embed_mask.1.weight"):
        weights[name] = np.zeros_like(weights[name])
    grown = backend.build(INPAINT, weights)
    plain = backend.build(T2V, GivenWeights({name: weights[name] for name in T2V.layout()}, "test weights"))
    latents = latents_for(INPAINT, VIDEO)
    with backend.inference():
        got = grown(latents, TIMESTEPS, grown.condition(Given(text=TEXT), VIDEO))
        expected = plain(latents[:, :4], TIMESTEPS, plain.condition(Given(text=TEXT), VIDEO))
    assert torch.equal(got, expected)


def test_patches_that_span_frames_are_refused() -> None:
    with pytest.raises(ConfigError, match="patch_size_t = 2: duosora implements 1"):
        replace(T2V, patch_size_t=2)


def test_the_model_gives_all_its_attention_to_the_given_function(backend: Backend) -> None:
    """The distributed room relies on it: attention that gives nothing leaves the output biases only."""
    calls = []

    class Nothing:
        def self_attention(self, q, k, v, arrangement):
            calls.append(("self", tuple(q.shape), sum(run.count for run in arrangement.runs)))
            return torch.zeros_like(q)

        def cross_attention(self, q, k, v, text):
            calls.append(("cross", tuple(k.shape), 1))
            return torch.zeros_like(q)

    model = OpenSoraT2V(T2V, Nothing())
    with torch.no_grad():
        model(latents_for(T2V, VIDEO), TIMESTEPS, model.condition(Given(text=TEXT), VIDEO))
    kinds = [1, 1, 4, 4, 4]
    assert calls == [call for kind in kinds for call in (("self", (2, 45, 2, 12), kind), ("cross", (2, 7, 2, 12), 1))]


def assert_near(got: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Largest difference against a part of the expected values' range."""
    spread = float(expected.max() - expected.min())
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance * spread)


@pytest.mark.parametrize("sparse", [False, True], ids=["full", "skiparse"])
def test_a_forward_keeps_no_more_than_eight_tensors_as_large_as_the_tokens(
    backend: Backend, sparse: bool, alive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_MOST_SCORES", 2**14)  # these models are narrow, and scores do not grow with width
    spec = replace(T2V, num_attention_heads=4, sparse1d=sparse)
    shape = LatentShape(8, 32, 32)  # 2048 tokens
    model = backend.build(spec, some_weights(spec))
    with backend.inference():
        condition = model.condition(Given(text=TEXT[:1]), shape)
        latents = latents_for(spec, shape, 1)
        with alive(model) as memory:
            model(latents, TIMESTEPS[:1], condition)
    tokens = 2048 * spec.hidden_size * 4
    assert memory.peak < 8.5 * tokens


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_tables_of_positions_are_in_the_dtype_that_they_are_multiplied_in(backend: Backend, dtype: str) -> None:
    condition = backend.build(T2V, some_weights(T2V), dtype).condition(Given(text=TEXT), VIDEO)
    assert condition.cosines.dtype == condition.sines.dtype == TORCH_DTYPES[dtype]
