"""Every golden case on every backend, at the case's own tolerance, through the loading path that users take.

DUOSORA_GOLDENS points at another folder of cases.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from duosora.core.goldens.case import Case
from duosora.core.goldens.suite import find_all, is_implemented, run_case, run_manifest
from duosora.core.seam.backend import Backend, get

FOLDER = Path(os.environ.get("DUOSORA_GOLDENS", Path(__file__).parents[1] / "goldens"))
MANIFESTS, CASES = find_all(FOLDER)


BACKENDS = {"torch": "cpu", "mindspore": "cpu"}
"""Backends that have to be there, and the device each is tried on."""
SLOW = {"mindspore": {"e2e", "loss", "pipeline", "train", "wfvae"}}
"""Families that take a backend long on a CPU."""


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> Backend:
    return get(request.param, BACKENDS[request.param])


def _pair(case: Case, backend: str) -> Any:
    marks = [pytest.mark.slow] if case.family in SLOW.get(backend, ()) else []
    return pytest.param(case, backend, id=f"{backend}-{case.name}", marks=marks)


@pytest.mark.parametrize(
    ("case", "backend"), [_pair(case, name) for name in BACKENDS for case in CASES], indirect=["backend"]
)
def test_a_backend_gives_the_original_numbers(case: Case, backend: Backend) -> None:
    if not is_implemented(case):
        pytest.skip(f"no runner for {case.family} yet")
    result = run_case(case, backend)
    failed = [
        f"{verdict.name}: {verdict.ratio:.2f} times the limit" for verdict in result.verdicts if not verdict.passed
    ]
    assert not result.error
    assert not failed
    assert result.verdicts


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_layouts_equal_the_published_ones(file: Path) -> None:
    result = run_manifest(file)
    assert result.passed, result


def test_the_folder_holds_cases() -> None:
    assert CASES
