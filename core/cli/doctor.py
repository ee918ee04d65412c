"""`duosora doctor`: which backends, devices and helpers are here, and how to install what is missing."""

from __future__ import annotations

import importlib.util
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..backend import Backend


@dataclass(frozen=True)
class Package:
    """A package that duosora uses, or can use where it is installed."""

    module: str
    distribution: str
    use: str
    install: str


PACKAGES = (
    Package("numpy", "numpy", "tables, noise, all of core", "pip install duosora"),
    Package("sentencepiece", "sentencepiece", "tokeniser", "pip install duosora"),
    Package("av", "av", "video files", "pip install duosora"),
    Package("PIL", "pillow", "images", "pip install duosora"),
    Package("torch", "torch", "backend torch", 'pip install "duosora[torch]"'),
    Package(
        "flash_attn", "flash-attn", "attention: flash, optional (CUDA)", "pip install flash-attn --no-build-isolation"
    ),
    Package("mindspore", "mindspore", "backend mindspore", 'pip install "duosora[mindspore]"'),
    Package("mindone", "mindone", "cross-check of MindSpore, optional", 'pip install "duosora[mindone]"'),
    Package("decord", "decord2", "reader: decord, optional", "pip install decord2"),
)


def doctor(
    npu_check: Annotated[
        bool,
        typer.Option(
            "--npu-check", help="Also run what is done in a way of its own on the device, and compare the plain way."
        ),
    ] = False,
) -> None:
    """Report what is here and what is missing.

    Backends, versions and devices, and how to install the rest. Exit code 1 when no backend works.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from duosora import __version__

    from ..ascend import ascend_report
    from ..backend import NAMES

    console = Console()
    console.print(f"duosora {__version__}, Python {platform.python_version()}, {platform.platform()}")
    table = Table("package", "version", "used for", "to install")
    for package in PACKAGES:
        version = _version(package)
        install = "" if version else escape(package.install)  # its [torch] is no style
        table.add_row(package.distribution, version or "missing", package.use, install)
    console.print(table)

    working = [backend for backend in map(_working, NAMES) if backend]
    for line in ascend_report():
        print(line)
    if not working:
        print('no backend works here: pip install "duosora[torch]" (GPU, CPU) or "duosora[mindspore]" (Ascend, CPU)')
        raise typer.Exit(1)
    if npu_check:
        for backend in working:
            _compare_forms(backend)


def _version(package: Package) -> str | None:
    from importlib import metadata

    if importlib.util.find_spec(package.module) is None:
        return None
    try:
        return metadata.version(package.distribution)
    except metadata.PackageNotFoundError:
        return "installed"


def _working(name: str) -> Backend | None:
    """The backend, reported in a line, or None with the reason printed."""
    from ..backend import get
    from ..errors import DuosoraError

    try:
        backend = get(name)
    except DuosoraError as error:
        print(f"backend {name}: {error}")
        return None
    versions = ", ".join(f"{key} {value}" for key, value in backend.versions().items())
    memory = backend.device_memory_bytes()
    size = f", {memory / 2**30:.0f} GiB" if memory else ""
    print(f"backend {name}: {versions}{size}; attention kernels: {', '.join(backend.attention_kernels())}")
    return backend


def _compare_forms(backend: Backend) -> None:
    for dtype in ("fp32", "fp16") if backend.on_host else ("fp32", "fp16", "bf16"):
        where = f"{backend.name} on {backend.device}, {dtype}"
        compared = [f"{where}, {name}: {far:.1e} from the plain way" for name, far in backend.compare_forms(dtype)]
        print("\n".join(compared or [f"{where}: nothing is done in a way of its own"]))
