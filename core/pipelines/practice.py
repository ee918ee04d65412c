"""How a model is sampled and trained: by the recipe that it belongs to, and by the run that made it, if one did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from .. import recipes, samplers
from ..conditioning.base import Conditioner
from ..config.filling import RECIPE, RUN, Said
from ..data import moving_shapes
from ..maths.interpolants import PREDICTIONS
from ..models.finding import Part, open_part
from ..models.run_folders import RunRecord, model_folder, record_of
from ..recipes.recipe import Labels, Recipe, Texts, as_written
from ..samplers.objectives import DIFFUSION_OBJECTIVES
from ..shapes import VideoShape

AUTO = "auto"
SAMPLERS_OF_FLOWS: Mapping[str | None, Mapping[str, Any]] = {
    "flow": {"sampler.name": "flow_euler", "sampler.steps": 25},
    "rflow": {"sampler.name": "rflow", "sampler.steps": 30},
}
FACTS = dict.fromkeys(SAMPLERS_OF_FLOWS, ("kind", "shift")) | dict.fromkeys(PREDICTIONS, ("kind", "path"))
"""What of the settings of flows and interpolants is asked for in sampling too, under `objective`."""
OF_INTERPOLANTS = {"sampler.name": "interpolant_ode", "sampler.steps": 50}
OF_DIFFUSION = {"sampler.name": "euler_ancestral", "sampler.steps": 100, "sampler.guidance": 7.5}
"""Of runs that trained another objective than their recipe has. A flow's paths are straighter: fewer steps do."""
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
    """Of a model that reads classes Labels, with their names where its recipe or its run knows them."""
    conditioner: type[Conditioner]
    """Of the recipe that it belongs to, whichever is followed."""


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
        conditioner=own.conditioner,
        sampling=(*other.sampling, *own.sampling[1:]),
        training=(*other.training, *own.training[1:]),
    )


def mixed(recipe: Recipe, parts: Mapping[str, Part]) -> list[str]:
    """Notes on models, by their kind, that are of other recipes than the one that is followed. One without weights was
    not trained for any."""
    trained = {kind: part for kind, part in parts.items() if part.layout}
    others = {kind: own for kind, part in trained.items() if (own := _having(kind, part)) and recipe not in own}
    return [
        f"model.{kind} = {parts[kind].source} is of {owners[0].title}, while settings follow {recipe.title}"
        for kind, owners in others.items()
    ]


def _practice_of(kind: str, name: str, depth: int) -> Practice:
    if (recipe := recipes.of_preset(kind, name)) is not None:
        return _of_recipe(recipe, kind, open_part(kind, name))
    record = record_of(model_folder(Path(name)).path)
    if record is not None:
        return _recorded(kind, name, record, depth)
    return _of_family(kind, name)


def _of_family(kind: str, name: str) -> Practice:
    part = open_part(kind, name)
    if (found := _recipe_of(kind, part)) is not None:
        return replace(_of_recipe(found, kind, part), source=name)
    # Nobody knows what the model of a guess was trained to predict, nor which words it has seen.
    return replace(_of_recipe(recipes.ALL[0]), source=name, is_guess=True, objective=None)


def _recipe_of(kind: str, part: Part) -> Recipe | None:
    """The recipe that has such a model as a preset, or else the first that has some of its family."""
    family = [recipe for recipe in recipes.ALL if _is_like(recipe, kind, part)]
    return next(iter([*_having(kind, part), *family]), None)


def _is_like(recipe: Recipe, kind: str, part: Part) -> bool:
    """Whether a recipe has models of a family, and a denoiser is of the kind of its own."""
    has_some = bool(part.family.presets.keys() & set(recipe.parts.get(kind, ())))
    return has_some and (kind != "denoiser" or recipe.suits(part.spec))


def _having(kind: str, part: Part) -> list[Recipe]:
    """The recipes that have such a model as a preset."""
    same = {preset for preset, spec in part.family.presets.items() if preset == part.source or spec == part.spec}
    return [recipe for recipe in recipes.ALL if same & set(recipe.parts.get(kind, ()))]


def _of_recipe(recipe: Recipe, kind: str = "", part: Part | None = None) -> Practice:
    """part: one of the recipe's models."""
    usual = {} if part is None or kind != "denoiser" or recipe.usual_video is None else recipe.usual_video(part.spec)
    return Practice(
        source=recipe.title,
        recipe=recipe,
        objective=recipe.objective,
        sampling=(Said(RECIPE, recipe.name, {**recipe.sampling_settings(), **usual}),),
        training=(Said(RECIPE, recipe.name, recipe.training_settings()),),
        texts=recipe.prompts,
        conditioner=recipe.conditioner,
    )


