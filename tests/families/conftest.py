"""A case of each family and both backends, for tests of what holds for all of them."""

import sys
from pathlib import Path

import pytest

from duosora.core.seam.backend import NAMES, Backend, get

sys.path.append(str(Path(__file__).parent))  # for `import family_cases`
from family_cases import CASES, FAMILIES, Case


@pytest.fixture(scope="module", params=NAMES)
def backend(request: pytest.FixtureRequest) -> Backend:
    return get(request.param, "cpu")


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module", params=FAMILIES)
def one(request: pytest.FixtureRequest) -> Case:
    """The first case of a family, for what its further ones have in common."""
    return FAMILIES[request.param]
