"""What every train step has: named float32 parameters, their optimiser, clipping, loss scaling, and an average of them.

State is read and written under the layout's names, so that another backend can go on with it. MindSpore's in-place
arithmetic changes nothing on a CPU: values are written with ops.assign, or tensors are put in the place of others.
Each of its operations costs some 40 microseconds there whatever its size, so all tensors of a kind are one long one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, mint, nn, ops
from mindspore.mint import cat

from duosora.core.apart import call_apart
from duosora.core.errors import CheckpointError, ConfigError
from duosora.core.io.files import atomic_write, read_json
from duosora.core.io.weights import INDEX_SUFFIX, SUFFIX, Shard, open_weights, save_shard
from duosora.core.seam.group import Alone
from duosora.core.seam.training import AdamW, Limit, StepReport

from .distributed.zero import Replicas, Shards
from .precision import to_array, to_weight

OTHER_OPTIMIZERS: dict[str, tuple[str, str, str]] = {}
"""Module, class and extra of the optimisers that libraries bring: none for MindSpore."""
PLACEHOLDER_RATE = 1.0
"""Until the first step brings its own."""
_EXPONENTIAL = ("exp_avg", "exp_avg_sq")
"""The running means of the gradients and of their squares, under torch's names."""
_PACK_SIZE = 1 << 25
"""Elements after which another long tensor is begun, so that those in passing are small beside a large model."""
_SAFE_NORM = 1e-6
"""Added to the norm that gradients are divided by."""


class Update(NamedTuple):
    """What became of one optimiser step."""

    grad_norm: float
    applied: bool
    loss_scale_was_too_high: bool = False
    """fp16: only the scaled gradients were not finite; the scale is lower now."""


LOWEST_LOSS_SCALE = 1.0


