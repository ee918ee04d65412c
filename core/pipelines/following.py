"""Settings that follow from the model where nobody has set them, and prompts as the model can read them.

The order is: the schema, the recipe that the model belongs to, the run that made it, the file of settings, `--set`.
A run says what came from where.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from .. import recipes, samplers
from ..config.filling import RECIPE, RUN, Filling, Said, fill, lacking, origins, unused, value_at, wishes
from ..config.schema import SampleConfig, SamplerSettings
from ..config.settings import Settings, with_setting
from ..data.selection import check_bucketed
from ..errors import CheckpointError, ConfigError
from ..models.finding import open_part
from ..models.run_folders import RunRecord, model_folder, record_of
from ..printable import short_name
from ..recipes.recipe import Recipe, ScoreWords
from .fitting import check_objective
from .practice import AUTO, Practice, facts_of, practice_of, texts_of
from .settings import with_companions

if TYPE_CHECKING:  # else `duosora sample` would wait for the settings of training to be imported
    from ..config.training import TrainConfig

Config = TypeVar("Config", bound=Settings)
OF_DENOISERS = ("objective.", "show.", "max_tokens", "validation.timesteps")
"""Beginnings of the settings that training an autoencoder has no use for."""
MOST_WORDS = 8
"""That a note names."""
EXAMPLE = "a big red circle moves to the right on a white background"


class PromptsRead(NamedTuple):
    """Texts as a model can read them."""

    prompts: list[str]
    negatives: list[str | None]
    """None: the model's learned null caption."""
    notes: list[str]
    """One that names the words that it has never seen, if there are any."""


class Followed(NamedTuple, Generic[Config]):
    """Settings that follow the model where nobody has set them."""

    config: Config
    lines: list[str]
    """Where the values came from, for a run's plan."""
    notes: list[str]
    """What was set that contradicts how the model was trained."""
    practice: Practice


def sampled(config: SampleConfig, overrides: Set[str] = frozenset()) -> Followed[SampleConfig]:
    """A sampling run's settings with those that follow from its denoiser.

    overrides: the paths of settings that the command line gave, to tell them from those of a file.
    Raises: as practice_of; CheckpointError for a record of what no setting can be; ConfigError for an unknown sampler,
    and for settings that nobody says.
    """
    config = _with_denoiser_of_recipe(config)
    practice = practice_of("denoiser", config.model.denoiser, config.model.recipe)
    if config.model.lora:  # it may have been taught further words
        practice = replace(practice, texts=replace(practice.texts, unseen=None))
    said = (*practice.sampling, _only_size(config, practice.recipe), _named_sizes(config, practice.recipe))
    wished = _for_cache(config, _for_sampler(config, "sampler", wishes(said)))
    filled = _with_recipe(fill(config, wished), practice)
    if missing := lacking(filled):
        if filled.sampler.name is not None:
            check_objective(filled.sampler.name, practice)  # a sampler of another kind lacks what no recipe says
        _refuse_lacking(missing, practice)
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
    wished = _for_data(config, _for_objective(config, wishes(practice.training)))
    filled = _with_recipe(fill(config, wished), practice)
    _refuse_unfit_buckets(filled, practice.recipe)
    if config.autoencoder is not None:
        _refuse_lacking(lacking(filled, besides=OF_DENOISERS), practice)
        return Followed(filled, origins(filled, config, wished, overrides), _guessed(config, practice), practice)
    shown = _for_sampler(filled, "show.sampler", _shown(filled, practice))
    filled = fill(filled, shown)
    lines = origins(filled, config, wished | (shown if config.show.every else {}), overrides)
    _refuse_lacking(lacking(filled), practice)
    notes = _guessed(config, practice)
    if filled.objective.kind != practice.objective is not None and not config.start.fresh:
        notes.append(
            f"objective.kind = {filled.objective.kind}, but {practice.source} was trained with {practice.objective}, "
            "which its weights have to unlearn"
        )
    return Followed(filled, lines, notes, practice)


