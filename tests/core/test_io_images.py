"""Pictures: what is read is what a viewer shows, what is written comes back, and bad files are one line."""

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from duosora.core.config.loading import load
from duosora.core.config.media import MediaSettings
from duosora.core.config.schema import EvaluateConfig
from duosora.core.errors import ConfigError, MediaError
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
        "palette": (Image.fromarray(picture).quantize(256), picture),
    }
    for name, (image, expected) in modes.items():
        image.save(tmp_path / f"{name}.png")
        got = read_image(tmp_path / f"{name}.png")
        assert got.dtype == np.uint8, name
        np.testing.assert_array_equal(got, expected, err_msg=name)


# Transparency, profiles, sizes


HIDDEN = (200, 30, 60)
"""The colour under what is transparent."""


def transparent_pictures() -> dict[str, tuple[Image.Image, dict[str, Any]]]:
    """Pictures (4, 8) whose left half is transparent, in all ways that files have."""
    alpha = np.zeros((4, 8), np.uint8)
    alpha[:, 4:] = 255
    solid = np.where(alpha[..., None] > 0, np.uint8(90), np.array(HIDDEN, np.uint8))
    grey = np.where(alpha > 0, 90, 7).astype(np.uint8)
    palette = Image.frombytes("P", (8, 4), (alpha == 0).astype(np.uint8).tobytes())
    palette.putpalette([90, 90, 90, *HIDDEN])
    bits = Image.fromarray(alpha > 0)
    return {
        "rgba.png": (Image.fromarray(np.dstack([solid, alpha])), {}),
        "rgba.webp": (Image.fromarray(np.dstack([solid, alpha])), {"lossless": True, "exact": True}),
        "rgba.tiff": (Image.fromarray(np.dstack([solid, alpha])), {}),
        "grey and alpha.png": (Image.fromarray(np.dstack([grey, alpha])), {}),
        "palette.png": (palette, {"transparency": 1}),
        "palette with alphas.png": (palette, {"transparency": b"\xff\x00"}),
        "palette.gif": (palette, {"transparency": 1}),
        "a colour.png": (Image.fromarray(solid), {"transparency": HIDDEN}),
        "a grey.png": (Image.fromarray(grey), {"transparency": 7}),
        "a grey of 16 bits.png": (Image.fromarray(grey.astype(np.uint16) * 256), {"transparency": 7 * 256}),
        "a bit.png": (bits, {"transparency": 0}),
    }


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", transparent_pictures())
def test_what_is_transparent_shows_the_background(tmp_path: Path, name: str) -> None:
    image, options = transparent_pictures()[name]
    image.save(tmp_path / name, **options)
    opaque = 255 if name == "a bit.png" else 90
    for background, colour in (("white", (255, 255, 255)), ("#102030", (16, 32, 48)), (None, (255, 255, 255))):
        media = MediaSettings(background=background) if background else MediaSettings()
        got = read_image(tmp_path / name, media)
        assert got.shape == (4, 8, 3)
        assert got.dtype == np.uint8
        assert (got[:, :4] == colour).all()
        assert (got[:, 4:] == opaque).all()


