"""Noise schedules: how much data and how much noise a training timestep holds, as float64 numpy tables.

`Schedule` is the variance-preserving family, x_t = sqrt(a_t) * x_0 + sqrt(1 - a_t) * noise with a_t =
`alphas_cumprod[t]`; `FlowSchedule` the straight line of flow matching, x_t = (1 - sigma_t) * x_0 + sigma_t * noise.
Samplers and training read the same tables. Sources: Ho et al. 2020, arXiv:2006.11239 (linear betas); Lin et al. 2023,
arXiv:2305.08891 (zero terminal SNR); Nichol and Dhariwal 2021, arXiv:2102.09672 (squared cosine); Yang et
al. 2024, arXiv:2408.06072 (the SNR shift of CogVideoX); Esser et al. 2024, arXiv:2403.03206 (the shift of flows).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import ConfigError

KINDS = ("linear", "scaled_linear", "squared_cosine")
LEAST_BETA = 1e-6
"""Smaller ones vanish in float32."""
COSINE_OFFSET, MOST_BETA = 0.008, 0.999
"""Of squared_cosine: keep its betas from vanishing at the clean end, and from 1 at the noisy one."""
ZERO_SNR_SIGMA = 4096.0
"""Stands for the infinite sigma of a last timestep without signal: float32's value for alphas_cumprod = 2^-24."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A variance-preserving noise schedule over `num_train_timesteps` discrete timesteps, 0 the cleanest.

    Raises: ConfigError for a kind or numbers that give no falling alphas_cumprod between 1 and 0.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    kind: str = "linear"
    """`linear`: betas evenly spaced; `scaled_linear`: their square roots evenly spaced; `squared_cosine`: such that
    alphas_cumprod falls as the square of a cosine, without beta_start and beta_end."""
    zero_terminal_snr: bool = False
    """Shift and scale sqrt(alphas_cumprod) so that the last timestep is noise only."""
    snr_shift_scale: float | None = None
    """Divide every signal-to-noise ratio by this number (CogVideoX: 3), before the terminal SNR is made zero."""
    rounds: bool = True
    """Whether tables are those of float32, as most published models were trained with; else they are exact."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"sampler.schedule.kind = {self.kind!r}: unknown, use one of {', '.join(KINDS)}")
        if self.num_train_timesteps < 2:
            raise ConfigError(
                f"sampler.schedule.num_train_timesteps = {self.num_train_timesteps}: at least 2 are needed"
            )
        if not LEAST_BETA <= self.beta_start <= self.beta_end < 1:
            raise ConfigError(
                f"sampler.schedule: {LEAST_BETA} <= beta_start <= beta_end < 1 is needed, "
                f"not {self.beta_start} and {self.beta_end}"
            )
        if self.snr_shift_scale is not None and not self.snr_shift_scale > 0:
            raise ConfigError(f"sampler.schedule.snr_shift_scale = {self.snr_shift_scale}: a positive number is needed")

    @cached_property
    def betas(self) -> np.ndarray:
        """Noise added by each timestep, (num_train_timesteps,).

        With `snr_shift_scale` these are the betas before the shift and the terminal rescaling, as CogVideoX counts
        them.
        """
        return self.betas_of(self.alphas_cumprod)

    def betas_of(self, alphas_cumprod: np.ndarray) -> np.ndarray:
        """`betas` where `alphas_cumprod` has these values, with other digits than ours at the end."""
        if self.zero_terminal_snr and self.snr_shift_scale is None:
            return 1.0 - alphas_cumprod / np.concatenate([[1.0], alphas_cumprod[:-1]])
        return self._plain_betas()

    @cached_property
    def alphas_cumprod(self) -> np.ndarray:
        """Share of the data's variance left at each timestep, (num_train_timesteps,), falling.

        Values are those of float32, which models were trained with: near 1 they leave 1 - a few digits (at timestep 0
        it is off by 0.01 %), and published trajectories show it. Tables with an SNR shift were made in float64, and so
        are those of a schedule that does not round.
        """
        if self.snr_shift_scale is None and self.rounds:
            return self._float32_product().astype(np.float64)
        alphas_cumprod = np.cumprod(1.0 - self._plain_betas())
        if self.snr_shift_scale is not None:
            alphas_cumprod = alphas_cumprod / (self.snr_shift_scale + (1.0 - self.snr_shift_scale) * alphas_cumprod)
        return _end_in_noise(alphas_cumprod) if self.zero_terminal_snr else alphas_cumprod

    def _float32_product(self) -> np.ndarray:
        """alphas_cumprod rounded where the training of published models rounds it."""
        one = np.float32(1.0)
        product = _cumprod_float32(one - self._plain_betas().astype(np.float32))
        if not self.zero_terminal_snr:
            return product
        ended = _end_in_noise(product)
        return _cumprod_float32(one - (one - np.append(ended[0], ended[1:] / ended[:-1])))

    @cached_property
    def snr(self) -> np.ndarray:
        """Signal-to-noise ratio a / (1 - a) of each timestep, (num_train_timesteps,); 0 at a zero-SNR end."""
        return self.alphas_cumprod / (1.0 - self.alphas_cumprod)

    @cached_property
    def sigmas(self) -> np.ndarray:
        """Noise per unit of signal sqrt((1 - a) / a) of each timestep, rising; a zero-SNR end counts as 4096.

        The few timesteps before that end which have more noise than 4096 (three for LINEAR) rise evenly in log sigma to
        it instead, so that runs of very many steps do not go up first.
        """
        if not self.zero_terminal_snr:
            return 1.0 / np.sqrt(self.snr)
        sigmas = 1.0 / np.sqrt(self.snr[:-1])
        finite = sigmas[sigmas < ZERO_SNR_SIGMA]
        end = np.geomspace(finite[-1], ZERO_SNR_SIGMA, self.num_train_timesteps - len(finite) + 1)
        return np.concatenate([finite, end[1:]])

    def sigmas_at(self, timesteps: np.ndarray) -> np.ndarray:
        """`sigmas` of timesteps that may be fractions, interpolated linearly; float64 in the shape of `timesteps`."""
        return np.interp(timesteps, np.arange(self.num_train_timesteps), self.sigmas)

    def rates(self, timesteps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """sqrt(a_t) and sqrt(1 - a_t) of whole-number timesteps, float64, in the shape of `timesteps`."""
        alphas_cumprod = self.alphas_cumprod[timesteps]
        return np.sqrt(alphas_cumprod), np.sqrt(1.0 - alphas_cumprod)

    def alphas_cumprod_at(self, timesteps: np.ndarray, *, before_first: float = 1.0) -> np.ndarray:
        """alphas_cumprod of whole timesteps; negative ones, nearer to the data than timestep 0, give `before_first`."""
        return np.where(timesteps >= 0, self.alphas_cumprod[np.maximum(timesteps, 0)], before_first)

    def add_noise(self, clean: np.ndarray, noise: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
        """Draw from q(x_t | x_0): sqrt(a_t) * clean + sqrt(1 - a_t) * noise.

        Shapes: clean and noise (B, ...), timesteps (B,) whole numbers; the result has the dtype of `clean`.
        """
        signal, spread = self._rates_like(clean, timesteps)
        return signal * clean + spread * noise

    def velocity(self, clean: np.ndarray, noise: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
        """The target of v-prediction: sqrt(a_t) * noise - sqrt(1 - a_t) * clean; shapes as in `add_noise`."""
        signal, spread = self._rates_like(clean, timesteps)
        return signal * noise - spread * clean

    def _plain_betas(self) -> np.ndarray:
        if self.kind == "linear":
            return np.linspace(self.beta_start, self.beta_end, self.num_train_timesteps)
        if self.kind == "squared_cosine":
            shares = np.arange(self.num_train_timesteps + 1) / self.num_train_timesteps
            left = np.cos((shares + COSINE_OFFSET) / (1.0 + COSINE_OFFSET) * np.pi / 2) ** 2
            return np.minimum(1.0 - left[1:] / left[:-1], MOST_BETA)
        return np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.num_train_timesteps) ** 2

    def _rates_like(self, clean: np.ndarray, timesteps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        column = (-1, *[1] * (clean.ndim - 1))  # (B, 1, ...)
        signal, spread = self.rates(timesteps)
        return signal.reshape(column).astype(clean.dtype), spread.reshape(column).astype(clean.dtype)


@dataclass(frozen=True, kw_only=True)
class FlowSchedule:
    """The sigmas and timesteps that flow matching is trained on, noisiest first.

    Raises: ConfigError when shift is not positive.
    """

    num_train_timesteps: int = 1000
    shift: float = 1.0
    """Above 1 gives more of the timesteps to high noise: sigma -> shift * sigma / (1 + (shift - 1) * sigma)."""

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise ConfigError(
                f"sampler.shift = {self.shift}: a positive number is needed; 1 leaves the sigmas as they are"
            )

    @cached_property
    def sigmas(self) -> np.ndarray:
        """Share of noise at each training step, (num_train_timesteps,), from 1 down to just above 0."""
        return self.shifted(np.arange(self.num_train_timesteps, 0, -1) / self.num_train_timesteps)

    @cached_property
    def timesteps(self) -> np.ndarray:
        """What the network is told at each of `sigmas`: sigma * num_train_timesteps."""
        return self.sigmas * self.num_train_timesteps

    def shifted(self, sigmas: np.ndarray) -> np.ndarray:
        """Sigmas moved by `shift`; 0 and 1 stay where they are."""
        return self.shift * sigmas / (1.0 + (self.shift - 1.0) * sigmas)


LINEAR = Schedule()
"""Betas of Ho et al.: what Open-Sora Plan v1.3 trains on, there with zero_terminal_snr."""
STABLE_DIFFUSION = Schedule(beta_start=0.00085, beta_end=0.012, kind="scaled_linear")
"""Betas of Stable Diffusion 1.5: upstream's `--v1_5_scheduler`."""
COGVIDEOX = Schedule(beta_start=0.00085, beta_end=0.012, kind="scaled_linear", snr_shift_scale=3.0)
"""Upstream's `--cogvideox_scheduler`."""
SQUARED_COSINE = Schedule(kind="squared_cosine")
"""`squaredcos_cap_v2` of improved diffusion and DiT."""


def _cumprod_float32(factors: np.ndarray) -> np.ndarray:
    """Multiplied up in float64, each product rounded."""
    return np.cumprod(factors.astype(np.float64)).astype(np.float32)


def _end_in_noise(alphas_cumprod: np.ndarray) -> np.ndarray:
    roots = np.sqrt(alphas_cumprod)
    return ((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))) ** 2
