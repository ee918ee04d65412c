"""The objective of a denoiser."""

from __future__ import annotations

from dataclasses import replace

from ...config.training import ObjectiveSettings
from ...errors import ConfigError
from ...pipelines.settings import SCHEDULES
from ...samplers.schedule import FlowSchedule
from ..objectives import DiffusionObjective, FlowObjective, Objective
from ..timesteps import TimestepDraw


def make_objective(settings: ObjectiveSettings, num_samples: int) -> Objective:
    """What a denoiser is trained on. num_samples: of an optimiser step.

    Raises: ConfigError for settings that do not go together.
    """
    timesteps = TimestepDraw(**settings.timesteps.model_dump(), global_batch=num_samples)
    if settings.kind == "flow":
        return FlowObjective(
            schedule=FlowSchedule(shift=settings.shift or 1.0), weighting=settings.weighting, timesteps=timesteps
        )
    if settings.kind == "rflow":
        raise ConfigError("objective.kind = rflow: no run trains this yet; flow is the same towards the noise")
    if (settings.shift or 1.0) != 1.0 or settings.weighting != "none":
        raise ConfigError(
            f"objective.shift and objective.weighting are for flow, not for {settings.kind}; leave them out, or set "
            "objective.shift=1 and objective.weighting=none"
        )
    schedule = replace(SCHEDULES[settings.schedule], zero_terminal_snr=settings.zero_terminal_snr)
    return DiffusionObjective(kind=settings.kind, schedule=schedule, snr_gamma=settings.snr_gamma, timesteps=timesteps)
