"""One sampling run on two backends: how far apart their numbers are, block by block and at the end.

Blocks and gradients are compared on inputs of their own, the same for both, so a difference belongs to the blocks up to
the one where it is seen. The videos are made by each backend by itself, from the prompt and the seed on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import random
from ..config.schema import DTypeSettings, SampleConfig
from ..config.settings import with_setting
from ..maths import metrics
from ..models.kinds import AutoencoderSpec, DenoiserSpec, TextEncoderSpec
from ..pipelines.autoencode import decode_chunks, encode_chunks
from ..pipelines.denoise import Step
from ..pipelines.sample import Sampling
from ..printable import short_name
from ..seam.backend import Backend
from ..seam.models import Array, Model
from .gradients import autoencoder_gradients, block_of, denoiser_gradients, given_to

OUTPUT = "output"
TIMESTEP = 500.0
"""At which the denoiser's blocks are compared: noise and signal both matter."""

Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """How far a tensor of one backend is from the other's."""

    name: str
    error: float
    """The largest difference."""
    size: float
    """The largest absolute value of the first backend's tensor."""

    @property
    def relative(self) -> float:
        return self.error / self.size if self.size else self.error

    @staticmethod
    def of(name: str, reference: np.ndarray, other: np.ndarray) -> Difference:
        return Difference(name, float(np.abs(reference - other).max()), float(np.abs(reference).max()))


@dataclass(frozen=True)
class Videos:
    """How far the videos of two backends are from each other."""

    latents: Difference
    levels: int
    """Largest difference of a colour, of 255."""
    psnr: float
    """dB of the worst frame, at most metrics.PSNR_LIMIT."""
    seconds: tuple[float, float]
    """Per step of the denoiser on each backend, without the first one if there are more: it compiles and warms up."""
    first_seconds: tuple[float, float]
    """Of that step."""


@dataclass(frozen=True)
class ParityReport:
    """All comparisons of one run."""

    dtype: str
    blocks: Mapping[str, list[Difference]]
    """By part: text_encoder, denoiser, encoder and decoder of the autoencoder."""
    gradients: Mapping[str, list[Difference]]
    """By model, denoiser and autoencoder: of each block the weight whose gradients differ most, relatively."""
    videos: Videos


class TwinRuns:
    """The same run, prepared on two backends.

    Raises: as Sampling.
    """

    def __init__(
        self, config: SampleConfig, backends: tuple[str, str], dtype: str, overrides: Set[str] = frozenset()
    ) -> None:
        """overrides: as Sampling."""
        self.dtype = dtype
        self.runs = tuple(Sampling(_on(config, name, dtype), overrides=overrides) for name in backends)

    @property
    def backends(self) -> tuple[Backend, ...]:
        return tuple(run.backend for run in self.runs)

    def plan(self) -> list[str]:
        """What will be compared, a line per subject."""
        first, (reference, other) = self.runs[0], self.backends
        job = first.jobs[0]
        more = f", the first of {len(first.jobs)}" if len(first.jobs) > 1 else ""
        return [
            f"comparing  {other.name} with {reference.name} in {self.dtype}: blocks, gradients, and one video{more}",
            f"video      {'x'.join(map(str, job.video))} pixels, seed {job.seed}: {short_name(job.text)}",
            *first.plan()[1:],
        ]

    def compare(self) -> ParityReport:
        """Compare the blocks of all parts, the gradients of both models that are trained, and the first video."""
        return ParityReport(self.dtype, self.compare_blocks(), self.compare_gradients(), self.compare_videos())

    def compare_blocks(self) -> dict[str, list[Difference]]:
        """The differences of the blocks of each part, in the order of the blocks."""
        parts: dict[str, Callable[[Sampling], Outputs]] = {
            "text_encoder": _text_encoder,
            "denoiser": _denoiser,
            "encoder": _encoder,
            "decoder": _decoder,
        }
        if self.runs[0].pipeline.parts.text_encoder is None:
            del parts["text_encoder"]
        return {part: list(_differences(*map(outputs, self.runs))) for part, outputs in parts.items()}

    def compare_gradients(self) -> dict[str, list[Difference]]:
        """The differences of the gradients of each block, in the order of the blocks."""
        models = {"denoiser": denoiser_gradients}
        if len(self.runs[0].pipeline.parts.vae.spec.posteriors) == 1:  # those with more are not trained yet
            models["autoencoder"] = autoencoder_gradients
        return {
            model: _worst_of_blocks(*(gradients(run, self.dtype) for run in self.runs))
            for model, gradients in models.items()
        }

    def compare_videos(self) -> Videos:
        """The differences of the first video that the run makes."""
        (latent, frames, steps), (other_latent, other_frames, other_steps) = map(_video, self.runs)
        levels = np.abs(frames.astype(np.int16) - other_frames.astype(np.int16)).max()
        return Videos(
            latents=Difference.of("latents", latent, other_latent),
            levels=int(levels),
            psnr=float(metrics.finite_psnr(metrics.psnr(other_frames, frames)).min()),
            seconds=(float(np.median(steps[1:] or steps)), float(np.median(other_steps[1:] or other_steps))),
            first_seconds=(steps[0], other_steps[0]),
        )


