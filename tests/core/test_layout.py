"""Layouts: equality with the published manifests, readable refusals, fresh weights."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest

from duosora.core.errors import CheckpointError, ConfigError, LayoutError
from duosora.core.layout import Constant, FreshWeights, GivenWeights, Layout
from duosora.core.loading import checked_weights
from duosora.core.models import opensora_t2v, t5, wfvae
from duosora.core.models.patch_discriminator import PatchDiscriminatorSpec

TINY = (wfvae.TINY, opensora_t2v.TINY, opensora_t2v.TINY_INPAINT, t5.TINY)


def fresh(layout: Layout) -> GivenWeights:
    weights = FreshWeights(layout, 0)
    return GivenWeights({name: weights[name] for name in weights}, "weights.safetensors")


@pytest.mark.parametrize(
    ("spec", "parameters"),
    [(opensora_t2v.T2V_2B, 2_771_981_600), (opensora_t2v.INPAINT_2B, 2_782_713_632), (t5.XXL, 5_655_173_120)],
)
def test_published_models_have_the_published_number_of_parameters(spec: t5.T5Spec, parameters: int) -> None:
    assert spec.layout().num_parameters == parameters


def test_unknown_and_unimplemented_config_keys_are_refused() -> None:
    config = opensora_t2v.TINY.to_config()
    with pytest.raises(ConfigError, match="config.json: sparse_m: unknown key"):
        opensora_t2v.OpenSoraT2VSpec.from_config(config | {"sparse_m": 4})
    with pytest.raises(ConfigError, match="upcast_attention = True: duosora implements False"):
        opensora_t2v.OpenSoraT2VSpec.from_config(config | {"upcast_attention": True})
    with pytest.raises(ConfigError, match="num_layers is missing"):
        opensora_t2v.OpenSoraT2VSpec.from_config({key: config[key] for key in config if key != "num_layers"})
    with pytest.raises(ConfigError, match="attention_type = 'AttnBlock3D'"):
        wfvae.WFVAESpec.from_config({"attention_type": "AttnBlock3D"})
    with pytest.raises(ConfigError, match="mix spatial and spatio-temporal"):
        wfvae.WFVAESpec.from_config({"l1_upsample_block": "Spatial2xTime2x3DUpsample"})


def test_fresh_weights_depend_on_seed_and_name_only() -> None:
    layout = opensora_t2v.TINY.layout()
    name = "transformer_blocks.3.attn1.to_q.weight"
    other = dataclasses.replace(opensora_t2v.TINY, num_layers=4).layout()
    np.testing.assert_array_equal(layout.fresh_weight(name, 1), other.fresh_weight(name, 1))
    assert not np.array_equal(layout.fresh_weight(name, 1), layout.fresh_weight(name, 2))


def test_a_file_that_does_not_fit_is_described() -> None:
    layout = wfvae.TINY.layout()
    weights = fresh(layout)
    weights["encoder.conv_out.weight"] = weights.pop("encoder.conv_out.conv.weight")
    weights["decoder.conv_in.conv.bias"] = np.zeros(3, np.float32)
    with pytest.raises(LayoutError) as error:
        list(checked_weights(layout, weights))
    assert str(error.value) == (
        "weights.safetensors does not fit WFVAE(base_channels=8, latent_dim=8): "
        "1 missing (encoder.conv_out.conv.weight), "
        "1 unexpected (encoder.conv_out.weight), 1 mis-shaped (decoder.conv_in.conv.bias is 3 instead of 32)"
    )


def test_constants_may_be_left_out_but_not_differ() -> None:
    layout = wfvae.TINY.layout()
    weights = fresh(layout)
    trainable = [name for name, weight in layout.items() if not isinstance(weight.init, Constant)]
    taps = [name for name in layout if name not in trainable]
    for name in taps[1:]:
        del weights[name]
    assert [name for name, _ in checked_weights(layout, weights)] == trainable
    weights[taps[0]] = weights[taps[0]] * np.float32(1.1)
    with pytest.raises(LayoutError, match="holds other constants"):
        list(checked_weights(layout, weights))


def test_the_second_name_of_a_tied_embedding_and_the_decoder_are_accepted() -> None:
    layout = t5.TINY.layout()
    weights = fresh(layout)
    weights["decoder.final_layer_norm.weight"] = np.ones(64, np.float32)
    weights["encoder.embed_tokens.weight"] = weights.pop("shared.weight")
    assert {name for name, _ in checked_weights(layout, weights)} == set(layout)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_tensor_that_is_not_finite_is_named(bad: float) -> None:
    layout = t5.TINY.layout()
    weights = fresh(layout)
    weights["encoder.final_layer_norm.weight"][7] = bad
    with pytest.raises(CheckpointError, match="encoder.final_layer_norm.weight holds NaN or infinity"):
        list(checked_weights(layout, weights))


def test_matrices_of_zeros_are_counted_and_named() -> None:
    layout = t5.TINY.layout()
    weights = fresh(layout)
    for name in ("shared.weight", "encoder.block.1.layer.0.SelfAttention.k.weight", "encoder.final_layer_norm.weight"):
        weights[name] *= 0
    with pytest.raises(CheckpointError) as error:
        list(checked_weights(layout, weights))
    assert str(error.value) == (
        "weights.safetensors: 2 of 16 matrices are all zeros (shared.weight, encoder.block.1.layer.0.SelfAttention.k."
        "weight); the file was not downloaded whole, or was written without them; download it again"
    )


def test_what_starts_as_zeros_may_be_zeros() -> None:
    layout = opensora_t2v.TINY_INPAINT.layout()
    weights = fresh(layout)
    zeros = [name for name in weights if weights[name].ndim > 1 and not weights[name].any()]
    assert zeros == ["pos_embed_masked_hidden_states.1.weight", "pos_embed_mask.1.weight"]
    assert {name for name, _ in checked_weights(layout, weights)} == set(layout)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.bool_, np.complex64])
def test_integers_are_no_weights(dtype: type) -> None:
    layout = t5.TINY.layout()
    weights = fresh(layout)
    weights["encoder.block.0.layer.0.SelfAttention.q.weight"] = np.ones((64, 64), dtype)
    with pytest.raises(LayoutError) as error:
        list(checked_weights(layout, weights))
    assert str(error.value) == (
        "weights.safetensors: 1 of 21 weights hold no floating-point numbers (encoder.block.0.layer.0.SelfAttention.q."
        f"weight is {np.dtype(dtype)}); quantised weights with scales are not read, use the file in bf16, fp16 or fp32"
    )


def test_integers_that_the_layout_ignores_are_left_alone() -> None:
    layout = PatchDiscriminatorSpec(base_channels=4).layout()
    weights = fresh(layout)
    weights["main.3.num_batches_tracked"] = np.array(7)
    assert {name for name, _ in checked_weights(layout, weights)} == set(layout)


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
def test_numbers_of_8_bits_come_as_float32(dtype: type) -> None:
    layout = t5.TINY.layout()
    given = fresh(layout)
    weights = GivenWeights({name: array.astype(dtype) for name, array in given.items()}, "weights.safetensors")
    for name, array in checked_weights(layout, weights):
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, weights[name].astype(np.float32))


@pytest.mark.parametrize("scale", ["scale_weight", "weight_scale", "weight_scale_inv", "weight.absmax", "SCB"])
def test_scales_beside_weights_are_called_so(scale: str) -> None:
    layout = t5.TINY.layout()
    weights = fresh(layout)
    weights[f"encoder.block.0.layer.0.SelfAttention.q.{scale}"] = np.ones((), np.float32)
    with pytest.raises(LayoutError, match=r"1 unexpected .*; quantised weights with scales are not read, use the file"):
        list(checked_weights(layout, weights))


def test_long_names_are_shortened() -> None:
    weights = fresh(t5.TINY.layout())
    weights["x" * 5000] = np.ones(1, np.float32)
    with pytest.raises(LayoutError, match="1 unexpected") as error:
        list(checked_weights(t5.TINY.layout(), weights))
    assert len(str(error.value)) < 300
