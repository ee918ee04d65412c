"""Going on from a checkpoint: what was changed under the same path is named, and refused unless it is accepted."""

import json
import shutil
from pathlib import Path

import pytest

from duosora.core.config.settings import read, resolved, with_setting
from duosora.core.config.training import CheckpointSettings, TrainConfig
from duosora.core.errors import ConfigError
from duosora.core.io.weights import open_weights, save_weights
from duosora.core.models.finding import TINY_FOLDER
from duosora.core.pipelines.following import trained
from duosora.core.train.continuing import accepted, refuse_other_settings
from duosora.core.train.origins import origins
from duosora.core.train.setup.parts import train_parts

ROWS = [{"path": "a.mp4", "caption": "a dog"}, {"path": "b.mp4", "caption": "a cat"}]


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """Of a run on a list that names an annotation, a folder of clips, and a VAE in a folder."""
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/one.mp4").touch()
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    (tmp_path / "list.txt").write_text("clips,rows.json\n")
    shutil.copytree(TINY_FOLDER / "vae", tmp_path / "vae")
    files = [str(tmp_path / "list.txt"), str(tmp_path / "clips")]
    settings = {"data": {"files": files}, "model": {"vae": str(tmp_path / "vae")}}
    return TrainConfig.model_validate_json(json.dumps(settings))


def checkpoint(folder: Path, config: TrainConfig) -> Path:
    run = {"origins": origins(config, train_parts(config.model, None, 0)), "counts": {"records": 2, "clips": 1}}
    folder.mkdir(exist_ok=True)
    (folder / "state.json").write_text(json.dumps({"step": 1, "guard": {}, "run": run}))
    return folder


OF_V1 = {"schedule": "linear", "zero_terminal_snr": True, "snr_gamma": 5.0, "shift": 3.0, "weighting": "none"}
"""Settings of the objective that every run recorded before recipes came, whether it had a use for them or not."""


@pytest.mark.parametrize("trains", [{}, {"autoencoder": {}, "model": {"vae": "tiny"}}])
def test_a_run_that_was_begun_before_recipes_goes_on(tmp_path: Path, trains: dict) -> None:
    config = trained(read(TrainConfig, {**trains, "data": {"kind": "moving_shapes"}})).config
    before = resolved(config)
    del before["model"]["recipe"]
    before["objective"] |= OF_V1 | {"kind": "flow" if not trains else "v_prediction"}
    before["max_tokens"] = before["show"]["max_tokens"] = 512
    (tmp_path / "state.json").write_text(json.dumps({"step": 1, "guard": {}, "run": {"config": before}}))
    refuse_other_settings(tmp_path, config)
    with pytest.raises(ConfigError, match=r"learning_rate.peak = 0.5 was 1e-05; set them back"):
        refuse_other_settings(tmp_path, with_setting(config, "learning_rate.peak", 0.5))


def test_a_run_that_has_the_old_name_of_the_wavelet_weight_goes_on(tmp_path: Path) -> None:
    given = {"autoencoder": {"pair_weights": {"wavelet": 0.1}}, "data": {"kind": "moving_shapes"}}
    config = trained(read(TrainConfig, given)).config
    before = resolved(config)
    for name in ("pair_weights", "pixel_weight", "image_share", "random_length"):
        del before["autoencoder"][name]
    before["autoencoder"]["wavelet_weight"] = 0.1
    (tmp_path / "state.json").write_text(json.dumps({"step": 1, "guard": {}, "run": {"config": before}}))
    refuse_other_settings(tmp_path, config)
    other = with_setting(config, "autoencoder.pair_weights", {"wavelet": 0.2})
    with pytest.raises(ConfigError, match=r"autoencoder.pair_weights.wavelet = 0.2 was 0.1; set them back"):
        refuse_other_settings(tmp_path, other)


def change_caption(folder: Path) -> None:
    (folder / "rows.json").write_text(json.dumps([ROWS[0], ROWS[1] | {"caption": "a cow"}]))


def change_list(folder: Path) -> None:
    (folder / "list.txt").write_text("vae,rows.json\n")


def add_clip(folder: Path) -> None:
    (folder / "clips/two.mp4").touch()


def change_weight(folder: Path) -> None:
    (file,) = (folder / "vae").glob("*.safetensors")
    weights = dict(open_weights(file))
    name = max(weights, key=lambda name: weights[name].size)
    save_weights(file, weights | {name: weights[name] + 1}, overwrite=True)


def add_list_line(folder: Path) -> None:
    shutil.copy(folder / "rows.json", folder / "more.json")
    (folder / "list.txt").write_text("clips,rows.json\nclips,more.json\n")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (change_caption, "rows.json has changed"),
        (change_list, "list.txt has changed"),
        (add_clip, "clips has changed"),
        (change_weight, "vae has changed"),
        (add_list_line, "more.json is new"),
    ],
)
def test_what_changed_under_the_same_path_is_named(config: TrainConfig, tmp_path: Path, change, told: str) -> None:
    before = checkpoint(tmp_path / "run", config)
    assert accepted(before, config, "origins", origins(config, train_parts(config.model, None, 0))) == []
    change(tmp_path)
    now = origins(config, train_parts(config.model, None, 0))
    with pytest.raises(ConfigError, match=rf"other inputs: .*{told}.*checkpoints.changed_inputs=accept") as refused:
        accepted(before, config, "origins", now)
    assert "\n" not in str(refused.value)
    accepting = CheckpointSettings(changed_inputs="accept")
    (note,) = accepted(before, config.model_copy(update={"checkpoints": accepting}), "origins", now)
    assert told in note


def test_other_counts_are_told_with_their_numbers(config: TrainConfig, tmp_path: Path) -> None:
    before = checkpoint(tmp_path / "run", config)
    assert accepted(before, config, "counts", {"records": 2, "clips": 1}) == []
    with pytest.raises(ConfigError, match=r"clips: 1 before, 2 now"):
        accepted(before, config, "counts", {"records": 2, "clips": 2})


def test_a_checkpoint_of_an_older_version_says_so_once(config: TrainConfig, tmp_path: Path) -> None:
    before = checkpoint(tmp_path / "run", config)
    (before / "state.json").write_text(json.dumps({"step": 1, "guard": {}, "run": {}}))
    (note,) = accepted(before, config, "origins", {"model.vae": "1"}) + accepted(before, config, "counts", {"clips": 1})
    assert "does not say" in note


def test_media_files_may_be_copied_anew(config: TrainConfig, tmp_path: Path) -> None:
    before = checkpoint(tmp_path / "run", config)
    (tmp_path / "clips/one.mp4").write_bytes(b"moved")
    assert accepted(before, config, "origins", origins(config, train_parts(config.model, None, 0))) == []
