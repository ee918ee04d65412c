"""STDiT3: its config and layout, and both backends against the same maths written once more a clip at a time."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from stdit3_reference import Reference

from duosora.convert.matching import apply
from duosora.convert.names import NAMES
from duosora.core.errors import ConfigError, LayoutError, ShapeError
from duosora.core.layout import Constant, GivenWeights
from duosora.core.loading import checked_weights
from duosora.core.models.stdit3 import LARGE_2, TINY, XL_2, STDiT3Spec
from duosora.core.seam.backend import Backend, get
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape, Patch, TokenGrid

SMALL = STDiT3Spec(hidden_size=24, depth=2, num_heads=2, caption_channels=20, model_max_length=9)
OUTPUTS = 2e-5
"""Of the largest one. Positions on a square whose side is rounded down instead give 1e-2 of it."""
CLIP = LatentShape(3, 5, 9)
"""Sides that patches do not divide."""


@pytest.fixture(scope="module", params=["torch", "mindspore"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    backend = get(request.param, "cpu")
    with backend.inference():
        yield backend


def some_weights(spec: STDiT3Spec, seed: int = 0) -> GivenWeights:
    """Weights that are nowhere zero, so that every part of the model shows in the output."""
    draw, arrays = np.random.default_rng(seed), {}
    for name, weight in spec.layout().items():
        spread = 1 / np.sqrt(np.prod(weight.shape[1:])) if len(weight.shape) > 1 else 0.5
        arrays[name] = draw.normal(name.endswith("_norm.weight"), spread, weight.shape).astype(np.float32)
        if isinstance(weight.init, Constant):
            arrays[name] = weight.init.make(weight.shape, draw)
    return GivenWeights(arrays, "test weights")


class Batch:
    """Clips with texts of unequal lengths and holes, each with its own time and frame rate."""

    def __init__(self, spec: STDiT3Spec, clip: LatentShape, size: int, seed: int = 1) -> None:
        draw = np.random.default_rng(seed)
        self.latents = draw.standard_normal((size, spec.in_channels, *clip), np.float32)
        self.times = draw.uniform(0, 1000, size).astype(np.float32)
        self.text = draw.standard_normal((size, 9, spec.text_channels), np.float32)
        self.text_mask = (draw.random((size, 9)) < 0.6).astype(np.int64)
        self.text_mask[:, 3] = 1
        self.fps = draw.choice([8.0, 24.0, 30.0, 120.0], size).astype(np.float32)
        self.height, self.width = np.full(size, 240.0), np.full(size, 426.0)

    @property
    def given(self) -> Given:
        return Given(text=self.text, text_mask=self.text_mask, fps=self.fps, height=self.height, width=self.width)

    def run(
        self,
        backend: Backend,
        spec: STDiT3Spec,
        moves: np.ndarray | None = None,
        attention: str = "auto",
        dtype: str = "fp32",
        compile: bool = False,
        **changes: Any,
    ) -> np.ndarray:
        model = backend.build(spec, some_weights(spec), dtype, attention, compile)
        given = replace(self.given, frame_mask=moves, **changes)
        condition = model.condition(given, LatentShape(*self.latents.shape[2:]))
        return backend.to_numpy(model(backend.asarray(self.latents), backend.asarray(self.times), condition))

    def expected(self, spec: STDiT3Spec, moves: np.ndarray | None = None, kept: np.ndarray | None = None) -> np.ndarray:
        reference = Reference(spec, some_weights(spec))
        return np.stack(
            [
                reference(
                    self.latents[i],
                    self.times[i],
                    self.text[i][self.text_mask[i] > 0],
                    self.fps[i],
                    self.height[0],
                    self.width[0],
                    None if moves is None else moves[i],
                    None if kept is None else kept[i],
                )
                for i in range(len(self.latents))
            ]
        )


def assert_near(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=OUTPUTS * np.abs(expected).max())


@pytest.mark.parametrize(
    ("spec", "clip"),
    [
        (SMALL, CLIP),
        (SMALL, LatentShape(1, 4, 6)),
        (replace(SMALL, patch_size=(2, 1, 3)), LatentShape(5, 3, 7)),
        (replace(SMALL, qk_norm=False, pred_sigma=False, mlp_ratio=1.5, in_channels=3), LatentShape(2, 9, 4)),
        (replace(SMALL, skip_y_embedder=True, input_sq_size=64, num_heads=3), LatentShape(4, 2, 2)),
    ],
    ids=["odd sizes", "picture", "other patches", "other options", "texts projected already"],
)
def test_a_batch_is_its_clips_one_by_one(backend: Backend, spec: STDiT3Spec, clip: LatentShape) -> None:
    batch = Batch(spec, clip, 3)
    assert_near(batch.run(backend, spec), batch.expected(spec))


@pytest.mark.parametrize("patch_time", [1, 2])
def test_clean_frames_are_modulated_as_at_timestep_0(backend: Backend, patch_time: int) -> None:
    spec = replace(SMALL, patch_size=(patch_time, 2, 2))
    batch = Batch(spec, LatentShape(4, 3, 4), 3)
    moves = np.array([[False, False, True, True], [True, True, True, True], [False, False, False, False]])
    assert_near(batch.run(backend, spec, moves), batch.expected(spec, moves))


def test_training_leaves_out_what_gates_let_through_but_not_the_text(backend: Backend) -> None:
    batch = Batch(SMALL, CLIP, 2)
    kept = np.random.default_rng(0).choice([0, 1.25], (2, 4, 2)).astype(np.float32)
    assert_near(batch.run(backend, SMALL, kept=kept), batch.expected(SMALL, kept=kept))
    assert replace(SMALL, depth=3, drop_path=0.2).drop_rates == pytest.approx((0, 0, 0.1, 0.1, 0.2, 0.2))


def test_a_mask_of_moving_frames_only_changes_nothing(backend: Backend) -> None:
    batch = Batch(SMALL, CLIP, 2)
    np.testing.assert_array_equal(batch.run(backend, SMALL, np.ones((2, 3), bool)), batch.run(backend, SMALL))


def test_what_has_fewer_rows_is_repeated_behind_itself(backend: Backend) -> None:
    batch = Batch(SMALL, CLIP, 4)
    batch.text_mask, batch.fps = np.tile(batch.text_mask[:2], (2, 1)), np.tile(batch.fps[:2], 2)
    halves = {"text_mask": batch.text_mask[:2], "fps": batch.fps[:2], "height": batch.height[:1]}
    np.testing.assert_array_equal(batch.run(backend, SMALL, **halves), batch.run(backend, SMALL))


def test_the_null_caption_stands_in_under_the_texts_mask(backend: Backend) -> None:
    batch = Batch(SMALL, CLIP, 3)
    got = batch.run(backend, SMALL, is_null=np.array([False, True, False]))
    batch.text[1] = some_weights(SMALL)["y_embedder.y_embedding"]
    assert_near(got, batch.expected(SMALL))


def test_texts_may_be_shorter_than_the_null_caption(backend: Backend) -> None:
    batch = Batch(SMALL, CLIP, 2)
    batch.text, batch.text_mask = batch.text[:, :5], batch.text_mask[:, :5]
    got = batch.run(backend, SMALL, is_null=np.array([True, False]))
    batch.text[0] = some_weights(SMALL)["y_embedder.y_embedding"][:5]
    assert_near(got, batch.expected(SMALL))


def test_the_kernel_makes_no_difference(backend: Backend) -> None:
    batch, moves = Batch(SMALL, CLIP, 2), np.array([[False, True, True]] * 2)
    for kernel in backend.attention_kernels():
        assert_near(batch.run(backend, SMALL, moves, attention=kernel), batch.expected(SMALL, moves))


def test_half_precision_stays_near(backend: Backend) -> None:
    batch, moves = Batch(SMALL, CLIP, 2), np.array([[False, True, True]] * 2)
    expected = batch.expected(SMALL, moves)
    got = batch.run(backend, SMALL, moves, dtype="fp16")
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-2 * np.abs(expected).max())


@pytest.mark.slow
def test_a_compiled_model_follows_the_mask(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """On torch its graphs are run as they are: code for them would take half a minute to make."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    batch = Batch(SMALL, LatentShape(2, 4, 4), 1)
    model = backend.build(SMALL, some_weights(SMALL), compile=True)
    condition = model.condition(batch.given, LatentShape(2, 4, 4))
    for moves in (np.array([[False, True]]), np.array([[True, False]]), None):
        frames = model.with_frames(condition, moves)
        got = model(backend.asarray(batch.latents), backend.asarray(batch.times), frames)
        assert_near(backend.to_numpy(got), batch.expected(SMALL, moves))


