"""A whole `sample` run: settle everything first, then make the videos one batch at a time.

What is made is known here, and nothing of files: core.pipelines.sample_files writes them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from .. import random, samplers
from ..conditioning.channels import Channels, Conditioning, PlacedFrames, fitted
from ..conditioning.files import condition_files, read_clip, read_pictures
from ..conditioning.references import PlacedReferences, References
from ..config.schema import SampleConfig, SamplingParallelSettings
from ..config.settings import resolved, with_setting
from ..errors import ConfigError, NumericsError, ShapeError
from ..io.prompts import Prompt, apply_template, read_prompts
from ..maths.pixels import to_uint8
from ..parallel.agreement import agreed
from ..parallel.launched import launched, told_once
from ..progress import progress
from ..samplers import Sampler
from ..seam import backend as backends
from ..seam.ranks import make_plan
from ..shapes import Grouped, VideoShape
from .denoise import Guidance, Step
from .following import prompts_for, sampled, scores_of
from .looping import LoopedRequest, Looping, Loops
from .practice import mixed
from .referenced import place_references, read_wish
from .settings import decode_options, default_dtype, make_sampler, open_parts, pinned
from .text import EncodedTexts
from .text_to_video import Precision, TextToVideo, VideoRequest

log = logging.getLogger("duosora")

MAX_VIDEOS = 100_000
"""Of one run. All are planned before the first is made; millions would take minutes and gigabytes."""


@dataclass(frozen=True)
class Job:
    """One video that a run will make."""

    prompt: Prompt
    text: str
    """The prompt in its template, as the model can read it."""
    negative: str | None
    """None: the model's learned null caption."""
    seed: int
    video: VideoShape
    placed: PlacedFrames | PlacedReferences | None = None
    """What is given beside the text."""
    texts: tuple[str, ...] = ()
    """Of each clip of a video of several."""

    @property
    def name(self) -> str:
        """A file name without ending, different for each job of a run."""
        return f"{self.prompt.name}_{self.seed}"


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
        self._overrides = overrides
        self._notes: dict[str, None] = {}
        """What of the files is left alone, and what contradicts the model: each line once, in order."""
        self._models, self._keeps_text_encoder = models, keeps_text_encoder
        if models is not None:
            self.backend, self.ranks = models.backend, models.ranks
        else:
            with told_once():
                parallel = config.parallel
                split = make_plan(launched().world, parallel.sequence, parallel.cfg)
                self.backend = backends.get(config.backend.name, config.backend.device)
            self.ranks = self.backend.connect(split, parallel.meet_seconds)
        self.config = with_setting(config, "backend.name", self.backend.name)
        agreed(self.ranks.world, lambda: self._settle(prompts))

    def _settle(self, prompts: list[Prompt] | None) -> None:
        self._follow_model()
        config = self.config
        if config.parallel.cfg and not self.guidance.is_on:
            raise ConfigError(f"parallel.cfg = true: sampler.guidance = {self.guidance.scale:g} has no two halves")
        found = self._models or self._find()
        self.config = config.model_copy(update={"model": pinned(config.model, found.parts)})
        vae, decode = found.parts.vae.spec, config.decode
        if "chunk" not in decode.model_fields_set and not vae.streams_exactly:
            self.config = with_setting(self.config, "decode.chunk", None)  # it has groups of its own
        options = decode_options(vae, self.config.decode.chunk, decode.tile)
        self.pipeline = replace(found, max_tokens=config.prompts.max_tokens, decode_options=options)
        self.sampler()  # refuses options that do not go together before anything is loaded
        self._settle_loops()
        self.jobs = self._jobs(read_prompts(config.prompts.sources, self._note) if prompts is None else prompts)
        for job in self.jobs:
            latent = self.pipeline.sizes(job.video).latent
            vae.chunks(latent.frames, options.chunk)  # refuses those that it cannot work in

    def _find(self) -> TextToVideo:
        """The models of the config, checked and not loaded."""
        parts, precision = open_parts(self.config.model), self._precision()
        found = {"denoiser": parts.denoiser, "text_encoder": parts.text_encoder, "vae": parts.vae}
        for note in mixed(self._followed.practice.recipe, found):
            self._note(note)
        for part in found.values():
            part.check()
            for note in part.notes:
                self._note(note)
        self.backend.check(precision.denoiser, precision.attention)
        return TextToVideo(self.backend, parts, precision, ranks=self.ranks)

    def _follow_model(self) -> None:
        """Fill in what nobody has set and what follows from the denoiser."""
        self._followed = sampled(self.config, self._overrides)
        self.config = self._followed.config
        self.guidance = Guidance(self.config.sampler.guidance, self.config.sampler.guidance_rescale)
        for note in self._followed.notes:
            self._note(note)

    def _settle_loops(self) -> None:
        """Raises: ConfigError for clips that cannot be joined."""
        loop, condition, video = self.config.loop, self.config.condition, self.video
        reads_references = "frame_mask" in self.pipeline.parts.denoiser.spec.given
        compression = self.pipeline.parts.vae.spec.compression
        self.loops = Loops(loop.count, loop.condition_frames, loop.edit)
        for name, value in (("loop.count", loop.count > 1), ("condition.mask_strategy", condition.mask_strategy)):
            if value and not reads_references:
                raise ConfigError(
                    f"{name}: model.denoiser = {self.config.model.denoiser} reads no references, so leave it out"
                )
        self.references = None
        if reads_references:
            group = compression.latent_frames if isinstance(compression, Grouped) and compression.frames else None
            self.references = References(compression, condition.align or group, loop.count)
            self.loops.check(compression, video)
            if loop.count > 1:
                self._need_late_frames(f"loop.count = {loop.count} needs")

    def _need_late_frames(self, what: str) -> None:
        """Raises: ConfigError when the sampler cannot keep frames as they are given, or start them later."""
        if samplers.resolve(self.config.sampler.name).starts_frames_late:
            return
        others = ", ".join(sampler.name for sampler in samplers.SAMPLERS if sampler.starts_frames_late)
        raise ConfigError(
            f"sampler.name = {self.config.sampler.name}: moves all frames from the first step, and "
            f"{what} one of {others}"
        )

    @property
    def video(self) -> VideoShape:
        """The size that the settings say."""
        video = self.config.video
        return VideoShape(video.frames, video.height, video.width)

    def _looping(self, video: VideoShape) -> Looping | None:
        """How clips are made from references; None where the model reads none."""
        if self.references is None:
            return None
        return Looping(self.pipeline, self.references, self.loops, self.guidance, partial(self.sampler, video))

    def sampler(self, video: VideoShape | None = None) -> Sampler:
        """A fresh sampler as configured, for a video of a size."""
        return make_sampler(self.config.sampler, video)

    @property
    def num_steps(self) -> int:
        """Network calls of this process, each counted once however many videos it is for."""
        batches = self._batches()
        runs = sum(map(len, batches)) if self.backend.on_host else len(batches)
        return runs * len(self.sampler().timesteps) * self.loops.count

    def plan(self) -> list[str]:
        """What the run is about to do, a line per subject."""
        precision, parts, sampler = self.pipeline.precision, self.pipeline.parts, self.sampler()
        lines = [
            f"backend    {self.backend.name} on {self.backend.device}, attention {precision.attention}",
            f"models     {parts.denoiser.source} ({precision.denoiser}), text encoder {parts.text_encoder.source} "
            f"({precision.text_encoder}), autoencoder {parts.vae.source} ({precision.vae})",
            f"sampler    {sampler.name}, {self.config.sampler.steps} steps ({len(sampler.timesteps)} network calls), "
            f"{sampler.objective}, guidance {self.guidance.scale:g}",
            *self._followed.lines,
        ]
        for video, jobs in groupby(self.jobs, key=lambda job: job.video):
            sizes = self.pipeline.sizes(video)
            pixels, latents = ("x".join(map(str, size)) for size in (video, sizes.latent))
            lines.append(
                f"videos     {len(list(jobs))} of {pixels} pixels = {latents} latents = {sizes.tokens.num_tokens} "
                f"tokens, {self.config.video.fps:g} frames a second"
            )
        if self.loops.count > 1:
            frames = self.loops.frames(self.pipeline.parts.vae.spec.compression, self.video)
            lines.append(f"clips      {self.loops.count} for each video, which has {frames} frames")
        split = self.ranks.plan
        if split.world > 1:
            lines.append(f"processes  {split.world} = data {split.data} x cfg {split.cfg} x sequence {split.sequence}")
        lines.append(f"seeds      {', '.join(dict.fromkeys(str(job.seed) for job in self.jobs))}")
        return lines + [f"NOTE       {note}" for note in self.notes]

    @property
    def notes(self) -> list[str]:
        """What a user should know of the models, the settings and the prompts, each once."""
        parts = self.pipeline.parts
        is_fresh = any(part.is_fresh for part in (parts.denoiser, parts.text_encoder, parts.vae))
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
        for batch in batches:
            video = batch[0].video
            if looping := self._looping(video):
                latents = looping.latents([self._looped_request(job) for job in batch], texts, video, on_step)
            else:
                sampler, requests = partial(self.sampler, video), [self._request(job) for job in batch]
                latents = self.pipeline.denoise(requests, texts, video, sampler, self.guidance, on_step)
            yield from zip(batch, latents, strict=True)

    def frames(self, job: Job, latent: np.ndarray) -> np.ndarray:
        """Frames (T, H, W, 3) uint8 of one video."""
        return np.stack(list(self.decoded(job, latent)))

    def decoded(self, job: Job, latent: np.ndarray) -> Iterator[np.ndarray]:
        """Frames (H, W, 3) uint8 of one video, as they are decoded."""
        looping = self._looping(job.video)
        decoded = looping.frames(latent, job.video) if looping else self.pipeline.decode(latent[None], job.video.frames)
        for chunk in progress(decoded, "decoding", "chunk"):
            if not np.isfinite(chunk).all():
                raise NumericsError(
                    f"{job.name}: decoding gave NaN or infinity; set backend.dtype.vae=fp32, or check the weights"
                )
            yield from to_uint8(chunk)[0]

    def sidecar(self, job: Job) -> dict[str, Any]:
        """Everything that is needed to make a video again."""
        from duosora import __version__

        return {
            "duosora": __version__,
            "versions": self.backend.versions(),
            "prompt": job.prompt.text,
            "prompt_in_template": job.text,
            "negative_prompt": job.negative,
            "seed": job.seed,
            "frames_height_width": list(job.video),
            "conditions": list(job.prompt.conditions),
            "config": _config_of(self.config, job),
        }

    def _precision(self) -> Precision:
        options = self.config.backend
        default = default_dtype(self.backend)
        return Precision(
            denoiser=options.dtype.denoiser or default,
            text_encoder=options.dtype.text_encoder or default,
            vae=options.dtype.vae or default,
            attention=options.attention,
            compile=options.compile,
        )

    def _jobs(self, prompts: list[Prompt]) -> list[Job]:
        config = self.config
        _refuse_too_many(len(prompts), config.samples_per_prompt)
        if self.references is not None:
            return self._jobs_with_references(prompts, self.references)
        sees_channels = "channels" in self.pipeline.parts.denoiser.spec.given
        jobs = []
        for prompt, (text, negative) in zip(prompts, self._texts(prompts), strict=True):
            given = self._given(prompt)
            video = self.video
            if given.images and not config.condition.crop:
                video = VideoShape(config.video.frames, *given.images[0].shape[:2])
            first = config.seed if prompt.seed is None else prompt.seed
            for seed in range(first, first + config.samples_per_prompt):
                random.check_seed(seed)
                placed = self._channels().place(given, video, seed) if sees_channels else None
                jobs.append(
                    Job(
                        prompt=prompt,
                        text=text,
                        negative=negative,
                        seed=seed,
                        video=video,
                        placed=placed,
                    )
                )
        return jobs

    def _jobs_with_references(self, prompts: list[Prompt], references: References) -> list[Job]:
        config, video = self.config, self.video
        wishes = [read_wish(prompt, config.condition) for prompt in prompts]
        segments = [
            replace(prompt, text=text)
            for prompt, wish in zip(prompts, wishes, strict=True)
            for text in wish.texts.texts
        ]
        read = iter(self._texts(segments))
        jobs = []
        for prompt, wish in zip(prompts, wishes, strict=True):
            texts, negatives = zip(*(next(read) for _ in wish.texts.texts), strict=True)
            placed = place_references(wish, references, video, config.condition, config.media)
            if placed.placements:
                self._need_late_frames(f"the references of {wish.where} need")
            of_clips = replace(wish.texts, texts=texts)
            first = config.seed if prompt.seed is None else prompt.seed
            for seed in range(first, first + config.samples_per_prompt):
                random.check_seed(seed)
                said = tuple(of_clips.at(loop) for loop in range(self.loops.count))
                jobs.append(Job(prompt, said[0], negatives[0], seed, video, placed, said))
        return jobs

    def _texts(self, prompts: list[Prompt]) -> list[tuple[str, str | None]]:
        """Each prompt in its template, and its negative prompt, as the model can read them."""
        settings = self.config.prompts
        written = [apply_template(settings.template, prompt.text) for prompt in prompts]
        negative = [settings.negative if prompt.negative is None else prompt.negative for prompt in prompts]
        practice = self._followed.practice
        read = prompts_for(practice, written, negative, scores_of(self.config, practice))
        for note in read.notes:
            self._note(note)
        if None in read.negatives and "is_null" not in self.pipeline.parts.denoiser.spec.given:
            raise ConfigError(
                f"prompts.negative = null: {self.config.model.denoiser} has learned no caption of nothing; set a text, "
                "if only an empty one"
            )
        return list(zip(read.prompts, read.negatives, strict=True))

    def _given(self, prompt: Prompt) -> Conditioning:
        """The frames that a prompt is conditioned on, cut and resized."""
        config = self.config
        options = config.condition
        paths, is_video = condition_files(prompt, options)
        if not paths:
            return Conditioning(())
        if "channels" not in self.pipeline.parts.denoiser.spec.given:
            raise ConfigError(
                f"{paths[0]}: model.denoiser = {config.model.denoiser} makes videos from text only; "
                "images and videos need an inpaint model (any93x640x640_i2v)"
            )
        if is_video:
            images = read_clip(paths[0], config.video.frames, options.reader, config.media, config.video.fps)
        else:
            images = read_pictures(paths, self._note, config.media)
        size = (config.video.height, config.video.width) if options.crop else None
        try:
            images = fitted(images, size, options.max_area)
        except ShapeError as error:
            raise ShapeError(f"{', '.join(paths)}: {error}") from error
        return Conditioning(tuple(images), options.indices, options.mask_type, options.noise_strength)

    def _encode(self, jobs: list[Job]) -> EncodedTexts:
        texts = self.pipeline.encode(
            [text for job in jobs for text in (job.text, *job.texts, job.negative) if text is not None]
        )
        for text, cut in texts.cut.items() if self.ranks.leads_team else ():
            limit = self.pipeline.max_tokens
            log.warning("the prompt %r... is over %d tokens: its last %d are left out", text[:40], limit, cut)
        if not self._keeps_text_encoder:
            self.pipeline.release("text_encoder")
        return texts

    def _batches(self) -> list[list[Job]]:
        """This process's jobs, those of one size together, at most batch_size."""
        size = self.config.batch_size
        batches = []
        for _, group in groupby(self.jobs, key=lambda job: job.video):
            jobs = list(group)
            batches += [jobs[start : start + size] for start in range(0, len(jobs), size)]
        teams = self.ranks.plan.data
        return batches[self.ranks.plan.place(self.ranks.rank).data :: teams]

    def _request(self, job: Job) -> VideoRequest:
        if not isinstance(job.placed, PlacedFrames):
            return VideoRequest(job.text, job.negative, job.seed, fps=self.config.video.fps)
        noise, encode = self.pipeline.noise(job.video, job.seed), self.pipeline.encoder(job.seed)
        state = self._channels().start(job.placed, noise, encode, job.seed)
        return VideoRequest(job.text, job.negative, job.seed, state)

    def _looped_request(self, job: Job) -> LoopedRequest:
        assert isinstance(job.placed, PlacedReferences)
        return LoopedRequest(job.texts, job.negative, job.seed, self.config.video.fps, job.placed)

    def _channels(self) -> Channels:
        return Channels(self.pipeline.parts.vae.spec.compression)


def _config_of(config: SampleConfig, job: Job) -> dict[str, Any]:
    """The config of a run that makes just this job."""
    settings = resolved(config)
    settings["prompts"]["sources"] = [job.prompt.text]
    settings["prompts"]["negative"] = job.negative
    if job.prompt.conditions:
        files = list(job.prompt.conditions)
        settings["condition"]["images"] = [] if job.prompt.is_video else files
        settings["condition"]["video"] = files[0] if job.prompt.is_video else None
    settings["seed"] = job.seed
    settings["samples_per_prompt"] = 1
    settings["parallel"] = SamplingParallelSettings().model_dump()
    return settings


def _refuse_too_many(num_prompts: int, samples: int) -> None:
    if num_prompts * samples > MAX_VIDEOS:
        raise ConfigError(
            f"samples_per_prompt = {samples} makes {num_prompts * samples} videos of {num_prompts} prompts; a run "
            f"makes at most {MAX_VIDEOS}, so ask for fewer, or split the prompts and give each run another seed"
        )
