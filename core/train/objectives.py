"""What a denoiser is trained on: how latents and noise are mixed, what it is to predict, and what an error weighs.

Every objective is linear in the clean latents and the noise, so it comes down to a few numbers a sample, which a
backend multiplies with its tensors (core.seam.training.DiffusionBatch).
Sources: Ho et al. 2020, arXiv:2006.11239 (epsilon); Salimans and Ho 2022, arXiv:2202.00512 (v); Lipman et al. 2022,
arXiv:2210.02747 (flow); Hang et al. 2023, arXiv:2303.09556 (min-SNR); Esser et al. 2024, arXiv:2403.03206 (weights of
flows); Open-Sora Plan v1.3, train_t2v_diffusers.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from ..errors import ConfigError
from ..samplers.objectives import clean_weights
from ..samplers.respacing import Chain
from ..samplers.schedule import LINEAR, FlowSchedule, Schedule
from ..shapes import VideoShape
from .speed import SpeedDraw
from .timesteps import TimestepDraw

UNIFORM, STRAIGHT = TimestepDraw(), FlowSchedule()
FLOW_WEIGHTINGS = ("none", "sigma_sqrt", "cosmap")
BOUNDS = ("none", "hybrid", "rescaled", "alone", "alone_rescaled")
"""hybrid: squared errors and the bound; rescaled: the bound times a thousandth of the timesteps; alone: the bound, and
times the timesteps where rescaled."""
LEVELS = 255.0
"""Latents are binned as pixels in [-1, 1] would be: half a bin is 1 in so many."""
NO_CLEAN_FRAMES = "a flow of this kind leaves no frames clean"


class Draws(NamedTuple):
    """How samples are noised and weighed, float64, (B,) or of latent frames (B, T); fields as in DiffusionBatch."""

    timesteps: np.ndarray
    signal: np.ndarray
    spread: np.ndarray
    of_clean: np.ndarray
    of_noise: np.ndarray
    weights: np.ndarray
    bound_weights: np.ndarray | None = None
    gain: np.ndarray | None = None
    log_range: np.ndarray | None = None
    half_bin: np.ndarray | None = None

    def rows(self, part: slice) -> Draws:
        """Those of some samples."""
        given = {name: values[part] for name, values in self._asdict().items() if values is not None}
        return Draws(**given)


class DrawsNoise(Protocol):
    """What the network learns, and at which timesteps."""

    def draw(
        self, seed: int, samples: Sequence[int], step: int, sizes: Sequence[VideoShape], moves: np.ndarray | None = None
    ) -> Draws:
        """Timesteps and coefficients of samples, each by its own stream: by the seed, its own number and the step.

        sizes: of each clip in pixels. moves: (B, T) booleans of latent frames, False where one stays clean and does not
        count, of objectives that can do that.
        """

    def at_shares(self, shares: np.ndarray) -> Draws:
        """The coefficients that far (B,) on the way from the clean end, 0, to the noisy one, 1."""


@dataclass(frozen=True, kw_only=True)
class DiffusionObjective:
    """Denoising at the whole timesteps of a variance-preserving schedule.

    Raises: ConfigError for an unknown kind or a gamma that is not positive.
    """

    kind: str = "v_prediction"
    """`epsilon`: the noise; `v_prediction`: sqrt(a) * noise - sqrt(1 - a) * latents; `sample`: the latents."""
    schedule: Schedule = LINEAR
    snr_gamma: float | None = None
    """Min-SNR: errors weigh as those of the clean latents would with their signal-to-noise ratio cut off here."""
    adds_noise_to_sample: bool = False
    """Upstream's form of `sample`: the prediction less the noise is compared with the latents."""
    timesteps: TimestepDraw = UNIFORM
    bound: str = "none"
    """What the variational bound adds, one of BOUNDS."""
    variance: str = "learned_range"
    """Of the bound: as Chain.log_variances."""
    rounds_tables: bool = False
    """Of the bound: tables of float32, as Chain.of."""
    speed: bool = False
    """SpeeD: its timesteps and weights (core.train.speed)."""

    def __post_init__(self) -> None:
        if self.kind not in ("epsilon", "v_prediction", "sample"):
            raise ConfigError(f"objective.kind = {self.kind!r}: needs one of epsilon, v_prediction, sample, flow")
        if self.bound not in BOUNDS:
            raise ConfigError(f"objective.bound = {self.bound!r}: needs one of {', '.join(BOUNDS)}")
        if self.speed and self.snr_gamma is not None:
            raise ConfigError("objective.speed has weights of its own; leave out objective.snr_gamma")
        if self.snr_gamma is not None and not self.snr_gamma > 0:
            raise ConfigError(f"objective.snr_gamma = {self.snr_gamma}: needs a positive number, or nothing")

    def draw(
        self,
        seed: int,
        samples: Sequence[int],
        step: int,
        sizes: Sequence[VideoShape] = (),
        moves: np.ndarray | None = None,
    ) -> Draws:
        """As DrawsNoise; the sizes do not matter."""
        if self.speed:
            return self.at(self._speed.draw(seed, samples, step), moves)
        return self.at(self._whole(np.array(self.timesteps.draw(seed, samples, step))), moves)

    def at_shares(self, shares: np.ndarray) -> Draws:
        """The coefficients that far (B,) on the way from the cleanest timestep, 0, to the noisiest, 1."""
        return self.at(self._whole(shares))

    def at(self, timesteps: np.ndarray, moves: np.ndarray | None = None) -> Draws:
        """The coefficients at whole timesteps (B,).

        moves: (B, T) booleans of latent frames; False ones are as noisy as at the cleanest timestep and do not count,
        and each sample's loss is the mean over its others, if there are any.
        """
        signal, spread = self._rates(timesteps)
        of_clean, of_noise = self._target(signal, spread)
        draws = Draws(timesteps.astype(np.float64), signal, spread, of_clean, of_noise, self._weights(timesteps))
        if self.bound != "none":
            draws = self._bounded(draws, timesteps)
        return draws if moves is None else _with_clean_frames(draws, moves, *self._rates(np.zeros(1, np.int64)))

    def _whole(self, shares: np.ndarray) -> np.ndarray:
        last = self.schedule.num_train_timesteps - 1
        return np.minimum((shares * (last + 1)).astype(np.int64), last)

    def _rates(self, timesteps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """With a bound those of the tables that it is made of."""
        if self.bound == "none":
            return self.schedule.rates(timesteps)
        signal, spread = (rate[timesteps] for rate in self.chain.rates)
        return signal, spread

    @cached_property
    def chain(self) -> Chain:
        """What the bound is made of."""
        return Chain.of(self.schedule, rounds=self.rounds_tables)

    @cached_property
    def _speed(self) -> SpeedDraw:
        return SpeedDraw(self.schedule)

    def _bounded(self, draws: Draws, timesteps: np.ndarray) -> Draws:
        chain, steps = self.chain, len(self.chain.timesteps)
        largest = chain.log_variances(self.variance)[1][timesteps]
        posterior = chain.posterior_log_variance[timesteps]
        _, of_prediction = clean_weights(self.kind, draws.signal, draws.spread)
        narrow = np.exp(-posterior / 2.0)
        weight = {"rescaled": steps / 1000.0, "alone_rescaled": float(steps)}.get(self.bound, 1.0)
        return draws._replace(
            weights=np.zeros_like(draws.weights) if self.bound.startswith("alone") else draws.weights,
            bound_weights=np.full(len(timesteps), weight),
            gain=chain.posterior_mean[0][timesteps] * of_prediction * narrow,
            log_range=largest - posterior,
            half_bin=np.where(timesteps == 0, narrow / LEVELS, 0.0),
        )

    def _target(self, signal: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ones, zeros = np.ones_like(signal), np.zeros_like(signal)
        if self.kind == "epsilon":
            return zeros, ones
        if self.kind == "v_prediction":
            return -spread, signal
        return ones, ones if self.adds_noise_to_sample else zeros

    def _weights(self, timesteps: np.ndarray) -> np.ndarray:
        if self.speed:
            return self._speed.weights[timesteps]
        if self.snr_gamma is None:
            return np.ones(len(timesteps))
        snr = self.schedule.snr[timesteps]
        cut = np.minimum(snr, self.snr_gamma)
        if self.kind == "epsilon":
            # Without signal the ratio is 0 / 0, which upstream makes a NaN of (quirk Q11); its limit is 1.
            return np.where(snr > 0, cut / np.where(snr > 0, snr, 1.0), 1.0)
        return cut / (snr + 1.0) if self.kind == "v_prediction" else cut


@dataclass(frozen=True, kw_only=True)
class FlowObjective:
    """Velocity noise - latents on the straight line between latents and noise, at continuous times.

    Raises: ConfigError for an unknown weighting.
    """

    schedule: FlowSchedule = STRAIGHT
    weighting: str = "none"
    """`sigma_sqrt`: 1 / sigma^2; `cosmap`: 2 / (pi * (1 - 2 * sigma + 2 * sigma^2))."""
    timesteps: TimestepDraw = UNIFORM
    on_grid: bool = False
    """Only the schedule's num_train_timesteps noise levels, as upstream; else any."""

    def __post_init__(self) -> None:
        if self.weighting not in FLOW_WEIGHTINGS:
            raise ConfigError(f"objective.weighting = {self.weighting!r}: needs one of {', '.join(FLOW_WEIGHTINGS)}")

    def draw(
        self,
        seed: int,
        samples: Sequence[int],
        step: int,
        sizes: Sequence[VideoShape] = (),
        moves: np.ndarray | None = None,
    ) -> Draws:
        """As DrawsNoise; the sizes do not matter."""
        assert moves is None, NO_CLEAN_FRAMES
        return self.at(self.sigmas(np.array(self.timesteps.draw(seed, samples, step))))

    def sigmas(self, shares: np.ndarray) -> np.ndarray:
        """Shares of noise (B,) at numbers u (B,) from 0, the noisiest, up to 1."""
        return self._grid[self._index(shares)] if self.on_grid else self.schedule.shifted(1.0 - shares)

    def at_shares(self, shares: np.ndarray) -> Draws:
        """The coefficients at shares of noise (B,), not shifted."""
        return self.at(shares)

    def at(self, sigmas: np.ndarray) -> Draws:
        """The coefficients at shares of noise (B,) in (0, 1]."""
        ones = np.ones_like(sigmas)
        told = sigmas * self.schedule.num_train_timesteps
        return Draws(told, 1.0 - sigmas, sigmas, -ones, ones, self._weights(sigmas))

    def _weights(self, sigmas: np.ndarray) -> np.ndarray:
        if self.weighting == "sigma_sqrt":
            return sigmas**-2.0
        if self.weighting == "cosmap":
            return 2.0 / (np.pi * (1.0 - 2.0 * sigmas + 2.0 * sigmas**2))
        return np.ones_like(sigmas)

    def _index(self, shares: np.ndarray) -> np.ndarray:
        count = self.schedule.num_train_timesteps
        return np.minimum((shares * count).astype(np.int64), count - 1)

    @cached_property
    def _grid(self) -> np.ndarray:
        return self.schedule.sigmas


def _with_clean_frames(draws: Draws, moves: np.ndarray, signal: np.ndarray, spread: np.ndarray) -> Draws:
    """signal, spread: of frames that do not move."""
    share = moves * (moves.shape[1] / np.maximum(moves.sum(1, keepdims=True), 1))
    bound = draws.bound_weights
    return draws._replace(
        signal=np.where(moves, draws.signal[:, None], signal),
        spread=np.where(moves, draws.spread[:, None], spread),
        weights=draws.weights[:, None] * share,
        bound_weights=None if bound is None else bound[:, None] * share,
    )
