"""DiT and Latte of videos: what they read, where Latte is told of frames, and which files they know."""

from dataclasses import replace

import numpy as np
import pytest
from family_cases import awake

from duosora.convert.matching import apply
from duosora.convert.names import NAMES as FAMILY_NAMES
from duosora.core.errors import ConfigError, ShapeError
from duosora.core.models.dit import PRESETS, TINY, DiTSpec
from duosora.core.random import normal
from duosora.core.seam.backend import NAMES, Backend, get
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape

LABELS = replace(PRESETS["latte_tiny"], depth=2)
TEXTS = replace(TINY, depth=2)
SIZE = LatentShape(3, 4, 6)


@pytest.fixture(scope="module", params=NAMES)
def backend(request: pytest.FixtureRequest) -> Backend:
    return get(request.param, "cpu")


def predicted(backend: Backend, spec: DiTSpec, given: Given, latents: np.ndarray | None = None) -> np.ndarray:
    latents = normal((2, 4, *SIZE), 1, "latents") if latents is None else latents
    model = backend.build(spec, awake(spec))
    with backend.inference():
        condition = model.condition(given, LatentShape(*latents.shape[2:]))
        times = backend.asarray(np.array([700.0, 3.0], np.float32))
        return backend.to_numpy(model(backend.asarray(latents), times, condition))


def test_the_null_class_has_the_number_behind_the_last(backend: Backend) -> None:
    by_flag = predicted(backend, LABELS, Given(label=np.array([3, 4]), is_null=np.array([False, True])))
    np.testing.assert_array_equal(predicted(backend, LABELS, Given(label=np.array([3, 10]))), by_flag)
    assert np.abs(predicted(backend, LABELS, Given(label=np.array([3, 4]))) - by_flag)[1].max() > 1e-3


def test_the_null_caption_stands_in_for_a_vector(backend: Backend) -> None:
    pooled = normal((2, 64), 2, "pooled")
    by_flag = predicted(backend, TEXTS, Given(pooled=pooled, is_null=np.array([True, False])))
    replaced = np.concatenate([awake(TEXTS)["y_embedder.y_embedding"], pooled[1:]])
    np.testing.assert_allclose(predicted(backend, TEXTS, Given(pooled=replaced)), by_flag, rtol=0, atol=1e-5)


def test_a_latte_of_one_block_looks_at_each_frame_alone(backend: Backend) -> None:
    latents = normal((2, 4, *SIZE), 1, "latents")
    changed = latents.copy()
    changed[:, :, 0] += 1
    for depth, is_alone in ((1, True), (2, False)):
        spec = replace(LABELS, depth=depth)
        given = Given(label=np.array([1, 2]))
        moved = np.abs(predicted(backend, spec, given, changed) - predicted(backend, spec, given, latents))
        assert (moved[:, :, 1:].max() < 1e-6) == is_alone
        assert moved[:, :, 0].max() > 1e-3


@pytest.mark.parametrize(
    ("spec", "given", "said"),
    [
        (LABELS, Given(), "label: needs a whole number for each clip, got nothing"),
        (LABELS, Given(label=np.array([1.0])), "got float64 of 1"),
        (LABELS, Given(label=np.array([11])), "label 11: there are classes 0 to 9, and 10 for none"),
        (LABELS, Given(label=np.array([1, 2]), is_null=np.array([True] * 3)), "is_null: got 3 for a batch of 2"),
        (
            replace(LABELS, class_dropout_prob=0.0),
            Given(label=np.array([1]), is_null=np.array([True])),
            "trained without a null class",
        ),
        (TEXTS, Given(label=np.array([1])), "pooled: needs vectors of batch x 64, got nothing"),
        (TEXTS, Given(pooled=np.zeros((2, 3))), "got 2 x 3"),
    ],
)
def test_what_does_not_fit_is_refused(spec: DiTSpec, given: Given, said: str) -> None:
    model = get("torch", "cpu").build(spec, awake(spec))
    with pytest.raises(ShapeError, match=said):
        model.condition(given, SIZE)


@pytest.mark.parametrize("condition", ["label", "label_", "label_0", "label_-3", "label_9999999", "class_3", "label_²"])
def test_conditions_that_are_none_are_refused(condition: str) -> None:
    with pytest.raises(ConfigError, match=r"here: condition"):
        DiTSpec.from_config({"condition": condition}, "here")


def test_without_a_null_class_the_table_has_a_row_less() -> None:
    spec = DiTSpec.from_config({"condition": "label_7", "class_dropout_prob": 0, "model_max_length": 77})
    assert spec.given == {"label"}
    assert spec.layout()["y_embedder.embedding_table.weight"].shape == (7, 1152)


def test_a_latte_is_told_of_frames_whatever_its_config_says() -> None:
    spec = DiTSpec.from_config({"architectures": ["Latte"], "no_temporal_pos_emb": True})
    assert spec.alternates
    assert not spec.no_temporal_pos_emb


def test_the_positions_of_pictures_and_of_lattes_own_files_are_left_out() -> None:
    names = [name for name in LABELS.layout() if not name.startswith("pos_embed_")]
    found, unknown = apply(
        FAMILY_NAMES["dit"].rules, [*names, "pos_embed", "temp_embed"], FAMILY_NAMES["dit"].patterns()
    )
    assert not unknown
    assert set(found.origins) == set(names)
