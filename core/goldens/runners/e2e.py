"""Family `e2e`: the inference program of Open-Sora 1.2 with tiny models, from prompts and references to videos.

Noise is recorded in the order in which upstream draws it: for each reference and for the clip before, that of frames,
a few at a time, then that of groups; in each loop that of the latents, then that of each step. The text encoder is a
stand-in, whose states are recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...conditioning import references
from ...conditioning.clip_facts import clip_facts
from ...layout import GivenWeights
from ...maths.cover import cover_picture
from ...models.opensora_vae import OpenSoraVAESpec
from ...models.stdit3 import STDiT3Spec
from ...pipelines.autoencode import from_uint8, scale_latents, unscale_latents
from ...recipes import opensora_v1_2_prompts as prompts
from ...samplers.guidance import guide
from ...samplers.rflow import RFlow, choose, frame_starts, per_frame
from ...seam.backend import Backend
from ...seam.models import Array, Given
from ...shapes import VideoShape
from ..case import Case, Comparison, check_options
from ..tables import same

INPUTS = r"draws/.+|text\d+/.+|image/.+|loop\d+/z_noise"
OPTIONS = (
    *("image_size", "num_frames", "fps", "frame_interval", "save_fps", "seed", "batch_size", "multi_resolution"),
    *("dtype", "condition_frame_length", "condition_frame_edit", "align", "verbose", "model", "vae", "text_encoder"),
    *("scheduler", "aes", "flow", "camera_motion", "loop", "reference_path", "mask_strategy"),
)
SCHEDULER_OPTIONS = ("type", "use_timestep_transform", "num_sampling_steps", "cfg_scale")
MICRO_BATCH, GROUP = 4, 17


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every result of a case of this family. Raises: ConfigError for options that no runner follows."""
    options = _options(case)
    yield from _Program(case, backend, options).run()


def _options(case: Case) -> dict[str, Any]:
    """The config file with what the command line sets over it."""
    options = dict(case.raw["cli_config"])
    options["scheduler"] = dict(options["scheduler"])
    for flag, text in zip(case.raw["argv"][::2], case.raw["argv"][1::2], strict=True):
        name = flag.removeprefix("--").replace("-", "_")
        value = float(text) if text.replace(".", "", 1).isdigit() else text
        (options["scheduler"] if name in SCHEDULER_OPTIONS else options)[name] = value
    check_options(options, case.name, OPTIONS)
    check_options(options["scheduler"], f"{case.name}, scheduler", SCHEDULER_OPTIONS)
    return options


