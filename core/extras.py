"""Optional packages. Each belongs to an extra of pyproject.toml; where one is missing, one line names the extra.

They are imported inside functions only, under `needs_extra` (tests/house/test_dependencies.py).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import PackageMissing
from .printable import one_line

BUILDS_AGAINST_TORCH = ("flash-attn",)
"""Extras that are compiled with the torch that is installed, which pip hides from a build otherwise."""
WHERE = "in the clone of duosora"
"""No index of packages has duosora; its extras are installed from its sources."""


def install_command(extra: str) -> str:
    """The command that installs what an extra needs; "" is duosora itself. It is for the folder of the clone."""
    options = " --no-build-isolation" if extra in BUILDS_AGAINST_TORCH else ""
    return f'pip install -e ".[{extra}]"{options}' if extra else "pip install -e ."


@contextmanager
def needs_extra(extra: str, purpose: str, otherwise: str = "") -> Iterator[None]:
    """The place to import packages of an extra in.

    purpose: what they are needed for, the subject of the message. otherwise: what a user who does not want them can do.
    Raises: PackageMissing when one is not installed or does not load.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise _missing(extra, purpose, str(error.name), otherwise) from error
    except Exception as error:  # a package that does not fit its driver or its framework raises anything
        reason = one_line(error) or type(error).__name__
        advice = _advice(extra, otherwise)
        raise PackageMissing(f"{purpose}: what it needs does not load ({reason}); {advice}") from error


def require(extra: str, module: str, purpose: str, otherwise: str = "") -> None:
    """Refuse early what would miss a module of an extra, without importing it. Raises: PackageMissing."""
    if sys.modules.get(module) is None and importlib.util.find_spec(module) is None:
        raise _missing(extra, purpose, module, otherwise)


def _missing(extra: str, purpose: str, module: str, otherwise: str) -> PackageMissing:
    return PackageMissing(f"{purpose} needs {module}, which is not installed: {_advice(extra, otherwise)}")


def _advice(extra: str, otherwise: str) -> str:
    return f"{install_command(extra)} {WHERE}" + (f", or {otherwise}" if otherwise else "")
