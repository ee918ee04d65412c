"""Runs one of the programs beside this file on several processes of this machine, as users launch theirs."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
SECONDS = 300
"""After which a test gives up; programs take a few."""


def run(program: str, backend: str, world: int, *arguments: object) -> list[str]:
    """What each rank printed. Fails with all they said when one does not end well."""
    command = [str(PROGRAMS / program), backend, *map(str, arguments)]
    with tempfile.TemporaryDirectory() as logs:
        launch = ["launch", "--backend", backend, "-n", str(world), "--log-dir", logs]
        done = subprocess.run(
            [sys.executable, "-m", "duosora", *launch, "--", *command],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        files = [Path(logs, f"rank_{rank}.log") for rank in range(world)]
        said = [file.read_text("utf-8") if file.exists() else "" for file in files]
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr}\n" + "\n".join(said)
    return said
