"""What is installed for Ascend NPUs beside MindSpore, and whether it belongs together, as far as files tell.

Sources: the version tables of MindSpore Transformers; the version check inside of MindSpore's wheel.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from .extras import install_command

DRIVER = Path("/usr/local/Ascend/driver/version.info")
TOOLKITS = (Path("/usr/local/Ascend/ascend-toolkit/latest"), Path("/usr/local/Ascend/latest"))
CANN_OF_MINDSPORE = {
    "2.7.0": "8.2",
    "2.7.1": "8.3",
    "2.7.2": "8.5",
    "2.9.0": "9.0",
    "2.10.0": "9.1",
}
"""The CANN that each MindSpore was built with."""
VERSION = re.compile(r"^\s*\"?[Vv]ersion\"?\s*[=:]\s*\"?([\w.]+)", re.MULTILINE)
UNCHECKED = (
    "firmware, NPU health and links between devices (npu-smi info), and the numbers that a device gives "
    "(duosora doctor --npu-check)"
)


def ascend_report() -> Iterator[str]:
    """Driver, CANN and MindSpore, a line each, and what was not checked; nothing where there is no trace of Ascend."""
    toolkit = _toolkit()
    if toolkit is None and not DRIVER.exists():
        return
    cann = _version(*sorted(toolkit.rglob("*install.info")), *sorted(toolkit.glob("version.*"))) if toolkit else None
    yield f"Ascend: driver {_version(DRIVER) or 'not found'}, CANN {cann or 'not found'}"
    yield _pairing(cann)
    yield f"Ascend: not checked: {UNCHECKED}"


def _pairing(cann: str | None) -> str:
    """Whether CANN and MindSpore belong together."""
    try:
        mindspore = metadata.version("mindspore")
    except metadata.PackageNotFoundError:
        return f"Ascend: MindSpore is not installed: {install_command('mindspore')}"
    wanted = CANN_OF_MINDSPORE.get(mindspore)
    if wanted is None:
        return f"Ascend: not checked: which CANN MindSpore {mindspore} belongs to"
    if cann is None:
        return f"Ascend: MindSpore {mindspore} needs CANN {wanted}: install it and source its set_env.sh"
    if cann == wanted or cann.startswith(f"{wanted}."):
        return f"Ascend: MindSpore {mindspore} and CANN {cann} belong together"
    return f"Ascend: MindSpore {mindspore} was built with CANN {wanted}, here is {cann}: install the one that fits"


def _toolkit() -> Path | None:
    named = os.environ.get("ASCEND_HOME_PATH")
    return next((folder for folder in (*([Path(named)] if named else []), *TOOLKITS) if folder.is_dir()), None)


def _version(*files: Path) -> str | None:
    """The version that the first of the files to have one tells."""
    for file in files:
        if file.is_file() and (found := VERSION.search(file.read_text(encoding="utf-8", errors="replace"))):
            return found[1]
    return None
