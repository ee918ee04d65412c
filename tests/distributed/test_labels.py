"""Several processes cache labelled pictures together, and a denoiser of classes learns from them as on one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks

from duosora.core.data.cache import CacheReader
from duosora.core.data.features import open_features
from duosora.core.io.images import write_image
from duosora.core.train.logs import read_log

pytestmark = pytest.mark.processes
TOLERANCE = 1e-5


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(7):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        write_image(path, np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8))
    return folder


def settings(pictures: Path, cache: Path) -> list[str]:
    values: dict[str, Any] = {
        "model.denoiser": "sit_tiny",
        "model.vae": "sd_vae_tiny",
        "data.kind": "class_folders",
        "data.files": [str(pictures)],
        "data.height": 64,
        "data.width": 64,
        "data.flip": True,
        "data.workers": 0,
        "caches.latents": str(cache),
        "learning_rate.peak": 1e-2,
        "accumulate": 2,
        "max_steps": 3,
        "tensorboard": "off",
        "compute.name": "torch",
    }
    return [part for path, value in values.items() for part in ("--set", f"{path}={json.dumps(value)}")]


def test_two_processes_cache_and_train_as_one(pictures: Path, tmp_path: Path) -> None:
    for world in (1, 2):
        cache, run = tmp_path / f"cache-{world}", tmp_path / f"run-{world}"
        ranks.run("cli.py", "torch", world, "cache", "latents", *settings(pictures, cache))
        ranks.run("cli.py", "torch", world, "train", "--out", run, *settings(pictures, cache))
    one, two = (open_features(tmp_path / f"cache-{world}") for world in (1, 2))
    assert list(CacheReader(tmp_path / "cache-2").index.shards.values()) == [7, 7]
    assert [one.name(i) for i in range(7)] == [two.name(i) for i in range(7)]
    for number in range(7):
        for is_mirrored in (False, True):
            np.testing.assert_array_equal(one.latent(number, is_mirrored), two.latent(number, is_mirrored))
    losses = [[line["loss"] for line in read_log(tmp_path / f"run-{world}/log.jsonl")] for world in (1, 2)]
    assert losses[1] == pytest.approx(losses[0], abs=TOLERANCE)
