"""The sampling loop: from unit noise to latents, with classifier-free guidance, on any backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..errors import NumericsError
from ..samplers import Sampler
from ..samplers.guidance import guide, rescale
from ..samplers.late_frames import choose, per_frame
from ..seam.backend import Backend
from ..seam.group import Group
from ..seam.models import Array, Denoiser
from .ahead import done_ahead

NoiseSource = Callable[[int], np.ndarray]
"""Unit noise (B, C, T, H, W) float32 for the step of network call i. It is called on another thread, in the order of
the steps."""


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598); off at scale 1 and below."""

    scale: float = 7.5
    rescale: float = 0.0
    """How far the guided prediction is brought back to the conditional one's spread (arXiv:2305.08891, section 3.4)."""
    channels: int | None = None
    """Of the latents, the first so many are guided and the others stay as the texts alone say; None: all are."""

    @property
    def is_on(self) -> bool:
        return self.scale > 1.0


@dataclass(frozen=True)
class Step:
    """What one network call saw and gave, for progress bars and golden tests."""

    index: int
    model_input: Array
    timestep: Array
    model_output: Array
    latents: Array


def denoise(
    backend: Backend,
    model: Denoiser,
    condition: object,
    initial: np.ndarray,
    sampler: Sampler,
    guidance: Guidance,
    noise: NoiseSource,
    channels: Array | None = None,
    on_step: Callable[[Step], None] | None = None,
    halves: Group | None = None,
    strength: np.ndarray | None = None,
    late_noise: NoiseSource | None = None,
) -> np.ndarray:
    """Run a sampler to its end.

    initial: (B, C, T, H, W) float32, unit noise but for frames that are given. condition is made by the model for the
    whole network batch: B texts, or with guidance 2B, the negative ones first. channels: (B, C + M, T, H, W) that an
    inpaint model sees beside the latents. halves: with guidance, two ranks of which the first has the negative texts
    and the second the others; their condition is for those B texts only. strength: (B, T); a frame below 1 keeps what
    is given until the time that its strength is of the way, and of 0 for ever. late_noise: what it is mixed with then.
    What a model predicts beside the latents is cut off, but for the variance where the sampler reads it.
    A step waits for nothing that the device computes: it draws its noise while the one before it is computed, and
    whether latents are finite is read a step late.
    Returns the latents (B, C, T, H, W) float32.
    Raises: NumericsError, naming the first step whose latents are no longer finite.
    """
    late = None if strength is None else _LateFrames(backend, sampler, strength)
    draws = _draws(sampler, late, noise, late_noise or noise)
    with done_ahead((partial(_stage, backend, *draw) for draw in draws), "noise") as drawn:
        placed = (place() for place in drawn)
        return _steps(backend, model, condition, initial, sampler, guidance, placed, channels, on_step, halves, late)


def _steps(
    backend: Backend,
    model: Denoiser,
    condition: object,
    initial: np.ndarray,
    sampler: Sampler,
    guidance: Guidance,
    noise: Iterator[Array],
    channels: Array | None,
    on_step: Callable[[Step], None] | None,
    halves: Group | None,
    late: _LateFrames | None,
) -> np.ndarray:
    """What denoise does. noise: on the device, in the order in which the steps ask for it."""
    is_split = guidance.is_on and halves is not None and halves.size > 1
    copies = 2 if guidance.is_on and not is_split else 1
    latents = backend.asarray(initial) * float(sampler.init_scale)
    if channels is not None:
        channels = backend.concat([channels] * copies, 0)
    placed = _placed(backend, sampler.timesteps, copies * len(initial))
    check = _FiniteCheck(backend, sampler)
    for i, timestep in enumerate(sampler.timesteps):
        if sampler.draws_before and sampler.draws_before[i]:
            latents = sampler.before(latents, next(noise), i)
        state = latents if late is None else late.enter(latents, noise, i)
        scaled = sampler.scale_input(state, i)
        model_input = backend.concat([scaled] * copies, 0)
        if channels is not None:
            model_input = backend.concat([model_input, channels], 1)
        if i == len(placed):  # the sampler chose it at the last step
            placed += _placed(backend, [timestep], copies * len(initial))
        if late is not None and late.changes(i):
            told = late.tells(i)
            condition = model.with_frames(condition, None if told.all() else np.concatenate([told] * copies))
        output = model(model_input, placed[i], condition)
        if halves is not None and is_split:
            output = halves.gather(output, 0)
        count = initial.shape[1]
        prediction = output[:, :count]
        prediction = _guided(backend, prediction, guidance) if guidance.is_on else prediction
        variance = output[-len(initial) :, count : 2 * count] if sampler.reads_range else None  # never guided
        step_noise = next(noise) if sampler.draws_noise[i] else None
        moved = sampler.step(state, prediction, i, step_noise, variance)
        latents = moved if late is None else late.keep(moved, latents, i)
        check.begin(latents, i)
        if on_step:
            on_step(Step(i, model_input, placed[i], output, latents))
    check.end()
    return backend.to_numpy(latents)


