"""The seam between the training loop and a backend: what goes into an optimiser step, and what comes back.

All randomness is in the batch, drawn by core; a backend's step is a function of its state and the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from ..layout import Weights
from ..maths.codebook import Restarts
from ..seam.models import Given


@dataclass(frozen=True)
class DiffusionBatch:
    """One micro-batch of a denoiser, latents scaled as the model sees them.

    The state shown to the network is signal * latents + spread * noise, and what it is to predict is
    of_clean * latents + of_noise * noise; the coefficients are (B,) float64, or (B, T) where latent frames differ, and
    say objective and schedule.
    """

    latents: np.ndarray
    """(B, C, T, H, W) float32."""
    noise: np.ndarray
    """Of the same shape."""
    timesteps: np.ndarray
    """What the network is told, (B,)."""
    signal: np.ndarray
    spread: np.ndarray
    of_clean: np.ndarray
    of_noise: np.ndarray
    weights: np.ndarray
    """Of each sample's squared error, (B,) or (B, T)."""
    given: Given
    """All that the denoiser reads beside latents and timesteps; its latent_mask says what the loss is the mean of."""
    condition: np.ndarray | None = None
    """An inpaint model's further channels (B, C', T, H, W): latents of the kept pixels, then the compressed mask."""
    counts_alike: bool = False
    """Whether all micro-batches of a step count alike, whatever they hold; else all their latents do."""
    padding_counts: bool = False
    """Whether padding counts in what the mean is of, with an error of 0, so that short clips weigh less."""
    bound_weights: np.ndarray | None = None
    """Of each sample's variational bound in bits, (B,) or (B, T), which is added to the squared errors and teaches a
    denoiser its variance; None: there is no bound, nor the next three.

    Where the denoiser says v of the variance (1 where it says nothing) and errs by e, the bound is
    (d - 1 + exp(-d) * (1 + (gain * e)^2)) / 2 nats with d = log_range * (v + 1) / 2. Where squared errors have weights
    too, its gradient reaches v only."""
    gain: np.ndarray | None = None
    """From errors to those of the posterior's mean in least standard deviations, (B,)."""
    log_range: np.ndarray | None = None
    """Logarithm of the largest over the least variance, (B,)."""
    half_bin: np.ndarray | None = None
    """Half the width of a bin in least standard deviations, (B,), at the cleanest timestep, where the bound is minus
    the log likelihood of the latents' bins; else 0."""

    @property
    def mask(self) -> np.ndarray | None:
        """(B, T, H, W), 1 where the latents are no padding, else 0; None: none is."""
        return self.given.latent_mask

    @property
    def size(self) -> int:
        """What it counts in the mean over a step: its places (B, T, H, W) that are no padding, or all, or 1."""
        if self.counts_alike:
            return 1
        if self.mask is None or self.padding_counts:
            return self.latents[:, 0].size
        return int(self.mask.sum(dtype=np.float64))


@dataclass(frozen=True)
class AutoencoderBatch:
    """One micro-batch of an autoencoder."""

    video: np.ndarray
    """(B, 3, T, H, W) float32 in [-1, 1]."""
    noise: Mapping[str, np.ndarray]
    """Unit noise (B, *shape) of spec.noise_shapes, by the names of spec.posteriors."""
    update: str
    """What learns from it: "generator" or "discriminator"."""
    adversarial: bool
    """Whether the discriminator counts yet."""
    pixel_weights: np.ndarray | None = None
    """Of the reconstruction's errors, broadcasting over the video; None: 1."""
    restarts: tuple[Restarts, ...] = ()
    """For a code book: which latents it begins with, and which ones stand in for codes that are hardly chosen."""


Batch = TypeVar("Batch", contravariant=True)
Limit = float | Callable[[], float]
"""A number, or what tells it when it is needed."""


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step did."""

    loss: float
    """Mean over all that the step's micro-batches hold, before the update."""
    grad_norm: float
    """Global norm before clipping."""
    applied: bool
    """False when loss or norm were not finite, or the norm was above `reject_above`: nothing was changed then."""
    parts: dict[str, float] = field(default_factory=dict)
    """Terms of the loss, for the log."""
    updated: str = "model"
    """What learned: "model", or where there is a discriminator, that or the "generator"."""

    is_late = False
    """Whether the device may still be at work on it, so that whoever looks at it waits."""


class LateReport:
    """A StepReport that is read from the device when someone looks at it."""

    def __init__(self, read: Callable[[], StepReport], is_late: bool) -> None:
        self._read, self.is_late = read, is_late

    def __getattr__(self, name: str) -> Any:
        return getattr(self._report, name)

    def __eq__(self, other: object) -> bool:
        return self._report == (other._report if isinstance(other, LateReport) else other)

    def __repr__(self) -> str:
        return repr(self._report)

    @cached_property
    def _report(self) -> StepReport:
        return self._read()


