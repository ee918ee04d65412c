"""Files made to do harm: nothing in them is ever run, nothing swells, every refusal is one line."""

import builtins
import importlib
import io
import json
import os
import pickle
import pickletools
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from duosora.convert.readers.opening import open_checkpoint
from duosora.convert.readers.pickles import MAX_BYTES, MAX_OPCODES, read_pickle
from duosora.convert.readers.stored import Piece, Stored, StoredTensor, view_of
from duosora.convert.writers import write
from duosora.convert.writers.mindspore_files import write_ckpt
from duosora.convert.writers.torch_files import write_zip
from duosora.core.errors import CheckpointError
from duosora.core.io.files import MAX_TEXT_BYTES
from duosora.core.io.weights import save_weights

from .damage import Arrays, Runs, mutate, read_all, whole_files

PAYLOADS = {
    "os.system": Runs(os.system, "touch harm"),
    "eval": Runs(builtins.eval, "open('harm', 'w')"),
    "exec": Runs(builtins.exec, "open('harm', 'w')"),
    "getattr": Runs(getattr, "a", "upper"),
    "open": Runs(open, "harm", "w"),
    "import": Runs(importlib.import_module, "this"),
    "unpickle": Runs(pickle.loads, pickle.dumps(Runs(os.system, "touch harm"))),
    "torch": Runs(torch.load, "x", None),
}


def torch_zip(path: Path, content: bytes, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", content)
        for name, value in members.items():
            archive.writestr(f"archive/{name}", value)
    return path


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("is_zip", [True, False])
def test_payloads_are_named_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, payload: str, protocol: int, is_zip: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps({"a": [PAYLOADS[payload]]}, protocol)
    path = tmp_path / "x.pt"
    if is_zip:
        torch_zip(path, content)
    else:
        torch.save({}, path, _use_new_zipfile_serialization=False)
        plain = pickle.dumps({}, 2)
        assert plain in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(plain, content, 1))
    with pytest.raises(CheckpointError, match="which no checkpoint needs"):
        open_checkpoint(path)
    assert not (tmp_path / "harm").exists()


MARK_CALLS = {
    "a name that is not even called": b"\x80\x02}X\x01\x00\x00\x00acos\nsystem\ns.",
    "inst": b"(S'touch harm'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'touch harm'\no.",
    "reduce with a made name": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\ntouch harm\x85R.",
    "newobj": b"\x80\x02cos\n_wrap_close\n)\x81.",
    "newobj_ex": b"\x80\x04cos\n_wrap_close\n)}\x92.",
    "inst of a subclass": b"(S'a'\nisubprocess\nPopen\n.",
    "getattr into a class": b"\x80\x02cbuiltins\ngetattr\nclab\nThing\nX\x0b\x00\x00\x00__globals__\x86R.",
    "getattr of a text": b"\x80\x02cbuiltins\ngetattr\nX\x01\x00\x00\x00aX\x05\x00\x00\x00upper\x86R.",
    "getattr out of a module": b"\x80\x02cbuiltins\ngetattr\nctorch\nnn\nX\x04\x00\x00\x00eval\x86R0cbuiltins\neval\n.",
    "a name of a megabyte": b"\x80\x04X\x00\x00\x10\x00" + b"a" * (1 << 20) + b"\x8c\x01b\x93.",
    "an ordered dict of a number": b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.",
    "an ordered dict of texts": b"\x80\x02ccollections\nOrderedDict\n]X\x02\x00\x00\x00aba\x85R.",
    "an array that is none": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)RK\x01b.",
    "numbers of a type without sign": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
    b"ctorch\nByteStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x08tQK\x00K\x08\x85K\x01\x85\x89N}"
    b"X\x03\x00\x00\x00neg\x88stR.",
    "extension": b"\x80\x02\x82\x01.",
    "text persistent id": b"Pharm\n.",
    "reduce of a text": b"\x80\x02X\x02\x00\x00\x00os)R.",
    "call of a dtype": b"\x80\x02ctorch\nfloat32\n)R.",
    "call of a storage class": b"\x80\x02ctorch\nFloatStorage\n)R.",
    "attribute of an allowed module": b"\x80\x02ctorch\nhub.load\n)R.",
    "dotted name": b"\x80\x04\x8c\x0bcollections\x8c\x1fOrderedDict.__init__.__globals__\x93.",
    "build of a namespace from a list": b"\x80\x02cargparse\nNamespace\n)R]b.",
}


