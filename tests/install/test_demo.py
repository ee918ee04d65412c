"""`make demo` and `make lesson` as a newcomer runs them: in a clone, nothing installed, an empty home."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from duosora.core.io.video import read_video

pytestmark = pytest.mark.install


def make(clone: Path, variables: dict[str, str], *words: str) -> None:
    done = subprocess.run(["make", *words], cwd=clone, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def demo(clone: Path, variables: dict[str, str], *words: str) -> dict[str, np.ndarray]:
    """The videos that the demo makes, by name."""
    shutil.rmtree(clone / "outputs", ignore_errors=True)
    make(clone, variables, "demo", *words)
    return {file.name: read_video(file)[0] for file in (clone / "outputs" / "demo").glob("*.mp4")}


def test_the_demo_makes_its_videos_in_a_clone_with_either_backend(clone: Path, variables: dict[str, str]) -> None:
    by_torch = demo(clone, variables)
    by_mindspore = demo(clone, variables, "BACKEND=mindspore")
    assert sorted(len(frames) for frames in by_torch.values()) == [17, 33]
    assert {name: frames.shape for name, frames in by_mindspore.items()} == {
        name: frames.shape for name, frames in by_torch.items()
    }
    for name, frames in by_torch.items():  # 1.8 of 255 is what x264 makes of last digits; another video is 20 away
        assert np.abs(frames.astype(int) - by_mindspore[name]).mean() < 5, name


def test_the_lesson_goes_from_nothing_to_judged_digits(clone: Path, variables: dict[str, str]) -> None:
    """In a few steps, which teach nothing: the judge says so."""
    make(clone, variables, "lesson", "STEPS=3", "EACH=2")
    for name in ("dit", "sit"):
        found = json.loads((clone / "outputs" / "lesson" / f"{name}.json").read_text(encoding="utf-8"))
        assert found["pictures"] == 20
        assert found["recognised"] < 0.6
        assert found["real"]["recognised"] > 0.98
