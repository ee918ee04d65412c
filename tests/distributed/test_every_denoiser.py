"""The denoiser of every family learns on two ranks what it learns on one, whether they share the samples, the
optimiser's state and the gradients (ZeRO-2), or the tokens; and so does LoRA of some."""

import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import ranks

from duosora.core.io.weights import open_weights
from duosora.core.seam.backend import NAMES

sys.path.append(str(Path(__file__).parents[1] / "families"))
from family_cases import DENOISERS

pytestmark = pytest.mark.processes
TOLERANCE = 1e-5
STATE = "optimizer.safetensors"
CASES = (*DENOISERS, "lora-opensora_t2v-tiny", "lora-stdit3-stdit3_tiny")
BACKENDS = [pytest.param(name, marks=[pytest.mark.slow] * (name != "torch")) for name in NAMES]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder with what all denoisers have become on a backend: made once, as tests alternate between backends."""

    @cache
    def folder(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        for world, sequence in ((1, 1), (2, 1), (2, 2)):
            ranks.run("train_families.py", name, world, folder, sequence, *CASES)
        return folder

    return folder


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("plan", ["2x1", "1x2"], ids=["samples", "tokens"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_two_ranks_learn_what_one_does(backend: str, plan: str, case: str, trained: Callable[[str], Path]) -> None:
    one, two = (trained(backend) / f"{case}-on-{each}" for each in ("1x1", plan))
    expected, found = (json.loads((place / "reports.json").read_text()) for place in (one, two))
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE)
    for part in ("model", "average"):
        ours, theirs = open_weights(one / part), open_weights(two / part)
        assert set(ours) == set(theirs)
        for weight in ours:
            limit = TOLERANCE * np.abs(ours[weight]).max()
            np.testing.assert_allclose(theirs[weight], ours[weight], rtol=0, atol=limit, err_msg=weight)
    assert set(open_weights(two / STATE)) == set(open_weights(one / STATE))
