"""The settings of `duosora sample`, `duosora reconstruct` and `duosora evaluate`.

What depends on the model is left to its recipe (core.recipes), or to the run that made it; core.pipelines.following
fills it in. What one setting is to another (frames and the autoencoder's compression, a sampler and its options) is
checked by the part that owns the rule.
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ..errors import ConfigError
from ..random import SEED_LIMIT
from ..seam.ranks import MEET_SECONDS
from .media import MediaSettings
from .settings import FolderOrPreset, Settings, by_recipe

DType = Literal["fp32", "bf16", "fp16"]
"""Where it may be nothing: bf16 on an accelerator, fp32 on a CPU."""
TextDType = Literal["fp32", "bf16", "fp16", "int8"]
AttentionKernel = Literal["auto", "sdpa", "math", "onednn", "cudnn", "flash"]
BackendName = Literal["torch", "mindspore"]
"""Where it may be nothing: the first of them that is installed."""
Reader = Literal["pyav", "decord"]
Written = Annotated[str, BeforeValidator(lambda text: str(text) if type(text) is int else text)]
"""A text that may look like a number."""
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
FrameRate = Annotated[float, Field(ge=0.001, le=1000)]


def split_lora(text: str) -> tuple[str, float]:
    """The file and the scale of `FILE:0.8`; 1 where there is no number behind a colon."""
    file, colon, scale = text.rpartition(":")
    try:
        return (file, float(scale)) if colon and file else (text, 1.0)
    except ValueError:
        return text, 1.0


class LoraSettings(Settings):
    """LoRA that is added to the denoiser; the text FILE:0.8 is short for {file: FILE, scale: 0.8}."""

    file: Path
    """A safetensors file in the spelling of peft, diffusers, kohya or ComfyUI; a folder of peft or diffusers; or a
    run's folder or checkpoint."""
    scale: float = 1.0
    """How much of it is added; below 0 takes it away."""

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, values: Any) -> Any:
        return dict(zip(("file", "scale"), split_lora(values), strict=True)) if isinstance(values, str) else values


class ModelSettings(Settings):
    """The weights."""

    denoiser: FolderOrPreset = "tiny"
    """A preset; the folder of a model (config.json and safetensors); or a run's folder or checkpoint. Where only
    `recipe` is named, its usual one."""
    recipe: str = "auto"
    """The published system whose practice fills in what is not set, such as steps and sizes. auto: the one that the
    denoiser belongs to (the autoencoder, where one is trained); and a run's own settings say how its model is
    sampled."""
    text_encoder: Path | None = None
    """Folder of the text encoder. Presets bring their own, runs that of their training."""
    tokenizer: Path | None = None
    """Folder that holds spiece.model. Default: the text encoder's folder."""
    vae: Path | None = None
    """Folder of the autoencoder, or a run's folder or checkpoint. Presets bring their own, runs that of their
    training."""
    lora: tuple[LoraSettings, ...] = ()
    """LoRA added to the denoiser, each entry {file: FILE, scale: 0.8} or FILE:0.8: a safetensors file in the spelling
    of peft, diffusers, kohya or ComfyUI, a folder of peft or diffusers, or a run or checkpoint that trained one."""
    lora_mode: Literal["merged", "applied"] = "merged"
    """merged: add LoRA to the weights once, while they are loaded; steps take no longer. applied: leave the weights as
    they are, and add to the results of their layers in every step. Training merges always."""


class DTypeSettings(Settings):
    """The compute dtype of each part."""

    denoiser: DType | None = None
    """Transformer dtype. Default: bf16 on accelerators, fp32 on CPUs. CPUs with AVX512-BF16 or AMX are nearly twice as
    fast in bf16. The published samples used fp16 for all parts."""
    text_encoder: TextDType | None = None
    """Text encoder dtype. int8 keeps its matrices in 8 bits, a quarter of fp32, and computes in the default. Default:
    bf16 on accelerators, fp32 on CPUs."""
    vae: DType | None = None
    """Autoencoder dtype. Default: bf16 on accelerators, fp32 on CPUs."""


