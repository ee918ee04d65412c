"""The settings of `duosora train`. What depends on the model is left to its recipe, as in core.config.schema."""

from __future__ import annotations

from collections.abc import Set
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ..errors import ConfigError
from ..random import SEED_LIMIT
from .caches import CacheSettings
from .data import DataSettings
from .schema import BackendName, Count, DType, ModelSettings, ParallelSettings, Positive, SamplerSettings, VideoSettings
from .settings import Settings, by_recipe

Share = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[float, Field(ge=0)]
Whole = Annotated[int, Field(ge=0)]


OLD_WAVELET = "wavelet_weight"


class StartSettings(Settings):
    """Initial weights."""

    weights: Path | None = None
    """Folder of a model: a published one, or `model` or `model_ema` of a checkpoint. A checkpoint stands for its
    average, a run's folder for its newest checkpoint. Default: the preset's weights."""
    fresh: bool = False
    """Initialise all weights at random, even if the preset has trained ones."""
    leave_out: tuple[str, ...] = ()
    """Name prefixes of weights that are initialised at random instead of loaded."""
    allow_missing: bool = False
    """Initialise weights that the folder does not hold, such as the conditioning layers when a text-to-video model
    becomes an inpaint model. Off: every weight must be there."""
    frozen: tuple[str, ...] = ()
    """Name prefixes of weights that are not trained."""


class TuneSettings(Settings):
    """What of a denoiser is trained."""

    choice = "kind"

    kind: Literal["full", "lora", "tensors"] = "full"
    """full: all of it. lora: two small matrices beside each of some layers, while the model itself stays as it is, in
    the compute dtype; what is written is small, and `--lora` adds it to the model. tensors: only some of its
    weights."""
    targets: tuple[str, ...] | None = None
    """lora: names of linear maps or convolutions, such as to_q, qkv or attn1.*; all-linear: every linear map inside the
    blocks. Default: the maps of all attentions. tensors: names of weights, such as scale_shift_table or
    attn2.*.weight. A name stands for all that end so, and * for anything."""
    rank: Count | None = None
    """lora: the inner size of the matrices. Default: 16."""
    alpha: Positive | None = None
    """lora: what they add is multiplied by alpha / rank. Default: the rank."""
    rslora: bool = False
    """lora: multiply by alpha / sqrt(rank) instead, so that large ranks learn as fast."""

    @classmethod
    def unused(cls, chosen: str) -> Set[str]:
        """What a kind has no use for."""
        of_lora = {"rank", "alpha", "rslora"}
        return {"full": {"targets", *of_lora}, "tensors": of_lora}.get(chosen, set())


class TimestepSettings(Settings):
    """The distribution of training timesteps."""

    kind: Literal["uniform", "stratified", "logit_normal", "mode"] = by_recipe()
    """stratified: each step draws one timestep from each of n equal ranges, n being its number of samples."""
    logit_mean: float = 0.0
    """Mean for logit_normal."""
    logit_std: Positive = 1.0
    """Standard deviation for logit_normal."""
    mode_scale: float = 1.29
    """Scale for mode."""


