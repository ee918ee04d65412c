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
    with tempfile.TemporaryDirectory() as logs:
        options = ["--backend", backend, "-n", str(world), "--log-dir", logs]
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "duosora",
                "launch",
                *options,
                "--",
                PROGRAMS / program,
                backend,
                *map(str, arguments),
            ],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        said = [log.read_text("utf-8") for log in (Path(logs, f"rank_{i}.log") for i in range(world)) if log.exists()]
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr}\n" + "\n".join(said)
    return said
