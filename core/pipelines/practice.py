"""What settings follow from the model: how it was trained decides how it is sampled and trained on.

The order is: the schema, the recipe that the model belongs to, the run that made it, the file of settings, `--set`.
Only what nobody has set is filled in, and a run says what and from where.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from .. import recipes, samplers
from ..config.filling import RECIPE, RUN, Said, Wish, fill, lacking, origins, value_at, wishes
from ..config.schema import SampleConfig, SamplerSettings
from ..config.settings import Settings, with_setting
from ..config.training import ObjectiveSettings, TrainConfig
from ..data import moving_shapes
from ..errors import CheckpointError, ConfigError
from ..models.finding import open_part
from ..models.run_folders import RunRecord, model_folder, record_of
from ..printable import short_name
from ..recipes.recipe import Recipe, Texts, as_written

Config = TypeVar("Config", bound=Settings)
AUTO = "auto"
OF_DENOISERS = ("objective.", "show.", "max_tokens")
"""Beginnings of the settings that training an autoencoder has no use for."""
FLOW_SAMPLER = {"sampler.name": "flow_euler", "sampler.steps": 25}
DIFFUSION_SAMPLER = {"sampler.name": "euler_ancestral", "sampler.steps": 100, "sampler.guidance": 7.5}
"""Of runs that trained another objective than their recipe has. A flow's paths are straighter: fewer steps do."""
MOST_WORDS = 8
"""That a note names."""
EXAMPLE = "a big red circle moves to the right on a white background"
MOST_RUNS = 8
"""That are followed, each begun with the model of the one before."""


@dataclass(frozen=True, kw_only=True)
class Practice:
    """How a model is sampled and trained."""

    source: str
    """What made it, for notes."""
    recipe: Recipe
    is_guess: bool = False
    """Whether no recipe has models of its family, so that the first of all stands in."""
    objective: str | None = None
    """What it was trained to predict; None: not known."""
    sampling: tuple[Said, ...]
    """By the recipe, and by the run that made the model, if one did."""
    training: tuple[Said, ...]
    texts: Texts


class Followed(NamedTuple, Generic[Config]):
    """Settings that follow the model where nobody has set them."""

    config: Config
    lines: list[str]
    """Where the values came from, for a run's plan."""
    notes: list[str]
    """What was set that contradicts how the model was trained."""
    practice: Practice


def practice_of(kind: str, name: str, recipe: str = AUTO) -> Practice:
    """That of a preset, of the run that made the model in a folder, or of the recipe that has models of its family.

    recipe: to be followed instead of the one that the model belongs to.
    Raises: CheckpointError when a run's record or the folder cannot be read; ConfigError for an unknown recipe.
    """
    own = _practice_of(kind, name, 0)
    if recipe == AUTO or own.recipe is recipes.named(recipe):
        return own
    other = _of_recipe(recipes.named(recipe))
    return replace(
        other,
        source=own.source,
        objective=own.objective,
        sampling=(*other.sampling, *own.sampling[1:]),
        training=(*other.training, *own.training[1:]),
    )


def sampled(config: SampleConfig, overrides: Set[str] = frozenset()) -> Followed[SampleConfig]:
    """A sampling run's settings with those that follow from its denoiser.

    overrides: the paths of settings that the command line gave, to tell them from those of a file.
    Raises: as practice_of; CheckpointError for a record of what no setting can be; ConfigError for an unknown sampler,
    and for settings that nobody says.
    """
    practice = practice_of("denoiser", config.model.denoiser, config.model.recipe)
    wished = _for_sampler(config, "sampler", wishes(practice.sampling))
    filled = _with_recipe(fill(config, wished), practice)
    _refuse_lacking(lacking(filled), practice)
    lines = origins(filled, config, wished, overrides)
    return Followed(filled, lines, [*_guessed(config, practice), *_contradictions(filled, practice)], practice)


def trained(
    config: TrainConfig, resumed: Path | None = None, overrides: Set[str] = frozenset()
) -> Followed[TrainConfig]:
    """A training run's settings with those that follow from the model that it begins with, or that it had until now.

    What it shows on the way is sampled as its own checkpoints are. resumed: a checkpoint or run that it may go on from.
    Raises: as sampled.
    """
    kind = "denoiser" if config.autoencoder is None else "vae"
    practice = _so_far(kind, config, resumed) or _start_practice(kind, config)
    wished = _for_objective(config, wishes(practice.training))
    filled = _with_recipe(fill(config, wished), practice)
    if config.autoencoder is not None:
        _refuse_lacking(lacking(filled, besides=OF_DENOISERS), practice)
        return Followed(filled, origins(filled, config, wished, overrides), _guessed(config, practice), practice)
    shown = _for_sampler(filled, "show.sampler", _shown(filled, practice))
    lines = origins(filled, config, wished | (shown if config.show.every else {}), overrides)
    filled = fill(filled, shown)
    _refuse_lacking(lacking(filled), practice)
    notes = _guessed(config, practice)
    if filled.objective.kind != practice.objective is not None and not config.start.fresh:
        notes.append(
            f"objective.kind = {filled.objective.kind}, but {practice.source} was trained with {practice.objective}, "
            "which its weights have to unlearn"
        )
    return Followed(filled, lines, notes, practice)


