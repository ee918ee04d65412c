"""Family `e2e`: the inference program of Open-Sora 1.2 with tiny models, its noise as it was drawn.

The times are computed in float32 as upstream (quirk Q12).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from ... import samplers
from ...conditioning.base import ClipState
from ...conditioning.mask_strategy import parse
from ...conditioning.references import PlacedReferences, References
from ...io.tokenizer import Tokenizer
from ...layout import GivenWeights
from ...maths.cover import cover_picture
from ...maths.pixels import from_uint8
from ...models import FAMILIES
from ...models.finding import TINY_FOLDER, Part
from ...models.opensora_vae import OpenSoraVAESpec
from ...models.stdit3 import STDiT3Spec
from ...models.t5 import TINY
from ...pipelines.denoise import Guidance
from ...pipelines.looping import LoopedRequest, Looping, Loops, SampledClip
from ...pipelines.text import EncodedTexts
from ...pipelines.text_to_video import Parts, TextToVideo
from ...recipes.opensora_v1_2_prompts import PromptScores, clean, describe, segments
from ...recipes.opensora_v1_2_sizes import SIZES
from ...seam.backend import Backend
from ...shapes import VideoShape
from ..case import Case, Comparison, check_options
from ..tables import same

INPUTS = "draws/.+|loop[0-9]+/z_noise|text[0-9]+/.+|(image|video)/.+"
FLAGS = {
    **{f"--{name}": name for name in ("num-frames", "fps", "loop", "condition-frame-length", "seed", "aes", "flow")},
    **{f"--{name}": name for name in ("camera-motion", "frame-interval", "save-fps", "batch-size", "align")},
    **{f"--{name}": name for name in ("resolution", "aspect-ratio", "image-size", "reference-path", "mask-strategy")},
    **{f"--{name}": name for name in ("dtype", "verbose", "save-dir", "sample-name")},
    "--num-sampling-steps": "scheduler.num_sampling_steps",
    "--cfg-scale": "scheduler.cfg_scale",
}
"""Where a flag of the command line stands in the config, which has _ for -."""
LISTS: Mapping[str, Callable[[str], Any]] = {"image_size": int, "reference_path": str, "mask_strategy": str}
"""Flags of several values, and what these are."""
OPTIONS = (
    *("image_size", "num_frames", "fps", "frame_interval", "save_fps", "seed", "batch_size", "multi_resolution"),
    *("dtype", "condition_frame_length", "condition_frame_edit", "align", "verbose", "model", "vae", "text_encoder"),
    *("scheduler", "aes", "flow", "camera_motion", "loop", "reference_path", "mask_strategy"),
    *("resolution", "aspect_ratio", "save_dir", "sample_name"),
)
SCHEDULER_OPTIONS = ("type", "use_timestep_transform", "use_discrete_timesteps", "num_sampling_steps", "cfg_scale")
MICRO_BATCH, GROUP = 4, 17
"""Frames whose posterior is drawn at once, by upstream's spatial and its temporal autoencoder."""


