"""The settings files that come with duosora: their short names, and where they are."""

from __future__ import annotations

import os
from difflib import get_close_matches
from functools import cache
from pathlib import Path, PurePosixPath

from ..errors import ConfigError
from ..printable import short_name

FOLDER = Path(__file__).parents[2] / "configs"
ENDINGS = (".yaml", ".yml")
_SHOWN = 4


@cache
def shipped_names() -> tuple[str, ...]:
    """Such as sample/tiny, in order."""
    return tuple(sorted(str(file.relative_to(FOLDER).with_suffix("")) for file in FOLDER.glob("*/*.yaml")))


def settings_file(path: Path) -> Path:
    """The file at a path, or else the one of that name that comes with duosora.

    The name may begin with `configs/` and end in `.yaml`. Raises: ConfigError with the nearest names.
    """
    if os.path.lexists(path) and not path.is_dir():
        return path
    name = _short(path)
    if name in shipped_names():
        return FOLDER / f"{name}.yaml"
    if path.is_dir():
        raise ConfigError(f"{short_name(path)}: cannot be read (is a folder, expected a YAML file){_nearest(name)}")
    raise ConfigError(f"{short_name(path)}: there is no such file{_nearest(name)}")


def _short(path: Path) -> str:
    written = PurePosixPath(path)
    whole = written.with_suffix("") if written.suffix.lower() in ENDINGS else written
    return str(whole).removeprefix("configs/")


def _nearest(name: str) -> str:
    """What follows in a message: the shipped names of which a part is the name, or else those that look like it."""
    last = name.rpartition("/")[2]
    alike = [each for each in shipped_names() if last in each.split("/")]
    alike += get_close_matches(name, shipped_names(), _SHOWN)
    alike += [each for each in shipped_names() if get_close_matches(last, [each.rpartition("/")[2]])]
    nearest = list(dict.fromkeys(alike))[:_SHOWN]
    return f"; the nearest of those that come with duosora: {', '.join(nearest)}" if nearest else ""
