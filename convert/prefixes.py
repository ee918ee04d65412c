"""What other tools put before the names of a model: found by comparing with the names that the models have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .matching import apply, without_wrappers
from .names import NAMES

MAX_PARTS = 4
"""Of a prefix; `state.model.diffusion_model.` has three."""
_SMALLEST_SHARE = 20
"""A model has at least one of so many names of a file; fewer are a coincidence."""

_STATES = frozenset((
    "rng_state", "cuda_rng_state", "npu_rng_state", "step", "steps", "global_step", "global_steps", "step_num",
    "epoch", "epoch_num", "iteration", "learning_rate", "lr", "loss", "loss_scale", "scale_sense", "beta1_power",
    "beta2_power", "current_iterator_step", "last_overflow_iterator_step", "num_updates",
    "n_averaged", "decay", "initted",
))  # fmt: skip
_STATE_PREFIXES = ("optimizer.", "moment1.", "moment2.", "moments.", "adam_m.", "adam_v.", "accum.")
"""What trainings save beside the weights, MindSpore's in one table with them."""


@dataclass(frozen=True)
class Fit:
    """A model whose names are found below a prefix."""

    model: str
    prefix: str
    """With its dot; empty where the names begin at once."""
    count: int
    """Names below it that are the model's."""
    total: int
    """Names below it."""
    same: int = 0
    """Names below it that are the model's as they are."""

    def __str__(self) -> str:
        where = f" under {self.prefix!r}" if self.prefix else ""
        return f"{self.model}{where} ({self.count} of {self.total} names)"


def find_fits(names: Iterable[str]) -> list[Fit]:
    """The models that names belong to, each with its prefix, best first. More than half of the names below a prefix
    must be the model's, and some of them must be kept; a prefix inside another one of the same model is not counted,
    nor one of a part of another model.
    """
    groups = _groups([bare for bare in map(without_wrappers, names) if not is_state(bare)])
    found = [
        Fit(model, prefix, known, below.total(), same)
        for prefix, below in groups.items()
        for model in NAMES
        for known, kept, same in [_known(model, below)]
        if kept and known * 2 > below.total()
    ]
    found.sort(key=lambda fit: (-fit.count, -fit.same, len(fit.prefix)))
    outer: list[Fit] = []
    for fit in found:
        if not any(_is_inside(fit, other) for other in outer):
            outer.append(fit)
    return outer


def best_of_each(fits: list[Fit]) -> list[Fit]:
    """The best below each prefix: names below one are of one model, and others that are like it know them as well."""
    return list({fit.prefix: fit for fit in reversed(fits)}.values())[::-1]


def _is_inside(fit: Fit, other: Fit) -> bool:
    """Whether a fit is that of a part of what the other one knows already."""
    if fit.model == other.model:
        return fit.prefix.startswith(other.prefix)
    is_below = fit.prefix != other.prefix and fit.prefix.startswith(other.prefix)
    return is_below and fit.count + other.count > other.total


def is_state(name: str) -> bool:
    """Whether a name is that of a step, a random state or an optimiser."""
    return name in _STATES or name.startswith(_STATE_PREFIXES)


def _groups(names: list[str]) -> Mapping[str, Counter[str]]:
    """The names below each prefix that many have, without it; those that differ in numbers only are counted as one."""
    counted = Counter(".".join("0" if part.isdigit() else part for part in name.split(".")) for name in names)
    sizes: Counter[str] = Counter({"": len(names)})
    for name, count in counted.items():
        sizes.update(dict.fromkeys(_prefixes(name), count))
    groups: dict[str, Counter[str]] = {
        prefix: Counter() for prefix, size in sizes.items() if size * _SMALLEST_SHARE >= len(names)
    }
    for name, count in counted.items():
        for prefix in ("", *_prefixes(name)):
            if prefix in groups:
                groups[prefix][name[len(prefix) :]] += count
    return groups


def _prefixes(name: str) -> list[str]:
    parts = name.split(".", MAX_PARTS)[:-1]
    return [".".join(parts[: count + 1]) + "." for count in range(len(parts))]


def _known(model: str, names: Counter[str]) -> tuple[int, int, int]:
    """How many names a model knows, how many of them are kept, and how many of those as they are."""
    found, unknown = apply(NAMES[model].rules, list(names), NAMES[model].patterns())
    kept = sum(names[name] for origin in found.origins.values() for name in origin.names)
    same = sum(names[new] for new, origin in found.origins.items() if origin.names == (new,))
    return names.total() - sum(names[name] for name in unknown), kept, same
