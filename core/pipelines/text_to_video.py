"""Text to video: prompts -> text encoder -> denoising with guidance -> autoencoder, written once over Backend.

Every video is a function of its own prompt and seed: noise comes from the request's seed alone, so batches, ranks and
backends do not change it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from .. import random
from ..caching import CachedRun, CacheKind, CacheReport
from ..conditioning.base import ClipState, Encode
from ..conditioning.clip_facts import facts_for
from ..errors import ConfigError
from ..io.any_tokenizer import AnyTokenizer
from ..models.finding import Part
from ..models.kinds import tokens_read
from ..parallel.messages import pack, unpack
from ..samplers import Sampler
from ..seam.backend import Backend
from ..seam.group import Alone
from ..seam.models import Given, Model
from ..seam.ranks import Ranks
from ..shapes import LatentShape, TokenGrid, VideoShape, takes
from .autoencode import DecodeOptions, Draw, decode_chunks, encode_latents, posterior_noise, unscale_latents
from .denoise import Guidance, Step, denoise
from .text import ClassNumbers, EncodedTexts, encode_texts

OnCached = Callable[[int, CacheReport], None]
"""Is told the number of a request in its batch, and what the cache left out of a run for it."""


@dataclass(frozen=True)
class VideoRequest:
    """One video to make."""

    prompt: str
    """As the text encoder sees it, template applied; for a denoiser that reads classes, the number of one."""
    negative: str | None
    """None: the model's learned null caption, under the prompt's own mask, or its null class."""
    seed: int
    state: ClipState | None = None
    """What it starts from; None: noise."""
    fps: float = 24.0
    """What a denoiser that reads it is told; a picture has a rate of its own."""
    loop: int = 0
    """Which clip of a video it is; each has noise of its own."""


@dataclass(frozen=True)
class Parts:
    """The models of a pipeline, known but not loaded."""

    denoiser: Part
    text_encoder: Part | None
    """None, as the tokeniser, where the denoiser reads classes instead of texts."""
    vae: Part
    tokenizer: AnyTokenizer | None

    @property
    def all(self) -> dict[str, Part]:
        """Those that are there, by kind."""
        kinds = {"denoiser": self.denoiser, "text_encoder": self.text_encoder, "vae": self.vae}
        return {kind: part for kind, part in kinds.items() if part is not None}

    def check_latents(self) -> None:
        """See that the denoiser works on what the autoencoder makes. Raises: ConfigError."""
        denoiser, vae = self.denoiser.spec, self.vae.spec
        if denoiser.latent_channels != vae.latent_channels:
            raise ConfigError(
                f"model.denoiser works on {denoiser.latent_channels} latent channels, model.vae makes "
                f"{vae.latent_channels}; they do not belong together"
            )
        mask_frames = denoiser.further_channels - denoiser.latent_channels  # both are latents and a mask's frames
        if "channels" in denoiser.given and mask_frames != vae.compression.time:
            raise ConfigError(
                f"model.denoiser folds {mask_frames} mask frames into one, model.vae compresses time "
                f"{vae.compression.time} times; they do not belong together"
            )
        if "channels" in denoiser.given and not takes(vae.compression, 1):
            raise ConfigError(
                "model.denoiser reads a mask in which the first frame is by itself, and model.vae makes none of one "
                "frame; they do not belong together"
            )


@dataclass(frozen=True)
class Precision:
    """The compute dtype of each model, of seam.backend.DTYPES, or EIGHT_BITS of the text encoder; the denoiser's
    attention and whether it is compiled."""

    denoiser: str = "fp32"
    text_encoder: str = "fp32"
    vae: str = "fp32"
    attention: str = "auto"
    compile: bool = False
    offload: Literal["none", "parts", "blocks"] = "none"
    """What leaves the device: models that are not needed at once, or the denoiser's blocks."""
    streams_text_encoder: bool = False
    """Whether its layers are read from the file while it encodes, two being in memory at a time."""


@dataclass(frozen=True)
class Sizes:
    """One video in pixels, latents and tokens."""

    video: VideoShape
    latent: LatentShape
    tokens: TokenGrid


