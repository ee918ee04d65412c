"""Pictures: what is read is what a viewer shows, what is written comes back, and bad files are one line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from duosora.core.errors import MediaError
from duosora.core.io import files
from duosora.core.io.images import read_image, write_image


@pytest.fixture
def picture() -> np.ndarray:
    """(6, 9, 3), smooth, so that JPEG keeps it."""
    rows, columns = np.mgrid[0:6, 0:9]
    return np.stack([20 * rows + 5, 25 * columns + 5, 10 * (rows + columns)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(("name", "worst"), [("a.png", 0), ("a.jpg", 8), ("a.JPEG", 8)])
def test_what_is_written_comes_back(tmp_path: Path, picture: np.ndarray, name: str, worst: int) -> None:
    write_image(tmp_path / "new" / name, picture)
    got = read_image(tmp_path / "new" / name)
    assert got.dtype == np.uint8
    assert got.shape == picture.shape
    assert np.abs(got.astype(int) - picture).max() <= worst


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path: Path, picture: np.ndarray, orientation: int) -> None:
    """Each value of the EXIF standard, by how the stored rows and columns have to be turned to be upright."""
    upright = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: p.swapaxes(0, 1)[:, ::-1],
        7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
        8: lambda p: p.swapaxes(0, 1)[::-1],
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), upright[orientation](picture))


def test_every_pixel_mode_becomes_rgb(tmp_path: Path, picture: np.ndarray) -> None:
    grey = picture[:, :, 0]
    as_rgb = np.repeat(grey[:, :, None], 3, axis=2)
    modes = {
        "grey": (Image.fromarray(grey), as_rgb),
        "grey 16": (Image.fromarray(grey.astype(np.uint16) * 257), as_rgb),
        "two colours": (Image.fromarray(grey > 50), np.where(as_rgb > 50, 255, 0)),
        "alpha": (Image.fromarray(np.dstack([picture, grey])), picture),
        "palette": (Image.fromarray(picture).quantize(256), picture),
    }
    for name, (image, expected) in modes.items():
        image.save(tmp_path / f"{name}.png")
        got = read_image(tmp_path / f"{name}.png")
        assert got.dtype == np.uint8, name
        np.testing.assert_array_equal(got, expected, err_msg=name)


def test_the_result_is_writable(tmp_path: Path, picture: np.ndarray) -> None:
    write_image(tmp_path / "a.png", picture)
    assert read_image(tmp_path / "a.png").flags.writeable


def test_bad_files_are_one_line(tmp_path: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "whole.png", picture)
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "rot.png").write_bytes(content[:60] + bytes(20) + content[80:])
    (tmp_path / "text.png").write_text("a cat")
    (tmp_path / "empty.jpg").touch()
    Image.fromarray(picture[:, :, 0].astype(np.float32)).save(tmp_path / "float.tiff")
    for name, message in {
        "cut.png": "cannot be read as a picture",
        "rot.png": "cannot be read as a picture",
        "text.png": "cannot be read as a picture",
        "empty.jpg": "cannot be read as a picture",
        ".": "cannot be read as a picture",
        "absent.png": "there is no such file",
        "float.tiff": "has 32-bit pixels",
    }.items():
        with pytest.raises(MediaError, match=message) as raised:
            read_image(tmp_path / name)
        assert "\n" not in str(raised.value)
        assert str(raised.value).startswith(str(tmp_path / name))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(MediaError, match="decompression bomb"):
        read_image(tmp_path / "whole.png")


def test_an_existing_picture_is_kept_unless_overwritten(tmp_path: Path, picture: np.ndarray) -> None:
    write_image(tmp_path / "a.png", picture)
    with pytest.raises(MediaError, match="exists already and is kept"):
        write_image(tmp_path / "a.png", picture + 1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), picture)
    write_image(tmp_path / "a.png", picture + 1, overwrite=True)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), picture + 1)


def test_a_full_disk_leaves_nothing(tmp_path: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_make_file", lambda path: path.symlink_to("/dev/full"))
    with pytest.raises(MediaError, match="the disk is full"):
        write_image(tmp_path / "a.png", picture)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.webp", "a", "a.png.txt"])
def test_other_endings_are_refused(tmp_path: Path, picture: np.ndarray, name: str) -> None:
    with pytest.raises(MediaError, match=r"pictures are written as \.png, \.jpg, \.jpeg"):
        write_image(tmp_path / name, picture)


@pytest.mark.parametrize("array", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(MediaError, match=r"expected uint8 \(H, W, 3\)"):
        write_image(tmp_path / "a.png", array)
    assert list(tmp_path.iterdir()) == []
