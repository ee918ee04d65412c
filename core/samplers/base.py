"""What every sampler is: timesteps to call the network at, and a step from one state to the next.

A run starts at x = init_scale * unit noise; call i is prediction = network(scale_input(x, i), timesteps[i]), then x =
step(x, prediction, i). Tables are float64 and made once; a step is a few multiply-adds of Python floats with whatever
arrays come in (numpy, torch, MindSpore), so one class serves every backend. States should be float32: sigmas reach
4096.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np

from ..errors import ConfigError
from .late_frames import FrameStarts

Array: TypeAlias = Any
"""An array or tensor of any framework: only `+ - *` with its like and with Python floats is used, and a Python float to
the power of one."""


class Sampler(ABC):
    """One sampling run: an object keeps the history of its run, so a second run takes a new object.

    Calls are counted i = 0, 1, ...; samplers of second order call the network more often than they have steps.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]]
    """Names that upstream's command line or files give the same sampler."""
    objectives: ClassVar[tuple[str, ...]]
    """What the network may predict; the first is the default."""
    starts_frames_late: ClassVar[bool] = False
    """Whether frames may be moved from some call on only; such a sampler has `frame_starts` and `with_noise`."""
    reads_range: bool = False
    """Whether its steps take what the network says of the variance, so that one has to that says it."""
    adapts: bool = False
    """Whether it chooses its calls on the way: `timesteps` and `draws_noise` grow with each step."""
    runs_alone: bool = False
    """Whether its calls depend on the whole batch, so that what is to depend on nothing else has to be a batch."""
    draws_before: Sequence[bool] = ()
    """For each call whether unit noise comes in before it, by `before`; (): before none."""

    def __init__(
        self,
        objective: str,
        timesteps: np.ndarray,
        *,
        sigmas: np.ndarray | None = None,
        init_scale: float = 1.0,
        input_scales: np.ndarray | None = None,
        draws_noise: np.ndarray | None = None,
    ) -> None:
        self.objective = objective
        self.timesteps: Any = timesteps.astype(np.float64)
        """What the network is told, one entry per call, in call order."""
        self.sigmas = sigmas
        """Noise-to-signal ratio of the state at each call and after the last, where the sampler is built on it."""
        self.init_scale = init_scale
        """Unit noise times this is the first state."""
        self.draws_noise: Sequence[bool] = (
            (False,) * len(timesteps) if draws_noise is None else tuple(bool(draws) for draws in draws_noise)
        )
        """For each call whether its step takes unit noise."""
        self._input_scales = None if input_scales is None else input_scales.tolist()
        self._calls_made = 0

    @classmethod
    def check_objective(cls, objective: str) -> str:
        """The objective, if this sampler can take it.

        Raises: ConfigError naming those that it can.
        """
        if objective not in cls.objectives:
            raise ConfigError(
                f"sampler.objective = {objective!r}: {cls.name} takes {' or '.join(cls.objectives)}; take another "
                "sampler, or set sampler.objective=null if the model is not of that objective"
            )
        return objective

    def scale_input(self, x: Array, i: int) -> Array:
        """The state as the network of call i wants to see it, in the shape of x."""
        return x if self._input_scales is None else self._input_scales[i] * x

    def before(self, x: Array, noise: Array, i: int) -> Array:
        """The state that call i sees, where draws_before says that noise comes in."""
        raise NotImplementedError

    def step(
        self, x: Array, prediction: Array, i: int, noise: Array | None = None, variance: Array | None = None
    ) -> Array:
        """The state after call i.

        x is the state before it (not its scaled form), prediction the network's answer, noise unit noise exactly when
        draws_noise[i], variance what the network says of it exactly when the sampler reads_range; all in one shape and
        framework.
        """
        assert i == self._calls_made, f"{self.name}: step {i} was called when {self._calls_made} was due"
        assert (noise is not None) == self.draws_noise[i], f"{self.name}: draws_noise[{i}] is {self.draws_noise[i]}"
        assert (variance is not None) == self.reads_range, f"{self.name}: reads_range is {self.reads_range}"
        self._calls_made += 1
        if noise is not None and variance is not None:
            noise = self._scaled(noise, variance, i)
        return self._advance(x, prediction, i, noise)

    def with_noise(self, x: Array, noise: Array, enters: Array, i: int) -> Array:
        """The state before call i, in which frames that enter are mixed with noise as much as their time asks for.

        x and noise (B, C, T, H, W); enters (B, 1, T, 1, 1), 1.0 or 0.0: FrameStarts.enters[i] by `per_frame`.
        """
        raise ConfigError(f"sampler {self.name}: moves all frames from the first call on")

    def frame_starts(self, strength: np.ndarray) -> FrameStarts:
        """Which calls move frames of these strengths (B, T): 1 makes one from noise, 0 keeps it, and between them it
        begins to move that far before the end."""
        raise ConfigError(f"sampler {self.name}: moves all frames from the first call on")

    def _scaled(self, noise: Array, variance: Array, i: int) -> Array:
        """Noise of the spread that the network says, as a part of what the step adds by itself."""
        raise NotImplementedError

    @abstractmethod
    def _advance(self, x: Array, prediction: Array, i: int, noise: Array | None) -> Array: ...


class LinearSampler(Sampler):
    """A sampler without history: the next state is keep * x + take * prediction + spread * noise."""

    def __init__(
        self,
        objective: str,
        timesteps: np.ndarray,
        *,
        keep: np.ndarray,
        take: np.ndarray,
        spread: np.ndarray | None = None,
        sigmas: np.ndarray | None = None,
    ) -> None:
        spread = np.zeros_like(keep) if spread is None else spread
        super().__init__(objective, timesteps, sigmas=sigmas, draws_noise=spread > 0)
        self._keep, self._take, self._spread = keep.tolist(), take.tolist(), spread.tolist()

    def _advance(self, x: Array, prediction: Array, i: int, noise: Array | None) -> Array:
        x = self._keep[i] * x + self._take[i] * prediction
        return x if noise is None else x + self._spread[i] * noise


class MultistepSampler(Sampler):
    """A second-order sampler of one call a step that remembers the previous call.

    reading = read[0] * x + read[1] * prediction; the next state is keep * x + take * reading + recall * previous
    reading, where x is the previous call's state if goes_back.
    """

    def __init__(
        self,
        objective: str,
        timesteps: np.ndarray,
        *,
        read: tuple[np.ndarray, np.ndarray],
        keep: np.ndarray,
        take: np.ndarray,
        recall: np.ndarray,
        sigmas: np.ndarray,
        goes_back: np.ndarray | None = None,
    ) -> None:
        super().__init__(objective, timesteps, sigmas=sigmas)
        self._read_x, self._read_prediction = read[0].tolist(), read[1].tolist()
        self._keep, self._take, self._recall = keep.tolist(), take.tolist(), recall.tolist()
        self._goes_back = [False] * len(timesteps) if goes_back is None else goes_back.tolist()
        self._previous_x: Array = None
        self._previous_reading: Array = None

    def _advance(self, x: Array, prediction: Array, i: int, noise: Array | None) -> Array:
        reading = self._read_x[i] * x + self._read_prediction[i] * prediction
        following = self._keep[i] * (self._previous_x if self._goes_back[i] else x) + self._take[i] * reading
        if self._recall[i] != 0.0:
            following = following + self._recall[i] * self._previous_reading
        self._previous_x, self._previous_reading = x, reading
        return following
