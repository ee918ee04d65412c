"""Weights on disk: our own reader and writer against the safetensors library, and against damaged files and folders."""

import errno
import json
import os
import struct
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duosora.core.errors import CheckpointError
from duosora.core.io import weights as weights_module
from duosora.core.io.safetensors_format import DTYPES
from duosora.core.io.weights import (
    WeightsReader,
    holds_only_zeros,
    is_all_zero,
    is_finite,
    open_weights,
    save_weights,
)

TORCH_DTYPES = {
    torch.bool: np.bool_,
    torch.uint8: np.uint8,
    torch.int8: np.int8,
    torch.int16: np.int16,
    torch.int32: np.int32,
    torch.int64: np.int64,
    torch.float16: np.float16,
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.bfloat16: ml_dtypes.bfloat16,
    torch.float8_e4m3fn: ml_dtypes.float8_e4m3fn,
    torch.float8_e5m2: ml_dtypes.float8_e5m2,
}


def tensors_of_all_dtypes() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    tensors = {f"of.{code}": generator.integers(0, 2, (3, 5)).astype(dtype) for code, dtype in reversed(DTYPES.items())}
    return tensors | {"scalar": np.array(2.5, np.float32), "empty": np.zeros((2, 0, 3), np.float16)}


def assert_same(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert got.tobytes() == expected.tobytes()


def file_bytes(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape: Any, begin: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Reading


def test_files_of_the_safetensors_library_read_the_same_in_every_dtype(tmp_path: Path) -> None:
    tensors = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in TORCH_DTYPES}
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt", "step": "3"})
    reader = open_weights(tmp_path / "a.safetensors")
    assert set(reader) == set(tensors)
    assert dict(reader.metadata) == {"format": "pt", "step": "3"}
    assert reader.nbytes == sum(tensor.nbytes for tensor in tensors.values())
    for torch_dtype, dtype in TORCH_DTYPES.items():
        name = str(torch_dtype)
        array = reader[name]
        assert reader.shape(name) == array.shape == (2, 3)
        assert reader.dtype(name) == array.dtype == np.dtype(dtype)
        assert array.tobytes() == tensors[name].view(torch.uint8).numpy().tobytes()


def test_a_tensor_is_read_into_one_writable_array_without_a_second_copy(tmp_path: Path) -> None:
    values = np.arange(1 << 20, dtype=np.float32)
    save_weights(tmp_path / "a.safetensors", {"a": values, "b": values + 1})
    reader = open_weights(tmp_path / "a.safetensors")
    tracemalloc.start()
    try:
        array = reader["b"]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.01 * values.nbytes
    assert array.flags.writeable
    assert array.flags.aligned
    assert array[-1] == 1 << 20


def test_a_missing_name_is_a_key_error_as_in_any_mapping(tmp_path: Path) -> None:
    save_weights(tmp_path / "a.safetensors", {"a": np.zeros(1)})
    with pytest.raises(KeyError):
        open_weights(tmp_path / "a.safetensors")["b"]


@pytest.mark.parametrize(
    "names",
    [
        ["diffusion_pytorch_model.safetensors", "other.safetensors", "model.safetensors"],
        ["model.safetensors", "other.safetensors"],
        ["other.safetensors", ".duosora-1234.safetensors"],
    ],
    ids=lambda names: names[0],
)
def test_in_a_folder_the_hubs_names_come_first_and_any_single_file_will_do(tmp_path: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        save_weights(tmp_path / name, {"a": np.array(number)})
    reader = open_weights(tmp_path)
    assert reader["a"] == 0
    assert reader.files == (tmp_path / names[0],)
    assert reader.source == str(tmp_path)


@pytest.mark.parametrize("stem", ["diffusion_pytorch_model", "model", "other"])
def test_a_folder_of_shards_reads_through_its_index(tmp_path: Path, stem: str) -> None:
    tensors = tensors_of_all_dtypes()
    save_weights(tmp_path, tensors, shard_size=100, stem=stem)
    for place in (tmp_path, tmp_path / f"{stem}.safetensors.index.json"):
        reader = open_weights(place)
        assert list(reader) == list(tensors)
        assert len(reader.files) > 2
        for name, tensor in tensors.items():
            assert_same(reader[name], tensor)


def test_a_hub_cache_whose_shards_are_links_out_of_the_folder_reads(tmp_path: Path) -> None:
    save_weights(tmp_path / "blobs", {"a": np.zeros(4), "b": np.ones(4)}, shard_size=32)
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for path in (tmp_path / "blobs").iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    assert open_weights(snapshot)["b"][0] == 1


# Damaged files

ONE = entry([2], 0, 8)
DAMAGED = {
    "empty": (b"", "is empty"),
    "seven bytes": (b"\0" * 7, "has 7 bytes, too few"),
    "header longer than the file": (struct.pack("<Q", 100) + b"{}", "has 10 bytes but announces a header of 100"),
    "a pickle": (b"\x80\x02}q\x00(X\x01\x00\x00\x00aq", "is no safetensors file but one of torch"),
    "a zip file": (b"PK\x03\x04" + bytes(40), "is no safetensors file but one of torch"),
    "header of a terabyte": (struct.pack("<Q", 10**12) + b"{}", "announces a header of 1000000000000 bytes"),
    "not JSON": (file_bytes(b'{"a": }'), "header is not valid JSON"),
    "not UTF-8": (file_bytes(b'{"\xff": 1}'), "not UTF-8 text at byte 2"),
    "a list": (file_bytes([1]), "does not begin with"),
    "nested beyond measure": (file_bytes(b'{"a":' * 100_000), "not valid JSON"),
    "a name twice": (file_bytes(b'{"a": {"dtype": "F32", "dtype": "F32"}}'), "'dtype' is written twice"),
    "a number of ten thousand digits": (file_bytes(b'{"a": %s}' % (b"1" * 10_000)), "not valid JSON"),
    "tensor without offsets": (file_bytes({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)), "'a': .* must have dtype"),
    "tensor that is a number": (file_bytes({"a": 3}), "'a': .* must have dtype"),
    "unknown dtype": (file_bytes({"a": entry([2], 0, 8, "F31")}, bytes(8)), "'a': unknown dtype \"F31\"; known are"),
    "dtype that is a list": (file_bytes({"a": entry([2], 0, 8, ["F32"])}, bytes(8)), "unknown dtype"),
    "negative shape": (file_bytes({"a": entry([-2], 0, 8)}, bytes(8)), r"'a': impossible shape \[-2\]"),
    "shape of a truth value": (file_bytes({"a": entry([True], 0, 4)}, bytes(4)), "impossible shape"),
    "shape of a fraction": (file_bytes({"a": entry([2.0], 0, 8)}, bytes(8)), "impossible shape"),
    "shape beyond any memory": (file_bytes({"a": entry([2**40, 2**40], 0, 8)}, bytes(8)), "impossible shape"),
    "empty shape beyond numpy": (file_bytes({"a": entry([0, 2**62, 8], 0, 0)}), "impossible shape"),
    "more axes than numpy has": (file_bytes({"a": entry([1] * 33, 0, 4)}, bytes(4)), "impossible shape"),
    "three offsets": (file_bytes({"a": {**ONE, "data_offsets": [0, 4, 8]}}, bytes(8)), "must be two byte counts"),
    "negative offset": (file_bytes({"a": entry([2], -8, 0)}, bytes(8)), "must be two byte counts"),
    "offsets that do not fit": (file_bytes({"a": entry([2], 0, 4)}, bytes(4)), "of F32 takes 8 bytes, .* span 4"),
    "offsets backwards": (file_bytes({"a": entry([2], 8, 0)}, bytes(8)), "span -8"),
    "overlap": (file_bytes({"a": ONE, "b": entry([2], 4, 12)}, bytes(12)), "'b' overlaps with tensor 'a'"),
    "hole": (file_bytes({"a": ONE, "b": entry([2], 12, 20)}, bytes(20)), "'b' leaves a hole after tensor 'a'"),
    "hole in front": (file_bytes({"a": entry([2], 4, 12)}, bytes(12)), "'a' leaves a hole after the header"),
    "cut off": (file_bytes({"a": ONE}, bytes(7)), "is cut off: .* bytes are announced"),
    "bytes too many": (file_bytes({"a": ONE}, bytes(9)), "1 bytes at its end belong to no tensor"),
    "metadata that is no text": (file_bytes({"__metadata__": {"step": 3}}), "__metadata__"),
    "half a surrogate pair": (file_bytes({"a\ud800": ONE}, bytes(8)), r"tensor 'a\\ud800' is not valid text"),
    "a name of 5000 letters": (file_bytes({"a" * 5000: entry([3], 0, 8)}, bytes(8)), r"'aaaa.* \.\.\. a+': shape"),
    "5000 letters twice": (file_bytes(b'{"%s": 1, "%s": 2}' % ((b"a" * 5000,) * 2)), r"a \.\.\. a+' is written twice"),
    "a name that moves the cursor": (file_bytes({"a\x1b[2J": entry([3], 0, 8)}, bytes(8)), r"tensor 'a\\x1b\[2J'"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_one_line_that_names_the_file_and_the_cause(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as raised:
        open_weights(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_a_file_that_shrinks_after_it_was_opened_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_weights(path, {"a": np.zeros(100)})
    reader = open_weights(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="ends inside tensor 'a'"):
        reader["a"]
    path.unlink()
    with pytest.raises(CheckpointError, match="tensor 'a' cannot be read"):
        reader["a"]


SMALL = file_bytes(
    {"b": entry([2], 0, 4, "BF16"), "a": entry([2, 2], 4, 20), "__metadata__": {"k": "v"}}, bytes(range(20))
)


@settings(max_examples=300, deadline=None)
@given(
    cut=st.integers(0, len(SMALL)),
    changes=st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), max_size=4),
)
def test_any_mutation_of_a_file_is_refused_or_reads_completely(
    tmp_path_factory: pytest.TempPathFactory, cut: int, changes: list[tuple[int, int]]
) -> None:
    mutant = bytearray(SMALL)
    for place, value in changes:
        mutant[place] = value
    path = tmp_path_factory.getbasetemp() / "mutant.safetensors"
    path.write_bytes(mutant if cut % 2 else mutant[:cut])
    try:
        reader = open_weights(path)
    except CheckpointError:
        return
    for name in reader:
        assert reader[name].nbytes == np.prod(reader.shape(name), dtype=int) * reader.dtype(name).itemsize


# Damaged folders


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds no weights, expected diffusion_pytorch_model.safetensors"),
        (["merged.ckpt"], r"only safetensors are read; found merged\.ckpt; convert it first"),
        (["pytorch_model.bin", "config.json"], "only safetensors are read; found pytorch_model.bin; convert it first"),
        ([f"{i}.pt" for i in range(5)], "found 0.pt, 1.pt, 2.pt and 2 more"),
        (["a.safetensors", "b.safetensors"], "holds 2 weight files .* and no index .* name the file"),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], "no index that joins them"),
    ],
)
def test_a_folder_without_usable_weights_says_what_it_holds(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=message):
        open_weights(tmp_path)


