"""What cannot be a model's weights is refused before anything is written, and so is what could not be read again."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from duosora.convert.commands import convert, describe, verify
from duosora.convert.writers import write
from duosora.core.converting import Conversion
from duosora.core.errors import CheckpointError, DuosoraError, LayoutError
from duosora.core.io.weights import open_weights, save_weights
from duosora.core.layout import FreshWeights
from duosora.core.models import opensora_t2v, t5

LAYOUT = t5.TINY.layout()
ENDINGS = (".safetensors", ".pth", ".ckpt")
Q, WI = "encoder.block.0.layer.0.SelfAttention.q.weight", "encoder.block.1.layer.1.DenseReluDense.wi_0.weight"


class Given(dict[str, np.ndarray]):
    """Tensors as the writers take them."""

    def shape(self, name: str) -> tuple[int, ...]:
        return self[name].shape

    def dtype(self, name: str) -> np.dtype[Any]:
        return self[name].dtype

    def chunks(self, name: str) -> Any:
        yield np.ascontiguousarray(self[name]).reshape(-1).view(np.uint8)


def encoder(**changes: np.ndarray) -> Given:
    return Given({**FreshWeights(LAYOUT, 0), **changes})


def checkpoint(folder: Path, ending: str, tensors: Mapping[str, np.ndarray]) -> Path:
    """A file of one of the formats that are written."""
    write(folder / f"in{ending}", Given(tensors), None, overwrite=False)
    return folder / f"in{ending}"


def refused(source: Path, target: Path, error: type[DuosoraError], model: str | None = None) -> str:
    """What a conversion says that writes nothing."""
    before = sorted(source.parent.rglob("*"))
    with pytest.raises(error) as raised:
        convert(Conversion(source=source, target=target, model=model))
    assert sorted(source.parent.rglob("*")) == before
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("ending", ENDINGS)
def test_matrices_that_were_not_downloaded_are_refused(tmp_path: Path, ending: str) -> None:
    zeros = {name: np.zeros(LAYOUT[name].shape, np.float32) for name in (Q, WI)}
    source = checkpoint(tmp_path, ending, encoder(**zeros))
    said = refused(source, tmp_path / "out", CheckpointError)
    assert f"{source}: 2 of 16 matrices are all zeros ({Q}, {WI}); the file was not downloaded whole" in said
    if ending != ".safetensors":
        with pytest.raises(CheckpointError, match="2 of 16 matrices are all zeros"):
            describe(source, list_tensors=False)


def test_what_a_fresh_model_has_as_zeros_may_be_zeros(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, ".pth", dict(FreshWeights(opensora_t2v.TINY_INPAINT.layout(), 0)))
    assert convert(Conversion(source=source, target=tmp_path / "out"))
    assert not open_weights(tmp_path / "out")["pos_embed_mask.1.weight"].any()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("dtype", [np.int8, np.bool_])
def test_integers_are_no_weights(tmp_path: Path, ending: str, dtype: type) -> None:
    source = checkpoint(tmp_path, ending, encoder(**{Q: np.ones((64, 64), dtype)}))
    said = refused(source, tmp_path / "out", LayoutError)
    assert f"1 of 21 weights hold no floating-point numbers ({Q} is {np.dtype(dtype)}); quantised weights" in said


def test_scales_beside_weights_are_called_so(tmp_path: Path) -> None:
    quantised = encoder(**{Q: np.ones((64, 64), ml_dtypes.float8_e4m3fn)})
    quantised[Q.replace("weight", "weight_scale")] = np.ones((), np.float32)
    source = checkpoint(tmp_path, ".safetensors", quantised)
    assert "quantised weights with scales are not read" in refused(source, tmp_path / "out", CheckpointError)


def test_weights_of_no_model_may_be_anything(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, ".safetensors", {"a": np.zeros((2, 2)), "b": np.ones((2, 2), np.int8)})
    convert(Conversion(source=source, target=tmp_path / "out", model="none"))
    assert set(open_weights(tmp_path / "out")) == {"a", "b"}


class _Shaped(Given):
    """One empty tensor of a shape that numpy has not."""

    def shape(self, name: str) -> tuple[int, ...]:
        return (0, 2**62)


@pytest.mark.parametrize("target", ["out", *(f"out{ending}" for ending in ENDINGS)])
@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (Given({"__metadata__": np.ones(1)}), "no tensor can be called '__metadata__'"),
        (Given({"a\ud800": np.ones(1)}), r"the name of tensor 'a\\ud800' is not valid text"),
        (_Shaped({"a": np.zeros(0)}), r"tensor 'a' has the impossible shape \[0, 4611686018427387904\]"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(tmp_path: Path, target: str, tensors: Given, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        write(tmp_path / target, tensors, None, overwrite=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".pth", ".ckpt"])
def test_a_name_longer_than_readers_take_is_not_written(tmp_path: Path, ending: str) -> None:
    source = checkpoint(tmp_path, ".safetensors", {"a" * 5000: np.ones(2, np.float32)})
    said = refused(source, tmp_path / f"out{ending}", CheckpointError, model="none")
    assert said.startswith(str(tmp_path / f"out{ending}"))
    assert len(said) < 600


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_only_regular_files_are_opened(tmp_path: Path, make: Callable[[Path], None]) -> None:
    save_weights(tmp_path / "a.safetensors", encoder())
    make(tmp_path / "a.safetensors.sums.json")
    with pytest.raises(CheckpointError, match=r"sums\.json: cannot be read"):
        verify(tmp_path / "a.safetensors")
    make(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        convert(Conversion(source=tmp_path / "a.safetensors", target=tmp_path / "out"))


def test_a_config_with_a_byte_order_mark_goes_along(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, ".pth", encoder())
    (tmp_path / "config.json").write_text("\ufeff" + json.dumps(t5.TINY.to_config()))
    convert(Conversion(source=source, target=tmp_path / "out"))
    assert (tmp_path / "out/config.json").read_bytes() == (tmp_path / "config.json").read_bytes()
