"""What the settings of a `sample` run come to: values that follow from the model, models that are there and fit."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace

from ..conditioning.base import Conditioner, Note
from ..conditioning.nothing import Nothing
from ..config.filling import is_set
from ..config.schema import SampleConfig
from ..config.settings import with_setting
from ..errors import ConfigError
from ..models.finding import Part
from ..models.kinds import AutoencoderSpec
from ..samplers import Sampler
from ..seam.backend import Backend
from ..seam.ranks import Ranks
from ..shapes import VideoShape
from .cached import cache_of, with_options
from .denoise import Guidance
from .fitting import check_channels, check_objective, check_range, check_scale
from .following import Followed, sampled
from .jobs import need_late_frames
from .looping import Loops
from .placing import check_offload, streams_text_encoder
from .practice import mixed
from .settings import chosen_dtype, decode_options, guidance_of, make_sampler, open_parts, pinned
from .text_to_video import Precision, TextToVideo


@dataclass(frozen=True)
class SettledRun:
    """All that a run needs to know before it reads its prompts. Nothing is loaded yet."""

    config: SampleConfig
    """With all values filled in."""
    followed: Followed[SampleConfig]
    pipeline: TextToVideo
    guidance: Guidance
    loops: Loops
    conditioner: Conditioner

    @property
    def video(self) -> VideoShape:
        """The size that the settings say."""
        video = self.config.video
        return VideoShape(video.frames, video.height, video.width)

    def sampler(self, video: VideoShape | None = None) -> Sampler:
        """A fresh sampler as configured, for a video of a size."""
        return make_sampler(self.config.sampler, video)


def settle(
    config: SampleConfig,
    overrides: Set[str],
    backend: Backend,
    ranks: Ranks,
    note: Note,
    models: TextToVideo | None = None,
) -> SettledRun:
    """overrides: the paths of settings that the command line gave. note: is told what contradicts the model. models:
    those of the settings, of an earlier run, which are not looked for again.

    Raises: DuosoraError of the part that does not fit.
    """
    asked, followed = config, sampled(config, overrides)
    config = followed.config
    for line in followed.notes:
        note(line)
    found = models or _find(followed, backend, ranks, note)
    config = _without_null(config, asked, found.parts.denoiser, note)
    guidance = guidance_of(config.sampler)
    if config.parallel.cfg and not guidance.is_on:
        raise ConfigError(f"parallel.cfg = true: sampler.guidance = {guidance.scale:g} has no two halves")
    parts, decode = found.parts, config.decode
    config = config.model_copy(update={"model": pinned(config.model, parts)})
    if "chunk" not in decode.model_fields_set and not parts.vae.spec.streams_exactly:
        config = with_setting(config, "decode.chunk", None)  # it has groups of its own
    if not is_set(asked, "video.frames"):
        config = _with_whole_latents(config, parts.vae.spec, note)
    options = decode_options(parts.vae.spec, config.decode.chunk, decode.tile)
    pipeline = replace(found, max_tokens=config.prompts.max_tokens, decode_options=options)
    loops = Loops.of(config.loop, parts.vae.spec.compression)
    config, pipeline = _with_cache(config, pipeline, note)
    settled = SettledRun(config, followed, pipeline, guidance, loops, _conditioner(followed, pipeline, config))
    # refuses options that do not go together before anything is loaded
    check_range(settled.sampler(), parts.denoiser)
    if is_set(asked, "sampler.guidance_channels"):
        check_channels(guidance.channels, parts.denoiser)
    _check_loops(settled)
    check_objective(config.sampler.name, followed.practice)
    return settled


def _with_cache(config: SampleConfig, pipeline: TextToVideo, note: Note) -> tuple[SampleConfig, TextToVideo]:
    """With the cache that is asked for, and its options filled in. Raises: as cache_of, make_sampler."""
    settings = config.sampler
    if config.output.compare and settings.cache is None:
        raise ConfigError("output.compare = true: there is nothing to compare without sampler.cache; set its kind")
    sampler = make_sampler(settings)
    cache = cache_of(settings.cache, sampler, settings.steps, pipeline.parts.denoiser, note)
    if cache is not None and settings.cache is not None:
        config = with_setting(config, "sampler.cache", with_options(settings.cache, cache))
    return config, replace(pipeline, cache=cache)


def _without_null(config: SampleConfig, asked: SampleConfig, denoiser: Part, note: Note) -> SampleConfig:
    """Without the guidance of a recipe, where a denoiser of classes has no null class to lead away from.

    Raises: ConfigError where somebody asked for it.
    """
    spec, scale = denoiser.spec, config.sampler.guidance
    has_null = "label" not in spec.given or "is_null" in spec.given or config.prompts.negative is not None
    if has_null or not guidance_of(config.sampler).is_on:
        return config
    why = f"{denoiser.source} was trained without a null class"
    if is_set(asked, "sampler.guidance"):
        raise ConfigError(
            f"sampler.guidance = {scale:g}: {why}; leave it out, or name a class to lead away from as prompts.negative"
        )
    note(f"{why}, so guidance is off")
    return with_setting(config, "sampler.guidance", 1.0)


def _find(followed: Followed[SampleConfig], backend: Backend, ranks: Ranks, note: Note) -> TextToVideo:
    """The models of the settings, checked and not loaded."""
    config = followed.config
    parts = open_parts(config.model)
    precision, found = _precision(config, backend, parts.text_encoder, note), parts.all
    for line in mixed(followed.practice.recipe, found):
        note(line)
    check_scale(config.model, followed.practice.recipe, parts.denoiser, parts.vae)
    for part in found.values():
        part.check()
        for line in part.notes:
            note(line)
    backend.check(precision.denoiser, precision.attention)
    check_offload(config.backend, backend)
    return TextToVideo(backend, parts, precision, ranks=ranks)


def _with_whole_latents(config: SampleConfig, autoencoder: AutoencoderSpec, note: Note) -> SampleConfig:
    """Of a length that nobody asked for as much as the autoencoder takes."""
    wished = config.video.frames
    frames = autoencoder.compression.longest(wished)
    if frames in (0, wished):
        return config
    note(f"video.frames = {frames}: model.vae cannot make {wished}")
    return with_setting(config, "video.frames", frames)


def _precision(config: SampleConfig, backend: Backend, text_encoder: Part | None, note: Note) -> Precision:
    options = config.backend

    def of(part: str) -> str:
        named = getattr(options.dtype, part)
        return chosen_dtype(backend, named, f"backend.dtype.{part}", options.allow_slow_dtype)

    of_texts = of("text_encoder")
    return Precision(
        denoiser=of("denoiser"),
        text_encoder=of_texts,
        vae=of("vae"),
        attention=options.attention,
        compile=options.compile,
        offload=options.offload,
        streams_text_encoder=streams_text_encoder(options, backend, text_encoder, of_texts, note),
    )


def _conditioner(followed: Followed[SampleConfig], pipeline: TextToVideo, config: SampleConfig) -> Conditioner:
    """The way of the denoiser's recipe, where it reads what that gives. Raises: as Conditioner.of."""
    given, kind = pipeline.parts.denoiser.spec.given, followed.practice.conditioner
    kind = kind if kind.reads in given else Nothing
    if "channels" in given and kind.reads != "channels":
        raise ConfigError(
            f"model.denoiser = {config.model.denoiser}: it reads further channels, which "
            f"{followed.practice.recipe.title} does not give; set model.recipe to that of the model"
        )
    return kind.of(pipeline.parts.vae.spec.compression, config)


def _check_loops(settled: SettledRun) -> None:
    """Raises: ConfigError for clips that cannot be joined."""
    loops = settled.loops
    if loops.count > 1:
        loops.check(settled.pipeline.parts.vae.spec.compression, settled.video)
        need_late_frames(settled.config.sampler.name, f"loop.count = {loops.count} needs")
