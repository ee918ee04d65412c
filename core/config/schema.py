"""The settings of `duosora sample`, `duosora reconstruct` and `duosora evaluate`. Defaults are the published practice
of Open-Sora Plan v1.3, with the tiny model.

What one setting is to another (frames and the autoencoder's compression, a sampler and its options) is checked by the
part that owns the rule.
Source: Open-Sora Plan v1.3, opensora/sample and its scripts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ..parallel.roll_call import MEET_SECONDS
from ..random import SEED_LIMIT
from .settings import Settings

DType = Literal["fp32", "bf16", "fp16"]
"""Where it may be nothing: bf16 on an accelerator, fp32 on a CPU."""
Reader = Literal["pyav", "decord"]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
FrameRate = Annotated[float, Field(ge=0.001, le=1000)]

PROMPT_TEMPLATE = "high quality, high aesthetic, {}"
NEGATIVE_PROMPT = (
    "nsfw, lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, cropped, "
    "worst quality, low quality, normal quality, jpeg artifacts, signature, watermark, username, blurry."
)


class ModelSettings(Settings):
    """Where the weights are."""

    denoiser: str = "tiny"
    """A preset, or the folder of a T2V or inpaint model (config.json and safetensors)."""
    text_encoder: Path | None = None
    """Folder of the mT5 encoder; a preset has its own."""
    tokenizer: Path | None = None
    """Folder of spiece.model; nothing: the text encoder's folder."""
    vae: Path | None = None
    """Folder of the WFVAE; a preset has its own."""


class DTypeSettings(Settings):
    """The number format of each part."""

    denoiser: DType | None = None
    """Of the transformer; published samples were made with all parts in fp16. Nothing: bf16 on an accelerator, else
    fp32."""
    text_encoder: DType | None = None
    """Of mT5."""
    vae: DType | None = None
    """Of the autoencoder."""


class BackendSettings(Settings):
    """What computes."""

    name: Literal["torch", "mindspore"] = "torch"
    """The framework."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, npu, ...; auto takes an accelerator when there is one."""
    dtype: DTypeSettings = DTypeSettings()
    attention: Literal["auto", "sdpa", "math", "flash"] = "auto"
    """The attention kernel; math is the formula written out, flash needs fp16 or bf16, and flash-attn on a GPU."""
    compile: bool = False
    """Compile the denoiser (torch.compile, mindspore.jit): the first step of each size takes longer, the others are
    faster."""


class ParallelSettings(Settings):
    """How the processes that torchrun, msrun or `duosora launch` started share the work; what is made is the same."""

    sequence: Count = 1
    """Processes that share the tokens of each network call; what is left over works on other samples."""
    meet_seconds: Seconds = MEET_SECONDS
    """Seconds in which all processes must have started; then those that are there name the absent and end."""


class SamplingParallelSettings(ParallelSettings):
    """How the processes of a sampling run share the work."""

    cfg: bool = False
    """Each half of guidance has processes of its own."""


class SamplerSettings(Settings):
    """How noise becomes latents."""

    name: str = "euler_ancestral"
    """One of duosora.core.samplers, or upstream's name of it."""
    steps: Count = 100
    """Calls of the network."""
    objective: Literal["epsilon", "v_prediction", "sample", "flow"] | None = None
    """What the network was trained to predict; nothing: v_prediction, as the published models, or flow for flow
    samplers."""
    schedule: Literal["linear", "scaled_linear"] | None = None
    """The noise schedule it was trained on; nothing: linear, as the published models. Not for flow samplers."""
    zero_terminal_snr: bool | None = None
    """Whether the schedule's last timestep was noise only; nothing: yes, as the published models. Not for flow
    samplers."""
    spacing: Literal["leading", "trailing", "linspace"] | None = None
    """Which training timesteps are used; nothing: trailing with zero terminal SNR, else leading."""
    shift: Positive | None = None
    """Flow samplers: above 1, more steps at high noise."""
    guidance: Annotated[float, Field(ge=0)] = 7.5
    """Scale of classifier-free guidance; 1 and below switch it off, which halves the work."""
    guidance_rescale: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How far guided predictions are brought back to the spread of unguided ones."""


class VideoSettings(Settings):
    """What is made."""

    frames: Count = 93
    """1 + a multiple of 4; 1 makes a picture."""
    height: Count = 352
    """Pixels, a multiple of 8 and of the patches."""
    width: Count = 640
    """Pixels, a multiple of 8 and of the patches."""
    fps: FrameRate = 18.0
    """Frames per second of the file; the model does not see it."""


class PromptSettings(Settings):
    """What is asked for."""

    sources: tuple[str, ...] = ()
    """Prompts, .txt files (one a line) and .jsonl files; those on the command line take their place."""
    template: str = PROMPT_TEMPLATE
    """Put around each prompt, which goes in place of {}."""
    negative: str = NEGATIVE_PROMPT
    """What guidance leads away from, where a prompt has no negative of its own."""
    max_tokens: Count = 512
    """Longer prompts are cut."""


class TileSettings(Settings):
    """Decoding in parts of the picture, to save memory. Blended borders are not exactly what one piece gives."""

    size: Count = 256
    """Height and width of a tile in pixels."""
    overlap: Annotated[int, Field(ge=0)] = 64
    """Pixels that neighbouring tiles share."""


class DecodeSettings(Settings):
    """From latents to frames."""

    chunk: Count | None = 2
    """Latent frames decoded at a time, exact at any number; nothing decodes all at once and needs the most memory."""
    tile: TileSettings | None = None
    """Nothing: whole pictures."""


class ConditionSettings(Settings):
    """The frames that the inpaint model is given. A line of a .jsonl file brings its own instead."""

    images: tuple[Path, ...] = ()
    """Pictures, or one video; none: text only."""
    indices: tuple[int, ...] | None = None
    """Which frames they are, negative ones from the end; nothing: one first, two at both ends, a video in front."""
    mask_type: Literal["t2iv", "i2v", "transition", "continuation", "clear", "random_temporal"] | None = None
    """For a video as long as the result: which of its frames are kept; nothing: continuation."""
    noise_strength: Annotated[float, Field(ge=0)] = 0.0
    """About how much normal noise is put on given pixels, in units of [-1, 1]."""
    crop: bool = False
    """Cut pictures to video.height and video.width; off, the size follows the first picture."""
    max_area: Count = 236544
    """With crop off: pictures are shrunk to at most this many pixels."""
    reader: Reader = "pyav"
    """The library that reads videos; decord needs the package decord2."""


class OutputSettings(Settings):
    """What is written."""

    folder: Path = Path("outputs")
    """Made when missing."""
    overwrite: bool = False
    """Replace files that exist; off, they are kept and the run is refused."""
    crf: Annotated[int, Field(ge=0, le=51)] = 18
    """x264's quality: 0 lossless, 18 hardly visible, 51 worst."""
    save_latents: bool = False
    """Also write the latents, as safetensors."""