def prompts_for(
    practice: Practice, prompts: Sequence[str], negatives: Sequence[str | None] = (), scores: ScoreWords | None = None
) -> PromptsRead:
    """Prompts and negative prompts as the model can read them. scores: what prompts say behind their texts.

    Raises: PackageMissing when the recipe cleans texts with a package that is not installed.
    """
    clean, unseen_in = practice.texts.clean, practice.texts.unseen
    # The published negative prompts stay to the letter: videos that were made with them are to come out again.
    published = {recipe.prompts.negative for recipe in recipes.ALL}
    read = [clean(text if scores is None else scores.behind(text)) for text in prompts]
    read_negatives = [text if text is None or text in published else clean(text) for text in negatives]
    if unseen_in is None:
        return PromptsRead(read, read_negatives, [])
    own = [*prompts, *(text for text in negatives if text is not None and text not in published)]
    unseen = list(dict.fromkeys(word for text in own for word in unseen_in(text)))
    more = f" and {len(unseen) - MOST_WORDS} more" if len(unseen) > MOST_WORDS else ""
    note = (
        f"{practice.source} has never seen {', '.join(map(short_name, unseen[:MOST_WORDS]))}{more}; it knows sentences "
        f"such as '{EXAMPLE}'"
    )
    return PromptsRead(read, read_negatives, [note] if unseen else [])


def shown_prompts(config: TrainConfig, prompts: Sequence[str]) -> list[str]:
    """Prompts of what a run shows on the way, as its checkpoints will read them. config: settled.

    Raises: as prompts_for.
    """
    recipe = recipes.named(config.model.recipe)
    texts = texts_of(_own_record(config), recipe.prompts)
    said = (recipe.sampling.get(f"prompts.{name}") for name in ("aesthetic", "motion", "camera"))
    scores = None if texts.scores is None else texts.scores(*said)
    return [texts.clean(text if scores is None else scores.behind(text)) for text in prompts]


def scores_of(config: SampleConfig, practice: Practice) -> ScoreWords | None:
    """What prompts say of the quality. Raises: ConfigError where the models were trained without."""
    settings, make = config.prompts, practice.recipe.prompts.scores
    if make is not None:
        return make(settings.aesthetic, settings.motion, settings.camera)
    for name in ("aesthetic", "motion", "camera"):
        if getattr(settings, name) is not None:
            raise ConfigError(f"prompts.{name}: the recipe {practice.recipe.name} has no use for it; leave it out")
    return None


def _with_denoiser_of_recipe(config: SampleConfig) -> SampleConfig:
    """With the recipe's own denoiser, where a recipe is named and no denoiser."""
    model = config.model
    if model.recipe == AUTO or "denoiser" in model.model_fields_set:
        return config
    return with_setting(config, "model.denoiser", recipes.named(model.recipe).part("denoiser") or model.denoiser)


def _only_size(config: SampleConfig, recipe: Recipe) -> Said:
    """The size of what a denoiser makes that makes no other; nothing of those that make many. Raises: as open_part."""
    latent = getattr(open_part("denoiser", config.model.denoiser).spec, "only_latent", None)
    vae = None if latent is None else with_companions(config.model).vae
    if latent is None or vae is None:
        return Said(RECIPE, recipe.name, {})
    size = open_part("vae", str(vae)).spec.compression.video(latent)
    values = {"video.frames": size.frames, "video.height": size.height, "video.width": size.width}
    return Said(RECIPE, recipe.name, values)


def _named_sizes(config: SampleConfig, recipe: Recipe) -> Said:
    """The numbers that the names of a size and of a length stand for.

    Raises: ConfigError for unknown names, and for numbers beside them that are others.
    """
    video, named = config.video, {}
    names = {name: written for name in ("resolution", "length") if (written := getattr(video, name)) is not None}
    if recipe.sizes is None and names:
        told = ", ".join(f"video.{name} = {short_name(written)}" for name, written in names.items())
        raise ConfigError(f"{told}: the recipe {recipe.name} has no such names; set video.frames, height and width")
    if recipe.sizes is not None and video.resolution is not None:
        named["height"], named["width"] = recipe.sizes.size(video.resolution, video.aspect_ratio)
    if recipe.sizes is not None and video.length is not None:
        named["frames"] = recipe.sizes.frames(video.length)
    for name, number in named.items():
        if getattr(video, name) not in (None, number):
            by = "length" if name == "frames" else "resolution"
            raise ConfigError(
                f"video.{name} = {getattr(video, name)}: video.{by} = {names[by]} says {number}; leave out one of them"
            )
    return Said(RECIPE, recipe.name, {f"video.{name}": number for name, number in named.items()})


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


