"""How fast clips are read against decoding them alone, and what memory reading holds on to.

    python benchmarks/data.py [--clips 60] [--repeat 3] [--sides 256 128] [--long 2000]

Copies the clips of tests/media into a temporary folder. Speed: clips a second through the loader with 0, 1 and 2
reading processes, and of decoding the same frames to RGB with PyAV and nothing else; and the processor's time for each,
which other work on the machine changes less. The best of the repeats, which take turns. Memory: resident sizes of the
training process and of its reading processes on the way through --long clips, of which every tenth is cut off.
docs/performance.md records such runs with their date.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from duosora.core.config.data import DataSettings
from duosora.core.data.loader import ClipLoader
from duosora.core.data.sources import open_source
from duosora.core.extras import needs_extra
from duosora.core.shapes import Causal, Patch

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


def open_loader(annotation: Path, side: int, workers: int) -> ClipLoader:
    settings = DataSettings(
        files=(annotation,), frames=FRAMES, fps=25.0, height=side, width=side, min_bucket_batches=0, workers=workers
    )
    return ClipLoader(open_source(settings), settings, 0, Causal(4, 8), Patch(1, 2))


def decoded(path: Path) -> np.ndarray:
    """The frames of a file, (T, H, W, 3) uint8."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


class Cost(NamedTuple):
    """Of one clip, the best of some measures."""

    seconds: float
    cpu_seconds: float
    """Of this process."""

    @classmethod
    def of(cls, one: Callable[[], Any], count: int) -> Cost:
        """Of doing something so many times."""
        began, cpu_began = time.perf_counter(), time.process_time()
        for _ in range(count):
            one()
        return cls((time.perf_counter() - began) / count, (time.process_time() - cpu_began) / count)


def best(costs: list[Cost]) -> Cost:
    return Cost(*map(min, zip(*costs, strict=True)))


def decoding(annotation: Path, count: int) -> Cost:
    files = cycle(annotation.parent / f"{number}.mp4" for number in range(count))
    return Cost.of(lambda: decoded(next(files)), count)


def reading(annotation: Path, count: int, side: int, workers: int) -> Cost:
    """Once the processes run."""
    with open_loader(annotation, side, workers) as loader:
        batches = loader.batches()
        for _ in range(2 * workers + 1):
            next(batches)
        return Cost.of(lambda: next(batches), count)


def print_speed(annotation: Path, count: int, sides: list[int], repeat: int) -> None:
    print("| clips of | | clips/s | of decoding alone | CPU ms a clip | of decoding alone |\n" + "| --- " * 6 + "|")
    for side in sides:
        alone: list[Cost] = []
        read: dict[int, list[Cost]] = {0: [], 1: [], 2: []}
        for _ in range(repeat):
            alone.append(decoding(annotation, count))
            for workers, costs in read.items():
                costs.append(reading(annotation, count, side, workers))
        least = best(alone)
        name = f"| {FRAMES}x{side}x{side} |"
        print(f"{name} decoding alone | {1 / least.seconds:.1f} | | {1000 * least.cpu_seconds:.1f} | |")
        for workers, costs in read.items():
            cost = best(costs)
            cells = f"{1 / cost.seconds:.1f} | {least.seconds / cost.seconds:.2f} |"
            if not workers:
                cells += f" {1000 * cost.cpu_seconds:.1f} | {cost.cpu_seconds / least.cpu_seconds:.2f} |"
            else:
                cells += " | |"
            print(f"{name} {workers} reading processes | {cells}", flush=True)


def resident() -> tuple[float, list[float]]:
    """MiB of this process and of each reading process."""
    with needs_extra("test", "benchmarks/data.py"):
        import psutil
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
    parser.add_argument("--clips", type=int, default=60, help="for the speed")
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
