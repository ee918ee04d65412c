"""Finding the weights inside what a training script saved around them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...core.errors import CheckpointError
from ...core.printable import one_line, short_name
from .stored import StoredTensor
from .torch_types import why_unread
from .values import Array, Opaque, Unread

AVERAGES = ("ema_state_dict", "ema_model", "model_ema", "ema", "state_dict_ema", "params_ema", "ema_params")
"""Where a moving average lies beside the weights it follows."""
WRAPPERS = ("state_dict", "gen_model", "model_state_dict", "model", "module", "generator", "net", "weights", "params")
"""What weights are wrapped in, one around the other: WFVAE's training, Lightning, DeepSpeed, Megatron and MindSpeed."""

MAX_NAME = 1024
"""Letters of a tensor's name. One key of a shared branch could otherwise become part of a hundred thousand names."""
_SHOWN = 8
_FEW = 10
"""A wrapper with so many times fewer tensors than its neighbour holds no model."""
_NAMES_OF_WEIGHTS = (".weight", ".bias")


@dataclass(frozen=True)
class Unwrapped:
    """Weights, and where they were."""

    tensors: Mapping[str, StoredTensor]
    wrapper: tuple[str, ...]
    """Keys on the way to them."""
    has_average: bool
    aside: tuple[str, ...]
    """What else holds numbers, or is of a kind that nobody looks into."""


def unwrap(tree: Any, source: str, ema: bool | None = None, key: str | None = None) -> Unwrapped:
    """The weights of a saved tree. `ema`: True takes the moving average, False the weights, None whichever is there,
    the average first, as upstream's loader of WFVAE does. `key` is the way to them, its parts joined by dots.

    Raises: CheckpointError when there are none, no average although `ema` asks for it, nothing under `key`, or a tensor
    among them that is not read.
    """
    if isinstance(tree, Unread):
        raise CheckpointError(f"{source}: holds one object instead of a table of tensors; it {why_unread(tree.name)}")
    if not isinstance(tree, dict):
        raise CheckpointError(f"{source}: holds a {_kind(tree)} instead of a dictionary of tensors")
    average = _average(tree)
    if ema and average is None:
        raise CheckpointError(f"{source}: holds no moving average ({', '.join(AVERAGES)}); leave out --ema")
    aside: list[str] = []
    if key is not None:
        path, held = _under(tree, key, source)
    else:
        path = _way(tree, average if ema is not False else None)
        held = _follow(tree, path, aside)
    held = _without_optimizers(held, aside)
    tensors = _named(held, source, aside)
    if not tensors:
        _refuse_unread(tree, source)
        keys = one_line(", ".join(str(part)[:40] for part in list(tree)[:_SHOWN]), 400)
        rest = f"; left aside: {one_line('; '.join(aside), 400)}" if aside else ""
        if _count(tree, Array):
            rest += "; arrays of numpy are not taken for weights, save them as tensors (torch.from_numpy)"
        raise CheckpointError(f"{source}: no weights found in it; its keys are {keys or 'none'}{rest}")
    return Unwrapped(tensors, tuple(path), average is not None, tuple(aside))


def _refuse_unread(tree: Mapping[Any, Any], source: str) -> None:
    """Raises CheckpointError where the weights may be inside of something that is not looked into."""
    for name, value in tree.items():
        if isinstance(value, Unread) and not _is_optimizer(name):
            raise CheckpointError(f"{source}: no weights found in it; {short_name(name)!r} {why_unread(value.name)}")


def _average(tree: Mapping[Any, Any]) -> str | None:
    """The key of a moving average: of one that has about as many tensors as what lies beside it."""
    most = max(_count_named(tree.get(name)) for name in WRAPPERS)
    return next((name for name in AVERAGES if _count_named(tree.get(name)) * 2 > max(most, 1)), None)


def _way(tree: Mapping[Any, Any], average: str | None) -> list[str]:
    """Keys to the weights: from wrapper to wrapper, as long as one holds more than what lies loose beside it."""
    path = [] if average is None else [average]
    node = tree if average is None else tree[average]
    while True:
        counts = {name: _count_named(node.get(name)) for name in WRAPPERS}
        best = max(counts, key=lambda name: counts[name])
        loose = [value for value in node.values() if isinstance(value, StoredTensor)]
        others = [
            _count_named(value) for name, value in node.items() if name not in AVERAGES and not _is_optimizer(name)
        ]
        if not counts[best] or counts[best] * _FEW < max(others):
            return path
        if counts[best] <= len(loose) and _nbytes(node[best]) <= sum(tensor.nbytes for tensor in loose):
            return path
        path.append(best)
        node = node[best]


