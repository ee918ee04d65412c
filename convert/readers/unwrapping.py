"""Finding the weights inside what a training script saved around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...core.errors import CheckpointError
from .stored import StoredTensor

AVERAGES = ("ema_state_dict", "ema_model", "model_ema", "ema")
"""Where a moving average lies beside the weights it follows."""
WRAPPERS = ("state_dict", "gen_model", "model_state_dict", "model", "module", "generator", "net", "weights", "params")
"""What weights are wrapped in, one around the other: WFVAE's training, Lightning, DeepSpeed, Megatron and MindSpeed."""

MAX_NAME = 1024
"""Letters of a tensor's name. One key of a shared branch could otherwise become part of a hundred thousand names."""


@dataclass(frozen=True)
class Unwrapped:
    """Weights, and where they were."""

    tensors: Mapping[str, StoredTensor]
    wrapper: tuple[str, ...]
    """Keys on the way to them."""
    has_average: bool


def unwrap(tree: Any, source: str, ema: bool | None = None) -> Unwrapped:
    """The weights of a saved tree. `ema`: True takes the moving average, False the weights, None whichever is there,
    the average first, as upstream's loader of WFVAE does.

    Raises: CheckpointError when there are none, or no average although `ema` asks for it.
    """
    if not isinstance(tree, dict):
        raise CheckpointError(f"{source}: holds a {type(tree).__name__} instead of a dictionary of tensors")
    path: list[str] = []
    average = next((key for key in AVERAGES if isinstance(tree.get(key), dict) and _has_tensors(tree[key])), None)
    if ema and average is None:
        raise CheckpointError(f"{source}: holds no moving average ({', '.join(AVERAGES)}); leave out --ema")
    if average is not None and ema is not False:
        path.append(average)
        tree = tree[average]
    while not any(isinstance(value, StoredTensor) for value in tree.values()):
        key = next((key for key in WRAPPERS if isinstance(tree.get(key), dict) and _has_tensors(tree[key])), None)
        if key is None:
            break
        path.append(key)
        tree = tree[key]
    tensors: dict[str, StoredTensor] = {}
    for name, tensor in _tensors(tree, source):
        if name in tensors:
            raise CheckpointError(f"{source}: two tensors are called {name!r}")
        if not name.isprintable():
            raise CheckpointError(f"{source}: a tensor is called {name!r}, which is no name")
        tensors[name] = tensor
    if not tensors or (not path and _is_training_state(tree)):
        keys = ", ".join(str(key)[:40] for key in list(tree)[:8])
        raise CheckpointError(f"{source}: no weights found in it; its keys are {keys or 'none'}")
    return Unwrapped(tensors, tuple(path), average is not None)


def _is_training_state(tree: Mapping[Any, Any]) -> bool:
    """Whether the tensors are an optimiser's only."""
    holders = {key for key, value in tree.items() if isinstance(value, StoredTensor | dict) and _has_tensors(value)}
    return bool(holders) and holders <= {"optimizer", "optimizer_state", "optimizer_states", "optimizer_state_dict"}


def _has_tensors(node: Any) -> bool:
    return isinstance(node, StoredTensor) or (isinstance(node, dict) and any(map(_has_tensors, node.values())))


def _tensors(tree: Mapping[Any, Any], source: str, before: str = "") -> Iterator[tuple[str, StoredTensor]]:
    """Tensors under their dotted names. Lists are passed over: those are states of optimisers and generators."""
    for key, value in tree.items():
        if not isinstance(value, StoredTensor | dict):
            continue
        name = f"{before}{str(key)[: MAX_NAME + 1]}"
        if len(name) > MAX_NAME:
            raise CheckpointError(
                f"{source}: the name {name[:80]!r}... is longer than any, which have {MAX_NAME} letters"
            )
        if isinstance(value, StoredTensor):
            yield name, value
        else:
            yield from _tensors(value, source, f"{name}.")
