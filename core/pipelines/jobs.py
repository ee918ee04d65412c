"""The videos that a run will make: from prompts, files and seeds, all of which are read and fitted before any work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import random, samplers
from ..conditioning.base import Conditioner, Note, Wish
from ..conditioning.prompt_parts import PromptParts
from ..config.schema import SampleConfig
from ..errors import ConfigError
from ..io.prompts import Prompt, apply_template
from ..models.kinds import DenoiserSpec
from ..printable import short_name
from ..recipes.recipe import Labels
from ..shapes import VideoShape
from .classes import Classes, read_class_names
from .following import prompts_for, scores_of
from .practice import Practice

MAX_VIDEOS = 100_000
"""Of one run. All are planned before the first is made; millions would take minutes and gigabytes."""


@dataclass(frozen=True)
class Job:
    """One video that a run will make."""

    prompt: Prompt
    texts: tuple[str, ...]
    """The prompt of each clip in its template, as the model can read it."""
    negative: str | None
    """None: the model's learned null caption."""
    seed: int
    video: VideoShape
    placed: Any = field(default=None, repr=False)
    """What is given beside the text, as the conditioner has placed it."""

    @property
    def text(self) -> str:
        """Of the first clip."""
        return self.texts[0]

    @property
    def name(self) -> str:
        """A file name without ending, different for each job of a run."""
        return f"{self.prompt.name}_{self.seed}"


@dataclass(frozen=True)
class JobPlanner:
    """From prompts to jobs."""

    config: SampleConfig
    practice: Practice
    conditioner: Conditioner
    denoiser: DenoiserSpec
    note: Note

    def jobs(self, prompts: Sequence[Prompt]) -> list[Job]:
        """Those of all prompts. Raises: DuosoraError for the first that cannot be made."""
        refuse_too_many(len(prompts), self.config.samples_per_prompt)
        parts = [self._parts(prompt) for prompt in prompts]
        read = self._texts(prompts, parts)
        return [
            job
            for prompt, each, (texts, negative) in zip(prompts, parts, read, strict=True)
            for job in self._jobs_of(prompt, each.reading(texts), negative)
        ]

    def _parts(self, prompt: Prompt) -> PromptParts:
        return self.practice.texts.take_apart(prompt.text, f"prompt {short_name(prompt.text)!r}")

    def _jobs_of(self, prompt: Prompt, parts: PromptParts, negative: str | None) -> Iterator[Job]:
        config = self.config
        asked = self.conditioner.ask(prompt, parts, config, self.note)
        texts = tuple(parts.texts.at(loop) for loop in range(config.loop.count))
        first = config.seed if prompt.seed is None else prompt.seed
        for seed in range(first, first + config.samples_per_prompt):
            random.check_seed(seed)
            yield Job(prompt, texts, negative, seed, asked.video, self._placed(asked, seed, parts.where))

    def _placed(self, asked: Wish, seed: int, where: str) -> Any:
        placed = self.conditioner.place(asked.given, asked.video, seed)
        if self.conditioner.keeps_frames(placed):
            need_late_frames(self.config.sampler.name, f"the references of {where} need")
        return placed

    def _numbers(self, prompts: Sequence[Prompt]) -> list[tuple[tuple[str, ...], str | None]]:
        """The number of the class of each prompt, and of the one that guidance leads away from; None: the null class.

        Raises: ConfigError for what is no class, and for settings that are for texts.
        """
        settings = self.config.prompts
        scores_of(self.config, self.practice)  # refuses them
        if settings.template != "{}":
            raise ConfigError(
                f"prompts.template: {self.config.model.denoiser} reads classes; leave it out, or set {{}}"
            )
        classes = self.classes()
        found: list[tuple[tuple[str, ...], str | None]] = []
        for prompt in prompts:
            negative = settings.negative if prompt.negative is None else prompt.negative
            away = None if negative is None else str(classes.number(negative, self.note))
            found.append(((str(classes.number(prompt.text, self.note)),), away))
        return found

    def classes(self) -> Classes:
        """Those of the model, with the names that a file, its run or its recipe says. Raises: as Classes."""
        path, texts = self.config.prompts.classes, self.practice.texts
        if path is not None:
            return Classes(self.denoiser.num_classes, read_class_names(path, self.denoiser.num_classes), str(path))
        names = texts.names if isinstance(texts, Labels) else ()
        return Classes(self.denoiser.num_classes, names, self.practice.source)

    def _texts(
        self, prompts: Sequence[Prompt], parts: Sequence[PromptParts]
    ) -> list[tuple[tuple[str, ...], str | None]]:
        """The texts of each prompt in its template, and its negative prompt, as the model can read them."""
        if "label" in self.denoiser.given:
            return self._numbers(prompts)
        settings = self.config.prompts
        if settings.classes is not None:
            raise ConfigError(f"prompts.classes: {self.config.model.denoiser} reads texts; leave it out")
        pairs = [
            (apply_template(settings.template, text), settings.negative if prompt.negative is None else prompt.negative)
            for prompt, each in zip(prompts, parts, strict=True)
            for text in each.texts.texts
        ]
        written, negative = [text for text, _ in pairs], [text for _, text in pairs]
        read = prompts_for(self.practice, written, negative, scores_of(self.config, self.practice))
        for note in read.notes:
            self.note(note)
        if None in read.negatives and "is_null" not in self.denoiser.given:
            raise ConfigError(
                f"prompts.negative = null: {self.config.model.denoiser} has learned no caption of nothing; set a text, "
                "if only an empty one"
            )
        texts, negatives = iter(read.prompts), iter(read.negatives)
        found = []
        for each in parts:
            own = [(next(texts), next(negatives)) for _ in each.texts.texts]
            found.append((tuple(text for text, _ in own), own[0][1]))
        return found


def by_size(jobs: Sequence[Job]) -> dict[VideoShape, list[Job]]:
    """Jobs of one size together, sizes in the order in which they come up."""
    found: dict[VideoShape, list[Job]] = {}
    for job in jobs:
        found.setdefault(job.video, []).append(job)
    return found


def batches_of(jobs: Sequence[Job], size: int) -> list[list[Job]]:
    """At most `size` jobs at a time, all of one size of video."""
    return [alike[i : i + size] for alike in by_size(jobs).values() for i in range(0, len(alike), size)]


def need_late_frames(sampler: str, what: str) -> None:
    """Raises: ConfigError when the sampler cannot keep frames as they are given, or start them later."""
    if not samplers.resolve(sampler).starts_frames_late:
        others = ", ".join(each.name for each in samplers.SAMPLERS if each.starts_frames_late)
        raise ConfigError(f"sampler.name = {sampler}: moves all frames from the first step, and {what} one of {others}")


def refuse_too_many(num_prompts: int, samples: int) -> None:
    """Raises: ConfigError for more videos than a run plans."""
    if num_prompts * samples > MAX_VIDEOS:
        raise ConfigError(
            f"samples_per_prompt = {samples} makes {num_prompts * samples} videos of {num_prompts} prompts; a run "
            f"makes at most {MAX_VIDEOS}, so ask for fewer, or split the prompts and give each run another seed"
        )
