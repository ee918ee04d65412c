"""What every backend is held to on several processes, in the same words."""

import sys
from pathlib import Path

import pytest

from duosora.core.backend import NAMES

sys.path.append(str(Path(__file__).parent))  # for `import ranks`


@pytest.fixture(scope="session", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Of a backend."""
    return str(request.param)
