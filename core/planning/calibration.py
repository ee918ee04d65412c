"""DeviceRates of this machine, measured once for each backend and dtype and kept in the user's cache folder."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BackendMissing, ConfigError, DuosoraError
from ..io.files import atomic_write, read_json
from ..io.weights import open_weights
from ..layout import FreshWeights
from ..models.finding import open_part
from ..seam import backend as backends
from ..seam.backend import DTYPES, Backend
from ..seam.models import Given
from ..shapes import LatentShape
from .constants import ITEMSIZE
from .here import framework_version, num_threads, processor, resident_bytes
from .operations import ELEMENTS, FEW, OPERATIONS, Operation
from .rates import MeasuredRates, RateTable

FILE = "calibration.json"
VERSION = 1
"""Of the file; others are measured anew."""
TINY = "tiny"
"""The presets that first calls are made of."""
SECONDS = 0.12
"""That each operation is repeated for, its shortest time counting."""
LOADED = {"vocab_size": 32_768, "d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 2, "num_heads": 8}
"""Sizes of the text encoder that is written, read and placed to measure loading."""
ON_HOST = ("fp32", "bf16")
"""fp16 is no dtype for a CPU."""


@dataclass(frozen=True)
class Calibration:
    """What was measured of one backend on one device with so many threads."""

    machine: str
    backend: str
    device: str
    threads: int
    version: str
    """Of the framework."""
    date: str
    floor: int
    """Bytes that the process grew by over the first calls, of very small models: code that is paged in, pools and
    caches of the libraries."""
    start: float
    """Seconds that these first calls took."""
    dtypes: Mapping[str, MeasuredRates]
    memory: int | None = None
    """Bytes of the device, where it is not the host's."""

    def describe(self) -> str:
        """Where the figures are from, in a line."""
        return f"measured {self.date} with {self.backend} {self.version}, {self.threads} threads"


def calibration_file() -> Path:
    """In the user's cache folder. Raises: ConfigError where there is no such folder."""
    told = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(told) if os.path.isabs(told) else Path.home() / ".cache") / "duosora" / FILE
    except RuntimeError as error:
        raise ConfigError("figures of this machine have no place: set HOME or XDG_CACHE_HOME") from error


def calibrated(backend: str, device: str) -> tuple[Calibration | None, str]:
    """What was measured here of a backend on a device; and why there is nothing, or what is different by now, or ""."""
    advice = "duosora plan --calibrate measures"
    try:
        path = calibration_file()
    except ConfigError as error:
        return None, f"{error}; then {advice} it"
    try:
        entries = _read(path)
    except FileNotFoundError:
        return None, f"this machine has not been measured; {advice} in a minute"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"{path} cannot be used ({type(error).__name__}); {advice} anew"
    own = [each for each in entries if (each.backend, each.device) == (backend, device)]
    here = [each for each in own if each.machine == processor()]
    if not here:
        others = f"{path} has figures of another machine ({own[0].machine})" if own else f"{path} has none of {backend}"
        return None, f"{others} on {device}; {advice} this one"
    found = min(here, key=lambda each: abs(each.threads - num_threads()))
    if found.threads != num_threads():
        return found, f"measured with {found.threads} threads, not {num_threads()}; {advice} anew"
    if found.version != framework_version(backend):
        return found, f"measured with {backend} {found.version}; {advice} {framework_version(backend)} anew"
    return found, ""


