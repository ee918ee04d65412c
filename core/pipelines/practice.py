"""What settings follow from the model: how it was trained decides how it is sampled and trained on.

The schema's defaults are the practice of Open-Sora Plan v1.3. PRACTICES has those of other presets; the models of one's
own runs follow their checkpoints. Only what nobody has set is filled in, and a run says what and from where.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import ValidationError

from .. import samplers
from ..config.schema import NEGATIVE_PROMPT, SampleConfig
from ..config.settings import Settings
from ..config.training import TrainConfig
from ..data import moving_shapes
from ..errors import CheckpointError
from ..models.run_folders import RunRecord, model_folder, record_of
from ..printable import short_name
from .settings import PUBLISHED_OBJECTIVE

Config = TypeVar("Config", bound=Settings)
FLOW_STEPS = 25
"""Of a flow sampler: its paths are straighter than those of diffusion."""


@dataclass(frozen=True, kw_only=True)
class Practice:
    """How a model is sampled and trained, as settings by their paths."""

    source: str
    """Whose practice it is, for the line that tells what was filled in."""
    objective: str | None = None
    """What the model was trained to predict; None: not known."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `sampler` that hold for every sampler which knows them."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    knows_captions_only: bool = False
    """Whether all that it was trained on are the sentences of moving shapes."""


TINY = Practice(
    source="the tiny model",
    objective="flow",
    sampling={
        "sampler.name": "flow_euler",
        "sampler.steps": FLOW_STEPS,
        "sampler.shift": 3.0,
        "sampler.guidance": 4.0,
        "video.frames": moving_shapes.FRAMES,
        "video.height": moving_shapes.SIDE,
        "video.width": moving_shapes.SIDE,
        "video.fps": 8.0,
        "prompts.template": "{}",
        "prompts.negative": "",
    },
    training={"objective.kind": "flow", "objective.shift": 3.0},
    knows_captions_only=True,
)
PRACTICES: Mapping[str, Practice] = MappingProxyType({"tiny": TINY, "tiny_inpaint": TINY})
"""By preset of the denoiser."""
UNKNOWN = Practice(source="")
MOST_WORDS = 8
"""That a note names."""
EXAMPLE = "a big red circle moves to the right on a white background"
MOST_RUNS = 8
"""That are followed, each begun with the model of the one before."""


class Followed(NamedTuple, Generic[Config]):
    """Settings that follow the model where nobody has set them."""

    config: Config
    lines: list[str]
    """What was filled in and from where, for a run's plan."""
    notes: list[str]
    """What was set that contradicts how the model was trained."""
    practice: Practice


def practice_of(denoiser: str) -> Practice:
    """That of a preset, or of the run that made the model in a folder; UNKNOWN where nobody knows.

    Raises: CheckpointError when a run's record cannot be read.
    """
    return _practice_of(denoiser, depth=0)


def sampled(config: SampleConfig) -> Followed[SampleConfig]:
    """A sampling run's settings with those that follow from its denoiser.

    Raises: CheckpointError when a run's record cannot be read or holds what no setting can be; ConfigError for an
    unknown sampler.
    """
    practice = practice_of(config.model.denoiser)
    values = practice.sampling
    if _is_set(config, "sampler.name"):
        others = {path: value for path, value in values.items() if not path.startswith("sampler.")}
        values = others | {path: value for path, value in practice.facts.items() if _takes(config, path, value)}
    filled, lines = _filled(config, values, f"as {practice.source} was trained")
    return Followed(filled, lines, _contradictions(config, filled, practice), practice)


def trained(config: TrainConfig, resumed: Path | None = None) -> Followed[TrainConfig]:
    """A training run's settings with those that follow from the model that it begins with, or that it had until now.

    What it shows on the way is sampled as its own checkpoints are. resumed: a checkpoint or run that it may go on from.
    Raises: as sampled.
    """
    if config.autoencoder is not None:
        return Followed(config, [], [], UNKNOWN)
    practice = _so_far(resumed) or _start_practice(config)
    values = {} if _is_set(config, "objective.kind") else practice.training
    filled, lines = _filled(config, values, f"as {practice.source} was trained")
    notes = []
    if filled.objective.kind != practice.objective is not None and not config.start.fresh:
        notes.append(
            f"objective.kind = {filled.objective.kind}, but {practice.source} was trained with {practice.objective}, "
            "which its weights have to unlearn"
        )
    filled, told = _filled(filled, _shown(filled, practice), "as the run itself trains")
    return Followed(filled, lines + (told if config.show.every is not None else []), notes, practice)