class RecordedNoise:
    """The noise of a case, in place of core.random.normal: a request's seed is its row."""

    def __init__(self, case: Case) -> None:
        names = sorted(name for name in case.tensors if name.startswith("draws/"))
        self._rest = iter([case.tensors[name] for name in names])
        self._known: dict[tuple[int, str, int], np.ndarray] = {}

    def __call__(self, shape: tuple[int, ...], seed: int, purpose: str, step: int = 0) -> np.ndarray:
        found = self._known[seed, purpose, step]
        assert found.shape == shape, f"{purpose}: {found.shape} was drawn, not {shape}"
        return found

    def posterior(self, purpose: str, rows: Sequence[int], num_frames: int) -> None:
        """Clips of some rows are encoded together."""
        slices = -(-len(rows) * num_frames // MICRO_BATCH)
        frames = np.concatenate([next(self._rest) for _ in range(slices)])
        spatial = frames.reshape(len(rows), num_frames, *frames.shape[1:]).swapaxes(1, 2)
        temporal = np.concatenate([next(self._rest) for _ in range(0, num_frames, GROUP)], axis=2)
        self._keep(f"{purpose}, spatial", rows, spatial)
        self._keep(purpose, rows, temporal)

    def clip(self, loop: int, rows: Sequence[int], steps: int) -> None:
        """A clip is sampled."""
        suffix = f", loop {loop}" if loop else ""
        self._keep(f"latents{suffix}", rows, next(self._rest))
        for step in range(steps):
            self._keep(f"late noise{suffix}", rows, next(self._rest), step)

    def _keep(self, purpose: str, rows: Sequence[int], drawn: np.ndarray, step: int = 0) -> None:
        for row, noise in zip(rows, drawn, strict=True):
            self._known[row, purpose, step] = noise


class AlwaysMasked(References):
    """As upstream, which goes by a mask where nothing is given too (quirk Q8): a first time above 1000 (quirk Q12) then
    counts for all frames."""

    def state(
        self, placed: PlacedReferences, references: Sequence[np.ndarray], latents: np.ndarray, loop: int
    ) -> ClipState:
        """What the clip of a loop starts from."""
        state = super().state(placed, references, latents, loop)
        return state if state.strength is not None else replace(state, strength=np.ones(latents.shape[1], np.float32))


class RecordedTexts(EncodedTexts):
    """States of a stand-in for the text encoder, which gives others at every call; a text is `call/row`."""

    def __init__(self, case: Case) -> None:
        super().__init__({}, {})
        self.case = case

    def given(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """As EncodedTexts."""
        places = [(call, int(row)) for call, row in (text.split("/") for text in texts)]
        states, masks = (
            np.stack([self.case.tensors[f"text{call}/{name}"][row] for call, row in places]) for name in ("y", "mask")
        )
        return {"text": states[:, 0], "text_mask": masks}


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Latents, references and masks of every clip, and the videos."""
    config = settings(case.raw)
    check_options(config, case.name, OPTIONS)
    check_options(config["scheduler"], f"{case.name}, scheduler", SCHEDULER_OPTIONS)
    wishes = [describe(*each) for each in _prompts(case.raw, config)]
    loops = Loops(
        config.get("loop") or 1, config.get("condition_frame_length") or 5, config.get("condition_frame_edit") or 0.0
    )
    yield from _texts(case.raw, config, [wish.text for wish in wishes])
    video = _size(config)
    conditioner = AlwaysMasked(_vae(case).compression, config.get("align"), loops.count)
    scheduler = config["scheduler"]
    rows = range(len(wishes))
    noise = RecordedNoise(case)
    requests = []
    for row, wish in enumerate(wishes):
        clips = tuple(_reference(case, path, video) for path in wish.references)
        for number, clip in enumerate(clips):
            noise.posterior(f"reference {number}", [row], clip.shape[1])
        placed = PlacedReferences(clips, tuple(parse(wish.mask_strategy)), "mask_strategy")
        prompts = tuple(f"{loop}/{row}" for loop in range(loops.count))
        requests.append(LoopedRequest(prompts, None, row, config["fps"] // config.get("frame_interval", 1), placed))
    for loop in range(loops.count):
        if loop:
            noise.posterior(f"clip {loop}", rows, video.frames)
        noise.clip(loop, rows, scheduler["num_sampling_steps"])
    pipeline = _pipeline(case, backend, noise)

    def new_sampler() -> samplers.Sampler:
        return samplers.create(
            "rflow",
            scheduler["num_sampling_steps"],
            size=video,
            timestep_transform=scheduler.get("use_timestep_transform", False),
            discrete=scheduler.get("use_discrete_timesteps", False),
            rounds_times=True,
        )

    clips_made: list[SampledClip] = []
    looping = Looping(pipeline, conditioner, loops, Guidance(scheduler["cfg_scale"]), new_sampler)
    latents = looping.latents(requests, RecordedTexts(case), video, on_clip=clips_made.append)
    for made, strategies in zip(clips_made, case.raw["mask_strategy_per_loop"], strict=True):
        yield same(f"mask_strategy.{made.loop}", list(made.placements), [tuple(parse(each)) for each in strategies])
        yield from _clip(made)
    for row in rows:
        yield Comparison(f"video{row}", np.concatenate(list(looping.frames(latents[row], video)), axis=2)[0])


def settings(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a case with the flags of its command line."""
    config: dict[str, Any] = {**raw["cli_config"], "scheduler": dict(raw["cli_config"]["scheduler"])}
    words = list(raw.get("argv", ()))
    places = [place for place, word in enumerate(words) if word.startswith("--")]
    for place, end in pairwise([*places, len(words)]):
        group, _, name = FLAGS[words[place]].replace("-", "_").rpartition(".")
        values = [LISTS.get(name, _value)(word) for word in words[place + 1 : end]]
        (config[group] if group else config)[name] = values if name in LISTS else values[0]
    return config


def _value(word: str) -> int | float | str:
    if re.fullmatch(r"-?\d+", word):
        return int(word)
    return float(word) if re.fullmatch(r"-?\d*\.\d+", word) else word


def _size(config: Mapping[str, Any]) -> VideoShape:
    size = config.get("image_size") or SIZES.size(config["resolution"], config["aspect_ratio"])
    return VideoShape(SIZES.frames(config["num_frames"]), *size)


def _clip(made: SampledClip) -> Iterator[Comparison]:
    tag = f"loop{made.loop}"
    yield Comparison(f"{tag}/z_init", np.stack([state.latents for state in made.states]), limit_as=f"{tag}/latent")
    yield Comparison(f"{tag}/mask", np.stack([state.strength for state in made.states if state.strength is not None]))
    for row, references in enumerate(made.references):
        for number, latents in enumerate(references):
            yield Comparison(f"{tag}/ref_b{row}_{number}", latents, limit_as=f"{tag}/latent")
    yield Comparison(f"{tag}/latent", made.latents)


def _prompts(raw: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Prompts with the references and mask strategies of the config."""
    nothing = [""] * len(raw["prompts"])
    yield from zip(
        raw["prompts"], config.get("reference_path") or nothing, config.get("mask_strategy") or nothing, strict=True
    )


def _texts(raw: Mapping[str, Any], config: Mapping[str, Any], texts: Sequence[str]) -> Iterator[Comparison]:
    """What the text encoder was given at each call."""
    aesthetic, motion = (None if config.get(name) is None else float(config[name]) for name in ("aes", "flow"))
    scores = PromptScores(aesthetic, motion, config.get("camera_motion"))
    found = [segments(text) for text in texts]
    for loop, recorded in enumerate(raw["text_calls"]):
        said = [clean(scores.behind(each.at(loop))) for each in found]
        yield same(f"text_calls.{loop}", said, recorded)


def _reference(case: Case, path: str, video: VideoShape) -> np.ndarray:
    """A picture or clip (3, T, H, W) in [-1, 1] of the video's size."""
    name = path.rpartition("/")[2]
    recorded = next(case.tensors[f"{kind}/{name}"] for kind in ("image", "video") if f"{kind}/{name}" in case.tensors)
    frames = recorded[None] if recorded.ndim == 3 else recorded
    covering = np.stack([cover_picture(frame, video.height, video.width) for frame in frames])
    return from_uint8(covering).transpose(3, 0, 1, 2)


def _vae(case: Case) -> OpenSoraVAESpec:
    parts = {"vae_2d": case.raw["vae_2d"], "vae_temporal": case.raw["vae_temporal"]}
    spec = OpenSoraVAESpec.from_config({**parts, "micro_frame_size": GROUP}, case.name)
    held = case.weights()
    return replace(
        spec,
        micro_batch_size=MICRO_BATCH,
        mean=tuple(held["vae.shift"].ravel().tolist()),
        spread=tuple(held["vae.scale"].ravel().tolist()),
    )


def _pipeline(case: Case, backend: Backend, noise: RecordedNoise) -> TextToVideo:
    held = case.weights()

    def part(spec: Any, prefix: str) -> Part:
        own = {name.removeprefix(prefix): held[name] for name in held if name.startswith(prefix)}
        family = next(family for family in FAMILIES if family.name == spec.family)
        return Part(family, spec, case.name, False, lambda: GivenWeights(own, case.name))

    denoiser = STDiT3Spec.from_config(case.raw["stdit3_config"], case.name)
    never_asked = part(replace(TINY, d_model=denoiser.text_channels), "text_encoder.")
    parts = Parts(
        denoiser=part(denoiser, "stdit3."),
        text_encoder=never_asked,
        vae=part(_vae(case), "vae."),
        tokenizer=Tokenizer.open(TINY_FOLDER),
    )
    return TextToVideo(backend, parts, draw=noise)
