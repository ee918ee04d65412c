"""What a training run is about to do, in lines for a reader; part of `TrainRun.plan`."""

from __future__ import annotations

from math import prod

from ..bucketing.table import BucketTable
from ..config.training import AutoencoderSettings, ObjectiveSettings, TrainConfig
from ..data.bucket_plan import check_buckets
from ..data.selection import check_settings
from ..data.sources import fitted
from ..models.finding import Part
from ..recipes import named
from ..seam.ranks import ParallelPlan
from ..shapes import Compression, Patch, VideoShape
from .setup.parts import TrainParts

ZERO = {
    0: "none of the state split",
    2: "optimiser state, averages and gradients split",
    3: "weights, optimiser state, averages and gradients split",
}


def describe_training(config: TrainConfig, parts: TrainParts) -> list[str]:
    """Data, sizes, frozen models, objective, steps and checkpoints, a line per subject.

    Raises: ConfigError and ShapeError when settings of the data do not fit one another or the models.
    """
    rate, ema, optimizer = config.learning_rate, config.ema, config.optimizer
    average = "no EMA" if ema is None else f"EMA of decay {ema.decay:g}"
    samples = f"{config.batch_size * config.accumulate} clips ({config.accumulate} x {config.batch_size})"
    if config.data.buckets is not None:
        samples = f"{config.accumulate} batches, each of one bucket"
    lines = [
        f"data       {' '.join([config.data.kind, ', '.join(map(str, config.data.files))]).rstrip()}",
        f"clips      {_sizes(config, parts)}",
    ]
    if parts.text_encoder is not None and parts.vae is not None:
        lines.append(f"frozen     {_frozen(config, parts.text_encoder, parts.vae)}")
    objective = _denoising(config.objective) if config.autoencoder is None else _reconstruction(config.autoencoder)
    return [
        *lines,
        f"objective  {objective}",
        f"steps      {config.max_steps:,} of {samples}, seed {config.seed}",
        f"optimiser  {optimizer.name}, learning rate {rate.kind} {rate.peak:g}, {average}",
        f"folder     {config.folder}, {_saving(config)}",
    ]


def describe_processes(config: TrainConfig, split: ParallelPlan) -> list[str]:
    """How several processes share the work, in a line; nothing for one."""
    if split.world == 1:
        return []
    share = config.accumulate // split.data
    spread = ZERO[config.parallel.zero] if config.autoencoder is None else ZERO[0]
    if spread == ZERO[2] and config.parallel.engine == "deepspeed":
        spread += " by DeepSpeed"
    return [
        f"processes  {split.world} = data {split.data} x sequence {split.sequence}, {spread}, {share} of "
        f"{config.accumulate} micro-batches each"
    ]


def _sizes(config: TrainConfig, parts: TrainParts) -> str:
    """Frames, height and width of the largest clips, and what they are to the model."""
    compression = (parts.vae or parts.trained).spec.compression
    data = fitted(config.data, compression)
    patch = Patch(1, 1) if parts.vae is None else parts.trained.spec.patch
    check_settings(data, compression)
    if data.buckets is not None:
        return _buckets(named(config.model.recipe).buckets(data.buckets), parts.trained, compression)
    if data.max_area is None:
        video = VideoShape(data.frames, data.height or 0, data.width or 0)
        text = f"up to {_x(video)} pixels"
    else:
        row = compression.space * patch.space
        video = VideoShape(data.frames, row, data.max_area // row**2 * row)  # of all shapes of this area one that fits
        text = f"up to {data.frames} frames of {data.max_area} pixels, sides multiples of {data.stride}"
    latent = compression.latent(video)
    if parts.vae is None:
        return f"{text} = {prod(latent)} latents a clip"
    return f"{text} = {parts.trained.spec.grid(latent).num_tokens} tokens a clip"


def _buckets(table: BucketTable, denoiser: Part, compression: Compression) -> str:
    """Resolutions with their lengths, and the tokens of the largest clip. Raises: ShapeError."""
    check_buckets(table, compression)
    rows = (f"{name} {'/'.join(map(str, reversed(row)))}" for name, row in table.entries.items())
    tokens = (denoiser.spec.grid(compression.latent(table.video(bucket))).num_tokens for bucket in table.buckets)
    return f"buckets of frames {', '.join(rows)}, up to {max(tokens)} tokens a clip"


def _frozen(config: TrainConfig, text_encoder: Part, vae: Part) -> str:
    return ", ".join(
        f"{kind} {part.source} ({f'cached in {cache}' if cache else 'computed in each step'})"
        for kind, part, cache in (
            ("text encoder", text_encoder, config.caches.text),
            ("autoencoder", vae, config.caches.latents),
        )
    )


def _denoising(objective: ObjectiveSettings) -> str:
    timesteps = f"{objective.timesteps.kind} timesteps"
    if objective.kind == "flow":
        return f"flow, shift {objective.shift or 1:g}, weighting {objective.weighting}, {timesteps}"
    if objective.kind == "rflow":
        bent = "moved by the size" if objective.timestep_transform else "for all sizes alike"
        masked = sum(objective.frame_masks.values())
        return f"rflow, {timesteps} {bent}" + (f", {masked:.1%} of the clips with clean frames" if masked else "")
    terminal = "zero" if objective.zero_terminal_snr else "non-zero"
    weights = "no weights" if objective.snr_gamma is None else f"min-SNR gamma {objective.snr_gamma:g}"
    if objective.speed:
        weights, timesteps = "weights of SpeeD", "timesteps of SpeeD"
    bound = "" if objective.bound in (None, "none") else f", {objective.bound} bound of the variance"
    return (
        f"{objective.kind}, {objective.schedule} schedule with {terminal} terminal SNR, {weights}, {timesteps}{bound}"
    )


def _reconstruction(losses: AutoencoderSettings) -> str:
    pixels = "" if losses.pixel_weight == 1 else f"{losses.pixel_weight:g} x "
    terms = [f"{pixels}{losses.loss} of the pixels"] if losses.pixel_weight else []
    for name, weight in (
        ("KL", losses.kl_weight),
        *losses.pair_weights.items(),
        ("LPIPS", losses.perceptual_weight),
    ):
        if weight:
            terms.append(f"{weight:g} x {name}")
    if losses.discriminator_factor:
        terms.append(f"{losses.discriminator_loss} discriminator from step {losses.discriminator_start}")
    seen = []
    if losses.image_share:
        seen.append(f"{losses.image_share:.0%} of the steps see first frames only")
    if losses.random_length:
        seen.append("random lengths")
    return ", ".join([" + ".join(terms), *seen])


def _saving(config: TrainConfig) -> str:
    settings = config.checkpoints
    often = "a checkpoint at the end" if settings.every is None else f"a checkpoint every {settings.every} steps"
    kept = f"the newest {settings.keep} stay"
    return f"{often}, {kept}" + (f" and every {settings.keep_every}th step's" if settings.keep_every else "")


def _x(shape: VideoShape) -> str:
    return "x".join(map(str, shape))
