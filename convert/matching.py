"""What the rules of a model make of the names of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .rules import Drop, Merge, Rename, Rule, Split, Tied, Transpose, fill, match, pattern_of

WRAPPERS = (
    *("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_forward_module."),
    "_backbone.",
)
"""What training on several devices, compiling and MindSpore's mixed precision put into names; taken out wherever a part
of a name begins."""


@dataclass(frozen=True)
class Origin:
    """How one tensor is made: from one source tensor, or several that are joined."""

    names: tuple[str, ...]
    axes: tuple[int, ...] | None = None
    part: tuple[int, int] | None = None
    """Which of how many equal parts of the first axis."""


@dataclass(frozen=True)
class Renaming:
    """What becomes of every tensor of a source."""

    model: str
    origins: Mapping[str, Origin]
    """New name to where it comes from, in the order of the source."""
    dropped: Mapping[str, str]
    """Left-out name to the reason."""
    ties: tuple[tuple[str, str], ...]
    """Names of the source that must hold the same numbers."""


def apply(
    rules: tuple[Rule, ...], names: list[str], known: frozenset[str], model: str = ""
) -> tuple[Renaming, list[str]]:
    """What rules make of names: the plan, and the names that none of them turns into one of the `known` patterns."""
    held = {without_wrappers(name): name for name in names}
    origins: dict[str, Origin] = {}
    dropped: dict[str, str] = {}
    ties: list[tuple[str, str]] = []
    unknown = sorted(set(names) - set(held.values()))  # two names that are one without their prefixes
    for name, full_name in held.items():
        rule, gaps = _rule_for(name, rules) if pattern_of(name) not in known else (None, ())
        made: dict[str, Origin] = {}
        if rule is None:
            made[name] = Origin((full_name,))
        elif isinstance(rule, Drop):
            dropped[full_name] = rule.why
            continue
        elif isinstance(rule, Tied):
            if rule.new in held:
                dropped[full_name] = f"the same as {rule.new}"
                ties.append((full_name, held[rule.new]))
                continue
            made[rule.new] = Origin((full_name,))
        elif isinstance(rule, Rename | Transpose):
            axes = rule.axes if isinstance(rule, Transpose) else None
            made[fill(rule.new, gaps)] = Origin((full_name,), axes)
        elif isinstance(rule, Split):
            for number, new in enumerate(rule.new):
                made[fill(new, gaps)] = Origin((full_name,), part=(number, len(rule.new)))
        else:
            parts = tuple(fill(old, gaps) for old in rule.old)
            if not set(parts) <= held.keys():
                unknown.append(full_name)
                continue
            if name == parts[0]:
                made[fill(rule.new, gaps)] = Origin(tuple(held[part] for part in parts))
        for new, origin in made.items():
            if pattern_of(new) not in known or new in origins:
                unknown.append(full_name)
            else:
                origins[new] = origin
    return Renaming(model, origins, dropped, tuple(ties)), unknown


def _rule_for(name: str, rules: tuple[Rule, ...]) -> tuple[Rule | None, tuple[str, ...]]:
    for rule in rules:
        for old in rule.old if isinstance(rule, Merge) else (rule.old,):
            gaps = match(old, name)
            if gaps is not None:
                return rule, gaps
    return None, ()


def without_wrappers(name: str) -> str:
    for wrapper in WRAPPERS:
        name = f".{name}".replace(f".{wrapper}", ".").removeprefix(".")
    return name