Report = StepReport | LateReport


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Loshchilov and Hutter 2017, arXiv:1711.05101, as torch.optim.AdamW counts; every parameter decays (quirk Q30)."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-15
    weight_decay: float = 0.01


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a backend trains, whatever it trains."""

    dtype: str = "fp32"
    """Of the forward and backward passes, one of core.seam.backend.DTYPES; parameters and optimiser stay float32."""
    attention: str = "auto"
    optimizer: AdamW = AdamW()
    optimizer_name: str = "adamw"
    """adamw, or another that the backend knows by an installed library."""
    max_grad_norm: float | None = 1.0
    """None: no clipping."""
    keeps_ema: bool = True
    recompute_every: int = 0
    """Activations of every n-th block are computed again instead of kept; 1: all blocks, 0: none."""
    frozen: tuple[str, ...] = ()
    """Beginnings of the names of weights that stay as they are."""
    only: Set[str] | None = None
    """Names of the weights that alone are trained; None: all but the frozen ones."""
    adapters: Mapping[str, Any] = field(default_factory=dict)
    """Of a denoiser, by its layers, the core.models.lora.adapter.Adapter that is trained beside each, with `only` their
    weights; the model's own are kept in the dtype of the passes, and `Saved.weights` are those of the adapters."""
    compile: bool = False
    """Compile the model (torch.compile, ms.jit)."""
    zero: int = 2
    """What many ranks split instead of holding it each: 0 nothing, 2 optimiser state, averages and gradients, 3 the
    parameters too. Rajbhandari et al. 2020, arXiv:1910.02054."""
    engine: str = "fully_shard"
    """Who splits it on torch: fully_shard or deepspeed, which has 2 here."""

    def trains(self, name: str) -> bool:
        """Whether a weight is trained."""
        return not name.startswith(self.frozen) and (self.only is None or name in self.only)


@dataclass(frozen=True, kw_only=True)
class AutoencoderLosses:
    """What an autoencoder is trained on. Sums over all pixels are divided by clips times frames, the KL by clips.

    Source: LPIPSWithDiscriminator3D of Open-Sora Plan v1.3; Esser et al. 2021, arXiv:2012.09841 (the adaptive weight).
    """

    pixel_weight: float = 1.0
    """Of all that pixels are compared by; 0: no pixels are made, and what makes them of latents stays as it is."""
    loss: str = "l1"
    """l1 or l2, of the pixels."""
    squared_weight: float = 0.0
    """Of squared errors on top of those."""
    kl_weight: float = 1e-6
    pair_weights: Mapping[str, float] = field(default_factory=dict)
    """Of the differences between what spec.pairs names."""
    perceptual_weight: float = 0.0
    discriminator_weight: float = 0.5
    """On top of the adaptive weight."""
    discriminator_factor: float = 1.0
    discriminator_loss: str = "hinge"
    """hinge or vanilla."""
    discriminator_weight_decay: float = 0.01
    discriminator_max_grad_norm: float | None = 1.0
    logvar: float = 0.0
    """Logarithm of the variance that pixel errors are measured in; a constant."""
    restart_below: float = 1.0
    """Codes of a code book that are chosen less often a step, on average, start again."""


class Companion(NamedTuple):
    """A further model of a train step."""

    spec: Any
    weights: Weights


class Saved(Protocol):
    """The state of a train step, to be written: of several ranks each has some whole tensors, and together all."""

    def weights(self, use_ema: bool) -> Mapping[str, np.ndarray]:
        """Float32 weights, or their average, under the layout's names; each is copied when it is asked for."""

    def save(self, folder: Path) -> None:
        """Write the optimiser's state, and all else but the weights that a resumed run needs: tensors as
        core.io.weights.save_shard, numbers by the first rank. Each rank does it when it likes, without the others."""


class TrainStep(Protocol, Generic[Batch]):
    """A model in training on a backend: parameters, gradients, optimiser state, EMA."""

    def step(
        self, batches: Sequence[Batch], lr: float, ema_decay: float | None = None, reject_above: Limit = float("inf")
    ) -> Report:
        """One optimiser step over micro-batches: down the mean loss over all that they hold, however it is split.

        ema_decay: the shadow becomes decay * shadow + (1 - decay) * parameters after the update; None leaves it.
        reject_above: asked for after the gradients. What it raises leaves the model as it was.
        """

    def evaluate(self, batch: Batch, use_ema: bool) -> float:
        """The loss of this team's batch, nothing changed. All ranks call together."""

    def inference_model(self, use_ema: bool) -> AbstractContextManager[Any]:
        """A context in which the model, or the average of its weights, is called like one of `Backend.build`."""

    @property
    def keeps_ema(self) -> bool:
        """Whether there is an average of the weights."""

    def saved(self, is_copy: bool = False) -> Saved:
        """The present state; with is_copy one that later steps leave alone. All ranks make it together."""

    def first_moments(self) -> Mapping[str, np.ndarray]:
        """The optimiser's running means of the gradients, under the layout's names."""

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote there. Raises: CheckpointError when it does not fit the model."""

    def load_average(self, weights: Weights) -> None:
        """Overwrite the average of the weights, under the layout's names."""
