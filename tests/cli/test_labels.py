"""Denoisers that read labels, on the command line: trained on pictures, on a cache of them, and on folders of .npy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from duosora.core.io.images import write_image
from duosora.core.io.weights import open_weights
from duosora.core.models.run_folders import record_of


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Of a run over six pictures of three classes."""
    for number in range(6):
        path = tmp_path / f"pictures/{'abc'[number % 3]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, np.random.default_rng(number).integers(0, 256, (70, 80, 3), np.uint8))
    size = {"height": 64, "width": 64, "workers": 0}
    settings = {
        "model": {"denoiser": "dit_tiny", "vae": "sd_vae_tiny"},
        "data": {"kind": "class_folders", "files": [str(tmp_path / "pictures")], "flip": True, **size},
        "learning_rate": {"peak": 1e-2},
        "optimizer": {"max_grad_norm": None},
        "batch_size": 2,
        "accumulate": 2,
        "max_steps": 3,
        "tensorboard": "off",
        "compute": {"device": "cpu"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "config.yaml"


def setting(path: str, value: Any) -> tuple[str, str]:
    return "--set", f"{path}={json.dumps(str(value) if isinstance(value, Path) else value)}"


def losses(duosora: Callable, config: Path, folder: Path, *more: str) -> list[float]:
    outcome = duosora("train", "--config", config, "--out", folder, *more)
    assert outcome.code == 0, outcome.err
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == "step"]


def features(folder: Path, flip: bool) -> list[str]:
    kind, files = setting("data.kind", "features"), setting("data.files", [str(folder)])
    return [*kind, *files, *setting("data.flip", flip)]


@pytest.mark.slow
def test_pictures_their_cache_and_the_cache_alone_give_the_same_losses(
    duosora: Callable, config: Path, tmp_path: Path
) -> None:
    """Bit for bit; the averages of a run that was left on the way and resumed too. The run knows its classes."""
    cache = setting("caches.latents", tmp_path / "cache")
    made = duosora("cache", "latents", "--config", config, *cache)
    assert f"{tmp_path / 'cache'}: 12 clips, 12 of them new" in made.out, made.err
    expected = losses(duosora, config, tmp_path / "pictures-run")
    assert losses(duosora, config, tmp_path / "cached", *cache, *setting("max_steps", 2)) == expected[:2]
    assert losses(duosora, config, tmp_path / "cached", *cache) == expected
    (tmp_path / "pictures").rename(tmp_path / "gone")
    assert losses(duosora, config, tmp_path / "alone", *features(tmp_path / "cache", flip=True)) == expected
    one, other = (tmp_path / run / "checkpoint-3/model_ema" for run in ("pictures-run", "cached"))
    ours, theirs = open_weights(one), open_weights(other)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    for run in ("pictures-run", "cached", "alone"):
        record = record_of(tmp_path / run / "checkpoint-3/model_ema")
        assert record is not None
        assert record.classes == ("a", "b", "c")


def test_a_cache_becomes_folders_of_npy_that_a_sit_is_trained_on(
    duosora: Callable, config: Path, tmp_path: Path
) -> None:
    cache, npy, back = tmp_path / "cache", tmp_path / "npy", tmp_path / "back"
    assert duosora("cache", "latents", "--config", config, *setting("caches.latents", cache)).code == 0
    for source, target in ((cache, npy), (npy, back)):
        outcome = duosora("data", "features", source, "--out", target)
        assert outcome.code == 0, outcome.err
    sit = setting("model.denoiser", "sit_tiny")
    expected = losses(duosora, config, tmp_path / "of-npy", *sit, *features(npy, flip=False))
    assert losses(duosora, config, tmp_path / "of-cache", *sit, *features(back, flip=False)) == expected


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("data.kind", "files"), "data.kind = files: model.denoiser = dit_tiny needs class_folders or features"),
        (("model.denoiser", "tiny"), "data.kind = class_folders: model.denoiser = tiny needs files"),
        (("caches.text", "texts"), "caches.text: dit_tiny reads classes, no texts; leave it out"),
        (("data.height", 32), "data.height = 32, data.width = 64: pictures of class_folders are cut to squares"),
    ],
)
def test_wrong_use_is_one_line_and_nothing_is_written(
    duosora: Callable, config: Path, tmp_path: Path, changed: tuple[str, Any], said: str
) -> None:
    vae = setting("model.vae", "tiny") if changed[1] == "tiny" else ()
    flip = setting("data.flip", False) if changed[1] == "files" else ()
    outcome = duosora("train", "--config", config, "--out", tmp_path / "run", *setting(*changed), *vae, *flip)
    assert outcome.code == 2
    assert said in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_more_classes_than_the_model_has_are_refused_by_cache_and_training(
    duosora: Callable, config: Path, tmp_path: Path
) -> None:
    for number in range(8):
        (tmp_path / f"pictures/class-{number}").mkdir()
        write_image(tmp_path / f"pictures/class-{number}/0.png", np.zeros((64, 64, 3), np.uint8))
    for command in (
        ("train", "--out", tmp_path / "run"),
        ("cache", "latents", *setting("caches.latents", tmp_path / "run")),
    ):
        outcome = duosora(*command, "--config", config)
        assert outcome.code == 2
        assert outcome.err.endswith("pictures: holds 11 classes; the model knows 10\n")
        assert not (tmp_path / "run").exists()
