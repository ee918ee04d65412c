"""DiT and SiT of class labels: what is their own."""

from dataclasses import replace
from math import prod

import numpy as np
import pytest

from duosora.core.errors import ConfigError, LayoutError, ShapeError
from duosora.core.layout import FreshWeights, GivenWeights
from duosora.core.loading import checked_weights
from duosora.core.models.by_shapes import seen_by_shapes
from duosora.core.models.dit_meta import PRESETS, TINY, DiTMetaSpec
from duosora.core.seam.backend import Backend
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape

SMALL = replace(TINY, hidden_size=24, depth=2, num_heads=2, num_classes=5)
SIZE = LatentShape(1, 8, 8)


def some_weights(spec: DiTMetaSpec) -> GivenWeights:
    """Weights that are nowhere zero."""
    draw = np.random.default_rng(0)
    arrays = {
        name: draw.normal(0, 1 / np.sqrt(prod(weight.shape[1:]) or 1), weight.shape).astype(np.float32)
        for name, weight in spec.layout().items()
        if name != "pos_embed"
    }
    return GivenWeights(arrays, "test weights")


def predicted(backend: Backend, given: Given, spec: DiTMetaSpec = SMALL) -> np.ndarray:
    latents = np.random.default_rng(1).standard_normal((3, 4, *SIZE), np.float32)
    with backend.inference():
        model = backend.build(spec, some_weights(spec))
        condition = model.condition(given, SIZE)
        return backend.to_numpy(
            model(backend.asarray(latents), backend.asarray(np.array([0.5, 20, 999], np.float32)), condition)
        )


def reference(spec: DiTMetaSpec, weights: GivenWeights, x: np.ndarray, t: float, row: int) -> np.ndarray:
    """One picture (C, S, S), written down anew in float64: (Cout, S, S)."""
    held = {name: np.asarray(weights[name], np.float64) for name in weights}

    def linear(name: str, given: np.ndarray) -> np.ndarray:
        return given @ held[f"{name}.weight"].T + held[f"{name}.bias"]

    def silu(given: np.ndarray) -> np.ndarray:
        return given / (1 + np.exp(-given))

    def norm(given: np.ndarray, shift: np.ndarray, scale: np.ndarray) -> np.ndarray:
        centred = given - given.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * (1 + scale) + shift

    def gelu(given: np.ndarray) -> np.ndarray:
        return given / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (given + 0.044715 * given**3)))

    patch, width = spec.patch_size, spec.hidden_size
    side, quarter = spec.input_size // patch, width // 4
    waves = np.arange(side)[:, None] * 10000.0 ** (-np.arange(quarter) / quarter)
    place = np.concatenate([np.sin(waves), np.cos(waves)], 1)
    tokens = []
    for r in range(side):
        for c in range(side):
            seen = x[:, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch]
            token = np.tensordot(held["x_embedder.proj.weight"], seen, 3) + held["x_embedder.proj.bias"]
            tokens.append(token + np.concatenate([place[c], place[r]]))
    angles = t * np.exp(-np.log(10000) * np.arange(128) / 128)
    time = linear("t_embedder.mlp.0", np.concatenate([np.cos(angles), np.sin(angles)]))
    bent = silu(linear("t_embedder.mlp.2", silu(time)) + held["y_embedder.embedding_table.weight"][row])
    h = np.array(tokens)
    for name in spec.blocks():
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = np.split(linear(f"{name}.adaLN_modulation.1", bent), 6)
        q, k, v = np.split(linear(f"{name}.attn.qkv", norm(h, shift_a, scale_a)), 3, -1)
        heads = []
        for part in np.split(np.arange(width), spec.num_heads):
            scores = np.exp(q[:, part] @ k[:, part].T / np.sqrt(spec.head_dim))
            heads.append(scores / scores.sum(-1, keepdims=True) @ v[:, part])
        h = h + gate_a * linear(f"{name}.attn.proj", np.concatenate(heads, -1))
        h = h + gate_m * linear(f"{name}.mlp.fc2", gelu(linear(f"{name}.mlp.fc1", norm(h, shift_m, scale_m))))
    out = linear("final_layer.linear", norm(h, *np.split(linear("final_layer.adaLN_modulation.1", bent), 2)))
    return out.reshape(side, side, patch, patch, -1).transpose(4, 0, 2, 1, 3).reshape(-1, *x.shape[1:])


@pytest.mark.parametrize("spec", [SMALL, replace(SMALL, patch_size=4, learn_sigma=False, mlp_ratio=1.5, num_heads=3)])
def test_a_batch_is_its_pictures_one_by_one(backend: Backend, spec: DiTMetaSpec) -> None:
    latents = np.random.default_rng(1).standard_normal((3, 4, *SIZE), np.float32)
    got = predicted(backend, Given(label=np.array([1, 4, 3]), is_null=np.array([False, False, True])), spec)
    for i, (time, row) in enumerate(((0.5, 1), (20, 4), (999, 5))):
        expected = reference(spec, some_weights(spec), latents[i, :, 0].astype(np.float64), time, row)
        np.testing.assert_allclose(got[i, :, 0], expected, rtol=0, atol=5e-5 * np.abs(expected).max())


