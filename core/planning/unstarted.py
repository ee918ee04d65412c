"""Planning a run that nobody starts: settings are settled as a run settles them, for a device that need not be here."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .. import recipes
from ..config.schema import SampleConfig
from ..config.settings import with_setting
from ..config.training import TrainConfig
from ..io.prompts import read_prompts
from ..models import FAMILIES
from ..models.finding import TINY_FOLDER, TRAINED, open_part
from ..pipelines.following import EXAMPLE, trained
from ..pipelines.jobs import JobPlanner
from ..pipelines.practice import AUTO
from ..pipelines.settings import default_dtype, open_parts, with_companions
from ..pipelines.settled import SettledRun, settle
from ..seam.backend import available
from ..seam.ranks import Ranks, make_plan
from ..train.run import split_ranks
from ..train.setup.parts import TrainParts
from .cases import sampling_case, training_case
from .devices import Device, device_named
from .sampling import SamplingCase
from .training import TrainingCase

Config = TypeVar("Config", SampleConfig, TrainConfig)
DEFAULT = "torch"
"""The backend that is planned for where none is installed or named."""

_COMPILED = "compiled graphs are planned as if they were not: the first call of each size takes longer, later ones less"


@dataclass(frozen=True)
class Planned:
    """What settling asks of a backend, which is not loaded."""

    name: str
    device: str
    on_host: bool
    memory: int | None

    def free_memory_bytes(self) -> int | None:
        """As the backend's: all that the device has for a run."""
        return self.memory

    @property
    def slow_dtypes(self) -> tuple[str, ...]:
        """As the backend's."""
        return ("fp16",) if self.on_host and self.name == "torch" else ()

    def check(self, dtype: str, attention: str) -> None:
        """Nothing: the device is not here to be asked."""


def plan_sampling(
    config: SampleConfig, overrides: Set[str], on: str, devices: int | None
) -> tuple[SamplingCase, Device, list[str]]:
    """A `sample` run on so many devices (None: as few as the settings need), and notes on what it settled to.

    Raises: DuosoraError as the run would.
    """
    device = device_named(on, _backend(config.backend.name))
    backend: Any = Planned(device.backend, device.name, device.on_host, device.memory)
    parallel = config.parallel
    split = make_plan(devices or parallel.sequence * (2 if parallel.cfg else 1), parallel.sequence, parallel.cfg)
    notes: dict[str, None] = {}

    def note(line: str) -> None:
        notes[line] = None

    named = with_setting(config, "backend.name", device.backend)
    settled = settle(_with_presets(named, note), overrides, backend, Ranks(split), note)
    planner = JobPlanner(
        settled.config, settled.followed.practice, settled.conditioner, settled.pipeline.parts.denoiser.spec, note
    )
    prompts = read_prompts(settled.config.prompts.sources or [_prompt(settled)], note)
    jobs = planner.jobs(prompts)
    if settled.config.backend.compile:
        note(_COMPILED)
    return sampling_case(settled, jobs), device, list(notes)


def plan_training(
    config: TrainConfig, overrides: Set[str], on: str, devices: int | None
) -> tuple[TrainingCase, Device, list[str]]:
    """A step of a `train` run, likewise."""
    device = device_named(on, _backend(config.compute.name))
    backend: Any = Planned(device.backend, device.name, device.on_host, device.memory)
    split = split_ranks(config, devices or config.parallel.sequence)
    notes: dict[str, None] = {}

    def note(line: str) -> None:
        notes[line] = None

    named = _with_presets(with_setting(config, "compute.name", device.backend), note)
    followed = trained(named, config.folder, overrides)
    config = followed.config
    parts = _parts(config)
    dtype = config.compute.dtype or default_dtype(backend)
    if config.compute.compile:
        note(_COMPILED)
    return training_case(config, parts, dtype, split), device, [*notes, *followed.notes]


def _parts(config: TrainConfig) -> TrainParts:
    """The models of a run, of which no weights need be here."""
    if config.autoencoder is not None:
        return TrainParts(open_part("vae", str(config.model.vae or "tiny"), config.seed), None, None, None)
    parts = open_parts(config.model, config.seed)
    return TrainParts(parts.denoiser, parts.text_encoder, parts.vae, parts.tokenizer)


def _backend(named: str | None) -> str:
    """The one that a CPU is planned for."""
    if named is not None:
        return named
    return next(iter(available()), DEFAULT)


def _prompt(settled: SettledRun) -> str:
    """What is planned for where nobody said it: a text, or a class."""
    reads_classes = settled.pipeline.parts.text_encoder is None
    return "0" if reads_classes else EXAMPLE


def _with_presets(config: Config, note: Callable[[str], None]) -> Config:
    """With presets in the places of models that are not here, as whoever plans need not have them.

    Their recipe says which. A preset's tokeniser is not here either: texts are counted by the tiny model's.
    """
    recipe = recipes.of_preset("denoiser", config.model.denoiser)
    if recipe is None and config.model.recipe != AUTO:
        recipe = recipes.named(config.model.recipe)
    for kind in ("denoiser", "text_encoder", "vae") if recipe else ():
        named, preset = getattr(config.model, kind), recipe.part(kind) if recipe else None
        if named is None or preset is None or str(named) in _presets(kind) or Path(named).exists():
            continue
        note(f"{named} is not here: {preset} stands in for it")
        config = with_setting(config, f"model.{kind}", preset if kind == "denoiser" else Path(preset))
    model = with_companions(config.model)
    if model.text_encoder is None or str(model.text_encoder) in TRAINED or model.text_encoder.exists():
        return config
    if model.tokenizer is None or not model.tokenizer.exists():
        note(f"the tokeniser of {model.text_encoder} is not here: tokens are counted by that of the tiny model")
        config = with_setting(config, "model.tokenizer", TINY_FOLDER)
    return config


def _presets(kind: str) -> set[str]:
    return {name for family in FAMILIES if family.kind == kind for name in family.presets}