@pytest.mark.parametrize("name", ["merged.ckpt", "pytorch_model.bin", "a.pt", "a.pth"])
def test_a_foreign_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="only safetensors are read; convert it first"):
        open_weights(tmp_path / name)


def test_a_missing_place_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file or folder"):
        open_weights(tmp_path / "none")
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_weights(tmp_path / ("long" * 100))


def _write_index(folder: Path, index: Any) -> None:
    text = index if isinstance(index, str) else json.dumps(index)
    (folder / "model.safetensors.index.json").write_text(text)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer instead of the file"),
        ("\n<!DOCTYPE html><html>", "is a web page instead of the file"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", "has no weight_map"),
        ({"weight_map": []}, "has no weight_map"),
        ({"weight_map": {"a": 3}}, "has no weight_map"),
        ('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "'a' is written twice"),
        ({"weight_map": {"a": "absent.safetensors"}}, "shard absent.safetensors is not there"),
        ({"weight_map": {"a": "/etc/passwd"}}, "outside the folder"),
        ({"weight_map": {"a": "../one.safetensors"}}, "outside the folder"),
        ({"weight_map": {"a": "sub/../../one.safetensors"}}, "outside the folder"),
        ({"weight_map": {"a": "..\\one.safetensors"}}, "outside the folder"),
        ({"weight_map": {"a": "C:one.safetensors"}}, "outside the folder"),
        ({"weight_map": {"a": "one\0.safetensors"}}, "outside the folder"),
        ({"weight_map": {"a": ""}}, "outside the folder"),
        ({"weight_map": {"a": "one.bin"}}, "'one.bin' is no .safetensors file"),
        ({"weight_map": {"a": "one.safetensors", "c": "one.safetensors"}}, "one.safetensors does not hold tensor 'c'"),
        ({"weight_map": {"a": "s" * 5000 + ".safetensors"}}, r"shard s+ \.\.\. s+\.safetensors is not there"),
        ({"weight_map": {"a": "/" + "s" * 5000}}, r"shard '/s+ \.\.\. s+' lies outside"),
        ({"weight_map": {"a" * 5000: "one.safetensors"}}, "'a' is in shard one.safetensors but the index does not"),
        ({"weight_map": {"a\ud800": "one.safetensors"}}, r"the name 'a\\ud800' is not valid text"),
        ({"weight_map": {"a": "\udfff.safetensors"}}, r"the name '\\udfff\.safetensors' is not valid text"),
        ({"weight_map": {}}, None),
    ],
)
def test_a_wrong_index_is_one_line_that_names_it(tmp_path: Path, index: Any, message: str | None) -> None:
    save_weights(tmp_path / "model" / "one.safetensors", {"a": np.zeros(1)})
    save_weights(tmp_path / "one.safetensors", {"a": np.zeros(1)})
    _write_index(tmp_path / "model", index)
    if message is None:
        assert len(open_weights(tmp_path / "model")) == 0
        return
    with pytest.raises(CheckpointError, match=message) as raised:
        open_weights(tmp_path / "model")
    assert str(raised.value).startswith(str(tmp_path / "model" / "model.safetensors.index.json"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (
            {"a": "1.safetensors", "b": "2.safetensors"},
            "'a' is in shard 2.safetensors but the index puts it in 1.safetensors",
        ),
        ({"b": "2.safetensors"}, "'a' is in shard 2.safetensors but the index does not list it"),
    ],
)
def test_a_tensor_in_two_shards_or_in_none_of_the_index_is_refused(
    tmp_path: Path, weight_map: dict[str, str], message: str
) -> None:
    save_weights(tmp_path / "1.safetensors", {"a": np.zeros(1)})
    save_weights(tmp_path / "2.safetensors", {"a": np.ones(1), "b": np.ones(1)})
    _write_index(tmp_path, {"weight_map": weight_map})
    with pytest.raises(CheckpointError, match=message):
        open_weights(tmp_path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
@pytest.mark.parametrize(
    "name", ["a.safetensors", "model.safetensors.index.json", "model/1.safetensors", "model/model.safetensors"]
)
def test_only_regular_files_are_opened(tmp_path: Path, make: Callable[[Path], None], name: str) -> None:
    (tmp_path / "model").mkdir()
    _write_index(tmp_path / "model", {"weight_map": {"a": "1.safetensors"}})
    make(tmp_path / name)
    with pytest.raises(CheckpointError, match="expected a regular file|Is a directory|holds no weights") as raised:
        open_weights(tmp_path / ("model" if name.startswith("model/") else name))
    assert name in str(raised.value)


def test_an_index_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    save_weights(tmp_path / "1.safetensors", {"a": np.ones(1)})
    _write_index(tmp_path, "\ufeff" + json.dumps({"weight_map": {"a": "1.safetensors"}}))
    assert open_weights(tmp_path)["a"][0] == 1


def test_a_damaged_shard_is_named_itself(tmp_path: Path) -> None:
    save_weights(tmp_path, {"a": np.zeros(4), "b": np.zeros(4)}, shard_size=32, stem="model")
    shard = tmp_path / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors: is cut off"):
        open_weights(tmp_path)


# Writing


def test_the_safetensors_library_reads_our_files(tmp_path: Path) -> None:
    tensors = tensors_of_all_dtypes()
    save_weights(tmp_path / "a.safetensors", tensors, {"note": "ü"})
    with safetensors.safe_open(tmp_path / "a.safetensors", framework="torch") as opened:
        assert opened.metadata() == {"note": "ü"}
        assert set(opened.keys()) == set(tensors)
        for name, tensor in tensors.items():
            loaded = opened.get_tensor(name)
            assert tuple(loaded.shape) == tensor.shape
            assert loaded.reshape(-1).view(torch.uint8).numpy().tobytes() == tensor.tobytes()
    loaded = safetensors.torch.load_file(tmp_path / "a.safetensors")["of.BF16"]
    torch.testing.assert_close(
        loaded, torch.from_numpy(tensors["of.BF16"].astype(np.float32)).bfloat16(), rtol=0, atol=0
    )


def test_every_tensor_begins_at_a_multiple_of_its_element_size(tmp_path: Path) -> None:
    tensors = {"a": np.ones(3, np.uint8), "b": np.ones(3, np.float64), "c": np.ones(3, np.float16)}
    save_weights(tmp_path / "a.safetensors", tensors)
    content = (tmp_path / "a.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert length % 8 == 0
    table = json.loads(content[8 : 8 + length])
    assert [table[name]["data_offsets"] for name in "bca"] == [[0, 24], [24, 30], [30, 33]]


def test_arrays_that_are_not_contiguous_are_written_in_their_logical_order(tmp_path: Path) -> None:
    tensor = np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1)[::2]
    save_weights(tmp_path / "a.safetensors", {"a": tensor})
    assert_same(open_weights(tmp_path / "a.safetensors")["a"], tensor)


def test_shards_are_cut_at_the_size_and_the_index_has_the_hubs_form(tmp_path: Path) -> None:
    tensors = {"a": np.zeros(2), "b": np.zeros(2), "c": np.zeros(9), "d": np.zeros(1)}
    save_weights(tmp_path, tensors, {"step": "1"}, shard_size=32)
    assert json.loads((tmp_path / "diffusion_pytorch_model.safetensors.index.json").read_text()) == {
        "metadata": {"total_size": 14 * 8},
        "weight_map": {
            "a": "diffusion_pytorch_model-00001-of-00003.safetensors",
            "b": "diffusion_pytorch_model-00001-of-00003.safetensors",
            "c": "diffusion_pytorch_model-00002-of-00003.safetensors",
            "d": "diffusion_pytorch_model-00003-of-00003.safetensors",
        },
    }
    assert len(names_in(tmp_path)) == 4
    assert dict(open_weights(tmp_path).metadata) == {"step": "1"}


def test_what_fits_one_shard_is_one_file_without_an_index(tmp_path: Path) -> None:
    save_weights(tmp_path, {"a": np.zeros(4)}, shard_size=32, stem="model")
    assert names_in(tmp_path) == ["model.safetensors"]
    save_weights(tmp_path / "none", {}, stem="model")
    assert len(open_weights(tmp_path / "none")) == 0


class Lazy(Mapping[str, np.ndarray]):
    """A tensor made when it is asked for, a known number of times."""

    def __init__(self, failing: str = "") -> None:
        self.asked: list[str] = []
        self.failing = failing

    def __getitem__(self, name: str) -> np.ndarray:
        self.asked.append(name)
        if name == self.failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        return np.full(1000, float(name))

    def __iter__(self) -> Iterator[str]:
        return iter(["1", "2", "3"])

    def __len__(self) -> int:
        return 3


class Described(Lazy):
    def shape(self, name: str) -> tuple[int, ...]:
        return (1000,)

    def dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(np.float64)


def test_described_tensors_are_asked_for_once_and_held_one_at_a_time(tmp_path: Path) -> None:
    tensors = Described()
    tracemalloc.start()
    try:
        save_weights(tmp_path, tensors, shard_size=8000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert tensors.asked == ["1", "2", "3"]
    assert peak < 2.5 * 8000 + 30_000
    assert [open_weights(tmp_path)[name][0] for name in "123"] == [1, 2, 3]


def test_weights_pass_from_one_file_to_another(tmp_path: Path) -> None:
    tensors = tensors_of_all_dtypes()
    save_weights(tmp_path / "a.safetensors", tensors)
    save_weights(tmp_path / "sharded", open_weights(tmp_path / "a.safetensors"), shard_size=100)
    for name, tensor in open_weights(tmp_path / "sharded").items():
        assert_same(tensor, tensors[name])


@pytest.mark.parametrize("target", ["a.safetensors", "folder"])
@pytest.mark.parametrize("make", [Lazy, Described])
def test_a_failure_on_the_way_leaves_no_trace(tmp_path: Path, target: str, make: Callable[[str], Lazy]) -> None:
    with pytest.raises((CheckpointError, OSError)):
        save_weights(tmp_path / target, make("3"), shard_size=8000)
    assert names_in(tmp_path) == []


def test_a_full_disk_leaves_the_old_shards_readable(tmp_path: Path) -> None:
    save_weights(tmp_path, {"1": np.zeros(1000), "2": np.zeros(1000)}, shard_size=8000)
    before = names_in(tmp_path)
    with pytest.raises(CheckpointError, match="the disk is full"):
        save_weights(tmp_path, Described("3"), shard_size=8000, overwrite=True)
    assert names_in(tmp_path) == before
    assert open_weights(tmp_path)["1"][0] == 0


@pytest.mark.parametrize("first", [None, 8])
@pytest.mark.parametrize("second", [None, 8, 16])
def test_saving_again_needs_overwrite_and_leaves_nothing_of_the_old(
    tmp_path: Path, first: int | None, second: int | None
) -> None:
    (tmp_path / "config.json").write_text("{}")
    save_weights(tmp_path, {"a": np.zeros(1), "b": np.zeros(1), "c": np.zeros(1)}, shard_size=first)
    before = names_in(tmp_path)
    with pytest.raises(CheckpointError, match="exists already and is kept"):
        save_weights(tmp_path, {"a": np.ones(1)}, shard_size=second)
    assert names_in(tmp_path) == before
    save_weights(tmp_path, {"a": np.ones(1), "b": np.ones(1), "d": np.ones(1)}, shard_size=second, overwrite=True)
    reader = open_weights(tmp_path)
    assert sorted(reader) == ["a", "b", "d"]
    assert all(reader[name] == 1 for name in reader)
    assert len(names_in(tmp_path)) == {None: 2, 8: 5, 16: 4}[second]


def test_the_index_appears_after_its_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    appeared: list[str] = []
    real = Path.replace

    def noted(self: Path, target: Path) -> Path:
        appeared.append(target.name)
        return real(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    save_weights(tmp_path, {"a": np.zeros(1), "b": np.zeros(1)}, shard_size=8, stem="model")
    assert sorted(appeared[:-1]) == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert appeared[-1] == "model.safetensors.index.json"


def test_an_old_index_is_gone_before_the_first_new_shard_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a run that is killed in between leaves an index that joins new shards with old ones."""
    save_weights(tmp_path, {"a": np.zeros(1), "b": np.zeros(1)}, shard_size=8, stem="model")
    joined: list[bool] = []
    real = Path.replace

    def noted(self: Path, target: Path) -> Path:
        joined.append((tmp_path / "model.safetensors.index.json").exists())
        return real(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    save_weights(tmp_path, {"a": np.ones(1), "b": np.ones(1)}, shard_size=8, stem="model", overwrite=True)
    assert joined == [False] * 3


def test_a_dtype_that_safetensors_cannot_hold_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="tensor 'a' has dtype <U1, which safetensors cannot hold"):
        save_weights(tmp_path / "a.safetensors", {"a": np.array(["x"])})


@pytest.mark.parametrize("target", ["a.safetensors", "folder"])
@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("__metadata__", (1,), "no tensor can be called '__metadata__'"),
        ("a\ud800", (1,), r"the name of tensor 'a\\ud800' is not valid text"),
        ("a", (0, 2**62), r"tensor 'a' has the impossible shape \[0, 4611686018427387904\]"),
        ("a", (1,) * 33, "impossible shape"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(
    tmp_path: Path, target: str, name: str, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        save_weights(tmp_path / target, _Odd(name, shape))
    assert names_in(tmp_path) == []


class _Odd(dict[str, np.ndarray]):
    """A tensor of a shape that numpy may not have."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        super().__init__({name: np.zeros(0, np.float32)})
        self._shape = shape

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shape

    def dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(np.float32)


# Values


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES.values() if dtype.kind in "fV"], ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_value_anywhere_is_found_in_every_float_dtype(
    dtype: np.dtype[Any], bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_module, "_CHUNK", 7)
    largest = float(ml_dtypes.finfo(dtype).max)
    array = np.full((4, 5), largest, np.float64).astype(dtype)
    assert is_finite(array)
    array[:2] = -array[:2]
    assert is_finite(array)
    for place in (0, 6, 7, 19):
        damaged = array.copy()
        damaged.reshape(-1)[place] = np.array(bad, np.float64).astype(dtype)
        assert not is_finite(damaged)
        assert not is_finite(damaged.reshape(5, 4).T)


def test_integers_are_finite_and_complex_numbers_are_looked_at() -> None:
    assert is_finite(np.array([-1, 2**31 - 1], np.int32))
    assert not is_finite(np.array([1, complex(0, np.inf)], np.complex64))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_all_zero_means_every_element_and_at_least_one(dtype: np.dtype[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "_CHUNK", 7)
    array = np.zeros((4, 5), dtype)
    assert is_all_zero(array)
    assert not is_all_zero(array[:0])
    for place in (0, 7, 19):
        other = array.copy()
        other.reshape(-1)[place] = 1
        assert not is_all_zero(other)


@pytest.mark.parametrize(("place", "parts"), [(0, [4096]), (1024, [4096, 16384]), (99_999, None), (None, None)])
def test_of_a_tensor_with_numbers_only_its_beginning_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int | None, parts: list[int] | None
) -> None:
    array = np.zeros((1000, 100), np.float32)
    if place is not None:
        array.reshape(-1)[place] = 1e-30
    save_weights(tmp_path / "a.safetensors", {"a": array, "empty": array[:0]})
    reader, read = open_weights(tmp_path / "a.safetensors"), WeightsReader.read_bytes
    asked: list[int] = []

    def noted(self: WeightsReader, name: str, start: int, count: int) -> np.ndarray:
        asked.append(count)
        return read(self, name, start, count)

    monkeypatch.setattr(WeightsReader, "read_bytes", noted)
    assert holds_only_zeros(reader, "a") == (place is None)
    assert asked == parts or (parts is None and sum(asked) == array.nbytes)
    assert not holds_only_zeros(reader, "empty")


def test_negative_zeros_are_zeros() -> None:
    assert is_all_zero(np.full(3, -0.0, ml_dtypes.bfloat16))


def test_looking_for_bad_values_needs_little_memory() -> None:
    for array in (np.zeros(1 << 22, np.float32), np.zeros(1 << 22, ml_dtypes.bfloat16)):
        tracemalloc.start()
        try:
            assert is_finite(array)
            assert is_all_zero(array)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 4 << 20


def test_the_reader_is_a_mapping(tmp_path: Path) -> None:
    save_weights(tmp_path / "a.safetensors", {"a": np.zeros(2), "b": np.ones(3)})
    reader: WeightsReader = open_weights(tmp_path / "a.safetensors")
    assert "a" in reader
    assert "c" not in reader
    assert len(reader) == 2
    assert {name: value.shape for name, value in reader.items()} == {"a": (2,), "b": (3,)}
