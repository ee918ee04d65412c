"""Stop the build with a clear sentence when the links in src/duosora arrived as text files.

Everything else about the package stands in pyproject.toml.
"""

import pathlib
import sys

from setuptools import setup

for name in ("core", "backends", "convert", "configs"):
    link = pathlib.Path(__file__).parent / "src" / "duosora" / name
    if not link.is_dir():
        sys.exit(
            f"src/duosora/{name} must be a symbolic link to ../../{name}, but it is not a folder here: "
            "the sources were unpacked without links (a ZIP download, or git on Windows with core.symlinks off). "
            "Clone with git, or put a copy of the folder in its place."
        )

setup()
