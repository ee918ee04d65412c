"""What `duosora evaluate` needs of memory."""

import tracemalloc
from itertools import islice
from pathlib import Path

import numpy as np

from duosora.core.config.schema import EvaluateConfig
from duosora.core.evaluate.clips import PIXELS_AT_A_TIME, prepare
from duosora.core.io.video import write_video

SIDE = 128


def clip_of(path: Path, frames: int) -> Path:
    picture = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3)).astype(np.uint8)
    write_video(path, (np.roll(picture, number, 1) for number in range(frames)), 10)
    return path


def peak_memory(clip: Path) -> int:
    """Bytes of arrays and objects while a clip is compared with itself."""
    tracemalloc.start()
    try:
        (outcome,) = islice(prepare(clip, clip, EvaluateConfig(metrics=("psnr",))).outcomes(), 2)
        assert outcome.identical_frames == outcome.shape.frames
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_length_of_clips(tmp_path: Path) -> None:
    chunk = PIXELS_AT_A_TIME // SIDE**2
    short, long = (clip_of(tmp_path / f"{count}.mp4", count * chunk) for count in (2, 10))
    peak_memory(short)  # what is imported and cached on the way
    assert peak_memory(long) < 1.2 * peak_memory(short)
