"""What every backend is held to, in the same words: each test here runs on all of them, on the CPU."""

import pytest

from duosora.core.seam.backend import NAMES, Backend, get


@pytest.fixture(scope="session", params=NAMES)
def backend(request: pytest.FixtureRequest) -> Backend:
    return get(request.param, "cpu")
