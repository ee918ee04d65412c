"""Killing conversions outright, as the tests do at every step, or by hand at random moments:

python tests/convert/kill.py [--kills 100] [--megabytes 256]
"""

import argparse
import itertools
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from duosora.convert.commands import convert, verify
from duosora.convert.readers.opening import open_checkpoint
from duosora.core.converting import Conversion
from duosora.core.errors import CheckpointError
from duosora.core.io.files import unfinished
from duosora.core.io.weights import save_weights

TARGETS = {"x.safetensors": None, "x.pth": None, "x.ckpt": None, "folder": None, "shards": 3}
"""Targets, and into how many files each is cut."""
STEPS = {"open", "os.rename", "os.remove", "os.mkdir"}


def at_step(number: int) -> Callable[[], object]:
    """Let the process kill itself when it opens, renames or removes its `number`-th file."""
    left = itertools.count(number, -1)

    def hook(event: str, arguments: object) -> None:
        if event in STEPS and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda: sys.addaudithook(hook)


def is_killed(request: Conversion, prepare: Callable[[], object] = lambda: None, seconds: float | None = None) -> bool:
    """Convert in a process of its own, killed after `seconds`; whether it ended by being killed."""
    child = os.fork()
    if not child:
        prepare()
        convert(request)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status != 0


def content(place: Path) -> dict[str, bytes] | None:
    """Every tensor there; None where nothing is that can be opened."""
    try:
        weights = open_checkpoint(place).weights
    except CheckpointError:
        return None
    shapes = {name: (weights.shape(name), weights.dtype(name)) for name in weights}
    sizes = {name: int(np.prod(shape)) * dtype.itemsize for name, (shape, dtype) in shapes.items()}
    return {name: weights.read_bytes(name, 0, size).tobytes() for name, size in sizes.items()}


def check(request: Conversion, old: dict[str, bytes] | None, new: dict[str, bytes], can_finish: bool) -> None:
    """After a kill: what was there before, or nothing, or the whole result; another run ends well and says what is
    left over.
    """
    found = content(request.target)
    assert found in (None, old, new), f"{request.target}: half of it is there"
    assert found is not None or old is None or request.shard_size, f"{request.target}: what was there is gone"
    folder = request.target if request.target.is_dir() else request.target.parent
    left = unfinished(folder)
    if can_finish:
        lines = convert(request)
        assert content(request.target) == new
        verify(request.target)
        assert not left or str(left[0]) in lines[-1], f"{left[0]} is not named"
    for path in left:
        path.unlink()


def requests(folder: Path, size: int) -> list[tuple[Conversion, dict[str, bytes], dict[str, bytes]]]:
    """A conversion to every kind of target, what lies there before, and what should after."""
    generator = np.random.default_rng(0)
    made: list[dict[str, np.ndarray]] = [
        {name: generator.standard_normal(size // 12).astype(np.float32) for name in "abc"} for _ in range(2)
    ]
    for name, tensors in zip(("old", "new"), made, strict=True):
        save_weights(folder / f"{name}.safetensors", tensors)
    contents = [{name: array.tobytes() for name, array in tensors.items()} for tensors in made]
    return [
        (
            Conversion(
                source=folder / "new.safetensors",
                target=folder / name.split(".")[0] / name,
                model="none",
                shard_size=shards and size // shards,
                overwrite=True,
            ),
            contents[0],
            contents[1],
        )
        for name, shards in TARGETS.items()
    ]


def put_old(request: Conversion) -> None:
    convert(Conversion(**{**vars(request), "source": request.source.with_name("old.safetensors")}))


def remove(target: Path) -> None:
    for path in sorted(target.parent.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def every_step(folder: Path) -> int:
    """Kill at every step of every kind of conversion, with and without something there before."""
    kills = 0
    for request, old, new in requests(folder, 12_000):
        for before in (None, old):
            for number in itertools.count():
                remove(request.target)
                if before is not None:
                    put_old(request)
                if not is_killed(request, at_step(number)):
                    break
                check(request, before, new, can_finish=True)
                kills += 1
    return kills


def random_moments(folder: Path, count: int, size: int) -> int:
    generator, kills = random.Random(0), 0
    prepared = requests(folder, size)
    seconds: list[float] = []
    for request, _, _ in prepared:
        start = time.perf_counter()
        put_old(request)
        seconds.append(time.perf_counter() - start)
    for number in range(count):
        request, old, new = prepared[number % len(prepared)]
        put_old(request)
        if is_killed(request, seconds=generator.uniform(0, 1.2 * seconds[number % len(prepared)])):
            kills += 1
            check(request, old, new, can_finish=number % 5 == 0)
    return kills


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--every-step", action="store_true")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as made:
        folder = Path(made)
        if options.every_step:
            kills = every_step(folder)
        else:
            kills = random_moments(folder, options.kills, options.megabytes << 20)
    print(f"{kills} runs killed: what was there, nothing, or the whole result")


if __name__ == "__main__":
    main()