class ObjectiveSettings(Settings):
    """The training objective of the denoiser."""

    choice = "kind"

    kind: Literal["epsilon", "v_prediction", "sample", "flow", "rflow", "velocity", "noise", "score"] = by_recipe()
    """What the denoiser predicts: the noise, the velocity, the clean latents, the velocity of a rectified flow from the
    data to the noise (flow), or from the noise to the data (rflow); or what an interpolant at times from 0 (noise) to 1
    (data) is asked for: its velocity, its noise, or the score of its density."""
    path: Literal["linear", "gvp", "vp"] | None = by_recipe()
    """velocity, noise and score: how the interpolant goes from noise to data. null: linear, which is straight."""
    train_eps: Annotated[float, Field(ge=0, lt=0.5)] | None = None
    """velocity, noise and score: what is kept from the ends of the time. null: as path and prediction need."""
    schedule: Literal["linear", "scaled_linear", "squared_cosine", "cogvideox"] = by_recipe()
    """The noise schedule. Not used by flow."""
    zero_terminal_snr: bool = by_recipe()
    """Rescale the schedule so that the last timestep is pure noise. Not used by flow."""
    snr_gamma: Positive | None = by_recipe()
    """Gamma of min-SNR weighting. null: no weighting. Not used by flow."""
    bound: Literal["none", "hybrid", "rescaled", "alone", "alone_rescaled"] | None = by_recipe()
    """What teaches a denoiser its variance, where it predicts one. hybrid: the variational bound in bits beside the
    squared errors, which alone teach the prediction; rescaled: the bound times timesteps / 1000; alone: nothing but the
    bound; alone_rescaled: that times the timesteps. null and none: no bound, and its variance learns nothing, so
    sampling takes a fixed one."""
    speed: bool = False
    """Train as SpeeD does: on more of the timesteps at which the noise grows fast, two clips at timesteps that complete
    each other, with weights that are smaller near the clean end. Replaces timesteps; not with snr_gamma."""
    shift: Positive | None = by_recipe()
    """flow: values above 1 draw more timesteps at high noise. null: 1."""
    weighting: Literal["none", "sigma_sqrt", "cosmap", "velocity", "likelihood"] = "none"
    """Loss weight over the timesteps. flow: none, sigma_sqrt or cosmap; noise and score: none, velocity or
    likelihood."""
    timestep_transform: bool | None = by_recipe()
    """rflow: draw more timesteps at high noise the larger and longer a clip is, as its sampler does. null: false."""
    transform_scale: Positive = 1.0
    """rflow: values above 1 move them further with timestep_transform."""
    discrete: bool = False
    """rflow: whole timesteps only. Not with logit_normal."""
    frame_masks: dict[str, Share] = Field(default_factory=dict)
    """All but flow: parts of the clips of which some latent frames are left clean and have no loss, by their kind:
    random, intepolate (every other frame), and quarter_ and image_ with random, head, tail or head_tail. Such a model
    can go on from pictures and videos."""
    equal_micro_batches: bool | None = by_recipe()
    """All micro-batches of a step count alike in its loss, whatever their size. null and false: all latents do."""
    padding_counts: bool | None = by_recipe()
    """Clips of several sizes in a batch: divide its loss by the padding too, so that short clips weigh less than long
    ones. null and false: by what is no padding."""
    timesteps: TimestepSettings = TimestepSettings()
    noise_offset: Number = 0.0
    """Strength of an additional noise value that all pixels of a channel share."""
    condition_noise: bool = False
    """Inpaint models: add a little noise to most conditioning frames."""

    @classmethod
    def unused(cls, chosen: str) -> Set[str]:
        """What an objective has no use for."""
        of_diffusion = {"schedule", "zero_terminal_snr", "snr_gamma", "bound", "speed", "frame_masks"}
        of_flows = {
            "flow": {"shift", "weighting"},
            "rflow": {"timestep_transform", "transform_scale", "discrete", "frame_masks"},
            "velocity": {"path", "train_eps"},
            "noise": {"path", "train_eps", "weighting"},
            "score": {"path", "train_eps", "weighting"},
        }
        return {*of_diffusion, *chain(*of_flows.values())} - of_flows.get(chosen, of_diffusion)


class AutoencoderSettings(Settings):
    """The losses of the autoencoder."""

    image_share: Share = 0.0
    """Share of the steps that see only the first frame of their clips."""
    random_length: bool = False
    """Each step draws how many frames of its clips it sees, from 1 on: of lengths that the autoencoder takes all
    alike."""
    pixel_weight: Number = 1.0
    """Weight of the reconstruction loss on pixels with its LPIPS. 0: no pixels are made, and what makes pixels of
    latents stays as it is."""
    loss: Literal["l1", "l2"] = "l1"
    """The reconstruction loss on pixels."""
    squared_weight: Number = 0.0
    """Weight of an additional squared-error loss."""
    kl_weight: Number = 1e-6
    """Weight of the KL divergence of the latents."""
    pair_weights: dict[str, Number] = by_recipe()
    """Weights of absolute differences inside the autoencoder, by name. WFVAE has `wavelet`, between the encoder's and
    the decoder's inner sub-bands; OpenSoraVAE has `spatial`, between the frames' latents before and behind its temporal
    half, `identity`, between those of a single frame and the clip's, and `frames`, between pixels and what the
    autoencoder of frames makes of them by itself."""
    perceptual_weight: Number = 0.0
    """Weight of LPIPS; above 0 it needs `perceptual_backbone`."""
    perceptual_backbone: Path | None = None
    """Folder with VGG16 and the LPIPS heads; docs/evaluation.md says how to make it."""
    discriminator_weight: Number = 0.5
    """Weight of the adversarial loss, multiplied by the adaptive weight."""
    discriminator_factor: Number = 1.0
    """0 switches the adversarial loss off."""
    discriminator_start: Whole = 0
    """Optimiser step at which the adversarial loss starts. From then on every second step trains the discriminator."""
    discriminator_loss: Literal["hinge", "vanilla"] = "hinge"
    """Form of the adversarial loss."""
    discriminator_weight_decay: Number = 0.01
    """Weight decay of the discriminator's optimiser."""
    discriminator_max_grad_norm: Positive | None = 1.0
    """Clip the discriminator's gradient norm to this. null: no clipping."""
    logvar: float = 0.0
    """Log variance of the pixel likelihood."""
    restart_below: Number = 1.0
    """Codes of a code book that latents choose less often a step, on average, start again as latents of the batch."""

    @model_validator(mode="before")
    @classmethod
    def _read_old_names(cls, values: Any) -> Any:
        """`wavelet_weight` is what older files and checkpoints call the weight of that pair."""
        if not isinstance(values, dict) or OLD_WAVELET not in values:
            return values
        old, rest = values[OLD_WAVELET], {name: value for name, value in values.items() if name != OLD_WAVELET}
        pairs = rest.get("pair_weights") or {}
        if old is None or not isinstance(pairs, dict):
            return rest
        if "wavelet" in pairs:
            raise ValueError(f"{OLD_WAVELET} is the old name of pair_weights.wavelet; leave out one of them")
        return rest | {"pair_weights": {**pairs, "wavelet": old}}