class BackendSettings(Settings):
    """The framework and the device."""

    name: BackendName | None = None
    """The framework. Default: torch where it is installed, otherwise mindspore."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, npu, ... The default auto takes an accelerator if there is one."""
    dtype: DTypeSettings = DTypeSettings()
    allow_slow_dtype: bool = False
    """Compute in fp16 on a CPU all the same, where torch takes 40 to 100 times as long as in fp32."""
    attention: AttentionKernel = "auto"
    """The attention kernel. auto takes the fastest; math writes the formula out; onednn is for CPUs, cudnn for GPUs
    from the Hopper generation on; flash needs fp16 or bf16, and on a GPU the package flash-attn."""
    compile: bool = False
    """Compile the denoiser (torch.compile, mindspore.jit). The first step of each size takes longer, later steps
    less."""
    offload: Literal["none", "parts", "blocks"] = "none"
    """What leaves the device to save its memory. parts: one model is loaded at a time, the denoiser makes all latents
    before the autoencoder decodes any. blocks: the denoiser's blocks lie in the host's memory, and two are on the
    device at a time, the next being copied while one computes. Text encoders are let go of anyway."""
    text_encoder: Literal["auto", "whole", "stream"] = "auto"
    """Whether the text encoder is loaded whole, or read layer by layer from its file while it encodes, with two layers
    in memory at a time and the same numbers. auto: layer by layer where the whole does not fit into free memory."""


class ParallelSettings(Settings):
    """How the processes of a run share its work. The launcher (torchrun, msrun or `duosora launch`) sets their number;
    the result does not depend on it."""

    sequence: Count = 1
    """Processes that split the tokens of one network call (sequence parallelism). The other factor of the number of
    processes runs different samples."""
    meet_seconds: Seconds = MEET_SECONDS
    """Seconds to wait until all processes have started. Then those that are there name the absent ones and end."""


class SamplingParallelSettings(ParallelSettings):
    """How the processes of a sampling run share its work."""

    cfg: bool = False
    """Run the two halves of classifier-free guidance on different processes."""


class SamplerSettings(Settings):
    """The sampler and its noise schedule."""

    choice = "name"

    name: str = by_recipe()
    """A sampler of duosora.core.samplers; upstream's names work too."""
    steps: Count = by_recipe()
    """Sampling steps."""
    objective: Literal["epsilon", "v_prediction", "sample", "flow", "velocity", "noise", "score"] = by_recipe()
    """What the network predicts. Flow samplers have one answer; the last three are those of an interpolant."""
    path: Literal["linear", "gvp", "vp"] | None = by_recipe()
    """How the interpolant of training goes from noise to data. Only for the samplers of interpolants. null: linear."""
    schedule: Literal["linear", "scaled_linear", "squared_cosine", "cogvideox"] = by_recipe()
    """The noise schedule of training. Samplers of flows and interpolants have none."""
    zero_terminal_snr: bool = by_recipe()
    """Whether the last training timestep is pure noise. Not for flow samplers."""
    spacing: Literal["leading", "trailing", "linspace"] | None = None
    """How training timesteps are chosen. Default: trailing with zero terminal SNR, otherwise leading."""
    shift: Positive | None = by_recipe()
    """Flow samplers: values above 1 spend more steps at high noise. null: 1."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Further options of one sampler, such as `timestep_transform: false` of rflow."""
    guidance: Annotated[float, Field(ge=0)] = by_recipe()
    """Classifier-free guidance scale. 1 or less switches guidance off, which halves the work."""
    guidance_rescale: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How much of the guided prediction's standard deviation is scaled back to that of the unguided one (0 to 1)."""
    guidance_channels: Count | None = by_recipe()
    """Only the first so many channels of the latents are guided. null: all."""

    @classmethod
    def unused(cls, chosen: str) -> Set[str]:
        """What a sampler has no use for; nothing for an unknown one, which is refused where it is made."""
        from .. import samplers  # they load numpy

        try:
            useful = samplers.options(chosen)
            if len(samplers.resolve(chosen).objectives) == 1:
                useful -= {"objective"}
        except ConfigError:
            return frozenset()
        return {"objective", "path", "schedule", "zero_terminal_snr", "spacing", "shift"} - useful


