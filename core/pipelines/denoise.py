"""The sampling loop: from unit noise to latents, with classifier-free guidance, on any backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import NumericsError
from ..samplers import Sampler
from ..samplers.guidance import guide, rescale
from ..seam.backend import Backend
from ..seam.group import Group
from ..seam.models import Array, Denoiser

NoiseSource = Callable[[int], np.ndarray]
"""Unit noise (B, C, T, H, W) float32 for the step of network call i."""


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598); off at scale 1 and below."""

    scale: float = 7.5
    rescale: float = 0.0
    """How far the guided prediction is brought back to the conditional one's spread (arXiv:2305.08891, section 3.4)."""

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
    frames: Array | None = None,
    on_step: Callable[[Step], None] | None = None,
    halves: Group | None = None,
) -> np.ndarray:
    """Run a sampler to its end.

    initial: unit noise (B, C, T, H, W) float32. condition is made by the model for the whole network batch: B texts,
    or with guidance 2B, the negative ones first. frames: (B, C + M, T, H, W) channels that the inpaint model sees
    beside the latents, the same at every step. halves: two ranks of which the first computes the negative texts and the
    second the others; their condition is for those B texts only. Returns the latents (B, C, T, H, W) float32.
    Raises: NumericsError, naming the step, as soon as latents are no longer finite.
    """
    is_split = guidance.is_on and halves is not None and halves.size > 1
    copies = 2 if guidance.is_on and not is_split else 1
    latents = backend.asarray(initial) * float(sampler.init_scale)
    if frames is not None:
        frames = backend.concat([frames] * copies, 0)
    for i, timestep in enumerate(sampler.timesteps):
        scaled = sampler.scale_input(latents, i)
        model_input = backend.concat([scaled] * copies, 0)
        if frames is not None:
            model_input = backend.concat([model_input, frames], 1)
        times = backend.asarray(np.full(model_input.shape[0], timestep, np.float32))
        output = model(model_input, times, condition)
        if halves is not None and is_split:
            output = halves.gather(output, 0)
        prediction = _guided(output, guidance) if guidance.is_on else output
        step_noise = backend.asarray(noise(i)) if sampler.draws_noise[i] else None
        latents = sampler.step(latents, prediction, i, step_noise)
        if not np.isfinite(backend.to_numpy(latents)).all():
            raise NumericsError(
                f"step {i + 1} of {len(sampler.timesteps)} (timestep {timestep:g}): latents hold NaN or infinity; "
                "try --set backend.dtype.denoiser=fp32 or bf16, or check the weights with `duosora inspect`"
            )
        if on_step:
            on_step(Step(i, model_input, times, output, latents))
    return backend.to_numpy(latents)


def _guided(output: Array, guidance: Guidance) -> Array:
    half = output.shape[0] // 2
    unconditional, conditional = output[:half], output[half:]
    guided = guide(conditional, unconditional, guidance.scale)
    return rescale(guided, conditional, guidance.rescale) if guidance.rescale > 0 else guided
