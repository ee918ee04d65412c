"""What every train step has: named float32 parameters, their optimiser, clipping, loss scaling, and an average of them.

State is read and written under the layout's names, so that another backend can go on with it.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from duosora.core.errors import CheckpointError, ConfigError
from duosora.core.extras import needs_extra
from duosora.core.io.files import atomic_write, read_json
from duosora.core.io.weights import INDEX_SUFFIX, SUFFIX, Shard, open_weights, save_shard
from duosora.core.seam.group import Alone
from duosora.core.seam.training import AdamW

from .distributed.zero import Replicas, Shards
from .precision import to_array, to_tensor, to_weight

OTHER_OPTIMIZERS = {
    "adamw_8bit": ("bitsandbytes.optim", "AdamW8bit", "optimizers"),
    "prodigy": ("prodigyopt", "Prodigy", "optimizers"),
}
"""Module, class and extra of the optimisers that libraries bring."""
PLACEHOLDER_RATE = 1.0
"""Until the first step brings its own; not 0, which Prodigy refuses."""


class Update(NamedTuple):
    """What became of one optimiser step."""

    grad_norm: float
    applied: bool
    loss_scale_was_too_high: bool = False
    """fp16: only the scaled gradients were not finite; the scale is lower now."""


LOWEST_LOSS_SCALE = 1.0
_SAFE_NORM = 1e-6
"""Added to the norm that gradients are divided by."""


class Optimization:
    """The trainable half of a train step: it owns everything about the parameters but how their gradients come."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        optimizer: AdamW,
        *,
        device: str,
        name: str = "adamw",
        max_grad_norm: float | None = None,
        keeps_ema: bool = False,
        scales_loss: bool = False,
        shards: Replicas | Shards | None = None,
    ) -> None:
        """shards: how the parameters lie on the ranks that train them together."""
        self.shards = shards or Replicas(Alone())
        self._whole = dict(parameters)
        self.parameters = self.shards.own(parameters)
        """What of them this rank's optimiser works on."""
        self.shadows = {key: value.detach().clone() for key, value in self.parameters.items()} if keeps_ema else {}
        self.max_grad_norm = max_grad_norm
        self.optimizer = _optimizer(name, list(self.parameters.values()), optimizer)
        self.scaler = torch.amp.GradScaler(torch.device(device).type, enabled=scales_loss)

    def take(
        self,
        gradients: Callable[[], float],
        lr: float,
        ema_decay: float | None,
        reject_above: float,
    ) -> tuple[float, Update]:
        """An optimiser step. gradients: adds those of its micro-batches with `backward` and returns their mean loss.

        In fp16 the step is computed again, with a lower scale of the loss, as long as that is what it fails by.
        """
        while True:
            loss = gradients()
            update = self.update(lr, ema_decay, reject_above, bool(np.isfinite(loss)))
            if not update.loss_scale_was_too_high:
                return loss, update

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients."""
        self.scaler.scale(loss).backward()

    def update(self, lr: float, ema_decay: float | None, reject_above: float, is_finite: bool = True) -> Update:
        """Step along the gradients and forget them; with a norm that is not finite, or too large, only forget them."""
        gradients = self._collect()
        self.scaler.unscale_(self.optimizer)
        norm = self._clip(gradients)
        applied = is_finite and bool(np.isfinite(norm)) and norm <= reject_above
        if applied:
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.scaler.step(self.optimizer)
            self.shards.spread(self.parameters, self._whole)
            if ema_decay is not None:
                self._average(ema_decay)
        too_high = is_finite and not np.isfinite(norm) and self.scaler.get_scale() > LOWEST_LOSS_SCALE
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return Update(norm, applied, too_high)

    def _collect(self) -> list[Tensor]:
        """Add up the gradients of all ranks and give the optimiser its part of them."""
        found = {name: whole.grad for name, whole in self._whole.items() if whole.grad is not None}
        own = self.shards.collect(found)
        for name, parameter in self.parameters.items():
            self._whole[name].grad = None
            parameter.grad = own.get(name)
        gradients = list(own.values())
        # A scaler looks at the own part only, but all are to lower their scales together.
        if self.scaler.is_enabled() and self.shards.group.any(not bool(self.shards.norm(gradients).isfinite())):
            max(gradients, key=Tensor.numel).fill_(torch.inf)
        return gradients

    def _clip(self, gradients: list[Tensor]) -> float:
        """Shorten gradients whose global norm is above the limit, as nn.utils.clip_grad_norm_ does; the norm before."""
        norm = self.shards.norm(gradients)
        if self.max_grad_norm is not None:
            torch._foreach_mul_(gradients, (self.max_grad_norm / (norm + _SAFE_NORM)).clamp(max=1.0))
        return float(norm)

    @contextmanager
    def averaged(self, use_ema: bool) -> Iterator[None]:
        """Inside, the parameters have the values of their average."""
        if not use_ema:
            yield
            return
        if not self.shadows:
            raise ConfigError("the average of the weights was asked for, but this run keeps none")
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """The optimiser's tensors, `exp_avg.<name>` and the like, and its numbers.

        Of many ranks each gets the tensors that it is to write; they call together.
        """
        parts: dict[str, dict[str, Tensor]] = {}
        numbers: dict[str, dict[str, int | float]] = {}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor) and value.ndim:
                    parts.setdefault(key, {})[name] = value
                else:  # torch counts steps in tensors, libraries in plain whole numbers
                    numbers.setdefault(key, {})[name] = float(value) if isinstance(value, Tensor) else value
        written = {key: self.shards.written(of_key) for key, of_key in parts.items()}
        tensors = {
            f"{key}.{name}": written[key][name] for name in self.parameters for key in parts if name in written[key]
        }
        groups = [_numbers_of(group) for group in self.optimizer.param_groups]
        return Tensors(tensors), {"numbers": numbers, "groups": groups, "loss_scale": self.scaler.state_dict()}

    def first_moments(self) -> dict[str, Tensor]:
        """The running means of the gradients by name; none before the first step. Shared by ranks as in `state`."""
        state = self.optimizer.state
        parts = {name: state[value]["exp_avg"] for name, value in self.parameters.items() if value in state}
        return self.shards.written(parts)

    def load_state(self, arrays: Mapping[str, np.ndarray], rest: Mapping[str, Any], source: str) -> None:
        """Restore what `state` gave. Raises: CheckpointError when it was another model's."""
        states: dict[str, dict[str, Any]] = {}
        for full_name in arrays:
            key, _, name = full_name.partition(".")
            whole, array = self._whole.get(name), arrays[full_name]
            is_alike = whole is not None and array.shape == tuple(whole.shape)
            # Libraries keep flat and packed tensors too, whose shapes are their own affair.
            if whole is None or not (is_alike or (array.ndim < 2 and self.shards.group.size == 1)):
                raise CheckpointError(f"{source}: {full_name} belongs to another model; resume with the run's config")
            part = self.shards.cut(name, array) if is_alike else array
            states.setdefault(name, {})[key] = to_weight(part, whole.device)
        for key, values in rest["numbers"].items():
            for name, value in values.items():
                states.setdefault(name, {})[key] = torch.tensor(value) if isinstance(value, float) else value
        unknown = states.keys() - self.parameters.keys()
        if unknown or (states and len(states) != len(self.parameters)):
            raise CheckpointError(f"{source}: holds the state of {len(states)} weights, not of {len(self.parameters)}")
        for name, state in states.items():
            self.optimizer.state[self.parameters[name]] = state
        for group, saved in zip(self.optimizer.param_groups, rest["groups"], strict=True):
            group.update(saved)
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(rest["loss_scale"])

    def load_weights(self, weights: Mapping[str, np.ndarray], use_ema: bool) -> None:
        """Overwrite the parameters, or their average, in place; the names are those of `weights`."""
        held = self.shadows if use_ema else self.parameters
        with torch.no_grad():
            for name, tensor in held.items():
                tensor.copy_(to_tensor(self.shards.cut(name, weights[name])))
        self.shards.spread(self.parameters, self._whole)

    def _average(self, decay: float) -> None:
        with torch.no_grad():
            torch._foreach_lerp_(list(self.shadows.values()), list(self.parameters.values()), 1.0 - decay)

    def _swap(self) -> None:
        # Values, not tensors: others may look at the parameters' memory.
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                kept = parameter.clone()
                parameter.copy_(self.shadows[name])
                self.shadows[name].copy_(kept)
        self.shards.spread(self.parameters, self._whole)


