"""The machine that this process is on: its name, threads and memory, without a framework."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def processor() -> str:
    """Its name, and how many cores there are."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8", "replace"), re.M)
    except OSError:
        found = None
    name = found.group(1).strip() if found else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def num_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_threads() -> int:
    """That a framework will compute with."""
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(told) if told.isdigit() and int(told) else num_cores()


def resident_bytes(most: bool = False) -> int:
    """Of this process now, or at most since `reset_most`."""
    entry = "VmHWM" if most else "VmRSS"
    found = re.search(rf"^{entry}:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    return int(found.group(1)) * 1024 if found else 0


def reset_most() -> None:
    """Count the most resident memory from now on."""
    Path("/proc/self/clear_refs").write_text("5")


def framework_version(name: str) -> str:
    """Of an installed package, found without importing it; "" where it is not."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
