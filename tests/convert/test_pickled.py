"""Pickles as people really have them: of an NPU, of other versions, with all kinds of things beside the weights."""

import argparse
import collections
import datetime
import decimal
import enum
import functools
import io
import pathlib
import pickle
import pickletools
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from duosora.convert.readers.opening import open_checkpoint
from duosora.convert.readers.pickles import read_pickle
from duosora.core.errors import CheckpointError

from .damage import Runs

Named = Callable[[str], Any]


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Named:
    """Functions and classes under names of libraries that are not there, for pickle to write."""

    def make(name: str, kind: Any = None) -> Any:
        module, _, last = name.rpartition(".")
        held = kind or types.FunctionType((lambda *arguments: None).__code__, {}, last)
        held.__module__, held.__qualname__ = module, last
        parts = module.split(".")
        for parent in (".".join(parts[: count + 1]) for count in range(len(parts))):
            if parent not in sys.modules:
                monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        monkeypatch.setattr(sys.modules[module], last, held, raising=False)
        return held

    return make


def saved(tmp_path: Path, tree: Any, **options: Any) -> Path:
    torch.save(tree, tmp_path / "x.pt", **options)
    return tmp_path / "x.pt"


def storage(tensor: torch.Tensor) -> Any:
    return tensor._typed_storage()


BASE = torch.arange(24.0).reshape(4, 6)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("form", [True, 2, 29, None, "enumeration"])
@pytest.mark.parametrize("where", ["utils.storage", "utils.tensor_methods"])
def test_tensors_saved_on_an_npu_are_read(tmp_path: Path, named: Named, is_zip: bool, form: Any, where: str) -> None:
    rebuild = named(f"torch_npu.{where}._rebuild_npu_tensor")
    if form == "enumeration":
        form = Runs(named("torch_npu.npu._format.Format"), 29)
    view = BASE.t()[1:3]
    arguments = storage(BASE), view.storage_offset(), tuple(view.shape), view.stride(), False, {}, form
    state = {"a.weight": Runs(rebuild, *arguments), "b.weight": torch.ones(2)}
    held = open_checkpoint(saved(tmp_path, state, _use_new_zipfile_serialization=is_zip)).weights
    np.testing.assert_array_equal(held["a.weight"], view.numpy())  # type: ignore[index]


def test_an_npu_tensor_may_have_the_negative_bit(tmp_path: Path, named: Named) -> None:
    rebuild = named("torch_npu.utils.storage._rebuild_npu_tensor")
    state = {"a": Runs(rebuild, storage(BASE), 0, (4, 6), (6, 1), False, {}, 2, {"neg": True})}
    held = open_checkpoint(saved(tmp_path, state)).weights
    np.testing.assert_array_equal(held["a"], -BASE.numpy())  # type: ignore[index]


def test_an_npu_tensor_inside_a_parameter_is_read(tmp_path: Path, named: Named) -> None:
    rebuild = named("torch_npu.utils.storage._rebuild_npu_tensor")
    inner = Runs(rebuild, storage(BASE), 0, (4, 6), (6, 1), False, {}, 2)
    state = {"a": Runs(torch._utils._rebuild_parameter, inner, True, {})}
    args = storage(BASE), 0, (4, 6), (6, 1), False, {}, 2
    state["b"] = Runs(torch._tensor._rebuild_from_type_v2, rebuild, torch.nn.Parameter, args, {})
    held = open_checkpoint(saved(tmp_path, state)).weights
    for name in "ab":
        np.testing.assert_array_equal(held[name], BASE.numpy())  # type: ignore[index]


