"""How fast clips are read against decoding them alone, and what memory reading holds on to.

    python benchmarks/data.py [--clips 120] [--repeat 3] [--sides 256 128] [--long 2000]

Copies the clips of tests/media into a temporary folder. Speed: clips a second through the loader with 0, 1 and 2
reading processes, and of decoding the same frames to RGB with PyAV and nothing else; the best of the repeats, which
take turns. Memory: resident sizes of the training process and of its reading processes on the way through --long
clips, of which every tenth is cut off. docs/performance.md records such runs with their date.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import av
import numpy as np
import psutil

from duosora.core.config.data import DataSettings
from duosora.core.data.loader import Loader
from duosora.core.data.sources import open_source
from duosora.core.shapes import Compression, Patch

MEDIA = sorted((Path(__file__).parents[1] / "tests" / "media").glob("*.mp4"))
FRAMES, SIDE = 33, 256
"""Of each clip there."""
LOOKS = (200, 500, 1000, 2000)
"""Clips after which memory is looked at."""
BROKEN_EVERY = 10
MIB = 2**20


def make_set(folder: Path, count: int, broken_every: int = 0) -> Path:
    """An annotation of so many clips, each a file of its own."""
    rows = []
    for number, source in enumerate(islice(cycle(MEDIA), count)):
        content = source.read_bytes()
        if broken_every and number % broken_every == 0:
            content = content[: len(content) // 2]
        (folder / f"{number}.mp4").write_bytes(content)
        row = {"path": f"{number}.mp4", "caption": f"clip {number}", "height": SIDE, "width": SIDE}
        rows.append(json.dumps(row | {"num_frames": FRAMES, "fps": 25}))
    (folder / "clips.jsonl").write_text("\n".join(rows))
    return folder / "clips.jsonl"


def open_loader(annotation: Path, side: int, workers: int) -> Loader:
    settings = DataSettings(
        files=(annotation,), frames=FRAMES, fps=25.0, height=side, width=side, min_bucket_batches=0, workers=workers
    )
    return Loader(open_source(settings), settings, 0, Compression(4, 8), Patch(1, 2))


def decoded(path: Path) -> np.ndarray:
    """The frames of a file, (T, H, W, 3) uint8."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def decoding_rate(annotation: Path, count: int) -> float:
    """Clips a second."""
    began = time.perf_counter()
    for number in range(count):
        assert len(decoded(annotation.parent / f"{number}.mp4")) == FRAMES
    return count / (time.perf_counter() - began)


def reading_rate(annotation: Path, count: int, side: int, workers: int) -> float:
    """Clips a second once the processes run."""
    with open_loader(annotation, side, workers) as loader:
        batches = loader.batches()
        for _ in range(2 * workers + 1):
            next(batches)
        began = time.perf_counter()
        for _ in range(count):
            next(batches)
        return count / (time.perf_counter() - began)


def print_speed(annotation: Path, count: int, sides: list[int], repeat: int) -> None:
    print("| clips of | decoding alone, clips/s | 0 processes | 1 process | 2 processes |\n" + "| --- " * 5 + "|")
    for side in sides:
        alone, read = [], {workers: [0.0] for workers in (0, 1, 2)}
        for _ in range(repeat):
            alone.append(decoding_rate(annotation, count))
            for workers, rates in read.items():
                rates.append(reading_rate(annotation, count, side, workers))
        best = max(alone)
        cells = [f"{max(rates):.1f} ({max(rates) / best:.2f})" for rates in read.values()]
        print(f"| {FRAMES}x{side}x{side} | {best:.1f} | {' | '.join(cells)} |", flush=True)


def resident() -> tuple[float, list[float]]:
    """MiB of this process and of each reading process."""
    this = psutil.Process()
    return this.memory_info().rss / MIB, sorted(child.memory_info().rss / MIB for child in this.children())


def memory_on_the_way(
    annotation: Path, side: int, workers: int, total: int
) -> Iterator[tuple[int, float, list[float]]]:
    with open_loader(annotation, side, workers) as loader:
        for number, _ in enumerate(islice(loader.batches(), total), start=1):
            if number in LOOKS:
                yield number, *resident()
        print(f"\n{loader.report().replaced} samples were replaced, {len(loader.report().failed)} files failed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=120, help="for the speed")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--sides", type=int, nargs="+", default=[SIDE, SIDE // 2], help="that clips are resized to")
    parser.add_argument("--long", type=int, default=LOOKS[-1], help="clips for the memory; 0 leaves it out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print_speed(make_set(Path(folder), options.clips), options.clips, options.sides, options.repeat)
    if options.long:
        with tempfile.TemporaryDirectory() as folder:
            annotation = make_set(Path(folder), options.long, BROKEN_EVERY)
            print("\n| clips read | this process, MiB | reading processes, MiB |\n" + "| --- " * 3 + "|")
            for number, own, others in memory_on_the_way(annotation, SIDE // 4, 2, options.long):
                print(f"| {number} | {own:.1f} | {', '.join(f'{size:.1f}' for size in others)} |", flush=True)


if __name__ == "__main__":
    main()
