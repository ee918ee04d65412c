"""Frame masks, windows of frames and covering sizes of Open-Sora 1.2."""

import random

import numpy as np
import pytest

from duosora.core.data.frame_masks import KINDS, FrameMasks, frame_mask
from duosora.core.data.frame_window import frame_window
from duosora.core.errors import ConfigError, ShapeError
from duosora.core.maths.cover import centre_picture, centre_video, cover_picture, cover_video


def uniforms(count: int) -> np.ndarray:
    return np.random.default_rng(0).random(count)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_something_is_always_left_to_learn(kind: str, num_frames: int) -> None:
    """Upstream fails for quarters of 2 or 3 frames, and gives NaN where all are masked."""
    for seed in range(5):
        mask = frame_mask(kind, num_frames, random.Random(seed), uniforms)
        assert mask.shape == (num_frames,)
        assert mask.dtype == np.bool_
        assert mask.any()


def test_kinds_come_as_often_as_they_are_told_to() -> None:
    masks = FrameMasks({"image_head": 0.25, "image_tail": 0.25})
    draw = random.Random(0)
    drawn = np.stack([masks.draw(8, draw, uniforms) for _ in range(2000)])
    assert abs((~drawn[:, 0]).mean() - 0.25) < 0.03
    assert abs((~drawn[:, -1]).mean() - 0.25) < 0.03
    assert abs(drawn.all(1).mean() - 0.5) < 0.03


@pytest.mark.parametrize("ratios", [{"interpolate": 0.1}, {"random": -0.1}, {"random": 0.6, "image_head": 0.6}])
def test_ratios_that_cannot_be_are_refused(ratios: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="masks"):
        FrameMasks(ratios)


def test_a_window_has_its_frames_evenly_spread() -> None:
    assert frame_window(100, 5, 2, lambda low, high: high).tolist() == [89, 91, 93, 95, 98]
    assert frame_window(5, 5, 3, random.Random(0).randint).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ShapeError, match="a clip of 4 frames is too short: 5 are to be taken"):
        frame_window(4, 5, 1, random.Random(0).randint)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 31), (40, 7), (20, 30)])
def test_covering_gives_the_size_and_keeps_a_flat_picture_flat(height: int, width: int) -> None:
    frames = np.full((2, 20, 30, 3), 51, np.uint8)
    video = cover_video(frames, height, width)
    assert video.shape == (2, height, width, 3)
    np.testing.assert_allclose(video, 0.2, rtol=0, atol=1e-6)
    picture = cover_picture(frames[0], height, width)
    assert picture.shape == (height, width, 3)
    assert (picture == 51).all()


def test_a_size_that_is_already_there_changes_nothing() -> None:
    frames = np.random.default_rng(1).integers(0, 256, (1, 9, 12, 3), dtype=np.uint8)
    np.testing.assert_allclose(255 * cover_video(frames, 9, 12), frames, rtol=0, atol=1e-4)
    assert (cover_picture(frames[0], 9, 12) == frames[0]).all()
    assert centre_picture(frames[0], 4).shape == (4, 4, 3)
    assert centre_video(frames, 4).shape == (1, 4, 4, 3)


def test_no_size_of_zero() -> None:
    with pytest.raises(ShapeError, match="at least 1"):
        cover_video(np.zeros((1, 4, 4, 3), np.uint8), 0, 4)