@pytest.mark.parametrize("kind", ["torch.npu.FloatStorage", "torch_npu.npu.FloatStorage", "torch.cuda.FloatStorage"])
def test_storages_of_devices_are_read(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path, {"a": BASE})
    module, _, name = kind.rpartition(".")
    rewrite(
        path,
        lambda content: content.replace(b"ctorch\nFloatStorage\n", f"c{module}\n{name}\n".encode()).replace(
            text(b"cpu"), text(b"npu:0")
        ),
    )
    assert b"npu:0" in path.read_bytes()
    np.testing.assert_array_equal(open_checkpoint(path).weights["a"], BASE.numpy())  # type: ignore[index]


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("function", ["_rebuild_device_tensor_from_numpy", "_rebuild_xla_tensor"])
def test_tensors_written_as_arrays_are_read(
    tmp_path: Path, named: Named, protocol: int, order: Any, function: str
) -> None:
    rebuild = named(f"torch._utils.{function}")
    array = np.asarray(np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32), order=order)
    state = {
        "a": Runs(rebuild, array, torch.float32, "xla:0", False),
        "b": Runs(rebuild, array, torch.bfloat16, "npu:0", False),
        "c": Runs(rebuild, np.arange(3), torch.int64, "npu:0", False),
    }
    held = open_checkpoint(saved(tmp_path, state, pickle_protocol=protocol)).weights
    np.testing.assert_array_equal(held["a"], array)  # type: ignore[index]
    np.testing.assert_array_equal(held["b"], array.astype(ml_dtypes.bfloat16))  # type: ignore[index]
    np.testing.assert_array_equal(held["c"], np.arange(3))  # type: ignore[index]


def test_tensors_of_a_device_written_as_those_of_the_cpu_are_read(tmp_path: Path) -> None:
    rebuild = torch._utils._rebuild_device_tensor_from_cpu_tensor
    state = {name: Runs(rebuild, BASE.t(), dtype, "npu:0", True) for name, dtype in
             (("a", torch.float32), ("b", torch.bfloat16))}  # fmt: skip
    held = open_checkpoint(saved(tmp_path, state)).weights
    np.testing.assert_array_equal(held["a"], BASE.t().numpy())  # type: ignore[index]
    np.testing.assert_array_equal(held["b"], BASE.t().numpy().astype(ml_dtypes.bfloat16))  # type: ignore[index]
    np.testing.assert_array_equal(held.read_bytes("b", 6, 4).view(ml_dtypes.bfloat16), held["b"].reshape(-1)[3:5])  # type: ignore[index]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32])
def test_the_negative_bit_is_applied(tmp_path: Path, dtype: torch.dtype) -> None:
    turned = torch._neg_view(BASE.to(dtype))
    assert turned.is_neg()
    held = open_checkpoint(saved(tmp_path, {"a": turned, "b": turned.t()})).weights
    expected = turned.resolve_neg().float().numpy()
    np.testing.assert_array_equal(held["a"].astype(np.float32), expected)  # type: ignore[index]
    np.testing.assert_array_equal(held["b"].astype(np.float32), expected.T)  # type: ignore[index]


def test_the_conjugate_bit_is_applied(tmp_path: Path) -> None:
    numbers = torch.complex(BASE, BASE + 1)
    held = open_checkpoint(saved(tmp_path, {"a": numbers.conj(), "c": numbers})).weights
    np.testing.assert_array_equal(held["a"], numbers.conj().resolve_conj().numpy())  # type: ignore[index]
    np.testing.assert_array_equal(held["c"], numbers.numpy())  # type: ignore[index]


@pytest.mark.parametrize("is_zip", [True, False])
def test_one_storage_of_two_types_is_refused(tmp_path: Path, is_zip: bool) -> None:
    state = {"a": torch.ones(4), "b": torch.ones(4).int()}
    path = saved(tmp_path, state, _use_new_zipfile_serialization=is_zip)
    described = path.read_bytes()
    keys = [text for text in texts(path, is_zip) if text.isdigit()]
    assert len(set(keys)) == 2
    first, second = (key.encode() for key in dict.fromkeys(keys))
    if is_zip:
        rewrite(path, lambda content: content.replace(text(second), text(first)))
    else:
        path.write_bytes(described.replace(text(second), text(first).ljust(len(text(second)), b"0"), 1))
    with pytest.raises(CheckpointError, match="storage '[0-9]+' has two types"):
        open_checkpoint(path)


def text(content: bytes) -> bytes:
    return b"X" + len(content).to_bytes(4, "little") + content


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    """The same zip file with another pickle."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, change(content) if name.endswith("data.pkl") else content)


def texts(path: Path, is_zip: bool) -> list[str]:
    """The texts of a file's tree."""
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            content = archive.read("x/data.pkl")
    else:
        file = io.BytesIO(path.read_bytes())
        for _ in range(3):
            read_pickle(file, "x")
        content = file.read()
    return [held for opcode, held, _ in pickletools.genops(content) if opcode.name == "BINUNICODE"]


