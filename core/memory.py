"""Memory that ran out, as one line: how much was asked for, and which settings of the verb need less.

A backend knows its framework's errors (`is_out_of_memory` beside its `create`); those of Python, numpy and the system
are known here.
"""

from __future__ import annotations

import errno
import re
import sys
from typing import Any

from .errors import OutOfMemory
from .seam.backend import NAMES

_SAMPLING = (
    "smaller video.height, video.width, video.frames or batch_size; decode.chunk=1 or decode.tile; "
    "backend.dtype.denoiser=bf16 on an accelerator; backend.offload=blocks there, or parts; "
    "backend.text_encoder=stream; parallel.sequence on several devices"
)
_TRAINING = (
    "a smaller batch_size, with accumulate as many times larger; smaller or shorter clips; compute.recompute_every=1; "
    "compute.dtype=bf16 on an accelerator; compute.encode_chunk=1; parallel.zero=2 and parallel.sequence on several "
    "devices"
)
_COMPARING = "smaller height and width, fewer frames"
SAVINGS = {
    "sample": _SAMPLING,
    "sample-set": _SAMPLING,
    "judge": _SAMPLING,
    "parity": _SAMPLING,
    "train": _TRAINING,
    "calibrate": _TRAINING,
    "cache": "a smaller batch_size; smaller or shorter clips; compute.encode_chunk=1",
    "reconstruct": f"{_COMPARING}; chunk=1; tile; dtype=bf16 on an accelerator",
    "evaluate": _COMPARING,
}
"""What needs less memory, by verb."""

_TOO_BIG_FOR_NUMPY = ("array is too big", "Maximum allowed dimension exceeded")
_SIZE = re.compile(
    r"(?:allocate|(?:alloc|memory|required)[ _]size|, size)\s*:?\s*\[?([\d.]+)\]?\s*(bytes|[KMGTPE]i?B|B)?\b", re.I
)
_UNITS = "KMGTPE"
_EXPONENTS = {"b": 0, "bytes": 0} | {f"{u}{b}".lower(): i for i, u in enumerate(_UNITS, 1) for b in ("B", "iB")}


def out_of_memory(error: BaseException) -> OutOfMemory | None:
    """What to say of an error, where it means that memory has run out."""
    if not (_is_of_host(error) or _is_of_backend(error)):
        return None
    size = _size(str(error))
    return OutOfMemory(f"out of memory{f': {size} were asked for at once' if size else ''}")


def savings(verb: str) -> str:
    """The end of the line for a verb."""
    return f"what needs less: {SAVINGS[verb]}" if verb in SAVINGS else "it takes a machine with more memory"


def _is_of_host(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, ValueError):
        return str(error).startswith(_TOO_BIG_FOR_NUMPY)
    return isinstance(error, MemoryError)


def _is_of_backend(error: BaseException) -> bool:
    """A backend that is not loaded has raised nothing."""
    loaded: list[Any] = [sys.modules.get(f"duosora.backends.{name}") for name in NAMES]
    return any(backend.is_out_of_memory(error) for backend in loaded if backend is not None)


def _size(text: str) -> str | None:
    """How much an error says was asked for."""
    found = _SIZE.search(text)
    if found is None:
        return None
    number, unit = found.groups()
    num_bytes = float(number) * 1024.0 ** _EXPONENTS[(unit or "bytes").lower()]
    exponent = next(each for each in (4, 3, 2) if each == 2 or num_bytes >= 1024.0**each)
    return f"{num_bytes / 1024.0**exponent:.1f} {_UNITS[exponent - 1]}iB"
