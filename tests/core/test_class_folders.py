"""Pictures in a folder for each class: their order, their crop, which are mirrored, and caches of them."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duosora.core.config.data import DataSettings
from duosora.core.data.batch import ClipBatch
from duosora.core.data.cache import CacheWriter
from duosora.core.data.check import Check
from duosora.core.data.class_folders import ClassFolders, class_names
from duosora.core.data.labelled_cache import LabelledCache
from duosora.core.data.latent_cache import KIND, LatentCache, find_uncached, write_latent_cache
from duosora.core.data.loader import ClipLoader
from duosora.core.data.sources import open_source
from duosora.core.errors import CheckpointError, ConfigError, MediaError
from duosora.core.io.images import read_image, write_image
from duosora.core.io.video import open_video, write_video
from duosora.core.maths.cover import centre_picture, centre_video
from duosora.core.shapes import Causal, Patch

SIDE, COMPRESSION = 16, Causal(4, 8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven pictures of three classes, one of them further down; what is no picture is passed over."""
    for name in ("b/0.png", "b/deep/1.png", "a/x.png", "a/y.png", "a/z.png", "c/0.jpg", "c/1.png"):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, np.random.default_rng(len(name)).integers(0, 256, (20, 30, 3), np.uint8))
    (tmp_path / "pictures/a/notes.txt").write_text("none")
    (tmp_path / "pictures/.hidden").mkdir()
    return tmp_path / "pictures"


def settings(folder: Path, **changed: Any) -> DataSettings:
    size = {"frames": 1, "min_frames": 1, "height": SIDE, "width": SIDE, "workers": 0, "clean_captions": False}
    return DataSettings(**{"kind": "class_folders", "files": (folder,), **size, **changed})


def loader(given: DataSettings, **options: Any) -> ClipLoader:
    return ClipLoader(open_source(given), given, 3, COMPRESSION, Patch(1, 1), **options)


def steps(made: ClipLoader, count: int) -> list[ClipBatch]:
    with made:
        return [batch for step in islice(made.batches(), count) for batch in step]


def test_links_are_followed_but_not_in_circles(folder: Path) -> None:
    before = ClassFolders(folder).names
    (folder / "a/up").symlink_to("..")
    (folder / "b/deep/self").symlink_to(".")
    (folder / "c/aside").symlink_to("../b/deep")
    assert ClassFolders(folder).names == [*before, "c/aside/1.png"]


def test_classes_are_numbered_and_pictures_follow_in_the_order_of_their_names(folder: Path) -> None:
    found = ClassFolders(folder)
    assert found.classes == class_names(folder) == ("a", "b", "c")
    names = ["a/x.png", "a/y.png", "a/z.png", "b/0.png", "b/deep/1.png", "c/0.jpg", "c/1.png"]
    assert [found[number].name for number in range(len(found))] == names
    assert [found[number].label for number in range(len(found))] == [0, 0, 0, 1, 1, 2, 2]


def test_a_class_without_pictures_and_a_folder_without_classes_are_named(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(MediaError, match=r"pictures/empty: is a class without pictures or clips"):
        ClassFolders(folder)
    with pytest.raises(MediaError, match=r"pictures/empty: holds no folder of a class"):
        ClassFolders(folder / "empty")
    with pytest.raises(MediaError, match=r"nowhere: cannot be read as a folder of classes \(No such file"):
        ClassFolders(folder / "nowhere")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"width": 24}, "data.height = 16, data.width = 24: pictures of class_folders are cut to squares"),
        ({"max_area": 256}, "are not for data.kind = class_folders"),
        ({"files": (Path("a"), Path("b"))}, "data.kind = class_folders reads one folder, not 2"),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        loader(settings(folder, **changed))
    assert said in str(error.value)


def test_flips_are_for_labelled_pictures(folder: Path) -> None:
    given = settings(folder, kind="moving_shapes", flip=True)
    with pytest.raises(ConfigError, match=r"data.flip = true: is for class_folders, not for moving_shapes"):
        loader(given)


def test_batches_hold_square_pictures_with_their_labels(folder: Path) -> None:
    (batch,) = steps(loader(settings(folder), micro_batch=7), 1)
    assert batch.pixels is not None
    for pixels, source, label in zip(batch.pixels, batch.sources, batch.labels, strict=True):
        expected = centre_picture(read_image(source), SIDE).transpose(2, 0, 1) / 127.5 - 1
        np.testing.assert_allclose(pixels[:, 0], expected, atol=1e-6)
        assert "abc"[label] == Path(source).relative_to(folder).parts[0]
    assert sorted(batch.labels) == [0, 0, 0, 1, 1, 2, 2]


def test_clips_of_classes_are_cut_in_time_and_to_squares(tmp_path: Path) -> None:
    for name in ("run", "walk"):
        (tmp_path / name).mkdir()
        frames = np.random.default_rng(len(name)).integers(0, 256, (9, 24, 32, 3), np.uint8)
        write_video(tmp_path / name / "0.mp4", frames, fps=8)
    given = settings(tmp_path, frames=5, min_frames=5, fps=8.0, probe=True)
    (batch,) = steps(loader(given, micro_batch=2), 1)
    assert batch.pixels is not None
    assert batch.pixels.shape == (2, 3, 5, SIDE, SIDE)
    assert sorted(batch.labels) == [0, 1]
    whole = centre_video(open_video(Path(batch.sources[0])).read(), SIDE).transpose(3, 0, 1, 2) * 2 - 1
    assert any(np.allclose(batch.pixels[0], whole[:, start : start + 5], atol=1e-6) for start in range(5))


