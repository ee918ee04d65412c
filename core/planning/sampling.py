"""What a `sample` run needs: text encoder, denoiser and autoencoder one after the other, as the pipeline has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..models.kinds import AutoencoderSpec, DenoiserSpec, TextEncoderSpec
from ..models.work import Counted, Work
from ..parallel import budget
from ..pipelines.text import ACCELERATOR_BATCH
from ..seam.ranks import ParallelPlan
from ..shapes import NUM_COLOURS, LatentShape, VideoShape
from .constants import CACHED, FRAME_COPIES, ITEMSIZE
from .counting import (
    alive_bytes,
    call_seconds,
    called,
    first_bytes,
    first_seconds,
    layout_of,
    once_bytes,
    products_seconds,
    stream_bytes,
    weight_bytes,
)
from .devices import Device
from .forecast import Forecast, Holding, Phase

TEXT, DENOISER, VAE, RUN = "text encoder", "denoiser", "autoencoder", "run"
WEIGHTS, ACTIVATIONS, TEXTS, LIBRARIES, FRAMES = "weights", "activations", "texts", "libraries", "frames"


@dataclass(frozen=True, kw_only=True)
class SamplingCase:
    """All that memory and time of a run follow from."""

    denoiser: DenoiserSpec
    vae: AutoencoderSpec
    text_encoder: TextEncoderSpec | None
    dtypes: Mapping[str, str]
    """By kind of model."""
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
        return Forecast(device, self.split.world, phases, "the run")

    @property
    def parts(self) -> dict[str, Any]:
        """Specs by kind."""
        kinds = {"text_encoder": self.text_encoder, "denoiser": self.denoiser, "vae": self.vae}
        return {kind: spec for kind, spec in kinds.items() if spec is not None}

    def _base(self, device: Device, *tallies: Counted) -> dict[Holding, int]:
        """tallies: of the models that have been called by then."""
        return {Holding(RUN, LIBRARIES): device.floor + sum(first_bytes(tally, device) for tally in tallies)}

    def _tallies(self) -> list[Counted]:
        """Of a call of each model, in the order of the run."""
        latent = self.vae.compression.latent(next(iter(self.videos)))
        longest = max(self.texts, default=1)
        calls: list[tuple[Any, ...]] = [(self.denoiser, "work", latent, 1, longest), (self.vae, "decoding", latent, 1)]
        if self.text_encoder is not None:
            calls.insert(0, (self.text_encoder, "work", 1, longest))
        return [called(*call)[1] for call in calls]

    def _loading(self, device: Device) -> Phase:
        seconds, sizes = device.start, {}
        for kind, spec in self.parts.items():
            dtype, layout = self.dtypes[kind], layout_of(spec)
            rates = device.of(dtype)
            per_weight = rates.load + (rates.draw if kind in self.fresh else 0)
            seconds += layout.num_parameters * per_weight
            sizes[kind] = weight_bytes(layout, dtype)
        kind = max(sizes, key=lambda each: sizes[each])
        return Phase("load", {**self._base(device), Holding(_NAMES[kind], WEIGHTS): sizes[kind]}, seconds)

    def _encoding(self, encoder: TextEncoderSpec, device: Device) -> Phase:
        dtype, layout = self.dtypes["text_encoder"], layout_of(encoder)
        batch = 1 if device.on_host else min(ACCELERATOR_BATCH, max(1, len(self.texts)))
        tallies = [called(encoder, "work", 1, tokens)[1] for tokens in self.texts]
        seconds = sum(call_seconds(tally, device, dtype) for tally in tallies) / self.split.data
        longest = called(encoder, "work", batch, max(self.texts, default=1))
        seconds += first_seconds(longest[1], device)
        held = {
            **self._base(device, longest[1]),
            Holding(TEXT, WEIGHTS): weight_bytes(layout, dtype),
            Holding(TEXT, ACTIVATIONS): alive_bytes(*longest, device, dtype),
        }
        return Phase("encode text", held, seconds)

    def _denoising(self, device: Device) -> Phase:
        dtype, split = self.dtypes["denoiser"], self.split
        held: dict[Holding, int] = {}
        seconds, moved = 0.0, 0
        for video, number in self.videos.items():
            latent = self.vae.compression.latent(video)
            alone = device.on_host
            batch = 1 if alone else min(self.batch, number)
            own = -(-number // split.data)
            calls = round(self.calls * (1 - self.left_out)) * self.clips * -(-own // batch)
            rows = batch * (2 if self.is_guided and split.cfg == 1 else 1)
            work, tally = called(self.denoiser, "work", latent, rows, max(self.texts, default=1))
            seconds += calls * call_seconds(tally, device, dtype) / split.sequence
            seconds += self.clips * -(-own // batch) * products_seconds(tally.once, device, dtype)
            seconds += first_seconds(tally, device)
            moved += calls * self._moved(latent, rows, dtype)
            now = self._held_denoising(latent, batch, work, tally, device, dtype)
            held = max(held, now, key=lambda each: sum(each.values()))
        return Phase(
            "denoise", {**self._base(device, *self._tallies()[:-1]), **held}, seconds + moved / device.link, moved
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
            Holding(DENOISER, WEIGHTS): weight_bytes(layout_of(self.denoiser), dtype),
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
        dtype, layout = self.dtypes["vae"], layout_of(self.vae)
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
        weights = {
            Holding(DENOISER, WEIGHTS): weight_bytes(layout_of(self.denoiser), self.dtypes["denoiser"]),
            Holding(VAE, WEIGHTS): weight_bytes(layout, dtype),
        }
        return Phase("decode", {**self._base(device, *self._tallies()), **weights, **held}, seconds)

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
            held[Holding(VAE, "stream")] = stream_bytes(tally.products, dtype)
        return held


_NAMES = {"text_encoder": TEXT, "denoiser": DENOISER, "vae": VAE}
