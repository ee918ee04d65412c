"""Memory that runs out is one line: how much was asked for, and real settings that need less."""

import errno
import re
from collections.abc import Callable

import numpy as np
import pytest

from duosora.core import memory
from duosora.core.cli import main as command
from duosora.core.config.schema import EvaluateConfig, ReconstructConfig, SampleConfig
from duosora.core.config.settings import list_settings
from duosora.core.config.training import TrainConfig
from duosora.core.errors import OutOfMemory
from duosora.core.memory import SAVINGS, out_of_memory

SCHEMAS = {"sample": SampleConfig, "sample-set": SampleConfig, "judge": SampleConfig, "parity": SampleConfig}
SCHEMAS |= {"train": TrainConfig, "calibrate": TrainConfig, "cache": TrainConfig, "reconstruct": ReconstructConfig}
SCHEMAS |= {"evaluate": EvaluateConfig}


def raised_by(work: Callable[[], object]) -> Exception:
    try:
        work()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    ("work", "text"),
    [
        (lambda: np.empty(10**14), "out of memory: 728.0 TiB were asked for at once"),
        (lambda: np.empty((10**18, 10**3)), "out of memory"),
        (lambda: np.empty(10**19), "out of memory"),
        (lambda: bytearray(10**15), "out of memory"),
    ],
)
def test_memory_that_python_or_numpy_lacks_is_known(work: Callable[[], object], text: str) -> None:
    found = out_of_memory(raised_by(work))
    assert isinstance(found, OutOfMemory)
    assert str(found).startswith(text)


def test_memory_that_the_system_lacks_is_known_and_other_errors_are_not() -> None:
    assert out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory")) is not None
    for other in (OSError(errno.ENOENT, "none"), ValueError("3 frames"), RuntimeError("a bug"), KeyError("memory")):
        assert out_of_memory(other) is None


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 40000000000000 bytes.", "36.4 TiB"),
        ("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 139.81 GiB", "20.0 GiB"),
        ("NPU out of memory. Tried to allocate 512.00 MiB (NPU 0; 60.97 GiB total capacity)", "512.0 MiB"),
        ("CUDA out of memory. Tried to allocate 2.00 MiB.", "2.0 MiB"),
        ("Unable to allocate 698. GiB for an array with shape (1, 62500)", "698.0 GiB"),
        ("Device(id:0) memory isn't enough and alloc failed, kernel name: Add, alloc size: 17179869184B.", "16.0 GiB"),
        ("Malloc device memory failed, size[1073741824], ret[207001], Device 0", "1.0 GiB"),
        ("Out of Memory!!! Request memory size: 2147483648B, device free size 12B", "2.0 GiB"),
        ("Allocate memory failed", None),
        ("out of memory", None),
    ],
)
def test_the_size_that_was_asked_for_is_read(text: str, size: str | None) -> None:
    found = out_of_memory(MemoryError(text))
    assert str(found) == (f"out of memory: {size} were asked for at once" if size else "out of memory")


@pytest.mark.parametrize("verb", SAVINGS)
def test_what_saves_memory_are_settings_of_the_verb(verb: str) -> None:
    known = {setting.path for setting in list_settings(SCHEMAS[verb])}
    groups = {path.rpartition(".")[0] for path in known}
    named = set(re.findall(r"[a-z]\w*(?:\.\w+)+|\w+(?==)|\b(?:height|width|frames|tile|batch_size)\b", SAVINGS[verb]))
    assert named
    assert {name for name in named if name not in known | groups and not any(p.endswith(name) for p in known)} == set()


@pytest.mark.parametrize(("verb", "end"), [("sample", SAVINGS["sample"]), ("inspect", "a machine with more memory")])
def test_a_verb_without_memory_ends_with_one_line(
    verb: str, end: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["duosora", verb])
    monkeypatch.setattr(command, "app", lambda **_: np.empty(10**14))
    with pytest.raises(SystemExit) as left:
        command.main()
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("duosora: out of memory: 728.0 TiB")
    assert line.endswith(end)


def test_another_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "app", lambda **_: [][1])
    with pytest.raises(IndexError):
        command.main()


def test_a_backend_that_is_not_loaded_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in memory.NAMES:
        monkeypatch.delitem(memory.sys.modules, f"duosora.backends.{name}", raising=False)
    assert out_of_memory(RuntimeError("CUDA out of memory")) is None
