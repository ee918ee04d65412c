"""Features of labelled pictures: Mini Sora's folders looked over before any is trained on, and turned into caches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duosora.core import random
from duosora.core.config.data import DataSettings
from duosora.core.data.cache import CacheWriter
from duosora.core.data.feature_conversion import convert_features
from duosora.core.data.features import FolderFeatures, open_features
from duosora.core.data.labelled_cache import LabelledCache
from duosora.core.data.labels import check_labels, class_table
from duosora.core.data.latent_cache import KIND, label_note
from duosora.core.data.sources import open_source
from duosora.core.errors import DuosoraError, MediaError
from duosora.core.shapes import Causal

COMPRESSION = Causal(1, 8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "npy"
    for name in ("features", "labels"):
        (made / f"imagenet256_{name}").mkdir(parents=True)
    for number in range(11):
        latent = random.normal((1, 4, 2, 2), 0, "latent", number)
        np.save(made / f"imagenet256_features/{number}.npy", latent)
        np.save(made / f"imagenet256_labels/{number}.npy", np.array([number % 3], np.int64))
    return made


def check(folder: Path, classes: int = 3, scaling: dict[str, Any] | None = None, **changed: Any) -> None:
    size = {"height": 16, "width": 16, **changed}
    settings = DataSettings(kind="features", files=(folder,), **size)
    check_labels(open_source(settings), settings, classes, COMPRESSION, scaling or {})


def test_what_fits_passes(folder: Path) -> None:
    check(folder)
    assert class_table(DataSettings(kind="features", files=(folder,))) == ()


def latents(value: Any) -> Any:
    return lambda folder: np.save(folder / "imagenet256_features/3.npy", value)


def cut_off(folder: Path) -> None:
    path = folder / "imagenet256_features/3.npy"
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            latents(np.zeros((1, 4, 2, 4), np.float32)),
            "features/3.npy: holds a latent of 4 x 2 x 4, 0.npy one of 4 x 2 x 2",
        ),
        (latents(np.array([{"a": 1}])), "features/3.npy: cannot be read as .npy (it holds Python objects"),
        (latents(np.zeros((4, 2, 2), np.float32)), "features/3.npy: holds float32 (4, 2, 2); expected a latent"),
        (cut_off, "features/3.npy: cannot be read as .npy (it is cut off)"),
        (lambda folder: (folder / "imagenet256_labels/3.npy").unlink(), "features/3.npy: no file of that name in"),
        (
            lambda folder: np.save(folder / "imagenet256_labels/3.npy", np.array([7])),
            "imagenet256_labels/3.npy: class 7; the model knows 0 to 2",
        ),
    ],
)
def test_one_file_that_does_not_fit_is_named_before_any_is_trained_on(folder: Path, spoil: Any, said: str) -> None:
    spoil(folder)
    with pytest.raises(DuosoraError) as error:
        check(folder)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"height": 32, "width": 32},
            "holds latents of 2 x 2, while pictures of data.height x width = 32 x 32 have 4 x 4",
        ),
        ({"flip": True}, "data.flip = true: "),
        ({"classes": 2}, "imagenet256_labels/2.npy: class 2; the model knows 0 to 1"),
    ],
)
def test_models_and_settings_that_do_not_fit_are_told(folder: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(DuosoraError) as error:
        check(folder, **changed)
    assert said in str(error.value)


def test_mini_soras_folders_become_a_cache_and_come_back_as_they_were(folder: Path, tmp_path: Path) -> None:
    assert convert_features(folder, tmp_path / "cache", shard_bytes=200).endswith(
        "a cache of 11 latents with their classes"
    )
    features, cache = FolderFeatures(folder), open_features(tmp_path / "cache")
    assert cache.are_scaled
    assert [cache.name(i) for i in range(11)] == [features.name(i) for i in range(11)]
    assert cache.labels.tolist() == features.labels.tolist()
    for number in range(11):
        np.testing.assert_array_equal(cache.latent(number), features.latent(number))
    convert_features(tmp_path / "cache", tmp_path / "back")
    written = sorted(path.relative_to(folder) for path in folder.rglob("*.npy"))
    assert sorted(path.relative_to(tmp_path / "back") for path in (tmp_path / "back").rglob("*.npy")) == written
    assert all((tmp_path / "back" / path).read_bytes() == (folder / path).read_bytes() for path in written)


def moments_cache(folder: Path) -> LabelledCache:
    """Two pictures of two classes, both also mirrored; the log-variance is small."""
    identity = {"kind": KIND, "classes": ["a", "b"], "scale": [2.0], "shift": [0.5]}
    writer = CacheWriter(folder, identity)
    for label, name in enumerate(("a/x.png", "b/y.png")):
        for is_mirrored in (False, True):
            moments = np.array([10 * label + is_mirrored, -30.0], np.float32).reshape(2, 1, 1, 1).repeat(2, 3)
            writer.add(f"{label}{int(is_mirrored)}" * 32, moments, name, label_note(name, label, is_mirrored))
    writer.close()
    return LabelledCache(folder)


def test_a_cache_of_pictures_is_drawn_scaled_and_numbered_for_mini_sora(tmp_path: Path) -> None:
    moments_cache(tmp_path / "cache")
    seen = set()
    for seed in range(8):
        convert_features(tmp_path / "cache", tmp_path / str(seed), seed)
        features = FolderFeatures(tmp_path / str(seed))
        assert [features.name(i) for i in range(2)] == ["0.npy", "1.npy"]
        assert features.labels.tolist() == [0, 1]
        drawn = [round(float(features.latent(number).mean()), 3) for number in range(2)]
        assert drawn[0] in ((0 - 0.5) * 2, (1 - 0.5) * 2)
        assert drawn[1] in ((10 - 0.5) * 2, (11 - 0.5) * 2)
        seen.update(drawn)
    assert len(seen) == 4


def test_a_cache_made_with_another_autoencoder_is_refused(tmp_path: Path) -> None:
    moments_cache(tmp_path)
    check(tmp_path, scaling={"scale": [2.0], "shift": [0.5]}, height=8, width=16)
    with pytest.raises(DuosoraError, match=r"its latents have scale = \[2.0\], those of model.vae \[1.0\]"):
        check(tmp_path, scaling={"scale": [1.0], "shift": [0.5]}, height=8, width=16)
    assert class_table(DataSettings(kind="features", files=(tmp_path,))) == ("a", "b")


def test_nothing_is_written_over_or_left_half_written(folder: Path, tmp_path: Path) -> None:
    moments_cache(tmp_path / "cache")
    (tmp_path / "there").mkdir()
    with pytest.raises(MediaError, match="there: exists already and is kept"):
        convert_features(tmp_path / "cache", tmp_path / "there")
    np.save(folder / "imagenet256_features/9.npy", np.full((1, 4, 2, 2), np.inf, np.float32))
    with pytest.raises(MediaError, match=r"features/9\.npy: holds NaN or infinity"):
        convert_features(folder, tmp_path / "other")
    with pytest.raises(DuosoraError, match="is not finished"):
        open_features(tmp_path / "other")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
