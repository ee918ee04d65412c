"""A clone of the working tree, and an environment as on a machine that knows nothing of the developer's."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

ROOT = Path(__file__).parents[2]
OF_THE_MACHINE = re.compile(r"PIP_|SSL_CERT_|(https?|no)_proxy$|OMP_NUM_THREADS$", re.IGNORECASE)
"""Variables that say how this machine reaches a package index, and how many threads a test may have."""
BASE_PYTHON = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")


@pytest.fixture(scope="module")
def clone() -> Iterator[Path]:
    """The files that git would take, with what is not committed yet; deleted at the end, as are the environments."""
    words = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
    with TemporaryDirectory(prefix="duosora-clone-") as folder:
        for name in os.fsdecode(names.stdout).split("\0")[:-1]:
            if os.path.lexists(ROOT / name):
                target = Path(folder, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target, follow_symlinks=False)
        yield Path(folder)


@pytest.fixture(scope="session")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a new user's shell: an empty home, no environment of Python; what was downloaded once may be used again."""
    kept = {name: value for name, value in os.environ.items() if OF_THE_MACHINE.match(name)}
    path = [part for part in os.environ["PATH"].split(os.pathsep) if Path(part) != Path(sys.prefix, "bin")]
    cache = subprocess.run([sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True, check=True)
    return {
        "PATH": os.pathsep.join([str(BASE_PYTHON.parent), *path]),
        "HOME": str(tmp_path_factory.mktemp("home")),
        "LANG": "C.UTF-8",
        "PIP_CACHE_DIR": cache.stdout.strip(),
        **kept,
    }
