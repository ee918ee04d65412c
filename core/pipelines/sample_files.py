"""The files of a `sample` run: their names, what is in their way, and the sidecar whose config makes a video again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..config.schema import OutputSettings
from ..errors import ConfigError
from ..io.files import atomic_write, refuse_unwritable
from ..io.images import image_format, read_image, write_image
from ..io.video import check_ending, write_video
from ..io.weights import save_weights
from ..maths.picture_grid import picture_grid
from ..parallel.agreement import agreed
from .denoise import Step
from .sample import Job, Sampling

GRID_COLUMNS = 4
"""Of the pictures of a model that reads classes."""


class SampleFiles:
    """Where the videos of a run go. No file is written before `run`.

    Raises: MediaError for a file that is there and not to be replaced, or cannot be written.
    """

    def __init__(self, sampling: Sampling, overwrite: bool = False) -> None:
        self.sampling = sampling
        self.options = sampling.config.output
        self.overwrite = overwrite or self.options.overwrite
        # Nobody writes before all have seen that nothing is in the way.
        agreed(sampling.ranks.world, self._refuse_unwritable)

    def path(self, job: Job) -> Path:
        """Of the video or the picture."""
        return self.options.folder / f"{job.name}{'.png' if job.video.frames == 1 else '.mp4'}"

    @property
    def grid(self) -> Path | None:
        """Of all pictures in one; None where there is none."""
        jobs = self.sampling.jobs
        if len(jobs) < 2 or not self._columns:
            return None
        return self.options.folder / f"grid_{jobs[0].name}_of_{len(jobs)}.png"

    @property
    def _columns(self) -> int:
        if self.options.grid is not None:
            return self.options.grid
        jobs, reads = self.sampling.jobs, self.sampling.pipeline.parts.denoiser.spec.given
        are_alike = len({job.video for job in jobs}) == 1 and jobs[0].video.frames == 1
        return GRID_COLUMNS if "label" in reads and are_alike else 0

    def run(self, on_step: Callable[[Step], None] | None = None) -> Iterator[Path]:
        """Make this process's videos; the path of each comes when it is complete on the disk."""
        sampling = self.sampling
        for job, latent in sampling.latents(on_step):
            frames = sampling.decoded(job, latent)
            if self.options.compare:
                frames = iter(list(frames))  # all of them, for the sidecar tells of it
            if sampling.ranks.leads_team:
                path, fps = self.path(job), sampling.config.video.file_rate
                write_sample(path, frames, fps, latent, sampling.sidecar(job), self.options, self.overwrite)
                yield path
            else:
                for _ in frames:  # its part in decoding
                    pass
        sampling.ranks.world.barrier()
        if self.grid is not None and sampling.ranks.is_first:
            pictures = [read_image(self.path(job)) for job in sampling.jobs]
            write_image(self.grid, picture_grid(pictures, self._columns), self.overwrite)
            yield self.grid

    def _refuse_unwritable(self) -> None:
        if self.options.grid and {job.video.frames for job in self.sampling.jobs} - {1}:
            raise ConfigError(f"output.grid = {self.options.grid}: is for pictures, not for videos; leave it out")
        if self.options.grid and len({job.video for job in self.sampling.jobs}) > 1:
            raise ConfigError(f"output.grid = {self.options.grid}: the pictures have several sizes; leave it out")
        if self.grid is not None:
            refuse_unwritable(self.grid, self.overwrite)
        for job in self.sampling.jobs:
            refuse_sample(self.path(job), job.video.frames, self.options, self.overwrite)


def refuse_sample(path: Path, num_frames: int, options: OutputSettings, overwrite: bool) -> None:
    """See that `write_sample` can write. Raises: MediaError."""
    for output in (path, *_beside(path, options)):
        refuse_unwritable(output, overwrite)
    if num_frames > 1:
        check_ending(path)
    else:
        image_format(path)


def write_sample(
    path: Path,
    frames: Iterator[np.ndarray],
    fps: float,
    latent: np.ndarray,
    sidecar: Mapping[str, Any],
    options: OutputSettings,
    overwrite: bool,
) -> None:
    """Write frames (H, W, 3) uint8, one at a time, as a video, or as a picture by its ending; then what goes beside it.

    latent: (C, t, h, w). Raises: MediaError when `overwrite` is off and the file is there, or it cannot be written.
    """
    if path.suffix.lower() == ".mp4":
        write_video(path, frames, fps, options.crf, overwrite)
    else:
        write_image(path, next(frames), overwrite)
    if options.save_latents:
        save_weights(path.with_suffix(".safetensors"), {"latents": latent}, overwrite=True)
    with atomic_write(path.with_suffix(".json"), overwrite=True) as temporary:
        temporary.write_text(json.dumps(sidecar, indent=1, ensure_ascii=False), encoding="utf-8")


def _beside(path: Path, options: OutputSettings) -> list[Path]:
    """The other files of a video; a picture and a video of one prompt and seed have the same sidecar."""
    latents = [".safetensors"] if options.save_latents else []
    return [path.with_suffix(suffix) for suffix in (*latents, ".json")]