class BlockCacheSettings(Settings):
    """Leaving out blocks in steps that hardly differ from earlier ones. Faster, and the video is another one, more or
    less: `duosora sample --compare` tells how much."""

    choice = "kind"

    kind: Literal["first_block", "teacache", "taylor"]
    """first_block looks at what the first block does, teacache at what it reads; taylor computes every so many steps
    and predicts the others."""
    threshold: Annotated[float, Field(ge=0)] | None = None
    """first_block, teacache: steps that changed more are computed; 0 leaves nothing out. Default: 0.5 (first_block),
    0.25 (teacache)."""
    polynomial: Annotated[tuple[float, ...], Field(min_length=1)] | None = by_recipe()
    """teacache: the expected change of the output by that of what the first block reads, coefficients with the highest
    power first. null: they are equal."""
    interval: Count | None = None
    """taylor: every so many steps are computed; 1 leaves nothing out. Default: 3."""
    order: Annotated[int, Field(ge=0, le=4)] | None = None
    """taylor: of the prediction; 0 repeats the last computed step. Default: 1."""
    warmup: Count | None = None
    """Steps at the start that are computed in any case. Default: 4 (first_block), 5 (teacache), 6 (taylor)."""
    keep_last: Annotated[int, Field(ge=0)] | None = None
    """Steps at the end that are computed in any case. Default: 0."""
    most_reused: Count | None = None
    """Steps in a row that may leave out blocks. Default: 2; any number with taylor, whose interval says it."""

    @classmethod
    def unused(cls, chosen: str) -> Set[str]:
        """What a kind has no use for."""
        from .. import caching  # it loads numpy

        useful = caching.options(chosen) if chosen in caching.KINDS else cls.model_fields
        return cls.model_fields.keys() - {"kind", *useful}


class CachedSamplerSettings(SamplerSettings):
    """The sampler, its noise schedule and what it leaves out."""

    cache: BlockCacheSettings | None = None
    """Default: every step is computed."""


class VideoSettings(Settings):
    """Size, length and frame rate."""

    frames: Count = by_recipe()
    """As many as the autoencoder takes: 1 + a multiple of 4 in Open-Sora Plan. 1 makes a picture."""
    height: Count = by_recipe()
    """Pixels; a multiple of 8 times the patch size."""
    width: Count = by_recipe()
    """Pixels; a multiple of 8 times the patch size."""
    fps: FrameRate = by_recipe()
    """Frame rate of the file, times `frame_interval`; models that read a frame rate are told this one."""
    frame_interval: Count | None = by_recipe()
    """For models that learned from every n-th frame of their videos, and were told the rate of these. null: 1."""
    resolution: str | None = None
    """A size by its name, such as 240p, where the recipe has a table of sizes; with `aspect_ratio` it stands for height
    and width."""
    aspect_ratio: str = "9:16"
    """Height : width, with `resolution`. 9:16 is a landscape."""
    length: str | None = None
    """A number of frames by its name, such as 2s, where the recipe has such; it stands for `frames`."""

    @property
    def file_rate(self) -> float:
        """Frames per second of the file."""
        return self.fps / (self.frame_interval or 1)