def test_norms_have_the_models_eps(backend: Backend) -> None:
    model = backend.build(SMALL, some_weights(SMALL))
    wide = np.random.default_rng(0).standard_normal((2, 5, 24)).astype(np.float32) * 1e-3  # a variance as large as eps
    centred = wide - wide.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    block = model.temporal_blocks[1]
    for layer in (block.norm1, block.norm2, model.final_layer.norm_final):
        np.testing.assert_allclose(backend.to_numpy(layer(backend.asarray(wide))), expected, atol=1e-5)
    heads = wide[..., :12]
    for layer in (block.attn.q_norm, block.attn.k_norm):
        expected = heads / np.sqrt((heads**2).mean(-1, keepdims=True) + 1e-6) * backend.to_numpy(layer.weight)
        np.testing.assert_allclose(backend.to_numpy(layer(backend.asarray(heads))), expected, atol=1e-5)


def test_latents_of_another_condition_are_refused(backend: Backend) -> None:
    model, batch = backend.build(SMALL, some_weights(SMALL)), Batch(SMALL, CLIP, 2)
    condition = model.condition(batch.given, LatentShape(3, 5, 8))
    with pytest.raises(ShapeError, match="latents of 2 x 4 x 3 x 5 x 9 came with a condition for 2 x 4 x 3 x 5 x 8"):
        model(backend.asarray(batch.latents), backend.asarray(batch.times), condition)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"text": None}, "text: needs states of batch x tokens x 20, got nothing"),
        ({"text": np.zeros((2, 9, 21), np.float32)}, "text: needs states of batch x tokens x 20, got 2 x 9 x 21"),
        ({"fps": None}, "fps is missing: it reads text, fps, height and width"),
        ({"width": np.ones(3)}, "width: got 3 for 2 texts, needs 2"),
        ({"text_mask": np.ones((2, 8))}, "text_mask: got 2 x 8 for 2 texts, needs 2 x 9"),
        ({"frame_mask": np.ones((2, 4), bool)}, "frame_mask: got 2 x 4 for 2 texts, needs 2 x 3"),
        ({"text_mask": np.zeros((2, 9))}, "text_mask: a text without any token cannot be attended to"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ShapeError) as error:
        SMALL.settled(replace(Batch(SMALL, CLIP, 2).given, **changes), CLIP)
    assert str(error.value) == f"STDiT3: {said}"


