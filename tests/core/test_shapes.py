"""Sizes of videos, latents and tokens."""

import pytest

from duosora.core.errors import ShapeError
from duosora.core.shapes import (
    Causal,
    Compression,
    Even,
    Grouped,
    LatentShape,
    Patch,
    TokenGrid,
    VideoShape,
    latent_frames,
    next_length,
)

WFVAE = Causal(time=4, space=8)


@pytest.mark.parametrize(
    ("video", "latent"),
    [((1, 8, 8), (1, 1, 1)), ((93, 352, 640), (24, 44, 80)), ((5, 64, 72), (2, 8, 9))],
)
def test_latents_follow_from_videos_and_back(video: tuple[int, ...], latent: tuple[int, ...]) -> None:
    assert WFVAE.latent(VideoShape(*video)) == LatentShape(*latent)
    assert WFVAE.video(LatentShape(*latent)) == VideoShape(*video)


@pytest.mark.parametrize(
    ("video", "words"),
    [
        ((30, 64, 64), "num_frames = 30: needs 1 \\+ a multiple of 4 frames; the nearest are 29 and 33"),
        ((0, 64, 64), "num_frames = 0: .* the nearest is 1"),
        ((5, 60, 64), "height = 60: needs a multiple of 8 pixels; the nearest are 56 and 64"),
        ((5, 64, 3), "width = 3: .* the nearest is 8"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_the_nearest(video: tuple[int, ...], words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        WFVAE.latent(VideoShape(*video))


def test_tokens_tile_the_latent() -> None:
    assert Patch(1, 2).tokens(LatentShape(24, 44, 80)) == TokenGrid(24, 22, 40)
    assert TokenGrid(24, 22, 40).num_tokens == 21120
    with pytest.raises(ShapeError, match="latent height = 7: needs a multiple of the patch size 2"):
        Patch(1, 2).tokens(LatentShape(3, 7, 8))


@pytest.mark.parametrize(
    ("compression", "frames", "length", "latents"),
    [
        (Causal(4, 8), 6, 9, 3),
        (Causal(4, 8), 9, 9, 3),
        (Even(1, 8), 6, 6, 6),
        (Even(4, 4), 6, 8, 2),
        (Even(4, 4), 0, 4, 1),
        (Grouped(17, 4, 8), 18, 18, 6),
    ],
)
def test_clips_are_filled_up_to_a_length_that_can_be_encoded(
    compression: Compression, frames: int, length: int, latents: int
) -> None:
    assert next_length(compression, frames) == length
    assert latent_frames(compression, length) == latents
