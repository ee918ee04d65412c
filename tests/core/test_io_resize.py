"""Resizing and cropping against torch, which the published pipelines use, and against recorded sizes."""

import numpy as np
import pytest
import torch

from duosora.core.errors import ShapeError
from duosora.core.maths.resize import (
    Box,
    antialias_taps,
    center_crop_resize,
    centred_box,
    crop,
    resize,
    resize_to_area,
    size_within_area,
    stride_box,
)

# (height, width) -> (height, width); a result one pixel wide is left out, because torch's float kernel is wrong there
SIZES = [
    ((37, 50), (24, 32)), ((16, 20), (24, 40)), ((50, 31), (32, 16)), ((9, 9), (9, 9)), ((9, 12), (9, 7)),
    ((9, 12), (20, 12)), ((1, 1), (5, 4)), ((3, 90), (40, 2)), ((64, 64), (2, 2)), ((2, 2), (63, 64)), ((5, 7), (4, 6)),
]  # fmt: skip


def by_torch(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """What upstream's transforms call."""
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous(),
        size=(height, width),
        mode="bilinear",
        align_corners=True,
        antialias=True,
    )
    return resized.permute(0, 2, 3, 1).numpy()


def random_frames(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("size", "new_size"), SIZES)
def test_uint8_frames_are_resized_as_by_torch_to_the_bit(size: tuple[int, int], new_size: tuple[int, int]) -> None:
    frames = random_frames(*size)
    got = resize(frames, *new_size)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, by_torch(frames, *new_size))


def test_random_sizes_of_uint8_frames_agree_too() -> None:
    draw = np.random.default_rng(3)
    for seed in range(60):
        height, width, new_height, new_width = (int(size) for size in draw.integers(1, 60, 4))
        frames = random_frames(height, width, seed)
        np.testing.assert_array_equal(resize(frames, new_height, new_width), by_torch(frames, new_height, new_width))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("size", "new_size"), SIZES)
def test_float_frames_are_resized_as_by_torch(size: tuple[int, int], new_size: tuple[int, int], channels: int) -> None:
    frames = np.random.default_rng(0).random((2, *size, channels)).astype(np.float32)
    got = resize(frames, *new_size)
    assert got.dtype == np.float32
    # float32 rounding of up to 128 weights in another order; a centre that is off by 1e-3 pixels gives 1e-3
    np.testing.assert_allclose(got, by_torch(frames, *new_size), rtol=0, atol=1e-5)


def test_the_weights_of_each_pixel_sum_to_one() -> None:
    for size, new_size in ((50, 7), (7, 50), (1, 9), (9, 1), (9, 9)):
        taps = antialias_taps(size, new_size)
        assert taps.sources.shape == taps.weights.shape
        assert len(taps.weights) == new_size
        assert taps.sources.min() >= 0
        assert taps.sources.max() < size
        np.testing.assert_allclose(taps.weights.sum(axis=1), 1, atol=1e-12)


def test_a_frame_of_one_colour_stays_that_colour() -> None:
    for value in (0, 1, 127, 254, 255):
        frames = np.full((1, 37, 23, 3), value, np.uint8)
        assert (resize(frames, 11, 50) == value).all()


# Recorded from the published pipeline (golden data/transforms)


@pytest.mark.parametrize(
    ("height", "width", "max_area", "expected"),
    [
        (720, 1280, 236544, (364, 648)),
        (1080, 1920, 236544, (364, 648)),
        (360, 480, 236544, (360, 480)),
        (1024, 1024, 409600, (640, 640)),
        (333, 777, 100000, (207, 483)),
        (480, 480, 230400, (480, 480)),
    ],
)
def test_sizes_within_an_area(height: int, width: int, max_area: int, expected: tuple[int, int]) -> None:
    assert size_within_area(height, width, max_area) == expected


@pytest.mark.parametrize(
    ("height", "width", "stride", "expected"),
    [
        (364, 648, 32, (6, 4, 352, 640)),
        (486, 486, 32, (3, 3, 480, 480)),
        (207, 483, 32, (7, 1, 192, 480)),
        (352, 640, 16, (0, 0, 352, 640)),
    ],
)
def test_boxes_of_whole_strides(height: int, width: int, stride: int, expected: tuple[int, ...]) -> None:
    assert stride_box(height, width, stride) == expected


@pytest.mark.parametrize(
    ("size", "target", "expected"),
    [
        ((50, 31), (32, 32), (10, 0, 31, 31)),  # 9.5 is rounded to even
        ((37, 50), (24, 32), (0, 0, 37, 49)),  # 0.5 is rounded to even
        ((16, 20), (24, 40), (2, 0, 12, 20)),
        ((480, 640), (480, 640), (0, 0, 480, 640)),
    ],
)
def test_centred_boxes_have_the_targets_proportions(
    size: tuple[int, int], target: tuple[int, int], expected: tuple[int, ...]
) -> None:
    assert centred_box(*size, *target) == expected


def test_center_crop_resize_cuts_first_and_then_resizes() -> None:
    frames = random_frames(50, 31)
    expected = by_torch(np.ascontiguousarray(frames[:, 10:41]), 16, 16)
    np.testing.assert_array_equal(center_crop_resize(frames, 16, 16), expected)


def test_resize_to_area_resizes_first_and_then_cuts() -> None:
    frames = random_frames(37, 50)
    expected = by_torch(frames, 25, 34)[:, 0:24, 1:33]
    np.testing.assert_array_equal(resize_to_area(frames, 900, 8), expected)
    np.testing.assert_array_equal(resize_to_area(frames, 2000, 8), frames[:, 2:34, 1:49])


def test_a_crop_copies_nothing() -> None:
    frames = random_frames(9, 9)
    part = crop(frames, Box(1, 2, 3, 4))
    assert part.shape == (2, 3, 4, 3)
    assert np.shares_memory(part, frames)


def test_impossible_sizes_are_one_line() -> None:
    frames = random_frames(9, 9)
    with pytest.raises(ShapeError, match="cannot be resized to 0 x 4 pixels"):
        resize(frames, 0, 4)
    with pytest.raises(ShapeError, match=r"frames have shape \(9, 9, 3\): expected \(T, H, W, C\)"):
        resize(frames[0], 4, 4)
    with pytest.raises(ShapeError, match="both sides must be at least 32 pixels"):
        stride_box(100, 31, 32)
    with pytest.raises(ShapeError, match="has no part with the proportions 1 : 500"):
        center_crop_resize(frames, 1, 500)
