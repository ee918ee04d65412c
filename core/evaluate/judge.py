"""How well the tiny model follows its prompts: videos of scenes that it never saw, judged by their pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from .. import random
from ..config.schema import SampleConfig
from ..data.moving_shapes import PALETTE, Scene, caption, held_out_scenes
from ..errors import ConfigError
from ..io.prompts import Prompt
from ..pipelines.sample import Sampling
from ..printable import short_name

PROMPT_SEED = 0
"""Of the choice of scenes and sentences, so that every judgement is about the same prompts."""
SHOWN_FRAMES = 5
COLUMNS, GAP, LINE = 4, 6, 14
"""Of the sheet: clips beside each other, pixels between them, height of a line of text."""


class Asked(NamedTuple):
    """One held-out scene and the sentence that asks for it."""

    scene: Scene
    prompt: str


def held_out_prompts(count: int, colours: Sequence[str] = ()) -> list[Asked]:
    """Scenes that are never trained on, each with one sentence.

    colours: of core.data.moving_shapes; their few scenes come again, with other sentences. By default all usual ones.
    Raises: ConfigError for a colour that is none of these; without colours when there are not so many scenes.
    """
    if unknown := [colour for colour in colours if colour not in PALETTE]:
        raise ConfigError(f"--colour {short_name(unknown[0])}: there are {', '.join(PALETTE)}")
    scenes = held_out_scenes(tuple(dict.fromkeys(colours)))
    if count > len(scenes) and not colours:
        raise ConfigError(f"{count} prompts: there are {len(scenes)} held-out scenes")
    draw = random.stream(PROMPT_SEED, "judged scenes")
    order = draw.permutation(len(scenes))
    chosen = [scenes[order[number % len(scenes)]] for number in range(count)]
    return [Asked(scene, caption(scene, draw)) for scene in chosen]


def judging_run(config: SampleConfig, asked: list[Asked], overrides: Set[str] = frozenset()) -> Sampling:
    """A run that makes a video of each prompt, every one from a seed of its own.

    overrides and Raises: as Sampling.
    """
    prompts = [
        Prompt(text=text, seed=config.seed + number, name=f"judged-{number}") for number, (_, text) in enumerate(asked)
    ]
    return Sampling(config, prompts=prompts, overrides=overrides)


def sheet(clips: Iterable[tuple[str, np.ndarray]]) -> np.ndarray:
    """A picture of clips (T, H, W, 3), a few frames of each side by side under its prompt; uint8 (H, W, 3)."""
    strips = [_strip(prompt, frames) for prompt, frames in clips]
    height, width = strips[0].shape[:2]
    rows = -(-len(strips) // COLUMNS)
    picture = np.full((rows * (height + GAP) + GAP, COLUMNS * (width + GAP) + GAP, 3), 255, np.uint8)
    for number, strip in enumerate(strips):
        top, left = GAP + number // COLUMNS * (height + GAP), GAP + number % COLUMNS * (width + GAP)
        picture[top : top + height, left : left + width] = strip
    return picture


def _strip(prompt: str, frames: np.ndarray) -> np.ndarray:
    shown = frames[np.linspace(0, len(frames) - 1, SHOWN_FRAMES).round().astype(int)]
    below = np.concatenate(list(shown), axis=1)
    line = Image.new("RGB", (below.shape[1], LINE), "white")
    ImageDraw.Draw(line).text((0, 1), prompt, fill="black")
    return np.concatenate([np.asarray(line), below])
