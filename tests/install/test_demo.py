"""`make demo` as a newcomer runs it: in a clone, nothing installed, an empty home."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from duosora.core.io.video import read_video

pytestmark = pytest.mark.install


def make(clone: Path, variables: dict[str, str], *words: str) -> dict[str, np.ndarray]:
    """The videos of a target, by name."""
    shutil.rmtree(clone / "outputs", ignore_errors=True)
    done = subprocess.run(["make", *words], cwd=clone, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {file.name: read_video(file)[0] for file in (clone / "outputs" / "demo").glob("*.mp4")}


def test_the_demo_makes_its_videos_in_a_clone_with_either_backend(clone: Path, variables: dict[str, str]) -> None:
    by_torch = make(clone, variables, "demo")
    by_mindspore = make(clone, variables, "demo", "BACKEND=mindspore")
    assert sorted(len(frames) for frames in by_torch.values()) == [17, 33]
    assert {name: frames.shape for name, frames in by_mindspore.items()} == {
        name: frames.shape for name, frames in by_torch.items()
    }
    for name, frames in by_torch.items():  # 1.8 of 255 is what x264 makes of last digits; another video is 20 away
        assert np.abs(frames.astype(int) - by_mindspore[name]).mean() < 5, name
