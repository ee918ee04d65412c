"""Samplers: how a network's predictions become a sample, step by step. Everything here is numpy and plain numbers.

`create` makes a run of one of `names()`. A new sampler is one file with a subclass of `Sampler` and one line in
SAMPLERS; the keyword arguments of its constructor are the options it takes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from ..errors import ConfigError
from ..printable import short_name
from ..shapes import VideoShape
from .base import Array, Sampler
from .cogvideox_ddim import CogVideoXDDIM
from .ddim import DDIM
from .ddpm import DDPM
from .deis import DEIS
from .dpm_solver import DPMSolver
from .dpmsolver_multistep import DPMSolverMultistep
from .dpmsolver_singlestep import DPMSolverSinglestep
from .euler import Euler
from .euler_ancestral import EulerAncestral
from .flow_euler import FlowEuler
from .guidance import guide, rescale, split_guidance
from .heun import Heun
from .iddpm import IDDPM
from .interpolant_ode import InterpolantODE
from .interpolant_sde import InterpolantSDE
from .kdpm2_ancestral import KDPM2Ancestral
from .pndm import PNDM
from .respaced_ddim import RespacedDDIM
from .rflow import RFlow
from .schedule import COGVIDEOX, LINEAR, SQUARED_COSINE, STABLE_DIFFUSION, FlowSchedule, Schedule

__all__ = [
    "COGVIDEOX",
    "LINEAR",
    "SQUARED_COSINE",
    "STABLE_DIFFUSION",
    "Array",
    "FlowSchedule",
    "Sampler",
    "Schedule",
    "check_options",
    "create",
    "guide",
    "names",
    "options",
    "rescale",
    "resolve",
    "split_guidance",
]

SAMPLERS: tuple[type[Sampler], ...] = (
    EulerAncestral,
    Euler,
    DDIM,
    DDPM,
    DPMSolverMultistep,
    DPMSolverSinglestep,
    Heun,
    KDPM2Ancestral,
    PNDM,
    DEIS,
    CogVideoXDDIM,
    FlowEuler,
    RFlow,
    IDDPM,
    RespacedDDIM,
    DPMSolver,
    InterpolantODE,
    InterpolantSDE,
)


NAMED = ("steps", "size", "objective", "path", "schedule", "spacing", "shift")
"""Arguments of constructors that have a setting of their own, or none."""


def names() -> tuple[str, ...]:
    """The samplers' own names; `create` also knows upstream's, such as EulerAncestralDiscrete."""
    return tuple(sampler.name for sampler in SAMPLERS)


def resolve(name: str) -> type[Sampler]:
    """The sampler class of a name or of one of upstream's names.

    Raises: ConfigError naming the nearest sampler.
    """
    known = {sampler.name: sampler for sampler in SAMPLERS}
    known |= {alias: sampler for sampler in SAMPLERS for alias in sampler.aliases}
    if name not in known:
        folded = {each.lower(): each for each in known}
        nearest = known[folded[get_close_matches(name.lower(), folded, n=1, cutoff=0.0)[0]]].name
        raise ConfigError(f"sampler.name = {name!r}: unknown, did you mean {nearest!r}? There are {', '.join(names())}")
    return known[name]


def options(name: str) -> frozenset[str]:
    """The keyword arguments of `create` that a sampler has a use for. Raises: as resolve."""
    construct: Callable[..., Sampler] = resolve(name)
    known = set(inspect.signature(construct).parameters) - {"steps", "size"}
    return frozenset(known | {"zero_terminal_snr"} if "schedule" in known else known)


def check_options(name: str, given: Mapping[str, Any]) -> None:
    """See that a sampler has further options of these names, each with a value like its default.

    Raises: ConfigError naming those that it has.
    """
    sampler = resolve(name)
    known = {
        option: parameter.default
        for option, parameter in inspect.signature(sampler).parameters.items()
        if (isinstance(parameter.default, (bool, int, float, str)) or parameter.annotation == "float | None")
        and option not in NAMED
    }
    for option, value in given.items():
        if option not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ConfigError(f"sampler.options.{short_name(option)}: {sampler.name} has no such option; {has}")
        kind = float if known[option] is None else type(known[option])
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise ConfigError(
                f"sampler.options.{option} = {short_name(str(value))}: {sampler.name} takes a value such as "
                f"{_example(known[option])}"
            )


def create(
    name: str,
    steps: int,
    *,
    objective: str | None = None,
    path: str | None = None,
    schedule: Schedule | None = None,
    zero_terminal_snr: bool | None = None,
    spacing: str | None = None,
    shift: float | None = None,
    num_train_timesteps: int | None = None,
    size: VideoShape | None = None,
    **others: Any,
) -> Sampler:
    """A fresh sampling run; None leaves an option to the sampler.

    `objective` is what the network predicts: epsilon, v_prediction, sample or flow; or velocity, noise or score of the
    interpolant on a `path` (linear, gvp, vp). `schedule` is the noise schedule it was trained on, `zero_terminal_snr`
    overrides that schedule's own. `spacing` (leading, trailing, linspace) defaults to trailing with zero terminal SNR
    and leading without. `shift` and `num_train_timesteps` belong to flow samplers. `size` is that of the video in
    pixels, for samplers whose times depend on it. `others` are further options of one sampler.

    Raises: ConfigError for an unknown name, an option that the sampler has no use for, an objective it cannot take,
    or a number of steps it cannot do.
    """
    sampler = resolve(name)
    wishes = {
        "objective": objective,
        "path": path,
        "zero_terminal_snr": zero_terminal_snr,
        "schedule": schedule,
        "spacing": spacing,
        "shift": shift,
        "num_train_timesteps": num_train_timesteps,
        **others,
    }
    given = {option: value for option, value in wishes.items() if value is not None}
    for option in given:
        if option not in options(name):
            raise ConfigError(
                f"sampler.{option}: {sampler.name} has no use for it; leave it out, or set sampler.{option}=null"
            )
    construct: Callable[..., Sampler] = sampler
    if size is not None and "size" in inspect.signature(construct).parameters:
        given["size"] = size
    terminal = given.pop("zero_terminal_snr", None)
    if terminal is not None:
        default = inspect.signature(construct).parameters["schedule"].default
        given["schedule"] = replace(schedule or default, zero_terminal_snr=terminal)
    return construct(steps, **given)


def _example(value: object) -> str:
    """As it is written in a setting."""
    if value is None:
        return "0.001"
    return str(value).lower() if isinstance(value, bool) else repr(value) if value == "" else str(value)
