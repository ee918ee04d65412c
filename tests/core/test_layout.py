"""Layouts: equality with the published manifests, readable refusals, fresh weights."""

import dataclasses

import numpy as np
import pytest

from duosora.core.errors import CheckpointError, ConfigError, LayoutError
from duosora.core.layout import Constant, FreshWeights, GivenWeights, Layout
from duosora.core.loading import checked_weights
from duosora.core.models import mt5, opensora_t2v, wfvae

TINY = (wfvae.TINY, opensora_t2v.TINY, opensora_t2v.TINY_INPAINT, mt5.TINY)


def fresh(layout: Layout) -> GivenWeights:
    weights = FreshWeights(layout, 0)
    return GivenWeights({name: weights[name] for name in weights}, "weights.safetensors")


@pytest.mark.parametrize(
    ("spec", "parameters"),
    [(opensora_t2v.T2V_2B, 2_771_981_600), (opensora_t2v.INPAINT_2B, 2_782_713_632), (mt5.XXL, 5_655_173_120)],
)
def test_published_models_have_the_published_number_of_parameters(spec: mt5.MT5Spec, parameters: int) -> None:
    assert spec.layout().num_parameters == parameters


@pytest.mark.parametrize("spec", [*TINY, wfvae.D32_8X8X8, wfvae.D16_4X8X8, opensora_t2v.T2V_2B])
def test_config_files_read_back_as_the_same_spec(spec: mt5.MT5Spec) -> None:
    assert type(spec).from_config(spec.to_config()) == spec


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
    with pytest.raises(LayoutError, match="holds other filter taps"):
        list(checked_weights(layout, weights))


def test_the_second_name_of_a_tied_embedding_and_the_decoder_are_accepted() -> None:
    layout = mt5.TINY.layout()
    weights = fresh(layout)
    weights["decoder.final_layer_norm.weight"] = np.ones(64, np.float32)
    weights["encoder.embed_tokens.weight"] = weights.pop("shared.weight")
    assert {name for name, _ in checked_weights(layout, weights)} == set(layout)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_tensor_that_is_not_finite_is_named(bad: float) -> None:
    layout = mt5.TINY.layout()
    weights = fresh(layout)
    weights["encoder.final_layer_norm.weight"][7] = bad
    with pytest.raises(CheckpointError, match="encoder.final_layer_norm.weight holds NaN or infinity"):
        list(checked_weights(layout, weights))


def test_an_embedding_of_zeros_is_refused() -> None:
    layout = mt5.TINY.layout()
    weights = fresh(layout)
    weights["shared.weight"] *= 0
    with pytest.raises(CheckpointError, match="shared.weight is all zeros"):
        list(checked_weights(layout, weights))
