"""What torch and MindSpore write is read bit for bit, and what is written here is read by them."""

import argparse
import collections
import enum
import hashlib
import io
import json
import sys
import types
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from duosora.convert.commands import convert
from duosora.convert.readers.mindspore_files import read_ckpt
from duosora.convert.readers.opening import is_foreign, open_checkpoint
from duosora.convert.readers.stored import Piece, Stored, StoredTensor
from duosora.convert.writers import write
from duosora.convert.writers.mindspore_files import write_ckpt
from duosora.convert.writers.torch_files import write_zip
from duosora.core.converting import Conversion
from duosora.core.errors import CheckpointError
from duosora.core.io.weights import open_weights, save_weights
from duosora.core.seam.backend import get

LEGACY_DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64,
]  # fmt: skip
NEW_DTYPES = [torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2]


def tensors(dtypes: list[torch.dtype]) -> dict[str, torch.Tensor]:
    """Every dtype, and every way in which a tensor lies in its storage."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(0, 2, (16 * 6,), generator=generator, dtype=torch.uint8)
    base = torch.randn(4, 5, 6, generator=generator)
    return {
        **{
            f"of.{dtype}".replace("torch.", ""): bits.clone().view(dtype) if dtype != torch.bool else bits.bool()
            for dtype in dtypes
        },
        "scalar": torch.tensor(3.5, dtype=torch.bfloat16),
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "base": base,
        "shared": base,
        "part": base[1:3],
        "transposed": base.permute(2, 0, 1),
        "strided": base[::2, :, 1::3],
        "row": base[:, 2],
        "expanded": torch.tensor([1.0, 2.0])[:, None].expand(2, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_equal(read: Mapping[str, np.ndarray], expected: Mapping[str, torch.Tensor]) -> None:
    assert set(read) == set(expected)
    for name, tensor in expected.items():
        assert read[name].shape == tuple(tensor.shape), name
        assert str(read[name].dtype) == str(tensor.dtype).removeprefix("torch."), name
        assert read[name].tobytes() == raw(tensor), name


@pytest.mark.parametrize("is_zip", [True, False])
def test_files_of_torch_are_read_bit_for_bit(tmp_path: Path, is_zip: bool) -> None:
    saved = tensors(LEGACY_DTYPES + NEW_DTYPES * is_zip)
    torch.save(saved, tmp_path / "x.bin", _use_new_zipfile_serialization=is_zip)
    opened = open_checkpoint(tmp_path / "x.bin")
    assert opened.format == ("torch" if is_zip else "torch (before 1.6)")
    assert_equal(opened.weights, saved)


@pytest.mark.parametrize("is_zip", [True, False])
def test_weights_are_found_inside_a_training_state(tmp_path: Path, is_zip: bool) -> None:
    saved = tensors([torch.float32])
    state = {
        "epoch": 3,
        "state_dict": collections.OrderedDict(saved),
        "args": argparse.Namespace(lr=1e-4, betas=(0.9, 0.999), names=["a"]),
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "random": np.random.RandomState(0).get_state(),
        "best": np.float64(0.5),
        "folder": Path("runs"),
        "device": torch.device("cpu"),
        "size": torch.Size([2, 3]),
        "seen": {1, 2},
        "table": collections.defaultdict(None, {1: 2}),
    }
    torch.save(state, tmp_path / "x.pt", _use_new_zipfile_serialization=is_zip)
    opened = open_checkpoint(tmp_path / "x.pt")
    assert opened.wrapper == ("state_dict",)
    assert_equal(opened.weights, saved)
    assert opened.tree["args"] == {"lr": 1e-4, "betas": [0.9, 0.999], "names": ["a"]}


@pytest.mark.parametrize(
    ("wrap", "wrapper"),
    [
        (lambda w: w, ()),
        (
            lambda w: {"state_dict": {"gen_model": w, "dics_model": {"logvar": torch.zeros(())}}},
            ("state_dict", "gen_model"),
        ),
        (lambda w: {"ema_state_dict": w, "state_dict": {"gen_model": {"a": torch.ones(1)}}}, ("ema_state_dict",)),
        (lambda w: {"ema_state_dict": {}, "state_dict": {"gen_model": w}}, ("state_dict", "gen_model")),
        (lambda w: {"ema_model": w, "model": {"a": torch.ones(1)}}, ("ema_model",)),
        (lambda w: {"module": w, "ds_version": "0.16", "param_shapes": [{"a": torch.Size([2])}]}, ("module",)),
        (lambda w: {"model": w, "iteration": 5, "checkpoint_version": 3.0, "optimizer": {}}, ("model",)),
    ],
)
def test_wrappers_are_known(tmp_path: Path, wrap: Any, wrapper: tuple[str, ...]) -> None:
    saved = {"decoder.a": torch.ones(2), "decoder.b": torch.zeros(3)}
    torch.save(wrap(saved), tmp_path / "mp_rank_00_model_states.pt")
    opened = open_checkpoint(tmp_path / "mp_rank_00_model_states.pt")
    assert opened.wrapper == wrapper
    assert_equal(opened.weights, saved)


def test_sums_are_those_of_the_bytes(tmp_path: Path) -> None:
    held = {"large": np.random.default_rng(0).standard_normal(1_200_000).astype(np.float32), "small": np.arange(3.0)}
    save_weights(tmp_path / "x.safetensors", held)
    convert(Conversion(source=tmp_path / "x.safetensors", target=tmp_path / "y.pth", model="none"))
    table = json.loads((tmp_path / "y.pth.sums.json").read_text())
    assert {name: entry["sha256"] for name, entry in table.items()} == {
        name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in held.items()
    }


def test_an_optimiser_is_no_model(tmp_path: Path) -> None:
    torch.save({"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "epoch": 3}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="no weights found in it; its keys are optimizer, epoch"):
        open_checkpoint(tmp_path / "x.pt")


def test_shards_of_torch_are_joined_by_their_index(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": torch.zeros(3)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    weight_map = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_equal(open_checkpoint(tmp_path).weights, {"a": torch.ones(2), "b": torch.zeros(3)})


@pytest.mark.parametrize("ending", ["safetensors", "pth", "folder", "sharded"])
def test_conversion_there_and_back_changes_no_bit(tmp_path: Path, ending: str) -> None:
    saved = tensors(LEGACY_DTYPES + NEW_DTYPES)
    torch.save(saved, tmp_path / "x.pt")
    between = tmp_path / (ending if ending in ("folder", "sharded") else f"between.{ending}")
    shard_size = 1000 if ending == "sharded" else None
    convert(Conversion(source=tmp_path / "x.pt", target=between, model="none", shard_size=shard_size))
    convert(Conversion(source=between, target=tmp_path / "back.pth", model="none"))
    for is_mapped in (True, False):
        back = torch.load(tmp_path / "back.pth", weights_only=True, mmap=is_mapped)
        assert back.keys() == saved.keys()
        for name, tensor in saved.items():
            assert back[name].dtype == tensor.dtype
            assert raw(back[name]) == raw(tensor), name


def test_a_file_for_torch_has_its_storages_where_torch_puts_them(tmp_path: Path) -> None:
    write(tmp_path / "x.pth", _Chunked({"a": np.ones(3, np.float32), "b": np.ones(5, np.float64)}), None, False)
    opened = open_checkpoint(tmp_path / "x.pth").weights
    assert isinstance(opened, Stored)
    assert [opened.place(name).pieces[0].offset % 64 for name in opened] == [0, 0]


def test_mindspore_reads_and_writes_the_same_tensors(tmp_path: Path) -> None:
    mindspore = pytest.importorskip("mindspore")
    get("mindspore", "cpu")  # sets up the one runtime that the other tests of this process use too
    arrays = {
        "blocks.0.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "half": np.arange(5, dtype=np.float16),
        "count": np.array(7, np.int64),
        "wide": np.arange(3, dtype=np.float64),
        "flags": np.array([True, False]),
        "scalar": np.array(2.5, np.float32),
    }
    listed = [{"name": name, "data": mindspore.Tensor(array)} for name, array in arrays.items()]
    brain = np.arange(6, dtype=np.float32).reshape(2, 3)
    listed.append({"name": "brain", "data": mindspore.Tensor(brain).astype(mindspore.bfloat16)})
    mindspore.save_checkpoint(listed, str(tmp_path / "theirs.ckpt"))

    theirs = open_checkpoint(tmp_path / "theirs.ckpt")
    assert theirs.format == "MindSpore"
    arrays["brain"] = brain.astype(ml_dtypes.bfloat16)
    assert set(theirs.weights) == set(arrays)
    for name, array in arrays.items():
        found = theirs.weights[name]
        assert (found.shape, found.dtype) == (array.shape, array.dtype), name
        assert found.tobytes() == array.tobytes(), name

    convert(Conversion(source=tmp_path / "theirs.ckpt", target=tmp_path / "ours.ckpt", model="none"))
    assert (tmp_path / "ours.ckpt").read_bytes() == (tmp_path / "theirs.ckpt").read_bytes()
    loaded = mindspore.load_checkpoint(str(tmp_path / "ours.ckpt"))
    assert set(loaded) == set(arrays)
    np.testing.assert_array_equal(loaded["blocks.0.weight"].asnumpy(), arrays["blocks.0.weight"])


def test_mindspore_slices_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duosora.convert.writers.mindspore_files.SLICE_BYTES", 1000)
    array = np.random.default_rng(0).standard_normal((37, 41)).astype(np.float32)
    write_ckpt(tmp_path / "x.ckpt", _Chunked({"a": array, "b": np.array(1.0)}))
    assert len(read_ckpt(tmp_path / "x.ckpt")["a"].pieces) == -(-array.nbytes // 1000)
    np.testing.assert_array_equal(open_checkpoint(tmp_path / "x.ckpt").weights["a"], array)


def test_what_older_versions_of_mindspore_wrote_is_read(tmp_path: Path) -> None:
    scalar = b"\x0a\x18\x0a\x01a\x12\x13\x08\x00\x12\x07Float32\x1a\x04" + np.float32(2.5).tobytes()
    scalar = bytes([scalar[0], len(scalar) - 2, *scalar[2:6], len(scalar) - 7, *scalar[7:]])
    (tmp_path / "x.ckpt").write_bytes(scalar)
    np.testing.assert_array_equal(open_checkpoint(tmp_path / "x.ckpt").weights["a"], np.float32(2.5), strict=True)
    (tmp_path / "x.ckpt").write_bytes(scalar + b"crc_num" + bytes(10))
    assert set(open_checkpoint(tmp_path / "x.ckpt").weights) == {"a"}


def test_a_legacy_view_begins_inside_its_storage(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(8.0)[:4]}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "x.pt").read_bytes()
    assert content.count(b"K\x08N") == 1
    (tmp_path / "x.pt").write_bytes(content.replace(b"K\x08N", b"K\x08(X\x01\x00\x00\x00vK\x02K\x04t"))
    np.testing.assert_array_equal(open_checkpoint(tmp_path / "x.pt").weights["a"], [2, 3, 4, 5])


@pytest.mark.parametrize("ending", ["pth", "ckpt"])
def test_tensors_beyond_four_gigabytes_have_the_right_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    size = (4 << 30) + 12
    target = tmp_path / f"large.{ending}"
    with _SparseFile(target, "w+") as file:
        if ending == "pth":
            zip_file = zipfile.ZipFile
            monkeypatch.setattr(zipfile, "ZipFile", lambda path, *rest: zip_file(file, *rest))  # type: ignore[arg-type]
            write_zip(target, _Large(size))
        else:
            monkeypatch.setattr(Path, "open", lambda path, mode: nullcontext(file))
            write_ckpt(target, _Large(size))
    monkeypatch.undo()
    assert target.stat().st_blocks < 1 << 16, "the file system keeps no holes"
    weights = open_checkpoint(target).weights
    assert weights.shape("large") == (size,)
    np.testing.assert_array_equal(weights.read_bytes("large", size - 4, 4), [0, 0, 0, 9])
    np.testing.assert_array_equal(weights.read_bytes("small", 0, 3), [1, 2, 3])


def test_casting_keeps_integers_and_refuses_what_does_not_fit(tmp_path: Path) -> None:
    saved = {"a": np.array([1.0, 1e6], np.float32), "n": np.array([3]), "inf": np.array([np.inf], np.float32)}
    save_weights(tmp_path / "x.safetensors", saved)
    convert(
        Conversion(source=tmp_path / "x.safetensors", target=tmp_path / "b.safetensors", model="none", dtype="bf16")
    )
    read = open_weights(tmp_path / "b.safetensors")
    np.testing.assert_array_equal(read["a"], saved["a"].astype(ml_dtypes.bfloat16))
    assert read["n"].dtype == np.int64
    with pytest.raises(ValueError, match="numbers too large for float16"):
        convert(
            Conversion(source=tmp_path / "x.safetensors", target=tmp_path / "h.safetensors", model="none", dtype="fp16")
        )
    assert not (tmp_path / "h.safetensors").exists()


def test_an_infinity_hides_no_number_that_becomes_one(tmp_path: Path) -> None:
    save_weights(tmp_path / "x.safetensors", {"a": np.array([np.inf, 1e6], np.float32)})
    with pytest.raises(CheckpointError, match="numbers too large for float16"):
        convert(Conversion(source=tmp_path / "x.safetensors", target=tmp_path / "y.pth", model="none", dtype="fp16"))
    save_weights(tmp_path / "z.safetensors", {"a": np.array([np.inf, np.nan, -np.inf], np.float32)})
    convert(Conversion(source=tmp_path / "z.safetensors", target=tmp_path / "y.pth", model="none", dtype="fp16"))
    np.testing.assert_array_equal(
        torch.load(tmp_path / "y.pth", weights_only=True)["a"].numpy(), [np.inf, np.nan, -np.inf]
    )


@pytest.mark.parametrize("asked", ["fp32", "fp16", "bf16"])
def test_numbers_are_rounded_as_torch_does(tmp_path: Path, asked: str) -> None:
    bits = torch.randint(-(2**31), 2**31, (1 << 18,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)  # every number of 16 bits, subnormal ones too
    spread = torch.cat(
        [bits.view(torch.float32), every.view(torch.float16).float(), every.view(torch.bfloat16).float()]
    )
    half_way = (every.view(torch.float16).float() + every.roll(1).view(torch.float16).float()) / 2
    held = {
        "wide": torch.cat([spread, half_way]),
        "brain": every.view(torch.bfloat16),
        "half": every.view(torch.float16),
        "tiny": torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn),
    }
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[asked]
    held = {name: tensor[tensor.to(dtype).float().isfinite()] for name, tensor in held.items()}
    torch.save(held, tmp_path / "x.pt")
    convert(Conversion(source=tmp_path / "x.pt", target=tmp_path / "y.pth", model="none", dtype=asked))
    found = torch.load(tmp_path / "y.pth", weights_only=True)
    for name, tensor in held.items():
        assert found[name].dtype == dtype
        assert raw(found[name]) == raw(tensor.to(dtype)), name


def test_the_content_says_what_a_file_is(tmp_path: Path) -> None:
    save_weights(tmp_path / "x.safetensors", {"a": np.ones(2, np.float32)})
    (tmp_path / "x.safetensors").rename(tmp_path / "named.ckpt")
    assert open_checkpoint(tmp_path / "named.ckpt").format == "safetensors"
    torch.save({"a": torch.ones(2)}, tmp_path / "named.safetensors")
    for name in ("named.ckpt", "named.safetensors"):
        assert is_foreign(tmp_path / name), "so inspect shows it, too"
        assert_equal(open_checkpoint(tmp_path / name).weights, {"a": torch.ones(2)})


def test_shards_have_no_average_to_ask_for(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "x.bin")
    (tmp_path / "x.bin.index.json").write_text(json.dumps({"weight_map": {"a": "x.bin"}}))
    with pytest.raises(CheckpointError, match="leave out --ema"):
        open_checkpoint(tmp_path / "x.bin.index.json", ema=True)


def test_enumerations_of_megatron_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("megatron.core.enums")
    kind = enum.Enum("ModelType", {"encoder_or_decoder": 1}, module="megatron.core.enums")
    module.ModelType = kind  # type: ignore[attr-defined]
    state = {"model": {"a": torch.ones(2)}, "args": argparse.Namespace(model_type=kind(1), dtype=torch.bfloat16)}
    with monkeypatch.context() as patch:
        for name in ("megatron", "megatron.core", "megatron.core.enums"):
            patch.setitem(sys.modules, name, module)
        torch.save(state, tmp_path / "model_optim_rng.pt")
    opened = open_checkpoint(tmp_path / "model_optim_rng.pt")
    assert_equal(opened.weights, {"a": torch.ones(2)})
    assert opened.tree["args"]["model_type"].name == "megatron.core.enums.ModelType"


@pytest.mark.parametrize("limit", [1, 64, 1 << 20])
def test_windows_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr("duosora.convert.readers.stored.WINDOW_BYTES", limit)
    base = torch.randn(7, 9, 40, generator=torch.Generator().manual_seed(0))
    views = {
        "column": base[:, :, 3],
        "corner": base[5:, 7:, 38:],
        "turned": base.permute(2, 0, 1)[::13],
        "steps": base[::3, ::4, ::19],
        "one": base[2, 3, 4:5],
    }
    torch.save(views, tmp_path / "x.pt")
    assert_equal(open_checkpoint(tmp_path / "x.pt").weights, views)


@pytest.mark.parametrize(("ending", "whose"), [("pth", "torch"), ("ckpt", "MindSpore")])
def test_dtypes_that_a_format_does_not_have_are_refused(tmp_path: Path, ending: str, whose: str) -> None:
    dtype = ml_dtypes.float8_e4m3fnuz if ending == "pth" else ml_dtypes.float8_e5m2
    with pytest.raises(CheckpointError, match=rf"x\.{ending}: tensor 'a' is float8_\w+, which {whose} cannot hold"):
        write(tmp_path / f"x.{ending}", _Chunked({"a": np.ones(2, dtype)}), None, False)
    assert not list(tmp_path.iterdir())


def test_a_header_that_nobody_reads_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duosora.core.io.weights.MAX_HEADER_BYTES", 1000)
    with pytest.raises(CheckpointError, match=r"x\.safetensors: 1 tensors need .* more than is read again"):
        save_weights(tmp_path / "x.safetensors", {"a" * 1000: np.ones(2)})
    assert not list(tmp_path.iterdir())


def test_a_window_reads_its_own_numbers(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(np.arange(12, dtype=np.int32).tobytes())
    stored = StoredTensor((3, 2), np.dtype(np.int32), (Piece(tmp_path / "raw", 4, 40),), (1, 4))
    np.testing.assert_array_equal(Stored("raw", {"a": stored})["a"], [[1, 5], [2, 6], [3, 7]])


class _Chunked(dict[str, np.ndarray]):
    def shape(self, name: str) -> tuple[int, ...]:
        return self[name].shape

    def dtype(self, name: str) -> np.dtype[Any]:
        return self[name].dtype

    def chunks(self, name: str) -> Iterator[np.ndarray]:
        flat = np.ascontiguousarray(self[name]).reshape(-1).view(np.uint8)
        yield from (flat[start : start + 100] for start in range(0, flat.size, 100))


class _Large:
    """A tensor of zeros that ends with a nine, and three bytes after it."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[str]:
        return iter(["large", "small"])

    def shape(self, name: str) -> tuple[int, ...]:
        return (self.size if name == "large" else 3,)

    def dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def chunks(self, name: str) -> Iterator[np.ndarray]:
        if name == "large":
            zeros = np.zeros(4 << 20, np.uint8)
            yield from (zeros for _ in range(self.size // zeros.size))
            yield np.array([0] * (self.size % zeros.size - 1) + [9], np.uint8)
        else:
            yield np.array([1, 2, 3], np.uint8)


class _SparseFile(io.FileIO):
    """A file that leaves holes for long runs of zeros."""

    def write(self, data: Any) -> int:
        if len(data) < 1 << 16 or np.frombuffer(data, np.uint8).any():
            return super().write(data) or 0
        self.seek(len(data), io.SEEK_CUR)
        return len(data)