class PromptSettings(Settings):
    """What to make."""

    sources: tuple[Written, ...] = ()
    """Prompts, and files of them (.txt, .jsonl, .json, .csv, .tsv); those on the command line take their place. For
    models that read classes, the number or the name of one."""
    classes: Path | None = None
    """File of the names of the classes, a line each in the order of their numbers, or a JSON list. Default: those that
    the model's run was trained on."""
    template: str = by_recipe()
    """Text around each prompt; {} stands for the prompt."""
    negative: Written | None = by_recipe()
    """Negative prompt for guidance, or the class that it leads away from. A prompt's own negative prompt takes its
    place. null: the caption of nothing that some models have learned, or their null class."""
    max_tokens: Count = by_recipe()
    """Longer prompts are cut."""
    aesthetic: float | None = by_recipe()
    """How beautiful the video is to be, about 4 to 7, for models that were trained with such scores. A prompt that says
    it itself keeps that. null: not said."""
    motion: float | None = by_recipe()
    """How much is to move in it (mean optical flow, about 0 to 20), likewise."""
    camera: str | None = by_recipe()
    """How the camera moves: pan left, zoom in, static, ...; likewise."""


class TileSettings(Settings):
    """Decode the picture in overlapping tiles to save memory. Blended borders differ slightly from decoding in one
    piece."""

    size: Count = 256
    """Height and width of a tile in pixels."""
    overlap: Annotated[int, Field(ge=0)] = 64
    """Pixels that neighbouring tiles share."""


class DecodeSettings(Settings):
    """Decoding latents to frames."""

    chunk: Count | None = 2
    """Latent frames per decoding chunk; the result is the same for any number. null decodes the whole clip at once and
    needs the most memory."""
    tile: TileSettings | None = None
    """Default: no tiles."""


class ConditionSettings(Settings):
    """The frames that an inpaint model gets. A line of a prompt file can bring its own."""

    images: tuple[Path, ...] = ()
    """Pictures, or one video. None: text only."""
    video: Path | None = None
    """One video, whatever its file ending, instead of images."""
    indices: tuple[int, ...] | None = None
    """Frame numbers of the pictures; negative numbers count from the end. Default: one picture is the first frame, two
    are the first and the last, a video comes first."""
    mask_type: Literal["t2iv", "i2v", "transition", "continuation", "clear", "random_temporal"] | None = None
    """For a video as long as the result: which of its frames are kept. Default: continuation."""
    mask_strategy: Written | None = None
    """For models that read references: which of their latent frames go where, entries
    `loop,reference,start,target,length,edit` separated by `;`. A prompt's JSON goes before it. Default: one picture is
    the first frame, two are the first and the last."""
    align: Count | None = None
    """With mask_strategy: starts and targets are rounded to multiples of this. Default: the autoencoder's groups."""
    noise_strength: Annotated[float, Field(ge=0)] = 0.0
    """Mean strength of the Gaussian noise added to the given pixels, which range from -1 to 1."""
    crop: bool = False
    """Crop pictures to video.height and video.width. Off: the size of the video follows the first picture."""
    max_area: Count = by_recipe()
    """With crop off: pictures are scaled down to at most this many pixels."""
    reader: Reader = "pyav"
    """The library that reads videos. decord needs the extra `decord`."""