def test_half_of_the_samples_are_mirrored_others_in_each_epoch(folder: Path) -> None:
    plain = steps(loader(settings(folder), micro_batch=7), 12)
    flipped = steps(loader(settings(folder, flip=True), micro_batch=7), 12)
    mirrored: dict[str, set[bool]] = {}
    for one, other in zip(plain, flipped, strict=True):
        assert one.pixels is not None
        assert other.pixels is not None
        assert one.sources == other.sources
        for source, as_is, seen in zip(one.sources, one.pixels, other.pixels, strict=True):
            is_mirrored = not np.array_equal(as_is, seen)
            np.testing.assert_array_equal(as_is[..., ::-1] if is_mirrored else as_is, seen)
            mirrored.setdefault(source, set()).add(is_mirrored)
    assert all(each == {True, False} for each in mirrored.values())


def test_labels_are_dropped_by_the_number_of_the_sample(folder: Path) -> None:
    given = settings(folder, caption_dropout=0.3)
    together = steps(loader(given, micro_batch=6, keeps_dropped=True), 20)
    parts = steps(loader(given, micro_batch=2, accumulation=3, keeps_dropped=True), 20)
    drawn = [is_null for batch in together for is_null in batch.is_null]
    assert drawn == [is_null for batch in parts for is_null in batch.is_null]
    assert 0.2 < np.mean(drawn) < 0.4
    assert [batch.labels for batch in together] == [
        sum((each.labels for each in parts[i : i + 3]), ()) for i in range(0, 60, 3)
    ]


def moments_of(pixels: np.ndarray) -> np.ndarray:
    """What stands in for an autoencoder: each class and each way to see a picture has moments of its own."""
    return np.repeat(pixels[:2].mean((0, 1), keepdims=True)[..., ::8, ::8], 8, axis=0)


def filled(folder: Path, given: DataSettings) -> LatentCache:
    identity = {"kind": KIND, "classes": ["a", "b", "c"], "scale": [1], "shift": [0], "files identified by": "stat"}
    writer = CacheWriter(folder, identity, shard_tensors=3)

    def encode(views: Iterable[int]) -> Iterator[np.ndarray | MediaError]:
        for pixels in made.pixels(views):
            yield pixels if isinstance(pixels, MediaError) else moments_of(pixels)

    with loader(given) as made:
        write_latent_cache(writer, find_uncached(writer, made.cached_views()), encode)
    return LatentCache(folder)


def test_a_cache_with_both_ways_to_see_each_picture_gives_the_moments_of_what_is_read(
    folder: Path, tmp_path: Path
) -> None:
    given = settings(folder, flip=True)
    cache = filled(tmp_path / "cache", given)
    assert len(cache.reader) == 14
    read = steps(loader(given, micro_batch=7), 3)
    stored = steps(loader(given, micro_batch=7, moments_of=cache.moments), 3)
    alone = settings(tmp_path / "cache", kind="features", flip=True)
    source: Any = open_source(alone)
    features = steps(loader(alone, micro_batch=7, moments_of=source.latent_of), 3)
    for seen, kept, by_itself in zip(read, stored, features, strict=True):
        assert seen.pixels is not None
        expected = np.stack([moments_of(pixels) for pixels in seen.pixels])
        np.testing.assert_array_equal(kept.moments, expected)
        np.testing.assert_array_equal(by_itself.moments, expected)
        assert seen.labels == kept.labels == by_itself.labels


def test_a_cache_knows_its_pictures_without_their_files(folder: Path, tmp_path: Path) -> None:
    filled(tmp_path / "cache", settings(folder, flip=True))
    names = [record.name for record in map(ClassFolders(folder).__getitem__, range(7))]
    for path in sorted(folder.rglob("*.*")):
        path.unlink() if path.is_file() else None
    cache = LabelledCache(tmp_path / "cache")
    assert [cache.name(number) for number in range(len(cache))] == names
    assert cache.labels.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert cache.are_mirrored
    assert cache.size == (2, 2)


def test_a_broken_picture_is_named_and_left_out_of_a_cache(folder: Path, tmp_path: Path) -> None:
    (folder / "b/0.png").write_bytes((folder / "b/0.png").read_bytes()[:60])
    cache = filled(tmp_path / "cache", settings(folder, flip=True))
    assert list(cache.reader.index.failed) == ["b/0.png"]
    assert LabelledCache(tmp_path / "cache").labels.tolist() == [0, 0, 0, 1, 2, 2]


def test_a_cache_of_clips_without_labels_is_refused_where_labels_are_wanted(tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path, {"kind": KIND})
    writer.add("0" * 64, np.zeros((2, 1, 1, 1), np.float32), "")
    writer.close()
    with pytest.raises(CheckpointError, match="is no cache of labelled pictures"):
        LabelledCache(tmp_path)


def test_a_check_names_broken_pictures_and_counts_the_others(folder: Path) -> None:
    (folder / "b/0.png").write_bytes((folder / "b/0.png").read_bytes()[:60])
    found = Check([folder], COMPRESSION, total_batch=4)(settings(folder))
    assert [(finding.kind, finding.path) for finding in found.findings] == [("unreadable", "b/0.png")]
    assert found.buckets == {"1 x 16 x 16": 6}
