"""The settings of `duosora train`. Defaults are the published practice of Open-Sora Plan v1.3, with the tiny model.

Source: Open-Sora Plan v1.3, opensora/train and its scripts; arXiv:2412.00131.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ..random import SEED_LIMIT
from .caches import CacheSettings
from .data import DataSettings
from .schema import Count, DType, ModelSettings, ParallelSettings, Positive, SamplerSettings, VideoSettings
from .settings import Settings

Share = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[float, Field(ge=0)]
Whole = Annotated[int, Field(ge=0)]


class StartSettings(Settings):
    """The weights to begin with."""

    weights: Path | None = None
    """Folder of a model: a published one, or `model` or `model_ema` in a checkpoint. Nothing: those of the preset."""
    fresh: bool = False
    """Draw all weights freshly, also where the preset comes with trained ones."""
    leave_out: tuple[str, ...] = ()
    """Beginnings of the names of weights that are drawn freshly instead of taken."""
    allow_missing: bool = False
    """Draw weights that the folder does not hold, such as the condition's when a text-to-video model becomes an inpaint
    model. Off, each must be there."""
    frozen: tuple[str, ...] = ()
    """Beginnings of the names of weights that are not trained."""


class TimestepSettings(Settings):
    """Which noise levels are trained on."""

    kind: Literal["uniform", "stratified", "logit_normal", "mode"] = "stratified"
    """stratified: every step has one sample in each of as many equal parts as it has samples."""
    logit_mean: float = 0.0
    """Of logit_normal."""
    logit_std: Positive = 1.0
    """Of logit_normal."""
    mode_scale: float = 1.29
    """Of mode."""


class ObjectiveSettings(Settings):
    """What the denoiser learns to predict."""

    kind: Literal["epsilon", "v_prediction", "sample", "flow"] = "v_prediction"
    """The noise, the velocity, the clean latents, or the velocity of a straight flow."""
    schedule: Literal["linear", "scaled_linear", "cogvideox"] = "linear"
    """The noise schedule. Not for flow."""
    zero_terminal_snr: bool = True
    """The last timestep is noise only. Not for flow."""
    snr_gamma: Positive | None = 5.0
    """Min-SNR weighting; nothing: all errors count alike. Not for flow."""
    shift: Positive = 1.0
    """flow: above 1, more samples at high noise."""
    weighting: Literal["none", "sigma_sqrt", "cosmap"] = "none"
    """flow: how errors weigh along the way."""
    timesteps: TimestepSettings = TimestepSettings()
    noise_offset: Number = 0.0
    """Strength of a further draw of noise that a whole channel shares."""
    condition_noise: bool = False
    """Inpaint: put a little noise on most of the given pixels."""


class AutoencoderSettings(Settings):
    """The losses of an autoencoder."""

    loss: Literal["l1", "l2"] = "l1"
    """Of the pixels."""
    squared_weight: Number = 0.0
    """Of squared errors on top of those."""
    kl_weight: Number = 1e-6
    """Of the latents' distance from normal noise."""
    wavelet_weight: Number = 0.1
    """Of the difference between the encoder's and the decoder's inner wavelet bands."""
    perceptual_weight: Number = 0.0
    """Of LPIPS; above 0 it needs `perceptual_backbone`."""
    perceptual_backbone: Path | None = None
    """Folder with the weights of VGG16 and of the LPIPS heads; docs/evaluation.md says how to make it."""
    discriminator_weight: Number = 0.5
    """Of the adversarial loss, on top of the adaptive weight."""
    discriminator_factor: Number = 1.0
    """0 leaves the adversarial loss out."""
    discriminator_start: Whole = 0
    """Optimiser steps before it counts; from then on every other step is the discriminator's."""
    discriminator_loss: Literal["hinge", "vanilla"] = "hinge"
    """The form of the adversarial loss."""
    discriminator_weight_decay: Number = 0.01
    """Of the discriminator's optimiser."""
    discriminator_max_grad_norm: Positive | None = 1.0
    """Larger gradients of the discriminator are scaled down to it; nothing: never."""
    logvar: float = 0.0
    """Logarithm of the variance that pixel errors are measured in."""


class OptimizerSettings(Settings):
    """The optimiser."""

    name: Literal["adamw", "adamw_8bit", "prodigy"] = "adamw"
    """adamw_8bit (bitsandbytes) and prodigy (prodigyopt) need `duosora[optimizers]`."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """How slowly its two averages of the gradients change."""
    eps: Positive = 1e-15
    """Added to the root of the second."""
    weight_decay: Number = 0.01
    """On every weight, biases and norms too, as upstream has it."""
    max_grad_norm: Positive | None = 1.0
    """Larger gradients are scaled down to it; nothing: never."""


class LearningRateSettings(Settings):
    """The learning rate over the run."""

    peak: Positive = 1e-5
    """The highest."""
    kind: Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "hold_cosine"] = "constant"
    """After the warm-up. hold_cosine: constant for `hold` of the steps, then half a cosine."""
    warmup_steps: Whole = 0
    """Steps over which it rises from 0."""
    floor: Share = 0.0
    """Where falling ends, as a part of the peak."""
    cycles: Count = 1
    """Of cosine_with_restarts."""
    power: Positive = 1.0
    """Of polynomial."""
    hold: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Of hold_cosine."""