class Optimization:
    """The trainable half of a train step: it owns everything about the parameters but how their gradients come."""

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
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
        self.parameters = dict(parameters)
        self.max_grad_norm = max_grad_norm
        self.device = device
        self.optimizer = _optimizer(name, optimizer)
        self.scaler = _LossScaler(scales_loss)
        own = self.shards.own(self.parameters)
        self._packing = _Packing(own)
        self._gradients: list[Tensor] = []
        self.shadows: dict[str, Tensor] = {}
        self._average: list[Tensor] = []
        if keeps_ema:
            self._set_average(self._packing.pack(own))

    def take(
        self,
        gradients: Callable[[], Mapping[str, float]],
        lr: float,
        ema_decay: float | None,
        reject_above: Limit,
        updated: str = "model",
        measured: Sequence[Parameter] = (),
    ) -> StepReport:
        """An optimiser step. gradients: adds those of its micro-batches with `backward` and returns the terms of their
        losses by name, "loss" the whole. measured: what that changes beside, which stays too if the step is not taken.

        In fp16 the step is computed again, with a lower scale of the loss, as long as that is what it fails by.
        """
        while True:
            before = [each.copy() for each in measured]
            terms = gradients()
            limit = reject_above() if callable(reject_above) else reject_above
            update = self.update(lr, ema_decay, limit, bool(np.isfinite(terms["loss"])))
            for each, old in zip(measured, before, strict=True):
                if not update.applied:
                    ops.assign(each, old)
            if not update.loss_scale_was_too_high:
                return StepReport(terms["loss"], update.grad_norm, update.applied, dict(terms), updated)

    def backward(self, loss: Callable[[], tuple[Tensor, Mapping[str, Tensor]]]) -> Mapping[str, Tensor]:
        """Call what gives a loss, and further results by name; add the loss's gradients, and return the results.

        Those of all ranks, which call together: a rank keeps its part of them only.
        """
        scale = self.scaler.get_scale()

        def scaled() -> tuple[Tensor, Mapping[str, Tensor]]:
            value, results = loss()
            return value * scale, results

        with_gradients = mindspore.value_and_grad(scaled, None, list(self.parameters.values()), has_aux=True)
        # Where graphs are traced, as MindSpore notes what gradients need thread by thread.
        (_, results), gradients = call_apart(with_gradients)
        own = self.shards.collect(dict(zip(self.parameters, gradients, strict=True)))
        held, new = self._gradients, self._packing.pack(own)
        self._gradients = [one + other for one, other in zip(held, new, strict=True)] if held else new
        return results

    def update(self, lr: float, ema_decay: float | None, reject_above: float, is_finite: bool) -> Update:
        """Step along the gradients and forget them; with a norm that is not finite, or too large, only forget them."""
        gradients, self._gradients = self._gradients, []
        scale = self.scaler.get_scale()
        if scale != 1.0:
            gradients = [gradient * (1.0 / scale) for gradient in gradients]
        norm = self.shards.norm(gradients)
        applied = is_finite and bool(np.isfinite(norm)) and norm <= reject_above
        if applied:
            if self.max_grad_norm is not None and norm + _SAFE_NORM > self.max_grad_norm:
                factor = self.max_grad_norm / (norm + _SAFE_NORM)
                gradients = [gradient * factor for gradient in gradients]
            weights = self.optimizer.step(self._packing.pack(self.shards.own(self.parameters)), gradients, lr)
            self._write(weights)
            if ema_decay is not None:
                pairs = zip(self._average, weights, strict=True)
                self._set_average([_between(average, weight, 1.0 - ema_decay) for average, weight in pairs])
        too_high = is_finite and not np.isfinite(norm) and self.scaler.get_scale() > LOWEST_LOSS_SCALE
        self.scaler.update(is_finite=bool(np.isfinite(norm)))
        return Update(norm, applied, too_high)

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
        optimizer = self.optimizer
        means = {key: self.shards.written(self._packing.unpack(packs)) for key, packs in optimizer.means.items()}
        tensors = {f"{key}.{name}": value for key, held in means.items() for name, value in held.items()}
        numbers = {"step": dict.fromkeys(self.parameters, float(optimizer.count))} if optimizer.count else {}
        return Tensors(tensors), {
            "numbers": numbers,
            "groups": [dict(optimizer.group)],
            "loss_scale": self.scaler.state_dict(),
        }

    def first_moments(self) -> dict[str, Tensor]:
        """The running means of the gradients by name; none before the first step. Shared by ranks as in `state`."""
        return self.shards.written(self._packing.unpack(self.optimizer.means["exp_avg"]))

    def load_state(self, arrays: Mapping[str, np.ndarray], rest: Mapping[str, Any], source: str) -> None:
        """Restore what `state` gave. Raises: CheckpointError when it was another model's."""
        means: dict[str, dict[str, Tensor]] = {key: {} for key in _EXPONENTIAL}
        for full_name in arrays:
            key, _, name = full_name.partition(".")
            parameter = self.parameters.get(name)
            array = arrays[full_name]
            if key not in means or parameter is None or array.shape != tuple(parameter.shape):
                raise CheckpointError(f"{source}: {full_name} belongs to another model; resume with the run's config")
            means[key][name] = to_weight(self.shards.cut(name, array), self.device)
        counts = {len(held) for held in means.values()}
        if counts not in ({0}, {len(self.parameters)}):
            count = min(counts)
            raise CheckpointError(f"{source}: holds the state of {count} weights, not of {len(self.parameters)}")
        self.optimizer.means = {key: self._packing.pack(held) if held else [] for key, held in means.items()}
        self.optimizer.count = int(max(rest["numbers"].get("step", {}).values(), default=0))
        (group,) = rest["groups"]
        self.optimizer.group.update(group)
        self.scaler.load_state_dict(rest["loss_scale"])

    def load_weights(self, weights: Mapping[str, np.ndarray], use_ema: bool) -> None:
        """Overwrite the parameters, or their average, in place; the names are those of `weights`."""
        tensors = {name: to_weight(self.shards.cut(name, weights[name]), self.device) for name in self.parameters}
        if use_ema:
            self._set_average(self._packing.pack(tensors))
        else:
            self._write(self._packing.pack(tensors))

    def _write(self, weights: Sequence[Tensor]) -> None:
        self.shards.spread(self._packing.unpack(weights), self.parameters)

    def _set_average(self, average: list[Tensor]) -> None:
        self._average = average
        self.shadows = self._packing.unpack(average)

    def _swap(self) -> None:
        present = self._packing.pack(self.shards.own(self.parameters))
        self._write(self._average)
        self._set_average(present)


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
        return to_array(ops.zeros((0,), self.tensors[name].dtype)).dtype

    def copied(self) -> Tensors:
        """The same on the host, which later changes leave alone."""
        return Tensors({name: Tensor.from_numpy(to_array(tensor)) for name, tensor in self.tensors.items()})


@dataclass(frozen=True)
class SavedStep:
    """The state of a train step: core.seam.training.Saved."""

    present: Tensors
    average: Tensors
    optimizers: Mapping[str, tuple[Tensors, dict[str, Any]]]
    """By the name of their files."""
    shard: Shard
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


def make_trainable(model: nn.Cell, trains: Callable[[str], bool]) -> dict[str, Parameter]:
    """Ask for gradients of the parameters whose names are to be trained; return these by name."""
    trainable = {}
    for name, parameter in model.parameters_and_names():
        if trains(name):
            parameter.requires_grad = True
            trainable[name] = parameter
    return trainable


