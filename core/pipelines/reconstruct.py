"""A video or an image through the autoencoder and back, with PSNR and SSIM: how much the latents keep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ..config.schema import ReconstructConfig
from ..config.settings import with_setting
from ..errors import MediaError, NumericsError, ShapeError
from ..io.media import DEFAULTS, Media
from ..maths.metrics import finite_psnr, psnr, ssim
from ..maths.pixels import from_uint8, to_uint8
from ..models.finding import Part, open_part
from ..models.kinds import AutoencoderSpec
from ..progress import progress
from ..seam import backend as backends
from ..seam.backend import Backend
from ..seam.models import Autoencoder
from ..shapes import VideoShape
from .autoencode import DecodeOptions, decode_chunks, encode_chunks, latents_of, posterior_noise
from .clip import Clip, whole_clip
from .settings import chosen_dtype, decode_options


def open_clip(
    path: Path,
    spec: AutoencoderSpec,
    num_frames: int | None = None,
    every: int = 1,
    size: tuple[int | None, int | None] = (None, None),
    reader: str = "pyav",
    media: Media = DEFAULTS,
) -> Clip:
    """Look at a file and settle what of it is reconstructed.

    Without num_frames: as many frames as there are, cut to whole latents; of a picture always one.
    Without a height or width: the file's own, cut to a multiple of the compression. Raises: MediaError when the file
    is unreadable or too short; ShapeError when num_frames, height or width do not fit the autoencoder.
    """
    space = spec.compression.space
    whole = whole_clip(path, every, reader, media)
    available, height, width = whole.shape
    frames = 1 if whole.is_image else num_frames or spec.compression.longest(available)
    if frames > available:
        raise MediaError(f"{path}: has {available} frames (every {every}), {frames} are asked for")
    shape = VideoShape(frames, size[0] or height // space * space, size[1] or width // space * space)
    if not shape.height or not shape.width:
        raise ShapeError(f"{path}: {height}x{width} pixels are smaller than one latent of {space}x{space}")
    spec.compression.check(shape)
    return replace(whole, shape=shape)


class LazyAutoencoder:
    """The model of a run, which is loaded when it is first needed."""

    def __init__(self, backend: Backend, part: Part, dtype: str = "fp32") -> None:
        self.backend, self.part, self.dtype = backend, part, dtype

    @property
    def spec(self) -> AutoencoderSpec:
        return self.part.spec

    @cached_property
    def model(self) -> Autoencoder:
        return self.backend.build(self.spec, self.part.open(), self.dtype)

    def load(self) -> None:
        """Raises: DuosoraError for what is wrong with the model."""
        _ = self.model

    def plan(self) -> list[str]:
        """What it is and where it runs, a line per subject."""
        lines = [
            f"backend    {self.backend.name} on {self.backend.device}",
            f"model      {self.part.source} ({self.dtype})",
        ]
        if self.part.is_fresh:
            lines.append("NOTE       the weights are freshly drawn, not trained: the picture is noise")
        return lines + [f"NOTE       {note}" for note in self.part.notes]

    def pinned(self, config: ReconstructConfig) -> ReconstructConfig:
        """Settings that find the same backend and model again, when a training run has gone on meanwhile."""
        return with_setting(with_setting(config, "backend", self.backend.name), "vae", self.part.source)


def open_autoencoder(config: ReconstructConfig) -> LazyAutoencoder:
    """The model as configured, checked and not loaded. Raises: for the backend and the model."""
    backend = backends.get(config.backend, config.device)
    part = open_part("vae", config.vae)
    dtype = chosen_dtype(backend, config.dtype, "dtype", config.allow_slow_dtype)
    part.check()
    return LazyAutoencoder(backend, part, dtype)


def prepare(source: Path, config: ReconstructConfig, vae: LazyAutoencoder | None = None) -> ClipReconstruction:
    """The reconstruction of a file as configured. vae: for several files. Raises: as open_clip, and for the model."""
    vae = vae or open_autoencoder(config)
    size = (config.height, config.width)
    clip = open_clip(source, vae.spec, config.frames, config.every, size, config.reader, config.media)
    # Where nobody asked for chunks, an autoencoder that has groups of its own works in those.
    chunk = config.chunk if "chunk" in config.model_fields_set or vae.spec.streams_exactly else None
    options = decode_options(vae.spec, chunk, config.tile)
    return ClipReconstruction(vae, clip, seed=config.seed, options=options, reader=config.reader)


@dataclass(frozen=True)
class Quality:
    """PSNR in dB and SSIM of each frame."""

    psnr: np.ndarray
    ssim: np.ndarray

    def summary(self) -> dict[str, float]:
        """Over the frames; equal ones count with the highest PSNR that is written down."""
        psnr = finite_psnr(self.psnr)
        return {
            "psnr_mean": float(psnr.mean()),
            "psnr_min": float(psnr.min()),
            "ssim_mean": float(self.ssim.mean()),
            "ssim_min": float(self.ssim.min()),
        }


class ClipReconstruction:
    """One clip through an autoencoder: iterate over `frames()`, then ask for `quality`."""

    def __init__(
        self,
        vae: LazyAutoencoder,
        clip: Clip,
        *,
        seed: int | None = None,
        options: DecodeOptions | None = None,
        reader: str = "pyav",
    ) -> None:
        """seed None takes the posterior's mean; a seed samples it, as upstream always does (quirk Q14)."""
        self.vae, self.clip = vae, clip
        self.seed, self.reader = seed, reader
        self.options = options or DecodeOptions()
        self._psnr: list[np.ndarray] = []
        self._ssim: list[np.ndarray] = []

    def plan(self) -> list[str]:
        """What the run is about to do, a line per subject."""
        spec = self.vae.spec
        latent = spec.compression.latent(self.clip.shape)
        backend, model, *notes = self.vae.plan()
        drawn = "the mean" if self.seed is None else f"sampled with seed {self.seed}"
        clip = (
            f"clip       {'x'.join(map(str, self.clip.shape))} pixels = {'x'.join(map(str, latent))} latents of "
            f"{spec.latent_channels} channels, {drawn if spec.posteriors else 'as they are'}"
        )
        return [backend, model, clip, *notes]

    def latents(self) -> np.ndarray:
        """Unscaled latents (1, C, t, h, w) of the clip."""
        vae = self.vae
        read = progress(self.clip.frames(self.reader), "encoding", "chunk")
        chunks = (from_uint8(chunk).transpose(3, 0, 1, 2)[None] for chunk in read)
        with vae.backend.inference():
            noise = None if self.seed is None else posterior_noise(vae.spec, self.clip.shape, self.seed)
            drawn = {name: values[None] for name, values in (noise or {}).items()}
            moments = encode_chunks(vae.backend, vae.model, vae.spec, chunks, self.options.chunk, noise=drawn)
        if not np.isfinite(moments).all():
            raise NumericsError(
                f"{self.clip.path}: encoding gave NaN or infinity; try another dtype or check the weights"
            )
        return latents_of(vae.spec, moments, drawn if noise is not None else None)

    def frames(self, beside_original: bool = False) -> Iterator[np.ndarray]:
        """Reconstructed frames (H, W, 3) uint8, one at a time; quality is measured on the way.

        beside_original: (H, 2W, 3), the original on the left and what came back on the right.
        """
        vae = self.vae
        originals = _frame_by_frame(self.clip.frames(self.reader))
        with vae.backend.inference():
            latents, length = self.latents(), self.clip.shape.frames
            for chunk in decode_chunks(vae.backend, vae.model, vae.spec, latents, self.options, num_frames=length):
                if not np.isfinite(chunk).all():
                    raise NumericsError(f"{self.clip.path}: decoding gave NaN or infinity; try another dtype")
                for frame in to_uint8(chunk)[0]:
                    original = next(originals)
                    self._psnr.append(psnr(frame[None], original[None]))
                    self._ssim.append(ssim(frame[None], original[None]))
                    yield np.concatenate([original, frame], axis=1) if beside_original else frame

    @property
    def quality(self) -> Quality:
        return Quality(np.concatenate(self._psnr), np.concatenate(self._ssim))


def _frame_by_frame(chunks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    for chunk in chunks:
        yield from chunk
