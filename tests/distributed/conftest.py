"""What every backend is held to on several processes, in the same words."""

import sys
from pathlib import Path

import pytest

from duosora.core.backend import NAMES

sys.path.append(str(Path(__file__).parent))  # for `import ranks`


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a file and a backend, which share runs on several processes, stay in one of xdist's workers."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            backend = item.callspec.params.get("name", "") if hasattr(item, "callspec") else ""
            item.add_marker(pytest.mark.xdist_group(f"{item.path.stem}-{backend}"))


@pytest.fixture(scope="session", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Of a backend."""
    return str(request.param)
