"""Sequence parallelism gives the predictions of one process for every shape, and sends what the formula says."""

import json

import pytest
import ranks


@pytest.mark.processes
@pytest.mark.parametrize("world", [2, 4])
def test_predictions_are_those_of_one_process_and_the_bytes_those_of_the_formula(name: str, world: int) -> None:
    for said in ranks.run("sequence_parallel.py", name, world):
        (found,) = (json.loads(line.removeprefix("found ")) for line in said.splitlines() if line.startswith("found "))
        assert len(found) == 36
        assert [each["case"] for each in found if not each["error"] <= 1e-5] == []
        assert [each["case"] for each in found if each["sent"] != each["formula"]] == []