def _for_sampler(config: Settings, group: str, wished: Mapping[str, Filling]) -> dict[str, Filling]:
    """Without the settings that the sampler has no use for, or does not know the value of.

    group: the path of the sampler's settings.
    """
    chosen = value_at(config, f"{group}.name")
    name = chosen or (wished[f"{group}.name"].value if f"{group}.name" in wished else None)
    if name is None:
        return dict(wished)
    sampler, useless, options = samplers.resolve(name), SamplerSettings.unused(name), f"{group}.options."
    return {
        path: wish
        for path, wish in wished.items()
        if not path.startswith(options) or path.removeprefix(options) in samplers.options(name)
        if path.rpartition(".")[0] != group
        or (path.rpartition(".")[2] not in useless and _takes(sampler, path, wish.value))
    }


def _for_cache(config: SampleConfig, wished: Mapping[str, Filling]) -> dict[str, Filling]:
    """Without the settings that a cache of the run's kind has no use for."""
    useless = {f"sampler.cache.{name}" for name in unused(config.sampler.cache or Settings())}
    return {path: wish for path, wish in wished.items() if path not in useless}


def _takes(sampler: type[samplers.Sampler], path: str, value: Any) -> bool:
    return not path.endswith(".objective") or value in sampler.objectives


def _for_objective(config: TrainConfig, wished: Mapping[str, Filling]) -> dict[str, Filling]:
    """Without the settings that the objective has no use for, or of any where an autoencoder is trained."""
    if config.autoencoder is not None:
        return {path: wish for path, wish in wished.items() if not path.startswith(OF_DENOISERS)}
    kind = config.objective.kind or (wished["objective.kind"].value if "objective.kind" in wished else None)
    useless = {f"objective.{name}" for name in config.objective.unused(kind)} if isinstance(kind, str) else set()
    return {path: wish for path, wish in wished.items() if path not in useless}


def _for_data(config: TrainConfig, wished: Mapping[str, Filling]) -> dict[str, Filling]:
    """The same for held-out clips, which are in the run's buckets where they say nothing else; without the settings
    that buckets have no use for."""
    of_data = {path: wish for path, wish in wished.items() if path.startswith("data.")}
    if (buckets := config.data.buckets) is not None:
        own = Said(RUN, "itself", {"data.buckets": buckets, "data.frame_interval": config.data.frame_interval})
        of_data |= wishes((own,))
    held_out = config.validation.data
    is_in_buckets = {
        "data": buckets is not None,
        "validation.data": held_out is not None
        and (buckets if "buckets" not in held_out.model_fields_set else held_out.buckets) is not None,
    }
    both = {**wished, **{f"validation.{path}": wish for path, wish in of_data.items()}}
    useless = {
        f"{group}.{name}" for group, is_so in is_in_buckets.items() if is_so for name in config.data.unused(None)
    }
    return {path: wish for path, wish in both.items() if path not in useless}


def _refuse_unfit_buckets(config: TrainConfig, recipe: Recipe) -> None:
    """Raises: ConfigError for buckets that the recipe has no sizes for, or beside settings that they take the place
    of."""
    for where, data in (("data", config.data), ("validation.data", config.validation.data)):
        if data is not None and data.buckets is not None:
            check_bucketed(data, where)
            recipe.buckets(data.buckets, f"{where}.buckets")
    if config.data.buckets is None:
        return
    if config.autoencoder is not None:
        raise ConfigError("data.buckets: an autoencoder's clips have one size; leave it out")
    if config.batch_size != 1:
        raise ConfigError(f"batch_size = {config.batch_size}: data.buckets say how large each batch is; leave it out")
    if config.objective.timesteps.kind == "stratified":
        raise ConfigError(
            "objective.timesteps.kind = stratified: the steps of data.buckets have no fixed number of clips; set "
            "uniform or logit_normal"
        )
    if config.caches.latents is not None:
        raise ConfigError("caches.latents: in data.buckets a clip has other latents in each epoch; leave it out")


def _shown(config: TrainConfig, practice: Practice) -> dict[str, Filling]:
    """How a run samples what it shows: as its own checkpoints will be sampled."""
    own = Said(RUN, "itself", facts_of(_own_record(config), practice.recipe)[0])
    values = wishes((*practice.sampling, own))
    kept = {f"show.{path}": wish for path, wish in values.items() if path.startswith(("video.", "sampler."))}
    return kept | {"show.max_tokens": Filling(config.max_tokens, own)}


def _own_record(config: TrainConfig) -> RunRecord:
    """What a run's checkpoints will say of it."""
    return RunRecord(Path(), config.model_dump(mode="json"), {}, None)


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
