"""What is decided of memory before a run: which encoder is read layer by layer, and how work is done one ahead."""

import threading
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from duosora.core import host_memory
from duosora.core.config.schema import BackendSettings
from duosora.core.errors import ConfigError
from duosora.core.maths.eight_bits import to_eight_bits
from duosora.core.models.finding import open_part
from duosora.core.pipelines import placing
from duosora.core.pipelines.placing import block_bytes, check_offload, check_room, streams_text_encoder, weight_bytes
from duosora.core.reading_ahead import read_ahead

MT5 = open_part("text_encoder", "mt5_xxl")


@pytest.mark.parametrize(
    ("asked", "dtype", "free_gib", "expected"),
    [
        ("auto", "fp32", 16, True),
        ("auto", "fp32", 30, False),
        ("auto", "bf16", 9, True),
        ("auto", "int8", 9, False),
        ("auto", "fp32", None, False),
        ("stream", "fp32", 30, True),
        ("whole", "fp32", 1, False),
    ],
)
def test_an_encoder_that_does_not_fit_is_read_layer_by_layer(
    asked: Any, dtype: str, free_gib: int | None, expected: bool
) -> None:
    told: list[str] = []
    backend: Any = SimpleNamespace(free_memory_bytes=lambda: None if free_gib is None else free_gib * 2**30)
    settings = BackendSettings(text_encoder=asked)
    assert streams_text_encoder(settings, backend, MT5, dtype, told.append) is expected
    assert len(told) == (expected and asked == "auto")
    if told:
        needed = weight_bytes(MT5, dtype) / 2**30
        assert f"takes {needed:.1f} GiB in {dtype}, and {free_gib}.0 GiB are free" in told[0]


def test_a_model_of_classes_has_no_encoder_to_read() -> None:
    settings, backend = BackendSettings(), SimpleNamespace(free_memory_bytes=lambda: 0)
    assert not streams_text_encoder(settings, backend, None, "fp32", pytest.fail)  # type: ignore[arg-type]


T2V = open_part("denoiser", "opensora_plan_v1_3_t2v")


def offload(monkeypatch: pytest.MonkeyPatch, free: int | None, on_host: bool = False, **settings: Any) -> None:
    backend: Any = SimpleNamespace(on_host=on_host, name=settings.pop("name", "torch"))
    monkeypatch.setattr(placing, "free_host_bytes", lambda: free)
    check_offload(BackendSettings(**settings), backend)
    check_room(BackendSettings(**settings), T2V, "bf16")


def test_offloading_without_room_on_the_host_is_refused_with_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = block_bytes(T2V, "bf16")
    assert 0.9 < needed / weight_bytes(T2V, "bf16") < 1
    offload(monkeypatch, 2 * needed, offload="blocks")
    offload(monkeypatch, None, offload="blocks")
    offload(monkeypatch, 0, offload="parts")
    with pytest.raises(ConfigError, match=rf"needs {needed} bytes .* of the host's memory, and {needed} .* are free"):
        offload(monkeypatch, needed, offload="blocks")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    with pytest.raises(ConfigError, match=f"needs {8 * needed} bytes"):
        offload(monkeypatch, 2 * needed, offload="blocks")


def test_offloading_that_saves_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="the device is the host's CPU"):
        offload(monkeypatch, None, on_host=True, offload="blocks")
    with pytest.raises(ConfigError, match="graphs keep all weights"):
        offload(monkeypatch, None, name="mindspore", compile=True, offload="blocks")


def test_two_are_there_at_a_time_and_the_next_is_made_while_one_is_used() -> None:
    made: list[int] = []
    begun = [threading.Event() for _ in range(5)]

    def make(number: int) -> int:
        begun[number].set()
        made.append(number)
        return number

    for count, number in enumerate(read_ahead(make, range(5))):
        assert number == count
        if number < 4:
            assert begun[number + 1].wait(10)
            assert len(made) == number + 2
    assert list(read_ahead(make, [])) == []


def test_what_was_used_is_let_go_of_before_the_next_is_waited_for() -> None:
    made: list[weakref.ref[Weight]] = []
    first_is_gone = threading.Event()

    def make(number: int) -> Weight:
        assert number == 0 or first_is_gone.wait(10)
        made.append(weakref.ref(weight := Weight(), lambda _: first_is_gone.set()))
        return weight

    for weight in read_ahead(make, range(3)):
        del weight
    assert len(made) == 3


class Weight:
    """Something of which it is seen when it goes."""


def test_what_goes_wrong_ahead_is_raised_where_it_is_asked_for() -> None:
    results = read_ahead(lambda number: 1 // number, [1, 0])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_free_memory_is_that_of_the_narrowest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(host_memory, "_GROUPS", ((tmp_path / "memory.max", tmp_path / "memory.current"),))
    assert host_memory.free_host_bytes() is None
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    5000 kB\n")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert host_memory.free_host_bytes() == 5000 * 1024
    (tmp_path / "memory.max").write_text("2000000\n")
    (tmp_path / "memory.stat").write_text("anon 7\ninactive_file 300000\n")
    assert host_memory.free_host_bytes() == 1_300_000


def test_rows_of_eight_bits_are_off_by_half_a_scale() -> None:
    rows = np.random.default_rng(0).standard_normal((7, 50), dtype=np.float32) * 10.0 ** np.arange(-3, 4)[:, None]
    rows = rows.astype(np.float32)
    rows[2] = 0
    rows[3] = -np.abs(rows[3])
    numbers, scales = to_eight_bits(rows)
    assert numbers.dtype == np.int8
    assert np.abs(numbers).max(1).tolist() == [127, 127, 0, 127, 127, 127, 127]
    assert (np.abs(numbers * scales[:, None] - rows) <= 0.5001 * scales[:, None]).all()
    tiny, _ = to_eight_bits(np.full((1, 3), 1e-45, np.float32))
    assert np.abs(tiny).max() <= 127