def prompts_for(practice: Practice, texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Prompts as the model can read them, and a note that names the words that it has never seen, if there are any."""
    if not practice.knows_captions_only:
        return list(texts), []
    words = (word for text in texts if text != NEGATIVE_PROMPT for word in moving_shapes.unseen_words(text))
    unseen = list(dict.fromkeys(words))
    more = f" and {len(unseen) - MOST_WORDS} more" if len(unseen) > MOST_WORDS else ""
    note = (
        f"{practice.source} has never seen {', '.join(map(short_name, unseen[:MOST_WORDS]))}{more}; it knows sentences "
        f"such as '{EXAMPLE}'"
    )
    # The published negative prompt stays to the letter: videos that were made with it are to come out again.
    read = [text if text == NEGATIVE_PROMPT else moving_shapes.as_caption(text) for text in texts]
    return read, [note] if unseen else []


def _shown(config: TrainConfig, practice: Practice) -> dict[str, Any]:
    own = _from_settings(RunRecord(Path(), config.model_dump(mode="json"), {}, None), practice)
    kept = ("video.",) if _is_set(config, "show.sampler.name") else ("video.", "sampler.")
    values = {f"show.{path}": value for path, value in own.sampling.items() if path.startswith(kept)}
    return values | {"show.max_tokens": config.max_tokens}


def _so_far(resumed: Path | None) -> Practice | None:
    """That of the run until now; None where it has no checkpoint, or none that tells."""
    try:
        practice = UNKNOWN if resumed is None else practice_of(str(resumed))
    except CheckpointError:
        return None
    return None if practice is UNKNOWN else practice


def _start_practice(config: TrainConfig) -> Practice:
    """That of the weights that a run begins with, or of its model where nobody knows them."""
    if config.start.weights is not None:
        practice = practice_of(str(config.start.weights))
        if practice is not UNKNOWN:
            return practice
    return practice_of(config.model.denoiser)


def _contradictions(config: SampleConfig, filled: SampleConfig, practice: Practice) -> list[str]:
    settings = filled.sampler
    takes = samplers.resolve(settings.name).objectives
    objective = "flow" if "flow" in takes else settings.objective or PUBLISHED_OBJECTIVE
    if practice.objective not in (None, objective):
        return [
            f"sampler.name = {settings.name} expects {objective}, but {practice.source} was trained with "
            f"{practice.objective}, so the picture will be noise; leave out sampler.name and sampler.objective"
        ]
    shift = practice.sampling.get("sampler.shift", 1.0)
    if objective == "flow" and not _is_set(config, "sampler.shift") and (settings.shift or 1.0) != shift:
        return [f"sampler.shift is 1, but {practice.source} was trained for {shift:g}: --set sampler.shift={shift:g}"]
    return []


def _practice_of(denoiser: str, depth: int) -> Practice:
    if denoiser in PRACTICES:
        return PRACTICES[denoiser]
    record = record_of(model_folder(Path(denoiser)).path)
    return UNKNOWN if record is None else _recorded(record, depth)


def _recorded(record: RunRecord, depth: int) -> Practice:
    """That of a run's model: what the run was set to, over the practice of the model that it began with."""
    denoiser = record.text("model.denoiser") or ""
    found = denoiser if denoiser in PRACTICES else record.find(denoiser)
    is_known = found is not None and depth < MOST_RUNS
    return _from_settings(record, _practice_of(str(found), depth + 1) if is_known else UNKNOWN)


def _from_settings(record: RunRecord, before: Practice) -> Practice:
    kind = record.text("objective.kind")
    shift, schedule = record.setting("objective.shift"), record.setting("objective.schedule")
    if kind == "flow":
        facts = {"sampler.shift": shift}
        training = {"objective.kind": kind, "objective.shift": shift}
        sampler = {"sampler.name": "flow_euler", "sampler.steps": FLOW_STEPS}
    else:
        terminal = record.setting("objective.zero_terminal_snr")
        facts = {"sampler.objective": kind, "sampler.schedule": schedule, "sampler.zero_terminal_snr": terminal}
        training = {
            "objective.kind": kind,
            "objective.schedule": schedule,
            "objective.zero_terminal_snr": terminal,
        }
        sampler = {}
    kept = dict(before.sampling)
    if kind != before.objective:  # another sampler, other steps and another guidance
        kept = {path: value for path, value in kept.items() if not path.startswith("sampler.")}
    sampling = kept | sampler | facts | _sizes(record) | {"prompts.max_tokens": record.setting("max_tokens")}
    return replace(
        before,
        source=str(record.checkpoint),
        objective=kind,
        facts=_said(facts),
        sampling=_said(sampling),
        training=_said(training),
        knows_captions_only=record.text("data.kind") == "moving_shapes",
    )


def _said(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return {path: value for path, value in values.items() if value is not None}


def _sizes(record: RunRecord) -> dict[str, Any]:
    """Of the clips that a run was trained on; moving shapes have theirs."""
    if record.text("data.kind") == "moving_shapes":
        return {path: value for path, value in TINY.sampling.items() if path.startswith("video.")}
    return {f"video.{name}": record.setting(f"data.{name}") for name in ("frames", "height", "width", "fps")}


def _takes(config: SampleConfig, path: str, value: Any) -> bool:
    """Whether the sampler that was chosen has a use for such a setting."""
    sampler, option = config.sampler.name, path.removeprefix("sampler.")
    if option == "objective":
        return value in samplers.resolve(sampler).objectives
    return option in samplers.options(sampler)


def _filled(config: Config, values: Mapping[str, Any], why: str) -> tuple[Config, list[str]]:
    """Settings with values where nobody set them, and a line that tells them and why, if there are any."""
    unset = {path: value for path, value in values.items() if not _is_set(config, path)}
    if not unset:
        return config, []
    dumped = config.model_dump(mode="json", exclude_unset=True)
    for path, value in unset.items():
        *groups, name = path.split(".")
        group = dumped
        for key in groups:
            group = group.setdefault(key, {})
        group[name] = value
    try:
        filled = type(config).model_validate_json(json.dumps(dumped))
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        place = ".".join(map(str, detail["loc"]))
        raise CheckpointError(f"{why}: {place} = {detail['input']!r}, which no setting can be") from error
    told = " ".join(f"{path}={json.dumps(value)}" for path, value in unset.items())
    return filled, [f"settings   {told}, {why}"]


def _is_set(config: Settings, path: str) -> bool:
    *groups, name = path.split(".")
    group: Any = config
    for key in groups:
        group = getattr(group, key)
    return name in group.model_fields_set
