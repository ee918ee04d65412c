"""`duosora sample` and `sample-set` with models that read classes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from duosora.core.config.settings import read, resolved
from duosora.core.config.training import TrainConfig
from duosora.core.io.images import read_image
from duosora.core.io.weights import open_weights, save_weights
from duosora.core.models.finding import open_part
from duosora.core.models.run_folders import STATE
from duosora.core.pipelines.following import trained
from duosora.core.pipelines.settings import open_parts
from duosora.core.train.checkpoints import Checkpoints

VAE = ("-s", "model.vae=sd_vae_tiny")
FAST = (*VAE, "-s", "sampler.steps=2")
SIT = (*FAST, "-s", "model.denoiser=sit_tiny")


def published(folder: Path, preset: str, classes: int | None = None) -> Path:
    """A file as upstream's training writes it, of a model whose outputs are not all zero.

    classes: rows of its table, where they are not the preset's.
    """
    weights, draw = open_part("denoiser", preset).open(), np.random.default_rng(0)
    state = {name: torch.from_numpy(weights[name].copy()) for name in weights}
    for name in ("final_layer.linear.weight", "final_layer.adaLN_modulation.1.weight"):
        state[name] += torch.from_numpy(0.1 * draw.standard_normal(state[name].shape, np.float32))
    for number in range(4):
        name = f"blocks.{number}.adaLN_modulation.1.weight"
        state[name] += torch.from_numpy(0.1 * draw.standard_normal(state[name].shape, np.float32))
    table = "y_embedder.embedding_table.weight"
    state[table] = state[table][:classes].clone()
    file = folder / f"{preset}.pt"
    torch.save({"model": {name: 0 * value for name, value in state.items()}, "ema": state, "opt": {}}, file)
    return file


def run_of(folder: Path, preset: str, names: list[str], **objective: Any) -> Path:
    """A preset as a run left it that was trained on classes of these names."""
    part = open_part("denoiser", preset)
    said = {"model": {"denoiser": preset, "vae": "sd_vae_tiny"}, "folder": str(folder), "objective": objective}
    config = resolved(trained(read(TrainConfig, said)).config)

    def write(checkpoint: Path) -> None:
        save_weights(checkpoint / "model/diffusion_pytorch_model.safetensors", dict(part.open()))
        (checkpoint / "model/config.json").write_text(json.dumps(part.spec.to_config()))
        run = {"config": config, "classes": names}
        (checkpoint / STATE).write_text(json.dumps({"step": 1, "guard": {}, "run": run}))

    Checkpoints(folder).save(1, write)
    return folder


def test_classes_become_pictures_and_a_grid(duosora: Callable, tmp_path: Path) -> None:
    outcome = duosora("sample", *"012345", *SIT, "--out", tmp_path)
    assert outcome.code == 0, outcome.err
    assert "text encoder" not in outcome.out
    assert "6 of 1x64x64 pixels = 1x8x8 latents = 16 tokens" in outcome.out
    assert {path.name for path in tmp_path.glob("*.png")} == {*(f"{i}_42.png" for i in range(6)), "grid_0_42_of_6.png"}
    grid = read_image(tmp_path / "grid_0_42_of_6.png")
    assert grid.shape == (2 * 66 + 2, 4 * 66 + 2, 3)
    np.testing.assert_array_equal(grid[68:132, 68:132], read_image(tmp_path / "5_42.png"))
    assert json.loads((tmp_path / "3_42.json").read_text())["prompt_in_template"] == "3"


def test_a_published_file_makes_the_same_picture_again_and_another_of_another_class(
    duosora: Callable, tmp_path: Path
) -> None:
    file = published(tmp_path, "dit_tiny")
    assert duosora("convert", file, "--to", tmp_path / "dit").code == 0
    for folder, prompts in (("one", ("3", "4")), ("two", ("4",))):
        settings = (*FAST, "-s", f"model.denoiser={tmp_path / 'dit'}", "-s", "output.save_latents=true")
        outcome = duosora("sample", *prompts, *settings, "--out", tmp_path / folder)
        assert outcome.code == 0, outcome.err
    three, four, again = (
        open_weights(tmp_path / name)["latents"]
        for name in ("one/3_42.safetensors", "one/4_42.safetensors", "two/4_42.safetensors")
    )
    np.testing.assert_array_equal(four, again)
    assert np.abs(three - four).max() > 1e-3 * np.abs(four).max()


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["dit_tiny", "sit_tiny"])
def test_both_backends_make_the_same_latents(duosora: Callable, tmp_path: Path, preset: str) -> None:
    pytest.importorskip("mindspore")
    file = published(tmp_path, preset)
    assert duosora("convert", file, "--to", tmp_path / "model", "--config", preset).code == 0
    settings = (*VAE, "-s", "sampler.steps=6", "-s", f"model.denoiser={tmp_path / 'model'}")
    for backend in ("torch", "mindspore"):
        options = ("-s", "output.save_latents=true", "--backend", backend, "--out", tmp_path / backend)
        outcome = duosora("sample", "7", *settings, *options)
        assert outcome.code == 0, outcome.err
    one, other = (open_weights(tmp_path / name / "7_42.safetensors")["latents"] for name in ("torch", "mindspore"))
    np.testing.assert_allclose(other, one, rtol=0, atol=1e-4 * np.ptp(one))


def test_a_run_knows_the_names_and_the_path_that_it_was_trained_with(duosora: Callable, tmp_path: Path) -> None:
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    run = run_of(tmp_path / "run", "sit_tiny", names, kind="score", path="gvp")
    settings = (*VAE, "-s", f"model.denoiser={run}", "-s", "sampler.steps=2", "--out", tmp_path / "out")
    outcome = duosora("sample", "Seven", *settings)
    assert outcome.code == 0, outcome.err
    assert "interpolant_sde, 2 steps (2 network calls), score, guidance 4" in outcome.out
    assert "objective score, path gvp" in outcome.out
    assert json.loads((tmp_path / "out/seven_42.json").read_text())["prompt_in_template"] == "7"
    outcome = duosora("sample", "fourty", *settings)
    assert "class 'fourty': there is none of this name; the nearest are four" in outcome.err


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("10",), "class 10: the model has classes 0 to 9"),
        (("dog",), "class 'dog': the model has classes 0 to 9, whose names nobody knows"),
        (("1", "-s", "prompts.template=a {}"), "prompts.template: sit_tiny reads classes; leave it out"),
        (("1", "-s", "prompts.negative=blurry"), "class 'blurry'"),
        (("1", "-s", "prompts.classes=nowhere.txt"), "nowhere.txt: there is no such file"),
        (("1", "-s", "video.height=128"), "latents of 1 x 16 x 8: this model makes pictures of 8 x 8 latents"),
        (("1", "-s", "sampler.name=iddpm"), "trained with velocity; take one of interpolant_ode, interpolant_sde"),
        (("1", "-s", "sampler.options.form=sbdm"), "sampler.options.form = sbdm: its noise is infinite at t = 0"),
        (("1", "-s", "model.denoiser=dit_tiny", "-s", "sampler.name=interpolant_ode"), "take one of euler_ancestral"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    duosora: Callable, tmp_path: Path, settings: tuple[str, ...], told: str
) -> None:
    outcome = duosora("sample", *settings[:1], *SIT, *settings[1:], "--out", tmp_path / "out")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert told in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_model_without_null_class_is_not_guided(duosora: Callable, tmp_path: Path) -> None:
    spec = {**open_part("denoiser", "sit_tiny").spec.to_config(), "class_dropout_prob": 0.0}
    file = published(tmp_path, "sit_tiny", classes=10)
    (tmp_path / "config.json").write_text(json.dumps(spec))
    assert duosora("convert", file, "--to", tmp_path / "model", "--config", tmp_path / "config.json").code == 0
    settings = (*FAST, "-s", f"model.denoiser={tmp_path / 'model'}", "--out", tmp_path / "out")
    outcome = duosora("sample", "1", *settings)
    assert outcome.code == 0, outcome.err
    assert "guidance 1" in outcome.out
    assert "was trained without a null class, so guidance is off" in outcome.out
    outcome = duosora("sample", "1", *settings, "-s", "sampler.guidance=2", "--dry-run")
    assert "sampler.guidance = 2.0: " in outcome.err or "sampler.guidance = 2: " in outcome.err
    outcome = duosora("sample", "1", *settings, "-s", "sampler.guidance=2", "-s", "prompts.negative=2", "--overwrite")
    assert outcome.code == 0, outcome.err


def test_texts_have_no_classes(duosora: Callable, tmp_path: Path) -> None:
    outcome = duosora("sample", "a star", "-s", "prompts.classes=a.txt", "--out", tmp_path)
    assert outcome.err == "duosora: prompts.classes: tiny reads texts; leave it out\n"
    assert open_parts(read(TrainConfig, {"folder": "x"}).model).text_encoder is not None


@pytest.mark.slow
def test_a_set_goes_on_where_it_was_and_no_batch_changes_it(duosora: Callable, tmp_path: Path) -> None:
    options = (*SIT, "--count", 12, "--seed", 5)
    outcome = duosora("sample-set", *options, "--out", tmp_path / "one")
    assert outcome.code == 0, outcome.err
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for number in (0, 3, 11):
        (tmp_path / f"two/{number:06d}.png").unlink()
    outcome = duosora("sample-set", *options, "-s", "batch_size=4", "--out", tmp_path / "two")
    assert outcome.code == 0, outcome.err
    assert "12 pictures in" in outcome.out
    assert "9 of them there" in outcome.out
    one, two = (np.load(tmp_path / name)["arr_0"] for name in ("one.npz", "two.npz"))
    assert (one.shape, one.dtype) == ((12, 64, 64, 3), np.uint8)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one[7], read_image(tmp_path / "one/000007.png"))
    assert np.abs(one[1].astype(int) - one[11]).max() > 0  # of one class, with other noise
    outcome = duosora("sample-set", *options, "--out", tmp_path / "one")
    assert "one.npz: exists already and is kept" in outcome.err
    outcome = duosora("sample-set", *options[:-1], 6, "--out", tmp_path / "one", "--overwrite")
    assert "its pictures were made with another seed; name another folder" in outcome.err
    outcome = duosora("sample-set", *options, "--order", "random", "--out", tmp_path / "one", "--overwrite")
    assert "its pictures were made with another order" in outcome.err
    outcome = duosora("sample-set", *options, "--order", "any", "--out", tmp_path / "one")
    assert "--order any: needs one of balanced, random" in outcome.err


def test_a_set_of_texts_needs_prompts(duosora: Callable, tmp_path: Path) -> None:
    outcome = duosora("sample-set", "--count", 2, "--out", tmp_path / "a")
    assert "there is no prompt; name some" in outcome.err
    outcome = duosora("sample-set", "a star", "--count", 2, "--out", tmp_path / "a")
    assert "video.frames = 17: a sample set holds pictures; set 1" in outcome.err
    options = ("-s", "video.frames=1", "-s", "sampler.steps=2", "-s", "video.height=32", "-s", "video.width=32")
    outcome = duosora("sample-set", "a star", "a ring", *options, "--count", 3, "--out", tmp_path / "a")
    assert outcome.code == 0, outcome.err
    assert np.load(tmp_path / "a.npz")["arr_0"].shape == (3, 32, 32, 3)