@pytest.mark.parametrize("content", MARK_CALLS.values(), ids=MARK_CALLS.keys())
def test_tricks_with_opcodes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError):
        read_pickle(io.BytesIO(content), "x")
    assert not list(tmp_path.iterdir())


def alike(number: int) -> bytes:
    """A number as an opcode; the hashes of all of these are zero, and a table of them is searched for hours."""
    return b"\x8a\x10" + (number * (2**61 - 1)).to_bytes(16, "little")


DANGEROUS = """
os.system posix.system nt.system subprocess.Popen subprocess.check_output commands.getoutput pty.spawn
builtins.eval builtins.exec builtins.compile builtins.open builtins.__import__ builtins.globals builtins.breakpoint
__builtin__.eval __builtin__.file __builtin__.apply importlib.import_module imp.load_source runpy.run_path
runpy._run_code sys.modules shutil.rmtree socket.socket ctypes.CDLL marshal.loads pickle.loads _pickle.loads
cPickle.loads dill.loads cloudpickle.loads joblib.load code.InteractiveInterpreter codeop.compile_command
types.CodeType types.FunctionType operator.attrgetter operator.methodcaller _operator.itemgetter functools.reduce
webbrowser.open urllib.request.urlopen http.client.HTTPSConnection requests.get requests.api.post aiohttp.ClientSession
ftplib.FTP smtplib.SMTP asyncio.create_subprocess_shell timeit.timeit trace.Trace pdb.run bdb.Bdb doctest.debug_script
cProfile.run profile.Profile.run pip.main pip._internal.main ensurepip.bootstrap venv.create idlelib.run.Executive
lib2to3.pgen2.pgen.ParserGenerator pydoc.pipepager pkgutil.resolve_name zipimport.zipimporter atexit.register
tempfile.mktemp sqlite3.connect logging.config.listen io.FileIO io.open_code _io.open codecs.open _thread.start_new
torch.load torch.hub.load torch.jit.load torch.serialization.load torch._dynamo.guards.GuardBuilder.get
torch._inductor.codecache.compile_file torch.utils.cpp_extension.load torch.utils.collect_env.run
torch.utils.bottleneck.__main__.run_cprofile torch.utils._config_module.ConfigModule.load_config
torch.distributed.rpc.rpc_sync torch.multiprocessing.spawn torch.fx.graph_module.reduce_graph_module
numpy.load numpy.save numpy.fromfile numpy.testing._private.utils.runstring numpy.f2py.compile
numpy.distutils.exec_command.exec_command pandas.read_pickle pandas.io.pickle.read_pickle sympy.sympify
yaml.unsafe_load mindspore.load keras.models.load_model lab.Thing.__init__ lab.Thing.__class__.__base__ lab.__dict__
"""


@pytest.mark.parametrize("protocol", [2, 4])
def test_names_of_the_lists_of_scanners_are_refused_wherever_they_stand(protocol: int) -> None:
    for name in DANGEROUS.split():
        module, _, last = name.rpartition(".")
        short = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, last)) + b"\x93"
        mention = short if protocol == 4 else f"c{module}\n{last}\n".encode()
        for content in (mention + b".", b"]" + mention + b"a.", b"clab\nThing\n(" + mention + b"tR."):
            with pytest.raises(CheckpointError, match="can run code"):
                read_pickle(io.BytesIO(b"\x80" + bytes([protocol]) + content), "x")


