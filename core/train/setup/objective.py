"""The objective of a denoiser."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from ...config.training import ObjectiveSettings
from ...data.frame_masks import FrameMasks
from ...errors import ConfigError
from ...maths.interpolants import PREDICTIONS, Interpolant
from ...pipelines.settings import SCHEDULES
from ...samplers.schedule import FlowSchedule
from ..interpolants import InterpolantObjective
from ..objectives import DiffusionObjective, DrawsNoise, FlowObjective
from ..rflow import RFlowObjective
from ..timesteps import TimestepDraw

OF_INTERPOLANTS = frozenset(("path", "train_eps"))


def make_objective(settings: ObjectiveSettings, num_samples: int) -> DrawsNoise:
    """What a denoiser is trained on. num_samples: of an optimiser step.

    Raises: ConfigError for settings that do not go together.
    """
    _refuse_useless(settings)
    timesteps = TimestepDraw(**settings.timesteps.model_dump(), global_batch=num_samples)
    if settings.kind in PREDICTIONS:
        of = Interpolant(settings.path or "linear", settings.kind)
        weighting, eps = settings.weighting, settings.train_eps
        return InterpolantObjective(of=of, weighting=weighting, train_eps=eps, timesteps=timesteps)
    if settings.kind == "rflow":
        return RFlowObjective(
            timesteps=timesteps,
            discrete=settings.discrete,
            bends=bool(settings.timestep_transform),
            bend_scale=settings.transform_scale,
        )
    if settings.kind == "flow":
        return FlowObjective(
            schedule=FlowSchedule(shift=settings.shift or 1.0), weighting=settings.weighting, timesteps=timesteps
        )
    schedule = replace(SCHEDULES[settings.schedule], zero_terminal_snr=settings.zero_terminal_snr)
    return DiffusionObjective(
        kind=settings.kind,
        schedule=schedule,
        snr_gamma=settings.snr_gamma,
        timesteps=timesteps,
        bound=settings.bound or "none",
        speed=settings.speed,
    )


def check_bound(settings: ObjectiveSettings, output: str, denoiser: str) -> None:
    """See that a denoiser predicts the variance that the bound is to teach it. Raises: ConfigError."""
    if settings.bound not in (None, "none") and output != "mean_and_range":
        raise ConfigError(
            f"objective.bound = {settings.bound}: {denoiser} predicts no variance that it could learn; set "
            "objective.bound=none"
        )


def frame_masks(settings: ObjectiveSettings) -> FrameMasks | None:
    """Which frames training leaves clean, if any. Raises: ConfigError, naming the kind of masks that does not fit."""
    return FrameMasks(settings.frame_masks, "objective.frame_masks") if settings.frame_masks else None


def _refuse_useless(settings: ObjectiveSettings) -> None:
    """Raises: ConfigError for what only flows of another kind have a use for."""
    if settings.kind in PREDICTIONS:
        _refuse(settings, settings.unused(settings.kind) - {"schedule", "zero_terminal_snr"})
        return
    _refuse(settings, OF_INTERPOLANTS)
    if settings.kind != "flow" and ((settings.shift or 1.0) != 1.0 or settings.weighting != "none"):
        raise ConfigError(
            f"objective.shift and objective.weighting are for flow, not for {settings.kind}; leave them out, or set "
            "objective.shift=1 and objective.weighting=none"
        )
    if settings.kind in ("flow", "rflow") and (settings.speed or settings.bound not in (None, "none")):
        raise ConfigError(
            f"objective.bound and objective.speed are not for {settings.kind}; leave them out, or set "
            "objective.bound=none and objective.speed=false"
        )
    if settings.kind == "rflow":
        return
    _refuse(settings, settings.unused(settings.kind) - settings.unused("rflow") - OF_INTERPOLANTS)


def _refuse(settings: ObjectiveSettings, names: Set[str]) -> None:
    """Raises: ConfigError where one of these is set, which are for other kinds."""
    fields = ObjectiveSettings.model_fields
    for name in sorted(names):
        if (value := getattr(settings, name)) and value not in ("none", fields[name].default):
            raise ConfigError(f"objective.{name} = {value}: {settings.kind} has no use for it; leave it out")
