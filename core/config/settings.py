"""What every schema is made of: groups of settings that pydantic checks strictly, and ways to list them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from pydantic.fields import FieldInfo

from ..io.paths import given_path

FolderOrPreset = Annotated[str, AfterValidator(lambda name: str(given_path(name)))]
"""The name of a preset, or a path, read like those that are nothing else."""
BY_RECIPE = "recipe"
"""The default, in lists of settings, of what the schema leaves to recipes."""


def by_recipe() -> Any:
    """A setting that the schema leaves to recipes: None until a run has settled (core.pipelines.following).

    Its type is that of its values. Where None is one of them, a null is kept; elsewhere it means "not set".
    """
    return Field(default=None, json_schema_extra={"default_by": BY_RECIPE})


def is_by_recipe(field: FieldInfo) -> bool:
    """Whether the schema leaves a setting to recipes."""
    return isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("default_by") == BY_RECIPE


class Settings(BaseModel):
    """A group of settings: frozen, nothing unknown, no type taken for another. The text under a field documents it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    choice: ClassVar[str | None] = None
    """The setting, if there is one, that decides which of the others have a use."""

    @classmethod
    def unused(cls, chosen: str) -> Set[str]:
        """The settings that have no use where `choice` has this value."""
        return frozenset()

    @classmethod
    def written_out(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Values that a person wrote, without the short forms that a schema has. Raises: ConfigError."""
        return values

    @field_validator("*", mode="after")
    @classmethod
    def _read_paths(cls, value: Any) -> Any:
        """Every path of every group is one that a person wrote."""
        if isinstance(value, Path):
            return given_path(value)
        if isinstance(value, tuple) and any(isinstance(each, Path) for each in value):
            return tuple(map(given_path, value))
        return value


Group = TypeVar("Group", bound=Settings)


class Setting(NamedTuple):
    """One line of a schema, for --help and the documentation."""

    path: str
    """With dots, as in --set."""
    type: str
    default: Any
    """None also for a setting that must be given; BY_RECIPE for one that recipes say."""
    text: str


def resolved(settings: Settings) -> dict[str, Any]:
    """All settings with their values, as plain texts, numbers, lists and dicts: to print and to keep beside results.

    load() of the same values gives the same settings.
    """
    return settings.model_dump(mode="json")


def read(schema: type[Group], values: Any) -> Group:
    """Settings from plain values; a null leaves a setting out that cannot be one, and so does a group without any.

    To YAML, a group whose lines are all commented out is null.
    Raises: ValidationError, and TypeError, ValueError and RecursionError for what JSON cannot hold.
    """
    # Through JSON, because only for JSON pydantic's strictness lets a list be a tuple and a text be a path.
    return schema.model_validate_json(json.dumps(_without_nothing(values, schema)))


def _without_nothing(values: Any, schema: type[Settings]) -> Any:
    if not isinstance(values, dict):
        return values
    kept = {}
    for key, value in values.items():
        field = schema.model_fields.get(key)
        group = group_in(field.annotation) if field else None
        if value is None and field and (group is field.annotation if group else _waits_for_recipe(field)):
            continue
        kept[key] = _without_nothing(value, group) if group else value
    return kept


def _waits_for_recipe(field: FieldInfo) -> bool:
    return is_by_recipe(field) and not takes_none(field)


def takes_none(field: FieldInfo) -> bool:
    """Whether null is a value of a setting."""
    return NoneType in get_args(field.annotation)


def with_setting(settings: Group, path: str, value: Any) -> Group:
    """A copy in which the setting at a dotted path has another value."""
    name, _, inner = path.partition(".")
    if inner:
        value = with_setting(getattr(settings, name), inner, value)
    return settings.model_copy(update={name: value})


def list_settings(schema: type[Settings]) -> list[Setting]:
    """Every setting of a schema in its order."""
    return list(_list_settings(schema, ""))


def _list_settings(schema: type[Settings], prefix: str) -> Iterator[Setting]:
    for name, field in schema.model_fields.items():
        path, group = f"{prefix}{name}", group_in(field.annotation)
        if group is not field.annotation:  # a plain setting, or a group that may be left out as a whole
            default = None if field.is_required() else field.get_default(call_default_factory=True)
            default = BY_RECIPE if is_by_recipe(field) else default
            kind = _bounded(_type_name(field.annotation), field.metadata)
            yield Setting(path, kind, default, " ".join((field.description or "").split()))
        if group is not None:
            yield from _list_settings(group, f"{path}.")


def group_in(annotation: Any) -> type[Settings] | None:
    """The group of settings that a field holds, or may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    if get_origin(annotation) in (Union, UnionType):
        return next(filter(None, map(group_in, get_args(annotation))), None)
    return None


def _type_name(annotation: Any) -> str:
    """A type in the words of the documentation."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _bounded(_type_name(parts[0]), (limit for info in parts[1:] for limit in getattr(info, "metadata", ())))
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin in (Union, UnionType):
        return " | ".join(map(_type_name, parts))
    if origin is dict:
        return f"{_type_name(parts[1])} by name"
    if origin in (tuple, list):
        return f"list of {_type_name(parts[0])}"
    if annotation is NoneType:
        return "null"
    return "settings" if group_in(annotation) else _TYPE_NAMES.get(annotation, str(annotation))


def _bounded(name: str, limits: Iterable[Any]) -> str:
    """A type with the limits of its values, such as `number > 0`."""
    bounds = [
        f"{sign} {getattr(limit, key)}"
        for limit in limits
        for key, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
        if hasattr(limit, key)
    ]
    return f"{name} {', '.join(bounds)}".strip()


_TYPE_NAMES = {int: "whole number", float: "number", str: "text", bool: "true | false", Path: "path", Any: "value"}
