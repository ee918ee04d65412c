"""A whole `sample` run: settle everything first, then make the videos one batch at a time.

What is made is known here, and nothing of files: core.pipelines.sample_files writes them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..caching import CacheReport
from ..config.schema import SampleConfig
from ..config.settings import with_setting
from ..errors import NumericsError
from ..io.prompts import Prompt, read_prompts
from ..maths.pixels import to_uint8
from ..parallel.agreement import agreed, exchange
from ..parallel.launched import launched, told_once
from ..progress import progress
from ..seam import backend as backends
from ..seam.ranks import make_plan
from ..shapes import VideoShape
from .cached import Spared, told
from .denoise import Step
from .jobs import Job, JobPlanner, batches_of
from .looping import LoopedRequest, Looping
from .placing import check_room
from .plan import plan_of
from .settled import settle
from .sidecar import sidecar_of
from .text import EncodedTexts
from .text_to_video import TextToVideo

log = logging.getLogger("duosora")


class Sampling:
    """Everything that a run resolved to. Nothing is loaded before `latents`.

    Of several processes each makes the videos of its team.
    Raises: DuosoraError of the part that does not fit, before any long work.
    """

    def __init__(
        self,
        config: SampleConfig,
        prompts: list[Prompt] | None = None,
        overrides: Set[str] = frozenset(),
        models: TextToVideo | None = None,
        keeps_text_encoder: bool = False,
    ) -> None:
        """prompts: what is asked for; None: the config's. overrides: the paths of settings that the command line gave,
        to tell them from those of a file. models: those of the config, of an earlier run, which are not loaded again.
        keeps_text_encoder: where the memory holds it beside the denoiser; else it is let go of when it is done.
        """
        self._notes: dict[str, None] = {}
        """What of the files is left alone, and what contradicts the model: each line once, in order."""
        self._keeps_text_encoder = keeps_text_encoder
        self._spared: dict[str, Spared] = {}
        """By the name of a job, where there is a cache."""
        if models is not None:
            self.backend, self.ranks = models.backend, models.ranks
        else:
            with told_once():
                parallel = config.parallel
                split = make_plan(launched().world, parallel.sequence, parallel.cfg)
                self.backend = backends.get(config.backend.name, config.backend.device)
            self.ranks = self.backend.connect(split, parallel.meet_seconds)
        named = with_setting(config, "backend.name", self.backend.name)
        agreed(self.ranks.world, lambda: self._settle(named, overrides, models, prompts))

    def _settle(
        self, config: SampleConfig, overrides: Set[str], models: TextToVideo | None, prompts: list[Prompt] | None
    ) -> None:
        settled = settle(config, overrides, self.backend, self.ranks, self._note, models)
        self.settled, self.config, self.pipeline = settled, settled.config, settled.pipeline
        if models is None:
            check_room(self.config.backend, self.pipeline.parts.denoiser, self.pipeline.precision.denoiser)
        denoiser, vae = self.pipeline.parts.denoiser.spec, self.pipeline.parts.vae.spec
        planner = JobPlanner(self.config, settled.followed.practice, settled.conditioner, denoiser, self._note)
        self.jobs = planner.jobs(read_prompts(config.prompts.sources, self._note) if prompts is None else prompts)
        for job in self.jobs:
            latent = self.pipeline.sizes(job.video).latent
            vae.chunks(latent.frames, self.pipeline.decode_options.chunk)  # refuses those that it cannot work in

    @property
    def num_steps(self) -> int | None:
        """Network calls of this process, each counted once however many videos it is for; None: nobody knows yet."""
        batches, sampler = self._batches(), self.settled.sampler()
        if sampler.adapts:
            return None
        runs = sum(map(len, batches)) if self.backend.on_host or sampler.runs_alone else len(batches)
        again = 2 if self.config.output.compare else 1
        return runs * again * len(sampler.timesteps) * self.settled.loops.count

    def plan(self) -> list[str]:
        """What the run is about to do, a line per subject."""
        return plan_of(self.settled, self.jobs, self.notes)

    @property
    def notes(self) -> list[str]:
        """What a user should know of the models, the settings and the prompts, each once."""
        parts = self.pipeline.parts
        is_fresh = any(part.is_fresh for part in parts.all.values())
        fresh = ["the weights are freshly drawn, not trained: the picture is noise"] if is_fresh else []
        return [*fresh, *self._notes]

    def _note(self, line: str) -> None:
        self._notes[line] = None

    def latents(self, on_step: Callable[[Step], None] | None = None) -> Iterator[tuple[Job, np.ndarray]]:
        """The latents (C, t, h, w) of each of this process's videos, of which `frames` makes pixels."""
        batches = self._batches()
        if not batches:
            return
        texts = self._encode([job for batch in batches for job in batch])
        made = (pair for batch in batches for pair in self._latents(batch, texts, on_step))
        # Else each batch would load the denoiser anew.
        yield from list(made) if self.pipeline.precision.offload == "parts" else made

    def _latents(
        self, batch: list[Job], texts: EncodedTexts, on_step: Callable[[Step], None] | None
    ) -> Iterator[tuple[Job, np.ndarray]]:
        video, requests = batch[0].video, [self._request(job) for job in batch]
        looping, spared = self._looping(video), [Spared() for _ in batch]
        asked = requests, texts, video, on_step
        latents = looping.latents(*asked, on_cached=partial(_note, spared))
        if self.config.output.compare:
            whole = replace(looping, pipeline=replace(self.pipeline, cache=None))
            for each, made in zip(spared, whole.latents(*asked), strict=True):
                each.whole = made
        if self.pipeline.cache is not None:
            self._spared |= {job.name: each for job, each in zip(batch, spared, strict=True)}
        yield from zip(batch, latents, strict=True)

    def frames(self, job: Job, latent: np.ndarray) -> np.ndarray:
        """Frames (T, H, W, 3) uint8 of one video."""
        return np.stack(list(self.decoded(job, latent)))

    def decoded(self, job: Job, latent: np.ndarray) -> Iterator[np.ndarray]:
        """Frames (H, W, 3) uint8 of one video, as they are decoded."""
        spared = self._spared.get(job.name)
        if spared is None or spared.whole is None:
            yield from self._decoded(job, latent)
            return
        others = list(self._decoded(job, spared.whole))
        yield from spared.compared(self._decoded(job, latent), others)

    def pixels(self, job: Job, latent: np.ndarray) -> Iterator[np.ndarray]:
        """The same as the autoencoder gives them, (1, 3, t, H, W). Raises: NumericsError for what is not finite."""
        for chunk in progress(self._looping(job.video).frames(latent, job.video), "decoding", "chunk"):
            if not np.isfinite(chunk).all():
                raise NumericsError(
                    f"{job.name}: decoding gave NaN or infinity; set backend.dtype.vae=fp32, or check the weights"
                )
            yield chunk

    def sidecar(self, job: Job) -> dict[str, Any]:
        """Everything that is needed to make a video again."""
        return sidecar_of(job, self.config, self.backend, self._spared.get(job.name))

    def told_of_cache(self) -> str | None:
        """What the cache left out of all videos that are made, of all processes, which call this together; None: there
        is none."""
        if self.pipeline.cache is None:
            return None
        own = [each.facts() for each in self._spared.values() if self.ranks.leads_team]
        return told([facts for of_rank in exchange(self.ranks.world, lambda: own) for facts in of_rank])

    def _decoded(self, job: Job, latent: np.ndarray) -> Iterator[np.ndarray]:
        for chunk in self.pixels(job, latent):
            yield from to_uint8(chunk)[0]

    def _encode(self, jobs: list[Job]) -> EncodedTexts:
        texts = self.pipeline.encode([text for job in jobs for text in (*job.texts, job.negative) if text is not None])
        for text, cut in texts.cut.items() if self.ranks.leads_team else ():
            limit = self.pipeline.max_tokens
            log.warning("the prompt %r... is over %d tokens: its last %d are left out", text[:40], limit, cut)
        if not self._keeps_text_encoder:
            self.pipeline.release("text_encoder")
        return texts

    def _batches(self) -> list[list[Job]]:
        """This process's jobs."""
        plan = self.ranks.plan
        return batches_of(self.jobs, self.config.batch_size)[plan.place(self.ranks.rank).data :: plan.data]

    def _looping(self, video: VideoShape) -> Looping:
        """How videos of a size are made."""
        settled = self.settled
        new_sampler = partial(settled.sampler, video)
        return Looping(self.pipeline, settled.conditioner, settled.loops, settled.guidance, new_sampler)

    def _request(self, job: Job) -> LoopedRequest:
        return LoopedRequest(job.texts, job.negative, job.seed, self.config.video.fps, job.placed)


def _note(spared: Sequence[Spared], number: int, report: CacheReport) -> None:
    """Count what a run left out of one of some videos."""
    spared[number].report.add(report)
