"""What a step of a `train` run needs: the state, the passes over its micro-batches, the update, and what is encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from ..layout import Layout
from ..models.kinds import AutoencoderSpec, DenoiserSpec, TextEncoderSpec
from ..models.lpips import LPIPSSpec
from ..models.patch_discriminator import PatchDiscriminatorSpec
from ..models.work import Counted
from ..parallel import budget
from ..seam.ranks import ParallelPlan
from ..shapes import NUM_COLOURS, LatentShape, VideoShape
from .constants import BACKWARD, FROZEN_BACKWARD, FROZEN_CONVOLUTION_KEPT, FROZEN_KEPT, ITEMSIZE, UPDATE_PASSES
from .counting import alive_bytes, call_seconds, called, kept_bytes, kernel_bytes, layout_of, products_seconds
from .devices import Device
from .forecast import ACTIVATIONS, RUN, Forecast, Holding, Phase, with_slack
from .placed import whole_bytes
from .sampling import DENOISER, LIBRARIES, TEXT, VAE, WEIGHTS

DISCRIMINATOR, PERCEPTUAL = "discriminator", "LPIPS"


@dataclass(frozen=True, kw_only=True)
class TrainingCase:
    """All that memory and time of a step follow from."""

    denoiser: DenoiserSpec | None
    """None: the autoencoder is trained."""
    vae: AutoencoderSpec
    text_encoder: TextEncoderSpec | None
    video: VideoShape
    """The largest clip."""
    batch: int
    """Clips of a micro-batch."""
    micro_batches: int
    """Of a step, over all devices."""
    text: int
    """Tokens of a caption, as assumed."""
    dtype: str
    frozen_dtype: str
    zero: int = 0
    recompute_every: int = 0
    keeps_average: bool = True
    trained_share: float = 1.0
    """Of the weights, those that are trained."""
    adapters: int = 0
    """Numbers in the matrices of LoRA, which alone are trained then; 0: there are none."""
    encodes_texts: bool = True
    encodes_clips: bool = True
    """False: they come from a cache."""
    encode_chunk: int | None = None
    held_out: bool = False
    discriminator: PatchDiscriminatorSpec | None = None
    perceptual: LPIPSSpec | None = None
    split: ParallelPlan = field(default_factory=ParallelPlan)

    def forecast(self, device: Device) -> Forecast:
        """On a device, or several alike. Raises: ConfigError for a dtype that it has not."""
        phases = [Phase("state", self._state(device), 0.0)]
        if self.denoiser is not None:
            phases.append(self._encoding(self.denoiser, device))
        phases += [self._passes(device), self._update(device)]
        if self.held_out:
            phases.append(self._held_out(device))
        return Forecast(device, self.split.world, with_slack(phases, device), "a step")

    @property
    def latent(self) -> LatentShape:
        """Of the largest clip."""
        return self.vae.compression.latent(self.video)

    @property
    def own_micro_batches(self) -> int:
        """Of a device, with those that it shares with the others of its team."""
        return -(-self.micro_batches // self.split.data)

    @property
    def _layout(self) -> Layout:
        return layout_of(self.denoiser or self.vae)

    @property
    def _num_trained(self) -> int:
        return self.adapters or self._layout.num_parameters

    @property
    def _part(self) -> str:
        return VAE if self.denoiser is None else DENOISER

    def _state(self, device: Device) -> dict[Holding, int]:
        layout = self._layout
        blocks = max(1, len(self.denoiser.blocks())) if self.denoiser else 1
        zero = self.zero if self.denoiser else 0
        state = budget.training_state(self._num_trained, self.split.world, zero, "fp32", self.keeps_average, blocks)
        kernels = sum(kernel_bytes(called(*call)[1], device, self.dtype) for call in self._calls())
        held = {Holding(RUN, LIBRARIES): device.floor + 2 * kernels}  # forward and backward
        if self.adapters:
            held[Holding(self._part, "frozen weights")] = whole_bytes(layout, self.dtype, device)
        held |= {Holding(self._part, what): size for what, size in state._asdict().items() if size}
        for what in ("gradients", "moments", "average"):
            if size := held.get(Holding(self._part, what)):
                held[Holding(self._part, what)] = int(size * self.trained_share)
        if self.discriminator is not None:
            judge = 4 * layout_of(self.discriminator).num_parameters
            held |= {Holding(DISCRIMINATOR, WEIGHTS): judge, Holding(DISCRIMINATOR, "gradients"): judge}
            held[Holding(DISCRIMINATOR, "moments")] = 2 * judge
        if self.perceptual is not None:
            held[Holding(PERCEPTUAL, WEIGHTS)] = 4 * layout_of(self.perceptual).num_parameters
        return held | self._frozen(device)

    def _frozen(self, device: Device) -> dict[Holding, int]:
        """Of the models that stay as they are, and in memory."""
        held = {}
        if self.denoiser is not None and self.encodes_clips:
            held[Holding(VAE, WEIGHTS)] = whole_bytes(layout_of(self.vae), self.frozen_dtype, device)
        if self.text_encoder is not None and self.encodes_texts:
            held[Holding(TEXT, WEIGHTS)] = whole_bytes(layout_of(self.text_encoder), self.frozen_dtype, device)
        return held

    def _encoding(self, denoiser: DenoiserSpec, device: Device) -> Phase:
        dtype, clips = self.frozen_dtype, self.batch * self.own_micro_batches
        seconds, held = 0.0, self._state(device)
        if self.text_encoder is not None and self.encodes_texts:
            work, tally = called(self.text_encoder, "work", 1, self.text)
            seconds += clips * call_seconds(tally, device, dtype)
            held[Holding(TEXT, ACTIVATIONS)] = alive_bytes(work, tally, device, dtype)
        if self.encodes_clips:
            latent = self.latent
            seconds += clips * call_seconds(called(self.vae, "encoding", latent, 1)[1], device, dtype)
            frames = min(self.encode_chunk or latent.frames, latent.frames)
            work, tally = called(self.vae, "encoding", latent._replace(frames=frames), 1)
            pixels = 4 * NUM_COLOURS * self.video.frames * self.video.height * self.video.width
            held[Holding(VAE, ACTIVATIONS)] = alive_bytes(work, tally, device, dtype) + 2 * pixels
        return Phase("encode", held, seconds)

    def _calls(self) -> list[tuple[Any, ...]]:
        """Of a micro-batch with gradients: what `called` takes."""
        if self.denoiser is not None:
            return [(self.denoiser, "work", self.latent, self.batch, self.text)]
        calls: list[tuple[Any, ...]] = [(self.vae, half, self.latent, self.batch) for half in ("encoding", "decoding")]
        if self.discriminator is not None:
            calls.append((self.discriminator, "work", self.video, 2 * self.batch))
        return calls

    def _passes(self, device: Device) -> Phase:
        dtype, tallies = self.dtype, [called(*call)[1] for call in self._calls()]
        forward = sum(
            call_seconds(tally, device, dtype) + products_seconds(tally.once, device, dtype) for tally in tallies
        )
        again = 1 / self.recompute_every if self.recompute_every else 0.0
        seconds = (
            forward
            * (1 + (FROZEN_BACKWARD if self.adapters else BACKWARD[self.denoiser is None]) + again)
            * self.own_micro_batches
            / self.split.sequence
        )
        seconds += self.own_micro_batches * self._perceptual_seconds(device)
        moved = self.own_micro_batches * self._moved() + self._exchanged()
        held = self._state(device) | self._casts()
        held[Holding(self._part, ACTIVATIONS)] = sum(map(self._kept, self._calls())) // self.split.sequence
        if self.perceptual is not None:
            kept = kept_bytes(self._looks(self.perceptual, 1), dtype)
            held[Holding(PERCEPTUAL, ACTIVATIONS)] = int(FROZEN_CONVOLUTION_KEPT * kept)
        return Phase("forward and backward", held, seconds + moved / device.link, moved)

    def _looks(self, perceptual: LPIPSSpec, of_a_pair: int) -> Counted:
        """A call of LPIPS, for one or both pictures of each pair."""
        frames, height, width = self.video
        return called(perceptual, "work", height, width, of_a_pair * self.batch * frames)[1]

    def _perceptual_seconds(self, device: Device) -> float:
        """Of LPIPS: it looks at both videos, and gradients go to the one that was made."""
        if self.perceptual is None:
            return 0.0
        seconds = (call_seconds(self._looks(self.perceptual, both), device, self.dtype) for both in (2, 1))
        return next(seconds) + FROZEN_BACKWARD * next(seconds)

    def _casts(self) -> dict[Holding, int]:
        """Weights in the dtype of the passes."""
        if self.dtype == "fp32" or self.adapters:
            return {}
        # Those that stay as they are are cast where they are used; gradients come in this dtype too.
        trained = int(self.trained_share * self._layout.num_parameters)
        return {Holding(self._part, "casts"): 2 * ITEMSIZE[self.dtype] * trained}

    def _kept(self, call: tuple[Any, ...]) -> int:
        """Bytes that the backward pass wants of a call."""
        tally = called(*call)[1]
        share = FROZEN_KEPT if self.adapters else 1.0
        whole, blocks = int(share * kept_bytes(tally, self.dtype)), self._blocks()
        if not self.recompute_every or not blocks:
            return whole
        again = blocks[:: self.recompute_every]
        of_one = int(share * kept_bytes(called(*call, only=(again[0],))[1], self.dtype))
        inputs = sum(product.places * product.inputs for product in list(tally.products)[-1:]) * len(again)
        return max(0, whole - of_one * (len(again) - 1)) + ITEMSIZE["fp32"] * inputs

    def _blocks(self) -> Sequence[str]:
        if self.denoiser is not None:
            return [f"{name}." for name in self.denoiser.blocks()]
        return [f"{name}." for half in self.vae.blocks().values() for name in half]

    def _moved(self) -> int:
        """Bytes of a micro-batch that the devices of a sequence send each other."""
        if self.denoiser is None or self.split.sequence == 1:
            return 0
        tokens = self.denoiser.grid(self.latent).num_tokens
        shape = (self.batch, tokens, self.split.sequence, self.dtype, self.recompute_every > 0)
        return budget.micro_batch_bytes(self.denoiser.costs(), *shape)

    def _exchanged(self) -> int:
        """Bytes of gradients and weights."""
        if self.split.world == 1:
            return 0
        zero = self.zero if self.denoiser else 0
        return budget.state_bytes(self._num_trained, self.split.world, zero, self.own_micro_batches)

    def _update(self, device: Device) -> Phase:
        share = self.split.world if self.zero and self.denoiser else 1
        trained = self._num_trained * self.trained_share / share
        seconds = UPDATE_PASSES * 4 * trained / device.of("fp32").elementwise
        largest = max((4 * prod(weight.shape) for weight in self._layout.weights.values()), default=0)
        return Phase("update", {**self._state(device), Holding(self._part, ACTIVATIONS): 2 * largest}, seconds)

    def _held_out(self, device: Device) -> Phase:
        """Of one micro-batch."""
        held, seconds = self._state(device), 0.0
        for call in self._calls():
            work, tally = called(*call)
            seconds += call_seconds(tally, device, self.dtype) / self.split.sequence
            held[Holding(self._part, ACTIVATIONS)] = alive_bytes(work, tally, device, self.dtype) // self.split.sequence
        return Phase("held-out", held, seconds)