def test_the_null_class_is_the_row_behind_the_last(backend: Backend) -> None:
    flagged = predicted(backend, Given(label=np.array([1, 2, 3]), is_null=np.array([False, True, False])))
    numbered = predicted(backend, Given(label=np.array([1, 5, 3])))
    np.testing.assert_array_equal(flagged, numbered)
    assert np.abs(flagged - predicted(backend, Given(label=np.array([1, 2, 3]))))[1].max() > 1e-3


def test_outputs_behind_the_prediction(backend: Backend) -> None:
    given = Given(label=np.array([1, 2, 3]))
    assert predicted(backend, given).shape == (3, 8, *SIZE)
    assert predicted(backend, given, replace(SMALL, learn_sigma=False)).shape == (3, 4, *SIZE)
    outputs = [replace(SMALL, trained_as=name).output for name in ("diffusion", "interpolant")]
    assert outputs == ["mean_and_range", "mean_and_spare"]
    assert replace(SMALL, learn_sigma=False).output == "mean"


@pytest.mark.parametrize(
    ("label", "is_null", "said"),
    [
        (None, None, "DiT: label: needs a whole number for each picture, got nothing"),
        (np.array([1.0]), None, "DiT: label: needs a whole number for each picture, got float64 of 1"),
        (np.array([0, 6]), None, "DiT: label 6: there are classes 0 to 4, and 5 for none"),
        (np.array([-1]), None, "DiT: label -1: there are classes 0 to 4, and 5 for none"),
        (np.array([1, 2]), np.array([True]), "DiT: is_null: got 1 for 2 labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(label: np.ndarray, is_null: np.ndarray, said: str) -> None:
    with pytest.raises(ShapeError) as error:
        SMALL.rows(Given(label=label, is_null=is_null))
    assert str(error.value) == said


def test_a_model_without_a_null_class() -> None:
    spec = replace(SMALL, class_dropout_prob=0.0)
    assert (spec.given, spec.table_size) == ({"label"}, 5)
    with pytest.raises(ShapeError, match="classes 0 to 4$"):
        spec.rows(Given(label=np.array([5])))
    with pytest.raises(ShapeError, match="trained without a null class"):
        spec.rows(Given(label=np.array([1]), is_null=np.array([True])))


@pytest.mark.parametrize("size", [LatentShape(2, 8, 8), LatentShape(1, 8, 4), LatentShape(1, 16, 16)])
def test_latents_of_another_size_are_refused(size: LatentShape) -> None:
    with pytest.raises(ShapeError, match="this model makes pictures of 8 x 8 latents, one frame"):
        SMALL.grid(size)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patch_size": 3}, "DiT: input_size = 8: patches of 3 do not tile it"),
        ({"num_heads": 5}, "DiT: hidden_size = 24 makes no 5 heads of one width"),
        ({"hidden_size": 30}, "DiT: hidden_size = 30: needs a multiple of 4 for the positions"),
        ({"trained_as": "gan"}, "trained_as = 'gan': duosora implements diffusion or interpolant"),
        ({"num_clases": 3}, "num_clases: unknown key, did you mean 'num_classes'?"),
    ],
)
def test_impossible_configs_are_refused_in_one_line(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        DiTMetaSpec.from_config(SMALL.to_config() | changes)
    assert str(error.value) == f"config.json: {said}"


@pytest.mark.parametrize("other", ["dit", "sit"])
def test_published_models_have_the_published_number_of_parameters(other: str) -> None:
    sizes = {"xl_2": 675_129_632, "l_4": 458_053_760, "b_2": 130_512_416, "s_8": 33_148_160}
    assert {name: PRESETS[f"{other}_{name}"].layout().num_parameters for name in sizes} == sizes


@pytest.mark.parametrize("size", ["b_4", "xl_2_512px", "s_8", "tiny"])
def test_a_file_without_a_config_is_taken_for_a_dit(size: str) -> None:
    seen = seen_by_shapes({name: weight.shape for name, weight in PRESETS[f"sit_{size}"].layout().items()}, "file")
    assert seen is not None
    assert seen.spec == PRESETS[f"dit_{size}"]


def test_the_number_of_heads_is_not_guessed() -> None:
    assert DiTMetaSpec.from_shapes({name: weight.shape for name, weight in SMALL.layout().items()}, "file") is None


def test_other_positions_are_refused() -> None:
    weights = dict(FreshWeights(TINY.layout(), 0))
    np.testing.assert_array_equal(weights["pos_embed"][0], TINY.positions())
    with pytest.raises(LayoutError, match="pos_embed holds other constants"):
        list(checked_weights(TINY.layout(), GivenWeights(weights | {"pos_embed": -weights["pos_embed"]}, "file")))


def test_a_fresh_model_predicts_zeros() -> None:
    layout = TINY.layout()
    zeros = {name for name in layout if len(layout[name].shape) > 1 and layout[name].starts_as_zeros}
    modulations = {f"{name}.adaLN_modulation.1.weight" for name in (*TINY.blocks(), "final_layer")}
    assert zeros == modulations | {"final_layer.linear.weight"}
