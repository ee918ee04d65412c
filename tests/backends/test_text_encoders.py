"""Text encoders that are read layer by layer, or kept in 8 bits: the same numbers, less memory."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duosora.core.errors import CheckpointError
from duosora.core.io.weights import WeightsReader, open_weights, save_weights
from duosora.core.layout import FreshWeights
from duosora.core.models.clip_text import ClipTextSpec
from duosora.core.models.t5 import T5Spec
from duosora.core.seam.backend import Backend, get

sys.path.append(str(Path(__file__).parent))
from encoder_memory import LARGE, LAYER_MIB

T5 = T5Spec(vocab_size=97, d_model=32, d_kv=6, d_ff=48, num_layers=3, num_heads=4)
CLIP = ClipTextSpec(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    eos_token_id=96,
    pooled=True,
    projection_dim=16,
)
MEMORY = Path(__file__).with_name("encoder_memory.py")


@pytest.fixture(scope="module", params=["torch", pytest.param("mindspore", marks=pytest.mark.slow)])
def backend(request: pytest.FixtureRequest) -> Backend:
    return get(request.param, "cpu")


class CountedWeights(WeightsReader):
    """Counts how often each part of a tensor is read."""

    def __init__(self, reader: WeightsReader) -> None:
        super().__init__(reader.source, reader._entries, reader.metadata)
        self.reads: list[tuple[str, int]] = []

    def read_bytes(self, name: str, start: int, count: int) -> np.ndarray:
        self.reads.append((name, start))
        return super().read_bytes(name, start, count)


def opened(spec: Any, folder: Path, shard_size: int | None = None) -> CountedWeights:
    """Fresh weights in a folder, and biases as training leaves them, not zeros."""
    weights, draw = dict(FreshWeights(spec.layout(), 0)), np.random.default_rng(1)
    for name in weights:
        if name.endswith("bias"):
            weights[name] = draw.standard_normal(weights[name].shape, dtype=np.float32) * np.float32(0.2)
    save_weights(folder, weights, overwrite=True, shard_size=shard_size)
    return CountedWeights(open_weights(folder))


def encoded(backend: Backend, encoder: Any, lengths: tuple[int, ...] = (5, 12, 3)) -> list[np.ndarray]:
    ids = [np.arange(1, length + 1)[None] for length in lengths]
    with backend.inference():
        texts = [(backend.asarray(each), backend.asarray(np.ones_like(each))) for each in ids]
        return [backend.to_numpy(states) for states in encoder.encode(texts)]


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("spec", [T5, CLIP], ids=["t5", "clip"])
def test_layers_read_one_by_one_give_the_same_bits(backend: Backend, spec: Any, dtype: str, tmp_path: Path) -> None:
    weights = opened(spec, tmp_path, shard_size=20_000)
    assert len(weights.files) > 2
    whole = encoded(backend, backend.build(spec, weights, dtype))
    streamed = backend.build(spec, weights, dtype, blocks_on="file")
    for _ in range(2):  # it can be used again
        for got, expected in zip(encoded(backend, streamed), whole, strict=True):
            assert got.dtype == expected.dtype
            np.testing.assert_array_equal(got, expected)


def test_each_layer_is_read_once_for_all_texts_and_of_the_table_their_rows(backend: Backend, tmp_path: Path) -> None:
    weights = opened(T5, tmp_path)
    encoder = backend.build(T5, weights, blocks_on="file")
    weights.reads.clear()
    encoded(backend, encoder, (5, 5, 5))
    of_table = {start for name, start in weights.reads if name == T5.token_table}
    assert of_table == {number * T5.d_model * 4 for number in range(1, 6)}
    of_layers = [read for read in weights.reads if read[0] != T5.token_table]
    assert len(of_layers) == len(set(of_layers)) == 7 * T5.num_layers


def test_a_damaged_layer_is_refused_when_it_is_read(backend: Backend, tmp_path: Path) -> None:
    name = "encoder.block.2.layer.1.DenseReluDense.wi_0.weight"
    arrays: Mapping[str, np.ndarray] = dict(FreshWeights(T5.layout(), 0))
    arrays[name][3, 4] = np.nan
    save_weights(tmp_path, arrays)
    encoder = backend.build(T5, open_weights(tmp_path), blocks_on="file")
    with pytest.raises(CheckpointError, match=f"{name} holds NaN"):
        encoded(backend, encoder)


def test_eight_bits_are_near_the_whole_weights(backend: Backend, tmp_path: Path) -> None:
    """Each weight is off by up to a 254th of the largest of its row; the states by about a hundredth."""
    for spec in (T5, CLIP):
        weights = opened(spec, tmp_path / spec.family)
        for got, expected in zip(
            encoded(backend, backend.build(spec, weights, "int8")),
            encoded(backend, backend.build(spec, weights)),
            strict=True,
        ):
            cosine = (got * expected).sum() / np.sqrt((got**2).sum() * (expected**2).sum())
            assert 1 - 3e-4 < cosine < 1 - 1e-6
            assert np.abs(got - expected).max() < 0.03 * np.abs(expected).max()


class _Tiled(Mapping[str, np.ndarray]):
    """Weights of which a few numbers are drawn, for a large file that is written at once."""

    def __init__(self) -> None:
        self.layout = LARGE.layout()
        self.drawn = np.random.default_rng(0).standard_normal(1 << 16, dtype=np.float32) * np.float32(0.03)

    def __getitem__(self, name: str) -> np.ndarray:
        shape = self.layout[name].shape
        return np.resize(self.drawn, shape) if len(shape) > 1 else np.ones(shape, np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout)

    def __len__(self) -> int:
        return len(self.layout)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("large") / "model.safetensors"
    save_weights(file, _Tiled())
    return file


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks the system for memory by Linux's files")
def test_encoding_layer_by_layer_takes_two_layers(backend: Backend, large: Path) -> None:
    def taken(dtype: str, blocks_on: str) -> tuple[float, float, float]:
        command = [sys.executable, MEMORY, backend.name, large, dtype, blocks_on]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        peak, kept, total = map(float, run.stdout.split())
        return peak, kept, total

    peak, kept, total = taken("fp32", "file")
    assert peak <= 2 * LAYER_MIB
    assert kept <= 0.2 * LAYER_MIB
    whole, _, total_whole = taken("fp32", "device")
    assert whole > 20 * LAYER_MIB
    assert total == total_whole
    of_8, _, _ = taken("int8", "device")
    assert 0.24 < of_8 / whole < 0.29