def test_half_transparent_pixels_are_mixed(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (200, 100, 0, 51)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", MediaSettings(background="black"))[0, 0].tolist() == [40, 20, 0]
    assert read_image(tmp_path / "a.png")[0, 0].tolist() == [244, 224, 204]


@pytest.mark.parametrize("colour", ["chartreuze", "#12", "", "#0000zz"])
def test_a_background_that_is_no_colour_is_one_line(colour: str) -> None:
    with pytest.raises(ConfigError, match="media.background=.*: expected a colour such as white"):
        load(None, EvaluateConfig, [f"media.background='{colour}'"])


def profile(primaries: list[tuple[float, float]], gamma: float) -> bytes:
    """An ICC profile of a screen with these red, green and blue (x, y), a white of D65 and a gamma, by the ICC's
    formulas; Display P3 and Adobe RGB are defined so."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d50 = np.array([0.9642, 1, 0.8249])
    adapts = np.linalg.inv(bradford) @ np.diag(bradford @ d50 / (bradford @ white)) @ bradford
    matrix = adapts @ (columns * np.linalg.solve(columns, white))

    def colour(values: np.ndarray) -> bytes:
        return b"XYZ " + bytes(4) + b"".join(round(v * 65536).to_bytes(4, "big", signed=True) for v in values)

    curve = b"curv" + bytes(4) + (1).to_bytes(4, "big") + round(gamma * 256).to_bytes(2, "big") + bytes(2)
    tags = {b"wtpt": colour(d50), b"cprt": b"text" + bytes(4) + b"none"}
    tags[b"desc"] = b"desc" + bytes(4) + (2).to_bytes(4, "big") + b"x" + bytes(79)
    for name, column in zip((b"r", b"g", b"b"), matrix.T, strict=True):
        tags |= {name + b"XYZ": colour(column), name + b"TRC": curve}
    table, content, place = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + (place + len(content)).to_bytes(4, "big") + len(data).to_bytes(4, "big")
        content += data + bytes(-len(data) % 4)
    head = bytearray(128)
    head[:4] = (place + len(content)).to_bytes(4, "big")
    head[8:24] = b"\x02\x10\0\0mntrRGB XYZ "
    head[36:40], head[68:80] = b"acsp", colour(d50)[8:]
    return bytes(head) + len(tags).to_bytes(4, "big") + table + content


DISPLAY_P3 = profile([(0.680, 0.320), (0.265, 0.690), (0.150, 0.060)], 2.2)
ADOBE_RGB = profile([(0.640, 0.330), (0.210, 0.710), (0.150, 0.060)], 2.19921875)
TO_SRGB = {
    "Display P3": np.array([[1.2249, -0.2249, 0], [-0.0420, 1.0420, 0], [-0.0197, -0.0786, 1.0979]]),
    "Adobe RGB": np.array([[1.3984, -0.3984, 0], [0, 1, 0], [0, -0.0429, 1.0429]]),
}
"""Published matrices of linear light."""


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
@pytest.mark.parametrize(("name", "icc"), [("Display P3", DISPLAY_P3), ("Adobe RGB", ADOBE_RGB)])
def test_colour_profiles_are_converted_to_srgb(tmp_path: Path, name: str, icc: bytes, ending: str) -> None:
    colours = np.array([[[200, 90, 90], [90, 180, 90], [90, 90, 170], [128, 128, 128]]], np.uint8)
    picture = Image.fromarray(colours.repeat(16, axis=0).repeat(16, axis=1))
    options: dict[str, Any] = {"jpg": {"quality": 98, "subsampling": 0}, "webp": {"lossless": True}}.get(ending, {})
    picture.save(tmp_path / f"a.{ending}", icc_profile=icc, **options)
    light = (colours[0] / 255) ** 2.2 @ TO_SRGB[name].T
    expected = np.clip(255 * (1.055 * np.clip(light, 0, 1) ** (1 / 2.4) - 0.055), 0, 255)
    got = read_image(tmp_path / f"a.{ending}")[8, 8::16]
    assert np.abs(got - expected).max() <= 5
    assert np.abs(got - expected).max() < np.abs(colours[0] - expected).max() / 2


def test_profiles_apply_under_transparency_and_in_palettes(tmp_path: Path) -> None:
    plain = Image.new("RGB", (4, 4), (200, 90, 90))
    plain.save(tmp_path / "plain.png", icc_profile=DISPLAY_P3)
    expected = read_image(tmp_path / "plain.png")[0, 0]
    assert expected[0] > 205
    plain.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png", icc_profile=DISPLAY_P3)
    Image.new("RGBA", (4, 4), (200, 90, 90, 0)).save(tmp_path / "clear.png", icc_profile=DISPLAY_P3)
    Image.new("RGBA", (4, 4), (200, 90, 90, 255)).save(tmp_path / "solid.png", icc_profile=DISPLAY_P3)
    assert (read_image(tmp_path / "palette.png")[0, 0] == expected).all()
    assert (read_image(tmp_path / "solid.png")[0, 0] == expected).all()
    assert (read_image(tmp_path / "clear.png") == 255).all()  # the background is in sRGB


@pytest.mark.filterwarnings("error")
def test_profiles_that_do_not_fit_are_left_aside(tmp_path: Path, picture: np.ndarray) -> None:
    for name, icc in {"junk": b"junk", "cut": DISPLAY_P3[:200], "zeros": bytes(400)}.items():
        Image.fromarray(picture).save(tmp_path / f"{name}.png", icc_profile=icc)
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.png"), picture, err_msg=name)
    Image.fromarray(picture).convert("CMYK").save(tmp_path / "cmyk.tiff", icc_profile=DISPLAY_P3)
    np.testing.assert_array_equal(read_image(tmp_path / "cmyk.tiff"), picture)


def announcing(path: Path, height: int, width: int) -> None:
    """A PNG whose header names other sides than its content has."""
    Image.new("1", (8, 8)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


@pytest.mark.filterwarnings("error")
def test_too_many_pixels_are_refused_by_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real PNG of 13,300 x 13,300 pixels may have 21 kB."""
    announcing(tmp_path / "bomb.png", 13300, 13300)
    Image.new("1", (40, 30)).save(tmp_path / "a.png")
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("was decoded"))
        with pytest.raises(MediaError, match=r"bomb\.png: has 13300 x 13300 pixels, more than 67108864 in all"):
            read_image(tmp_path / "bomb.png")
        with pytest.raises(MediaError, match="has 30 x 40 pixels, more than 1199 in all"):
            read_image(tmp_path / "a.png", MediaSettings(max_pixels=1199))
    assert read_image(tmp_path / "a.png", MediaSettings(max_pixels=1200)).shape == (30, 40, 3)
    announcing(tmp_path / "large.png", 100, 100_000)  # beyond Pillow's warning
    with pytest.raises(MediaError, match="cannot be read as a picture"):  # allowed, but its pixels are missing
        read_image(tmp_path / "large.png")


