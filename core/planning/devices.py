"""Devices to plan for: this one, as measured; well-known ones by their data sheets; others by a small file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.loading import read_values
from ..errors import ConfigError
from ..host_memory import free_host_bytes
from ..printable import short_name
from ..seam.backend import DTYPES
from .calibration import Calibration, calibrated
from .constants import (
    ACCELERATOR_CALL,
    ACCELERATOR_LOAD,
    ACCELERATOR_START,
    CONTEXT_BYTES,
    DRAW,
    HOST_CALL,
    HOST_ELEMENTWISE,
    HOST_FLOOR,
    HOST_FLOP,
    HOST_LOAD,
    HOST_START,
    OF_ATTENTION,
    OF_COPIES,
    OF_LINKS,
    OF_PRODUCTS,
)
from .here import num_threads
from .rates import DeviceRates, GuessedRates

GIB = 1 << 30


@dataclass(frozen=True)
class Sheet:
    """What a data sheet says of a device."""

    title: str
    memory: float
    """GB, of 10^9 bytes."""
    fp32: float
    """TFLOP/s in matrix products, without sparsity."""
    bf16: float
    """TFLOP/s, in fp16 as well."""
    copies: float
    """GB/s between its memory and its cores."""
    link: float
    """GB/s to another one of the same machine, in one direction."""
    host: float
    """GB/s to and from the host."""
    backend: str = "torch"


SHEETS: Mapping[str, Sheet] = {
    "gpu-24g": Sheet("GeForce RTX 4090", 24, 82.6, 165.2, 1008, 32, 32),
    "gpu-24g-a10": Sheet("A10", 24, 31.2, 125, 600, 32, 32),
    "gpu-24g-l4": Sheet("L4", 24, 30.3, 121, 300, 32, 32),
    "gpu-40g": Sheet("A100 40 GB", 40, 19.5, 312, 1555, 300, 32),
    "gpu-80g": Sheet("H100 SXM", 80, 67, 989, 3350, 450, 64),
    "gpu-141g": Sheet("H200 SXM", 141, 67, 989, 4800, 450, 64),
    "ascend-910b": Sheet("Ascend 910B3, 64 GB", 64, 74, 295, 1600, 196, 64, backend="mindspore"),
}
"""Nothing here was measured. Without sparsity, sums in float32, links in one direction.

GPUs: NVIDIA's Ada GPU architecture whitepaper (RTX 4090), A10, L4, A100, H100 and H200 Tensor Core GPU data sheets.
Ascend: memory, 1.6 TB/s and 353 TFLOP/s of the 24 cores of a 910B2 are those of "Atlas A2" in CANN's guide to moving
operators between platforms; 295 are the 20 cores of a 910B3, and a quarter of it in fp32. The 392 GB/s of its links in
both directions were found in no document of its maker.
"""
CPU = "cpu"
_HOW = "memory, fp32, bf16, copies, link, host"


@dataclass(frozen=True)
class Device:
    """Where a run is planned for."""

    name: str
    title: str
    backend: str
    on_host: bool
    memory: int | None
    """Bytes that are there for a run; None: unknown."""
    floor: int
    """Of them, those that the libraries take."""
    start: float
    """Seconds of the first calls, whatever the run."""
    rates: Mapping[str, DeviceRates]
    """By dtype; others than these the device has not."""
    link: float
    """Bytes a second to a neighbour."""
    host: float
    """Bytes a second to and from the host."""
    source: str
    """Where the figures are from, for a person."""
    is_guess: bool

    @property
    def kind(self) -> str:
        """What constants go by: the backend on a CPU, or that it is an accelerator."""
        return self.backend if self.on_host else "accelerator"

    def of(self, dtype: str) -> DeviceRates:
        """The rates in a dtype. Raises: ConfigError for one that the device has not."""
        if dtype not in self.rates:
            raise ConfigError(
                f"dtype = {dtype}: {self.title} was measured in {', '.join(self.rates)} only; use one of these"
            )
        return self.rates[dtype]


def device_named(name: str, backend: str) -> Device:
    """A device by its name, or by a file that describes it. backend: for a CPU.

    Raises: ConfigError, saying which are known and how to describe another, for an unknown one.
    """
    if name == CPU:
        return this_device(backend, CPU)
    if name in SHEETS:
        return _of_sheet(name, SHEETS[name], "from its data sheet, not measured")
    if name.endswith((".yaml", ".yml")):
        return _of_sheet(name, _read(Path(name)), f"as {name} says, not measured")
    raise ConfigError(
        f"--on {short_name(name)}: there are {CPU}, {', '.join(SHEETS)}; describe another in a file NAME.yaml with "
        f"title (a text) and {_HOW} (GB, TFLOP/s twice, GB/s three times)"
    )


def this_device(backend: str, device: str, memory: int | None = None) -> Device:
    """The device of a run on this machine. memory: of the device, where it is not the host's."""
    found, note = calibrated(backend, device)
    if device.startswith(CPU):
        return _of_host(backend, found, note)
    if found is not None:
        return _of_calibration(found, note, memory)
    kind = "ascend-910b" if device.startswith("npu") else _nearest(memory)
    return _of_sheet(kind, SHEETS[kind], f"guessed from the data sheet of {SHEETS[kind].title}; {note}", memory)


