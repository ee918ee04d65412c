"""`duosora train` of a WFVAE on real clips, through the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from duosora.core.models.finding import open_part
from duosora.core.train.logs import read_log

MEDIA = Path(__file__).parents[1] / "media"
SETTINGS = {
    "start.fresh": True,
    "autoencoder.discriminator_start": 1,
    "autoencoder.pair_weights": {"wavelet": 0.1},
    "data.files": [str(MEDIA)],
    "data.frames": 5,
    "data.height": 32,
    "data.width": 32,
    "data.autoencoder": {"sample_rate": 2},
    "data.min_bucket_batches": 0,
    "data.workers": 0,
    "validation.every": 2,
    "validation.batches": 1,
    "show.every": 2,
    "ema.decay": 0.9,
    "ema.warms_up": False,
    "learning_rate.peak": 1e-3,
    "compute.device": "cpu",
}


@pytest.fixture
def train(duosora: Callable, tmp_path: Path) -> Callable:
    def run(**changed):
        settings = SETTINGS | {"validation.data": validation_data(), "folder": str(tmp_path / "run")} | changed
        return duosora("train", *(f"--set={name}={json.dumps(value)}" for name, value in settings.items()))

    return run


def validation_data() -> dict:
    return {name.removeprefix("data."): value for name, value in SETTINGS.items() if name.startswith("data.")}


def test_a_wfvae_is_trained_against_its_discriminator_and_goes_on(
    train: Callable, duosora: Callable, tmp_path: Path
) -> None:
    assert train(max_steps=2).code == 0
    outcome = train(max_steps=4)
    assert outcome.code == 0, outcome.err
    assert "resuming" in outcome.out
    log = read_log(tmp_path / "run/log.jsonl")
    steps = [line for line in log if line["event"] == "step"]
    assert [line["updated"] for line in steps] == ["generator", "discriminator"] * 2
    assert "adversarial_weight" not in steps[0]
    assert steps[2]["adversarial_weight"] > 0
    assert steps[3]["logits_real"] != steps[3]["logits_fake"]
    measured = [line for line in log if line["event"] == "validation"]
    assert [line["step"] for line in measured] == [2, 4]
    assert all({"psnr", "psnr_ema"} <= line.keys() for line in measured)
    assert (tmp_path / "run/samples/step-4_0.mp4").is_file()
    for kind in ("model", "model_ema"):
        part = open_part("vae", str(tmp_path / "run/checkpoint-4" / kind))
        assert not part.is_fresh
    assert_found_by_every_verb(duosora, tmp_path)


def assert_found_by_every_verb(duosora: Callable, folder: Path) -> None:
    run, average = folder / "run", folder / "run/checkpoint-4/model_ema"
    clip = ("reconstruct", MEDIA / "city.mp4", "--out", folder / "again.mp4", "--set", "frames=5")
    outcome = duosora(*clip, "--set", f"vae={run}", "--set", "height=32", "--set", "width=32")
    assert f"model      {average} (fp32)" in outcome.out, outcome.err
    assert json.loads((folder / "again.json").read_text())["config"]["vae"] == str(average)
    outcome = duosora("sample", "a red circle", "--set", f"model.vae={run}", "--dry-run")
    assert f"autoencoder {average} (fp32)" in outcome.out, outcome.err
    outcome = duosora("inspect", run)
    assert f"it means {average}" in outcome.out
    config = Path(__file__).parents[2] / "configs/train/tiny_wfvae.yaml"
    outcome = duosora("calibrate", run, "--config", config)
    assert outcome.err.startswith(f"duosora: {average}: is part of a checkpoint, which would count as damaged then")


def test_an_autoencoder_needs_its_kind_of_data(train: Callable, tmp_path: Path) -> None:
    outcome = train(**{"data.autoencoder": None})
    assert outcome.code == 2
    assert "data.autoencoder" in outcome.err


def test_a_perceptual_loss_without_its_network_is_refused_before_anything_is_written(
    train: Callable, tmp_path: Path
) -> None:
    outcome = train(**{"autoencoder.perceptual_weight": 0.1})
    assert outcome.code == 2
    assert "perceptual_backbone" in outcome.err
    assert not (tmp_path / "run").exists()
