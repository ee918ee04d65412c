"""A whole `train` run: settle everything first, then build, resume and loop."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import yaml

from ..config.data import DataSettings
from ..config.settings import resolved, with_setting
from ..config.training import LearningRateSettings, TrainConfig
from ..data.fetching import ReadingCounts, joined
from ..data.fingerprints import weights_fingerprint
from ..data.labels import class_table
from ..errors import CheckpointError, ConfigError
from ..io.files import atomic_write
from ..io.paths import given_path
from ..layout import FreshWeights
from ..loading import check_headers
from ..models.finding import Part, weights_in
from ..models.lora.adapter import adapted_layout, adapter_layout
from ..models.lora.applying import BesideWeights
from ..models.lora.merging import MergedWeights
from ..models.run_folders import MODEL, RUN_CONFIG, model_folder
from ..parallel.agreement import agreed, exchange
from ..parallel.launched import launched, told_once
from ..pipelines.following import trained as following_model
from ..pipelines.practice import mixed
from ..pipelines.settings import compute_dtype
from ..printable import say
from ..seam import backend as backends
from ..seam.ranks import ParallelPlan, Ranks
from ..seam.ranks import make_plan as make_rank_plan
from ..seam.training import Report
from .autoencoder import check_losses, check_reached
from .checkpoints import Checkpoints, Found, open_checkpoint
from .continuing import accepted, refuse_other_settings
from .ema import EmaSchedule
from .guard import Guard
from .learning_rate import LearningRate
from .logs import StepLog
from .loop import Loop, RunEnd, Timetable, read_state
from .model_folders import saved_weights
from .origins import origins
from .saving import not_shared
from .setup.denoiser import check_denoiser, check_pictures
from .setup.parts import train_parts
from .setup.task import make_task
from .start import Start, check_frozen, check_meaning, start_from
from .summary import describe_processes, describe_training
from .tuning import tuning_of

LOCK = ".lock"
OF_ADAPTED = "model.denoiser"
"""The origin of a run that is the model it adapts."""


class TrainRun:
    """Everything that a run resolved to. No file is written before `run`.

    Raises: DuosoraError of the part that does not fit, before any long work.
    """

    def __init__(
        self, config: TrainConfig, resume: str = "auto", is_dry: bool = False, overrides: Set[str] = frozenset()
    ) -> None:
        """resume: auto for the newest complete checkpoint of the run's folder, none, or the path of one. is_dry: for
        `plan` alone, without waiting for the other processes that were started with this one. overrides: the paths
        of settings that the command line gave, to tell them from those of a file."""
        self._overrides = overrides
        here = launched()
        with told_once():
            split = split_ranks(config, here.world)
        self.backend = backends.get(config.compute.name, config.compute.device)
        self.config = with_setting(config, "compute.name", self.backend.name)
        self.ranks = Ranks(split, here.rank) if is_dry else self.backend.connect(split, config.parallel.meet_seconds)
        self.checkpoints = Checkpoints(config.folder, config.checkpoints.keep, config.checkpoints.keep_every)
        agreed(self.ranks.world, lambda: self._settle(resume))
        self.found = self._find_together(resume)
        self.start = agreed(self.ranks.world, self._checked_start)

    def _settle(self, resume: str) -> None:
        resumed = self.config.folder if resume in ("auto", "none") else _checkpoint_path(resume)
        self.followed = following_model(self.config, resumed, self._overrides)
        self.config = config = self.followed.config
        self.dtype = compute_dtype(self.backend, config.compute)
        self.backend.check(self.dtype, config.compute.attention)
        _refuse_missing_files(config.data)
        self.parts = train_parts(config.model, config.autoencoder, config.seed)
        self.tuning = tuning_of(config, self.parts.trained)
        if config.autoencoder is None:
            check_denoiser(config, self.parts.trained)
            if self.ranks.is_first:
                check_pictures(config, self.parts)
        else:
            check_losses(config.autoencoder, self.parts.trained.spec)
        kind = "denoiser" if config.autoencoder is None else "vae"
        self.mixed = mixed(self.followed.practice.recipe, {kind: self.parts.trained, **self.parts.frozen})
        for part in self.parts.frozen.values():
            part.check()

    def plan(self) -> list[str]:
        """What the run is about to do, a line per subject; all ranks make it."""
        return agreed(self.ranks.world, self._describe)

    def _describe(self) -> list[str]:
        config, parts = self.config, self.parts
        trained = parts.trained
        lines = [
            f"backend    {self.backend.name} on {self.backend.device}, {self.dtype}, "
            f"attention {config.compute.attention}",
            f"training   {trained.family.title} of {trained.layout.num_parameters:,} parameters ({trained.source})",
            *self.start.report,
            *self.tuning.told(trained.layout),
            *describe_training(config, parts),
            *self.followed.lines,
            *describe_processes(config, self.ranks.plan),
        ]
        found = [note for part in (trained, *parts.frozen.values()) for note in part.notes]
        lines += [
            f"NOTE       {line}" for line in (*self.followed.notes, *self.mixed, *self.start.notes, *found, *self.notes)
        ]
        lines += [f"NOTE       passed over {line}" for line in self.found.passed_over]
        if self.found.path is not None:
            lines.append(f"resuming   from {self.found.path} at step {self.found.step}")
            before = read_state(self.found.path)["run"]["config"]["compute"]["name"]
            if before != self.backend.name:
                lines.append(f"NOTE       until there the run was on {before}; later steps differ from its by rounding")
        return lines

    def run(self, on_step: Callable[[int, Report], None] | None = None, say: Callable[[str], None] = say) -> RunEnd:
        """Train, from the checkpoint if there is one.

        Raises: CheckpointError when the folder cannot be written, or another process is training in it.
        """
        first = self.ranks.is_first
        with ExitStack() as stack:
            agreed(self.ranks.world, lambda: stack.enter_context(_alone_in(self.config.folder)) if first else None)
            return self._run(on_step, say) if first else self._run(None, _ignore)

    def _run(self, on_step: Callable[[int, Report], None] | None, say: Callable[[str], None]) -> RunEnd:
        config, ranks = self.config, self.ranks
        log = agreed(ranks.world, lambda: self._open_folder(say) if ranks.is_first else None)
        agreed(ranks.world, self._refuse_other_folder)
        task, loader = agreed(
            ranks.world, lambda: make_task(config, self.backend, self.parts, self.start, self.dtype, ranks)
        )
        if loader is not None:
            say(f"reading    {loader.describe()}")
        guard = Guard(config.guard.on_bad_step, config.guard.spike_factor, config.guard.max_skips)
        counts = {} if loader is None else loader.counts()
        identity = agreed(ranks.world, lambda: self._identity(counts, say) if ranks.is_first else {})
        plan = make_plan(config)
        memory = self.backend.peak_memory_bytes
        loop = Loop(config.folder, task, loader, plan, self.checkpoints, log, guard, identity, say, memory, ranks)
        own = None if loader is None else loader.report
        reports: list[Any] = []
        try:
            if self.found.path is not None:
                loop.resume(self.found)
            outcome = loop.run(on_step)
            reports = exchange(ranks.world, lambda: own and own())
        except BaseException:
            reports = [own and own()]  # others may not be there to be asked
            raise
        finally:
            if loader is not None:
                loader.close()
            for line in joined(ReadingCounts(*each) for each in reports if each).lines():
                say(line)
        return outcome

    @cached_property
    def _origins(self) -> dict[str, str]:
        found = origins(self.config, self.parts)
        is_read = self.config.start.weights is not None or not self.parts.trained.is_fresh
        if self.tuning.adapters and is_read:
            found[OF_ADAPTED] = weights_fingerprint(self.parts.trained.spec, self._adapted.weights)
        return found

    def _identity(self, counts: Mapping[str, int], say: Callable[[str], None]) -> dict[str, Any]:
        """What a checkpoint says of its run. counts: of the data. Raises: ConfigError when a resumed run has others."""
        if (checkpoint := self.found.path) is not None:
            for note in accepted(checkpoint, self.config, "counts", counts):
                say(f"NOTE       {note}")
        versions = self.backend.versions()
        return {
            "config": resolved(self.config),
            "models": {kind: part.source for kind, part in self.parts.frozen.items()},
            "started_in": str(Path.cwd()),
            "classes": class_table(self.config.data),
            "versions": versions,
            "origins": self._origins,
            "counts": counts,
        }

    def _open_folder(self, say: Callable[[str], None]) -> StepLog:
        """Make the run's folder ready, which the first rank does for all."""
        config = self.config
        self.checkpoints.clean()
        for path in self.checkpoints.set_aside(self.found):
            say(f"set aside  {path}, which is to be written anew")
        with atomic_write(config.folder / RUN_CONFIG, overwrite=True, error=CheckpointError) as temporary:
            text = yaml.safe_dump(resolved(config), sort_keys=False, allow_unicode=True)
            temporary.write_text(text, encoding="utf-8")
        return StepLog(config.folder, config.tensorboard)

    def _refuse_other_folder(self) -> None:
        """Raises: CheckpointError where this rank does not see what the first one has written."""
        if not (self.config.folder / RUN_CONFIG).is_file():
            raise not_shared(self.config.folder)

    def _find_together(self, resume: str) -> Found:
        """What the first rank finds: looking for damage reads all files."""

        def find() -> Any:
            if self.ranks.world.index:
                return None
            found = self._find(resume)
            notes = [] if found.path is None else self._compare(found.path)
            return str(found.path) if found.path else None, found.step, found.passed_over, notes

        path, step, passed_over, self.notes = exchange(self.ranks.world, find)[0]
        return Found(path and Path(path), step, tuple(passed_over))

    def _compare(self, checkpoint: Path) -> list[str]:
        """Notes on how this run differs from a checkpoint's. Raises: ConfigError when it would be another run."""
        refuse_other_settings(checkpoint, self.config)
        return accepted(checkpoint, self.config, "origins", self._origins)

    def _find(self, resume: str) -> Found:
        if resume not in ("auto", "none"):
            return open_checkpoint(_checkpoint_path(resume))
        found = self.checkpoints.newest()
        if resume == "none" and (found.path or found.passed_over):
            raise CheckpointError(
                f"{self.config.folder}: holds a run already; go on with --resume auto, or choose another --out"
            )
        return found

    def _checked_start(self) -> Start:
        start = self._start()
        check_headers(adapted_layout(self.parts.trained.layout, self.tuning.adapters), start.weights)
        return start

    def _start(self) -> Start:
        settings, trained = self.config.start, self.parts.trained
        check_frozen(trained.layout, settings.frozen)
        if self.config.autoencoder is not None:
            check_reached(self.config.autoencoder, trained, settings.frozen)
        saved = None if self.found.path is None else saved_weights(self.found.path / MODEL)
        if not self.tuning.adapters:
            return self._begin() if saved is None else Start(saved, ())
        begun, seed = self._adapted, self.config.seed
        adapters = saved or FreshWeights(adapter_layout(trained.layout, self.tuning.adapters), seed)
        base = {"source": self._adapted_source, "fingerprint": self._origins.get(OF_ADAPTED)}
        return begun._replace(weights=BesideWeights(begun.weights, adapters), base=base)

    @cached_property
    def _adapted(self) -> Start:
        """The model that LoRA is trained for."""
        return self._begin()

    @property
    def _adapted_source(self) -> str:
        return str(self.config.start.weights or self.parts.trained.source)

    def _begin(self) -> Start:
        """The weights of a run that goes on from no checkpoint; with LoRA, of the model that it adapts."""
        settings, trained = self.config.start, self.parts.trained
        if settings.fresh and trained.loras:
            raise ConfigError("start.fresh and model.lora exclude each other: LoRA is for trained weights")
        if settings.weights is None:
            if settings.leave_out or settings.allow_missing:
                raise ConfigError("start.leave_out and start.allow_missing need start.weights")
            if settings.fresh:
                return Start(FreshWeights(trained.layout, self.config.seed), ("weights    freshly drawn",))
            report = "weights    freshly drawn" if trained.is_fresh else f"weights    all from {trained.source}"
            return Start(trained.open(), (report, *_added(trained)))
        if settings.fresh:
            raise ConfigError("start.fresh and start.weights exclude each other")
        folder, notes = model_folder(settings.weights)
        check_meaning(trained, folder)
        file = weights_in(folder)
        start = start_from(trained.layout, file, self.config.seed, settings.leave_out, settings.allow_missing)
        weights = MergedWeights(start.weights, trained.layout, trained.loras) if trained.loras else start.weights
        return Start(weights, (*start.report, *_added(trained)), notes)


