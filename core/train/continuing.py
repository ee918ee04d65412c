"""Whether a run may go on from a checkpoint: what its settings and inputs are now, and what they were."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..config.settings import read, resolved
from ..config.training import ObjectiveSettings, TrainConfig
from ..errors import ConfigError
from ..pipelines.following import OF_DENOISERS
from ..printable import short_name
from .loop import read_state

HARMLESS = (
    *("model.recipe", "max_steps", "folder", "tensorboard", "validation", "show", "checkpoints", "guard"),
    *("data.workers", "data.timeout_seconds", "data.prefetch", "caches.shard_mb"),
    *("parallel", "compute.name", "compute.device", "compute.compile"),
    *("compute.encode_chunk", "compute.recompute_every"),
)
"""Settings that may differ between a run and its continuation."""


def refuse_other_settings(checkpoint: Path, config: TrainConfig) -> None:
    """Raises: ConfigError naming the settings that differ from the run's and would make it another one."""
    before, now = _comparable(_settings_of(checkpoint)), _comparable(resolved(config))
    changed = [
        f"{name} = {now.get(name)!r} was {before.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
        and not any(name == harmless or name.startswith(f"{harmless}.") for harmless in HARMLESS)
    ]
    if changed:
        raise ConfigError(
            f"{checkpoint}: was made with other settings: {'; '.join(changed)}; "
            "set them back, or start a new run with start.weights"
        )


def _settings_of(checkpoint: Path) -> Mapping[str, Any]:
    """The settings of the run that made a checkpoint; those that it did not know yet have their defaults."""
    settings: Mapping[str, Any] = read_state(checkpoint)["run"]["config"]
    try:
        return resolved(read(TrainConfig, settings))
    except ValidationError:  # it knew some that are no more
        return settings


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their dotted names, without those that have no use; those that follow from others have their
    values."""
    flat = _flat(settings)
    flat["data.mega_batch"] = flat.get("data.mega_batch") or flat.get("accumulate")
    useless = {f"objective.{name}" for name in ObjectiveSettings.unused(str(flat.get("objective.kind")))}
    if settings.get("autoencoder") is not None:
        useless = {name for name in flat if name.startswith(OF_DENOISERS)}
    return {name: value for name, value in flat.items() if name not in useless}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def accepted(checkpoint: Path, config: TrainConfig, kind: str, now: Mapping[str, object]) -> list[str]:
    """Notes on what differs from what a checkpoint says of its run under `kind`: "origins" or "counts".

    Those of older versions do not say it. Raises: ConfigError naming what differs, unless the settings accept it.
    """
    run = read_state(checkpoint)["run"]
    if kind not in run:  # one note for both is enough
        unknown = f"{checkpoint} does not say what its annotations and models were; they are not compared"
        return [unknown] if kind == "origins" else []
    before = run[kind]
    changed = "; ".join(_differences(before, now))
    if changed and config.checkpoints.changed_inputs == "refuse":
        raise ConfigError(
            f"{checkpoint}: was made with other inputs: {changed}; put them back, start a new run with start.weights, "
            "or go on with checkpoints.changed_inputs=accept"
        )
    return [f"other inputs than until now: {changed}"] if changed else []


def _differences(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """What has changed, in words: hashes are not shown, counts are."""
    return [
        f"{short_name(name)}{_difference(before.get(name), now.get(name))}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def _difference(before: object, now: object) -> str:
    if before is None:
        return " is new"
    if now is None:
        return " is gone"
    return f": {before} before, {now} now" if isinstance(now, int) else " has changed"