class SampleConfig(Settings):
    """Text, and pictures where the model takes them, to video."""

    model: ModelSettings = ModelSettings()
    backend: BackendSettings = BackendSettings()
    sampler: SamplerSettings = SamplerSettings()
    video: VideoSettings = VideoSettings()
    prompts: PromptSettings = PromptSettings()
    decode: DecodeSettings = DecodeSettings()
    condition: ConditionSettings = ConditionSettings()
    parallel: SamplingParallelSettings = SamplingParallelSettings()
    output: OutputSettings = OutputSettings()
    seed: Annotated[int, Field(ge=0, lt=SEED_LIMIT)] = 42
    """The same seed gives the same video on every backend and any number of ranks."""
    samples_per_prompt: Count = 1
    """Each with a seed of its own, counted up from `seed`."""
    batch_size: Count = 1
    """Videos made at the same time; it does not change them."""


class ReconstructConfig(Settings):
    """A video or a picture through the autoencoder and back."""

    vae: str = "tiny"
    """A preset, or the folder of a WFVAE (config.json and safetensors)."""
    backend: Literal["torch", "mindspore"] = "torch"
    """The framework."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, npu, ...; auto takes an accelerator when there is one."""
    dtype: DType | None = None
    """Nothing: bf16 on an accelerator, else fp32."""
    frames: Count | None = None
    """How many frames; nothing: all of them, cut to 1 + a multiple of 4."""
    every: Count = 1
    """Take every so many-th frame."""
    height: Count | None = None
    """Pixels, a multiple of 8; nothing: the file's own, cut to one."""
    width: Count | None = None
    """Pixels, a multiple of 8; nothing: the file's own, cut to one."""
    chunk: Count | None = 2
    """Latent frames at a time, exact at any number; nothing works on the whole clip at once and needs the most
    memory."""
    tile: TileSettings | None = None
    """Nothing: whole pictures."""
    seed: Annotated[int, Field(ge=0, lt=SEED_LIMIT)] | None = None
    """Nothing takes the mean of the latents' distribution; a seed draws from it, as upstream always does."""
    reader: Reader = "pyav"
    """The library that reads videos; decord needs the package decord2."""
    crf: Annotated[int, Field(ge=0, le=51)] = 18
    """x264's quality: 0 lossless, 18 hardly visible, 51 worst."""


class EvaluateConfig(Settings):
    """Clips against those that they should equal."""

    metrics: Annotated[tuple[Literal["psnr", "ssim", "lpips"], ...], Field(min_length=1)] | None = None
    """Which figures; nothing: psnr and ssim, and lpips where its folder is given."""
    lpips: Path | None = None
    """Folder with a backbone (VGG16 or AlexNet) and its LPIPS heads as safetensors; docs/evaluation.md says how to make
    it."""
    backend: Literal["torch", "mindspore"] = "torch"
    """The framework, which only LPIPS needs."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, npu, ...; auto takes an accelerator when there is one."""
    frames: Count | None = None
    """Compare the first so many; nothing: all, and both must have as many."""
    every: Count = 1
    """Take every so many-th frame of the reference, as the generated clip was made with."""
    height: Count | None = None
    """Pixels that both are cut and resized to; nothing: the files' own."""
    width: Count | None = None
    """Pixels that both are cut and resized to; nothing: the files' own."""
    reader: Reader = "pyav"
    """The library that reads videos; decord needs the package decord2."""
