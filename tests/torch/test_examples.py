"""The programs of examples/ run, each as a newcomer runs it."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from duosora.core.io.video import open_video

README = Path(__file__).parents[2] / "README.md"
EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = {
    "text_to_video": {"ring.mp4", "ring.json", "0.mp4", "0.json", "1.mp4", "1.json"},
    "picture_to_video": {"circle.png", "from_picture.mp4", "from_picture.json"},
    "own_sampler_loop": {"own_loop.mp4"},
    "training_step": set(),
    "compare_backends": set(),
}
"""What each writes into the folder that it is given."""


def run(name: str, folder: Path) -> str:
    program = [sys.executable, EXAMPLES / f"{name}.py", folder / "made"]
    done = subprocess.run(program, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_lines_of_the_readme_run(tmp_path: Path) -> None:
    (lines,) = re.findall(r"```python\n(import duosora\n.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    subprocess.run([sys.executable, "-c", lines], cwd=tmp_path, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"ring.mp4", "ring.json"}


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(FILES)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_an_example_runs_and_writes_its_files(name: str, tmp_path: Path) -> None:
    said = run(name, tmp_path)
    assert said
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == FILES[name]
    if name == "compare_backends":
        assert "of their range, pixels by" in said or "this program compares" in said
    if name == "own_sampler_loop":  # what the model makes of this prompt: a red shape over white
        with open_video(tmp_path / "made" / "own_loop.mp4") as video:
            frames = video.read(range(17)).astype(int)
        redness = frames[..., 0] - frames[..., 1]
        assert np.median(frames) > 200
        assert (redness > 100).mean() > 0.01