class Color(enum.Enum):
    RED = 1


class Size(enum.IntEnum):
    LARGE = 1


class Flags(enum.Flag):
    A = 1
    B = 2


class Settings:
    def __init__(self) -> None:
        self.lr = 0.1
        self.itself = self


class Table(dict[Any, Any]):
    pass


class ManyArguments:
    def __new__(cls, *, size: int = 1) -> Any:
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> Any:
        return (), {"size": 3}


BESIDE = {
    "datetime": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    "timedelta": datetime.timedelta(1),
    "enum": Color.RED,
    "integer enum": Size.LARGE,
    "flags": Flags.A | Flags.B,
    "partial": functools.partial(int, base=2),
    "partial of a built-in function": functools.partial(max, 3),
    "built-in functions": [len, print, sorted, round],
    "exceptions": [ValueError("x"), KeyboardInterrupt(), UserWarning("x")],
    "namespace": argparse.Namespace(a=Color.RED),
    "simple namespace": types.SimpleNamespace(a=1),
    "settings": Settings(),
    "table": Table({1: 2}),
    "path": pathlib.PurePosixPath("a/b"),
    "defaultdict": collections.defaultdict(list, {1: [2]}),
    "counter": collections.Counter("abc"),
    "deque": collections.deque([1]),
    "bytearray": bytearray(b"abc"),
    "complex": 1j,
    "slice": slice(1, 2),
    "range": range(3),
    "set": {1, 2},
    "frozenset": frozenset({1}),
    "decimal": decimal.Decimal("1.5"),
    "bytes": b"abc",
    "class": Settings,
    "type of None": type(None),
    "ellipsis": ...,
    "member of a class": Runs(getattr, Color, "RED"),
    "keys of all kinds": {(1, "a"): 1, Color.RED: 2, None: 3, 1.5: 4},
    "arguments with names": ManyArguments(),
    "array": np.arange(6).reshape(2, 3),
    "array of texts": np.array(["a", "b"]),
    "array of objects": np.array([None, 1], dtype=object),
    "number of numpy": np.float64(0.5),
    "dtype of numpy": np.dtype(">f4"),
    "random state": np.random.RandomState(0),
    "generator": np.random.default_rng(0),
    "bit generator": np.random.PCG64(0),
    "device": torch.device("cpu"),
    "size": torch.Size([1, 2]),
    "dtype": torch.float8_e4m3fnuz if hasattr(torch, "float8_e4m3fnuz") else torch.float32,
    "layout": torch.strided,
    "optimiser": torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]),
    "module": torch.nn.Linear(2, 2),
    "sparse tensor": torch.ones(2, 2).to_sparse(),
    "tensor in a set": frozenset({torch.ones(1)}),
    "of a plain class with a tensor": Runs(Settings, torch.ones(1)),
    "unicode": "ÿ\ud7ff",
    "large number": 2**100,
}


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("beside", BESIDE)
def test_what_hangs_on_no_weight_is_passed_over(tmp_path: Path, beside: str, protocol: int) -> None:
    state = {"state_dict": {"a.weight": BASE}, "beside": BESIDE[beside], "after": [BESIDE[beside]]}
    held = open_checkpoint(saved(tmp_path, state, pickle_protocol=protocol))
    assert held.wrapper == ("state_dict",)
    np.testing.assert_array_equal(held.weights["a.weight"], BASE.numpy())  # type: ignore[index]


@pytest.mark.parametrize(
    "beside", ["datetime", "enum", "partial", "settings", "set", "array", "bytearray", "namespace"]
)
def test_the_old_format_is_as_patient(tmp_path: Path, beside: str) -> None:
    state = {"state_dict": {"a.weight": BASE}, "beside": BESIDE[beside]}
    held = open_checkpoint(saved(tmp_path, state, _use_new_zipfile_serialization=False))
    np.testing.assert_array_equal(held.weights["a.weight"], BASE.numpy())  # type: ignore[index]


