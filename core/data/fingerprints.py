"""Short names of what a cached tensor was computed from: a text, a file, a model. All are SHA-256 in hexadecimal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import MediaError
from ..io.files import sha256
from ..io.weights import WeightsReader
from ..layout import Constant, Weights
from ..loading import check_headers
from ..models.finding import Part

FileIdentity = Literal["stat", "content"]
"""How a media file is known again: by its size and time of change, or by all its bytes."""

SAMPLE_BYTES = 4096
"""Of each tensor, at its beginning, middle and end, go into the fingerprint of a model."""
LATER_FIELDS = (("pooled", False),)
"""Fields of specs, with the value that stands for what they were before: caches of that time stay good."""


def text_fingerprint(text: str) -> str:
    """Of a caption, exactly as the tokeniser gets it."""
    return hashlib.sha256(text.encode()).hexdigest()


def json_fingerprint(value: Any) -> str:
    """Of plain values; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def file_fingerprint(path: Path, name: str, by: FileIdentity = "stat") -> str:
    """Of a media file that the annotation calls `name`; by content, the name does not matter.

    Raises: MediaError when the file cannot be read.
    """
    try:
        if by == "content":
            return sha256(path)
        stat = path.stat()
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror or error})") from error
    return json_fingerprint([name, stat.st_size, stat.st_mtime_ns])


def model_fingerprint(part: Part) -> str:
    """Of a model: its spec, and the name, shape, dtype and three samples of the bytes of every weight.

    A model that was trained further differs everywhere, so samples tell it apart, and twenty gigabytes of mT5-xxl need
    not be read. How a folder is cut into shards, and constants and foreign weights in it, do not matter.
    Raises: CheckpointError and LayoutError as opening and checking the weights do.
    """
    return weights_fingerprint(part.spec, part.open())


def weights_fingerprint(spec: Any, weights: Weights) -> str:
    """The same of a spec and its weights. Raises: as model_fingerprint."""
    layout = spec.layout()
    told = {name: value for name, value in asdict(spec).items() if (name, value) not in LATER_FIELDS}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    held = check_headers(layout, weights)
    for name, held_name in sorted(held.items()):
        if held_name is None or isinstance(layout[name].init, Constant):
            continue
        digest.update(f"{name} {layout[name].shape}".encode())
        for block in _samples(weights, held_name):
            digest.update(block)
    return digest.hexdigest()


def _samples(weights: Weights, name: str) -> Iterator[bytes]:
    """The dtype of a tensor and its first, middle and last bytes."""
    if isinstance(weights, WeightsReader):
        dtype, shape = weights.dtype(name), weights.shape(name)
        total = dtype.itemsize * int(np.prod(shape))
    else:
        values = np.ascontiguousarray(weights[name])
        dtype, total = values.dtype, values.nbytes
        flat = values.reshape(-1).view(np.uint8)
    yield str(dtype).encode()
    count = min(SAMPLE_BYTES, total)
    for start in sorted({0, (total - count) // 2, total - count}):
        if isinstance(weights, WeightsReader):
            yield weights.read_bytes(name, start, count).tobytes()
        else:
            yield flat[start : start + count].tobytes()