def test_a_text_longer_than_the_null_caption_keeps_its_own_words() -> None:
    spec, batch = replace(SMALL, model_max_length=8), Batch(SMALL, CLIP, 2)
    assert spec.settled(replace(batch.given, is_null=np.zeros(2, bool)), CLIP).is_null is None
    with pytest.raises(ShapeError, match="text: 9 tokens, but the null caption has 8"):
        spec.settled(replace(batch.given, is_null=np.array([False, True])), CLIP)


def test_a_published_config_is_read() -> None:
    published = {
        "_name_or_path": "hpcai-tech/OpenSora-STDiT-v3",
        "architectures": ["STDiT3"],
        "auto_map": {"AutoModel": "modeling.STDiT3"},
        "enable_flash_attn": True,
        "enable_layernorm_kernel": True,
        "enable_sequence_parallelism": False,
        "freeze_y_embedder": True,
        "input_size": [None, None, None],
        "model_type": "STDiT3",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.39.3",
    }
    assert STDiT3Spec.from_config(published) == replace(XL_2, freeze_y_embedder=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dept": 2}, "dept: unknown key, did you mean 'depth'?"),
        ({"depth": 0}, "depth = 0: needs a whole number from 1 to 320"),
        (
            {"hidden_size": 30, "num_heads": 3},
            "STDiT3: hidden_size = 30: needs a multiple of 4 for the positions within a frame",
        ),
        (
            {"num_heads": 8},
            "STDiT3: hidden_size = 24 does not make 8 heads of an even width, as rotary positions need",
        ),
        ({"mlp_ratio": 0.01}, "mlp_ratio = 0.01: needs a number from 0.1 to 64"),
        ({"patch_size": [1, 2]}, "patch_size: needs three whole numbers, along time, height and width"),
        ({"patch_size": 2}, "patch_size = 2: needs a list"),
        ({"model_type": "STDiT2"}, "model_type = 'STDiT2': duosora implements STDiT3"),
        ({"qk_norm": 1}, "qk_norm = 1: needs true or false"),
    ],
)
def test_impossible_configs_are_refused_in_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        STDiT3Spec.from_config(SMALL.to_config() | changes)
    assert str(error.value) == f"config.json: {said}"