def test_what_is_left_aside_is_said(tmp_path: Path) -> None:
    state = {
        "state_dict": {"a.weight": BASE},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2), "step": torch.ones(1)}}},
        "history": [torch.ones(1)],
        "figures": np.ones(3),
        "when": BESIDE["datetime"],
        "scheduler": torch.optim.SGD([torch.nn.Parameter(torch.ones(2))]),
        "epoch": 3,
    }
    aside = "; ".join(open_checkpoint(saved(tmp_path, state)).aside)
    assert "optimizer (2 tensors); history (1 tensor); figures (1 array); when (datetime.datetime)" in aside
    assert "scheduler (torch.optim.sgd.SGD, with tensors)" in aside
    assert "epoch" not in aside


def test_arrays_alone_are_told_to_become_tensors(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"left aside: state_dict.a \(1 array\); arrays of numpy are not taken.*from_numpy"
    ):
        open_checkpoint(saved(tmp_path, {"state_dict": {"a": np.ones(3)}}))


def unread(tmp_path: Path, tensor: Any, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(saved(tmp_path, {"state_dict": {"a": BASE, "odd": tensor}}, **options))
    assert "'odd'" in str(caught.value)
    assert "can run code" not in str(caught.value)
    return str(caught.value)


def test_tensors_that_are_not_supported_are_named(tmp_path: Path) -> None:
    ones = torch.ones(2, 2)
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    for tensor, what in (
        (ones.to_sparse(), "is sparse, which is not supported"),
        (ones.to_sparse_csr(), "is sparse, which is not supported"),
        (ones.to("meta"), "is on the device meta"),
        (ones.to(torch.complex128), "is of the type ComplexDoubleStorage, which is not supported"),
        (ones.to(torch.float8_e4m3fnuz), "is of the type float8_e4m3fnuz, which is not supported"),
        (torch.quantize_per_tensor(ones, 0.1, 0, torch.qint8), "is quantised, which is not supported"),
        (nested, "is nested, which is not supported"),
    ):
        assert what in unread(tmp_path, tensor)


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_weight_that_something_unknown_makes_is_named(tmp_path: Path, named: Named, protocol: int) -> None:
    rebuild = named("lab.tensors.rebuild")
    for tensor in (
        Runs(rebuild, torch.ones(2)),
        Runs(rebuild, [{"deep": [torch.ones(2)]}]),
        Runs(torch._tensor._rebuild_from_type_v2, rebuild, torch.Tensor, (torch.ones(1),), {}),
        Runs(torch._utils._rebuild_parameter, Runs(rebuild, torch.ones(2)), True, {}),
    ):
        said = unread(tmp_path, tensor, pickle_protocol=protocol)
        assert "is made by lab.tensors.rebuild, which is not known here" in said
        assert "torch.save(model.state_dict(), FILE)" in said


def test_a_weight_that_is_no_tensor_is_not_left_aside(tmp_path: Path, named: Named) -> None:
    rebuild = named("lab.tensors.from_bytes")
    for value, what in (
        (np.ones((2, 2), np.float32), r"is an array of numpy, float32 \[2, 2\]; save tensors"),
        (np.float32(1), "is made by numpy.*multiarray.scalar"),
        (Runs(rebuild, b"abcd", (2, 2)), "is made by lab.tensors.from_bytes, which is not known here"),
    ):
        path = saved(tmp_path, {"state_dict": {"a.weight": BASE, "b.weight": value}})
        with pytest.raises(CheckpointError, match=f"tensor 'b.weight' {what}"):
            open_checkpoint(path)


def test_a_single_tensor_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds a single tensor instead of a dictionary of tensors"):
        open_checkpoint(saved(tmp_path, BASE))


def test_a_subclass_of_a_tensor_is_no_plain_tensor(tmp_path: Path, named: Named) -> None:
    packed = named("bitsandbytes.nn.modules.Params4bit", type("Params4bit", (), {}))
    plain = storage(BASE), 0, (4, 6), (6, 1), False, {}
    made = Runs(torch._tensor._rebuild_from_type_v2, torch._utils._rebuild_tensor_v2, packed, plain, {})
    assert "is made by bitsandbytes.nn.modules.Params4bit" in unread(tmp_path, made)


def test_a_whole_model_is_told_to_save_its_weights(tmp_path: Path) -> None:
    for tree in (torch.nn.Linear(2, 2), {"model": torch.nn.Linear(2, 2), "epoch": 1}):
        for is_zip in (True, False):
            with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear.*state_dict"):
                open_checkpoint(saved(tmp_path, tree, _use_new_zipfile_serialization=is_zip))


def test_an_ordered_dict_of_python_2_is_read(tmp_path: Path) -> None:
    """As in the published heads of LPIPS: a list of lists is handed to the class."""
    path = saved(tmp_path, {"here": 0, "a": BASE, "b": BASE + 1}, _use_new_zipfile_serialization=False)
    held = Runs(collections.OrderedDict, [["a", BASE], ["b", BASE + 1]])
    for is_zip in (True, False):
        torch.save(held, path, _use_new_zipfile_serialization=is_zip)
        weights = open_checkpoint(path).weights
        assert list(weights) == ["a", "b"]
        np.testing.assert_array_equal(weights["b"], BASE.numpy() + 1)  # type: ignore[index]


def test_published_heads_of_lpips_are_read() -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    folder = Path(torchmetrics.__file__).parent / "functional/image/lpips_models"
    for file in sorted(folder.glob("*.pth")):
        weights = open_checkpoint(file).weights
        expected = torch.load(file, map_location="cpu", weights_only=True)
        assert set(weights) == set(expected)
        for name, tensor in expected.items():
            np.testing.assert_array_equal(weights[name], tensor.numpy())  # type: ignore[index]


def test_weights_in_a_default_dict_and_in_old_classes_are_read(tmp_path: Path) -> None:
    tree = collections.defaultdict(dict, {"a": Runs(torch.nn.Parameter, BASE), "b": BASE})
    weights = open_checkpoint(saved(tmp_path, tree)).weights
    np.testing.assert_array_equal(weights["a"], BASE.numpy())  # type: ignore[index]


OPCODES = {
    "inst": (b"(I1\nidatetime\ndate\n.", "datetime.date"),
    "obj": (b"(cdatetime\ndate\nI1\no.", "datetime.date"),
    "reconstructor": (b"ccopy_reg\n_reconstructor\n(clab\nThing\nc__builtin__\nobject\nNtR(dS'a'\nI1\nsb.", None),
    "call of what was made": (b"clab\nmaker\n)R)R.", "lab.maker"),
    "new object with names": (b"\x80\x04clab\nThing\n)}X\x01\x00\x00\x00aK\x01s\x92.", "lab.Thing"),
    "a plain object": (b"\x80\x02cbuiltins\nobject\n)\x81.", "builtins.object"),
}


@pytest.mark.parametrize("content", OPCODES.values(), ids=OPCODES.keys())
def test_objects_of_all_protocols_are_noted(content: tuple[bytes, str | None]) -> None:
    found = read_pickle(io.BytesIO(content[0]), "x")
    assert found.name == (content[1] or "copy_reg._reconstructor")


def test_a_value_may_be_doubled_on_the_stack() -> None:
    assert read_pickle(io.BytesIO(b"(I1\n2t."), "x") == (1, 1)


def test_a_plain_pickle_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"a": np.ones(2)}))
    with pytest.raises(CheckpointError, match=r"is a pickle but no file of torch\.save"):
        open_checkpoint(tmp_path / "x.pkl")
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps({"a": np.ones(2), "StructuredToParameterName@@": {"a": "b"}}))
    with pytest.raises(CheckpointError, match="is a checkpoint of PaddlePaddle"):
        open_checkpoint(tmp_path / "x.pdparams")


def test_a_program_of_torchscript_is_named(tmp_path: Path) -> None:
    class Small(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    torch.jit.trace(Small(), torch.ones(1)).save(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="is a TorchScript program.*state_dict"):
        open_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("compressed", [True, False])
def test_other_zip_files_are_named(tmp_path: Path, compressed: bool) -> None:
    (np.savez_compressed if compressed else np.savez)(tmp_path / "x.npz", a=np.ones(3))
    with pytest.raises(CheckpointError, match=r"is an archive of numpy arrays \(\.npz\)"):
        open_checkpoint(tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED if compressed else 0) as archive:
        archive.writestr("model/config.json", "{}" * 100)
    with pytest.raises(CheckpointError, match="is a zip file but none of torch.save.*unpack it first"):
        open_checkpoint(tmp_path / "x.zip")
