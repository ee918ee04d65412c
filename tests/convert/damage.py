"""Damaged and hostile files for the tests, and by hand, many more of them:

python tests/convert/damage.py [--mutations 20000]
"""

import argparse
import io
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from duosora.convert.readers.opening import open_checkpoint
from duosora.convert.readers.stored import CHUNK_BYTES
from duosora.convert.writers import write
from duosora.core.errors import DuosoraError

ENDINGS = {"zip": ".pth", "legacy": ".pt", "mindspore": ".ckpt", "safetensors": ".safetensors"}
MAX_SECONDS = 60


class Arrays(dict[str, np.ndarray]):
    """Arrays as writers take them."""

    def shape(self, name: str) -> tuple[int, ...]:
        return self[name].shape

    def dtype(self, name: str) -> np.dtype[Any]:
        return self[name].dtype

    def chunks(self, name: str) -> Iterator[np.ndarray]:
        yield np.ascontiguousarray(self[name]).reshape(-1).view(np.uint8)


def whole_files(folder: Path) -> dict[str, bytes]:
    """A small checkpoint in every format."""
    arrays = Arrays(a=np.arange(6, dtype=np.float32).reshape(2, 3), b=np.array(3), c=np.ones(20, np.float16))
    made = {}
    for kind, ending in ENDINGS.items():
        path = folder / f"whole{ending}"
        if kind == "legacy":
            state = {"epoch": 1, "state_dict": {name: torch.from_numpy(array) for name, array in arrays.items()}}
            torch.save(state, path, _use_new_zipfile_serialization=False)
        else:
            write(path, arrays, None, True)
        made[kind] = path.read_bytes()
    buffer = io.BytesIO()
    args = argparse.Namespace(x=1)
    torch.save(
        {"state_dict": {"a": torch.ones(2, 3).t(), "b": torch.nn.Parameter(torch.ones(2))}, "args": args}, buffer
    )
    made["zip"], made["zip of torch"] = made["zip"], buffer.getvalue()
    return made


def mutate(content: bytes, seed: int) -> bytes:
    """The same bytes with a few changed, cut out, doubled or put elsewhere."""
    generator = np.random.default_rng(seed)
    damaged = bytearray(content)
    for _ in range(int(generator.integers(1, 5))):
        place = int(generator.integers(len(damaged) or 1))
        length = int(generator.integers(1, 9))
        kind = int(generator.integers(5))
        if kind == 0:
            damaged[place : place + 1] = bytes([int(generator.integers(256))])
        elif kind == 1:
            damaged[place : place + length] = generator.bytes(length)
        elif kind == 2:
            del damaged[place : place + length]
        elif kind == 3:
            damaged[place:place] = damaged[place : place + length]
        else:
            damaged[place : place + length] = bytes([255 * int(generator.integers(2))]) * length
    return bytes(damaged)


def read_all(path: Path) -> str | None:
    """Read every tensor; the error in one line, None when there is none. Anything else is raised."""
    try:
        weights = open_checkpoint(path).weights
        for name in weights:
            total = int(np.prod(weights.shape(name), dtype=object)) * weights.dtype(name).itemsize
            for start in range(0, total, CHUNK_BYTES):
                weights.read_bytes(name, start, min(CHUNK_BYTES, total - start))
    except DuosoraError as error:
        return str(error)
    return None


class Runs:
    """A pickle that would make a file if it were unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mutations", type=int, default=20_000)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    outcomes = {"read": 0, "refused": 0}
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        whole = whole_files(Path(folder))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for seed in range(options.mutations):
            kind = list(whole)[seed % len(whole)]
            path = Path(folder, f"damaged{ENDINGS[kind.split()[0]]}")
            path.write_bytes(mutate(whole[kind], seed))
            signal.alarm(MAX_SECONDS)
            start = time.perf_counter()
            try:
                outcomes["read" if read_all(path) is None else "refused"] += 1
            except BaseException:
                print(f"seed {seed} ({kind})", file=sys.stderr)
                raise
            slowest = max(slowest, time.perf_counter() - start)
        signal.alarm(0)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{options.mutations} mutations: {outcomes}, slowest {slowest:.2f} s, memory grew by {grown / 1024:.0f} MB")


if __name__ == "__main__":
    main()
