"""Folders of features and classes in Mini Sora's form, and the square crop of pictures."""

from pathlib import Path

import numpy as np
import pytest

from duosora.core.data.feature_folder import FeatureFolder
from duosora.core.errors import MediaError
from duosora.core.maths.cover import centre_picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("features", "labels"):
        (tmp_path / f"imagenet256_{name}").mkdir()
    for number in range(11):
        np.save(tmp_path / f"imagenet256_features/{number}.npy", np.full((1, 4, 2, 2), number, np.float32))
        np.save(tmp_path / f"imagenet256_labels/{number}.npy", np.array([number], np.int64))
    return tmp_path


def test_files_are_read_in_the_order_of_their_names_as_text(folder: Path) -> None:
    features = FeatureFolder(folder)
    read = [features.read(i) for i in range(len(features))]
    assert [item.label for item in read] == [0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9]
    assert all((item.latent == item.label).all() and item.latent.shape == (4, 2, 2) for item in read)


@pytest.mark.parametrize(("gone", "there"), [("features", "labels"), ("labels", "features")])
def test_a_file_without_a_partner_is_named(folder: Path, gone: str, there: str) -> None:
    (folder / f"imagenet256_{gone}/3.npy").unlink()
    with pytest.raises(MediaError, match=rf"imagenet256_{there}/3\.npy: no file of that name in .*_{gone}$"):
        FeatureFolder(folder)


@pytest.mark.parametrize(
    ("file", "array", "said"),
    [
        ("features", np.array([{"a": 1}]), "cannot be read as .npy"),
        ("features", np.zeros((4, 2, 2), np.float32), "holds float32 (4, 2, 2); expected a latent"),
        ("features", np.full((1, 4, 2, 2), np.nan, np.float32), "holds NaN or infinity"),
        ("features", np.full((1, 4, 2, 2), 1e300), "holds NaN or infinity, or more than float32 can hold"),
        ("labels", np.array([1.0]), "holds float64 (1,); expected a class"),
        ("labels", np.array([5]), "class 5; the model knows 0 to 4"),
        ("labels", np.array([-1]), "class -1; the model knows 0 to 4"),
    ],
)
def test_what_is_no_feature_is_refused_in_one_line(folder: Path, file: str, array: np.ndarray, said: str) -> None:
    np.save(folder / f"imagenet256_{file}/0.npy", array)
    with pytest.raises(MediaError) as error:
        FeatureFolder(folder).read(0, classes=5)
    assert said in str(error.value)
    assert f"imagenet256_{file}/0.npy" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["features", "labels"])
@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,4,2", "its header is damaged"),
        ("{'descr': '<f4", "its header is damaged"),
        ("{1: 2, 'a': 3}", "its header is damaged"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 4, -2, -2), }", "its header tells of float32"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 4, 2, 2), }", "its header tells of float32"),
        ("{'descr': '(2,2)f4', 'fortran_order': False, 'shape': (1, 4, 1, 1), }", "its header tells of"),
        ("{'descr': '|V0', 'fortran_order': False, 'shape': (1, 4, 2, 2), }", "its header tells of"),
    ],
)
def test_a_header_of_nonsense_is_refused_in_one_line(folder: Path, file: str, header: str, said: str) -> None:
    body = header.encode().ljust(117) + b"\n"
    values = bytes(0 if "V0" in header else 64)
    path = folder / f"imagenet256_{file}/0.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body + values)
    with pytest.raises(MediaError) as error:
        FeatureFolder(folder).read(0)
    assert f"{path}: cannot be read as .npy ({said}" in str(error.value)
    assert "\n" not in str(error.value)


def test_folders_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="expected one folder whose name ends with _features, found none"):
        FeatureFolder(tmp_path)


@pytest.mark.parametrize("size", [(37, 61), (15, 40), (16, 16), (100, 33)])
def test_a_picture_becomes_a_square(size: tuple[int, int]) -> None:
    flat = np.full((*size, 3), 77, np.uint8)
    np.testing.assert_array_equal(centre_picture(flat, 16), np.full((16, 16, 3), 77))
