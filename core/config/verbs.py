"""Which settings each verb of the command line reads."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .schema import EvaluateConfig, ReconstructConfig, SampleConfig
from .settings import Settings
from .training import TrainConfig

SCHEMAS: Mapping[str, type[Settings]] = MappingProxyType(
    {"sample": SampleConfig, "train": TrainConfig, "reconstruct": ReconstructConfig, "evaluate": EvaluateConfig}
)
"""By the verb that gave each its name."""
ALSO_READ_BY: Mapping[str, str] = MappingProxyType(
    {"sample": "judge, parity", "train": "cache, calibrate, data check"},
)
"""The verbs that read the settings of another one."""
