"""Sequence parallelism gives the numbers of one process for every shape, and sends what the formula says."""

import json
from typing import Any

import pytest
import ranks


def found(said: str) -> Any:
    """What a rank has printed behind `found`."""
    (line,) = (line for line in said.splitlines() if line.startswith("found "))
    return json.loads(line.removeprefix("found "))


@pytest.mark.processes
@pytest.mark.parametrize("world", [2, 4])
def test_predictions_are_those_of_one_process_and_the_bytes_those_of_the_formula(name: str, world: int) -> None:
    for said in ranks.run("sequence_parallel.py", name, world):
        cases = found(said)
        assert len(cases) == 36
        assert [each["case"] for each in cases if not each["error"] <= 1e-5] == []
        assert [each["case"] for each in cases if each["sent"] != each["formula"]] == []


@pytest.mark.processes
@pytest.mark.parametrize(("world", "split"), [(2, "sequence"), (4, "sequence"), (4, "cfg")])
def test_guided_batches_are_those_of_one_process(name: str, world: int, split: str) -> None:
    for said in ranks.run("guided.py", name, world, split):
        errors = found(said)
        assert len(errors) == 6
        assert {case: error for case, error in errors.items() if not error <= 1e-5} == {}
