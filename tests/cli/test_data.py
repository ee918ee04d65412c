"""`duosora data check`: every bad row is named, summed up, and written down."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from duosora.core.io.images import write_image
from duosora.core.io.video import write_video

SETTINGS = ("--set", "frames=9", "--set", "height=32", "--set", "width=32", "--set", "workers=0", "--set", "fps=24")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), np.uint8).repeat(16, axis=1).repeat(16, axis=2)
    write_video(tmp_path / "good.mp4", noise, fps=24)
    write_image(tmp_path / "good.png", noise[0])
    whole = bytearray((tmp_path / "good.mp4").read_bytes())
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    start = whole.index(b"mdat") + 4
    middle = start + (len(whole) - start) * 3 // 4
    for place in range(middle, middle + 200):
        whole[place] ^= 0x5A
    (tmp_path / "rotten.mp4").write_bytes(whole)
    return tmp_path


def row(path: str, **changed: object) -> dict[str, object]:
    return {"path": path, "caption": "noise", "height": 64, "width": 64, "num_frames": 12, "fps": 24} | changed


def test_good_rows_are_counted_by_what_they_are_trained_at(duosora: Callable, folder: Path) -> None:
    (folder / "a.jsonl").write_text("\n".join(json.dumps(row(name)) for name in ("good.mp4", "good.png")))
    outcome = duosora("data", "check", folder / "a.jsonl", *SETTINGS, "--deep")
    assert outcome.code == 0, outcome.err
    assert "trained at 9 x 32 x 32" in outcome.out
    assert "2 rows, 2 good, 0 bad" in outcome.out


def test_bad_rows_are_named_and_written_down(duosora: Callable, folder: Path) -> None:
    rows = {
        "missing": row("gone.mp4"),
        "unreadable": row("cut.mp4"),
        "no caption": row("good.mp4", caption=" "),
        "too short": row("good.mp4", num_frames=5),
        "other size": row("good.mp4", width=96),
        "odd proportions": row("good.mp4", width=640),
        "fewer frames": row("good.mp4", num_frames=20),
        "other rate": row("good.mp4", fps=30),
        "no size": row("good.png", height=None),
        "bad row": row("good.mp4", fps="fast"),
    }
    (folder / "a.json").write_text(json.dumps([*rows.values(), row("good.mp4"), 3]))
    report = folder / "report.json"
    outcome = duosora("data", "check", folder / "a.json", *SETTINGS, "--report", report)
    assert outcome.code == 1, outcome.err
    assert "12 rows, 1 good, 11 bad" in outcome.out
    written = json.loads(report.read_text())
    assert written["counts"].keys() == rows.keys()
    assert (written["rows"], written["bad"], written["buckets"]) == (12, 11, {"9 x 32 x 32": 1})
    for number, (kind, given) in enumerate(rows.items(), start=1):
        origin = f"record {number}"
        (found,) = (
            entry for entry in written["findings"] if entry["kind"] == kind and entry["origin"].endswith(origin)
        )
        assert found["path"] == given["path"]
        assert f"{kind}: {given['path']}: {found['reason']}" in outcome.out


def test_damage_in_the_middle_is_found_by_decoding_all(duosora: Callable, folder: Path) -> None:
    (folder / "a.jsonl").write_text(json.dumps(row("rotten.mp4")))
    assert duosora("data", "check", folder / "a.jsonl", *SETTINGS).code == 0
    outcome = duosora("data", "check", folder / "a.jsonl", *SETTINGS, "--deep")
    assert outcome.code == 1
    assert "unreadable: rotten.mp4:" in outcome.out


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.pkl", b"\x80\x04.", "pickle files can run code when they are read"),
        ("a.json", b"{}", "expected a list of records, got dict"),
        ("a.json", b"[", "is not JSON"),
        ("a.csv", b"file,caption\n1.mp4,a\n", "one of them is path"),
        ("a.txt", b"videos\n", "line 1: expected media_folder[,embedding_folder],annotation"),
        ("a.parquet", b"PAR1", "cannot be read as parquet"),
        ("a.xml", b"", "annotations are .txt, .json, .jsonl, .csv, .parquet files"),
    ],
)
def test_unusable_files_are_one_line(duosora: Callable, tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    outcome = duosora("data", "check", tmp_path / name, *SETTINGS)
    assert outcome.code == 2
    assert words in outcome.err
    assert outcome.err.count("\n") == 1
