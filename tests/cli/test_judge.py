"""`duosora judge` and `duosora calibrate` through the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from duosora.core.errors import ConfigError
from duosora.core.evaluate.judge import held_out_prompts
from duosora.core.io.images import read_image
from duosora.core.io.weights import save_weights
from duosora.core.layout import FreshWeights
from duosora.core.models.finding import read_config
from duosora.core.models.wfvae import TINY

ROOT = Path(__file__).parents[2]


def test_judging_reports_what_was_asked_for_and_what_was_seen(duosora: Callable, tmp_path: Path) -> None:
    picture, report = tmp_path / "sheet.png", tmp_path / "report.json"
    config = ROOT / "configs/sample/tiny.yaml"
    outcome = duosora(
        *("judge", "--config", config, "--prompts", 3, "--picture", picture, "--json", report),
        *("--set", "sampler.steps=2", "--set", "backend.device=cpu"),
    )
    assert outcome.code == 0, outcome.err
    content = json.loads(report.read_text())
    assert content["rates"].keys() == {"size", "colour", "shape", "direction", "background", "all", "whole"}
    assert [video["prompt"] for video in content["videos"]] == [asked.prompt for asked in held_out_prompts(3)]
    assert all(video["asked"][part] in video["prompt"] for video in content["videos"] for part in ("colour", "shape"))
    # Three strips of five frames of 64 x 64 beside each other.
    assert read_image(picture).shape[1] > 3 * 5 * 64


def test_the_judged_prompts_are_always_the_same_and_never_trained_on() -> None:
    assert held_out_prompts(64)[:8] == held_out_prompts(8)
    assert len({asked.scene for asked in held_out_prompts(64)}) == 64
    with pytest.raises(ConfigError, match="held-out scenes"):
        held_out_prompts(1000)


def test_scenes_of_another_colour_are_judged_by_itself_and_come_again() -> None:
    asked = held_out_prompts(30, ["cyan"])
    assert {each.scene.colour for each in asked} == {"cyan"}
    assert len({each.scene for each in asked}) < len({each.prompt for each in asked}) < 31
    with pytest.raises(ConfigError, match="--colour brown: there are red, "):
        held_out_prompts(3, ["brown"])


def test_digits_that_were_sampled_are_judged_by_a_classifier(duosora: Callable, tmp_path: Path) -> None:
    folder, report = tmp_path / "digits", tmp_path / "report.json"
    outcome = duosora("data", "digits", "--out", folder)
    assert (outcome.code, outcome.out) == (0, f"{folder}: 1797 pictures of 10 classes\n"), outcome.err
    again = duosora("data", "digits", "--out", folder)
    assert again.code == 2
    assert "exists already and is kept" in again.err
    outcome = duosora("judge", folder, "--json", report)
    assert outcome.code == 0, outcome.err
    content = json.loads(report.read_text())
    assert f"recognised {content['recognised']:.1%} of 1797 pictures" in outcome.out
    assert content["recognised"] > 0.99
    assert 0.98 < content["real"]["recognised"] < content["recognised"]
    outcome = duosora("judge", folder, "--prompts", 3)
    assert outcome.code == 2
    assert "nothing is sampled" in outcome.err


CALIBRATE = (
    *("--config", ROOT / "configs/train/tiny_wfvae.yaml", "--clips", 4),
    *("--set", "compute.device=cpu", "--set", "data.workers=0"),
)


def write_autoencoder(folder: Path) -> None:
    fresh = FreshWeights(TINY.layout(), 3)
    save_weights(folder, {name: fresh[name] for name in fresh})
    (folder / "config.json").write_text(json.dumps(TINY.to_config()))


def test_calibrating_writes_the_scale_of_the_latents_and_refuses_a_preset(duosora: Callable, tmp_path: Path) -> None:
    write_autoencoder(tmp_path)
    outcome = duosora("calibrate", tmp_path, *CALIBRATE)
    assert outcome.code == 0, outcome.err
    assert "measured 4 clips" in outcome.out
    scale = read_config(tmp_path / "config.json")["scale"]
    assert len(scale) == 8
    assert np.all(np.abs(np.array(scale) - 1) > 1e-3)
    outcome = duosora("calibrate", "tiny", *CALIBRATE)
    assert outcome.code == 2
    assert "needs the folder of a trained autoencoder" in outcome.err


def test_calibrating_leaves_a_checkpoint_as_it_is(duosora: Callable, tmp_path: Path) -> None:
    write_autoencoder(tmp_path / "model")
    before = (tmp_path / "model" / "config.json").read_bytes()
    (tmp_path / "manifest.json").write_text("{}")
    outcome = duosora("calibrate", tmp_path / "model", *CALIBRATE)
    assert outcome.code == 2
    assert "is part of a checkpoint" in outcome.err
    assert (tmp_path / "model" / "config.json").read_bytes() == before
