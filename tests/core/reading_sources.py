"""Sources for the tests of the loader; in a module of their own, because reading processes import it too."""

import os
import time
from pathlib import Path

import numpy as np

from duosora.core.data.records import Record
from duosora.core.data.sources import Frames, OpenedClip
from duosora.core.errors import MediaError

SIDE, FRAMES = 16, 5


class NumberedSource:
    """Clips that show their own number; some of them hang, end their process, or cannot be read."""

    bad = ()

    def __init__(self, count: int, bad: dict[int, str] | None = None) -> None:
        self.opener = NumberedOpener(bad or {})
        self._count = count

    def __len__(self) -> int:
        return self._count

    def record(self, number: int) -> Record:
        size = {"height": SIDE, "width": SIDE, "num_frames": FRAMES, "fps": 24.0}
        return Record(path=Path(f"{number}.mp4"), name=f"{number}.mp4", captions=(f"clip {number}",), **size)


class NumberedOpener:
    """Opens such a clip."""

    def __init__(self, bad: dict[int, str]) -> None:
        self.bad = bad

    def __call__(self, record: Record, draw: np.random.Generator) -> OpenedClip:
        number = int(record.path.stem)
        what = self.bad.get(number)
        if what == "hangs":
            time.sleep(600)
        if what == "exits":
            os._exit(7)
        if what == "raises":
            raise MediaError(f"{record.path}: is damaged")
        if what == "slips":
            raise ZeroDivisionError("a slip in a library")
        return Frames(np.full((FRAMES, SIDE, SIDE, 3), number, np.uint8))
