"""The build stops with one clear sentence when the links in src/duosora arrived as text files."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_sources_without_links_are_refused(tmp_path: Path) -> None:
    shutil.copy(ROOT / "setup.py", tmp_path)
    package = tmp_path / "src" / "duosora"
    package.mkdir(parents=True)
    for room in ("core", "backends", "convert", "configs"):
        (package / room).write_text(f"../../{room}", encoding="utf-8")  # what a ZIP download makes of a link

    done = subprocess.run(
        [sys.executable, "setup.py", "--name"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode != 0
    (sentence,) = done.stderr.strip().splitlines()
    assert "src/duosora/core must be a symbolic link to ../../core" in sentence
    assert "git" in sentence
