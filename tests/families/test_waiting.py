"""A training step of no family asks torch's device for a number before its report is looked at."""

import sys
from pathlib import Path

import pytest
from family_cases import DENOISERS
from training_cases import DECAY, LR, Run, batch

from duosora.core.seam.backend import get
from duosora.core.seam.ranks import Ranks

sys.path.append(str(Path(__file__).parents[1] / "torch"))
from waits import Waits


@pytest.mark.parametrize("name", DENOISERS)
def test_a_step_waits_for_nothing(name: str) -> None:
    case = DENOISERS[name]
    run = Run(get("torch", "cpu"), case, Ranks())
    with Waits() as waits:
        report = run.trainer.step([batch(case, 0), batch(case, 1)], LR, DECAY)
    assert waits.found == []
    assert report.applied