SWELLING = {
    "tuples of tuples as a key": b"\x80\x02})" + b"".join(b"q\x00h\x00\x86" for _ in range(60)) + b"Ns.",
    "lists of lists": b"\x80\x02]" + b"".join(b"q\x00](h\x00h\x00e" for _ in range(60)) + b".",
    "dictionaries that hold one twice": b"\x80\x02}q\x00"
    + b"".join(b"0}q%c(X\x01\x00\x00\x00ah%cX\x01\x00\x00\x00bh%cu" % (n + 1, n, n) for n in range(21))
    + b".",
    "a dictionary in itself": b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
    "a text of an exabyte": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"a.",
    "a text of a gigabyte": b"\x80\x02X" + struct.pack("<I", 1 << 30) + b"a.",
    "an endless number": b"\x80\x02I" + b"9" * 5000 + b"\n.",
    "a number of a megabyte": b"\x80\x02\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20) + b".",
    "only marks": b"\x80\x02" + b"(" * 100_000,
    "keys that Python hashes alike": b"\x80\x02}(" + b"".join(alike(n) + b"N" for n in range(9)) + b"u.",
    "a table made of a large one again and again": b"\x80\x02]("
    + b"K\x01K\x02\x86" * 50_000
    + b"eq\x000"
    + b"ccollections\nOrderedDict\nh\x00\x85R0" * 1000
    + b"}.",
    "bytes made of a large text again and again": b"\x80\x02X\x00\x00\x10\x00"
    + b"a" * (1 << 20)
    + b"q\x000"
    + b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R0" * 1000
    + b"}.",
    "arrays made of a large text again and again": b"\x80\x02X\x00\x00\x10\x00"
    + b"a" * (1 << 20)
    + b"q\x000"
    + b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01)NNh\x00tb0" * 1000
    + b"}.",
    "objects that hold the same thousands": b"\x80\x02}X\x01\x00\x00\x00a]("
    + b"]" * 30_000
    + b"eq\x00s"
    + b"X\x01\x00\x00\x00b]("
    + b"clab\nThing\nh\x00\x85R" * 100
    + b"es.",
    "memos that Python hashes alike": b"\x80\x02}p" + str(2**61 - 1).encode() + b"\n.",
}


@pytest.mark.parametrize("content", SWELLING.values(), ids=SWELLING.keys())
def test_nothing_swells_or_goes_on_for_ever(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(CheckpointError, match="damaged|too deeply|bytes") as caught:
        open_checkpoint(torch_zip(tmp_path / "x.pt", content))
    assert len(str(caught.value)) < 1000


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["pth", "ckpt", "safetensors"])
def test_tensors_are_not_without_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    write(path, Arrays({str(number): np.ones(1) for number in range(20_000)}), None, False)
    assert len(open_checkpoint(path).weights) == 20_000
    for reader in ("torch_files", "mindspore_files", "opening"):
        monkeypatch.setattr(f"duosora.convert.readers.{reader}.MAX_TENSORS", 19_999)
    with pytest.raises(CheckpointError, match=r"more than 19999 tensors|20000 tensors, expected 1 to 19999"):
        open_checkpoint(path)


def test_names_are_not_longer_than_any(tmp_path: Path) -> None:
    for tree in (
        {"a" * 1025: torch.ones(1)},
        {"a" * 600: {"b" * 600: torch.ones(1)}},
        {"a" * 2000: {"b": torch.ones(1)}},
    ):
        torch.save(tree, tmp_path / "x.pt")
        with pytest.raises(CheckpointError, match="is longer than any"):
            open_checkpoint(tmp_path / "x.pt")
    torch.save({"a" * 1024: torch.ones(1)}, tmp_path / "x.pt")
    assert len(open_checkpoint(tmp_path / "x.pt").weights) == 1


def test_names_of_mindspore_take_no_more_than_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ckpt(tmp_path / "x.ckpt", Arrays({"a" * 4096: np.ones(1), "b": np.ones(1)}))
    with pytest.raises(CheckpointError, match="is longer than any"):
        open_checkpoint(tmp_path / "x.ckpt")
    monkeypatch.setattr("duosora.convert.readers.mindspore_files._MAX_TEXTS", 4096)
    with pytest.raises(CheckpointError, match="names of 41[0-9]* bytes before its end"):
        open_checkpoint(tmp_path / "x.ckpt")
    write_ckpt(tmp_path / "y.ckpt", Arrays({"a" * 4097: np.ones(1)}))
    with pytest.raises(CheckpointError, match="a name of 4097 bytes"):
        open_checkpoint(tmp_path / "y.ckpt")


def test_a_name_written_twice_is_found_at_once(tmp_path: Path) -> None:
    header = b"{" + b"".join(b'"%x":0,' % number for number in range(200_000)) + b'"30d3f":0}'
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match="'30d3f' is written twice"):  # comparing each with each takes an hour
        open_checkpoint(tmp_path / "x.safetensors")


def test_a_file_without_tensors_is_no_checkpoint(tmp_path: Path) -> None:
    write_zip(tmp_path / "x.pth", Arrays())
    save_weights(tmp_path / "x.safetensors", {})
    for ending in ("pth", "safetensors"):
        with pytest.raises(CheckpointError, match="no weights found|0 tensors, expected"):
            open_checkpoint(tmp_path / f"x.{ending}")


