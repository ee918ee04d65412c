"""Clips of unequal size as padded lists of patches."""

import numpy as np
import pytest

from duosora.core.data.patch_lists import attention_mask, latents_of, padded, patches_of
from duosora.core.errors import ShapeError
from duosora.core.shapes import LatentShape


@pytest.mark.parametrize("size", [LatentShape(1, 2, 2), LatentShape(3, 4, 6)])
def test_patches_come_frame_by_frame_and_row_by_row(size: LatentShape) -> None:
    latents = np.arange(size.frames * 5 * size.height * size.width, dtype=np.float32)
    latents = latents.reshape(size.frames, 5, size.height, size.width)
    patches = patches_of(latents, 2)
    assert patches.shape == (size.frames * size.height * size.width // 4, 5, 2, 2)
    np.testing.assert_array_equal(patches[0], latents[0, :, :2, :2])
    np.testing.assert_array_equal(patches[-1], latents[-1, :, -2:, -2:])
    if size.width > 2:
        np.testing.assert_array_equal(patches[1], latents[0, :, :2, 2:4])
    np.testing.assert_array_equal(latents_of(patches, size), latents)
    behind = padded([patches, np.zeros((99, 5, 2, 2), np.float32)])
    np.testing.assert_array_equal(latents_of(behind.values[0], size), latents)


def test_a_size_that_patches_do_not_tile_is_refused_or_loses_its_rest() -> None:
    latents = np.random.default_rng(0).random((2, 3, 9, 10), np.float32)
    with pytest.raises(ShapeError, match=r"^latents of 9 x 10: need multiples of the patches' 4$"):
        patches_of(latents, 4)
    np.testing.assert_array_equal(patches_of(latents, 4, drops_rest=True), patches_of(latents[:, :, :8, :8], 4))


@pytest.mark.parametrize(("multiple", "length"), [(1, 3), (2, 4), (3, 3), (8, 8)])
def test_lists_are_padded_to_the_longest_and_on_to_a_multiple(multiple: int, length: int) -> None:
    values, mask = padded([np.full((2, 4), 7.0), np.full((3, 4), 8.0)], multiple)
    assert values.shape == (2, length, 4)
    np.testing.assert_array_equal(mask, [[1, 1] + [0] * (length - 2), [1, 1, 1] + [0] * (length - 3)])
    np.testing.assert_array_equal(values[:, :, 0], mask * [[7], [8]])


def test_attention_sees_what_is_no_padding_on_either_side() -> None:
    seen = attention_mask(np.array([[1, 0]]), np.array([[1, 1, 0]]))
    np.testing.assert_array_equal(seen, [[[[1, 1, 0], [0, 0, 0]]]])
