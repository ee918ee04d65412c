"""What a `sample` run needs: text encoder, denoiser and autoencoder one after the other, as the pipeline has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..models.kinds import AutoencoderSpec, DenoiserSpec, TextEncoderSpec
from ..models.work import Counted, Work
from ..parallel import budget
from ..pipelines.text import ACCELERATOR_BATCH
from ..seam.backend import compute_dtype
from ..seam.ranks import ParallelPlan
from ..shapes import NUM_COLOURS, LatentShape, VideoShape
from .constants import CACHED, FRAME_COPIES, ITEMSIZE
from .counting import (
    alive_bytes,
    call_seconds,
    called,
    first_seconds,
    kernel_bytes,
    layout_of,
    once_bytes,
    products_seconds,
    stream_bytes,
)
from .devices import Device
from .forecast import ACTIVATIONS, RUN, STREAM, Forecast, Holding, Phase, with_slack
from .placed import HeldWeights, hosted, streamed_bytes, whole_bytes, widened_bytes, widening_seconds

TEXT, DENOISER, VAE = "text encoder", "denoiser", "autoencoder"
WEIGHTS, TEXTS, LIBRARIES, FRAMES = "weights", "texts", "libraries", "frames"


@dataclass(frozen=True, kw_only=True)
class SamplingCase:
    """All that memory and time of a run follow from."""

    denoiser: DenoiserSpec
    vae: AutoencoderSpec
    text_encoder: TextEncoderSpec | None
    dtypes: Mapping[str, str]
    """By kind of model; EIGHT_BITS of a text encoder."""
    offload: Literal["none", "parts", "blocks"] = "none"
    streams_text_encoder: bool = False
    """Whether it is read layer by layer while it encodes."""
    fresh: frozenset[str] = frozenset()
    """Kinds whose weights are drawn."""
    videos: Mapping[VideoShape, int]
    """How many of each size."""
    calls: int
    """Of the denoiser for a clip; those of the halves of guidance are one."""
    is_guided: bool
    texts: Sequence[int] = ()
    """Tokens of each different text."""
    batch: int = 1
    """Videos in a call."""
    left_out: float = 0.0
    """Share of the calls that a cache answers with what it has stored."""
    clips: int = 1
    """Of a video."""
    chunk: int | None = None
    """Latent frames that are decoded at a time."""
    tile: int | None = None
    """Latents of a side that are decoded at a time."""
    split: ParallelPlan = field(default_factory=ParallelPlan)

    def forecast(self, device: Device) -> Forecast:
        """On a device, or several alike. Raises: ConfigError for a dtype that it has not."""
        phases = [self._loading(device)]
        if self.text_encoder is not None:
            phases.append(self._encoding(self.text_encoder, device))
        phases += [self._denoising(device), self._decoding(device)]
        return Forecast(device, self.split.world, with_slack(phases, device), "the run")

    @property
    def parts(self) -> dict[str, Any]:
        """Specs by kind."""
        kinds = {"text_encoder": self.text_encoder, "denoiser": self.denoiser, "vae": self.vae}
        return {kind: spec for kind, spec in kinds.items() if spec is not None}

    def _base(self, device: Device, *kinds: str) -> dict[Holding, int]:
        """kinds: of the models that have been called by then."""
        latent = self.vae.compression.latent(next(iter(self.videos)))
        longest = max(self.texts, default=1)
        calls: dict[str, tuple[Any, ...]] = {
            "text_encoder": (self.text_encoder, "work", 1, longest),
            "denoiser": (self.denoiser, "work", latent, 1, longest),
            "vae": (self.vae, "decoding", latent, 1),
        }
        kernels = sum(
            kernel_bytes(called(*calls[kind])[1], device, compute_dtype(self.dtypes[kind], device.on_host))
            for kind in kinds
            if kind in self.parts
        )
        return {Holding(RUN, LIBRARIES): device.floor + kernels}

    def _weights(self, kind: str, device: Device) -> HeldWeights:
        """Of a model while it computes."""
        dtype = self.dtypes[kind]
        if kind == "text_encoder" and self.streams_text_encoder and self.text_encoder is not None:
            return HeldWeights(streamed_bytes(self.text_encoder, sum(self.texts), dtype, device))
        if kind == "denoiser" and self.offload == "blocks":
            return hosted(self.denoiser, dtype, device)
        return HeldWeights(whole_bytes(layout_of(self.parts[kind]), dtype, device))

    def _load_seconds(self, kind: str, device: Device) -> float:
        """To read, or to draw, all weights of a model once."""
        rates = device.of(compute_dtype(self.dtypes[kind], device.on_host))
        return layout_of(self.parts[kind]).num_parameters * (rates.load + (rates.draw if kind in self.fresh else 0.0))

    def _loading(self, device: Device) -> Phase:
        seconds, sizes = device.start, {}
        for kind in self.parts:
            sizes[kind] = self._weights(kind, device)
            if kind != "text_encoder" or not self.streams_text_encoder:  # else it is read while it encodes
                loads = self.clips if self.offload == "parts" and kind != "text_encoder" else 1
                seconds += loads * self._load_seconds(kind, device)
        kind = max(sizes, key=lambda each: sizes[each].device)
        held = {**self._base(device), Holding(_NAMES[kind], WEIGHTS): sizes[kind].device}
        return Phase("load", held, seconds, on_host=self._hosted(device))

    def _hosted(self, device: Device) -> int:
        """Of the denoiser's blocks."""
        return self._weights("denoiser", device).host

    def _encoding(self, encoder: TextEncoderSpec, device: Device) -> Phase:
        dtype = self.dtypes["text_encoder"]
        computed = compute_dtype(dtype, device.on_host)
        batch = 1 if device.on_host else min(ACCELERATOR_BATCH, max(1, len(self.texts)))
        tallies = [called(encoder, "work", 1, tokens)[1] for tokens in self.texts]
        seconds = sum(call_seconds(each, device, computed) + widening_seconds(each, dtype, device) for each in tallies)
        longest = called(encoder, "work", batch, max(self.texts, default=1))
        states = ITEMSIZE[computed] * encoder.channels * sum(self.texts) if self.streams_text_encoder else 0
        held = {
            **self._base(device, "text_encoder"),
            Holding(TEXT, WEIGHTS): self._weights("text_encoder", device).device,
            Holding(TEXT, ACTIVATIONS): alive_bytes(*longest, device, computed)
            + states
            + widened_bytes(encoder, dtype, device),
        }
        seconds /= self.split.data
        if self.streams_text_encoder:  # the next block is read while one computes
            seconds = max(seconds, self._load_seconds("text_encoder", device))
        return Phase("encode text", held, seconds + first_seconds(longest[1], device))

    def _denoising(self, device: Device) -> Phase:
        dtype, split = self.dtypes["denoiser"], self.split
        held: dict[Holding, int] = {}
        seconds, moved, copied = 0.0, 0, self._hosted(device)
        num_copies = 0
        for video, number in self.videos.items():
            latent = self.vae.compression.latent(video)
            alone = device.on_host
            batch = 1 if alone else min(self.batch, number)
            own = -(-number // split.data)
            calls = round(self.calls * (1 - self.left_out)) * self.clips * -(-own // batch)
            rows = batch * (2 if self.is_guided and split.cfg == 1 else 1)
            work, tally = called(self.denoiser, "work", latent, rows, max(self.texts, default=1))
            # The next block is copied while one computes.
            seconds += calls * max(call_seconds(tally, device, dtype) / split.sequence, copied / device.host)
            num_copies += calls
            seconds += self.clips * -(-own // batch) * products_seconds(tally.once, device, dtype)
            seconds += first_seconds(tally, device)
            moved += calls * self._moved(latent, rows, dtype)
            now = self._held_denoising(latent, batch, work, tally, device, dtype)
            held = max(held, now, key=lambda each: sum(each.values()))
        return Phase(
            "denoise",
            {**self._base(device, "text_encoder", "denoiser"), **held},
            seconds + moved / device.link,
            moved,
            num_copies * copied,
            copied,
        )

    def _held_denoising(
        self, latent: LatentShape, batch: int, work: Work, tally: Counted, device: Device, dtype: str
    ) -> dict[Holding, int]:
        state = 4 * batch * self.denoiser.latent_channels * latent.frames * latent.height * latent.width
        stored = (
            CACHED
            * self._tokens(latent, batch * (2 if self.is_guided else 1))
            * self.denoiser.costs().width
            * ITEMSIZE[dtype]
            if self.left_out
            else 0
        )
        return {
            Holding(DENOISER, WEIGHTS): self._weights("denoiser", device).device,
            **({Holding(DENOISER, "cache"): stored // self.split.sequence} if stored else {}),
            Holding(DENOISER, TEXTS): once_bytes(tally, dtype),
            Holding(DENOISER, ACTIVATIONS): alive_bytes(work, tally, device, dtype) // self.split.sequence + 8 * state,
        }

    def _tokens(self, latent: LatentShape, rows: int) -> int:
        return rows * self.denoiser.grid(latent).num_tokens

    def _moved(self, latent: LatentShape, rows: int, dtype: str) -> int:
        if self.split.sequence == 1:
            return 0
        tokens = self.denoiser.grid(latent).num_tokens
        return budget.call_bytes(self.denoiser.costs(), rows, tokens, self.split.sequence, dtype)

    def _decoding(self, device: Device) -> Phase:
        dtype = self.dtypes["vae"]
        held: dict[Holding, int] = {}
        seconds = 0.0
        team = self.split.cfg * self.split.sequence
        for video, number in self.videos.items():
            latent = self.vae.compression.latent(video)
            _, whole = called(self.vae, "decoding", latent, 1)
            seconds += number * self.clips * call_seconds(whole, device, dtype) / (self.split.data * team)
            seconds += first_seconds(whole, device)
            now = self._held_decoding(video, latent, device, dtype)
            held = max(held, now, key=lambda each: sum(each.values()))
        stay = ("vae",) if self.offload == "parts" else ("denoiser", "vae")
        weights = {Holding(_NAMES[kind], WEIGHTS): self._weights(kind, device).device for kind in stay}
        base = self._base(device, "text_encoder", "denoiser", "vae")
        return Phase("decode", {**base, **weights, **held}, seconds, on_host=self._hosted(device))

    def _held_decoding(self, video: VideoShape, latent: LatentShape, device: Device, dtype: str) -> dict[Holding, int]:
        frames = max(chunk.stop - chunk.start for chunk in self.vae.chunks(latent.frames, self.chunk))
        is_stream = frames < latent.frames and self.vae.streams_exactly
        side = self.tile or max(latent.height, latent.width)
        piece = LatentShape(frames, min(latent.height, side), min(latent.width, side))
        work, tally = called(self.vae, "decoding", piece, 1, is_stream)
        pixels = NUM_COLOURS * self.vae.compression.video(piece).frames * video.height * video.width
        held = {
            Holding(VAE, ACTIVATIONS): alive_bytes(work, tally, device, dtype),
            Holding(RUN, FRAMES): 4 * FRAME_COPIES * pixels + NUM_COLOURS * video.frames * video.height * video.width,
        }
        if is_stream:
            waiting = stream_bytes(tally.products, dtype)
            # Where frames wait, the first chunk, those between and the last have shapes of their own.
            held[Holding(VAE, STREAM)] = waiting + (2 * kernel_bytes(tally, device, dtype) if waiting else 0)
        return held


_NAMES = {"text_encoder": TEXT, "denoiser": DENOISER, "vae": VAE}
