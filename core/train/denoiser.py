"""What training a denoiser is, between clips and the optimiser: core.train.loop.Task."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..data.batch import ClipBatch
from ..io.images import write_image
from ..io.video import write_video
from ..io.weights import save_weights
from ..models.opensora_t2v import OpenSoraT2VSpec
from ..models.recognise import CONFIG_FILE
from ..pipelines.autoencode import to_uint8
from ..pipelines.denoise import Guidance
from ..pipelines.settings import make_sampler
from ..pipelines.text_to_video import Request, TextToVideo
from ..shapes import LatentShape, VideoShape
from .inputs import DiffusionInputs
from .loop import Loader
from .step import DiffusionBatch, Saved, TrainStep


@dataclass(frozen=True)
class Showing:
    """The videos that are sampled while training."""

    pipeline: TextToVideo
    prompts: tuple[str, ...]
    settings: Any
    """A core.config.training.ShowSettings."""
    seed: int


class DenoiserTask:
    """A denoiser with its frozen companions."""

    def __init__(
        self,
        spec: OpenSoraT2VSpec,
        trainer: TrainStep[DiffusionBatch],
        inputs: DiffusionInputs,
        held_out: Loader | None = None,
        held_out_batches: int = 4,
        showing: Showing | None = None,
    ) -> None:
        self.spec, self.trainer, self.inputs = spec, trainer, inputs
        self.held_out, self.held_out_batches, self.showing = held_out, held_out_batches, showing

    def make(self, clips: ClipBatch, step: int) -> DiffusionBatch:
        """The trainer's batch."""
        return self.inputs.make(clips, step)

    def work(self, batch: DiffusionBatch) -> int:
        """Tokens of a batch."""
        return len(batch.latents) * self.spec.patch.tokens(LatentShape(*batch.latents.shape[2:])).num_tokens

    def validate(self) -> Mapping[str, float]:
        """Mean loss on held-out clips, of the weights and of their average; noise and timesteps are always the same."""
        batches = [self.inputs.make(clips, 0) for clips in self._held_out_clips()]
        if not batches:
            return {}
        measures = {"loss": float(np.mean([self.trainer.evaluate(batch, use_ema=False) for batch in batches]))}
        if self.trainer.keeps_ema:
            measures["loss_ema"] = float(np.mean([self.trainer.evaluate(batch, use_ema=True) for batch in batches]))
        return measures

    def show(self, folder: Path, step: int) -> None:
        """Write a video of each prompt as <folder>/step-<step>_<number>.mp4."""
        if self.showing is None:
            return
        pipeline, settings = self.showing.pipeline, self.showing.settings
        video = VideoShape(settings.video.frames, settings.video.height, settings.video.width)
        negative = ""
        texts = pipeline.encode([*self.showing.prompts, negative])
        guidance = Guidance(settings.sampler.guidance, settings.sampler.guidance_rescale)
        requests = [Request(prompt, negative, self.showing.seed) for prompt in self.showing.prompts]
        with self.trainer.inference_model(use_ema=self.trainer.keeps_ema) as model:
            pipeline.use("denoiser", model)
            latents = pipeline.denoise(requests, texts, video, lambda: make_sampler(settings.sampler), guidance)
        pipeline.release("denoiser")
        for number, latent in enumerate(latents):
            frames = [frame for chunk in pipeline.decode(latent[None]) for frame in to_uint8(chunk)[0]]
            name = f"step-{step}_{number}"
            if video.frames == 1:
                write_image(folder / f"{name}.png", frames[0], overwrite=True)
            else:
                write_video(folder / f"{name}.mp4", frames, settings.video.fps, overwrite=True)

    def write_models(self, saved: Saved, folder: Path) -> None:
        """Write `model` and `model_ema` in the hub's form."""
        write_model(folder / "model", self.spec.to_config(), saved.weights(use_ema=False))
        if self.trainer.keeps_ema:
            write_model(folder / "model_ema", self.spec.to_config(), saved.weights(use_ema=True))

    def _held_out_clips(self) -> Iterator[ClipBatch]:
        if self.held_out is None:
            return iter(())
        steps = self.held_out.batches(0)
        return islice((clips for step in steps for clips in step), self.held_out_batches)


def write_model(folder: Path, config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> None:
    """A model folder of the hub's form: config.json beside diffusion_pytorch_model.safetensors."""
    save_weights(folder, weights, overwrite=True)
    (folder / CONFIG_FILE).write_text(json.dumps(dict(config), indent=1), encoding="utf-8")