def _recorded(kind: str, name: str, record: RunRecord, depth: int) -> Practice:
    """That of a run's model: what the run was set to, over the recipe of the model that it began with."""
    before = _begun_with(kind, name, record, depth)
    sampling, training = facts_of(record, before.recipe)
    who = str(record.checkpoint)
    return replace(
        before,
        source=who,
        objective=record.text("objective.kind"),
        sampling=(before.sampling[0], Said(RUN, who, sampling)),
        training=(before.training[0], Said(RUN, who, training)),
        texts=texts_of(record, before.texts),
    )


def _begun_with(kind: str, name: str, record: RunRecord, depth: int) -> Practice:
    """That of the model that a run began with; of an unknown one, that of the recipe with models of its family."""
    written = record.text("model.recipe")
    if written in recipes.NAMES:
        return _of_recipe(recipes.named(str(written)))
    begun = record.text(f"model.{kind}") or "tiny"  # what is trained where no model is named
    found = begun if recipes.of_preset(kind, begun) else record.find(begun) if begun else None
    if found is not None and depth < MOST_RUNS:
        return _practice_of(kind, str(found), depth + 1)
    return _of_family(kind, name)


def facts_of(record: RunRecord, recipe: Recipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """How a run's settings say that its model is sampled, and trained on."""
    kind = record.text("objective.kind")
    names = FACTS.get(kind or "", ("kind", "schedule", "zero_terminal_snr"))
    training = {f"objective.{name}": record.setting(f"objective.{name}") for name in names}
    sampler = {path.replace("objective.", "sampler."): value for path, value in training.items()}
    objective = sampler.pop("sampler.kind")
    if kind not in SAMPLERS_OF_FLOWS:  # their samplers know no other
        sampler["sampler.objective"] = objective
        sampler |= _variance(record, kind)
    if kind != recipe.objective and not _samples(recipe, kind):
        sampler |= SAMPLERS_OF_FLOWS.get(kind, OF_INTERPOLANTS if kind in PREDICTIONS else OF_DIFFUSION)
    bound = record.text("objective.bound") or "none"
    if bound != (recipe.training.get("objective.bound") or "none"):
        training["objective.bound"] = bound
    sampling = sampler | _sizes(record) | {"prompts.max_tokens": record.setting("max_tokens")}
    return _said(sampling), _said(training)


def _variance(record: RunRecord, kind: str | None) -> dict[str, Any]:
    """The variance of samplers that can read one: what a network says of it means nothing where no bound taught it."""
    if kind not in DIFFUSION_OBJECTIVES:
        return {}
    is_taught = record.text("objective.bound") not in (None, "none")
    return {"sampler.options.variance": "learned_range" if is_taught else "fixed_large"}


def _samples(recipe: Recipe, kind: str | None) -> bool:
    """Whether a recipe's sampler takes another objective than its own, among those of diffusion or of interpolants."""
    sampler = recipe.sampling.get("sampler.name")
    return sampler is not None and kind in samplers.resolve(sampler).objectives


def texts_of(record: RunRecord, before: Texts) -> Texts:
    """How prompts of a run's model are treated: whoever was trained on moving shapes knows their captions only, and
    whoever was trained on classes knows the names of these."""
    if isinstance(before, Labels):
        return replace(before, names=record.classes or before.names)
    if record.text("data.kind") == "moving_shapes":
        seen = partial(moving_shapes.unseen_words, later=tuple(record.setting("data.colours") or ()))
        return replace(before, clean=moving_shapes.as_caption, unseen=seen)
    if before.unseen is not None:
        return replace(before, clean=as_written, unseen=None)
    return before


def _said(values: Mapping[str, Any]) -> dict[str, Any]:
    return {path: value for path, value in values.items() if value is not None}


def _sizes(record: RunRecord) -> dict[str, Any]:
    """Of the clips that a run was trained on; moving shapes have theirs, of which a run may use less."""
    wished = {name: record.setting(f"data.{name}") for name in VideoShape._fields}
    if record.text("data.kind") == "moving_shapes":
        known = {name: value if isinstance(value, int) else None for name, value in wished.items()}
        rate = {"fps": moving_shapes.FPS, "frame_interval": 1}
        wished = moving_shapes.size_within(**known)._asdict()
    else:
        rate = {} if record.setting("data.tells_file_rate") else {"fps": record.setting("data.fps")}
    return {f"video.{name}": value for name, value in (wished | rate).items()}