class Tensors(Mapping[str, np.ndarray]):
    """Tensors that become numpy arrays one at a time, as they are asked for."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def __getitem__(self, name: str) -> np.ndarray:
        return to_array(self.tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def dtype(self, name: str) -> np.dtype[Any]:
        return to_array(self.tensors[name].new_empty(0)).dtype

    def copied(self) -> Tensors:
        """The same on the host, which later changes leave alone."""
        return Tensors({name: tensor.detach().to("cpu", copy=True) for name, tensor in self.tensors.items()})


@dataclass(frozen=True)
class SavedStep:
    """The state of a train step: core.seam.training.Saved."""

    present: Tensors
    average: Tensors
    optimizers: Mapping[str, tuple[Tensors, dict[str, Any]]]
    """By the name of their files."""
    shard: Shard = field(default_factory=Shard)
    """Which part of it this is, of many ranks."""

    def weights(self, use_ema: bool) -> Tensors:
        return self.average if use_ema else self.present

    def save(self, folder: Path) -> None:
        for name, (tensors, rest) in self.optimizers.items():
            save_shard(folder, tensors, self.shard, name)
            if self.shard.index > 0:
                continue
            with atomic_write(folder / f"{name}.json", overwrite=True) as temporary:
                temporary.write_text(json.dumps(rest, indent=1), encoding="utf-8")

    def copied(self) -> SavedStep:
        """A copy on the host."""
        optimizers = {name: (tensors.copied(), rest) for name, (tensors, rest) in self.optimizers.items()}
        return SavedStep(self.present.copied(), self.average.copied(), optimizers, self.shard)


def load_state(folder: Path, name: str) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:
    """Read what `SavedStep.save` wrote, on however many ranks; each tensor when it is asked for.

    Raises: CheckpointError.
    """
    file = folder / f"{name}.json"
    try:
        rest = read_json(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read as an optimiser's state ({error})") from error
    file = folder / f"{name}{SUFFIX}"
    return open_weights(file if file.exists() else folder / f"{name}{INDEX_SUFFIX}"), rest


def make_trainable(model: nn.Module, trains: Callable[[str], bool]) -> dict[str, nn.Parameter]:
    """Ask for gradients of the parameters whose names are to be trained; return these by name."""
    trainable = {}
    for name, parameter in model.named_parameters():
        if trains(name):
            parameter.requires_grad_()
            trainable[name] = parameter
    return trainable


def recompute(blocks: Iterable[nn.Module], every: int) -> None:
    """Make every n-th block compute its activations again in the backward pass instead of keeping them; 0: none."""
    for number, block in enumerate(blocks):
        if every and number % every == 0:
            block.forward = _recomputed(block.forward)


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*inputs: Any) -> Any:
        return checkpoint(forward, *inputs, use_reentrant=False)

    return run


def _optimizer(name: str, parameters: list[nn.Parameter], options: AdamW) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {"betas": options.betas, "eps": options.eps, "weight_decay": options.weight_decay}
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=PLACEHOLDER_RATE, **settings)
    if name not in OTHER_OPTIMIZERS:
        raise ConfigError(f"optimizer.name = {name!r}: needs one of adamw, {', '.join(OTHER_OPTIMIZERS)}")
    module, kind, extra = OTHER_OPTIMIZERS[name]
    with needs_extra(extra, f"optimizer.name = {name!r}", "use adamw"):
        optimizer = getattr(importlib.import_module(module), kind)
    return optimizer(parameters, lr=PLACEHOLDER_RATE, **settings)


def _numbers_of(group: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in group.items() if type(value) in (int, float)}
