"""What a published system is: which presets go together, and how they are sampled and trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..bucketing.size_table import SizeTable
from ..bucketing.table import BucketTable
from ..conditioning.base import Conditioner
from ..conditioning.nothing import Nothing
from ..conditioning.prompt_parts import TakeApart, one_text
from ..errors import ConfigError


def as_written(text: str) -> str:
    """A text as it is."""
    return text


def any_spec(spec: Any) -> bool:
    """Of no kind in particular."""
    return True


class ScoreWords(Protocol):
    """What a prompt says of the quality of the video."""

    def behind(self, text: str) -> str:
        """The text with the scores that it does not name itself."""


@dataclass(frozen=True, kw_only=True)
class Texts:
    """How prompts are treated."""

    template: str = "{}"
    """Around each prompt, for which {} stands."""
    negative: str | None
    """None: the model's own learned null caption."""
    max_tokens: int
    scores: Callable[[float | None, float | None, str | None], ScoreWords] | None = None
    """Of how beautiful a video is, how much moves, and how the camera does; None: it was trained without."""
    take_apart: TakeApart = one_text
    """How a prompt says more than one text."""
    clean: Callable[[str], str] = as_written
    """What the text encoder reads of a text; no recipe's negative prompt is cleaned."""
    unseen: Callable[[str], list[str]] | None = None
    """The words of a text that the model was never trained on; None: nobody knows."""

    def settings(self) -> dict[str, Any]:
        """The settings of `duosora sample` that say the same."""
        own = {"template": self.template, "negative": self.negative, "max_tokens": self.max_tokens}
        return {f"prompts.{name}": value for name, value in own.items()}


@dataclass(frozen=True, kw_only=True)
class Labels(Texts):
    """Prompts that are classes, by their numbers or names; how many there are the model says."""

    negative: str | None = None
    """The model's null class."""
    max_tokens: int = 1
    names: tuple[str, ...] = ()
    """Of the classes, in the order of their numbers; (): only numbers are known."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A published system. Families know nothing of it; it fills in the settings that nobody has set."""

    name: str
    title: str
    """How a sentence calls its models."""
    parts: Mapping[str, tuple[str, ...]]
    """Presets by the kind of a model, the usual one first: a system may have a denoiser for text and one for
    pictures. A kind may be absent."""
    prompts: Texts
    """Labels where its denoisers read classes."""
    conditioner: type[Conditioner] = Nothing
    """How its denoisers are given more than text; those that do not read what it gives are given nothing."""
    suits: Callable[[Any], bool] = any_spec
    """Whether the spec of a denoiser that is no preset, but of the family of one, is of its kind."""
    sizes: SizeTable | None = None
    """What a resolution, a proportion and the name of a length stand for; None: it has no such names."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `duosora sample` by their paths."""
    usual_video: Callable[[Any], Mapping[str, Any]] | None = None
    """Those that follow from the spec of one of its denoisers; None: all are sampled alike."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Those of `duosora train`."""
    clips: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings of training data by the kind of the trained model, for those who look data over without any."""

    @property
    def objective(self) -> str | None:
        """What its denoisers were trained to predict."""
        return self.training.get("objective.kind")

    def part(self, kind: str) -> str | None:
        """The usual preset of a kind."""
        return next(iter(self.parts.get(kind, ())), None)

    def buckets(self, table: Mapping[str, Mapping[str, Any]], where: str = "data.buckets") -> BucketTable:
        """The setting `data.buckets` with this system's sizes. Raises: ConfigError; where: its path, for messages."""
        if self.sizes is None:
            raise ConfigError(f"{where}: the recipe {self.name} has no table of sizes; leave it out")
        return BucketTable(table, self.sizes, where)

    def sampling_settings(self) -> dict[str, Any]:
        """All that it says of `duosora sample`."""
        return {**self.sampling, **self.prompts.settings()}

    def training_settings(self) -> dict[str, Any]:
        """All that it says of `duosora train`."""
        return {**self.training, "max_tokens": self.prompts.max_tokens}
