"""Several processes make a set of pictures together, which is that of one process."""

from pathlib import Path

import numpy as np
import pytest
import ranks

pytestmark = pytest.mark.processes
SETTINGS = ("--set", "model.denoiser=sit_tiny", "--set", "model.vae=sd_vae_tiny", "--set", "sampler.steps=2")


def test_two_processes_go_on_with_the_set_of_one(tmp_path: Path) -> None:
    common = (*SETTINGS, "--backend", "torch", "--count", 7)
    ranks.run("cli.py", "torch", 1, "sample-set", *common, "--out", tmp_path / "one")
    whole = np.load(tmp_path / "one.npz")["arr_0"]
    for number in (0, 2, 3, 6):
        (tmp_path / f"one/{number:06d}.png").unlink()
    for options in (("--set", "batch_size=2"), ("--set", "parallel.cfg=true")):
        ranks.run("cli.py", "torch", 2, "sample-set", *common, *options, "--out", tmp_path / "one", "--overwrite")
        np.testing.assert_array_equal(np.load(tmp_path / "one.npz")["arr_0"], whole)
        (tmp_path / "one/000005.png").unlink()
