"""Runner of the family `pipeline`: whole sampling runs with recorded noise, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from ...conditioning.channels import Channels, Conditioning, fitted
from ...errors import ConfigError
from ...maths.pixels import to_uint8
from ...models.config_json import choice
from ...models.t5 import T5Spec
from ...models.wfvae import WFVAESpec
from ...pipelines.autoencode import decode_chunks, encode_latents, unscale_latents
from ...pipelines.denoise import Guidance, Step, denoise
from ...samplers import Sampler
from ...seam.backend import Backend
from ...seam.models import Given, Model
from ...shapes import VideoShape
from ..case import Case, Comparison, check_options
from .sched import sampler_from_upstream
from .t2v import upstream_spec

PARTS = ("text_encoder", "transformer", "vae", "scheduler")
OPTIONS = (
    *("prompt", "negative_prompt", "max_sequence_length", "num_samples_per_prompt"),
    *("num_frames", "height", "width", "num_inference_steps", "guidance_scale", "guidance_rescale"),
)
CONDITION_OPTIONS = (
    *("conditional_pixel_values_path", "conditional_pixel_values_indices", "crop_for_hw", "max_hxw"),
    *("noise_strength", "mask_type"),
)


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Every recorded tensor of every tag."""
    config = case.config
    encoder = backend.build(T5Spec.from_config(config["text_encoder"]), case.weights("weights_text_encoder"))
    denoiser_spec = upstream_spec(config["transformer"], case.name)
    known = OPTIONS + (CONDITION_OPTIONS if denoiser_spec.is_inpaint else ())
    denoiser = backend.build(denoiser_spec, case.weights("weights_transformer"))
    vae_spec = WFVAESpec.from_config(config["vae"])
    vae = backend.build(vae_spec, case.weights("weights_vae"))
    for tag, options in config.items():
        if tag in PARTS:
            continue
        check_options(options, f"{case.name}, {tag}", known)
        run_ = _Run(case, tag, options, backend)
        states = run_.text_states(encoder)
        yield Comparison(f"{tag}.prompt_embeds", states[:, None])
        frames = run_.frames(vae, vae_spec) if denoiser_spec.is_inpaint else None
        steps: list[Step] = []
        condition = denoiser.condition(
            Given(text=states, text_mask=run_.get("prompt_mask")[:, 0]), vae_spec.compression.latent(run_.video)
        )
        noises: Iterator[np.ndarray] = iter(run_.get("noises") if run_.has("noises") else ())
        latents = denoise(
            backend,
            denoiser,
            condition,
            run_.get("initial_latents"),
            run_.sampler(),
            run_.guidance,
            noise=partial(_next_noise, noises),
            channels=None if frames is None else backend.asarray(frames),
            on_step=steps.append,
        )
        for name, field in (
            ("model_inputs", "model_input"),
            ("timesteps", "timestep"),
            ("model_outputs", "model_output"),
            ("latents", "latents"),
        ):
            yield Comparison(f"{tag}.{name}", np.stack([backend.to_numpy(getattr(step, field)) for step in steps]))
        video = np.concatenate(list(decode_chunks(backend, vae, vae_spec, unscale_latents(vae_spec, latents))), axis=2)
        yield Comparison(f"{tag}.video_float", video.transpose(0, 2, 1, 3, 4))
        yield Comparison(f"{tag}.video_uint8", to_uint8(video))


def _next_noise(noises: Iterator[np.ndarray], call: int) -> np.ndarray:
    """Recorded noise is in the order in which it was drawn, only at the calls that draw."""
    return next(noises)


class _Run:
    """One tag of a case: its options and tensors."""

    def __init__(self, case: Case, tag: str, options: dict[str, Any], backend: Backend) -> None:
        self.case, self.tag, self.options, self.backend = case, tag, options, backend
        images = [case.tensors[name] for name in options.get("conditional_pixel_values_path", ())]
        size = (options["height"], options["width"])
        if images and not options["crop_for_hw"]:
            images = fitted(images, None, options["max_hxw"])
            size = (images[0].shape[0], images[0].shape[1])
        self.images = tuple(images)
        self.video = VideoShape(options["num_frames"], *size)
        self.guidance = Guidance(options["guidance_scale"], options.get("guidance_rescale", 0.0))

    def has(self, name: str) -> bool:
        return f"{self.tag}.{name}" in self.case.tensors

    def get(self, name: str) -> np.ndarray:
        return self.case.tensors[f"{self.tag}.{name}"]

    def sampler(self) -> Sampler:
        return sampler_from_upstream(self.case.config["scheduler"], self.options["num_inference_steps"])

    def text_states(self, encoder: Model) -> np.ndarray:
        """(B, L, D), or with guidance (2B, L, D), negatives first; each prompt as often as it is sampled."""
        halves = [("neg_ids", "neg_ids_mask"), ("ids", "ids_mask")] if self.guidance.is_on else [("ids", "ids_mask")]
        states = [
            self.backend.to_numpy(encoder(self.backend.asarray(self.get(ids)), self.backend.asarray(self.get(mask))))
            for ids, mask in halves
        ]
        return np.concatenate([np.repeat(half, self.options.get("num_samples_per_prompt", 1), 0) for half in states])

    def frames(self, vae: Model, vae_spec: WFVAESpec) -> np.ndarray:
        """(B, C + M, T, H, W) condition channels."""
        conditioner = Channels(vae_spec.compression)
        placed = conditioner.place(self._given(), self.video)

        def channels(noise: np.ndarray) -> np.ndarray:
            def encode(video: np.ndarray, purpose: str) -> np.ndarray:
                return encode_latents(self.backend, vae, vae_spec, video[None], {"latent": noise[None]})[0]

            return conditioner.prepared(placed, encode, seed=0)

        return np.stack([channels(noise) for noise in self.get("vae_noise")])

    def _given(self) -> Conditioning:
        """Raises: ConfigError for what depends on draws that cases do not record."""
        options, source = dict(self.options), f"{self.case.name}, {self.tag}"
        choice(options, source, "noise_strength", (0, 0.0), 0.0)
        if len(self.images) != self.video.frames:
            return Conditioning(self.images, options["conditional_pixel_values_indices"])
        # The mask decides then, whatever the indices say; the original takes a single image for i2v.
        inferred = "i2v" if len(self.images) == 1 else "random_temporal"
        kind = choice(options, source, "mask_type", ("t2iv", "i2v", "transition", "clear", None), None) or inferred
        if kind == "random_temporal":
            raise ConfigError(f"{source}: {len(self.images)} images for as many frames: mask_type must say which count")
        return Conditioning(self.images, mask_type=kind)
