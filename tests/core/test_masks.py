"""Masks of the inpaint sibling."""

import random

import numpy as np
import pytest

from duosora.core.errors import ConfigError, ShapeError
from duosora.core.maths.masks import MASK_TYPES, compress_mask, frame_mask, masked_pixels


@pytest.mark.parametrize(
    ("kind", "given"),
    [("t2iv", []), ("i2v", [0]), ("transition", [0, 8]), ("clear", list(range(9)))],
)
def test_given_frames_are_zero(kind: str, given: list[int]) -> None:
    mask = frame_mask(kind, 9, random.Random(0))
    assert mask.dtype == np.float32
    assert np.flatnonzero(mask == 0).tolist() == given
    assert set(mask.tolist()) <= {0.0, 1.0}


def test_continuation_gives_a_beginning_and_random_temporal_any_frames() -> None:
    beginnings, counts = set(), set()
    for seed in range(200):
        beginning = np.flatnonzero(frame_mask("continuation", 9, random.Random(seed), 0.25, 0.5) == 0)
        assert beginning.tolist() == list(range(len(beginning)))
        beginnings.add(len(beginning))
        counts.add(int((frame_mask("random_temporal", 9, random.Random(seed), 0.25, 0.5) == 0).sum()))
    assert beginnings == counts == {2, 3, 4, 5}  # floor(9 / 4) to ceil(9 / 2)


def test_the_same_draws_give_the_same_mask() -> None:
    first, second = (frame_mask("random_temporal", 33, random.Random(7)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("kind", MASK_TYPES)
def test_an_image_has_a_mask_of_one_frame(kind: str) -> None:
    assert frame_mask(kind, 1, random.Random(0)).shape == (1,)


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"mask type 'i2i': needs one of t2iv, i2v, .*random_temporal"):
        frame_mask("i2i", 9, random.Random(0))


def test_pixels_to_generate_become_zero() -> None:
    pixels = np.full((2, 3, 1, 1), 200.0)
    mask = np.array([0.0, 1.0]).reshape(2, 1, 1, 1)
    assert masked_pixels(pixels, mask)[:, 0, 0, 0].tolist() == [200.0, 0.0]


def test_the_first_frame_fills_a_latent_frame_of_its_own() -> None:
    frames = np.arange(9, dtype=np.float32)
    mask = np.broadcast_to(frames[None, None, :, None, None], (1, 1, 9, 16, 24))
    compressed = compress_mask(mask, 4, 8)
    assert compressed.shape == (1, 4, 3, 2, 3)
    assert compressed.dtype == np.float32
    assert compressed[0, :, :, 0, 0].T.tolist() == [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]]


def test_an_even_number_of_frames_is_folded_as_it_is() -> None:
    mask = np.broadcast_to(np.arange(8.0)[None, None, :, None, None], (1, 1, 8, 8, 8))
    assert compress_mask(mask, 4, 8)[0, :, :, 0, 0].T.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_frames_that_cannot_be_folded_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"a mask of 7 frames cannot be folded by 4"):
        compress_mask(np.ones((1, 1, 7, 8, 8)), 4, 8)


def test_space_is_interpolated_at_the_middle_of_each_block() -> None:
    mask = np.random.default_rng(0).random((1, 1, 1, 16, 8))
    # The middle of eight pixels lies between the fourth and the fifth, along both sides.
    for row in range(2):
        block = mask[0, 0, 0, row * 8 + 3 : row * 8 + 5, 3:5]
        assert compress_mask(mask, 4, 8)[0, 0, 0, row, 0] == pytest.approx(block.mean(), abs=1e-6)
