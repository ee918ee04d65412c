"""One optimiser step of a denoiser: the forward of sampling, the loss, gradients, update, average."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from duosora.core.io.weights import Shard
from duosora.core.parallel.micro_batches import joined_there, weights
from duosora.core.seam.ranks import Ranks
from duosora.core.seam.training import DiffusionBatch, LateReport, Limit, TrainOptions
from duosora.core.shapes import LatentShape

from .distributed.zero import Entrance, Replicas
from .layers import autocast, place
from .optimization import Optimization, SavedStep, Tensors, load_state, make_trainable, recompute
from .precision import TORCH_DTYPES, to_array, to_tensor
from .variational_bound import bound_terms, column

STATE = "optimizer"


class DiffusionTrainStep:
    """A denoiser in training: core.seam.training.TrainStep[DiffusionBatch]."""

    def __init__(self, entrance: Entrance, device: str, options: TrainOptions, ranks: Ranks | None = None) -> None:
        """entrance: to the denoiser, as all ranks share its training. ranks: that train together."""
        self.device, self.options, self.ranks = device, options, ranks or Ranks()
        self._entrance, self.model = entrance, entrance.model
        self.network: Any = entrance.network
        """Called like a denoiser."""
        self.dtype = TORCH_DTYPES[options.dtype]
        trainable = make_trainable(self.model, options.trains)
        recompute(self.model.blocks(), options.recompute_every)
        entrance.settle()
        self._forward: Any = torch.compile(self.network) if options.compile else self.network
        self.optimization = Optimization(
            trainable,
            options.optimizer,
            device=device,
            name=options.optimizer_name,
            max_grad_norm=options.max_grad_norm,
            keeps_ema=options.keeps_ema,
            scales_loss=options.dtype == "fp16",
            shards=entrance.shards,
        )

    def step(
        self,
        batches: Sequence[DiffusionBatch],
        lr: float,
        ema_decay: float | None = None,
        reject_above: Limit = float("inf"),
    ) -> LateReport:
        """One optimiser step over micro-batches, as many on every rank: down their mean loss."""
        self.model.train()
        count = len(batches) * self.ranks.data.size
        shares = weights(self.ranks, [batch.size for batch in batches]).tolist()

        def gradients() -> dict[str, Tensor]:
            losses = []
            for number, (batch, share) in enumerate(zip(batches, shares, strict=True), 1):
                self._entrance.is_last = number == len(batches)
                loss = self._loss(batch) * share
                self.optimization.backward(loss / count)
                losses.append(loss.detach())
            return {"loss": joined_there(self.ranks, torch.stack(losses))}

        return self.optimization.take(gradients, lr, ema_decay, reject_above)

    def evaluate(self, batch: DiffusionBatch, use_ema: bool) -> float:
        """The loss of this team's batch, nothing changed; all ranks call together."""
        with self.inference_model(use_ema), torch.no_grad():
            return float(self._loss(batch))

    @contextmanager
    def inference_model(self, use_ema: bool) -> Iterator[nn.Module]:
        """The model with its present weights or their average; all ranks make the same calls of it."""
        self.model.eval()
        with self.optimization.averaged(use_ema), self._entrance.inference() as network:
            yield network

    @property
    def keeps_ema(self) -> bool:
        """Whether there is an average of the weights."""
        return bool(self.optimization.shadows)

    def saved(self, is_copy: bool = False) -> SavedStep:
        """The present state; with is_copy one that later steps leave alone.

        Of many ranks each gets the whole tensors that it is to write; they call together.
        """
        shards, ranks = self.optimization.shards, self.ranks
        parameters = dict(self.model.named_parameters())
        if self.options.adapters:
            parameters = {name: value for name, value in parameters.items() if self.options.trains(name)}
        present: dict[str, Tensor] = dict(shards.own(parameters))
        average = present | self.optimization.shadows if self.keeps_ema else {}
        weights, averages = Tensors(shards.written(present)), Tensors(shards.written(average))
        saved = SavedStep(weights, averages, {STATE: self.optimization.state()}, Shard(ranks.rank, ranks.world.size))
        return saved.copied() if is_copy and isinstance(shards, Replicas) else saved

    def first_moments(self) -> Tensors:
        """The optimiser's running means of the gradients, under the layout's names."""
        return Tensors(self.optimization.first_moments())

    def load(self, folder: Path) -> None:
        """Restore the optimiser's state."""
        self.optimization.load_state(*load_state(folder, STATE), source=str(folder))

    def load_average(self, weights: Any) -> None:
        """Overwrite the average of the weights."""
        self.optimization.load_weights(weights, use_ema=True)

    def _loss(self, batch: DiffusionBatch) -> Tensor:
        latents, noise = self._place(batch.latents), self._place(batch.noise)
        prediction = self._entrance(partial(self._predict, batch, latents, noise))
        return diffusion_loss(batch, prediction, latents, noise)

    def _predict(self, batch: DiffusionBatch, latents: Tensor, noise: Tensor) -> Tensor:
        seen = model_input(batch, latents, noise, self._condition(batch))
        with self._autocast():
            shape = LatentShape(*batch.latents.shape[2:])
            condition = self.network.condition(batch.given, shape)
            return self._forward(seen, self._place(batch.timesteps.astype(np.float32)), condition)

    def _condition(self, batch: DiffusionBatch) -> Tensor | None:
        return None if batch.condition is None else self._place(batch.condition)

    def _place(self, array: np.ndarray) -> Tensor:
        return place(array, self.device)

    def _autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.device, self.dtype)