def recompute(blocks: Iterable[nn.Cell], every: int) -> None:
    """Make every n-th block compute its activations again in the backward pass instead of keeping them; 0: none."""
    for number, block in enumerate(blocks):
        if every and number % every == 0:
            block.recompute()


class _LossScaler:
    """The dynamic scale of the loss in fp16, with the constants and the state of torch.amp.GradScaler."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.scale, self.growth_factor, self.backoff_factor, self.growth_interval = 65536.0, 2.0, 0.5, 2000
        self.successes = 0
        """Steps since the scale last changed."""

    def get_scale(self) -> float:
        return self.scale if self.enabled else 1.0

    def update(self, is_finite: bool) -> None:
        """Lower the scale after gradients that were not finite, raise it after many that were."""
        self.successes = self.successes + 1 if is_finite else 0
        if not is_finite:
            self.scale *= self.backoff_factor
        elif self.successes == self.growth_interval:
            self.scale, self.successes = self.scale * self.growth_factor, 0

    def state_dict(self) -> dict[str, float]:
        if not self.enabled:
            return {}
        constants = {"growth_factor": self.growth_factor, "backoff_factor": self.backoff_factor}
        growth = {"growth_interval": self.growth_interval, "_growth_tracker": self.successes}
        return {"scale": self.scale} | constants | growth

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        if self.enabled:
            self.scale, self.successes = state["scale"], int(state["_growth_tracker"])


class _Packing:
    """How the parameters, or a rank's parts of them, lie one behind the other in a few long tensors."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.packs: list[dict[str, tuple[int, ...]]] = []
        """The shapes of each one's parameters by their names."""
        room = 0
        for name, parameter in parameters.items():
            if not self.packs or parameter.size > room:
                self.packs.append({})
                room = _PACK_SIZE
            self.packs[-1][name] = tuple(parameter.shape)
            room -= parameter.size

    def pack(self, tensors: Mapping[str, Tensor]) -> list[Tensor]:
        """A copy of the parameters, or of tensors like them, as long ones."""
        return [cat([tensors[name].reshape(-1) for name in names], 0) for names in self.packs]

    def unpack(self, packs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Views into long tensors by the parameters' names; none if there are no long ones yet."""
        views = {}
        for pack, shapes in zip(packs, self.packs, strict=False):
            start = 0
            for name, shape in shapes.items():
                size = math.prod(shape)
                views[name] = mint.narrow(pack, 0, start, size).reshape(shape)
                start += size
        return views


class _AdamW:
    """core.seam.training.AdamW in the order of operations of torch.optim.AdamW."""

    def __init__(self, options: AdamW) -> None:
        self.betas = options.betas
        self.group = {"lr": PLACEHOLDER_RATE, "eps": options.eps, "weight_decay": options.weight_decay}
        self.count = 0
        """Steps that were made."""
        self.means: dict[str, list[Tensor]] = {key: [] for key in _EXPONENTIAL}
        self._divide = ops.RealDiv()  # on a CPU five times as fast as the operator's sign

    def step(self, weights: Sequence[Tensor], gradients: Sequence[Tensor], lr: float) -> list[Tensor]:
        """The weights after a step along the gradients."""
        self.count += 1
        self.group["lr"] = lr
        eps, decay, (beta_1, beta_2) = self.group["eps"], self.group["weight_decay"], self.betas
        rate, root = lr / (1.0 - beta_1**self.count), (1.0 - beta_2**self.count) ** 0.5
        if self.count == 1:
            self.means = {key: [ops.zeros_like(weight) for weight in weights] for key in _EXPONENTIAL}
        firsts, seconds = (self.means[key] for key in _EXPONENTIAL)
        moved = []
        for i, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
            firsts[i] = _between(firsts[i], gradient, 1.0 - beta_1)
            seconds[i] = seconds[i] * beta_2 + gradient * gradient * (1.0 - beta_2)
            direction = self._divide(firsts[i], ops.sqrt(seconds[i]) * (1.0 / root) + eps)
            moved.append(weight * (1.0 - lr * decay) - direction * rate)
        return moved


def _optimizer(name: str, options: AdamW) -> _AdamW:
    if name != "adamw":
        raise ConfigError(f"optimizer.name = {name!r}: needs one of adamw, the one that there is for MindSpore")
    return _AdamW(options)


def _between(start: Tensor, end: Tensor, share: float) -> Tensor:
    """The value that lies the share of the way behind the start, rounded as torch.lerp does."""
    return start + (end - start) * share if share < 0.5 else end - (end - start) * (1.0 - share)
