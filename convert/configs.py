"""The config.json of what is converted: the one that the user names, the one beside it, or what the shapes tell."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import CheckpointError, ConfigError, DuosoraError
from ..core.io.files import atomic_write, refuse_existing
from ..core.models import FAMILIES
from ..core.models.by_shapes import seen_by_shapes
from ..core.models.finding import CONFIG_FILE, family_of, read_config
from ..core.models.kinds import Family
from ..core.printable import short_name
from .beginning import begun_preset
from .names import Names

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class FoundConfig:
    """What a model is."""

    spec: Any = None
    """None where nobody knows."""
    content: bytes = b""
    """Of config.json; empty: none is written."""
    line: str = ""
    """How it was found, where nobody named it; may be empty."""
    is_named: bool = False
    """Whether it is the user's choice, so that it does not give way to one that is there."""

    def refuse_other(self, folder: Path, overwrite: bool) -> None:
        """Raises CheckpointError where another config.json stays beside the weights."""
        if self.is_named:
            refuse_existing(folder / CONFIG_FILE, overwrite, CheckpointError)

    def write(self, folder: Path) -> None:
        """Put it beside the weights; one that is there stays, unless another was named."""
        file = folder / CONFIG_FILE
        if self.content and (self.is_named or not file.exists()):
            with atomic_write(file, overwrite=self.is_named, error=CheckpointError) as temporary:
                temporary.write_bytes(self.content)


def find_config(
    opened: Path,
    names: Names | None,
    shapes: Shapes,
    named: str | None,
    tree: Mapping[Any, Any] | None = None,
) -> FoundConfig:
    """The config of tensors that have the names of a family; names: None for tensors of any.

    named: a config.json or a preset, from the user. tree: all that the checkpoint holds.
    Raises: ConfigError for one of another family, or that cannot be read; and as core.models.by_shapes.
    """
    if names is None:
        if named:
            raise ConfigError(
                f"--config {short_name(named)}: says what a model is, so it needs its names, --model FAMILY"
            )
        return FoundConfig()
    if named:
        return _named(names.family, named)
    if names.beginning is not None and names.beginning.is_of(shapes):
        preset, spec = begun_preset(names.beginning, names.family.presets, shapes, str(opened))
        return _made(spec, f"that of {preset}, which {names.beginning.title} of these shapes begins")
    file = (opened if opened.is_dir() else opened.parent) / CONFIG_FILE
    if file.exists():
        config = read_config(file)
        if family_of(config, str(file)) is not names.family:
            return FoundConfig()
        return FoundConfig(names.family.spec.from_config(config, str(file)), file.read_bytes())
    if told := _told(tree, names):
        return _made(names.family.spec.from_config(told, str(opened)), f"as {' > '.join(names.told_at)} says")
    seen = seen_by_shapes(shapes, str(opened), [names.family])
    return FoundConfig() if seen is None else _made(seen.spec, seen.told)


def families_of(named: str | None) -> tuple[str, ...]:
    """Those of a config.json or a preset that the user named; none for what cannot be read, which is told later."""
    found = [family.name for family in FAMILIES if named in family.presets]
    if found or not named:
        return tuple(found)
    file = Path(named) / CONFIG_FILE if os.path.isdir(named) else Path(named)
    try:
        return (family_of(read_config(file), str(file)).name,)
    except DuosoraError:
        return ()


def _named(family: Family, named: str) -> FoundConfig:
    if named in family.presets:
        spec = family.presets[named]
        return FoundConfig(spec, _text(spec), is_named=True)
    if not os.path.exists(named):
        raise ConfigError(
            f"--config {short_name(named)}: no such file, and no preset of {family.title} ({', '.join(family.presets)})"
        )
    file = Path(named) / CONFIG_FILE if os.path.isdir(named) else Path(named)
    config = read_config(file)
    if family_of(config, str(file)) is not family:
        raise ConfigError(f"--config {short_name(named)}: is not the config of {family.title}, whose names these are")
    return FoundConfig(family.spec.from_config(config, str(file)), file.read_bytes(), is_named=True)


def _told(tree: Mapping[Any, Any] | None, names: Names) -> dict[str, Any]:
    """What a checkpoint tells of its model beside the weights; empty where it does not tell."""
    held: Any = tree if names.told_at else None
    for key in names.told_at:
        held = held.get(key) if isinstance(held, Mapping) else None
    if not isinstance(held, Mapping) or not set(names.family.telling_keys) <= held.keys():
        return {}
    known = next(iter(names.family.presets.values())).to_config()
    return {key: held[key] for key in known if key in held}


def _made(spec: Any, told: str) -> FoundConfig:
    return FoundConfig(spec, _text(spec), f"  {CONFIG_FILE}: {told}")


def _text(spec: Any) -> bytes:
    return json.dumps(spec.to_config(), indent=1).encode()
