"""Time and memory of `duosora convert` beside a plain copy on the same disk.

    python benchmarks/convert.py [--folder .] [--size-gb 5] [--dtype keep] [--repeat 2]

Writes a torch file of that size (one tensor of half a gigabyte, the rest of 64 MB) and prints, for each repeat,
seconds and MB/s of copying it (read, write, flush), of converting it to safetensors (without and with the reading
again), and the most memory that the converting process held beyond an idle one. Everything is removed at the end.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from duosora.convert.writers import write

LARGE, SMALL = 512 << 20, 64 << 20
CHUNK = 4 << 20
CONVERT = """
import resource, sys, time
from pathlib import Path
import duosora.convert.commands as commands
from duosora.core.converting import Conversion
idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
checking = []
check = commands._checked
def timed(*arguments):
    start = time.perf_counter()
    lines = check(*arguments)
    checking.append(time.perf_counter() - start)
    return lines
commands._checked = timed
start = time.perf_counter()
commands.convert(Conversion(source=Path(sys.argv[1]), target=Path(sys.argv[2]), model="none", dtype=sys.argv[3]))
total = time.perf_counter() - start
print(total - checking[0], total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle)
"""


class Made:
    """Tensors of random bytes, made as they are written."""

    def __init__(self, size: int) -> None:
        self.sizes = {"large": LARGE} | {f"small.{number}": SMALL for number in range((size - LARGE) // SMALL)}
        self.block = np.random.default_rng(0).standard_normal(CHUNK // 4).astype(np.float32).view(np.uint8)

    def __iter__(self) -> Iterator[str]:
        return iter(self.sizes)

    def shape(self, name: str) -> tuple[int, ...]:
        return (self.sizes[name] // 4,)

    def dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(np.float32)

    def chunks(self, name: str) -> Iterator[np.ndarray]:
        yield from (self.block for _ in range(self.sizes[name] // CHUNK))


def copy(source: Path, target: Path) -> float:
    """Seconds of a plain copy, until it is on the disk."""
    start = time.perf_counter()
    with source.open("rb") as read, target.open("wb") as written:
        shutil.copyfileobj(read, written, CHUNK)
        written.flush()
        os.fsync(written.fileno())
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--size-gb", type=float, default=5)
    parser.add_argument("--dtype", default="keep")
    parser.add_argument("--repeat", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as made:
        source, target = Path(made, "source.pth"), Path(made, "target.safetensors")
        write(source, Made(int(options.size_gb * 1e9)), None, False)
        megabytes = source.stat().st_size / 1e6
        print(f"| {megabytes:.0f} MB | copy | convert | and read again | ratio | ratio | memory MB |")
        for _ in range(options.repeat):
            plain = copy(source, target)
            target.unlink()
            arguments = [sys.executable, "-c", CONVERT, str(source), str(target), options.dtype]
            done = subprocess.run(arguments, capture_output=True, text=True, check=True)
            written, total, kilobytes = map(float, done.stdout.split())
            target.unlink()
            Path(f"{target}.sums.json").unlink()
            cells = [f"{plain:.1f} s, {megabytes / plain:.0f} MB/s", f"{written:.1f} s", f"{total:.1f} s"]
            cells += [f"{plain / written:.2f}", f"{plain / total:.2f}", f"{kilobytes * resource_unit() / 1e6:.0f}"]
            print("| |", " | ".join(cells), "|", flush=True)


def resource_unit() -> int:
    """Bytes in the unit of ru_maxrss."""
    return 1 if sys.platform == "darwin" else 1024


if __name__ == "__main__":
    main()
