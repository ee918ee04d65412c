"""Which settings each verb of the command line reads."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from types import MappingProxyType

from ..errors import ConfigError
from .schema import EvaluateConfig, ReconstructConfig, SampleConfig
from .settings import Settings, list_settings
from .training import TrainConfig

SCHEMAS: Mapping[str, type[Settings]] = MappingProxyType(
    {"sample": SampleConfig, "train": TrainConfig, "reconstruct": ReconstructConfig, "evaluate": EvaluateConfig}
)
"""By the verb that gave each its name."""
COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "sample": "duosora sample --config {}",
        "train": "duosora train --config {}",
        "reconstruct": "duosora reconstruct CLIP --out OUT.mp4 --config {}",
        "evaluate": "duosora evaluate ORIGINALS RESULTS --config {}",
    }
)
"""How a file of settings is used, with {} for it."""
MOST_NAMES = 4
"""That an error lists of a file for another verb."""
ALSO_READ_BY: Mapping[str, str] = MappingProxyType(
    {"sample": "sample-set, judge, parity", "train": "cache, calibrate, data check"},
)
"""The verbs that read the settings of another one."""


def refuse_other_verbs(path: Path, names: Set[str], schema: type[Settings]) -> None:
    """See that a file is not meant for another verb than the one that reads it.

    names: the outermost settings in the file. Raises: ConfigError when those of another verb suit them better.
    """
    own = next((verb for verb, known in SCHEMAS.items() if known is schema), None)
    strange = {verb: len(names - known.model_fields.keys()) for verb, known in SCHEMAS.items()}
    verb = min(strange, key=lambda each: (strange[each], each != own))
    if own is None or verb == own:
        return
    theirs = sorted(names & (SCHEMAS[verb].model_fields.keys() - schema.model_fields.keys()))
    if len(theirs) == 1 and any(line.path.endswith(f".{theirs[0]}") for line in list_settings(schema)):
        return  # one that stands in the wrong group rather than in the wrong file
    readers = ", ".join([own, ALSO_READ_BY[own]] if own in ALSO_READ_BY else [own])
    more = ", ..." if len(theirs) > MOST_NAMES else ""
    raise ConfigError(
        f"{path}: is a file for {verb}, not for {readers}: it sets {', '.join(theirs[:MOST_NAMES])}{more}; "
        f"run {COMMANDS[verb].format(path)}"
    )
