"""What every backend is held to on several processes, in the same words."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from duosora.core.cores import every_core
from duosora.core.seam.backend import NAMES

sys.path.append(str(Path(__file__).parent))  # for `import ranks`


@pytest.fixture(scope="session", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Of a backend."""
    return str(request.param)


@pytest.fixture(scope="session", autouse=True)
def end_ranks() -> Iterator[None]:
    """No process is left when the tests have ended."""
    yield
    import ranks

    ranks.close()


@pytest.fixture(autouse=True)
def every_core_for_ranks() -> Iterator[None]:
    """Ranks have the cores that this process had before it kept one."""
    with every_core():
        yield
