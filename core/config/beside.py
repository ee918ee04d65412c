"""Relative paths in a settings file.

What a run reads is looked for in the folder of the file first, then in the current folder. What it writes is of the
current folder. Paths of `--set` and of other options are of the current folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_args

from ..io.prompt_files import FILE_SUFFIXES
from .settings import FolderOrPreset, Settings, group_in

WRITTEN = ("folder", "output.folder", "caches.text", "caches.latents")
PROMPTS = ("prompts.sources", "show.prompts")
"""Texts, or files of them."""


def found_beside(values: Any, schema: type[Settings], folder: Path) -> Any:
    """The values of a file in `folder`; paths of what is there are now paths from the current folder, or absolute.

    Everything else stays as it is, wrong values too.
    """
    base = os.path.realpath(folder)
    return values if base == os.path.realpath(os.curdir) else _in_group(values, schema, base, "")


def _in_group(values: Any, schema: type[Settings], base: str, prefix: str) -> Any:
    if not isinstance(values, dict):
        return values
    found = {}
    for key, value in values.items():
        field, path = schema.model_fields.get(key), f"{prefix}{key}"
        group = group_in(field.annotation) if field else None
        if group is not None:
            value = _in_group(value, group, base, f"{path}.")
        elif path in PROMPTS or (field and path not in WRITTEN and _is_path(field)):
            is_list = isinstance(value, list)
            value = [_beside(each, base, path) for each in value] if is_list else _beside(value, base, path)
        found[key] = value
    return found


def _is_path(field: Any) -> bool:
    return _holds_path(field.annotation) or any(info in field.metadata for info in get_args(FolderOrPreset)[1:])


def _holds_path(annotation: Any) -> bool:
    return annotation is Path or any(map(_holds_path, get_args(annotation)))


def _beside(value: Any, base: str, setting: str) -> Any:
    if not isinstance(value, str) or not value or value in _presets():
        return value
    if setting in PROMPTS and not value.lower().endswith(FILE_SUFFIXES):
        return value
    if os.path.isabs(os.path.expanduser(value)):
        return value
    there = os.path.normpath(os.path.join(base, value))
    if not os.path.exists(there):
        return value
    here = os.path.relpath(there)
    return there if here.startswith(os.pardir) else here


def _presets() -> set[str]:
    from ..models import FAMILIES

    return {name for family in FAMILIES for name in family.presets}