def _draws(
    sampler: Sampler, late: _LateFrames | None, noise: NoiseSource, late_noise: NoiseSource
) -> Iterator[tuple[NoiseSource, int]]:
    """The noise of a run in the order in which its steps ask for it: where from, and for which call."""
    for i in range(len(sampler.timesteps)):  # those that choose their calls on the way draw none
        if sampler.draws_before and sampler.draws_before[i]:
            yield noise, i
        if late is not None and late.starts.draws_noise[i]:
            yield late_noise, i
        if sampler.draws_noise[i]:
            yield noise, i


def _stage(backend: Backend, source: NoiseSource, i: int) -> Callable[[], Array]:
    return backend.stage(source(i))


def _placed(backend: Backend, timesteps: Sequence[float], batch: int) -> list[Array]:
    """Timesteps as the network is told them, (B,) each, on the device."""
    return [backend.asarray(np.full(batch, timestep, np.float32)) for timestep in timesteps]


class _FiniteCheck:
    """Whether the latents of each step are finite, read when the device works on the next step."""

    def __init__(self, backend: Backend, sampler: Sampler) -> None:
        self.backend, self.sampler = backend, sampler
        self.begun: tuple[int, Callable[[], bool]] | None = None

    def begin(self, latents: Array, i: int) -> None:
        """Let the device check what call i made. Raises: as `end`."""
        following = i, self.backend.is_finite(latents)
        self.end()
        self.begun = following
        if self.sampler.adapts:  # it has waited for these latents, and cannot choose a step by NaN
            self.end()

    def end(self) -> None:
        """Read what was begun. Raises: NumericsError."""
        if self.begun is None:
            return
        (i, is_finite), self.begun = self.begun, None
        if not is_finite():
            raise NumericsError(
                f"step {i + 1} of {len(self.sampler.timesteps)} (timestep {self.sampler.timesteps[i]:g}): latents hold "
                "NaN or infinity; set backend.dtype.denoiser=fp32 or bf16, or check the weights with `duosora inspect`"
            )


class _LateFrames:
    """Frames that do not move from the first call on: clean ones, and those that start from a reference."""

    def __init__(self, backend: Backend, sampler: Sampler, strength: np.ndarray) -> None:
        self.backend, self.sampler = backend, sampler
        self.starts = sampler.frame_starts(strength)

    def tells(self, i: int) -> np.ndarray:
        """Which frames the network is told to denoise, (B, T) booleans."""
        return self.starts.tells[i]

    def changes(self, i: int) -> bool:
        """Whether it is told others than at the call before; all before the first."""
        before = self.starts.tells[i - 1] if i else True
        return bool((self.starts.tells[i] != before).any())

    def enter(self, latents: Array, noise: Iterator[Array], i: int) -> Array:
        """The state before call i."""
        if not self.starts.draws_noise[i]:
            return latents
        enters = self.backend.asarray(per_frame(self.starts.enters[i]))
        return self.sampler.with_noise(latents, next(noise), enters, i)

    def keep(self, moved: Array, before: Array, i: int) -> Array:
        """The state after call i: what moves, and the rest as it was before noise came in."""
        if self.starts.moves[i].all():
            return moved
        return choose(self.backend.asarray(per_frame(self.starts.moves[i])), moved, before)


def _guided(backend: Backend, output: Array, guidance: Guidance) -> Array:
    """(2B, C, T, H, W), the unconditional half first, to (B, C, T, H, W)."""
    half = output.shape[0] // 2
    unconditional, conditional = output[:half], output[half:]
    if guidance.channels is not None and guidance.channels < output.shape[1]:
        first = _combined(conditional[:, : guidance.channels], unconditional[:, : guidance.channels], guidance)
        return backend.concat([first, conditional[:, guidance.channels :]], 1)
    return _combined(conditional, unconditional, guidance)


def _combined(conditional: Array, unconditional: Array, guidance: Guidance) -> Array:
    guided = guide(conditional, unconditional, guidance.scale)
    return rescale(guided, conditional, guidance.rescale) if guidance.rescale > 0 else guided