def _follow(tree: Mapping[Any, Any], path: Iterable[str], aside: list[str]) -> Mapping[Any, Any]:
    """The branch at the end of a way; what lies beside the way is noted."""
    for step in path:
        aside += [note for name, value in tree.items() if name != step and (note := _note(name, value))]
        tree = tree[step]
    return tree


def _under(tree: Mapping[Any, Any], key: str, source: str) -> tuple[list[str], Mapping[Any, Any]]:
    """The branch of a key that the user named; a part of it may have dots itself."""
    path: list[str] = []
    node: Any = tree
    while key:
        branches = {name: value for name, value in node.items() if isinstance(name, str) and isinstance(value, dict)}
        fitting = [name for name in branches if key == name or key.startswith(f"{name}.")]
        if not fitting:
            there = one_line(", ".join(name[:40] for name in branches if _count_named(branches[name])), 400)
            raise CheckpointError(f"{source}: --key {key}: no such branch; those with tensors are {there or 'none'}")
        path.append(max(fitting, key=len))
        node, key = branches[path[-1]], key[len(path[-1]) + 1 :]
    return path, node


def _without_optimizers(tree: Mapping[Any, Any], aside: list[str]) -> Mapping[Any, Any]:
    left_out = [name for name, value in tree.items() if _is_optimizer(name) and isinstance(value, dict | Unread)]
    aside += [note for name in left_out if (note := _note(name, tree[name]))]
    return {name: value for name, value in tree.items() if name not in left_out}


def _is_optimizer(name: Any) -> bool:
    return isinstance(name, str) and "optim" in name.lower()


def _named(tree: Mapping[Any, Any], source: str, aside: list[str]) -> dict[str, StoredTensor]:
    """Tensors under their dotted names. Lists are passed over: those are states of optimisers and generators."""
    tensors: dict[str, StoredTensor] = {}
    for name, value in _leaves(tree, source):
        if isinstance(value, Unread):
            raise CheckpointError(f"{source}: tensor {short_name(name)!r} {why_unread(value.name)}")
        if not isinstance(value, StoredTensor):
            _refuse_lost(name, value, source)
            aside += [note for note in [_note(name, value)] if note]
            continue
        if name in tensors:
            raise CheckpointError(f"{source}: two tensors are called {short_name(name)!r}")
        if not name.isprintable():
            raise CheckpointError(f"{source}: a tensor is called {short_name(name)!r}, which is no name")
        tensors[name] = value
    return tensors


def _refuse_lost(name: str, value: Any, source: str) -> None:
    """Raises CheckpointError for a weight by its name that is no tensor: left aside, it would be lost in silence."""
    if not name.endswith(_NAMES_OF_WEIGHTS):
        return
    if isinstance(value, Array):
        raise CheckpointError(
            f"{source}: tensor {short_name(name)!r} is an {value}; save tensors, as torch.from_numpy(ARRAY) makes them"
        )
    if isinstance(value, Opaque):
        raise CheckpointError(f"{source}: tensor {short_name(name)!r} {why_unread(value.name)}")


def _leaves(tree: Mapping[Any, Any], source: str, before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{before}{str(key)[: MAX_NAME + 1]}"
        if len(name) > MAX_NAME and isinstance(value, StoredTensor | dict):
            raise CheckpointError(
                f"{source}: the name {name[:80]!r}... is longer than any, which have {MAX_NAME} letters"
            )
        if isinstance(value, dict):
            yield from _leaves(value, source, f"{name}.")
        else:
            yield name, value


def _note(name: Any, value: Any) -> str | None:
    """What is left aside, in words; None for plain texts and numbers."""
    shown = short_name(name)
    if isinstance(value, Opaque):
        return f"{shown} ({short_name(value)})"
    if isinstance(value, Unread):
        return f"{shown} ({short_name(value.name)}, with tensors)"
    counts = [(_count(value, Unread), "unread object"), (_count(value), "tensor"), (_count(value, Array), "array")]
    said = [f"{count} {what}{'s' if count > 1 else ''}" for count, what in counts if count]
    return f"{shown} ({', '.join(said)})" if said else None


def _count(node: Any, kind: type = StoredTensor) -> int:
    """How many tensors, or other things, a branch holds, those in lists too."""
    if isinstance(node, kind):
        return 1
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return sum(_count(child, kind) for child in children)


def _count_named(node: Any) -> int:
    """How many tensors a dictionary holds under names, so not in lists."""
    if not isinstance(node, dict):
        return 0
    return sum(1 if isinstance(child, StoredTensor) else _count_named(child) for child in node.values())


def _nbytes(node: Any) -> int:
    if isinstance(node, StoredTensor):
        return node.nbytes
    return sum(map(_nbytes, node.values())) if isinstance(node, dict) else 0


def _kind(node: Any) -> str:
    if isinstance(node, StoredTensor):
        return "single tensor"
    return short_name(node) if isinstance(node, Opaque | Array) else type(node).__name__
