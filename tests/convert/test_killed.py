"""Conversions that are killed outright: in processes of their own, without a framework, so that they can fork."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes that it forks")
def test_a_run_killed_at_any_step_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    script = Path(__file__).with_name("kill.py")
    arguments = [sys.executable, str(script), "--every-step", "--folder", str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 100