def test_published_models_have_the_published_number_of_parameters() -> None:
    assert XL_2.layout().num_parameters == 1_207_643_972
    assert LARGE_2.layout().num_parameters == 3_182_211_572


def test_the_larger_model_has_the_same_weights_wider() -> None:
    """Those of XL/2 equal the published list of names and shapes (tests/parity/test_goldens.py)."""
    wider = {times * XL_2.hidden_size: times * LARGE_2.hidden_size for times in (1, 2, 3, 4, 6)}
    expected = {name: tuple(wider.get(n, n) for n in weight.shape) for name, weight in XL_2.layout().items()}
    assert {name: weight.shape for name, weight in LARGE_2.layout().items()} == expected


def test_fresh_blocks_through_time_change_nothing_yet() -> None:
    layout = TINY.layout()
    zeros = {name for name in layout if len(layout[name].shape) > 1 and not layout.fresh_weight(name, 0).any()}
    results = ("attn.proj", "cross_attn.proj", "mlp.fc2")
    of_blocks = {f"temporal_blocks.{i}.{part}.weight" for i in range(3) for part in results}
    assert zeros == of_blocks | {"fps_embedder.mlp.2.weight"}


def test_the_null_caption_is_no_weight_to_train() -> None:
    assert TINY.layout().untrained == ("y_embedder.y_embedding",)


def test_other_rotary_frequencies_are_refused() -> None:
    weights = some_weights(SMALL)
    weights["rope.freqs"] = weights["rope.freqs"] * 2
    with pytest.raises(LayoutError, match="rope.freqs holds other constants"):
        list(checked_weights(SMALL.layout(), weights))


def test_what_the_config_freezes() -> None:
    assert SMALL.layout().frozen == ()
    assert replace(SMALL, freeze_y_embedder=True).layout().frozen == ("y_embedder.",)
    frozen = replace(SMALL, only_train_temporal=True).layout().frozen
    assert {name.partition(".")[0] for name in SMALL.layout() if not name.startswith(frozen)} == {"temporal_blocks"}


def test_questions_of_a_denoiser() -> None:
    assert SMALL.grid(CLIP) == TokenGrid(3, 3, 5)
    assert SMALL.blocks()[:3] == ("spatial_blocks.0", "temporal_blocks.0", "spatial_blocks.1")
    assert set(SMALL.blocks()) == {".".join(name.split(".")[:2]) for name in SMALL.layout() if "_blocks." in name}
    assert SMALL.costs() == (4, 24, 2, 32)
    assert replace(SMALL, patch_size=(1, 2, 3)).patch == Patch(1, 6)
    assert (SMALL.output, replace(SMALL, pred_sigma=False).output) == ("mean_and_spare", "mean")


def test_blocks_of_pixart_become_the_spatial_ones() -> None:
    held = {
        "blocks.1.attn.qkv.weight": "spatial_blocks.1.attn.qkv.weight",
        "blocks.11.scale_shift_table": "spatial_blocks.11.scale_shift_table",
        "y_embedder.y_proj.fc1.bias": "y_embedder.y_proj.fc1.bias",
        "temporal_blocks.0.mlp.fc2.bias": "temporal_blocks.0.mlp.fc2.bias",
    }
    names = NAMES["stdit3"]
    found, unknown = apply(names.rules, [*held, "pos_embed", "csize_embedder.mlp.0.weight"], names.patterns())
    assert {origin.names[0]: new for new, origin in found.origins.items()} == held
    assert (set(found.dropped), unknown) == ({"pos_embed", "csize_embedder.mlp.0.weight"}, [])
