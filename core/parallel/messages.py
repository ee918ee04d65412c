"""Arrays and settings as bytes, to be shared by the ranks of a group: a safetensors file with JSON in it, no pickle.

Packed by the safetensors library, which does it in memory; files of weights, which come from strangers, are read by
`core.io` (docs/architecture.md says why there are two).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import load, save

_HEADER = "json"


def pack(arrays: Mapping[str, np.ndarray], header: Any = None) -> bytes:
    """Named arrays and anything that JSON can hold."""
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    return save({_HEADER: text} | {f".{name}": np.ascontiguousarray(array) for name, array in arrays.items()})


def unpack(message: bytes) -> tuple[dict[str, np.ndarray], Any]:
    """What was packed."""
    found = load(message)
    header = json.loads(found.pop(_HEADER).tobytes())
    return {name[1:]: array for name, array in found.items()}, header
