"""STDiT: its config and layout, and both backends against the same maths written once more a clip at a time."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from family_cases import awake
from stdit_reference import STDiTReference

from duosora.convert.matching import apply
from duosora.convert.names import NAMES
from duosora.core.errors import ConfigError, LayoutError, ShapeError
from duosora.core.layout import GivenWeights
from duosora.core.loading import checked_weights
from duosora.core.models.stdit import PRESETS, TINY, STDiTSpec
from duosora.core.random import normal
from duosora.core.seam.backend import Backend, get
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape

SMALL = STDiTSpec(
    hidden_size=24, depth=2, num_heads=2, caption_channels=20, model_max_length=9, input_size=(3, 4, 6), space_scale=0.5
)
CLIP = LatentShape(3, 4, 6)


@pytest.fixture(scope="module", params=["torch", "mindspore"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    backend = get(request.param, "cpu")
    with backend.inference():
        yield backend


def given(**changes: Any) -> Given:
    mask = np.ones((2, 9), np.int64)
    mask[1, [0, 5, 6]] = 0
    return replace(Given(text=normal((2, 9, 20), 1, "text"), text_mask=mask), **changes)


def predicted(
    backend: Backend, what: Given, spec: STDiTSpec = SMALL, clip: LatentShape = CLIP, weights: Any = None
) -> np.ndarray:
    model = backend.build(spec, weights or awake(spec))
    latents, times = normal((2, 4, *clip), 1, "latents"), np.array([700.0, 33.0], np.float32)
    condition = model.condition(what, clip)
    return backend.to_numpy(model(backend.asarray(latents), backend.asarray(times), condition))


def assert_near(got: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("changes", "clip"),
    [
        ({}, CLIP),
        ({"time_scale": 2 / 3, "num_heads": 3, "mlp_ratio": 1.5}, LatentShape(1, 2, 8)),
        ({"patch_size": (2, 1, 3), "input_size": (2, 4, 3)}, LatentShape(4, 3, 6)),
        ({"pred_sigma": False, "in_channels": 4, "depth": 1}, LatentShape(2, 4, 4)),
    ],
    ids=["as it is", "other scales", "other patches", "other options"],
)
@pytest.mark.parametrize("masked", [False, True])
def test_a_batch_is_its_clips_one_by_one(
    backend: Backend, changes: dict[str, Any], clip: LatentShape, masked: bool
) -> None:
    spec, what = replace(SMALL, **changes), given()
    moves = np.arange(2 * clip.frames).reshape(2, -1) % 3 > 0 if masked else None
    reference = STDiTReference(spec, awake(spec))
    latents, (texts, mask) = normal((2, 4, *clip), 1, "latents"), (what.text, what.text_mask)
    assert texts is not None
    assert mask is not None
    expected = [
        reference.clip(latents[i], time, texts[i][mask[i] > 0], None if moves is None else moves[i])
        for i, time in enumerate((700.0, 33.0))
    ]
    assert_near(predicted(backend, given(frame_mask=moves), spec, clip), np.stack(expected))


def test_a_clip_is_denoised_by_itself(backend: Backend) -> None:
    """So nothing of one sample reaches another."""
    both, text = predicted(backend, given()), given().text
    assert text is not None
    other = given(text=np.stack([text[0], normal((9, 20), 2, "another")]))
    assert_near(predicted(backend, other)[0], both[0])
    assert np.abs(predicted(backend, other)[1] - both[1]).max() > 1e-3


def test_frames_know_their_place_in_time_by_the_first_block(backend: Backend) -> None:
    """Another scale of time changes what comes out, although all blocks are the same."""
    slower = replace(SMALL, time_scale=0.5)
    weights = awake(SMALL)
    own = {name: weights[name] for name in slower.layout() if name in weights}
    changed = predicted(backend, given(), slower, weights=GivenWeights(own, "x"))
    assert np.abs(changed - predicted(backend, given())).max() > 1e-3


def test_other_sizes_have_positions_of_their_own(backend: Backend) -> None:
    """A model of one size is one of another, whose files have other tables."""
    clip = LatentShape(5, 2, 8)
    grown = replace(SMALL, input_size=tuple(clip))
    expected = predicted(backend, given(), grown, clip, GivenWeights(dict(awake(SMALL)), "x"))
    np.testing.assert_array_equal(predicted(backend, given(), SMALL, clip), expected)


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


def test_what_has_fewer_rows_is_repeated(backend: Backend) -> None:
    mask = np.array([[1] * 4 + [0] * 5])
    expected = predicted(backend, given(text_mask=np.tile(mask, (2, 1))))
    np.testing.assert_array_equal(predicted(backend, given(text_mask=mask)), expected)


@pytest.mark.parametrize(
    ("clip", "said"),
    [
        (LatentShape(3, 5, 6), "latents of 3 x 5 x 6: needs multiples of the patch, 1 x 2 x 2"),
        (LatentShape(3, 4, 7), "latents of 3 x 4 x 7: needs multiples of the patch, 1 x 2 x 2"),
    ],
)
def test_sizes_that_patches_do_not_divide_are_refused(clip: LatentShape, said: str) -> None:
    with pytest.raises(ShapeError) as refused:
        SMALL.grid(clip)
    assert str(refused.value) == f"STDiT: {said}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input_size": [3, 4, 5]}, "STDiT: input_size: STDiT: latents of 3 x 4 x 5: needs multiples of the patch"),
        ({"input_size": [3, 4]}, "input_size: needs three whole numbers, along time, height and width"),
        ({"input_size": None}, "input_size = None: needs a list"),
        ({"freeze": "all"}, "freeze = 'all': duosora implements None or not_temporal or text"),
        ({"num_heads": 5}, "STDiT: hidden_size = 24 does not make 5 heads"),
        ({"space_scale": 0}, "space_scale = 0: needs a number from 0.001 to 1000"),
        ({"depht": 2}, "depht: unknown key, did you mean 'depth'?"),
        ({"model_type": "STDiT2"}, "model_type = 'STDiT2': duosora implements STDiT"),
    ],
)
def test_impossible_configs_are_refused_in_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        STDiTSpec.from_config(SMALL.to_config() | changes)
    assert str(refused.value).startswith(f"config.json: {said}")


def test_upstreams_switches_change_nothing() -> None:
    switches = {
        "enable_flashattn": True,
        "enable_layernorm_kernel": True,
        "no_temporal_pos_emb": False,
        "dtype": "fp16",
    }
    assert STDiTSpec.from_config(SMALL.to_config() | switches) == SMALL


def test_tables_of_another_size_or_scale_are_refused() -> None:
    tables = {name: SMALL.layout().fresh_weight(name, 0) for name in ("pos_embed", "pos_embed_temporal")}
    list(checked_weights(SMALL.layout(), GivenWeights(dict(awake(SMALL)) | tables, "x")))
    other = replace(SMALL, space_scale=1.0)
    with pytest.raises(LayoutError, match="pos_embed holds other constants"):
        list(checked_weights(other.layout(), GivenWeights(dict(awake(SMALL)) | tables, "x")))


def test_a_fresh_model_sees_neither_time_nor_text_yet() -> None:
    layout = TINY.layout()
    zeros = {name for name in layout if len(layout[name].shape) > 1 and not layout.fresh_weight(name, 0).any()}
    of_blocks = {f"blocks.{i}.{part}.proj.weight" for i in range(3) for part in ("attn_temp", "cross_attn")}
    assert zeros == of_blocks | {"final_layer.linear.weight"}


def test_what_the_config_freezes() -> None:
    assert SMALL.layout().frozen == ()
    layout = replace(SMALL, freeze="not_temporal").layout()
    assert {name.split(".")[2] for name in layout if not name.startswith(layout.frozen)} == {"attn_temp"}
    layout = replace(SMALL, freeze="text").layout()
    assert {name.split(".")[2] for name in layout if name.startswith(layout.frozen)} == {"cross_attn"}


def test_published_models() -> None:
    layouts = {name: spec.layout() for name, spec in PRESETS.items() if "xl" in name}
    assert {layout.num_parameters for layout in layouts.values()} == {759_620_768}
    assert layouts["stdit_xl_2_64x512"]["pos_embed_temporal"].shape == (1, 64, 1152)
    assert PRESETS["stdit_xl_2_16x256"].output == "mean_and_range"


def test_pixart_begins_it() -> None:
    names = NAMES["stdit"]
    held = ["blocks.1.attn.qkv.weight", "pos_embed", "csize_embedder.mlp.0.weight", "blocks.0.attn.sr.bias"]
    found, unknown = apply(names.rules, held, names.patterns())
    assert (set(found.origins), unknown) == (set(held[:2]), [])
    shapes = {name: weight.shape for name, weight in SMALL.layout().items() if ".attn_temp." not in name}
    shapes |= {"pos_embed": (1, 64, 24), "x_embedder.proj.weight": (24, 4, 2, 2)}
    assert names.beginning is not None
    assert names.beginning.is_of(shapes)
    names.beginning.check(SMALL.layout(), shapes, "x")
