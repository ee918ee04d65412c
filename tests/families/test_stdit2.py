"""STDiT2: its config and layout, and both backends against the same maths written once more a clip at a time."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from family_cases import awake
from stdit_reference import STDiT2Reference

from duosora.convert.matching import apply
from duosora.convert.names import NAMES
from duosora.core.errors import ConfigError, LayoutError, ShapeError
from duosora.core.layout import GivenWeights
from duosora.core.loading import checked_weights
from duosora.core.models.stdit2 import PRESETS, TINY, XL_2, STDiT2Spec
from duosora.core.random import normal
from duosora.core.seam.backend import Backend, get
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape, TokenGrid

SMALL = STDiT2Spec(hidden_size=24, depth=2, num_heads=2, caption_channels=20, model_max_length=9)
CLIP = LatentShape(3, 5, 6)


@pytest.fixture(scope="module", params=["torch", "mindspore"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    backend = get(request.param, "cpu")
    with backend.inference():
        yield backend


def given(**changes: Any) -> Given:
    mask = np.ones((2, 9), np.int64)
    mask[1, [0, 5, 6]] = 0
    numbers = {"fps": 24.0, "height": 240.0, "width": 426.0, "num_frames": 16.0, "ratio": 240 / 426}
    told = {name: np.full(2, value) for name, value in numbers.items()}
    return replace(Given(text=normal((2, 9, 20), 1, "text"), text_mask=mask, **told), **changes)


def predicted(backend: Backend, what: Given, spec: STDiT2Spec = SMALL) -> np.ndarray:
    model = backend.build(spec, awake(spec))
    latents, times = normal((2, 4, *CLIP), 1, "latents"), np.array([700.0, 33.0], np.float32)
    condition = model.condition(what, CLIP)
    return backend.to_numpy(model(backend.asarray(latents), backend.asarray(times), condition))


def assert_near(got: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "changes",
    [{}, {"qk_norm_legacy": False}, {"qk_norm": False, "pred_sigma": False}, {"patch_size": (2, 1, 3), "num_heads": 3}],
    ids=["as it is", "norm first", "no norm", "other patches"],
)
@pytest.mark.parametrize("masked", [False, True])
def test_a_batch_is_its_clips_one_by_one(backend: Backend, changes: dict[str, Any], masked: bool) -> None:
    spec, facts = replace(SMALL, **changes), ("fps", "height", "width", "num_frames", "ratio")
    moves = np.array([[False, True, True], [True, False, False]]) if masked else None
    what = given(frame_mask=moves, fps=np.array([8.0, 24.0]), height=np.array([240.0, 144.0]))
    reference = STDiT2Reference(spec, awake(spec))
    latents, (texts, mask) = normal((2, 4, *CLIP), 1, "latents"), (what.text, what.text_mask)
    assert texts is not None
    assert mask is not None
    expected = [
        reference.clip(
            latents[i],
            time,
            texts[i][mask[i] > 0],
            {fact: getattr(what, fact)[i] for fact in facts},
            240.0 * 426.0,
            None if moves is None else moves[i],
        )
        for i, time in enumerate((700.0, 33.0))
    ]
    assert_near(predicted(backend, what, spec), np.stack(expected))


@pytest.mark.parametrize("fact", ["fps", "height", "width", "num_frames", "ratio"])
def test_each_clip_is_told_its_own_facts(backend: Backend, fact: str) -> None:
    """Those of the second clip are of no matter to the first."""
    before = getattr(given(), fact)
    got, without = predicted(backend, given(**{fact: before * [1, 3]})), predicted(backend, given())
    assert_near(got[0], without[0])
    assert np.abs(got[1] - without[1]).max() > 1e-3


def test_the_order_of_norm_and_turn_matters(backend: Backend) -> None:
    later = predicted(backend, given(), replace(SMALL, qk_norm_legacy=False))
    assert np.abs(later - predicted(backend, given())).max() > 1e-4
    plain = [predicted(backend, given(), replace(SMALL, qk_norm=False, qk_norm_legacy=each)) for each in (True, False)]
    np.testing.assert_array_equal(*plain)


def test_a_mask_of_moving_frames_only_changes_nothing(backend: Backend) -> None:
    got = predicted(backend, given(frame_mask=np.ones((2, 3), bool)))
    np.testing.assert_array_equal(got, predicted(backend, given()))


def test_clean_frames_are_modulated_otherwise(backend: Backend) -> None:
    moves = np.array([[False, True, True], [True, True, True]])
    got, without = predicted(backend, given(frame_mask=moves)), predicted(backend, given())
    assert np.abs(got[0] - without[0]).max() > 1e-3
    assert_near(got[1], without[1])


def test_the_null_caption_stands_in_under_the_texts_mask(backend: Backend) -> None:
    got = predicted(backend, given(is_null=np.array([False, True])))
    text = given().text
    assert text is not None
    text[1] = awake(SMALL)["y_embedder.y_embedding"]
    assert_near(got, predicted(backend, given(text=text)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_frames": None}, "num_frames is missing: it reads text, fps, height, width, num_frames and ratio"),
        ({"ratio": np.ones(3)}, "ratio: got 3 for 2 texts, needs 2"),
        ({"text": None}, "text: needs states of batch x tokens x 20, got nothing"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ShapeError) as refused:
        SMALL.settled(given(**changes), CLIP)
    assert str(refused.value) == f"STDiT2: {said}"


def test_any_size_is_taken() -> None:
    assert SMALL.grid(CLIP) == TokenGrid(3, 3, 3)


def test_a_published_config_is_read_in_the_order_of_its_training() -> None:
    """Those of version 1.1 say nothing of the order, which was the other one later."""
    published = {
        "architectures": ["STDiT2"],
        "auto_map": {"AutoModel": "modeling.STDiT2"},
        "enable_flash_attn": True,
        "enable_layernorm_kernel": True,
        "freeze": None,
        "input_size": [None, None, None],
        "model_max_length": 200,
        "model_type": "STDiT2",
        "no_temporal_pos_emb": False,
        "qk_norm": True,
        "torch_dtype": "float32",
        "transformers_version": "4.38.2",
    }
    assert STDiT2Spec.from_config(published) == XL_2
    assert XL_2.qk_norm_legacy
    assert XL_2.layout().num_parameters == 767_452_100


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 32}, "STDiT2: hidden_size = 32: needs a multiple of 3 for height, width and their ratio"),
        ({"num_heads": 8}, "STDiT2: hidden_size = 24 does not make 8 heads of an even width, as rotary positions need"),
        ({"freeze": "all"}, "freeze = 'all': duosora implements None or not_temporal or text"),
        ({"qk_norm": 1}, "qk_norm = 1: needs true or false"),
        ({"model_type": "STDiT3"}, "model_type = 'STDiT3': duosora implements STDiT2"),
    ],
)
def test_impossible_configs_are_refused_in_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        STDiT2Spec.from_config(SMALL.to_config() | changes)
    assert str(refused.value) == f"config.json: {said}"


@pytest.mark.parametrize("spec", [SMALL, replace(SMALL, qk_norm=False, pred_sigma=False), *PRESETS.values()])
def test_shapes_tell_what_it_is(spec: STDiT2Spec) -> None:
    shapes = {name: weight.shape for name, weight in spec.layout().items()}
    assert STDiT2Spec.from_shapes(shapes, "x") == replace(spec, input_sq_size=512)


def test_a_fresh_model_sees_neither_time_nor_text_yet() -> None:
    layout = TINY.layout()
    zeros = {name for name in layout if len(layout[name].shape) > 1 and not layout.fresh_weight(name, 0).any()}
    of_blocks = {f"blocks.{i}.{part}.proj.weight" for i in range(3) for part in ("attn_temp", "cross_attn")}
    assert zeros == of_blocks | {"final_layer.linear.weight"}


def test_other_rotary_frequencies_are_refused() -> None:
    weights = dict(awake(SMALL)) | {"rope.freqs": np.full(6, 0.5, np.float32)}
    with pytest.raises(LayoutError, match="rope.freqs holds other constants"):
        list(checked_weights(SMALL.layout(), GivenWeights(weights, "x")))


def test_what_the_config_freezes() -> None:
    assert SMALL.layout().frozen == ()
    layout = replace(SMALL, freeze="not_temporal").layout()
    assert {name.split(".")[2] for name in layout if not name.startswith(layout.frozen)} == {"attn_temp"}


def test_pixart_begins_it() -> None:
    names = NAMES["stdit2"]
    held = ["blocks.1.attn.qkv.weight", "csize_embedder.mlp.0.weight", "pos_embed", "blocks.0.attn.sr.bias"]
    found, unknown = apply(names.rules, held, names.patterns())
    assert (set(found.origins), unknown) == (set(held[:2]), [])
    assert names.beginning is not None
    lacking = ("attn_temp", "_temporal", "t_block_temp", "fl_embedder", "fps_embedder", "ar_embedder", "_norm.", "rope")
    shapes = {
        name: weight.shape for name, weight in SMALL.layout().items() if not any(part in name for part in lacking)
    }
    assert names.beginning.is_of(shapes)
    names.beginning.check(SMALL.layout(), shapes, "x")