def _added(part: Part) -> list[str]:
    """What of LoRA is added to the weights that a run begins with."""
    return [f"           {used.scale:g} x {used.lora.source} added" for used in part.loras]


def _checkpoint_path(text: str) -> Path:
    try:
        return given_path(text)
    except ValueError as error:
        raise ConfigError(f"--resume: {error}") from error


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder until the block, or this process, ends, in whatever way.

    Raises: CheckpointError when one is in there, or the folder cannot be written.
    """
    with _writable(folder / LOCK) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            advice = "wait for it, or choose another folder with --out"
            raise CheckpointError(f"{folder}: another process is training there; {advice}") from error
        except OSError:  # some network file systems have no locks
            pass
        yield


def _writable(file: Path) -> IO[str]:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return file.open("w")
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be written ({error.strerror or error})") from error


def _refuse_missing_files(data: DataSettings) -> None:
    """Raises: ConfigError, as opening them would, but before the models are looked for."""
    if data.kind != "moving_shapes" and not data.files:
        raise ConfigError("data.files: name the annotations or folders to train on")
    missing = [str(file) for file in data.files if not file.exists()]
    if missing:
        raise ConfigError(f"data.files: there is no {', '.join(missing)}; name the annotations or folders to train on")


def split_ranks(config: TrainConfig, world: int) -> ParallelPlan:
    """Who does what in a world of so many processes. Raises: ConfigError, naming what works, when it does not split."""
    if config.autoencoder is not None and config.parallel.sequence > 1:
        raise ConfigError(
            f"parallel.sequence = {config.parallel.sequence}: an autoencoder has no tokens to share; set it to 1, and "
            "all processes read different clips"
        )
    _check_engine(config)
    if config.data.mega_batch and config.accumulate % config.data.mega_batch:
        raise ConfigError(
            f"data.mega_batch = {config.data.mega_batch}: does not divide accumulate = {config.accumulate}"
        )
    split = make_rank_plan(world, config.parallel.sequence)
    if config.accumulate % split.data:
        fitting = [f"{count * config.parallel.sequence}" for count in _divisors(config.accumulate)]
        told = " or ".join(filter(None, (", ".join(fitting[:-1]), fitting[-1])))
        raise ConfigError(
            f"accumulate = {config.accumulate}: its micro-batches are not shared evenly by the {split.data} of "
            f"{world} processes that read different clips; set a multiple of {split.data}, or start "
            f"{told} {'process' if told == '1' else 'processes'}"
        )
    return split


def _check_engine(config: TrainConfig) -> None:
    """Raises: ConfigError when DeepSpeed is to split what it does not split here."""
    if config.parallel.engine != "deepspeed":
        return
    if config.autoencoder is not None:
        raise ConfigError("parallel.engine = deepspeed: no process splits an autoencoder's state; leave it out")
    if config.parallel.zero != 2:
        raise ConfigError(
            f"parallel.zero = {config.parallel.zero}: parallel.engine = deepspeed has 2 only; set that, or leave the "
            "engine out"
        )


def _divisors(number: int) -> list[int]:
    return [count for count in range(1, number + 1) if number % count == 0]


def _ignore(_: str) -> None:
    """What another rank says."""


def make_plan(config: TrainConfig) -> Timetable:
    """When what happens."""
    return Timetable(
        max_steps=config.max_steps,
        learning_rate=_learning_rate(config.learning_rate, config.max_steps),
        ema=None if config.ema is None else EmaSchedule(**config.ema.model_dump()),
        save_every=config.checkpoints.every,
        save_in_background=config.checkpoints.in_background,
        validate_every=config.validation.every,
        show_every=config.show.every,
    )


def _learning_rate(settings: LearningRateSettings, total_steps: int) -> LearningRate:
    values = settings.model_dump() | {"starts_above_zero": bool(settings.starts_above_zero)}
    return LearningRate(**values, total_steps=total_steps)
