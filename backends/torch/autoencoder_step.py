"""One optimiser step of a video autoencoder or of the discriminator that it is trained against.

Source: LPIPSWithDiscriminator3D and train_causalvae.py of Open-Sora Plan v1.3; Esser et al. 2021, arXiv:2012.09841.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from duosora.core.errors import ConfigError
from duosora.core.io.weights import Shard
from duosora.core.models.kinds import Share
from duosora.core.parallel.micro_batches import joined_there
from duosora.core.seam.ranks import Ranks
from duosora.core.seam.training import AutoencoderBatch, AutoencoderLosses, LateReport, Limit, TrainOptions

from .distributed.statistics import SharedStatistics
from .distributed.zero import Replicas
from .layers import autocast, place
from .measures import Measures
from .models.patch_discriminator import PatchDiscriminator
from .optimization import (
    Optimization,
    SavedStep,
    Tensors,
    load_state,
    make_trainable,
    recompute,
)
from .posteriors import Levels, Reconstruction, split_moments
from .precision import TORCH_DTYPES, to_array, to_tensor
from .video import fold_frames

GENERATOR, DISCRIMINATOR = "optimizer", "discriminator_optimizer"
JUDGE = "discriminator"
LARGEST_ADAPTIVE_WEIGHT = 1e4
SMALLEST_NORM = 1e-4
"""Added to the norm that the adaptive weight is divided by."""

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""Frames (B, 3, H, W), twice, to the distance of each pair (B,)."""


@dataclass(frozen=True)
class Discriminator:
    """The discriminator in training."""

    model: PatchDiscriminator
    last_layer: nn.Parameter
    """The weight of the autoencoder at which its word is weighed."""
    optimization: Optimization
    running: list[nn.Parameter]
    """Statistics of its norms, which it measures whoever learns."""
    statistics: SharedStatistics | None
    """None: nobody to share them with."""


