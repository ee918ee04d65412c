"""From a name to the settings of a run: a recipe, a file of settings or a folder, and the models beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import recipes
from ..config.loading import changed, load
from ..config.schema import ModelSettings, SampleConfig
from ..config.shipped import ENDINGS, shipped_names
from ..errors import ConfigError, DuosoraError
from ..io.paths import given_path
from ..models.finding import CONFIG_FILE, Part, open_part, recognise
from ..models.run_folders import model_folder
from ..printable import short_name
from ..recipes.recipe import Labels, Recipe
from .practice import practice_of
from .settings import with_companions

KINDS = ("denoiser", "text_encoder", "vae")


def named(name: str) -> SampleConfig:
    """The settings that a name means: those of a file, or a recipe or denoiser alone.

    Raises: ConfigError for a file that cannot be read.
    """
    if name.lower().endswith(ENDINGS) or name in shipped_names():
        return load(name, SampleConfig)
    if name in recipes.NAMES:
        return changed(SampleConfig(), {"model.recipe": name})
    return changed(SampleConfig(), {"model.denoiser": name})


def gathered(config: SampleConfig, models: Path) -> SampleConfig:
    """Settings with the models that they do not name: those that come with duosora, else those of a folder.

    models: holds folders of models; the one that the denoiser lies in is looked through too.
    Raises: ConfigError that names what is missing, or the folders that are alike; CheckpointError as open_part.
    """
    model = config.model
    if _is_folder_of_models(Path(model.denoiser)):
        models = Path(model.denoiser)
        model = _put(model, {"denoiser": _only_denoiser(models)})
    elif "denoiser" not in model.model_fields_set and model.recipe in recipes.NAMES:
        recipe = recipes.named(model.recipe)
        preset = recipe.part("denoiser")
        if preset is not None and not open_part("denoiser", preset).is_fresh:
            return config.model_copy(update={"model": _put(model, {"denoiser": preset})})
        return config.model_copy(update={"model": _put(model, _found(recipe, KINDS, [models], model))})
    missing = [kind for kind in KINDS if getattr(with_companions(model), kind) is None]
    if missing and os.path.isdir(model.denoiser):
        practice = practice_of("denoiser", model.denoiser, model.recipe)
        if not practice.is_guess:
            places = [models, Path(model.denoiser).parent]
            model = _put(model, _found(practice.recipe, missing, places, model))
    return config.model_copy(update={"model": model})


def _put(model: ModelSettings, parts: dict[str, str]) -> ModelSettings:
    return model.model_copy(update={kind: at if kind == "denoiser" else Path(at) for kind, at in parts.items()})


def _found(recipe: Recipe, kinds: Sequence[str], places: list[Path], model: ModelSettings) -> dict[str, str]:
    """A folder for each kind that is not set. Raises: ConfigError that names all that are missing."""
    parts = [part for place in dict.fromkeys(places) for part in _parts_in(place)]
    kinds = [kind for kind in kinds if kind in recipe.parts or not isinstance(recipe.prompts, Labels)]
    wanted = [kind for kind in kinds if kind not in model.model_fields_set or getattr(model, kind) is None]
    found = {kind: folder for kind in wanted if (folder := _fitting(recipe, kind, parts)) is not None}
    missing = [kind for kind in wanted if kind not in found]
    if missing:
        needed = " and ".join(f"model.{kind} ({' or '.join(recipe.parts.get(kind, ()))})" for kind in missing)
        where = " and ".join(short_name(place) for place in dict.fromkeys(places))
        raise ConfigError(
            f"{recipe.title} needs {needed}, and no folder in {where} holds such a model; `duosora inspect` says what "
            "one holds, and settings name one that is elsewhere"
        )
    return found


def _fitting(recipe: Recipe, kind: str, parts: list[Part]) -> str | None:
    """The folder of the recipe's first preset that is there, else of a model that is like one but for its size.

    Raises: ConfigError for several that are alike.
    """
    specs = [open_part(kind, preset).spec for preset in recipe.parts.get(kind, ())]
    fits = [[part.source for part in parts if part.spec == spec] for spec in specs]
    fits += [[part.source for part in parts if _is_like(part.spec, spec)] for spec in specs]
    first = next(filter(None, fits), None)
    return None if first is None else _one(kind, first)


def _is_like(spec: Any, other: Any) -> bool:
    """Whether two models are of one family, and read the same where they are denoisers."""
    return spec.family == other.family and getattr(spec, "given", None) == getattr(other, "given", None)


def _only_denoiser(models: Path) -> str:
    found = [part.source for part in _parts_in(models) if part.family.kind == "denoiser"]
    if not found:
        raise ConfigError(f"{short_name(models)}: holds no folder of a denoiser; `duosora inspect` says what it holds")
    return _one("denoiser", found)


def _one(kind: str, folders: list[str]) -> str:
    if len(folders) > 1:
        raise ConfigError(f"{' and '.join(map(short_name, folders))} are alike; name one of them as model.{kind}")
    return folders[0]


def _is_folder_of_models(path: Path) -> bool:
    if not os.path.isdir(path) or (path / CONFIG_FILE).exists() or model_folder(path).path != path:
        return False
    return any(_folders_in(path))


def _parts_in(place: Path) -> Iterator[Part]:
    """The models in a folder; what duosora does not know is passed over."""
    for folder in _folders_in(place):
        try:
            yield recognise(folder)
        except DuosoraError:
            continue


def _folders_in(place: Path) -> list[Path]:
    """Also those of the hub's form, organisation/model."""
    if not os.path.isdir(place):
        return []
    return sorted(file.parent for depth in ("*", "*/*") for file in place.glob(f"{depth}/{CONFIG_FILE}"))


def name_of(name: str | os.PathLike[str]) -> str:
    """A name, or a path as given. Raises: ConfigError for what is none."""
    try:
        if not os.fspath(name):
            raise ValueError("it is empty")
        return str(given_path(os.fspath(name)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"load: expected a recipe, a folder or a YAML file ({error})") from error