HARMLESS = {
    "a frame of an exabyte": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"}.",
    "a huge memo": b"\x80\x02}r\xff\xff\xff\xff.",
    "a namespace made of a large one again and again": b"\x80\x02}("
    + b"".join(b"M" + struct.pack("<H", n) + b"N" for n in range(65536))
    + b"uq\x00"
    + b"cargparse\nNamespace\n)Rh\x00b0" * 100_000
    + b".",
}


@pytest.mark.parametrize("content", HARMLESS.values(), ids=HARMLESS.keys())
def test_what_only_seems_large_is_passed_over(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(CheckpointError, match="no weights found"):
        open_checkpoint(torch_zip(tmp_path / "x.pt", content))


def test_a_small_file_cannot_become_a_huge_one(tmp_path: Path) -> None:
    torch.save({str(number): torch.ones(1).expand(1 << 20) for number in range(20)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="repeat stored numbers too often"):
        open_checkpoint(tmp_path / "x.pt")
    storage = torch.ones(1 << 20)
    torch.save({str(number): storage for number in range(8)}, tmp_path / "tied.pt")
    assert len(open_checkpoint(tmp_path / "tied.pt").weights) == 8


def test_columns_of_a_matrix_cannot_be_read_for_days(tmp_path: Path) -> None:
    storage = torch.ones(1 << 20)
    torch.save({str(number): storage[:: (1 << 20) - 1] for number in range(40)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="repeat stored numbers too often"):
        open_checkpoint(tmp_path / "x.pt")


def test_one_number_cannot_fill_the_memory(tmp_path: Path) -> None:
    piece = Piece(tmp_path, 0, 1 << 30)
    with pytest.raises(CheckpointError, match="repeats stored numbers too often for a weight"):
        view_of("x", piece, (2**28 + 2**24 + 1,), (0,), 0, np.dtype(np.float32))
    assert view_of("x", piece, (2**28 + 2**24,), (0,), 0, np.dtype(np.float32)).nbytes > piece.nbytes


def test_a_file_that_becomes_shorter_is_an_error(tmp_path: Path) -> None:
    weights = open_checkpoint(saved_zip(tmp_path)).weights
    os.truncate(tmp_path / "x.pt", 100)
    with pytest.raises(CheckpointError, match="ends inside tensor 'a'"):
        weights.read_bytes("a", 0, 24)


def test_two_numbers_far_apart_need_no_memory(tmp_path: Path) -> None:
    distance = 1 << 30
    with (tmp_path / "sparse").open("wb") as file:
        for number, place in ((1.5, 0), (2.5, 4 * distance)):
            file.seek(place)
            file.write(struct.pack("<f", number))
    piece = Piece(tmp_path / "sparse", 0, 4 * distance + 4)
    stored = Stored("sparse", {"a": StoredTensor((2,), np.dtype(np.float32), (piece,), (distance,))})
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(stored["a"], [1.5, 2.5])
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_a_huge_index_is_refused(tmp_path: Path) -> None:
    for name in ("pytorch_model.bin.index.json", "model.safetensors.index.json"):
        (tmp_path / name).write_text(" " * (MAX_TEXT_BYTES + 1))
        with pytest.raises(CheckpointError, match=f"more than {MAX_TEXT_BYTES} bytes"):
            open_checkpoint(tmp_path / name)


@pytest.mark.parametrize("shard", ["../x.bin", "/x.bin", "a\\x.bin", "", ".", "x" * 300, "a\0b", "gone.bin"])
def test_a_shard_that_is_no_file_beside_its_index_is_refused(tmp_path: Path, shard: str) -> None:
    index = tmp_path / "in" / "pytorch_model.bin.index.json"
    index.parent.mkdir()
    torch.save({"a": torch.ones(1)}, tmp_path / "x.bin")
    index.write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(CheckpointError, match="beside its index|no such file|cannot be read"):
        open_checkpoint(index)


@pytest.mark.parametrize("ending", ["bin", "safetensors"])
def test_one_shard_alone_is_no_model(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"model-00002-of-00003.{ending}"
    write(path, Arrays(a=np.ones(2, np.float32)), None, False)
    with pytest.raises(CheckpointError, match="one of 3 files, without the index"):
        open_checkpoint(tmp_path)
    assert set(open_checkpoint(path).weights) == {"a"}
    path.rename(tmp_path / f"model-00001-of-00001.{ending}")
    assert set(open_checkpoint(tmp_path).weights) == {"a"}


@pytest.mark.parametrize("name", ["a\nb", "\ud800", "\0"])
def test_names_that_are_no_names_are_refused(tmp_path: Path, name: str) -> None:
    torch.save({name: torch.ones(2)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="is no name"):
        open_checkpoint(tmp_path / "x.pt")


def test_two_paths_to_one_name_are_refused(tmp_path: Path) -> None:
    torch.save({"a": {"b": torch.ones(2)}, "a.b": torch.zeros(2)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"two tensors are called 'a\.b'"):
        open_checkpoint(tmp_path / "x.pt")


def test_a_pickle_has_not_opcodes_without_number() -> None:
    content = b"\x80\x02" + b"N0" * (MAX_OPCODES // 2) + b"}."
    with pytest.raises(CheckpointError, match=f"more than {MAX_OPCODES} opcodes"):
        read_pickle(io.BytesIO(content), "x")
    assert read_pickle(io.BytesIO(content[:-4] + b"}."), "x") == {}


def test_a_pickle_has_a_largest_size(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="MiB|bytes"):
        open_checkpoint(torch_zip(tmp_path / "x.pt", b"\x80\x02" + b"N0" * (MAX_BYTES // 2) + b"}."))


def saved_zip(tmp_path: Path) -> Path:
    torch.save({"a": torch.ones(2, 3), "b": torch.zeros(4)}, tmp_path / "x.pt")
    return tmp_path / "x.pt"


def rewritten(path: Path, change: Callable[[str, bytes], list[tuple[str, bytes]]], method: int = 0) -> Path:
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            for new, held in change(name, content):
                archive.writestr(new, held)
    return path


def test_a_compressed_member_is_refused(tmp_path: Path) -> None:
    bomb = rewritten(saved_zip(tmp_path), lambda name, held: [(name, held + b"\0" * 10**7)], zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="is compressed or encrypted"):
        open_checkpoint(bomb)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="two zip members"):
        open_checkpoint(rewritten(saved_zip(tmp_path), lambda name, held: [(name, held), (name, held)]))


@pytest.mark.parametrize("bad", ["../evil", "/evil", "a/../../evil", "c:evil", "a\\evil"])
def test_names_that_lead_outside_are_refused(tmp_path: Path, bad: str) -> None:
    path = rewritten(saved_zip(tmp_path), lambda name, held: [(name, held)])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(bad, b"harm")
    with pytest.raises(CheckpointError, match="leads out of the file"):
        open_checkpoint(path)


def test_members_that_share_bytes_are_refused(tmp_path: Path) -> None:
    path = saved_zip(tmp_path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        places = {info.filename.split("/", 1)[1]: info.header_offset for info in archive.infolist()}
    directory = content.rindex(b"data/1") - 46
    while content[directory : directory + 4] != b"PK\x01\x02":
        directory -= 1
    content[directory + 42 : directory + 46] = struct.pack("<I", places["data/0"])
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="two ways|shares bytes"):
        open_checkpoint(path)


def lying(shape: str, strides: str, offset: int = 0) -> bytes:
    """A tensor of eight floats that says it is another."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x08tQ"
    rest = f"I{offset}\n(".encode() + shape.encode() + b"t(" + strides.encode() + b"t\x89ccollections\nOrderedDict\n)R"
    return b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"tRs."


def local(name: bytes, content: bytes) -> bytes:
    """A member where it lies: its own header and its bytes."""
    size = len(content)
    return struct.pack("<4s5H3L2H", b"PK\x03\x04", 0, 0, 0, 0, 0, 0, size, size, len(name), 0) + name + content


def listed(body: bytes, sizes: dict[bytes, int], flags: int = 0, packed: int = 0) -> bytes:
    """A zip file with a directory that says what it likes about the members in its body."""
    directory = b""
    for name, size in sizes.items():
        place = body.index(name) - 30
        numbers = (0, 0, flags, 0, 0, 0, 0, size + packed, size, len(name), 0, 0, 0, 0, 0, place)
        directory += struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *numbers) + name
    end = (0, 0, len(sizes), len(sizes), len(directory), len(body), 0)
    return body + directory + struct.pack("<4s4H2LH", b"PK\x05\x06", *end)


PICKLE = local(b"a/data.pkl", lying("I2\n", "I1\n"))
FIRST = local(b"a/data/0", bytes(32))
SIZES = {b"a/data.pkl": len(PICKLE) - 40, b"a/data/0": 32}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (listed(PICKLE + local(b"a/b", FIRST), {**SIZES, b"a/b": len(FIRST)}), "shares bytes with another"),
        (listed(PICKLE + FIRST, {**SIZES, b"a/data/0": 40}), "members and directory share bytes"),
        (listed(PICKLE + FIRST, {**SIZES, b"a/data/0": 4000}), "is cut off"),
        (listed(PICKLE + FIRST, SIZES, flags=1), "compressed or encrypted"),
        (listed(PICKLE + FIRST, SIZES, packed=1), "announces two sizes"),
        (listed(PICKLE + FIRST, SIZES).replace(b"a/data/0", b"a/data/x", 1), "described in two ways"),
    ],
)
def test_a_directory_that_lies_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    honest = tmp_path / "honest.pt"
    honest.write_bytes(listed(PICKLE + FIRST, SIZES))
    assert set(open_checkpoint(honest).weights) == {"a"}
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=problem):
        open_checkpoint(tmp_path / "x.pt")


def test_a_directory_that_promises_millions_of_members_is_refused(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "x.pt", pickle.dumps({}, 2))
    content = path.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    end_64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1 << 40, 1 << 40, 1 << 40, 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    last = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    path.write_bytes(content[:end] + end_64 + locator + last)
    with pytest.raises(CheckpointError, match="more than any checkpoint"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ("I9\n", "I1\n", 0),
        ("I8\n", "I1\n", 1),
        ("I2\nI8\n", "I8\nI1\n", 0),
        ("I-1\n", "I1\n", 0),
        ("I2\n", "I-1\n", 4),
        ("I8\n", "I1\n", -4),
        ("I1000000000000\n", "I0\n", 0),
        ("I4611686018427387904\nI4611686018427387904\n", "I0\nI0\n", 0),
        ("I8\n", "", 0),
        ("F8\n", "I1\n", 0),
        ("I1\n" * 40, "I1\n" * 40, 0),
    ],
)
def test_tensors_cannot_reach_outside_their_storage(tmp_path: Path, shape: str, strides: str, offset: int) -> None:
    path = torch_zip(tmp_path / "x.pt", lying(shape, strides, offset), **{"data/0": bytes(32)})
    with pytest.raises(CheckpointError):
        open_checkpoint(path)
    honest = torch_zip(tmp_path / "y.pt", lying("I2\nI4\n", "I4\nI1\n"), **{"data/0": bytes(32)})
    assert open_checkpoint(honest).weights.shape("a") == (2, 4)


def test_functions_are_not_handed_arguments_without_number(tmp_path: Path) -> None:
    content = lying("I8\n", "I1\n").replace(b"OrderedDict\n)RtR", b"OrderedDict\n)R" + b"N" * 20 + b"tR")
    with pytest.raises(CheckpointError, match="damaged"):
        open_checkpoint(torch_zip(tmp_path / "x.pt", content, **{"data/0": bytes(32)}))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return whole_files(tmp_path_factory.mktemp("whole"))


KINDS = ["zip", "zip of torch", "legacy", "mindspore", "safetensors"]
ENDING = {"safetensors": ".safetensors"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_anywhere_is_an_error_of_one_line_or_right(
    tmp_path: Path, whole: dict[str, bytes], kind: str
) -> None:
    path = tmp_path / f"x{ENDING.get(kind, '.pt')}"
    path.write_bytes(whole[kind])
    assert read_all(path) is None
    for part in range(64):
        path.write_bytes(whole[kind][: len(whole[kind]) * part // 64])
        error = read_all(path)
        if kind != "mindspore":
            assert error is not None, part
        if error is not None:
            assert "\n" not in error
            assert str(path) in error


@pytest.mark.parametrize("kind", KINDS)
def test_random_damage_is_an_error_of_one_line_or_harmless(tmp_path: Path, whole: dict[str, bytes], kind: str) -> None:
    path = tmp_path / f"x{ENDING.get(kind, '.pt')}"
    errors: list[Any] = []
    for seed in range(100):
        path.write_bytes(mutate(whole[kind], seed))
        errors.append(read_all(path))
    refused = [error for error in errors if error is not None]
    assert len(refused) >= 10
    assert all(len(error) < 2000 for error in refused)


def test_big_endian_files_are_refused(tmp_path: Path) -> None:
    def turned(name: str, held: bytes) -> list[tuple[str, bytes]]:
        return [(name, b"big" if name.endswith("byteorder") else held)]

    with pytest.raises(CheckpointError, match="saved with big-endian numbers"):
        open_checkpoint(rewritten(saved_zip(tmp_path), turned))
    torch.save({"a": torch.ones(2)}, tmp_path / "y.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "y.pt").read_bytes()
    place = content.index(b"\x88", content.index(b"little_endian"))
    (tmp_path / "y.pt").write_bytes(content[:place] + b"\x89" + content[place + 1 :])
    with pytest.raises(CheckpointError, match="saved with big-endian numbers"):
        open_checkpoint(tmp_path / "y.pt")


def test_programs_are_no_checkpoints(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "x.pt", pickle.dumps({}, 2), **{"code/__torch__.py": b"import os"})
    with pytest.raises(CheckpointError, match="is a TorchScript program"):
        open_checkpoint(path)


def test_bytes_after_a_legacy_file_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "x.pt").write_bytes((tmp_path / "x.pt").read_bytes() + b"more")
    with pytest.raises(CheckpointError, match="4 bytes at its end belong to no tensor"):
        open_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize(("table", "name"), [({"a": "x.bin"}, "b"), ({"a": "x.bin", "b": "x.bin", "c": "x.bin"}, "c")])
def test_shards_that_differ_from_their_index_are_refused(tmp_path: Path, table: dict[str, str], name: str) -> None:
    torch.save({"a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "x.bin")
    (tmp_path / "x.bin.index.json").write_text(json.dumps({"weight_map": table}))
    with pytest.raises(CheckpointError, match=f"shard x.bin and the index differ at '{name}'"):
        open_checkpoint(tmp_path / "x.bin.index.json")


def field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message, shorter than 128 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


def value(tag: str, dims: bytes, content: bytes, kind: bytes = b"Float32") -> bytes:
    """A tensor in a file of MindSpore, whose axes are shorter than 128."""
    axes = b"".join(bytes([8, axis]) for axis in dims)
    return field(1, field(1, tag.encode()) + field(2, axes + field(2, kind) + field(3, content)))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            value("a", b"\x01", bytes(4)) + value("a", b"\x01", bytes(4), b"Float64"),
            "slices of tensor 'a' do not agree",
        ),
        (value("a", b"\x01" * 33, bytes(4)), "too many axes"),
        (value("a", b"\x01", bytes(4))[:-1], "is cut off"),
        (field(1, field(1, b"") * 63), "has no tensor"),
        (b"\x0a\xd0\x0f" + field(1, b"") * 1000, "more than 64 fields of a tensor"),
        (b"\x0a\xd3\x0f\x12\xd0\x0f" + field(2, b"") * 1000, "more than 64 fields of a tensor"),
        (value("a", b"\x02", bytes(4)), "has 4 bytes"),
        (value("a", b"\x01", bytes(4), b"Int4"), "unknown type"),
        (field(1, field(1, b"a")), "has no tensor"),
        (field(1, field(1, b"a") + field(3, b"table")), "only tensors are read"),
        (field(2, b"a"), "begins with"),
        (value("a", b"", bytes(4)) + field(2, b"a"), "or an encrypted one"),
    ],
)
def test_values_of_mindspore_that_make_no_tensor_are_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=problem):
        open_checkpoint(tmp_path / "x.ckpt")


def test_mindspore_files_that_lie_are_refused(tmp_path: Path, whole: dict[str, bytes]) -> None:
    content = whole["mindspore"]
    path = tmp_path / "x.ckpt"
    for old, new in [(b"Float32", b"Float64"), (b"Float32", b"Strange"), (b"\x08\x02\x08\x03", b"\x08\x02\x08\x04")]:
        assert old in content
        path.write_bytes(content.replace(old, new, 1))
        with pytest.raises(CheckpointError, match=r"bytes|unknown type"):
            open_checkpoint(path)


def test_every_opcode_is_known_or_refused() -> None:
    from duosora.convert.readers.pickles import _ACTIONS, _PUSHED_AS_THEY_ARE

    names = {opcode.name for opcode in pickletools.opcodes}
    assert names >= _PUSHED_AS_THEY_ARE | set(_ACTIONS)
    refused = names - _PUSHED_AS_THEY_ARE - set(_ACTIONS) - {"STOP"}
    assert refused == {
        "EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER", "READONLY_BUFFER",
    }  # fmt: skip