def _of_host(backend: str, found: Calibration | None, note: str) -> Device:
    rates: Mapping[str, DeviceRates] = found.dtypes if found else _host_rates()
    source = "; ".join(filter(None, (found.describe() if found else "guessed", note)))
    floor, start = (found.floor, found.start) if found else (HOST_FLOOR, HOST_START)
    title = f"this CPU with {num_threads()} threads"
    return Device(
        CPU,
        title,
        backend,
        True,
        free_host_bytes(),
        floor,
        start,
        rates,
        HOST_ELEMENTWISE,
        HOST_ELEMENTWISE,
        source,
        not found,
    )


def _host_rates() -> dict[str, DeviceRates]:
    threads = num_threads()
    return {
        dtype: GuessedRates(threads * flop, HOST_ELEMENTWISE, HOST_CALL, HOST_LOAD, DRAW, OF_ATTENTION)
        for dtype, flop in HOST_FLOP.items()
    }


def _of_calibration(found: Calibration, note: str, memory: int | None) -> Device:
    sheet = SHEETS["ascend-910b" if found.device.startswith("npu") else _nearest(memory or found.memory)]
    source = "; ".join(filter(None, (found.describe(), note)))
    return Device(
        found.device,
        found.device,
        found.backend,
        False,
        memory or found.memory,
        max(found.floor, CONTEXT_BYTES),
        found.start,
        found.dtypes,
        sheet.link * 1e9 * OF_LINKS,
        sheet.host * 1e9 * OF_LINKS,
        source,
        False,
    )


def _of_sheet(name: str, sheet: Sheet, source: str, memory: int | None = None) -> Device:
    rates = {dtype: _sheet_rates(sheet, sheet.fp32 if dtype == "fp32" else sheet.bf16) for dtype in DTYPES}
    room = memory or int(sheet.memory * 1e9)
    links = (sheet.link * 1e9 * OF_LINKS, sheet.host * 1e9 * OF_LINKS)
    return Device(
        name, sheet.title, sheet.backend, False, room, CONTEXT_BYTES, ACCELERATOR_START, rates, *links, source, True
    )


def _sheet_rates(sheet: Sheet, tflop: float) -> DeviceRates:
    copies = sheet.copies * 1e9 * OF_COPIES
    flop = tflop * 1e12 * OF_PRODUCTS
    return GuessedRates(flop, copies, ACCELERATOR_CALL, ACCELERATOR_LOAD, DRAW, OF_ATTENTION / OF_PRODUCTS)


def _nearest(memory: int | None) -> str:
    """Of the known GPUs the one with the most like memory."""
    gpus = {name: sheet for name, sheet in SHEETS.items() if name.startswith("gpu")}
    return min(gpus, key=lambda name: abs(gpus[name].memory * 1e9 - (memory or 80e9)))


def _read(path: Path) -> Sheet:
    """Raises: ConfigError for a file that is none, or describes no device."""
    values: dict[str, Any] = dict(read_values(path))
    title = values.pop("title", path.stem)
    backend = values.pop("backend", "torch")
    known = _HOW.split(", ")
    for key in known:
        value = values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
            raise ConfigError(
                f"{path}: {key}: needs a number above 0, got {short_name(str(value))}; it describes a device by {_HOW}"
            )
    if unknown := sorted(set(values) - set(known)):
        raise ConfigError(
            f"{path}: {short_name(str(unknown[0]))}: unknown; a device is described by title, backend, {_HOW}"
        )
    if not isinstance(title, str) or backend not in ("torch", "mindspore"):
        raise ConfigError(f"{path}: title needs a text, backend torch or mindspore")
    return Sheet(title, **{key: float(values[key]) for key in known}, backend=backend)
