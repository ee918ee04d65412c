"""Sizes by name: what the tables have is found, and what they lack is refused with the nearest."""

import pytest

from duosora.core.bucketing.size_table import even_size
from duosora.core.errors import ConfigError
from duosora.core.recipes.opensora_v1_2_sizes import SIZES
from duosora.core.shapes import VideoShape


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("240p", "9:16", "2s"), VideoShape(51, 240, 426)),
        (("720p", "16:9", "4s"), VideoShape(102, 1280, 720)),
        (("480p", "1:1", 17), VideoShape(17, 640, 640)),
        (("480p", "25:12", " 51 "), VideoShape(51, 924, 444)),
        (("256", "1:1", "16s"), VideoShape(408, 256, 256)),  # upstream fails: its table has 1.0, not 1.00
        (("512", "2:1", "1x"), VideoShape(51, 704, 352)),
    ],
)
def test_a_size_is_found_by_its_names(names: tuple[str, str, str | int], expected: VideoShape) -> None:
    assert SIZES.video(*names) == expected


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("480p", "5:7", 1), ["aspect_ratio = '5:7'", "480p", "3:4", "554 x 738"]),
        (("256", "9:16", 1), ["aspect_ratio = '9:16'", "4:7", "192 x 336"]),
        (("200p", "1:1", 1), ["resolution = '200p'", "720p", "nearest is 240p"]),
        (("big", "1:1", 1), ["resolution = 'big'", "144p"]),
        (("480p", "9x16", 1), ["aspect_ratio = '9x16'", "height:width"]),
        (("480p", "0:1", 1), ["aspect_ratio = '0:1'"]),
        (("480p", "1:1", "3s"), ["num_frames = '3s'", "2s (51)", "4s (102)"]),
        (("480p", "1:1", "4S"), ["num_frames = '4S'", "4s (102)"]),
        (("480p", "1:1", "5.0"), ["num_frames = '5.0'"]),
        (("480p", "1:1", 0), ["num_frames = '0'"]),
        (("480p", "1:1", -17), ["num_frames = '-17'"]),
        (("480p", "1:1", True), ["num_frames = 'True'"]),
        (("480p", "1:1", "٥١"), ["num_frames = "]),
    ],
)
def test_what_the_tables_lack_is_refused_with_the_nearest(names: tuple[str, str, str | int], told: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        SIZES.video(*names)
    assert [part for part in told if part not in str(refused.value)] == []
    assert "\n" not in str(refused.value)


def test_what_a_refusal_names_is_taken() -> None:
    for name in SIZES.resolutions:
        with pytest.raises(ConfigError) as refused:
            SIZES.size(name, "7:1")
        nearest = str(refused.value).partition("nearest is ")[2].partition(" ")[0]
        height, width = SIZES.size(name, nearest)
        assert f"{height} x {width} pixels" in str(refused.value)


def test_a_picture_gets_the_nearest_proportion() -> None:
    assert SIZES.nearest_ratio("240p", 1080, 1920) == "0.56"
    assert SIZES.nearest_ratio("512", 1920, 1080) == "1.75"


def test_sizes_by_formula_are_even_and_of_the_area() -> None:
    for ratio in (0.375, 0.5625, 1.0, 16 / 9, 2.08):
        height, width = even_size(ratio, 230400)
        assert height % 2 == width % 2 == 0
        assert abs(height * width - 230400) < 3 * (height + width)
        assert abs(height / width - ratio) < 0.02
