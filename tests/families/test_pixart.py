"""PixArt: its config and shapes, compressed keys, and what it reads."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_cases import BATCH, Case, DenoiserCase, awake, gradients, outputs
from thread_tensors import on_ranks

from duosora.convert.commands import convert
from duosora.core.converting import Conversion
from duosora.core.errors import ConfigError, ShapeError
from duosora.core.io.weights import open_weights, save_weights
from duosora.core.layout import GivenWeights
from duosora.core.models.finding import recognise
from duosora.core.models.pixart import FAMILY, MS_XL_2, TINY, XL_2, KVCompression, PixArtSpec
from duosora.core.random import normal
from duosora.core.seam.backend import NAMES, Backend, get
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape

SMALL = replace(TINY, hidden_size=48, num_heads=2, depth=2, qk_norm=True)
SIZE = LatentShape(2, 10, 12)
"""Five rows of tokens, of which squares of two leave one over."""
NEAR, NEAR_GRADIENTS = 2e-5, 1e-4


@pytest.fixture(scope="module", params=NAMES)
def backend(request: pytest.FixtureRequest) -> Backend:
    return get(request.param, "cpu")


class Compressed(DenoiserCase):
    """A case whose keys are compressed, which needs frames of some tokens."""

    sizes = (SIZE,)


def compressed(sampling: str, factor: int = 2) -> Case:
    return Compressed(FAMILY, "small", replace(SMALL, kv_compression=KVCompression(sampling, factor, (1,))))


def fewer(sampling: str, keys: np.ndarray, factor: int, kernel: np.ndarray | None, bias: np.ndarray) -> np.ndarray:
    """Keys (T, H, W, D) of one clip, as upstream compresses them, before its norm."""
    frames, height, width, channels = keys.shape
    if sampling == "uniform_every":
        return keys.reshape(-1, channels)[::factor][: frames * height * width // factor]
    rows, columns = height // factor, width // factor
    if sampling != "conv":
        return keys[:, : rows * factor : factor, : columns * factor : factor].reshape(-1, channels)
    assert kernel is not None
    made = np.zeros((frames, rows, columns, channels)) + bias
    for i in range(factor):
        for j in range(factor):
            made += keys[:, i : rows * factor : factor, j : columns * factor : factor] * kernel[:, 0, i, j]
    return made.reshape(-1, channels)


@pytest.mark.parametrize("sampling", ["conv", "ave", "uniform", "uniform_every"])
def test_keys_and_values_are_compressed_frame_by_frame(backend: Backend, sampling: str) -> None:
    case = compressed(sampling)
    model = backend.build(case.spec, awake(case.spec))
    attention, grid = model.blocks[1].attn, case.spec.grid(SIZE)
    keys = normal((1, grid.num_tokens, 48), 5, "keys")
    weights = awake(case.spec)
    kernel = weights["blocks.1.attn.sr.weight"] if sampling == "conv" else None
    bias = weights["blocks.1.attn.sr.bias"] if sampling == "conv" else np.zeros(48)
    expected = fewer(sampling, keys.reshape(*grid, 48).astype(np.float64), 2, kernel, bias)
    if sampling == "conv":
        centred = expected - expected.mean(-1, keepdims=True)
        scale = weights["blocks.1.attn.norm.weight"] / np.sqrt(expected.var(-1, keepdims=True) + 1e-5)
        expected = centred * scale + weights["blocks.1.attn.norm.bias"]
    with backend.inference():
        got = backend.to_numpy(attention._compressed(backend.asarray(keys), attention.compression, grid))[0]
    np.testing.assert_allclose(got, expected, rtol=0, atol=NEAR * np.abs(expected).max())


@pytest.mark.parametrize("sampling", ["conv", "uniform_every"])
def test_both_backends_compress_alike_on_any_number_of_ranks(sampling: str) -> None:
    case = compressed(sampling)
    (expected,) = outputs(case, "torch").values()
    near = {"rtol": 0, "atol": NEAR * np.abs(expected).max()}
    np.testing.assert_allclose(*outputs(case, "mindspore").values(), expected, **near)
    for name in NAMES:
        for got in on_ranks(2, get(name, "cpu"), lambda group, name=name: outputs(case, name, group=group)):
            np.testing.assert_allclose(*got.values(), expected, **near)


@pytest.mark.slow
def test_gradients_of_compressed_keys_are_the_same() -> None:
    torchs, mindspores = (gradients(compressed("conv"), name) for name in NAMES)
    assert np.abs(torchs["blocks.1.attn.sr.weight"]).max() > 0
    for weight, gradient in torchs.items():
        limit = NEAR_GRADIENTS * np.abs(gradient).max() + 1e-8
        np.testing.assert_allclose(mindspores[weight], gradient, rtol=0, atol=limit, err_msg=weight)


def test_frames_that_are_too_small_to_compress_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"compresses keys by 2.*not 1 x 6"):
        compressed("conv").spec.grid(LatentShape(1, 2, 12))


def test_what_does_not_fit_is_refused(backend: Backend) -> None:
    spec = replace(SMALL, reads_size=True)
    text = np.zeros((BATCH, 4, 64), np.float32)
    size = {name: np.ones(BATCH) for name in ("height", "width", "ratio")}
    model = backend.build(spec, awake(spec))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"text": None}, "text: needs states"),
        ({"text": text[:, :, :5]}, "needs states of batch x tokens x 64, got 2 x 4 x 5"),
        ({"ratio": None}, "ratio is missing"),
        ({"height": np.ones(3)}, "height: got 3 for 2 texts"),
        ({"text_mask": np.zeros((BATCH, 4))}, "a text without any token"),
        (
            {"text": np.zeros((BATCH, 40, 64), np.float32), "is_null": np.array([True, False])},
            "40 tokens, but the null",
        ),
    ]
    for change, said in wrong:
        with pytest.raises(ShapeError, match=said):
            model.condition(Given(**{"text": text, **size, **change}), SIZE)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kv_compress_config": 3}, "kv_compress_config: needs an object"),
        ({"kv_compress_config": {"sampling": "best"}}, "sampling = 'best': duosora implements"),
        ({"input_size": [1, 1, 8]}, "holds no patch"),
        ({"freeze": "all"}, "freeze = 'all'"),
        ({"base_size": -1}, "base_size = -1"),
    ],
)
def test_impossible_configs_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        PixArtSpec.from_config(TINY.to_config() | changes)


def test_upstreams_arguments_are_read() -> None:
    told = {"enable_flash_attn": True, "dtype": "bf16", "freeze": "text", "base_size": 256, "space_scale": 4}
    spec = PixArtSpec.from_config({"architectures": ["PixArtMS"], **told})
    assert (spec.reads_size, spec.freeze_text, spec.base_size, spec.square, spec.space_scale) == (
        True,
        True,
        256,
        128,
        4,
    )
    assert spec.layout().frozen[0] == "blocks.0.cross_attn."
    none = {"sampling": None, "scale_factor": 1, "kv_compress_layer": []}
    assert PixArtSpec.from_config({"kv_compress_config": none}).kv_compression is None


@pytest.mark.parametrize("spec", [XL_2, MS_XL_2, TINY, compressed("conv").spec])
def test_shapes_tell_what_a_model_is(spec: PixArtSpec) -> None:
    spec = replace(spec, num_heads=spec.hidden_size // spec.head_dim)
    shapes = {name: weight.shape for name, weight in spec.layout().items()}
    found = PixArtSpec.from_shapes(shapes, "file")
    assert found is not None
    assert {name: weight.shape for name, weight in found.layout().items()} == shapes


def test_files_of_pixart_alpha_become_a_model_of_pictures(tmp_path: Path) -> None:
    spec = replace(SMALL, input_size=(1, 64, 64), no_temporal_pos_emb=True, num_heads=4, reads_size=True)
    weights = awake(spec)
    kernel = weights["x_embedder.proj.weight"]
    theirs = {**weights, "x_embedder.proj.weight": kernel[:, :, 0]}
    save_weights(tmp_path / "theirs.safetensors", GivenWeights(theirs, "theirs"))
    convert(Conversion(source=tmp_path / "theirs.safetensors", target=tmp_path / "ours"))
    part = recognise(tmp_path / "ours")
    part.check()
    assert part.spec == spec
    np.testing.assert_array_equal(open_weights(tmp_path / "ours")["x_embedder.proj.weight"], kernel)
