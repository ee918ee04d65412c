"""The host's memory: how much is free, and arrays that give theirs back at once."""

from __future__ import annotations

import mmap
import re
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

_MEMINFO = Path("/proc/meminfo")
_GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)
"""Of a container, of both versions: the files of its limit and of what it uses."""


def free_host_bytes() -> int | None:
    """That may be taken without swapping, within the limit of a container; None where the system does not say."""
    found = [free for free in (_of_machine(), *(_of_group(*files) for files in _GROUPS)) if free is not None]
    return min(found, default=None)


def gib(num_bytes: int) -> str:
    """Bytes as people say them."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 0.1 * 2**30 else f"{num_bytes / 2**20:.1f} MiB"


def new_array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An array of zeros whose memory goes back to the system as soon as nobody has it.

    What numpy takes, the C library may keep for later: with threads that take and others that let go, without end.
    """
    memory = mmap.mmap(-1, max(1, prod(shape) * dtype.itemsize))
    return np.frombuffer(memory, np.uint8, prod(shape) * dtype.itemsize).view(dtype).reshape(shape)


def _of_machine() -> int | None:
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", _read(_MEMINFO), re.M)
    return int(found.group(1)) * 1024 if found else None


def _of_group(limit: Path, used: Path) -> int | None:
    """What it uses counts cached files too, which give way."""
    most, now = _read(limit).strip(), _read(used).strip()
    if not (most.isdigit() and now.isdigit()):  # without a limit it says "max"
        return None
    cached = re.search(r"^(?:total_)?inactive_file (\d+)$", _read(limit.with_name("memory.stat")), re.M)
    return max(0, int(most) - int(now) + (int(cached.group(1)) if cached else 0))


def _read(file: Path) -> str:
    try:
        return file.read_text("ascii", "replace")
    except OSError:
        return ""
