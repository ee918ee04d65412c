"""Many pictures as one, in an archive, and rounded."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from duosora.core.io.array_archives import write_npz
from duosora.core.maths.picture_grid import picture_grid
from duosora.core.maths.pixels import to_nearest_uint8


def test_pictures_lie_in_rows_with_black_between_them() -> None:
    pictures = [np.full((3, 5, 3), 10 * number, np.uint8) for number in range(1, 7)]
    grid = picture_grid(pictures, 4)
    assert grid.shape == (2 * 5 + 2, 4 * 7 + 2, 3)
    np.testing.assert_array_equal(grid[2:5, 2:7], pictures[0])
    np.testing.assert_array_equal(grid[7:10, 9:14], pictures[5])
    assert grid.astype(int).sum() == sum(int(picture.sum()) for picture in pictures)
    assert picture_grid(pictures[:2], 4).shape == (7, 16, 3)


def test_an_archive_is_what_numpy_writes(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 255, (5, 2, 3, 3)).astype(np.uint8)
    write_npz(tmp_path / "a.npz", "arr_0", rows.shape, iter(rows), overwrite=False)
    np.savez(tmp_path / "b.npz", rows)
    ours, numpys = (zipfile.ZipFile(tmp_path / name) for name in ("a.npz", "b.npz"))
    assert ours.namelist() == numpys.namelist() == ["arr_0.npy"]
    assert ours.read("arr_0.npy") == numpys.read("arr_0.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npz")["arr_0"], rows)


def test_an_archive_that_is_not_written_to_its_end_is_none(tmp_path: Path) -> None:
    def broken() -> io.BytesIO:
        raise RuntimeError("ended")

    with pytest.raises(RuntimeError, match="ended"):
        write_npz(tmp_path / "a.npz", "arr_0", (1, 1), (broken() for _ in range(1)), overwrite=False)  # type: ignore[misc]
    assert list(tmp_path.iterdir()) == []


def test_levels_are_the_nearest_ones() -> None:
    values = np.array([-2.0, -1.0, -0.9962, 0.0, 0.0039, 0.999, 1.0, 3.0], np.float32)
    levels = to_nearest_uint8(np.broadcast_to(values, (1, 3, 1, 1, 8)))
    assert levels.shape == (1, 1, 1, 8, 3)
    assert levels[0, 0, 0, :, 0].tolist() == [0, 0, 0, 128, 128, 255, 255, 255]
