"""`duosora data msrvtt`: the splits of MSR-VTT as training data."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from duosora.core.data.annotations import read_annotations

CAPTIONS = [("video1", "a dog"), ("video2", "a cat"), ("video1", "ein Hund läuft"), ("video9", "lost")]
SPLITS = {"train": "video1\n", "val": "video2  \nvideo1\n", "test": ""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "MSRVTT"
    for inner in ("annotation", "structured-symlinks", "videos/all"):
        (place / inner).mkdir(parents=True)
    write_captions(place, CAPTIONS)
    for split, text in SPLITS.items():
        (place / "structured-symlinks" / f"{split}_list_full.txt").write_text(text)
    for name in ("video1", "video2", "video7"):
        (place / "videos" / "all" / f"{name}.mp4").write_bytes(name.encode())
    return place


def write_captions(folder: Path, captions: list[tuple[object, object]]) -> None:
    rows = [{"image_id": name, "caption": caption, "id": 3} for name, caption in captions]
    (folder / "annotation" / "MSR_VTT.json").write_text(json.dumps({"annotations": rows, "info": {}}))


def test_each_split_gets_its_rows_and_videos(duosora: Callable, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = duosora("data", "msrvtt", folder, "--out", out)
    assert outcome.code == 0, outcome.err
    assert "warning: 1 captions of 1 videos in no split are left out (video9, ...)" in outcome.out
    assert f"{out / 'train'}: 2 rows, 1 videos" in outcome.out
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    rows = [f"{split}/annotations.json" for split in ("test", "train", "val")]
    assert files == sorted([*rows, "train/videos/video1.mp4", "val/videos/video2.mp4"])
    assert (out / "train/videos/video1.mp4").read_bytes() == b"video1"
    read = read_annotations([out / "train/annotations.json"], out / "train/videos")
    assert not read.bad
    assert [(record.path, record.captions) for record in read.records] == [
        (out / "train/videos/video1.mp4", (caption,)) for caption in ("a dog", "ein Hund läuft")
    ]


def test_captions_are_joined_and_videos_linked_by_option(duosora: Callable, folder: Path, tmp_path: Path) -> None:
    outcome = duosora("data", "msrvtt", folder, "--out", tmp_path / "out", "--join", "--link")
    assert outcome.code == 0, outcome.err
    written = json.loads((tmp_path / "out/train/annotations.json").read_text())
    assert written == [{"file": "video1.mp4", "captions": ["a dog", "ein Hund läuft"]}]
    video = tmp_path / "out/train/videos/video1.mp4"
    assert video.is_symlink()
    assert video.read_bytes() == b"video1"
    outcome = duosora("data", "msrvtt", folder, "--out", tmp_path / "out", "--overwrite")
    assert (outcome.code, video.is_symlink(), video.read_bytes()) == (0, False, b"video1")
    assert (folder / "videos/all/video1.mp4").read_bytes() == b"video1"


def test_what_is_there_is_kept(duosora: Callable, folder: Path, tmp_path: Path) -> None:
    arguments = ("data", "msrvtt", folder, "--out", tmp_path / "out")
    assert duosora(*arguments).code == 0
    again = duosora(*arguments)
    assert again.code == 2
    assert "exists already and is kept" in again.err
    assert duosora(*arguments, "--overwrite", "--join").code == 0


@pytest.mark.parametrize(
    ("captions", "said"),
    [
        ([("../video1", "up")], "image_id = '../video1': needs the name of a video without a folder"),
        ([("..", "up")], "image_id = '..': needs the name of a video without a folder"),
        ([("video1", 3)], "image_id and caption of each annotation are to be texts"),
    ],
)
def test_odd_annotations_are_refused(
    duosora: Callable, folder: Path, tmp_path: Path, captions: list[tuple[object, object]], said: str
) -> None:
    write_captions(folder, captions)
    outcome = duosora("data", "msrvtt", folder, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert said in outcome.err
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_told_before_anything_is_written(duosora: Callable, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (folder / "videos/all/video2.mp4").unlink()
    outcome = duosora("data", "msrvtt", folder, "--out", out)
    assert (outcome.code, out.exists()) == (2, False)
    assert "video2.mp4: there is no such video; unpack all videos of MSR-VTT there" in outcome.err
    (folder / "structured-symlinks/val_list_full.txt").unlink()
    assert "val_list_full.txt: there is no such file" in duosora("data", "msrvtt", folder, "--out", out).err
    (folder / "annotation/MSR_VTT.json").write_text("[]")
    assert 'expected {"annotations": [' in duosora("data", "msrvtt", folder, "--out", out).err
    assert "needed is the folder of MSR-VTT" in duosora("data", "msrvtt", tmp_path, "--out", out).err
