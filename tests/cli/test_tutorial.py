"""docs/tutorial.md: its commands run in its order in one folder, and what it shows and names is there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
FINDS_BAD_ROWS = "duosora data check clips.csv"
"""The only one that is meant to end with an exit code, which is 1."""
SOURCES = [file for room in ("core", "convert") for file in (ROOT / room).rglob("*.py")]


@pytest.mark.slow
def test_the_commands_of_the_tutorial_run_in_its_order(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tests" / "media", tmp_path / "tests" / "media")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    said = ""
    for block in BLOCKS:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block], cwd=tmp_path, env={**os.environ, "PATH": path},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == int(block.startswith(FINDS_BAD_ROWS)), f"{block}\n{done.stdout}\n{done.stderr}"
        said += done.stdout
    shown = PAGE.partition("The last line says what helps:\n\n```text\n")[2].partition("```")[0]
    for line in shown.splitlines():
        assert f"{line}\n" in said
    for name in ("first", "mine", "mindspore"):
        assert len(list((tmp_path / "outputs" / name).glob("*.mp4"))) == 2
    assert (tmp_path / "runs" / "mine" / "plot.png").is_file()
    (psnr,) = re.findall(r"mean over clips[ │]*([\d.]+)", said)[1:]  # of the two backends' videos
    assert float(psnr) >= 50
    summary = json.loads((tmp_path / "outputs" / "again" / "reconstruction.json").read_text())
    assert len(summary["clips"]) == 4


def test_the_lines_of_the_installation_are_those_of_the_readme() -> None:
    """Which tests/install runs, extra by extra."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for line in ("git clone <this repository> duosora && cd duosora", 'pip install -e ".[torch,train]"'):
        assert f"{line}\n" in PAGE
        assert line in readme


def test_the_messages_that_the_tutorial_explains_are_told() -> None:
    source = "".join(file.read_text(encoding="utf-8") for file in SOURCES)
    rows = PAGE.partition("| the line says | what to do |\n")[2].splitlines()[1:]
    messages = [row.split("`")[1] for row in rows if row.startswith("| `")]
    assert len(messages) == 12
    joined = re.sub(r'"\s*\n\s*f?"', "", source)
    assert [message for message in messages if message not in joined] == []