def _on(config: SampleConfig, backend: str, dtype: str) -> SampleConfig:
    for part in DTypeSettings.model_fields:
        config = with_setting(config, f"backend.dtype.{part}", dtype)
    config = with_setting(config, "backend.allow_slow_dtype", True)
    return with_setting(config, "backend.name", backend)


def _differences(reference: Outputs, other: Outputs) -> Iterator[Difference]:
    for name, array in reference.items():
        yield Difference.of(name, array, other[name])


def _worst_of_blocks(reference: Outputs, other: Outputs) -> list[Difference]:
    """Of each block the weight with the largest relative difference, named after the block."""
    worst: dict[str, Difference] = {}
    for weight in _differences(reference, other):
        block = block_of(weight.name)
        if block not in worst or weight.relative > worst[block].relative:
            worst[block] = replace(weight, name=block)
    return list(worst.values())


def _video(run: Sampling) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Latents, frames and the seconds of each step of the first video."""
    ends = []

    def note(step: Step) -> None:
        ends.append(time.perf_counter())

    latents = run.latents(note)
    start = time.perf_counter()
    job, latent = next(latents)
    return latent, run.frames(job, latent), np.diff([start, *ends]).tolist()


def _text_encoder(run: Sampling) -> Outputs:
    pipeline, job = run.pipeline, run.jobs[0]
    assert pipeline.parts.text_encoder is not None
    assert pipeline.parts.tokenizer is not None
    model = pipeline.model("text_encoder")
    spec: TextEncoderSpec = pipeline.parts.text_encoder.spec
    ids, mask, _ = pipeline.parts.tokenizer.encode([job.text], pipeline.max_tokens)
    length = int(mask.sum())

    def call() -> Array:
        return model(*(run.backend.asarray(array[:, :length]) for array in (ids, mask)))

    return _recorded(run.backend, model, spec.blocks(), call)


def _denoiser(run: Sampling) -> Outputs:
    pipeline, job = run.pipeline, run.jobs[0]
    part, precision = pipeline.parts.denoiser, pipeline.precision
    # Built anew, because nothing can be noted inside of a compiled one.
    kernel, adapters = precision.attention, part.adapters
    model = run.backend.build(part.spec, part.open(), precision.denoiser, kernel, adapters=adapters)
    spec: DenoiserSpec = part.spec
    latent = pipeline.sizes(job.video).latent
    noisy = random.normal((1, spec.latent_channels + spec.further_channels, *latent), job.seed, "parity latents")

    def call() -> Array:
        condition = model.condition(given_to(run), latent)
        times = run.backend.asarray(np.full(1, TIMESTEP, np.float32))
        return model(run.backend.asarray(noisy), times, condition)

    return _recorded(run.backend, model, spec.blocks(), call)


def _encoder(run: Sampling) -> Outputs:
    job, spec = run.jobs[0], run.pipeline.parts.vae.spec
    video = np.tanh(random.normal((1, 3, *job.video), job.seed, "parity video"))

    def call(model: Model) -> np.ndarray:
        return encode_chunks(run.backend, model, spec, video)

    return _autoencoder(run, "encoder", call)


def _decoder(run: Sampling) -> Outputs:
    job, spec = run.jobs[0], run.pipeline.parts.vae.spec
    latents = random.normal((1, spec.latent_channels, *spec.compression.latent(job.video)), job.seed, "parity latents")

    def call(model: Model) -> np.ndarray:
        return np.concatenate(
            list(decode_chunks(run.backend, model, spec, latents, num_frames=job.video.frames)), axis=2
        )

    return _autoencoder(run, "decoder", call)


def _autoencoder(run: Sampling, half: str, call: Callable[[Model], np.ndarray]) -> Outputs:
    model = run.pipeline.model("vae")
    spec: AutoencoderSpec = run.pipeline.parts.vae.spec
    return _recorded(run.backend, model, spec.blocks()[half], lambda: call(model))


def _recorded(backend: Backend, model: Model, names: Iterable[str], call: Callable[[], Any]) -> Outputs:
    """What the named blocks gave in one call, and what came out of it."""
    names = list(names)
    with backend.inference(), backend.record(model, names) as recorded:
        output = call()
    arrays = {name: backend.to_numpy(recorded[name]) for name in names}
    return arrays | {OUTPUT: output if isinstance(output, np.ndarray) else backend.to_numpy(output)}