class OptimizerSettings(Settings):
    """The optimiser."""

    name: Literal["adamw", "adamw_8bit", "prodigy"] = "adamw"
    """adamw_8bit (bitsandbytes) and prodigy (prodigyopt) need the extra `optimizers`."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay rates of the running averages of the gradient and of its square."""
    eps: Positive = by_recipe()
    """Added to the denominator for numerical stability."""
    weight_decay: Number = by_recipe()
    """Applied to every weight, biases and norms included, as upstream does."""
    max_grad_norm: Positive | None = 1.0
    """Clip the gradient norm to this. null: no clipping."""


class LearningRateSettings(Settings):
    """The learning rate schedule."""

    peak: Positive = by_recipe()
    """The highest learning rate."""
    kind: Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "hold_cosine"] = "constant"
    """Shape after the warm-up. hold_cosine stays constant for the share `hold` of the steps, then follows half a
    cosine."""
    warmup_steps: Whole = 0
    """Steps of linear warm-up from 0."""
    starts_above_zero: bool | None = by_recipe()
    """Let step n of the warm-up, from 1 on, have n / (warmup_steps + 1) of the peak. null and false: (n - 1) /
    warmup_steps."""
    floor: Share = 0.0
    """Final learning rate as a fraction of the peak."""
    cycles: Count = 1
    """Number of cycles of cosine_with_restarts."""
    power: Positive = 1.0
    """Exponent of polynomial."""
    hold: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Constant share of hold_cosine."""


class EmaSettings(Settings):
    """Exponential moving average of the weights, which usually samples better than the weights themselves."""

    decay: Annotated[float, Field(ge=0, lt=1)] = by_recipe()
    """The largest decay."""
    warms_up: bool = by_recipe()
    """Start as a plain mean and raise the decay with the number of steps."""
    start_step: Whole = 0
    """Until this step the average is a copy of the weights."""


class ComputeSettings(Settings):
    """Framework, device and precision."""

    name: BackendName | None = None
    """The framework. Default: torch where it is installed, otherwise mindspore."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, npu, ... The default auto takes an accelerator if there is one."""
    dtype: DType | None = None
    """Dtype of the forward and backward pass; weights and optimiser state stay fp32. Default: bf16 on accelerators,
    fp32 on CPUs."""
    frozen_dtype: DType | None = None
    """Dtype of the frozen text encoder and autoencoder. Default: `dtype`."""
    attention: Literal["auto", "sdpa", "math", "flash"] = "auto"
    """The attention kernel."""
    recompute_every: Whole = 0
    """Recompute the activations of every n-th block in the backward pass instead of storing them (gradient
    checkpointing): 1 all blocks, 0 none."""
    compile: bool = False
    """Compile the model. The first steps take long."""
    encode_chunk: Count | None = None
    """Latent frames per chunk when the autoencoder encodes; the result is the same for any number. null: whole
    clips."""


class TrainingParallelSettings(ParallelSettings):
    """How the processes of a training run share its work."""

    zero: Literal[0, 2, 3] = 2
    """ZeRO stage: 0 shards nothing, 2 shards optimiser state, averages and gradients, 3 shards the weights too."""
    engine: Literal["fully_shard", "deepspeed"] = "fully_shard"
    """What shards the state on torch: torch's own fully_shard, or DeepSpeed, which needs the extra `deepspeed` and
    `zero: 2`."""


