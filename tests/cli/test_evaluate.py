"""`duosora evaluate`: pairs of videos and pictures, good ones and bad ones, with and without LPIPS."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from duosora.core.config.schema import EvaluateConfig
from duosora.core.evaluate.clips import Scores, find_pairs, prepare
from duosora.core.io.images import read_image, write_image
from duosora.core.io.video import read_video, write_video
from duosora.core.io.weights import save_weights
from duosora.core.layout import FreshWeights
from duosora.core.maths.metrics import psnr, ssim
from duosora.core.maths.pixels import from_uint8
from duosora.core.maths.resize import center_crop_resize
from duosora.core.models.lpips import LPIPSSpec
from duosora.core.seam.backend import get

MEDIA = Path(__file__).parents[1] / "media"


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """Nine frames of 64x96."""
    return center_crop_resize(read_video(MEDIA / "city.mp4", range(9))[0], 64, 96)


@pytest.fixture
def folders(tmp_path: Path, clip: np.ndarray) -> tuple[Path, Path]:
    """A video, a picture in a subfolder and one of another kind than its reference, each harmed a little."""
    reference, generated = tmp_path / "reference", tmp_path / "generated"
    for folder, crf, step in ((reference, 10, 0), (generated, 30, 9)):
        write_video(folder / "street.mp4", clip, 10, crf=crf)
        write_image(folder / "deep" / "still.png", clip[step // 3])
    write_image(reference / "[red]car.png", clip[0])
    write_image(generated / "[red]car.JPG", clip[0])
    return reference, generated


def read_report(path: Path) -> dict:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def figures(report: dict, name: str) -> dict:
    (found,) = (pair for pair in report["pairs"] if pair["name"] == name)
    return found


def test_pairs_are_found_measured_and_averaged(duosora: Callable, tmp_path: Path, folders: tuple[Path, Path]) -> None:
    outcome = duosora("evaluate", *folders, "--json", tmp_path / "report.json")
    assert outcome.code == 0, outcome.err
    report = read_report(tmp_path / "report.json")
    assert report["problems"] == []
    assert [pair["name"] for pair in report["pairs"]] == ["[red]car", "deep/still", "street"]
    expected, frames = (read_video(folder / "street.mp4")[0] for folder in folders)
    street = figures(report, "street")
    assert (street["frames"], street["height"], street["width"], street["identical_frames"]) == (9, 64, 96, 0)
    assert street["psnr"]["mean"] == pytest.approx(psnr(frames, expected).mean())
    assert street["psnr"]["worst"] == pytest.approx(psnr(frames, expected).min())
    assert street["ssim"]["mean"] == pytest.approx(ssim(frames, expected).mean())
    for metric, digits in (("psnr", 2), ("ssim", 4)):
        assert report["mean"][metric] == pytest.approx(np.mean([pair[metric]["mean"] for pair in report["pairs"]]))
        assert f"{report['mean'][metric]:.{digits}f}" in outcome.out
    assert "[red]car" in outcome.out
    assert "3 of 3 pairs compared" in outcome.out
    assert "11x11" in report["definitions"]["ssim"]


def test_equal_clips_have_figures_that_json_can_hold(duosora: Callable, tmp_path: Path) -> None:
    outcome = duosora("evaluate", MEDIA / "city.mp4", MEDIA / "city.mp4", "--json", tmp_path / "report.json")
    assert outcome.code == 0, outcome.err
    (pair,) = read_report(tmp_path / "report.json")["pairs"]
    assert pair["identical_frames"] == pair["frames"] == 33
    assert pair["psnr"] == {"mean": 100.0, "worst": 100.0}
    assert pair["ssim"]["mean"] == pytest.approx(1.0)


def test_lpips_is_that_of_the_model_averaged_over_frames(
    duosora: Callable, tmp_path: Path, folders: tuple[Path, Path]
) -> None:
    spec = LPIPSSpec("alexnet")
    weights = FreshWeights(spec.layout(), seed=0)
    save_weights(tmp_path / "lpips" / "alexnet.safetensors", {n: weights[n] for n in weights if n[0] == "f"})
    save_weights(tmp_path / "lpips" / "heads.safetensors", {n: weights[n] for n in weights if n[0] == "l"})
    outcome = duosora("evaluate", *folders, "--lpips", tmp_path / "lpips", "--json", tmp_path / "report.json")
    assert outcome.code == 0, outcome.err
    report = read_report(tmp_path / "report.json")
    backend = get("torch", "cpu")
    first, second = (
        backend.asarray(from_uint8(read_video(folder / "street.mp4")[0]).transpose(0, 3, 1, 2)) for folder in folders
    )
    with backend.inference():
        distances = backend.to_numpy(backend.build(spec, weights)(first, second))
    street = figures(report, "street")
    assert street["lpips"]["mean"] == pytest.approx(distances.mean(), rel=1e-5)
    assert street["lpips"]["worst"] == pytest.approx(distances.max(), rel=1e-5)
    assert list(report["mean"]) == ["psnr", "ssim", "lpips"]
    assert "alexnet" in report["definitions"]["lpips"]


def test_bad_pairs_are_named_and_the_others_measured(
    duosora: Callable, tmp_path: Path, folders: tuple[Path, Path], clip: np.ndarray
) -> None:
    reference, generated = folders
    write_image(reference / "lost.png", clip[0])
    write_image(generated / "extra.png", clip[0])
    write_image(reference / "size.png", clip[0])
    write_image(generated / "size.png", clip[0][:, :64])
    write_video(reference / "short.mp4", clip, 10)
    write_video(generated / "short.mp4", clip[:5], 10)
    write_image(reference / "twice.png", clip[0])
    for ending in ("jpg", "png"):
        write_image(generated / f"twice.{ending}", clip[0])
    write_image(reference / "tiny.png", clip[0][:8, :8])
    write_image(generated / "tiny.png", clip[1][:8, :8])
    shutil.copy(reference / "street.mp4", reference / "broken.mp4")
    (generated / "broken.mp4").write_bytes((generated / "street.mp4").read_bytes()[:3000])
    (generated / "street.json").write_text("{}")
    (generated / "notes.json").write_text("{}")
    (generated / ".hidden.png").write_text("no picture")
    outcome = duosora("evaluate", *folders, "--json", tmp_path / "report.json")
    assert outcome.code == 1
    report = read_report(tmp_path / "report.json")
    assert [pair["name"] for pair in report["pairs"]] == ["[red]car", "deep/still", "street", "twice (.png)"]
    reasons = {pair["name"]: pair["problem"] for pair in report["problems"]}
    words = {
        "lost": "there is no generated clip of this name",
        "extra": "there is no reference of this name",
        "size": "64x64 pixels against 64x96",
        "short": "5 frames against 9; --set frames=5",
        "twice": "there is no reference of this name",
        "tiny": "SSIM needs frames of at least 11x11",
        "broken": "broken.mp4",
    }
    assert reasons.keys() == words.keys()
    for name, part in words.items():
        assert part in reasons[name]
        assert name in outcome.out
    assert "4 of 11 pairs compared" in outcome.out
    assert "left alone, no videos or pictures by their names: notes.json\n" in outcome.out
    assert report["left_alone"] == [str(generated / "notes.json")]


def test_clips_of_one_name_are_compared_with_those_of_their_kind(tmp_path: Path, clip: np.ndarray) -> None:
    reference, generated = tmp_path / "reference", tmp_path / "generated"
    for folder, ending in ((reference, "mp4"), (generated, "webm")):
        write_video(folder / "both.mp4", clip, 10)
        write_image(folder / "both.png", clip[0])
        write_video(folder / "other.mp4", clip, 10)
        (folder / "other.mp4").rename(folder / f"other.{ending}")
        (folder / "other.mp4.json").write_text("{}")
        write_video(folder / "preview.mp4", clip, 10)
        write_video(folder / "twice.mp4", clip, 10)
    write_image(generated / "preview.png", clip[0])
    shutil.copy(generated / "twice.mp4", generated / "twice.mkv")
    write_image(generated / "twice.jpg", clip[0])
    found = Scores(tuple(prepare(reference, generated, EvaluateConfig(metrics=("psnr",))).outcomes()))
    assert [outcome.name for outcome in found.measured] == [
        "both (video)", "both (picture)", "other", "preview (video)", "twice (video) (.mp4)",
    ]  # fmt: skip
    assert {outcome.name: outcome.problem for outcome in found.problems} == {
        "preview (picture)": "there is no reference of this name",
        "twice (video)": "there is no reference of this name",
        "twice (picture)": "there is no reference of this name",
    }


@pytest.mark.parametrize(
    ("reference", "generated", "found"),
    [
        ("a.png a.jpg", "a.jpg a.png", {"a (.jpg)": None, "a (.png)": None}),
        ("a.gif a.mp4", "a.mp4 a.mov", {"a (.mp4)": None, "a": None}),
        ("a.PNG a.jpg", "a.png", {"a (.png)": None, "a": "there is no generated clip of this name"}),
        ("a.mp4", "a.mkv a.mov", {"a": "a.mkv and a.mov have the same name; keep one"}),
        ("a.JPG a.jpg", "a.jpg", {"a (.jpg)": "a.JPG and a.jpg have the same name; keep one"}),
        (
            "a.mp4 a.mkv a.png",
            "a.mkv a.webp a.mp4",
            {"a (video) (.mkv)": None, "a (video) (.mp4)": None, "a (picture)": None},
        ),
    ],
)
def test_of_several_clips_of_one_name_and_kind_those_of_one_ending_are_a_pair(
    tmp_path: Path, reference: str, generated: str, found: dict
) -> None:
    for folder, names in (("reference", reference), ("generated", generated)):
        (tmp_path / folder).mkdir()
        for name in names.split():
            (tmp_path / folder / name).touch()
    pairs, _ = find_pairs(tmp_path / "reference", tmp_path / "generated")
    assert {pair.name: pair.problem for pair in pairs} == found


def test_a_result_that_kept_the_ending_of_its_original_belongs_to_it(tmp_path: Path) -> None:
    originals = ("a.jpg", "a.mp4", "b.png", "deep/a.mkv", "deep/a.mov")
    results = ("a.jpg.png", "a.mp4.mp4", "b.png", "deep/a.mkv.mp4", "deep/a.mov.mp4")
    for name in (*(f"reference/{name}" for name in originals), *(f"generated/{name}" for name in results)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found, _ = find_pairs(tmp_path / "reference", tmp_path / "generated")
    made = {(str(pair.reference), str(pair.generated), pair.problem) for pair in found}
    sides = (f"{tmp_path}/reference", f"{tmp_path}/generated")
    assert made == {
        (f"{sides[0]}/{one}", f"{sides[1]}/{other}", None) for one, other in zip(originals, results, strict=True)
    }


def test_a_webp_that_moves_is_compared_frame_by_frame(tmp_path: Path, clip: np.ndarray) -> None:
    first, *others = map(Image.fromarray, clip)
    first.save(tmp_path / "a.webp", save_all=True, append_images=others, duration=100, lossless=True)
    first.save(tmp_path / "still.webp", lossless=True)
    write_image(tmp_path / "still.png", clip[0])
    write_video(tmp_path / "a.mp4", clip, 10, crf=0)
    for reference, generated, frames in (("a.mp4", "a.webp", len(clip)), ("still.png", "still.webp", 1)):
        run = prepare(tmp_path / reference, tmp_path / generated, EvaluateConfig(metrics=("psnr",)))
        (outcome,) = run.outcomes()
        assert outcome.shape == (frames, *clip.shape[1:3])
        assert outcome.mean("psnr") > 30


def test_folders_without_a_pair_are_refused(duosora: Callable, tmp_path: Path, clip: np.ndarray) -> None:
    for folder, name in (("reference", "a"), ("generated", "b")):
        write_image(tmp_path / folder / f"{name}.png", clip[0])
    outcome = duosora("evaluate", tmp_path / "reference", tmp_path / "generated")
    assert outcome.code == 2
    assert outcome.err.endswith(
        "no clips to compare; a: there is no generated clip of this name; b: there is no reference of this name\n"
    )
    assert outcome.out == ""


def test_where_no_pair_can_be_compared_the_report_is_written_and_the_command_fails(
    duosora: Callable, tmp_path: Path, clip: np.ndarray
) -> None:
    write_image(tmp_path / "reference" / "a.png", clip[0])
    write_image(tmp_path / "generated" / "a.png", clip[0][:32])
    outcome = duosora("evaluate", tmp_path / "reference", tmp_path / "generated", "--json", tmp_path / "report.json")
    assert outcome.code == 2
    assert outcome.err.startswith("duosora: nothing was compared; a: ")
    assert len(read_report(tmp_path / "report.json")["problems"]) == 1


def test_frames_and_sizes_can_be_brought_together(duosora: Callable, tmp_path: Path, clip: np.ndarray) -> None:
    write_video(tmp_path / "long.mp4", clip, 10)
    write_video(tmp_path / "cut.mp4", clip[:7, :, :64], 10)
    outcome = duosora("evaluate", tmp_path / "long.mp4", tmp_path / "cut.mp4")
    assert outcome.code == 2
    assert "cut.mp4 and" in outcome.err
    assert "7 frames against 9; --set frames=7" in outcome.err
    settings = ("frames=3", "every=2", "height=32", "width=32")
    options = [part for setting in settings for part in ("--set", setting)]
    outcome = duosora(
        "evaluate", tmp_path / "long.mp4", tmp_path / "cut.mp4", *options, "--json", tmp_path / "report.json"
    )
    assert outcome.code == 0, outcome.err
    (pair,) = read_report(tmp_path / "report.json")["pairs"]
    assert (pair["frames"], pair["height"], pair["width"]) == (3, 32, 32)
    expected, frames = (
        center_crop_resize(read_video(tmp_path / name, numbers)[0], 32, 32)
        for name, numbers in (("long.mp4", (0, 2, 4)), ("cut.mp4", (0, 1, 2)))
    )
    assert pair["psnr"]["mean"] == pytest.approx(psnr(frames, expected).mean())


def test_transparent_and_huge_pictures(duosora: Callable, tmp_path: Path) -> None:
    for name, hidden in (("a.png", 10), ("b.png", 200)):
        Image.new("RGBA", (16, 16), (hidden, hidden, hidden, 0)).save(tmp_path / name)
    report = tmp_path / "report.json"
    assert duosora("evaluate", tmp_path / "a.png", tmp_path / "b.png", "--json", report).code == 0
    assert read_report(report)["mean"] == {"psnr": 100.0, "ssim": 1.0}
    outcome = duosora("evaluate", tmp_path / "a.png", tmp_path / "b.png", "--set", "media.max_pixels=255")
    assert outcome.code == 2
    assert "a.png: has 16 x 16 pixels, more than 255 in all (max_pixels in the group media)" in outcome.err


def test_only_the_metrics_that_are_named_are_measured(duosora: Callable, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    write_image(picture, np.zeros((8, 8, 3), np.uint8))  # too small for SSIM
    outcome = duosora("evaluate", picture, picture, "--metrics", "psnr", "--json", tmp_path / "report.json")
    assert outcome.code == 0, outcome.err
    assert read_report(tmp_path / "report.json")["mean"] == {"psnr": 100.0}
    assert read_image(picture).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", MEDIA], "nowhere: there is no such file or folder"),
        ([MEDIA, MEDIA / "city.mp4"], "give two files or two folders"),
        ([MEDIA, "{empty}"], "holds no video or picture (.mp4, "),
        ([MEDIA / "city.mp4", MEDIA / "README.md"], "README.md: cannot be read as a video"),
        ([MEDIA, MEDIA, "--set", "frames=0"], "frames"),
        ([MEDIA, MEDIA, "--metrics", "psnr,fvd"], "metrics"),
        ([MEDIA, MEDIA, "--metrics", "lpips"], "lpips needs the folder of its weights, --lpips FOLDER"),
        ([MEDIA, MEDIA, "--lpips", "nowhere"], "nowhere: cannot be read as a folder"),
        ([MEDIA, MEDIA, "--lpips", MEDIA], "holds no safetensors with the backbone of LPIPS (vgg16 or alexnet)"),
    ],
)
def test_what_cannot_be_done_is_refused(duosora: Callable, tmp_path: Path, arguments: list, words: str) -> None:
    (tmp_path / "empty").mkdir()
    arguments = [tmp_path / "empty" if argument == "{empty}" else argument for argument in arguments]
    outcome = duosora("evaluate", *arguments, "--json", tmp_path / "report.json")
    assert outcome.code == 2
    assert words in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "report.json").exists()


def test_a_report_that_exists_is_kept_unless_told_otherwise(duosora: Callable, tmp_path: Path) -> None:
    picture, report = tmp_path / "picture.png", tmp_path / "report.json"
    write_image(picture, np.zeros((16, 16, 3), np.uint8))
    report.write_text("mine")
    outcome = duosora("evaluate", picture, picture, "--json", report)
    assert outcome.code == 2
    assert "report.json: exists already" in outcome.err
    assert report.read_text() == "mine"
    assert duosora("evaluate", picture, picture, "--json", report, "--overwrite").code == 0
    assert read_report(report)["mean"]["psnr"] == 100.0