def test_damaged_exif_is_left_aside_without_a_warning(
    tmp_path: Path, picture: np.ndarray, recwarn: pytest.WarningsRecorder
) -> None:
    write_image(tmp_path / "a.png", picture)
    content = (tmp_path / "a.png").read_bytes()
    cut = b"MM\0*\0\0\0\x08\0\x02\x01\x0f\0\x02\0\0\0\x20\0\0\x09\x00"  # a text that ends behind the file
    for number, exif in enumerate((b"II*\0", b"MM\0*\0\0\0\x08\0\x09\x01\x12", cut, b"junk", b"")):
        chunk = b"eXIf" + exif
        chunk = len(exif).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        (tmp_path / f"{number}.png").write_bytes(content[:33] + chunk + content[33:])
        np.testing.assert_array_equal(read_image(tmp_path / f"{number}.png"), picture)
    assert [str(warning.message) for warning in recwarn] == []


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(MediaError, match="is a pipe"):
        read_image(tmp_path / "a.png")


def test_what_is_no_picture_is_told_in_words_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    os.mkfifo(tmp_path / "b.png")
    for name, words in (
        ("a", r"cannot be read as a picture \(damaged"),
        ("b", r"cannot be read as a picture \(is a pipe"),
    ):
        with pytest.raises(MediaError, match=rf"{name}\.png: {words}") as raised:
            read_image(tmp_path / f"{name}.png")
        assert "Errno" not in str(raised.value)
        assert "Buffered" not in str(raised.value)


def test_the_result_is_writable(tmp_path: Path, picture: np.ndarray) -> None:
    write_image(tmp_path / "a.png", picture)
    assert read_image(tmp_path / "a.png").flags.writeable


def test_bad_files_are_one_line(tmp_path: Path, picture: np.ndarray) -> None:
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
