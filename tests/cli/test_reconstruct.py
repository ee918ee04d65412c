"""`duosora reconstruct`: videos and images through the autoencoder."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from duosora.core.io.images import read_image, write_image
from duosora.core.io.video import open_video, read_video, write_video
from duosora.core.io.video_reader import VideoReader

CLIP = Path(__file__).parents[1] / "media/city.mp4"
SMALL = ("-s", "height=64", "-s", "width=64")


def test_a_video_is_reconstructed_and_measured(duosora: Callable, tmp_path: Path) -> None:
    outcome = duosora("reconstruct", CLIP, "--out", tmp_path / "city.mp4", *SMALL, "-s", "frames=9", "-s", "every=2")
    assert outcome.code == 0, outcome.err
    frames, fps = read_video(tmp_path / "city.mp4")
    assert frames.shape == (9, 64, 64, 3)
    assert fps == pytest.approx(12.5)
    report = json.loads((tmp_path / "city.json").read_text())
    assert 0 < report["psnr_min"] <= report["psnr_mean"] < 100
    assert -1 <= report["ssim_min"] <= report["ssim_mean"] <= 1
    assert report["config"]["backend"] == "torch"  # which was not named


def test_chunks_and_one_piece_give_the_same_video(duosora: Callable, tmp_path: Path) -> None:
    reports = []
    for chunk in ("1", "3", "null"):
        out = tmp_path / f"{chunk}.mp4"
        assert duosora("reconstruct", CLIP, "--out", out, *SMALL, "-s", f"chunk={chunk}").code == 0
        reports.append(json.loads(out.with_suffix(".json").read_text()))
    assert reports[0]["psnr_mean"] == pytest.approx(reports[2]["psnr_mean"], abs=1e-3)
    assert reports[1]["psnr_mean"] == pytest.approx(reports[2]["psnr_mean"], abs=1e-3)


def test_an_image_is_reconstructed(duosora: Callable, tmp_path: Path) -> None:
    write_image(tmp_path / "in.png", np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8))
    outcome = duosora("reconstruct", tmp_path / "in.png", "--out", tmp_path / "out.png")
    assert outcome.code == 0, outcome.err
    assert read_image(tmp_path / "out.png").shape == (40, 48, 3)


def test_a_variable_rate_becomes_a_constant_one_of_the_same_duration(
    duosora: Callable, odd_videos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.mp4"
    outcome = duosora("reconstruct", odd_videos / "variable.mp4", "--out", out, *SMALL)
    assert outcome.code == 0, outcome.err
    with open_video(out) as video:
        assert len(video) == 33
        assert not video.timeline.is_variable
        assert video.timeline.duration == pytest.approx(1.827, abs=0.02)
        with open_video(odd_videos / "variable.mp4") as source:
            expected = [brightness_at(source, (number + 0.1) / video.fps) for number in range(33)]
    assert json.loads((tmp_path / "out.json").read_text())["psnr_mean"] > 10
    assert len(set(expected)) < 25  # of the fast frames every fourth, the slow ones twice
    report = tmp_path / "report.json"
    assert duosora("evaluate", odd_videos / "variable.mp4", out, *SMALL, "--json", report).code == 0
    measured = json.loads(report.read_text())["pairs"][0]["psnr"]["mean"]
    assert measured == pytest.approx(json.loads((tmp_path / "out.json").read_text())["psnr_mean"], abs=1.5)


def brightness_at(video: VideoReader, seconds: float) -> int:
    return int(video.read([int(np.searchsorted(video.timeline.starts, seconds, "right")) - 1])[0].mean())


@pytest.mark.parametrize(("name", "size"), [("wide.mp4", (64, 128)), ("lying.mov", (80, 64))])
def test_what_a_player_shows_is_kept(
    duosora: Callable, odd_videos: Path, tmp_path: Path, name: str, size: tuple[int, int]
) -> None:
    outcome = duosora("reconstruct", odd_videos / name, "--out", tmp_path / "out.mp4")
    assert outcome.code == 0, outcome.err
    with open_video(tmp_path / "out.mp4") as video:
        assert (video.height, video.width) == size
        assert video.notes == ()


def test_hdr_is_refused_or_tone_mapped(duosora: Callable, odd_videos: Path, tmp_path: Path) -> None:
    arguments = ("reconstruct", odd_videos / "hdr.mp4", "--out", tmp_path / "out.mp4", *SMALL)
    outcome = duosora(*arguments)
    assert outcome.code == 2
    assert "hdr.mp4: is HDR (PQ), which is refused; set hdr in the group media to tone_map" in outcome.err
    assert outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert duosora(*arguments, "-s", "media.hdr=tone_map").code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.mp4"], "nowhere.mp4: there is no such file"),
        ([CLIP, "-s", "frames=37"], "has 33 frames"),
        ([CLIP, "-s", "frames=12"], "num_frames = 12: needs 1 + a multiple of 4"),
        ([CLIP, "-s", "vae=nowhere"], "model.vae = nowhere: no such folder, and no preset of that name"),
        ([CLIP, "-s", "tile={size: 100}"], "tile.size = 100: needs a multiple of 8 pixels"),
    ],
)
def test_what_cannot_be_done_is_refused(duosora: Callable, tmp_path: Path, arguments: list, words: str) -> None:
    outcome = duosora("reconstruct", *arguments, "--out", tmp_path / "out.mp4")
    assert outcome.code == 2
    assert words in outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "out", "words"),
    [(CLIP, "out.png", "videos are written as .mp4"), ("picture.png", "out.mp4", "pictures are written as .png")],
)
def test_a_wrong_ending_is_told_before_any_work(
    duosora: Callable, tmp_path: Path, source: str | Path, out: str, words: str
) -> None:
    write_image(tmp_path / "picture.png", np.zeros((16, 16, 3), np.uint8))
    outcome = duosora("reconstruct", tmp_path / source, "--out", tmp_path / out)
    assert outcome.code == 2
    assert outcome.err.startswith(f"duosora: {tmp_path / out}: {words}")
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""


def test_a_damaged_video_leaves_nothing_behind(duosora: Callable, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(CLIP.read_bytes()[:20_000])
    outcome = duosora("reconstruct", damaged, "--out", tmp_path / "out.mp4")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.mp4"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two videos, one of them deeper, a picture, and what is none of these."""
    clips = tmp_path / "clips"
    (clips / "deeper").mkdir(parents=True)
    for name, frames in (("a.v1.mp4", 9), ("deeper/a.mp4", 5)):
        write_video(clips / name, shades(frames, start=40 + frames), 8)
    write_image(clips / "p.png", shades(1)[0])
    (clips / "notes.txt").write_text("no clip")
    (clips / ".hidden.mp4").write_bytes(b"")
    return clips