@dataclass
class TextToVideo:
    """The pipeline on one backend; models are loaded when they are first needed and stay until released.

    The ranks of a team make the same calls with the same requests and get the same results.
    """

    backend: Backend
    parts: Parts
    precision: Precision = field(default_factory=Precision)
    max_tokens: int = 512
    decode_options: DecodeOptions = field(default_factory=DecodeOptions)
    ranks: Ranks = field(default_factory=Ranks)
    draw: Draw = random.normal
    """Where all unit noise comes from."""
    cache: CacheKind | None = None
    """How network calls leave out blocks; None: none does."""
    loaded: dict[str, Model] = field(default_factory=dict, repr=False)
    """By kind; copies with other options share them."""

    def __post_init__(self) -> None:
        self.parts.check_latents()
        denoiser = self.parts.denoiser.spec
        encoder, channels = self.parts.text_encoder, denoiser.text_channels or denoiser.pooled_channels
        if encoder is not None and encoder.spec.channels != channels:
            raise ConfigError(
                f"model.denoiser reads text states of {channels} channels, model.text_encoder gives "
                f"{encoder.spec.channels}; they do not belong together"
            )
        if encoder is not None:
            self.max_tokens = tokens_read(denoiser, encoder.spec, self.max_tokens)

    def sizes(self, video: VideoShape) -> Sizes:
        """The sizes of a video. Raises ShapeError when the models cannot make it, naming what they can."""
        latent = self.parts.vae.spec.compression.latent(video)
        return Sizes(video, latent, self.parts.denoiser.spec.grid(latent))

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """The states of the prompts, each different text once; the first rank of a team encodes them for all."""
        if self.parts.text_encoder is None or self.parts.tokenizer is None:
            return ClassNumbers()
        team, message = self.ranks.team, b""
        if self.ranks.leads_team:
            encoder = self.model("text_encoder")
            encoded = encode_texts(self.backend, encoder, self.parts.tokenizer, texts, self.max_tokens)
            if team.size == 1:
                return encoded
            message = pack(encoded.states, encoded.cut)
        states, cut = unpack(team.share(message)[0])
        return EncodedTexts(states, cut)

    def denoise(
        self,
        requests: Sequence[VideoRequest],
        texts: EncodedTexts,
        video: VideoShape,
        new_sampler: Callable[[], Sampler],
        guidance: Guidance,
        on_step: Callable[[Step], None] | None = None,
        on_cached: OnCached | None = None,
    ) -> np.ndarray:
        """Latents (B, C, T, H, W) float32 of a batch of requests.

        On a CPU the requests are run one after the other: it gains nothing from a batch, whose other rounding
        guidance would amplify from step to step, and so a video does not depend, in any bit, on what it is made
        together with. So are those of a sampler whose steps depend on the whole batch. A cache decides for all
        requests that are run together.
        Raises: NumericsError when a step gives NaN or infinity.
        """
        size = 1 if self.backend.on_host or new_sampler().runs_alone else len(requests)
        runs = []
        for start in range(0, len(requests), size):
            batch = requests[start : start + size]
            latents, report = self._denoise_together(batch, texts, video, new_sampler(), guidance, on_step)
            runs.append(latents)
            if on_cached is not None and report is not None:
                for number in range(start, start + len(batch)):
                    on_cached(number, report)
        return np.concatenate(runs)

    def noise(self, video: VideoShape, seed: int, loop: int = 0) -> np.ndarray:
        """Unit noise (C, T, H, W) that a clip starts from."""
        return self._drawn(video, seed, "latents", loop)

    def encoder(self, seed: int) -> Encode:
        """How pixels become scaled latents, drawn with noise of a seed."""
        vae, chunk = self.parts.vae.spec, self.decode_options.chunk

        def encode(video: np.ndarray, purpose: str) -> np.ndarray:
            noise = posterior_noise(vae, VideoShape(*video.shape[1:]), seed, self.draw, purpose)
            drawn = {name: values[None] for name, values in noise.items()}
            return encode_latents(self.backend, self.model("vae"), vae, video[None], drawn, chunk, self.ranks.team)[0]

        return encode

    def decode(self, latents: np.ndarray, num_frames: int | None = None) -> Iterator[np.ndarray]:
        """Decode latents (B, C, T, H, W); pixel frames (B, 3, t, H, W) in about [-1, 1] come as they are finished.

        num_frames: as decode_chunks.
        """
        vae, options, team = self.parts.vae.spec, self.decode_options, self.ranks.team
        latents = unscale_latents(vae, latents)
        return decode_chunks(self.backend, self.model("vae"), vae, latents, options, team, num_frames)

    def model(self, kind: str) -> Model:
        """The loaded model of one part."""
        if kind not in self.loaded:
            part: Part = getattr(self.parts, kind)
            dtype = getattr(self.precision, kind)
            options: dict[str, Any] = {}
            for other in tuple(self.loaded) if self.precision.offload == "parts" else ():
                self.release(other)
            if kind == "denoiser":
                options = {"attention": self.precision.attention, "compile": self.precision.compile}
                options["sequence"] = self.ranks.sequence
                options["blocks_on"] = "host" if self.precision.offload == "blocks" else "device"
                options["adapters"] = part.adapters
            if kind == "text_encoder" and self.precision.streams_text_encoder:
                options["blocks_on"] = "file"
            self.loaded[kind] = self.backend.build(part.spec, part.open(), dtype, **options)
        return self.loaded[kind]

    def use(self, kind: str, model: Model) -> None:
        """Take a model that is in memory already, one in training, until it is released."""
        self.loaded[kind] = model

    def release(self, kind: str) -> None:
        """Let go of a model, so that its memory can hold another."""
        self.loaded.pop(kind, None)
        self.backend.free_memory()

    def _denoise_together(
        self,
        requests: Sequence[VideoRequest],
        texts: EncodedTexts,
        video: VideoShape,
        sampler: Sampler,
        guidance: Guidance,
        on_step: Callable[[Step], None] | None,
    ) -> tuple[np.ndarray, CacheReport | None]:
        latent, model = self.sizes(video).latent, self.model("denoiser")
        run = CachedRun(self.backend, len(sampler.timesteps), self.ranks.cfg if guidance.is_on else Alone())
        cached = None if self.cache is None else self.cache.over(model, run)

        def draw(purpose: str, step: int) -> np.ndarray:
            drawn = (self._drawn(video, request.seed, purpose, request.loop, step) for request in requests)
            return np.stack(list(drawn))

        with self.backend.inference():
            condition = model.condition(self._given(requests, texts, video, guidance), latent)
            states = [request.state or ClipState(self.noise(video, request.seed, request.loop)) for request in requests]
            channels = [state.channels for state in states if state.channels is not None]
            made = denoise(
                self.backend,
                cached or model,
                condition,
                np.stack([state.latents for state in states]),
                sampler,
                guidance,
                noise=lambda i: draw("step noise", i),
                channels=self.backend.asarray(np.stack(channels)) if channels else None,
                on_step=on_step,
                halves=self.ranks.cfg,
                strength=_strength(states),
                late_noise=lambda i: draw("late noise", i),
            )
        return made, None if cached is None else cached.report

    def _given(
        self, requests: Sequence[VideoRequest], texts: EncodedTexts, video: VideoShape, guidance: Guidance
    ) -> Given:
        """What the denoiser reads, for this rank's part of the network batch; nothing else is handed over."""
        halves = self.ranks.cfg
        wanted = [(request.prompt, False) for request in requests]
        # A learned null caption stands in for the prompt, under the prompt's own mask.
        unwanted = [(request.prompt if request.negative is None else request.negative) for request in requests]
        null = [(text, request.negative is None) for text, request in zip(unwanted, requests, strict=True)]
        rows = wanted
        if guidance.is_on:
            rows = null + wanted if halves.size == 1 else (null, wanted)[halves.index]
        read = texts.given([text for text, _ in rows])
        is_null = np.array([is_null for _, is_null in rows])
        of_each = [facts_for(self.parts.denoiser.spec.given, video, request.fps) for request in requests]
        facts = {name: np.concatenate([each[name] for each in of_each]) for name in of_each[0]}
        return Given(is_null=is_null if is_null.any() else None, **read, **facts)

    def _drawn(self, video: VideoShape, seed: int, purpose: str, loop: int, step: int = 0) -> np.ndarray:
        shape = (self.parts.denoiser.spec.latent_channels, *self.sizes(video).latent)
        return self.draw(shape, seed, f"{purpose}, loop {loop}" if loop else purpose, step=step)


def _strength(states: Sequence[ClipState]) -> np.ndarray | None:
    """(B, T); None where all frames of all clips are made from noise."""
    if all(state.strength is None for state in states):
        return None
    frames = states[0].latents.shape[1]
    return np.stack([np.ones(frames, np.float32) if each.strength is None else each.strength for each in states])
