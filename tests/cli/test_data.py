"""`duosora data check`: every bad row is named, summed up, and written down."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from duosora.core.io.images import write_image
from duosora.core.io.video import write_video

VALUES = {"frames": 9, "height": 32, "width": 32, "workers": 0, "fps": 24}
SETTINGS = [part for name, value in VALUES.items() for part in ("--set", f"data.{name}={value}")]


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
        assert f"{kind}: {given['path']} ({found['origin']}): {found['reason']}" in outcome.out
        assert found["origin"].startswith(str(folder / "a.json"))


def test_damage_in_the_middle_is_found_by_decoding_all(duosora: Callable, folder: Path) -> None:
    (folder / "a.jsonl").write_text(json.dumps(row("rotten.mp4")))
    assert duosora("data", "check", folder / "a.jsonl", *SETTINGS).code == 0
    outcome = duosora("data", "check", folder / "a.jsonl", *SETTINGS, "--deep")
    assert outcome.code == 1
    assert "unreadable: rotten.mp4 (" in outcome.out


def test_a_run_is_checked_with_its_own_settings(duosora: Callable, folder: Path) -> None:
    """Its files, its autoencoder, and how many clips its batches need of a size."""
    (folder / "a.jsonl").write_text("\n".join(json.dumps(row(name)) for name in ["good.mp4"] * 4 + ["good.png"]))
    settings = {"data": VALUES | {"files": [str(folder / "a.jsonl")], "min_bucket_batches": 2}, "batch_size": 2}
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    outcome = duosora("data", "check", "--config", folder / "run.yaml")
    assert outcome.code == 1, outcome.err
    assert f"rare size: good.png ({folder / 'a.jsonl'}, record 5): is one of 1 clips of 1 x 32 x 32" in outcome.out
    assert "5 rows, 4 good, 1 bad" in outcome.out
    assert (
        duosora("data", "check", "--config", folder / "run.yaml", "--set", "batch_size=4").out.count("rare size:") == 5
    )
    with_another_vae = ("--set", "model.vae=wfvae_d32_8x8x8", "--set", "data.frames=5")
    refused = duosora("data", "check", "--config", folder / "run.yaml", *with_another_vae)
    assert refused.code == 2
    assert "num_frames = 5: needs 1 + a multiple of 8 frames" in refused.err
    nothing = duosora("data", "check")
    assert nothing.code == 2
    assert "there is nothing to check" in nothing.err


def test_missing_text_states_are_named(duosora: Callable, folder: Path) -> None:
    (folder / "states").mkdir()
    (folder / "states" / "good-0.npz").touch()
    captions = [row("good.mp4"), row("good.mp4", caption=["one", "another"])]
    (folder / "a.json").write_text(json.dumps(captions))
    (folder / "list.txt").write_text(".,states,a.json\n")
    outcome = duosora("data", "check", folder / "list.txt", *SETTINGS)
    assert outcome.code == 1
    assert "no embedding: good.mp4" in outcome.out
    assert "good-1.npz" in outcome.out
    assert "2 rows, 1 good, 1 bad" in outcome.out


def test_files_that_are_read_in_a_way_of_their_own_are_named(
    duosora: Callable, odd_videos: Path, tmp_path: Path
) -> None:
    """They are good rows, except for HDR, which is refused unless the settings say otherwise."""
    sizes = {"variable.mp4": (64, 96, 33, 18.06), "wide.mp4": (64, 128, 9, 25), "lying.mov": (87, 64, 9, 25)}
    sizes["hdr.mp4"] = (64, 96, 9, 25)
    rows = [
        {"path": name, "caption": "grey", "height": height, "width": width, "num_frames": frames, "fps": fps}
        for name, (height, width, frames, fps) in sizes.items()
    ]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    settings = (*SETTINGS, "--set", f"data.root={odd_videos}", "--set", "data.fps=18", "--set", "data.drop_short=0")
    settings = (*settings, "--set", "data.min_frames=5")
    outcome = duosora("data", "check", tmp_path / "a.json", *settings, "--report", tmp_path / "a_report.json")
    assert outcome.code == 1, outcome.err
    report = json.loads((tmp_path / "a_report.json").read_text())
    assert report["counts"] == {"pixel shape": 2, "variable rate": 1, "HDR": 1}
    found = {entry["path"]: (entry["kind"], entry["is_note"]) for entry in report["findings"]}
    assert found.pop("hdr.mp4") == ("HDR", False)
    assert found == {
        "variable.mp4": ("variable rate", True),
        "wide.mp4": ("pixel shape", True),
        "lying.mov": ("pixel shape", True),
    }
    assert "4 rows, 3 good, 1 bad\n4 of 4 rows would be used with --set data.media.hdr=tone_map\n" in outcome.out
    assert report["advice"] == {"setting": "data.media.hdr=tone_map", "used": 4, "rows": 4}
    for words in ("33 frames in 1.83 s", "proportions 4:3; it is read as 64 x 128", "as 87 x 64", "hdr to tone_map"):
        assert words in outcome.out
    outcome = duosora("data", "check", tmp_path / "a.json", *settings, "--set", "data.media.hdr=tone_map")
    assert outcome.code == 0, outcome.err
    assert "4 rows, 4 good, 0 bad" in outcome.out
    assert "is HDR (PQ); it is tone-mapped" in outcome.out


def test_a_table_of_videos_alone_is_one_for_an_autoencoder(duosora: Callable, folder: Path) -> None:
    """Without a run that says what for, it is told with which setting its rows would be used."""
    (folder / "videos.csv").write_text('"video"\n' + "good.mp4\n" * 3 + "good.png\n")
    arguments = ("data", "check", folder / "videos.csv", "--set", "data.workers=0", "--set", "data.frames=5")
    outcome = duosora(*arguments)
    assert outcome.code == 1, outcome.err
    assert f"columns of {folder / 'videos.csv'}: path from video\n" in outcome.out
    assert outcome.out.endswith("4 rows, 0 good, 4 bad\n3 of 4 rows would be used with --set 'data.autoencoder={}'\n")
    outcome = duosora(*arguments, "--set", "data.autoencoder={}")
    assert "trained at 5 x 256 x 256" in outcome.out
    assert outcome.out.endswith("4 rows, 3 good, 1 bad\n")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.pkl", b"\x80\x04.", "pickle files can run code when they are read"),
        ("a.json", b"{}", "expected a list of records, got dict"),
        ("a.json", b"[", "is not JSON"),
        ("a.json", b"[]", "a.json: holds no record of a clip"),
        ("a.json", b"\xff", "a.json:1: is not UTF-8 text"),
        ("a.csv", b'path,caption\n1.mp4,"a\n2.mp4,b\n', "a.csv, after line 1: is not CSV (unexpected end of data)"),
        ("a.csv", b"name,caption\n1.mp4,a\n", "one of them is path"),
        ("a.txt", b"videos\n", "line 1: expected media_folder[,embedding_folder],annotation"),
        ("a.parquet", b"PAR1", "cannot be read as parquet"),
        ("a.xml", b"", "annotations are .txt, .json, .jsonl, .ndjson, .csv, .tsv, .parquet files"),
    ],
)
def test_unusable_files_are_one_line(duosora: Callable, tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    outcome = duosora("data", "check", tmp_path / name, *SETTINGS)
    assert outcome.code == 2
    assert words in outcome.err
    assert outcome.err.count(f"/{name}") == 1
    assert outcome.err.count("\n") == 1


def test_a_run_over_a_folder_with_a_third_of_it_broken_ends_and_names_what_is_broken(
    duosora: Callable, tmp_path: Path
) -> None:
    for number in range(10):
        noise = np.random.default_rng(number).integers(0, 256, (12, 4, 4, 3), np.uint8)
        write_video(tmp_path / f"{number}.mp4", noise.repeat(8, axis=1).repeat(8, axis=2), fps=24)
    whole = (tmp_path / "1.mp4").read_bytes()
    start = whole.index(b"mdat") + 4
    (tmp_path / "1.mp4").write_bytes(whole[: start + 40] + bytes(len(whole) - start - 40))
    (tmp_path / "4.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "7.mp4").write_text("no video at all")
    rows = [row(f"{number}.mp4", height=32, width=32) for number in range(10)]
    (tmp_path / "a.jsonl").write_text("\n".join([*map(json.dumps, rows), '{"caption": "no path"}']))
    data = VALUES | {"files": [str(tmp_path / "a.jsonl")], "min_bucket_batches": 0, "workers": 1}
    settings = {"data": data, "max_steps": 12, "tensorboard": "off", "compute": {"device": "cpu"}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))

    outcome = duosora("train", "--config", tmp_path / "run.yaml", "--out", tmp_path / "run")

    assert outcome.code == 0, outcome.err
    assert "10 clips of 1 sizes, 10 steps an epoch; left out: 1 bad row" in outcome.out
    assert "finished 12 steps" in outcome.out
    assert "3 clips could not be read, for " in outcome.out
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(1, 13))
    named = {failure.split(": ")[0] for line in log for failure in line.get("failures", ())}
    assert named == {str(tmp_path / f"{number}.mp4") for number in (1, 4, 7)}
    for path in named:
        assert f"  {path}: " in outcome.out