def shades(frames: int, start: int = 40) -> np.ndarray:
    """Frames of 32 x 40 pixels, left half brighter than the right one."""
    levels = start + 4 * np.arange(frames)[:, None, None, None] + np.where(np.arange(40) < 20, 100, 0)[:, None]
    return np.broadcast_to(levels, (frames, 32, 40, 3)).astype(np.uint8)


NAMES = ["a.v1.mp4", "deeper/a.mp4", "p.png"]


def results(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_all_of_a_folder_is_reconstructed_and_measured(duosora: Callable, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = duosora("reconstruct", folder, "--out", out)
    assert outcome.code == 0, outcome.err
    assert list(results(out)) == sorted([*NAMES, "a.v1.json", "deeper/a.json", "p.json", "reconstruction.json"])
    summary = json.loads((out / "reconstruction.json").read_text())
    assert [clip["name"] for clip in summary["clips"]] == NAMES
    assert summary["problems"] == []
    lines = outcome.out.splitlines()
    for number, clip in enumerate(summary["clips"], start=1):
        assert f"{number}/3 {clip['name']}: PSNR {clip['psnr_mean']:.2f} dB" in "\n".join(lines)
    for figure in ("psnr_mean", "ssim_mean"):
        assert summary["mean"][figure] == pytest.approx(np.mean([clip[figure] for clip in summary["clips"]]))
    assert f"mean over 3 clips: PSNR {summary['mean']['psnr_mean']:.2f} dB, SSIM" in outcome.out
    alone = tmp_path / "alone.mp4"
    assert duosora("reconstruct", folder / "a.v1.mp4", "--out", alone).code == 0
    assert alone.read_bytes() == (out / "a.v1.mp4").read_bytes()
    measured = duosora("evaluate", folder, out, "--json", tmp_path / "report.json")
    assert measured.code == 0, measured.err


def test_a_folder_loads_its_model_once(
    duosora: Callable, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from duosora.core.seam import backend

    built = []
    torch = backend.get("torch", "cpu")
    build = type(torch).build
    monkeypatch.setattr(type(torch), "build", lambda *given, **named: built.append(1) or build(*given, **named))
    assert duosora("reconstruct", folder, "--out", tmp_path / "out", "--backend", "torch").code == 0
    assert len(built) == 1


def test_a_bad_file_costs_itself(duosora: Callable, folder: Path, tmp_path: Path) -> None:
    (folder / "broken.mp4").write_bytes((folder / "a.v1.mp4").read_bytes()[:900])
    (folder / "empty.png").touch()
    write_image(folder / "tiny.png", np.zeros((4, 4, 3), np.uint8))
    out = tmp_path / "out"
    outcome = duosora("reconstruct", folder, "--out", out)
    assert outcome.code == 2
    assert outcome.err.startswith("duosora: 3 of 6 files were not reconstructed; the first: broken.mp4: ")
    assert outcome.err.count("\n") == 1
    for number, name in ((2, "broken.mp4"), (4, "empty.png"), (6, "tiny.png")):
        assert sum(line.startswith(f"{number}/6 {name}: ") for line in outcome.out.splitlines()) == 1
    assert "mean over 3 clips" in outcome.out
    written = results(out)
    assert not [name for name in written if name.startswith(("broken", "empty", "tiny", ".duosora"))]
    assert {*NAMES} <= written.keys()
    problems = json.loads(written["reconstruction.json"])["problems"]
    assert [problem["name"] for problem in problems] == ["broken.mp4", "empty.png", "tiny.png"]


def test_a_folder_goes_on_where_it_was_ended(duosora: Callable, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert duosora("reconstruct", folder, "--out", out).code == 0
    before = results(out)
    for name in ("deeper/a.mp4", "deeper/a.json", "reconstruction.json"):
        (out / name).unlink()
    times = {name: (out / name).stat().st_mtime_ns for name in ("a.v1.mp4", "p.png")}
    outcome = duosora("reconstruct", folder, "--out", out)
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("(kept)") == 2
    assert results(out) == before
    assert {name: (out / name).stat().st_mtime_ns for name in times} == times


def test_other_results_are_kept_unless_overwritten(duosora: Callable, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert duosora("reconstruct", folder, "--out", out).code == 0
    (out / "a.v1.mp4").write_bytes(b"mine")
    (out / "a.v1.json").unlink()
    write_image(folder / "p.png", shades(1, start=0)[0], overwrite=True)
    (folder / "p.png").write_bytes((folder / "p.png").read_bytes() + b"longer")
    before = results(out)
    outcome = duosora("reconstruct", folder, "--out", out)
    assert outcome.code == 2
    assert outcome.out.count("was not made from it with these settings; --overwrite replaces it") == 2
    assert outcome.out.count("(kept)") == 1
    del before["reconstruction.json"]
    assert {name: content for name, content in results(out).items() if name in before} == before
    outcome = duosora("reconstruct", folder, "--out", out, "-s", "crf=40")
    assert outcome.out.count("was not made from it with these settings") == 3
    outcome = duosora("reconstruct", folder, "--out", out, "-s", "crf=40", "--overwrite")
    assert outcome.code == 0, outcome.err
    assert "(kept)" not in outcome.out


def test_the_summary_of_somebody_else_is_kept(duosora: Callable, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "reconstruction.json").write_text('{"mine": 1}')
    outcome = duosora("reconstruct", folder, "--out", out)
    assert outcome.code == 2
    assert "reconstruction.json: exists already and is kept" in outcome.err
    assert list(results(out)) == ["reconstruction.json"]


@pytest.mark.parametrize("inside", ["clips/out", "."])
def test_results_may_lie_in_or_around_the_folder(duosora: Callable, folder: Path, tmp_path: Path, inside: str) -> None:
    for _ in range(2):
        outcome = duosora("reconstruct", folder, "--out", tmp_path / inside)
        assert outcome.code == 0, outcome.err
        assert "mean over 3 clips" in outcome.out


def test_clips_of_one_name_do_not_share_a_result(duosora: Callable, folder: Path, tmp_path: Path) -> None:
    (folder / "p.mp4").write_bytes((folder / "a.v1.mp4").read_bytes())
    write_image(folder / "reconstruction.png", shades(1)[0])
    out = tmp_path / "out"
    assert duosora("reconstruct", folder, "--out", out).code == 0
    assert {"p.mp4.mp4", "p.mp4.json", "p.png.png", "p.png.json", "reconstruction.png.png"} <= results(out).keys()


@pytest.mark.parametrize(
    ("source", "out", "words"),
    [
        ("clips", "clips", "holds the originals; give --out another folder"),
        ("clips", "clips/notes.txt", "is no folder; the results of a folder go to one"),
        ("clips", "all.mp4", "is no folder; the results of a folder go to one"),
        ("empty", "out", "holds no video or picture"),
    ],
)
def test_an_unfit_folder_is_refused_in_a_line(
    duosora: Callable, folder: Path, tmp_path: Path, source: str, out: str, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    before = results(tmp_path)
    outcome = duosora("reconstruct", tmp_path / source, "--out", tmp_path / out)
    assert outcome.code == 2
    assert words in outcome.err
    assert outcome.err.count("\n") == 1
    assert results(tmp_path) == before


def test_a_grid_has_the_original_on_the_left(duosora: Callable, folder: Path, tmp_path: Path) -> None:
    for name in ("a.v1.mp4", "p.png"):
        plain, grid = tmp_path / f"plain_{name}", tmp_path / f"grid_{name}"
        assert duosora("reconstruct", folder / name, "--out", plain, "-s", "crf=0").code == 0
        assert duosora("reconstruct", folder / name, "--out", grid, "-s", "crf=0", "--grid").code == 0
        originals, alone, both = (
            read_image(path)[None] if name == "p.png" else read_video(path)[0] for path in (folder / name, plain, grid)
        )
        assert both.shape == (len(alone), 32, 80, 3)
        assert np.abs(both[:, :, 4:36].astype(int) - originals[:, :, 4:36]).max() <= 3  # yuv420p, and x264 at its best
        assert np.abs(both[:, :, 44:76].astype(int) - alone[:, :, 4:36]).max() <= 3
        figures = [json.loads(path.with_suffix(".json").read_text())["psnr_mean"] for path in (plain, grid)]
        assert figures[0] == figures[1]
    assert duosora("reconstruct", folder, "--out", tmp_path / "out", "--grid").code == 0
    assert read_video(tmp_path / "out/deeper/a.mp4")[0].shape == (5, 32, 80, 3)
