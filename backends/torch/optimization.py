"""What every train step has: named float32 parameters, their optimiser, clipping, loss scaling, and an average of them.

State is read and written under the layout's names, so that another backend can go on with it.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from duosora.core.seam.training import AdamW, LateReport, Limit, StepReport

from .distributed.zero import Replicas, Shards
from .precision import read_late, to_array, to_tensor, to_weight

OTHER_OPTIMIZERS = {
    "adamw_8bit": ("bitsandbytes.optim", "AdamW8bit", "optimizers"),
    "prodigy": ("prodigyopt", "Prodigy", "optimizers"),
}
"""Module, class and extra of the optimisers that libraries bring."""
PLACEHOLDER_RATE = 1.0
"""Until the first step brings its own; not 0, which Prodigy refuses."""


class Update(NamedTuple):
    """What became of one optimiser step; numbers of the device, which nobody has waited for."""

    grad_norm: Tensor
    applied: Tensor
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
        self.optimizer: Any = _optimizer(name, list(self.parameters.values()), optimizer)
        self._decides = name == "adamw"
        """Whether the optimiser leaves a step out when a number on the device tells it to."""
        self.scaler = torch.amp.GradScaler(torch.device(device).type, enabled=scales_loss)

    def take(
        self,
        gradients: Callable[[], Mapping[str, Tensor]],
        lr: float,
        ema_decay: float | None,
        reject_above: Limit,
        updated: str = "model",
        measured: Sequence[Tensor] = (),
    ) -> LateReport:
        """An optimiser step. gradients: adds those of its micro-batches with `backward` and returns the terms of their
        losses (N,) by name, "loss" the whole. measured: what that changes beside, which stays too if the step is not
        taken.

        In fp16 the step is computed again, with a lower scale of the loss, as long as that is what it fails by.
        """
        while True:
            before = [each.detach().clone() for each in measured]
            terms = gradients()
            limit = reject_above() if callable(reject_above) else reject_above
            update = self.update(lr, ema_decay, limit, terms["loss"].isfinite().all())
            for each, old in zip(measured, before, strict=True):
                each.data.copy_(torch.where(update.applied, each.detach(), old))
            if not update.loss_scale_was_too_high:
                return _report(terms, update, updated)

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients."""
        self.scaler.scale(loss).backward()

    def update(self, lr: float, ema_decay: float | None, reject_above: float, is_finite: Tensor) -> Update:
        """Step along the gradients and forget them; with a norm that is not finite, or too large, only forget them.

        The device decides that by itself, and nobody waits for it but a loss scale and optimisers of libraries.
        """
        gradients = self._collect()
        self.scaler.unscale_(self.optimizer)
        norm = self._clip(gradients)
        applied = is_finite & norm.isfinite() & (norm <= reject_above)
        too_high = self.scaler.is_enabled() and self._is_scale_too_high(is_finite, norm)
        self._step(lr, applied)
        self.shards.spread(self.parameters, self._whole)
        if ema_decay is not None:
            self._average(ema_decay, applied)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return Update(norm, applied, too_high)

    def _step(self, lr: float, applied: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self._decides:
            self.optimizer.found_inf = (~applied).float()
        elif not bool(applied):
            return
        self.optimizer.step()

    def _is_scale_too_high(self, is_finite: Tensor, norm: Tensor) -> bool:
        return bool(is_finite & ~norm.isfinite()) and self.scaler.get_scale() > LOWEST_LOSS_SCALE

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

    def _clip(self, gradients: list[Tensor]) -> Tensor:
        """Shorten gradients whose global norm is above the limit, as nn.utils.clip_grad_norm_ does; the norm before."""
        norm = self.shards.norm(gradients)
        if self.max_grad_norm is not None:
            torch._foreach_mul_(gradients, (self.max_grad_norm / (norm + _SAFE_NORM)).clamp(max=1.0))
        return norm

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
                states.setdefault(name, {})[key] = self._number(name, value) if isinstance(value, float) else value
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

    def _number(self, name: str, value: float) -> Tensor:
        """A number of a parameter's state, where its optimiser looks for it."""
        return torch.tensor(value, device=self.parameters[name].device if self._decides else None)

    @torch.no_grad()
    def _average(self, decay: float, applied: Tensor) -> None:
        shadows, parameters = list(self.shadows.values()), [each.detach() for each in self.parameters.values()]
        if decay >= 0.5:
            # shadow - (1 - decay) * (shadow - parameter): what torch's SGD does in one pass with decay towards 0, away
            # from the parameters as gradients; of all that works on many tensors it alone can leave them as they are.
            torch._fused_sgd_(
                shadows,
                parameters,
                [],
                weight_decay=1.0,
                momentum=0.0,
                lr=1.0 - decay,
                dampening=0.0,
                nesterov=False,
                maximize=True,
                is_first_step=False,
                found_inf=(~applied).float(),
            )
            return
        for shadow, parameter in zip(shadows, parameters, strict=True):  # at the start of a run; exact for a copy
            shadow.copy_(torch.where(applied, torch.lerp(shadow, parameter, 1.0 - decay), shadow))

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
        return torch.optim.AdamW(parameters, lr=PLACEHOLDER_RATE, fused=True, **settings)
    if name not in OTHER_OPTIMIZERS:
        raise ConfigError(f"optimizer.name = {name!r}: needs one of adamw, {', '.join(OTHER_OPTIMIZERS)}")
    module, kind, extra = OTHER_OPTIMIZERS[name]
    with needs_extra(extra, f"optimizer.name = {name!r}", "use adamw"):
        optimizer = getattr(importlib.import_module(module), kind)
    return optimizer(parameters, lr=PLACEHOLDER_RATE, **settings)


def _report(terms: Mapping[str, Tensor], update: Update, updated: str) -> LateReport:
    """What a step did, for which nobody waits before it is looked at; terms are means over all micro-batches."""
    rows = torch.stack(list(terms.values()))  # (terms, N)
    read = read_late(torch.cat([rows.reshape(-1), torch.stack([update.grad_norm, update.applied.float()])]))

    def report() -> StepReport:
        *figures, norm, applied = read().astype(np.float64)
        means = np.reshape(figures, rows.shape).mean(1).tolist()
        parts = dict(zip(terms, means, strict=True))
        return StepReport(parts["loss"], float(norm), bool(applied), parts, updated)

    return LateReport(report, is_late=rows.device.type != "cpu")


def _numbers_of(group: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in group.items() if type(value) in (int, float)}