class _Program:
    """One run of the program."""

    def __init__(self, case: Case, backend: Backend, options: Mapping[str, Any]) -> None:
        self.case, self.backend, self.options = case, backend, options
        self.video = VideoShape(options["num_frames"], *options["image_size"])
        self.draws = iter([case.tensors[name] for name in sorted(case.tensors) if name.startswith("draws/")])
        weights = case.weights()
        own = {name: _below(weights, f"{name}.") for name in ("stdit3", "vae")}
        self.spec = _vae_spec(case, own["vae"])
        self.vae = backend.build(self.spec, GivenWeights(own["vae"], case.name))
        spec = STDiT3Spec.from_config(case.raw["stdit3_config"], case.name)
        self.denoiser = backend.build(spec, GivenWeights(own["stdit3"], case.name))
        self.latent = self.spec.compression.latent(self.video)

    def run(self) -> Iterator[Comparison]:
        texts = [self._segments(prompt) for prompt in self.case.raw["prompts"]]
        count = len(texts)
        given = [self._references(path) for path in self.options.get("reference_path") or [""] * count]
        strategies = list(self.options.get("mask_strategy") or [""] * count)
        clips: list[np.ndarray] = []
        for loop in range(self.options.get("loop", 1)):
            if clips:
                self._carry_over(loop, clips[-1], given, strategies)
            said = [segments.at(loop) for segments in texts]
            yield same(f"text_calls.{loop}", said, self.case.raw["text_calls"][loop])
            yield same(f"mask_strategy.{loop}", strategies, self.case.raw["mask_strategy_per_loop"][loop])
            for sample, own in enumerate(given):
                for number, latents in enumerate(own):
                    yield Comparison(f"loop{loop}/ref_b{sample}_{number}", latents, limit_as=f"loop{loop}/latent")
            latents, strength = self._placed(loop, given, strategies)
            yield Comparison(f"loop{loop}/z_init", latents, limit_as=f"loop{loop}/latent")
            yield Comparison(f"loop{loop}/mask", strength)
            latents = self._sampled(loop, latents, strength)
            yield Comparison(f"loop{loop}/latent", latents)
            clips.append(self._decoded(latents))
        for sample, video in enumerate(self._joined(clips)):
            yield Comparison(f"video{sample}", video)

    def _segments(self, prompt: str) -> prompts.Segments:
        """The texts of a prompt as the text encoder reads them."""
        scores = prompts.PromptScores(*(self.options.get(name) for name in ("aes", "flow", "camera_motion")))
        found = prompts.segments(prompts.describe(prompt).text)
        return replace(found, texts=tuple(prompts.clean(scores.behind(text)) for text in found.texts))

    def _references(self, paths: str) -> list[np.ndarray]:
        """Latents (C, t, h, w) of the pictures of one prompt."""
        found = []
        for path in prompts.describe("", paths).references:
            picture = self.case.tensors[f"image/{path.rpartition('/')[2]}"]
            pixels = cover_picture(picture, self.video.height, self.video.width)
            found.append(self._encoded(from_uint8(pixels).transpose(2, 0, 1)[None, :, None])[0])
        return found

    def _carry_over(self, loop: int, clip: np.ndarray, given: list[list[np.ndarray]], strategies: list[str]) -> None:
        """Let the end of the clip before be the beginning of the next one."""
        length, edit = self.options["condition_frame_length"], self.options.get("condition_frame_edit", 0.0)
        for sample, latents in enumerate(self._encoded(clip)):
            strategies[sample] = references.carry_over(strategies[sample], loop, len(given[sample]), length, edit)
            given[sample].append(latents)

    def _placed(
        self, loop: int, given: Sequence[Sequence[np.ndarray]], strategies: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        align = self.options.get("align")
        placed = [
            references.place(noise, own, references.parse(strategy), loop, align)
            for noise, own, strategy in zip(next(self.draws), given, strategies, strict=True)
        ]
        return np.stack([each.latents for each in placed]), np.stack([each.strength for each in placed])

    def _sampled(self, loop: int, latents: np.ndarray, strength: np.ndarray) -> np.ndarray:
        scheduler, backend, batch = self.options["scheduler"], self.backend, len(latents)
        size = self.video if scheduler["use_timestep_transform"] else None
        sampler = RFlow(int(scheduler["num_sampling_steps"]), size=size, rounds_times=True)
        starts = frame_starts(strength, sampler.timesteps)
        condition = self.denoiser.condition(self._given(loop, batch), self.latent)
        x = backend.asarray(latents)
        for i, time in enumerate(sampler.timesteps):
            entering = backend.asarray(per_frame(starts.enters[i]))
            state = sampler.with_noise(x, backend.asarray(next(self.draws)), entering, i)
            told = self.denoiser.with_frames(condition, np.concatenate([starts.moves[i]] * 2))
            times = backend.asarray(np.full(2 * batch, time, np.float32))
            velocity = self.denoiser(backend.concat([state] * 2, 0), times, told)[:, : latents.shape[1]]
            guided = guide(velocity[:batch], velocity[batch:], scheduler["cfg_scale"])
            x = choose(backend.asarray(per_frame(starts.moves[i])), sampler.step(state, guided, i), x)
        return backend.to_numpy(x)

    def _given(self, loop: int, batch: int) -> Given:
        facts = clip_facts(self.video, self.options["fps"] // self.options["frame_interval"], batch)
        states, mask = (self.case.tensors[f"text{loop}/{name}"] for name in ("y", "mask"))
        return Given(
            text=np.concatenate([states[:, 0]] * 2),
            text_mask=np.concatenate([mask] * 2),
            is_null=np.repeat([False, True], batch),
            **{name: facts[name] for name in ("fps", "height", "width")},
        )

    def _encoded(self, video: np.ndarray) -> np.ndarray:
        """Scaled latents (B, C, t, h, w) of a video (B, 3, T, H, W), drawn with the next recorded noise."""
        batch, _, num_frames = video.shape[:3]
        frames = np.concatenate([next(self.draws) for _ in range(0, batch * num_frames, MICRO_BATCH)])
        noise = {
            "spatial": frames.reshape(batch, num_frames, *frames.shape[1:]).swapaxes(1, 2),
            "temporal": np.concatenate([next(self.draws) for _ in range(0, num_frames, GROUP)], axis=2),
        }
        latents = self.vae.encode(self._array(video), {name: self._array(each) for name, each in noise.items()}).latents
        return scale_latents(self.spec, self.backend.to_numpy(latents)).astype(np.float32)

    def _decoded(self, latents: np.ndarray) -> np.ndarray:
        unscaled = self._array(unscale_latents(self.spec, latents))
        return self.backend.to_numpy(self.vae.decode(unscaled, self.video.frames))

    def _joined(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Videos (B, 3, T, H, W): of each clip but the first the frames behind those that the one before gave it."""
        if len(clips) == 1:
            return clips[0]
        again = self.spec.compression.whole_groups(self.options["condition_frame_length"])
        return np.concatenate([clips[0], *(clip[:, :, again:] for clip in clips[1:])], axis=2)

    def _array(self, values: np.ndarray) -> Array:
        return self.backend.asarray(np.ascontiguousarray(values, np.float32))


def _below(weights: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): values for name, values in weights.items() if name.startswith(prefix)}


def _vae_spec(case: Case, weights: Mapping[str, np.ndarray]) -> OpenSoraVAESpec:
    return OpenSoraVAESpec.from_config(
        {
            "vae_2d": {**case.raw["vae_2d"], "micro_batch_size": MICRO_BATCH},
            "vae_temporal": case.raw["vae_temporal"],
            "micro_frame_size": GROUP,
            "scale": weights["scale"].reshape(-1).tolist(),
            "shift": weights["shift"].reshape(-1).tolist(),
        },
        case.name,
    )