class AutoencoderTrainStep:
    """An autoencoder in training: core.seam.training.TrainStep[AutoencoderBatch]."""

    def __init__(
        self,
        model: Any,
        discriminator: PatchDiscriminator | None,
        perceptual: Perceptual | None,
        device: str,
        losses: AutoencoderLosses,
        options: TrainOptions,
        statistics: tuple[str, ...] = (),
        ranks: Ranks | None = None,
    ) -> None:
        """model: of a core.models.kinds.AutoencoderSpec, its `spec`. statistics: names of the discriminator's weights
        that are not learned by gradients.

        ranks: that train together; each holds all weights.
        """
        self.ranks, self.spec = ranks or Ranks(), model.spec
        self.model, self.perceptual, self.device, self.losses = model, perceptual, device, losses
        self.dtype = TORCH_DTYPES[options.dtype]
        self.pairs = frozenset(name for name, weight in losses.pair_weights.items() if weight)
        unreached = self.spec.unreached(bool(losses.pixel_weight), self.pairs)
        trainable = make_trainable(model, replace(options, frozen=(*options.frozen, *unreached)).trains)
        recompute(blocks_of(model), options.recompute_every)
        self._reconstruct = torch.compile(model.reconstruct) if options.compile else model.reconstruct
        self.optimization = self._optimization(trainable, options, options.max_grad_norm, options.keeps_ema)
        self.measures = None if self.spec.num_codes is None else Measures(model, self.ranks, losses.restart_below)
        self.discriminator: Discriminator | None = None
        if discriminator is not None:
            last_layer = trainable.get(self.spec.last_layer)
            if last_layer is None:
                raise ConfigError(
                    f"start.frozen: the adversarial loss is weighed at {self.spec.last_layer}; train it as well"
                )
            decay = replace(options.optimizer, weight_decay=losses.discriminator_weight_decay)
            learns = make_trainable(discriminator, TrainOptions(frozen=statistics).trains)
            limit = losses.discriminator_max_grad_norm
            self.discriminator = Discriminator(
                discriminator,
                last_layer,
                self._optimization(learns, replace(options, optimizer=decay), limit, False),
                [each for name, each in discriminator.named_parameters() if name in statistics],
                SharedStatistics(discriminator, self.ranks) if self.ranks.data.size > 1 else None,
            )

    def step(
        self,
        batches: Sequence[AutoencoderBatch],
        lr: float,
        ema_decay: float | None = None,
        reject_above: Limit = float("inf"),
    ) -> LateReport:
        """One optimiser step over micro-batches of one kind, whose gradients are averaged; as many on every rank."""
        updated = batches[0].update
        learning, decay = self.optimization, ema_decay
        loss_of: Callable[[AutoencoderBatch], tuple[Tensor, dict[str, Tensor]]] = self._generator_loss
        if updated == "discriminator":
            learning, loss_of, decay = self._judge().optimization, self._discriminator_loss, None
        self._ask_for_gradients(updated)
        measured: dict[str, float] = {}
        # Ranks of one team have the same micro-batches, so it is the mean over all ranks.
        share = len(batches) * self.ranks.world.size
        statistics = self.discriminator and self.discriminator.statistics
        measures = self.measures if updated != "discriminator" else None

        def gradients() -> dict[str, Tensor]:
            rows = []
            if statistics:
                statistics.begin()
            if measures:
                if measured:  # in a try before this one
                    measures.undo()
                measures.begin(batches[0])
            for batch in batches:
                loss, terms = loss_of(batch)
                learning.backward(loss / share)
                terms = {"loss": loss.detach(), **terms}
                rows.append(torch.stack(list(terms.values())))
            if statistics:
                statistics.exchange(len(batches))
            if measures:
                measured.update(measures.exchange())
            return dict(zip(terms, joined_there(self.ranks, torch.stack(rows)).unbind(1), strict=True))

        running = self.discriminator.running if self.discriminator else []
        report = learning.take(gradients, lr, decay, reject_above, updated, running)
        if measures:  # which the host makes, and so has waited
            report.parts.update(measured)
            if not report.applied:
                measures.undo()
        return report

    def evaluate(self, batch: AutoencoderBatch, use_ema: bool) -> float:
        """The generator's loss without its adversarial part, nothing changed."""
        with self.inference_model(use_ema), torch.no_grad():
            return float(self._generator_loss(replace(batch, adversarial=False), is_training=False)[0])

    @contextmanager
    def inference_model(self, use_ema: bool) -> Iterator[nn.Module]:
        """The model with its present weights or their average."""
        with self.optimization.averaged(use_ema):
            yield self.model

    @property
    def keeps_ema(self) -> bool:
        """Whether there is an average of the weights."""
        return bool(self.optimization.shadows)

    def saved(self, is_copy: bool = False) -> SavedStep:
        """The present state; with is_copy one that later steps leave alone.

        Of many ranks each gets the tensors that it is to write.
        """
        shards, ranks = self.optimization.shards, self.ranks
        present: dict[str, Tensor] = dict(self.model.named_parameters())
        average = present | self.optimization.shadows if self.keeps_ema else {}
        states = {GENERATOR: self.optimization.state()}
        if self.discriminator is not None:
            states[DISCRIMINATOR] = self.discriminator.optimization.state()
            states[JUDGE] = (Tensors(shards.written(dict(self.discriminator.model.named_parameters()))), {})
        weights, averages = Tensors(shards.written(present)), Tensors(shards.written(average))
        saved = SavedStep(weights, averages, states, Shard(ranks.rank, ranks.world.size))
        return saved.copied() if is_copy else saved

    def first_moments(self) -> Tensors:
        """The optimisers' running means of the gradients, the discriminator's behind "discriminator."."""
        moments = self.optimization.first_moments()
        if self.discriminator is not None:
            theirs = self.discriminator.optimization.first_moments()
            moments |= {f"{JUDGE}.{name}": moment for name, moment in theirs.items()}
        return Tensors(moments)

    def load(self, folder: Path) -> None:
        """Restore the optimisers' states and the discriminator."""
        self.optimization.load_state(*load_state(folder, GENERATOR), source=str(folder))
        if self.discriminator is not None:
            self.discriminator.optimization.load_state(*load_state(folder, DISCRIMINATOR), source=str(folder))
            weights, _ = load_state(folder, JUDGE)
            with torch.no_grad():
                for name, parameter in self.discriminator.model.named_parameters():
                    parameter.copy_(to_tensor(weights[name]))

    def load_average(self, weights: Any) -> None:
        """Overwrite the average of the weights."""
        self.optimization.load_weights(weights, use_ema=True)

    def _generator_loss(self, batch: AutoencoderBatch, is_training: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        video, reconstruction = self._reconstruction(batch, is_training)
        losses, clips = self.losses, len(batch.video)
        total, parts = self._kl_loss(reconstruction, clips)
        pixels = reconstruction.pixels
        if losses.pixel_weight:
            assert pixels is not None
            nll, weighted = self._pixel_loss(video, pixels, batch.pixel_weights)
            total = losses.pixel_weight * weighted + total
            parts = {"nll": nll.detach(), "reconstruction": weighted.detach(), **parts}
        for name, pair in reconstruction.pairs.items():
            if losses.pair_weights.get(name):
                apart = self._apart(self.spec.pairs[name], pair, clips, video.shape[2])
                total = total + losses.pair_weights[name] * apart
                parts[name] = apart.detach()
        if batch.adversarial:
            assert pixels is not None
            adversarial, weight = self._adversarial(pixels, losses.pixel_weight * nll)
            total = total + weight * losses.discriminator_factor * adversarial
            parts |= {"adversarial": adversarial.detach(), "adversarial_weight": weight}
        return total, parts

    def _kl_loss(self, reconstruction: Reconstruction, clips: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Of the last posterior; nothing where nothing is drawn."""
        if not self.spec.posteriors:
            return reconstruction.latents.new_zeros(()), {}
        kl = divergence(*split_moments(reconstruction.moments[self.spec.posteriors[-1]])) / clips
        return self.losses.kl_weight * kl, {"kl": kl.detach()}

    def _apart(self, share: Share, pair: tuple[Any, Any], clips: int, frames: int) -> Tensor:
        """How much the two of a pair differ, for each of what its sum is divided by."""
        if share == "like_pixels":
            return self._pixel_loss(*pair, None)[0]
        if share == "squares":
            return functional.mse_loss(*pair)
        return difference(*pair) / (clips if share == "clips" else clips * frames)

    def _pixel_loss(self, video: Tensor, pixels: Tensor, weights: np.ndarray | None) -> tuple[Tensor, Tensor]:
        """The negative log-likelihood by frame, as it is and with weights of pixels."""
        errors, per_frame = self._errors(video, pixels), 1 / (len(video) * video.shape[2])
        nll = errors.sum() * per_frame
        return nll, nll if weights is None else (errors * self._place(weights)).sum() * per_frame

    def _discriminator_loss(self, batch: AutoencoderBatch) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            video, reconstruction = self._reconstruction(batch)
        assert reconstruction.pixels is not None
        real, fake = self._judged(video), self._judged(reconstruction.pixels)
        factor = self.losses.discriminator_factor if batch.adversarial else 0.0
        loss = factor * DISCRIMINATOR_LOSSES[self.losses.discriminator_loss](real, fake)
        return loss, {"logits_real": real.detach().mean(), "logits_fake": fake.detach().mean()}

    def _reconstruction(self, batch: AutoencoderBatch, is_training: bool = False) -> tuple[Tensor, Reconstruction]:
        video = self._place(batch.video)
        with autocast(self.device, self.dtype):
            noise = {name: self._place(values) for name, values in batch.noise.items()}
            options = video, noise, bool(self.losses.pixel_weight), self.pairs
            if not (self.measures and is_training):
                return video, self._reconstruct(*options)
            reconstruction = self._reconstruct(*options, is_training=True)
        self.measures.note(reconstruction.pairs["commitment"][0].detach(), batch)
        return video, reconstruction

    def _errors(self, video: Tensor, pixels: Tensor) -> Tensor:
        """Of each pixel's channels, as negative log-likelihoods, (B, 3, T, H, W)."""
        losses, difference = self.losses, video - pixels
        errors = difference.abs() if losses.loss == "l1" else difference**2
        if losses.squared_weight:
            errors = errors + losses.squared_weight * difference**2
        if self.perceptual is not None:
            frames = fold_frames(video), fold_frames(pixels)
            with autocast(self.device, self.dtype):
                distances = self.perceptual(*frames).float()
            errors = errors + losses.perceptual_weight * distances.reshape(len(video), 1, -1, 1, 1)
        return errors / float(np.exp(losses.logvar)) + losses.logvar

    def _adversarial(self, pixels: Tensor, nll: Tensor) -> tuple[Tensor, Tensor]:
        """What the discriminator thinks of a reconstruction, and the weight that makes it pull as hard as the pixels.

        Both pulls are measured as gradients at the decoder's last layer.
        """
        loss = -self._judged(pixels).mean()
        if not self.losses.discriminator_factor or not torch.is_grad_enabled():
            return loss, loss.new_ones(())
        last = self._judge().last_layer
        pull = torch.autograd.grad(nll, last, retain_graph=True)[0].norm()
        theirs = torch.autograd.grad(loss, last, retain_graph=True)[0].norm()
        weight = (pull / (theirs + SMALLEST_NORM)).clamp(0, LARGEST_ADAPTIVE_WEIGHT)
        return loss, weight.detach() * self.losses.discriminator_weight

    def _judged(self, video: Tensor) -> Tensor:
        """Logits; the norms always use the batch's own statistics, as upstream's do (quirk Q26)."""
        judge = self._judge()
        with autocast(self.device, self.dtype):
            logits = judge.model(video, True).float()
        if judge.statistics:
            judge.statistics.note()
        return logits

    def _judge(self) -> Discriminator:
        if self.discriminator is None:
            raise ConfigError("the batch asks for the adversarial loss, but the run has no discriminator")
        return self.discriminator

    def _ask_for_gradients(self, updated: str) -> None:
        """Gradients reach the discriminator's weights only where it is the one that learns."""
        if self.discriminator is not None:
            for parameter in self.discriminator.optimization.parameters.values():
                parameter.requires_grad_(updated == "discriminator")

    def _optimization(
        self, parameters: dict[str, nn.Parameter], options: TrainOptions, max_grad_norm: float | None, keeps_ema: bool
    ) -> Optimization:
        return Optimization(
            parameters,
            options.optimizer,
            device=self.device,
            name=options.optimizer_name,
            max_grad_norm=max_grad_norm,
            keeps_ema=keeps_ema,
            scales_loss=options.dtype == "fp16",
            shards=Replicas(self.ranks.world),
        )

    def _place(self, array: np.ndarray) -> Tensor:
        return place(array, self.device)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """From the standard normal, summed over everything."""
    return 0.5 * (mean**2 + log_variance.exp() - 1.0 - log_variance).sum()


def difference(theirs: Levels, ours: Levels) -> Tensor:
    """Absolute, between what is to become alike, summed over everything."""
    levels = zip(*(each if isinstance(each, tuple) else (each,) for each in (theirs, ours)), strict=True)
    first, *others = ((one - other).abs().sum(dtype=torch.float32) for one, other in levels)
    return sum(others, start=first)


def blocks_of(model: Any) -> Iterator[nn.Module]:
    """Those whose activations can be computed again; of blocks in a row each, as fewer are kept then.

    What has one layer is left out: it keeps no more than what it is given.
    """
    for name in chain(*model.spec.blocks().values()):
        block = model.get_submodule(name)
        for each in block if isinstance(block, nn.ModuleList) else [block]:
            if sum(not list(part.children()) for part in each.modules()) > 1:
                yield each


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Real patches are to get more than 1 and others less than -1 (Lim and Ye 2017, arXiv:1705.02894)."""
    return 0.5 * (functional.relu(1.0 - real).mean() + functional.relu(1.0 + fake).mean())


def vanilla(real: Tensor, fake: Tensor) -> Tensor:
    """Logistic loss (Goodfellow et al. 2014, arXiv:1406.2661)."""
    return 0.5 * (functional.softplus(-real).mean() + functional.softplus(fake).mean())


DISCRIMINATOR_LOSSES = {"hinge": hinge, "vanilla": vanilla}


def judge_in_training(discriminator: PatchDiscriminator, video: np.ndarray) -> dict[str, np.ndarray]:
    """Logits of clips by their own statistics, and the norms' running statistics after it, under their names."""
    logits = discriminator(to_tensor(video), True)
    learned = {name: to_array(value) for name, value in discriminator.named_parameters() if ".running_" in name}
    return {"logits": to_array(logits)} | learned
