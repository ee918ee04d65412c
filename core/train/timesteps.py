"""Which noise level each training sample gets: a number u in [0, 1) from its own random stream.

u = 0 is the noisiest end for flows and the cleanest for the variance-preserving schedules, as upstream counts them. A
draw depends on the seed, the step and the sample's number alone, so it is the same however a step is split into
micro-batches and ranks.
Sources: Esser et al. 2024, arXiv:2403.03206 (logit-normal and mode sampling, the shift); Open-Sora Plan v1.3,
train_t2v_diffusers.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, exp, pi

from .. import random
from ..errors import ConfigError

KINDS = ("uniform", "stratified", "logit_normal", "mode")


@dataclass(frozen=True, kw_only=True)
class TimestepDraw:
    """A distribution of u. Raises: ConfigError for an unknown kind or numbers that it cannot take."""

    kind: str = "uniform"
    """`stratified`: uniform within the sample's own of `global_batch` equal parts, so that every step sees all noise
    levels; the parts are dealt anew at each step."""
    global_batch: int = 1
    """Samples of one optimiser step, over all micro-batches and ranks."""
    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 1.29

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"timesteps.kind = {self.kind!r}: needs one of {', '.join(KINDS)}")
        if self.global_batch < 1 or not self.logit_std > 0:
            raise ConfigError(
                f"timesteps: needs a global batch of at least 1 and a positive logit_std, "
                f"not {self.global_batch} and {self.logit_std}"
            )

    def draw(self, seed: int, samples: Sequence[int], step: int) -> list[float]:
        """u of each sample, by its number in the run."""
        return [self._draw(seed, sample, step) for sample in samples]

    def _draw(self, seed: int, sample: int, step: int) -> float:
        stream = random.stream(seed, "timestep", sample, step)
        u = self.shaped(stream.standard_normal() if self.kind == "logit_normal" else stream.random())
        if self.kind == "stratified":
            order = random.stream(seed, "timestep strata", 0, step).permutation(self.global_batch)
            return float((order[sample % self.global_batch] + u) / self.global_batch)
        return u

    def shaped(self, draw: float) -> float:
        """u from a draw: of logit_normal a unit normal one, of the others uniform in [0, 1)."""
        if self.kind == "logit_normal":
            return 1.0 / (1.0 + exp(-(self.logit_mean + self.logit_std * draw)))
        if self.kind == "mode":
            return 1.0 - draw - self.mode_scale * (cos(pi * draw / 2) ** 2 - 1.0 + draw)
        return draw