class LoopSettings(Settings):
    """Videos of several clips, each of which goes on from the one before; for models that read references."""

    count: Count = 1
    """Clips of a video."""
    condition_frames: Count | None = by_recipe()
    """Latent frames that a clip takes over from the one before; whole groups of the autoencoder. null: one group, such
    as the five latents of 17 frames of Open-Sora 1.2."""
    edit: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How freely they may change: 0 keeps them, 1 makes them anew."""


class OutputSettings(Settings):
    """Files to write."""

    folder: Path = Path("outputs")
    """Created if missing."""
    overwrite: bool = False
    """Replace existing files. Off: a run that would replace files is refused."""
    crf: Annotated[int, Field(ge=0, le=51)] = 18
    """x264 quality: 0 is lossless, 18 looks lossless, 51 is worst."""
    save_latents: bool = False
    """Also write the latents as safetensors."""
    compare: bool = False
    """With sampler.cache: also make each video without it, and tell how much they differ."""
    grid: Annotated[int, Field(ge=0)] | None = None
    """Also write all pictures of a run as one, so many in a row; 0: do not. Default: 4 for models that read classes,
    else 0."""


class SampleConfig(Settings):
    """Sample videos or pictures from text, and from pictures where the model takes them."""

    model: ModelSettings = ModelSettings()
    backend: BackendSettings = BackendSettings()
    sampler: CachedSamplerSettings = CachedSamplerSettings()
    video: VideoSettings = VideoSettings()
    prompts: PromptSettings = PromptSettings()
    decode: DecodeSettings = DecodeSettings()
    condition: ConditionSettings = ConditionSettings()
    loop: LoopSettings = LoopSettings()
    media: MediaSettings = MediaSettings()
    parallel: SamplingParallelSettings = SamplingParallelSettings()
    output: OutputSettings = OutputSettings()
    seed: Annotated[int, Field(ge=0, lt=SEED_LIMIT)] = 42
    """The same seed gives the same video on every backend and any number of processes."""
    samples_per_prompt: Count = 1
    """Samples per prompt; their seeds count up from `seed`."""
    batch_size: Count = 1
    """Videos per network call. It does not change the videos."""


class ReconstructConfig(Settings):
    """Encode a video or a picture with the autoencoder and decode it again."""

    vae: FolderOrPreset = "tiny"
    """A preset; the folder of a WFVAE (config.json and safetensors); or a run's folder or checkpoint."""
    backend: BackendName | None = None
    """The framework. Default: torch where it is installed, otherwise mindspore."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, npu, ... The default auto takes an accelerator if there is one."""
    dtype: DType | None = None
    """Default: bf16 on accelerators, fp32 on CPUs. CPUs with AVX512-BF16 or AMX are nearly twice as fast in bf16."""
    allow_slow_dtype: bool = False
    """Compute in fp16 on a CPU all the same, where torch takes 40 to 100 times as long as in fp32."""
    frames: Count | None = None
    """Number of frames; a picture is one frame in any case. Default: all, cut to 1 + a multiple of 4."""
    every: Count = 1
    """Take every n-th frame."""
    height: Count | None = None
    """Pixels, a multiple of 8. Default: the file's height, cropped to a multiple of 8."""
    width: Count | None = None
    """Pixels, a multiple of 8. Default: the file's width, cropped to a multiple of 8."""
    chunk: Count | None = 2
    """Latent frames per chunk; the result is the same for any number. null processes the whole clip at once and needs
    the most memory."""
    tile: TileSettings | None = None
    """Default: no tiles."""
    seed: Annotated[int, Field(ge=0, lt=SEED_LIMIT)] | None = None
    """Sample the latents with this seed, as upstream always does. Default: take the mean of their distribution."""
    reader: Reader = "pyav"
    """The library that reads videos. decord needs the extra `decord`."""
    media: MediaSettings = MediaSettings()
    crf: Annotated[int, Field(ge=0, le=51)] = 18
    """x264 quality: 0 is lossless, 18 looks lossless, 51 is worst."""


class EvaluateConfig(Settings):
    """Compare clips with their references."""

    metrics: Annotated[tuple[Literal["psnr", "ssim", "lpips"], ...], Field(min_length=1)] | None = None
    """Default: psnr and ssim, and lpips if its folder is given."""
    lpips: Path | None = None
    """Folder of a backbone (VGG16 or AlexNet) and its LPIPS heads as safetensors; docs/evaluation.md says how to make
    it."""
    backend: BackendName | None = None
    """The framework; only LPIPS uses it. Default: torch where it is installed, otherwise mindspore."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, npu, ... The default auto takes an accelerator if there is one."""
    frames: Count | None = None
    """Compare the first n frames, of pictures their one. Default: all; both clips must have the same number."""
    every: Count = 1
    """Take every n-th frame of the reference, as `duosora reconstruct` did."""
    height: Count | None = None
    """Resize and crop both clips to this height in pixels. Default: the files' own size."""
    width: Count | None = None
    """Resize and crop both clips to this width in pixels. Default: the files' own size."""
    reader: Reader = "pyav"
    """The library that reads videos. decord needs the extra `decord`."""
    media: MediaSettings = MediaSettings()