class ValidationSettings(Settings):
    """Loss on held-out clips."""

    every: Count | None = None
    """Interval in optimiser steps. Default: never."""
    data: DataSettings | None = None
    """The held-out clips. Default when training on moving shapes: combinations of shape and motion that are left out of
    training."""
    batches: Count = 4
    """Number of micro-batches. Each validation uses the same clips and the same noise."""
    timesteps: Count | None = by_recipe()
    """Measure denoisers at so many fixed timesteps, spread evenly, and tell the loss of each size too. null: at one
    that is drawn for each clip as in training."""


class ShowSettings(Settings):
    """Sample videos during training."""

    every: Count | None = None
    """Interval in optimiser steps. Default: never."""
    prompts: tuple[str, ...] = ()
    """The prompts, or files of them."""
    max_tokens: Count = by_recipe()
    """Longer prompts are cut."""
    sampler: SamplerSettings = SamplerSettings()
    video: VideoSettings = VideoSettings()


class CheckpointSettings(Settings):
    """When checkpoints are written and which ones are kept."""

    every: Count | None = 1000
    """Interval in optimiser steps. null: only at the end and when the run is stopped by a signal."""
    keep: Count = 3
    """Keep the newest n checkpoints."""
    keep_every: Count | None = None
    """Also keep every checkpoint at a multiple of this step."""
    in_background: bool = False
    """Copy the state to host memory and write it while training continues."""
    changed_inputs: Literal["refuse", "accept"] = "refuse"
    """What to do on resuming when an annotation, or a model that is used but not trained, has changed."""


class GuardSettings(Settings):
    """Handling of bad steps: NaN, infinity, gradient spikes."""

    on_bad_step: Literal["stop", "skip"] = "stop"
    """stop ends the run, skip drops the step. Either way a bad step leaves the weights unchanged."""
    spike_factor: Annotated[float, Field(gt=1)] | None = None
    """A step is a spike when its gradient norm exceeds the median of the last hundred by this factor. null: only NaN
    and infinity are bad."""
    max_skips: Count = 10
    """End the run after this many bad steps in a row."""


class TrainConfig(Settings):
    """Train a denoiser, or, with the group `autoencoder`, a WFVAE."""

    model: ModelSettings = ModelSettings()
    autoencoder: AutoencoderSettings | None = None
    """Train model.vae with these losses instead of model.denoiser."""
    start: StartSettings = StartSettings()
    tune: TuneSettings = TuneSettings()
    data: DataSettings = DataSettings()
    caches: CacheSettings = CacheSettings()
    max_tokens: Count = by_recipe()
    """Longer captions are cut."""
    objective: ObjectiveSettings = ObjectiveSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    learning_rate: LearningRateSettings = LearningRateSettings()
    ema: EmaSettings | None = EmaSettings()
    """null: no average."""
    compute: ComputeSettings = ComputeSettings()
    parallel: TrainingParallelSettings = TrainingParallelSettings()
    batch_size: Count = 1
    """Clips per micro-batch. Not with data.buckets, which say their own."""
    accumulate: Count = 1
    """Micro-batches per optimiser step, counted over all processes. Processes share them evenly, so a run gives the
    same result on any number of processes."""
    max_steps: Count = 100000
    """Optimiser steps of the whole run."""
    seed: Annotated[int, Field(ge=0, lt=SEED_LIMIT)] = 1234
    """Seed of everything random."""
    validation: ValidationSettings = ValidationSettings()
    show: ShowSettings = ShowSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    guard: GuardSettings = GuardSettings()
    tensorboard: Literal["auto", "on", "off"] = "auto"
    """Also log to TensorBoard. auto: if it is installed."""
    folder: Path = Path("runs/train")
    """The folder of the run."""

    @classmethod
    def written_out(cls, values: dict[str, Any]) -> dict[str, Any]:
        """`lora: {...}` is short for `tune: {kind: lora, ...}`."""
        if "lora" not in values:
            return values
        short, rest = values["lora"], {name: value for name, value in values.items() if name != "lora"}
        if rest.get("tune"):
            raise ConfigError("lora is short for tune with kind: lora; leave out one of them")
        if not isinstance(short, dict | None):
            raise ConfigError("lora: expected settings inside it, such as rank, alpha and targets")
        return rest | {"tune": {"kind": "lora", **(short or {})}}
