"""The second tiny model: the networks of Open-Sora 1.2 at a size for CPUs, on moving shapes with rates and scores.

What it does not say otherwise is as Open-Sora 1.2 has it.
"""

from __future__ import annotations

from dataclasses import replace

from ..bucketing.size_table import Resolution, SizeTable
from ..data import moving_shapes
from ..errors import ConfigError
from .opensora_v1_2 import RECIPE as OPEN_SORA
from .opensora_v1_2_prompts import PromptScores
from .recipe import Recipe, Texts

_SIDE, _FRAMES = moving_shapes.SIDE, moving_shapes.FRAMES


def scores(aesthetic: float | None, motion: float | None, camera: str | None) -> PromptScores:
    """What prompts say behind their texts. Raises: ConfigError for a camera, which this world does not have."""
    if camera is not None:
        raise ConfigError("prompts.camera: the camera of tiny_v1_2 never moves; leave it out")
    return PromptScores(aesthetic, motion)


RECIPE: Recipe = replace(
    OPEN_SORA,
    name="tiny_v1_2",
    title="the tiny model of Open-Sora 1.2",
    parts={"denoiser": ("tiny_v1_2",), "text_encoder": ("tiny_v1_2",), "vae": ("tiny_v1_2",)},
    prompts=Texts(
        negative=None,
        max_tokens=32,
        scores=scores,
        clean=moving_shapes.as_scored_caption,
        unseen=moving_shapes.unseen_words,
    ),
    sizes=SizeTable(
        {"64p": Resolution(_SIDE * _SIDE, {"1.00": (_SIDE, _SIDE)})},
        {"1:1": "1.00"},
        {f"{times}x": times * _FRAMES for times in (1, 2, 4)},
    ),
    sampling={
        **OPEN_SORA.sampling,
        "sampler.steps": 50,  # so small a size bends the times to the data, and few steps would see the noise
        "sampler.guidance": 3.0,
        "sampler.cache.polynomial": None,  # the published one was fitted to the large model
        "prompts.aesthetic": moving_shapes.USUAL_LOOK.aesthetic,
        "prompts.motion": moving_shapes.USUAL_LOOK.motion,
        "video.frames": _FRAMES,
        "video.height": _SIDE,
        "video.width": _SIDE,
        "video.fps": moving_shapes.FPS,
        "condition.max_area": _SIDE * _SIDE,
    },
    training={
        **OPEN_SORA.training,
        "data.frames": _FRAMES,
        "data.min_frames": _FRAMES,
        "data.fps": moving_shapes.FPS,
        "objective.timesteps.kind": "uniform",
    },
)