def model_input(batch: DiffusionBatch, latents: Tensor, noise: Tensor, condition: Tensor | None) -> Tensor:
    """What the network sees, (B, C, T, H, W): noised latents, then the condition's channels."""
    noised = column(batch.signal, latents) * latents + column(batch.spread, latents) * noise
    return noised if condition is None else torch.cat([noised, condition], 1)


def diffusion_loss(batch: DiffusionBatch, prediction: Tensor, latents: Tensor, noise: Tensor) -> Tensor:
    """The weighted mean squared error, in float32, over all latents or over those that are no padding.

    The weights are not part of the mean's denominator (quirk Q25). With a bound, it is added, and the channels
    behind the latents' own are the variance; else these do not count.
    """
    target = column(batch.of_clean, latents) * latents + column(batch.of_noise, latents) * noise
    count = latents.shape[1]
    difference = prediction[:, :count].float() - target
    errors = difference**2 * column(batch.weights, latents)
    if batch.bound_weights is not None:
        variance = prediction[:, count : 2 * count].float() if prediction.shape[1] > count else None
        errors = errors + bound_terms(batch, difference, variance, latents)
    if batch.mask is None:
        return errors.mean()
    mask = place(batch.mask, errors.device).to(errors)[:, None]  # (B, 1, T, H, W)
    if batch.padding_counts:
        return (errors * mask).mean()
    return (errors * mask).sum() / (mask.sum() * errors.shape[1])


def replay_loss(batch: DiffusionBatch, prediction: np.ndarray) -> dict[str, np.ndarray]:
    """Loss, its gradient by the prediction, and the model's input, for a prediction that is given."""
    latents, noise = to_tensor(batch.latents), to_tensor(batch.noise)
    condition = None if batch.condition is None else to_tensor(batch.condition)
    with torch.inference_mode(False), torch.enable_grad():
        predicted = to_tensor(prediction.copy()).requires_grad_()
        loss = diffusion_loss(batch, predicted, latents, noise)
        (gradient,) = torch.autograd.grad(loss, predicted)
    seen = model_input(batch, latents, noise, condition)
    return {"loss": to_array(loss), "gradient": to_array(gradient), "model_input": to_array(seen)}