def prompts_for(practice: Practice, texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Prompts as the model can read them, and a note that names the words that it has never seen, if there are any."""
    clean, unseen_in = practice.texts.clean, practice.texts.unseen
    # The published negative prompts stay to the letter: videos that were made with them are to come out again.
    published = {recipe.prompts.negative for recipe in recipes.ALL}
    read = [text if text in published else clean(text) for text in texts]
    if unseen_in is None:
        return read, []
    unseen = list(dict.fromkeys(word for text in texts if text not in published for word in unseen_in(text)))
    more = f" and {len(unseen) - MOST_WORDS} more" if len(unseen) > MOST_WORDS else ""
    note = (
        f"{practice.source} has never seen {', '.join(map(short_name, unseen[:MOST_WORDS]))}{more}; it knows sentences "
        f"such as '{EXAMPLE}'"
    )
    return read, [note] if unseen else []


def _guessed(config: SampleConfig | TrainConfig, practice: Practice) -> list[str]:
    if not practice.is_guess or config.model.recipe != AUTO:
        return []
    return [
        f"no recipe has models like {practice.source}, so what is not set is as {practice.recipe.title} has it; "
        f"model.recipe chooses another ({', '.join(recipes.NAMES)})"
    ]


def _with_recipe(config: Config, practice: Practice) -> Config:
    return with_setting(config, "model.recipe", practice.recipe.name)


def _refuse_lacking(paths: Sequence[str], practice: Practice) -> None:
    if not paths:
        return
    raise ConfigError(f"{', '.join(paths)}: the recipe {practice.recipe.name} does not say this; set it")


def _for_sampler(config: Settings, group: str, wished: Mapping[str, Wish]) -> dict[str, Wish]:
    """Without the settings that the sampler has no use for, or does not know the value of.

    group: the path of the sampler's settings.
    """
    chosen = value_at(config, f"{group}.name")
    name = chosen or (wished[f"{group}.name"].value if f"{group}.name" in wished else None)
    if name is None:
        return dict(wished)
    sampler, useless = samplers.resolve(name), SamplerSettings.unused(name)
    return {
        path: wish
        for path, wish in wished.items()
        if path.rpartition(".")[0] != group
        or (path.rpartition(".")[2] not in useless and _takes(sampler, path, wish.value))
    }


def _takes(sampler: type[samplers.Sampler], path: str, value: Any) -> bool:
    return not path.endswith(".objective") or value in sampler.objectives


def _for_objective(config: TrainConfig, wished: Mapping[str, Wish]) -> dict[str, Wish]:
    """Without the settings that the objective has no use for, or of any where an autoencoder is trained."""
    if config.autoencoder is not None:
        return {path: wish for path, wish in wished.items() if not path.startswith(OF_DENOISERS)}
    kind = config.objective.kind or (wished["objective.kind"].value if "objective.kind" in wished else None)
    useless = {f"objective.{name}" for name in ObjectiveSettings.unused(kind)} if isinstance(kind, str) else set()
    return {path: wish for path, wish in wished.items() if path not in useless}


def _shown(config: TrainConfig, practice: Practice) -> dict[str, Wish]:
    """How a run samples what it shows: as its own checkpoints will be sampled."""
    record = RunRecord(Path(), config.model_dump(mode="json"), {}, None)
    own = Said(RUN, "itself", _facts(record, practice.recipe)[0])
    values = wishes((*practice.sampling, own))
    kept = {f"show.{path}": wish for path, wish in values.items() if path.startswith(("video.", "sampler."))}
    return kept | {"show.max_tokens": Wish(config.max_tokens, own)}


def _so_far(kind: str, config: TrainConfig, resumed: Path | None) -> Practice | None:
    """That of the run until now; None where it has no checkpoint, or none that tells."""
    try:
        if resumed is None or record_of(model_folder(resumed).path) is None:
            return None
        return practice_of(kind, str(resumed), config.model.recipe)
    except (CheckpointError, ConfigError):
        return None


def _start_practice(kind: str, config: TrainConfig) -> Practice:
    """That of the weights that a run begins with, or of its model where nobody knows them."""
    name = config.model.denoiser if kind == "denoiser" else str(config.model.vae or "tiny")
    weights = config.start.weights
    if weights is not None and record_of(model_folder(weights).path) is not None:
        name = str(weights)
    return practice_of(kind, name, config.model.recipe)


def _contradictions(filled: SampleConfig, practice: Practice) -> list[str]:
    settings = filled.sampler
    takes = samplers.resolve(settings.name).objectives
    objective = settings.objective or takes[0]
    if practice.objective not in (None, objective):
        return [
            f"sampler.name = {settings.name} expects {objective}, but {practice.source} was trained with "
            f"{practice.objective}, so the picture will be noise; leave out sampler.name and sampler.objective"
        ]
    return []


def _practice_of(kind: str, name: str, depth: int) -> Practice:
    if (recipe := recipes.of_preset(kind, name)) is not None:
        return _of_recipe(recipe)
    record = record_of(model_folder(Path(name)).path)
    if record is not None:
        return _recorded(kind, name, record, depth)
    return _of_family(kind, name)


def _of_family(kind: str, name: str) -> Practice:
    found = _recipe_of(kind, name)
    first = _of_recipe(found or recipes.ALL[0])
    # Nobody knows what the model of a guess was trained to predict, nor which words it has seen.
    return replace(first, source=name) if found else replace(first, source=name, is_guess=True, objective=None)


def _recipe_of(kind: str, name: str) -> Recipe | None:
    """The recipe that has such a model as a preset, or else the first that has some of its family."""
    part = open_part(kind, name)
    presets = part.family.presets
    own = [(recipe, preset) for recipe in recipes.ALL for preset in recipe.parts.get(kind, ()) if preset in presets]
    same = [recipe for recipe, preset in own if presets[preset] == part.spec]
    return next(iter([*same, *(recipe for recipe, _ in own)]), None)


def _of_recipe(recipe: Recipe) -> Practice:
    return Practice(
        source=recipe.title,
        recipe=recipe,
        objective=recipe.objective,
        sampling=(Said(RECIPE, recipe.name, recipe.sampling_settings()),),
        training=(Said(RECIPE, recipe.name, recipe.training_settings()),),
        texts=recipe.prompts,
    )


def _recorded(kind: str, name: str, record: RunRecord, depth: int) -> Practice:
    """That of a run's model: what the run was set to, over the recipe of the model that it began with."""
    before = _begun_with(kind, name, record, depth)
    sampling, training = _facts(record, before.recipe)
    who = str(record.checkpoint)
    return replace(
        before,
        source=who,
        objective=record.text("objective.kind"),
        sampling=(before.sampling[0], Said(RUN, who, sampling)),
        training=(before.training[0], Said(RUN, who, training)),
        texts=_texts_of(record, before.texts),
    )


def _begun_with(kind: str, name: str, record: RunRecord, depth: int) -> Practice:
    """That of the model that a run began with; of an unknown one, that of the recipe with models of its family."""
    written = record.text("model.recipe")
    if written in recipes.NAMES:
        return _of_recipe(recipes.named(str(written)))
    begun = record.text(f"model.{kind}") or ""
    found = begun if recipes.of_preset(kind, begun) else record.find(begun) if begun else None
    if found is not None and depth < MOST_RUNS:
        return _practice_of(kind, str(found), depth + 1)
    return _of_family(kind, name)


def _facts(record: RunRecord, recipe: Recipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """How a run's settings say that its model is sampled, and trained on."""
    kind = record.text("objective.kind")
    names = ("kind", "shift") if kind == "flow" else ("kind", "schedule", "zero_terminal_snr")
    training = {f"objective.{name}": record.setting(f"objective.{name}") for name in names}
    sampler = {path.replace("objective.", "sampler."): value for path, value in training.items()}
    objective = sampler.pop("sampler.kind")
    if kind != "flow":  # its samplers know no other
        sampler["sampler.objective"] = objective
    if kind != recipe.objective:
        sampler |= FLOW_SAMPLER if kind == "flow" else DIFFUSION_SAMPLER
    sampling = sampler | _sizes(record) | {"prompts.max_tokens": record.setting("max_tokens")}
    return _said(sampling), _said(training)


def _texts_of(record: RunRecord, before: Texts) -> Texts:
    """How prompts of a run's model are treated: whoever was trained on moving shapes knows their captions only."""
    if record.text("data.kind") == "moving_shapes":
        return replace(before, clean=moving_shapes.as_caption, unseen=moving_shapes.unseen_words)
    if before.unseen is moving_shapes.unseen_words:
        return replace(before, clean=as_written, unseen=None)
    return before


def _said(values: Mapping[str, Any]) -> dict[str, Any]:
    return {path: value for path, value in values.items() if value is not None}


def _sizes(record: RunRecord) -> dict[str, Any]:
    """Of the clips that a run was trained on; moving shapes have theirs."""
    if record.text("data.kind") == "moving_shapes":
        side = moving_shapes.SIDE
        return {"video.frames": moving_shapes.FRAMES, "video.height": side, "video.width": side, "video.fps": 8.0}
    return {f"video.{name}": record.setting(f"data.{name}") for name in ("frames", "height", "width", "fps")}
