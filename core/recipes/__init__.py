"""Published systems. A new one is a file with its RECIPE, and a line."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

from ..errors import ConfigError
from ..printable import short_name
from .recipe import Recipe

NAMES = (
    "opensora_plan_v1_3",
    "dit_imagenet",
    "dit_digits",
    "opensora_v1_0_classes",
    "opensora_v1_0_pooled",
    "opensora_first",
    "opensora_v1_2",
    "opensora_v1_1",
    "opensora_v1_0",
    "pixart_alpha",
    "sit_imagenet",
    "sit_digits",
    "tiny",
    "tiny_first",
    "tiny_v1_2",
)
"""Of all recipes. The first stands in where none has models of a family. Where several have models of one family, the
first that they suit has those that are no preset of any."""

ALL: tuple[Recipe, ...] = tuple(import_module(f".{name}", __name__).RECIPE for name in NAMES)


def of_preset(kind: str, preset: str) -> Recipe | None:
    """The recipe that has a preset of a kind of models."""
    return next((recipe for recipe in ALL if preset in recipe.parts.get(kind, ())), None)


def named(name: str) -> Recipe:
    """The recipe of a name. Raises: ConfigError with the nearest."""
    for recipe in ALL:
        if recipe.name == name:
            return recipe
    near = get_close_matches(name, NAMES, n=1, cutoff=0.0)[0]
    raise ConfigError(
        f"model.recipe = {short_name(name)}: there is no such recipe, did you mean {near}? There are {', '.join(NAMES)}"
    )
