"""`duosora train` of autoencoders on real clips, through the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from duosora.core.io.weights import open_weights
from duosora.core.layout import FreshWeights
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


STAGE_1 = {
    "model.vae": "opensora_vae_tiny",
    "start.frozen": ["spatial_vae."],
    "data.frames": 6,
    "autoencoder.image_share": 0.5,
    "autoencoder.pixel_weight": 0,
    "autoencoder.kl_weight": 0,
    "autoencoder.pair_weights": {"spatial": 1.0, "identity": 1.0},
    "autoencoder.discriminator_factor": 0,
    "max_steps": 1,
}


def test_an_opensora_vae_is_trained_in_its_first_stage_and_goes_on(
    train: Callable, duosora: Callable, tmp_path: Path
) -> None:
    settings = STAGE_1 | {"validation.data": validation_data() | {"frames": 6}}
    assert train(**settings | {"max_steps": 2}).code == 0
    outcome = train(**settings | {"max_steps": 6})
    assert outcome.code == 0, outcome.err
    assert "1 x spatial + 1 x identity, 50% of the steps see first frames only" in outcome.out
    straight = train(**settings | {"max_steps": 6, "folder": str(tmp_path / "straight")})
    assert straight.code == 0, straight.err
    weights, expected = (open_weights(tmp_path / folder / "checkpoint-6/model_ema") for folder in ("run", "straight"))
    assert all(np.array_equal(weights[name], expected[name]) for name in expected)
    fresh = FreshWeights(open_part("vae", "opensora_vae_tiny").layout, 1234)
    same = {name for name in weights if np.array_equal(weights[name], fresh[name])}
    assert same == {name for name in weights if name.startswith("spatial_vae.")}
    log = read_log(tmp_path / "run/log.jsonl")
    steps = [line for line in log if line["event"] == "step"]
    assert {"identity" in line for line in steps} == {True, False}
    assert all("nll" not in line for line in steps)
    outcome = duosora(
        "reconstruct",
        MEDIA / "city.mp4",
        "--set",
        f"vae={tmp_path / 'run'}",
        "--set",
        "frames=6",
        "--set",
        "device=cpu",
        "--out",
        tmp_path / "city.mp4",
    )
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"autoencoder.pair_weights": {"wavelet": 0.1}}, "pair_weights.wavelet: this autoencoder has no such pair"),
        ({"autoencoder.discriminator_factor": 1}, "autoencoder.discriminator_factor = 1: with pixel_weight = 0"),
        ({"start.frozen": ["spatial."]}, "start.frozen: no weight of OpenSoraVAE"),
    ],
)
def test_stages_that_cannot_be_are_refused_in_a_line(train: Callable, changed: dict, told: str) -> None:
    outcome = train(**(STAGE_1 | changed))
    assert outcome.code == 2
    assert told in outcome.err
    assert len(outcome.err.splitlines()) == 1
