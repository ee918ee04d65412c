"""Groups of frames that know nothing of each other are encoded and decoded on several ranks at once. Ranks are threads.

Here the autoencoder is a formula of all that it is given at a time, so that clips cut elsewhere give other numbers.
"""

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from duosora.core.models.opensora_vae import PRESETS
from duosora.core.pipelines.autoencode import DecodeOptions, decode_chunks, encode_latents, posterior_noise
from duosora.core.pipelines.tiled import SpatialTiles
from duosora.core.random import normal
from duosora.core.seam.ranks import ParallelPlan, Ranks
from duosora.core.shapes import VideoShape

sys.path.append(str(Path(__file__).parent))
import thread_ranks

SPEC = PRESETS["opensora_vae_tiny"]
BACKEND: Any = SimpleNamespace(inference=nullcontext, asarray=np.asarray, to_numpy=np.asarray)
SIDE = (16, 24)


class Formula:
    """Notes how many frames it sees at a time."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def encode(self, video: np.ndarray, noise: dict[str, np.ndarray], stream: Any) -> Any:
        self.seen.append(video.shape[2])
        frames, height, width = SPEC.compression.latent(VideoShape(*video.shape[2:]))
        held = np.full((len(video), 8, frames, height, width), video.mean() + noise["spatial"].mean(), np.float32)
        return SimpleNamespace(moments={"temporal": held + np.arange(frames, dtype=np.float32)[:, None, None]})

    def decode(self, latents: np.ndarray, num_frames: int, stream: Any) -> np.ndarray:
        self.seen.append(num_frames)
        height, width = (8 * side for side in latents.shape[3:])
        held = np.full((len(latents), 3, num_frames, height, width), latents.mean(), np.float32)
        return held + np.arange(num_frames, dtype=np.float32)[:, None, None]

    def stream(self) -> Any:
        return SimpleNamespace(advance=lambda is_last: None)


def on_ranks(world: int, work: Any) -> list[Any]:
    def on(ranks: Ranks) -> Any:
        vae = Formula()
        return work(vae, ranks.team), vae.seen

    outcomes = thread_ranks.run(ParallelPlan(sequence=world), on)
    assert [each for each in outcomes if isinstance(each, Exception)] == []
    return outcomes


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("frames", [1, 17, 20, 51, 102])
@pytest.mark.parametrize(
    "options", [DecodeOptions(), DecodeOptions(chunk=10), DecodeOptions(tiles=SpatialTiles(2, 1))], ids=str
)
def test_groups_are_decoded_side_by_side(world: int, frames: int, options: DecodeOptions) -> None:
    latents = normal((2, 4, *SPEC.compression.latent(VideoShape(frames, *SIDE))), 0, "latents")

    def decoded(vae: Any, team: Any) -> list[np.ndarray]:
        return list(decode_chunks(BACKEND, vae, SPEC, latents, options, team, num_frames=frames))

    ((expected, all_seen),) = on_ranks(1, decoded)
    outcomes = on_ranks(world, decoded)
    for rounds, seen in outcomes:
        np.testing.assert_array_equal(np.concatenate(rounds, axis=2), np.concatenate(expected, axis=2))
        assert max(part.shape[2] for part in rounds) <= world * max(part.shape[2] for part in expected)
        assert len(seen) <= -(-len(expected) // world) * (len(all_seen) // len(expected))
    if len(expected) > 1:
        assert sorted(number for _, seen in outcomes for number in seen) == sorted(all_seen)


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("frames", [1, 20, 102])
def test_groups_are_encoded_side_by_side(world: int, frames: int) -> None:
    video = VideoShape(frames, *SIDE)
    clip = normal((1, 3, *video), 0, "clip")
    noise = {name: values[None] for name, values in posterior_noise(SPEC, video, 0).items()}

    def encoded(vae: Any, team: Any) -> np.ndarray:
        return encode_latents(BACKEND, vae, SPEC, clip, noise, team=team)

    ((expected, all_seen),) = on_ranks(1, encoded)
    assert expected.shape == (1, 4, *SPEC.compression.latent(video))
    assert max(all_seen) <= 17
    outcomes = on_ranks(world, encoded)
    for latents, _ in outcomes:
        np.testing.assert_array_equal(latents, expected)
    assert sorted(number for _, seen in outcomes for number in seen) == sorted(all_seen)