def keep(measured: Calibration) -> Path:
    """Add what was measured to the file, in the place of what was there of the same. Raises: ConfigError."""
    path = calibration_file()
    try:
        before = _read(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        before = []
    kept = [each for each in before if _key(each) != _key(measured)]
    with atomic_write(path, overwrite=True, error=ConfigError) as temporary:
        written = {"version": VERSION, "entries": [_written(each) for each in (*kept, measured)]}
        temporary.write_text(json.dumps(written, indent=1), encoding="utf-8")
    return path


def measure(name: str, device: str) -> Calibration:
    """Measure a backend in this process, which has not computed with it before.

    Raises: BackendMissing when it is not there.
    """
    backend = backends.get(name, device)
    before, start = resident_bytes(), _clock(backend)()
    _first_calls(backend)
    floor, seconds = max(0, resident_bytes() - before - _tiny_bytes()), _clock(backend)() - start
    dtypes: dict[str, MeasuredRates] = {}
    for dtype in ON_HOST if backend.on_host else DTYPES:
        with suppress(RuntimeError, TypeError, ValueError, DuosoraError):  # a dtype that the device has not
            dtypes[dtype] = _rates(backend, dtype)
    if not dtypes:
        raise BackendMissing(f"{name} on {backend.device} computes in none of {', '.join(DTYPES)}")
    found = framework_version(name)
    place = (processor(), name, backend.device, num_threads())
    return Calibration(*place, found, str(date.today()), floor, seconds, dtypes, backend.device_memory_bytes())


def _first_calls(backend: Backend) -> None:
    """What every run does before it computes at length: build models of each kind, and call them once."""

    def fresh(spec: Any) -> Any:
        return backend.build(spec, FreshWeights(spec.layout(), 0))

    with backend.inference():
        encoder, spec, vae = (open_part(kind, TINY).spec for kind in ("text_encoder", "denoiser", "vae"))
        ids = backend.asarray(np.ones((1, 4), np.int64))
        backend.to_numpy(fresh(encoder)(ids, ids))
        denoiser, latent = fresh(spec), LatentShape(2, 8, 8)
        text = np.ones((2, 4, spec.text_channels), np.float32)
        condition = denoiser.condition(Given(text=text), latent)
        noise = np.ones((2, spec.latent_channels, *latent), np.float32)
        times = backend.asarray(np.ones(2, np.float32))
        backend.to_numpy(denoiser(backend.asarray(noise), times, condition))
        backend.to_numpy(fresh(vae).decode(backend.asarray(noise[:1])))


def _tiny_bytes() -> int:
    """Of the weights of the models of the first calls."""
    specs: list[Any] = [open_part(kind, TINY).spec for kind in ("text_encoder", "denoiser", "vae")]
    return sum(ITEMSIZE["fp32"] * spec.layout().num_parameters for spec in specs)


def _clock(backend: Backend) -> Callable[[], float]:
    """The processor's time where that is the run's, which other work does not disturb."""
    return time.process_time if backend.on_host and num_threads() == 1 else time.perf_counter


def _rates(backend: Backend, dtype: str) -> MeasuredRates:
    clock = _clock(backend)
    tables: dict[str, list[tuple[float, float, float]]] = {}
    for operation in OPERATIONS:
        seconds = _shortest(backend.operation(operation.name, operation.sizes, dtype), clock)
        tables.setdefault(operation.name, []).append((*operation.place, operation.work / seconds))
    many, few = (Operation("elementwise", sizes) for sizes in (ELEMENTS, FEW))
    call = _shortest(backend.operation(few.name, few.sizes, dtype), clock)
    passing = _shortest(backend.operation(many.name, many.sizes, dtype), clock)
    read_and_written = 4 * many.work * ITEMSIZE[dtype] / ITEMSIZE["fp32"]  # three operands and the result
    load, draw = _loading(backend, dtype, clock)
    return MeasuredRates(
        {name: RateTable(points) for name, points in tables.items()}, read_and_written / passing, call, load, draw
    )


def _shortest(run: Callable[[], None], clock: Callable[[], float]) -> float:
    run()
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < 3 or time.perf_counter() < end:
        repeats = max(1, int(2e-4 / times[0])) if times and times[0] > 0 else 1  # clocks are coarse
        start = clock()
        for _ in range(repeats):
            run()
        times.append((clock() - start) / repeats)
    return max(min(times), 1e-9)


def _loading(backend: Backend, dtype: str, clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds for each weight that is loaded from a file, and drawn."""
    from safetensors.numpy import save_file

    spec = replace(open_part("text_encoder", TINY).spec, **LOADED)
    layout = spec.layout()
    start = clock()
    weights = {name: np.ascontiguousarray(array) for name, array in FreshWeights(layout, 0).items()}
    draw = (clock() - start) / layout.num_parameters
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        save_file(weights, file)
        seconds = _shortest(lambda: backend.build(spec, open_weights(file), dtype), clock)
        return seconds / layout.num_parameters, draw


def _key(each: Calibration) -> tuple[Any, ...]:
    return each.machine, each.backend, each.device, each.threads


def _written(each: Calibration) -> dict[str, Any]:
    dtypes = {
        dtype: {**vars(rates), "tables": {name: list(table.points) for name, table in rates.tables.items()}}
        for dtype, rates in each.dtypes.items()
    }
    return {**vars(each), "dtypes": dtypes}


def _read(path: Path) -> list[Calibration]:
    """Raises: OSError, ValueError, KeyError, TypeError, AttributeError for what is no such file."""
    values = read_json(path)
    if values["version"] != VERSION:
        raise ValueError("of another version")
    try:
        return [_calibration(entry) for entry in values["entries"]]
    except OverflowError as error:
        raise ValueError("a number beyond all measures") from error


def _calibration(entry: Mapping[str, Any]) -> Calibration:
    dtypes = {dtype: _measured(rates) for dtype, rates in entry["dtypes"].items() if dtype in DTYPES}
    texts = {name: str(entry[name]) for name in ("machine", "backend", "device", "version", "date")}
    if not dtypes:
        raise ValueError("without a dtype")
    threads, floor, start = int(entry["threads"]), int(entry["floor"]), _positive(entry["start"])
    if floor < 0:
        raise ValueError(f"a floor of {floor}")
    memory = entry["memory"]
    memory = None if memory is None else int(_positive(memory))
    return Calibration(**texts, threads=threads, floor=floor, start=start, dtypes=dtypes, memory=memory)


def _measured(rates: Mapping[str, Any]) -> MeasuredRates:
    tables = {name: RateTable(tuple(_points(rates["tables"][name]))) for name in {each.name for each in OPERATIONS}}
    figures = {name: _positive(rates[name]) for name in ("elementwise", "call", "load", "draw")}
    return MeasuredRates(tables, **figures)


def _points(written: Any) -> Iterator[tuple[float, float, float]]:
    if not written:
        raise ValueError("a table without points")
    for count, width, rate in written:
        yield _positive(count), _positive(width), _positive(rate)


def _positive(value: Any) -> float:
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError(f"a rate of {number}")
    return number
