"""What a `sample` run is about to do, in lines for a person."""

from __future__ import annotations

from collections.abc import Sequence

from .. import caching
from .jobs import Job, by_size
from .settled import SettledRun

CALLED = {"denoiser": "", "text_encoder": "text encoder ", "vae": "autoencoder "}
"""Models by kind."""


def plan_of(settled: SettledRun, jobs: Sequence[Job], notes: Sequence[str]) -> list[str]:
    """A line per subject."""
    return [
        *_models(settled),
        *settled.followed.lines,
        *_videos(settled, jobs),
        *_processes(settled),
        f"seeds      {', '.join(dict.fromkeys(str(job.seed) for job in jobs))}",
        *(f"NOTE       {note}" for note in notes),
    ]


def _models(settled: SettledRun) -> list[str]:
    pipeline, sampler = settled.pipeline, settled.sampler()
    backend, precision = pipeline.backend, pipeline.precision
    how = {kind: getattr(precision, kind) for kind in pipeline.parts.all}
    if precision.streams_text_encoder and "text_encoder" in how:
        how["text_encoder"] += ", layer by layer from its file"
    if precision.offload == "blocks":
        how["denoiser"] += ", blocks on the host"
    models = [f"{CALLED[kind]}{part.source} ({how[kind]})" for kind, part in pipeline.parts.all.items()]
    calls = (
        "as many network calls as its error asks for" if sampler.adapts else f"{len(sampler.timesteps)} network calls"
    )
    return [
        f"backend    {backend.name} on {backend.device}, attention {precision.attention}",
        f"models     {', '.join(models)}",
        f"sampler    {sampler.name}, {settled.config.sampler.steps} steps ({calls}), "
        f"{sampler.objective}, guidance {settled.guidance.scale:g}",
        *_cache(settled),
    ]


def _cache(settled: SettledRun) -> list[str]:
    """Which one, and with which options."""
    kind = settled.pipeline.cache
    if kind is None:
        return []
    given = ((name, getattr(kind, name)) for name in caching.options(kind.name))
    told = ", ".join(f"{name} {value}" for name, value in given if value is not None)
    return [f"cache      {kind.name}: {told}"]


def _videos(settled: SettledRun, jobs: Sequence[Job]) -> list[str]:
    """How many of each size, and of how many clips each is."""
    lines, loops = [], settled.loops
    for video, alike in by_size(jobs).items():
        sizes = settled.pipeline.sizes(video)
        pixels, latents = ("x".join(map(str, size)) for size in (video, sizes.latent))
        lines.append(
            f"videos     {len(alike)} of {pixels} pixels = {latents} latents = {sizes.tokens.num_tokens} "
            f"tokens, {settled.config.video.file_rate:g} frames a second"
        )
    if loops.count > 1:
        frames = loops.frames(settled.pipeline.parts.vae.spec.compression, settled.video)
        lines.append(f"clips      {loops.count} for each video, which has {frames} frames")
    return lines


def _processes(settled: SettledRun) -> list[str]:
    split = settled.pipeline.ranks.plan
    if split.world == 1:
        return []
    return [f"processes  {split.world} = data {split.data} x cfg {split.cfg} x sequence {split.sequence}"]
