"""What an inpaint model is given: how images are brought to size and which frames they become."""

import numpy as np
import pytest

from duosora.core.maths.resize import center_crop_resize
from duosora.core.pipelines.conditioning import Conditioning, fitted, place_frames
from duosora.core.shapes import VideoShape


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_picture_that_the_output_follows_is_cut_and_not_squeezed_to_the_stride():
    (only,) = fitted([image(100, 140)], None, 236544)
    np.testing.assert_array_equal(only, image(100, 140)[2:98, 6:134])


def test_pictures_of_other_proportions_get_the_size_of_the_first():
    first, same, other = fitted([image(100, 140), image(99, 135, 1), image(70, 50, 2)], None, 236544)
    assert first.shape == same.shape == other.shape == (96, 128, 3)
    np.testing.assert_array_equal(same, image(99, 135, 1)[1:97, 3:131])
    np.testing.assert_array_equal(other, center_crop_resize(image(70, 50, 2)[None], 96, 128)[0])


@pytest.mark.parametrize("seed", range(8))
def test_the_only_picture_of_a_clip_of_one_frame_is_given_whatever_the_seed(seed: int):
    placed = place_frames(Conditioning((image(32, 32),)), VideoShape(1, 32, 32), seed)
    np.testing.assert_array_equal(placed.mask, [0.0])
