"""Every field of every family's spec with another value that it takes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from family_cases import CASES, Case

from duosora.core.errors import ConfigError
from duosora.core.models.kinds import AutoencoderSpec, DenoiserSpec, TextEncoderSpec
from duosora.core.shapes import LatentShape

NOT_IN_CONFIG = {
    "rope_shares_tables": "how upstream computes, not what the model is; golden cases set it",
    "counts_padding": "the same",
}
NEEDS_NO_EFFECT = {
    "rope_shares_tables": "matters where the scales of the axes differ",
    "sample_size": "a record of how it was trained, for `duosora inspect`",
    "micro_batch_size": "memory alone",
    "counts_padding": "matters where texts of unequal length stand before the patches",
    "class_dropout_prob": "a record of how it was trained",
    "text_dropout_prob": "a record of how it was trained",
}
"""Fields that change neither weights nor what a model gives when it is called, and why."""
QUESTIONS = {"denoiser": DenoiserSpec, "vae": AutoencoderSpec, "text_encoder": TextEncoderSpec}
_OPTIONS = re.compile(r"duosora implements (.*)$")


@dataclass(frozen=True)
class Altered:
    """A case with one field changed."""

    case: Case
    field: str
    spec: Any

    @property
    def shows_in_the_spec(self) -> bool:
        """Whether weights, or answers to the questions of the kind, are others."""
        return _answers(self.case, self.spec) != _answers(self.case, self.case.spec)

    def __str__(self) -> str:
        return f"{self.case.name}-{self.field}"


def _answers(case: Case, spec: Any) -> dict[str, Any]:
    """What the house reads of a spec."""
    asked = [name for name, member in inspect.getmembers(QUESTIONS[case.family.kind]) if isinstance(member, property)]
    layout = spec.layout()
    of_weights = {"weights": dict(layout), "frozen": layout.frozen, "dropped": getattr(spec, "drop_rates", None)}
    return {name: getattr(spec, name, None) for name in asked} | of_weights | {"blocks": spec.blocks()}


def _altered(case: Case) -> Iterator[Altered]:
    for field, spec in _changed(case.spec):
        yield Altered(case, field, spec)


def _changed(spec: Any) -> Iterator[tuple[str, Any]]:
    """Specs with one field changed, also of specs within; a field that takes no other value is left out."""
    for field in fields(spec):
        value = getattr(spec, field.name)
        others = (other for other in _others(spec, field.name) if other != value)
        inner = _changed(value) if is_dataclass(value) else ((field.name, other) for other in others)
        for name, other in inner:
            try:
                yield name, replace(spec, **{field.name: other})
            except ConfigError:
                continue
            if not is_dataclass(value):
                break


def _others(spec: Any, name: str) -> Iterator[Any]:
    """Values that a field could have instead."""
    value = getattr(spec, name)
    if isinstance(value, str):
        yield from (option for option in _options(spec, name, value) if option != value)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, 2 * value, value // 2, value - 1, None)
    elif isinstance(value, float):
        yield from (value / 2 + 0.25, 2 * value)
    elif isinstance(value, tuple):
        yield from (tuple(_element(each) for each in value), (*value[:-1], _element(value[-1])))
    elif value is None:
        yield from (LatentShape(3, 8, 8), 2)


def _element(value: Any) -> Any:
    return not value if isinstance(value, bool) else 2 * value if isinstance(value, int) else 2 * value + 0.25


def _options(spec: Any, name: str, value: str) -> list[str]:
    """What a text may be, out of what is said of one that may not be."""
    try:
        type(spec).from_config(spec.to_config() | {name: f"no {value}"})
    except ConfigError as error:
        found = _OPTIONS.search(str(error))
        return found[1].split(" or ") if found else []
    raise AssertionError(f"{name}: any text is taken")


ALTERED = [each for case in CASES.values() for each in _altered(case)]
