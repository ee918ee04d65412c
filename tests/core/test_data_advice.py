"""The one setting that makes bad rows good: it is told, and it is true."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duosora.core.config.loading import load
from duosora.core.config.training import TrainConfig
from duosora.core.data.advice import Advice, find_advice
from duosora.core.data.check import Check
from duosora.core.io.images import write_image
from duosora.core.io.video import write_video
from duosora.core.shapes import Causal

PLAIN = {"data.workers": 0, "data.fps": 24, "data.frames": 9, "data.min_frames": 1, "data.height": 64, "data.width": 64}
AREA = PLAIN | {"data.height": None, "data.width": None}


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 12 frames, and pictures of several sizes."""
    folder = tmp_path_factory.mktemp("media")
    noise = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), np.uint8)
    write_video(folder / "clip.mp4", noise, fps=24)
    for height, width in ((64, 64), (128, 128), (64, 128), (128, 64)):
        write_image(folder / f"{height}x{width}.png", np.zeros((height, width, 3), np.uint8))
    return folder


CLIP = {"path": "clip.mp4", "height": 64, "width": 64, "num_frames": 12, "fps": 24, "caption": "noise"}


def picture(height: int, width: int) -> dict[str, Any]:
    return {"path": f"{height}x{width}.png", "height": height, "width": width, "caption": "black"}


@pytest.fixture
def advised(tmp_path: Path, media: Path) -> Callable[..., Advice | None]:
    """What is advised for these rows with these settings, after it was tried."""

    def advise(
        rows: list[dict[str, Any]], settings: dict[str, Any], batch: int | None = None, folder: Path = media
    ) -> Advice | None:
        (folder / "rows.json").write_text(json.dumps(rows))
        given = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        changed = lambda setting: load(None, TrainConfig, [*given, setting]).data  # noqa: E731
        check = Check([folder / "rows.json"], Causal(4, 8), total_batch=batch)
        now = load(None, TrainConfig, given).data
        report = check(now)
        advice = find_advice(check, report, now, changed)
        if advice is not None:
            anew = Check([folder / "rows.json"], Causal(4, 8), total_batch=batch)(changed(advice.setting))
            assert (anew.num_good, anew.rows) == (advice.used, advice.rows)
            assert advice.used > report.num_good
        return advice

    return advise


@pytest.mark.parametrize(
    ("rows", "settings", "setting"),
    [
        ([picture(64, 64)] * 20 + [picture(128, 128)] * 4, AREA | {"data.max_area": 20_000}, "data.min_area=4096"),
        ([picture(64, 64)] * 3, AREA | {"data.max_area": 16384, "data.stride": 96}, "data.stride=16"),
        ([picture(64, 128), picture(128, 64)], PLAIN | {"data.width": 128}, "data.max_area=8192"),
        ([picture(128, 128)] * 2, PLAIN | {"data.grouped": False, "data.max_area": 16384}, "data.grouped=true"),
        ([CLIP | {"height": None}, CLIP | {"num_frames": None}, CLIP], PLAIN, "data.probe=true"),
        ([CLIP] * 3, PLAIN | {"data.frames": 13}, "data.drop_short=0"),
        ([CLIP] * 3, PLAIN | {"data.frames": 13, "data.min_frames": 13}, "data.frames=9"),
        ([CLIP] * 3, PLAIN | {"data.fps": 12, "data.min_frames": 9}, "data.fps=24"),
        ([CLIP] * 3, PLAIN | {"data.frames": 1}, "data.speed_factor=2.4"),
        ([CLIP] * 3, PLAIN | {"data.autoencoder": {"sample_rate": 3}}, "data.autoencoder.sample_rate=1"),
        ([picture(64, 64)] * 3, PLAIN | {"data.autoencoder": {}}, "data.frames=1"),
        ([CLIP | {"caption": None}] * 3, PLAIN | {"data.frames": 5}, "data.autoencoder={}"),
    ],
)
def test_the_setting_that_makes_rows_good_is_told(
    advised: Callable[..., Advice | None], rows: list[dict[str, Any]], settings: dict[str, Any], setting: str
) -> None:
    advice = advised(rows, settings)
    assert advice is not None
    assert (advice.setting, advice.used) == (setting, len(rows))


def test_rows_that_it_does_not_help_are_not_counted(advised: Callable[..., Advice | None]) -> None:
    rows = [CLIP] * 20 + [CLIP | {"caption": None}, CLIP | {"path": "gone.mp4"}, {"path": 3}, CLIP | {"height": 10}]
    advice = advised(rows, PLAIN | {"data.frames": 13})
    assert str(advice) == "20 of 24 rows would be used with --set data.drop_short=0"


def test_the_length_is_that_of_most_rows_and_not_of_the_shortest(advised: Callable[..., Advice | None]) -> None:
    rows = [CLIP] * 9 + [CLIP | {"num_frames": 5}]
    advice = advised(rows, PLAIN | {"data.frames": 13, "data.min_frames": 13})
    assert advice == Advice("data.frames=9", 9, 10)


def test_how_many_clips_a_size_needs_is_told(advised: Callable[..., Advice | None]) -> None:
    rows = [CLIP] * 8 + [picture(64, 64)] * 5
    settings = PLAIN | {"data.min_bucket_batches": 4}
    assert advised(rows, settings, batch=2) == Advice("data.min_bucket_batches=2", 13, 13)
    assert advised(rows, settings, batch=6) == Advice("data.min_bucket_batches=0", 13, 13)


@pytest.mark.parametrize(
    ("written", "real"),
    [
        ("clip.mp4", "down/deep/clip.mp4"),
        ("sets/clip.mp4", "../sets/clip.mp4"),
        ("clip.mp4", "../other clips/clip.mp4"),
    ],
)
def test_the_folder_that_files_lie_in_is_found(
    advised: Callable[..., Advice | None], media: Path, tmp_path: Path, written: str, real: str
) -> None:
    (tmp_path / "set").mkdir()
    place = Path(os.path.normpath(tmp_path / "set" / real))
    place.parent.mkdir(parents=True)
    place.write_bytes((media / "clip.mp4").read_bytes())
    rows = [CLIP | {"path": written}] * 20 + [CLIP | {"path": "gone.mp4"}] * 4
    advice = advised(rows, PLAIN, folder=tmp_path / "set")
    assert advice is not None
    assert advice.used == 20
    root = Path(load(None, TrainConfig, [advice.setting]).data.root or "")
    assert (root / written).samefile(place)


def test_the_folder_is_told_from_the_current_one(
    advised: Callable[..., Advice | None], media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "clip.mp4").write_bytes((media / "clip.mp4").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert advised([CLIP], PLAIN, folder=tmp_path) == Advice("data.root=clips", 1, 1)


def test_nothing_is_told_where_no_setting_helps(advised: Callable[..., Advice | None], tmp_path: Path) -> None:
    assert advised([CLIP], PLAIN) is None
    assert advised([CLIP | {"width": 96}, CLIP | {"path": "gone.mp4"}, {"path": "x"}], PLAIN) is None
    assert advised([CLIP | {"caption": None}], PLAIN, batch=1) is None


def test_a_setting_that_costs_as_much_as_it_gives_is_not_told(
    advised: Callable[..., Advice | None], media: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    for name in ("a.mp4", "other/b.mp4"):
        (tmp_path / name).write_bytes((media / "clip.mp4").read_bytes())
    assert advised([CLIP | {"path": "a.mp4"}, CLIP | {"path": "b.mp4"}], PLAIN, folder=tmp_path) is None