class EmaSettings(Settings):
    """An average of the weights, which samples better than the weights themselves."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    """At most."""
    warms_up: bool = True
    """Begin as a plain average."""
    start_step: Whole = 0
    """Until then it is a copy."""


class ComputeSettings(Settings):
    """What computes, and how."""

    name: Literal["torch", "mindspore"] = "torch"
    """The framework."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, npu, ...; auto takes an accelerator when there is one."""
    dtype: DType | None = None
    """Of the passes; weights and optimiser stay fp32. Nothing: bf16 on an accelerator, else fp32."""
    frozen_dtype: DType | None = None
    """Of the text encoder and the autoencoder where they are not trained; nothing: as dtype."""
    attention: Literal["auto", "sdpa", "math", "flash"] = "auto"
    """The attention kernel."""
    recompute_every: Whole = 0
    """Compute the activations of every so many-th block again instead of keeping them: 1 all blocks, 0 none."""
    compile: bool = False
    """Compile the model; the first steps take long."""
    encode_chunk: Count | None = None
    """Latent frames that the autoencoder encodes at a time, exact at any number; nothing: whole clips."""


class TrainingParallelSettings(ParallelSettings):
    """How the processes of a training run share the work."""

    zero: Literal[0, 2, 3] = 2
    """What they split instead of holding it each: 0 nothing, 2 optimiser state, averages and gradients, 3 the weights
    too."""
    engine: Literal["fully_shard", "deepspeed"] = "fully_shard"
    """Who splits it on torch: torch itself, or DeepSpeed, which needs `duosora[deepspeed]` and `zero: 2`."""


class ValidationSettings(Settings):
    """Measures on clips that are not trained on."""

    every: Count | None = None
    """Optimiser steps; nothing: never."""
    data: DataSettings | None = None
    """The clips; nothing: moving shapes of held-out combinations, where moving shapes are trained on."""
    batches: Count = 4
    """Micro-batches; always the same, with the same noise."""


class ShowSettings(Settings):
    """Videos sampled while training."""

    every: Count | None = None
    """Optimiser steps; nothing: never."""
    prompts: tuple[str, ...] = ()
    """What is asked for."""
    max_tokens: Count = 512
    """Longer prompts are cut."""
    sampler: SamplerSettings = SamplerSettings()
    video: VideoSettings = VideoSettings()


class CheckpointSettings(Settings):
    """Where a run can go on."""

    every: Count | None = 1000
    """Optimiser steps; nothing: only at the end and when it is asked to leave."""
    keep: Count = 3
    """The newest that stay."""
    keep_every: Count | None = None
    """Those at multiples of it stay as well."""
    in_background: bool = False
    """Write while training goes on, from a copy in the host's memory."""


class GuardSettings(Settings):
    """Bad steps: NaN, infinity, gradients far out of the ordinary."""

    on_bad_step: Literal["stop", "skip"] = "stop"
    """Either way the weights stay as they were."""
    spike_factor: Annotated[float, Field(gt=1)] | None = None
    """A gradient norm so many times the median of the last hundred is a spike; nothing: only NaN and infinity count."""
    max_skips: Count = 10
    """So many bad steps in a row end the run."""


class TrainConfig(Settings):
    """A denoiser, or with `autoencoder` a WFVAE, from clips."""

    model: ModelSettings = ModelSettings()
    autoencoder: AutoencoderSettings | None = None
    """Train model.vae with these losses instead of model.denoiser."""
    start: StartSettings = StartSettings()
    data: DataSettings = DataSettings()
    caches: CacheSettings = CacheSettings()
    max_tokens: Count = 512
    """Longer captions are cut."""
    objective: ObjectiveSettings = ObjectiveSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    learning_rate: LearningRateSettings = LearningRateSettings()
    ema: EmaSettings | None = EmaSettings()
    """null: no average."""
    compute: ComputeSettings = ComputeSettings()
    parallel: TrainingParallelSettings = TrainingParallelSettings()
    batch_size: Count = 1
    """Clips of a micro-batch."""
    accumulate: Count = 1
    """Micro-batches of an optimiser step of the whole run; several processes share them evenly, so that a run is the
    same on any number."""
    max_steps: Count = 100000
    """Optimiser steps of the whole run."""
    seed: Annotated[int, Field(ge=0, lt=SEED_LIMIT)] = 1234
    """Decides everything that is random."""
    validation: ValidationSettings = ValidationSettings()
    show: ShowSettings = ShowSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    guard: GuardSettings = GuardSettings()
    tensorboard: Literal["auto", "on", "off"] = "auto"
    """Also write TensorBoard's file; auto: where it is installed."""
    folder: Path = Path("runs/train")
    """Of the run."""
