"""`duosora sample`: outputs, sidecars, repeatability, and refusals that leave nothing behind."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from duosora.core import samplers
from duosora.core.config.settings import read, resolved
from duosora.core.config.training import TrainConfig
from duosora.core.data.shape_judge import judge
from duosora.core.io.images import read_image
from duosora.core.io.video import read_video
from duosora.core.io.weights import open_weights
from duosora.core.models.finding import TINY_FOLDER
from duosora.core.models.run_folders import STATE
from duosora.core.pipelines.following import trained
from duosora.core.train.checkpoints import Checkpoints

CONFIG = Path(__file__).parents[2] / "configs/sample/tiny.yaml"
FAST = ("--config", CONFIG, "-s", "sampler.steps=2", "-s", "video.frames=5")


def test_a_prompt_becomes_a_video_with_a_sidecar(duosora: Callable, tmp_path: Path) -> None:
    outcome = duosora("sample", "a red circle", *FAST, "--out", tmp_path)
    assert outcome.code == 0, outcome.err
    assert "17x64x64" not in outcome.out
    assert "1 of 5x64x64 pixels = 2x8x8 latents = 32 tokens" in outcome.out
    assert "torch on cpu" in outcome.out
    frames, fps = read_video(tmp_path / "a-red-circle_42.mp4")
    assert frames.shape == (5, 64, 64, 3)
    assert fps == 8
    sidecar = json.loads((tmp_path / "a-red-circle_42.json").read_text())
    assert sidecar["prompt"] == "a red circle"
    assert sidecar["seed"] == 42
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-red-circle_42.json", "a-red-circle_42.mp4"]


def test_a_sidecar_holds_all_that_makes_the_video_again(duosora: Callable, tmp_path: Path) -> None:
    first = duosora(
        "sample", "a red circle", "a blue bar", *FAST, "-s", "samples_per_prompt=2", "--out", tmp_path / "one"
    )
    assert first.code == 0, first.err
    assert len(list((tmp_path / "one").glob("*.mp4"))) == 4
    sidecar = json.loads((tmp_path / "one/a-blue-bar_43.json").read_text())
    config = tmp_path / "again.yaml"
    config.write_text(json.dumps(sidecar["config"]))
    second = duosora("sample", "--config", config, "--out", tmp_path / "two")
    assert second.code == 0, second.err
    assert (tmp_path / "two/a-blue-bar_43.mp4").read_bytes() == (tmp_path / "one/a-blue-bar_43.mp4").read_bytes()


def test_the_tiny_model_reads_a_prompt_whatever_its_letters_and_names_words_it_never_saw(
    duosora: Callable, tmp_path: Path
) -> None:
    for folder, prompt in (("one", "A Big RED circle."), ("two", "a big red circle")):
        outcome = duosora("sample", prompt, *FAST, "-s", "output.save_latents=true", "--out", tmp_path / folder)
        assert outcome.code == 0, outcome.err
        assert "NOTE" not in outcome.out
    one, two = (open_weights(next((tmp_path / name).glob("*.safetensors")))["latents"] for name in ("one", "two"))
    np.testing.assert_array_equal(one, two)
    sidecar = json.loads(next((tmp_path / "one").glob("*.json")).read_text())
    assert (sidecar["prompt"], sidecar["prompt_in_template"]) == ("A Big RED circle.", "a big red circle")
    outcome = duosora("sample", "a Rabbit, a rabbit, a \x1b[31mfox", *FAST, "--out", tmp_path, "--dry-run")
    (note,) = [line for line in outcome.out.splitlines() if line.startswith("NOTE")]
    assert note.startswith("NOTE       the tiny model has never seen rabbit, 31mfox; it knows sentences such as")


@pytest.mark.slow
def test_without_settings_the_video_is_of_the_models_own_kind(duosora: Callable, tmp_path: Path) -> None:
    outcome = duosora("sample", "a red ring moves left over black", "--out", tmp_path)
    assert outcome.code == 0, outcome.err
    assert "recipe     tiny: sampler name flow_euler, steps 25, shift 3.0, guidance 4.0; video frames 17" in outcome.out
    frames, fps = read_video(next(tmp_path.glob("*.mp4")))
    assert (frames.shape, fps) == ((17, 64, 64, 3), 8)
    seen = judge(frames)
    assert (seen.colour, seen.shape, seen.direction, seen.background) == ("red", "ring", "left", "black")
    config = json.loads(next(tmp_path.glob("*.json")).read_text())["config"]
    assert (config["model"]["recipe"], config["sampler"]["steps"], config["video"]["frames"]) == ("tiny", 25, 17)


def test_a_plan_says_where_values_come_from(duosora: Callable, tmp_path: Path) -> None:
    out = duosora("sample", "a star", *FAST[:2], "-s", "sampler.steps=3", "--out", tmp_path, "--dry-run").out
    told = {line.split()[0]: line for line in out.splitlines()}
    assert told["recipe"].startswith("recipe     tiny: condition max_area")
    assert told["file"].startswith("file       sampler name flow_euler, shift 3.0, guidance 4.0; video frames 17")
    assert told["--set"] == "--set      sampler steps 3"


def test_a_plan_says_which_names_of_sizes_were_asked_for(duosora: Callable, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("video: {resolution: 144p, length: 4s}")
    options = ("-s", "model.denoiser=stdit3_tiny", "-s", "model.text_encoder=tiny", "-s", "model.vae=opensora_vae_tiny")
    options = (*options, "-s", "video.aspect_ratio=1:1", "-s", "prompts.motion=5", "--out", tmp_path, "--dry-run")
    out = duosora("sample", "a star", "--config", tmp_path / "a.yaml", *options).out
    assert "recipe     opensora_v1_2: sampler name rflow, steps 30, guidance 7.0, cache null; video frames 102, " in out
    assert 'file       video resolution "144p", length "4s"\n' in out
    assert '--set      video aspect_ratio "1:1"; prompts motion 5.0\n' in out


def test_one_frame_is_an_image(duosora: Callable, tmp_path: Path) -> None:
    outcome = duosora("sample", "a red circle", *FAST, "-s", "video.frames=1", "--seed", 7, "--out", tmp_path)
    assert outcome.code == 0, outcome.err
    assert read_image(tmp_path / "a-red-circle_7.png").shape == (64, 64, 3)


def test_batches_do_not_change_a_video(duosora: Callable, tmp_path: Path) -> None:
    prompts = ("a red circle", "a big blue bar moves up on a pink background", "a star")
    for size in (1, 3):
        options = ("-s", f"batch_size={size}", "-s", "output.save_latents=true", "--out", tmp_path / str(size))
        outcome = duosora("sample", *prompts, *FAST, *options)
        assert outcome.code == 0, outcome.err
    files = sorted((tmp_path / "1").glob("*.safetensors"))
    assert len(files) == 3
    for file in files:
        alone, together = (open_weights(folder / file.name)["latents"] for folder in (tmp_path / "1", tmp_path / "3"))
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6 * np.abs(alone).max())


def test_prompts_come_from_files(duosora: Callable, tmp_path: Path) -> None:
    lines = tmp_path / "prompts.jsonl"
    lines.write_text('{"prompt": "a star", "seed": 5}\n\n{"prompt": "a ring", "negative_prompt": "a bar"}\n')
    outcome = duosora("sample", lines, *FAST, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert {path.name for path in (tmp_path / "out").glob("*.mp4")} == {"a-star_5.mp4", "a-ring_42.mp4"}


def test_a_prompt_over_the_limit_is_cut_with_a_warning(duosora: Callable, tmp_path: Path) -> None:
    outcome = duosora("sample", "red " * 40, *FAST, "--out", tmp_path)
    assert outcome.code == 0, outcome.err
    assert "is over 16 tokens: its last 25 are left out" in outcome.out + outcome.err


def test_an_output_that_exists_is_kept(duosora: Callable, tmp_path: Path) -> None:
    target = tmp_path / "a-star_42.mp4"
    target.write_text("precious")
    outcome = duosora("sample", "a star", *FAST, "--out", tmp_path)
    assert outcome.code == 2
    assert outcome.err == f"duosora: {target}: exists already and is kept; choose another name or add --overwrite\n"
    assert target.read_text() == "precious"
    assert duosora("sample", "a star", *FAST, "--out", tmp_path, "--overwrite").code == 0
    assert len(read_video(target)[0]) == 5


def test_a_picture_does_not_replace_what_lies_beside_the_video_of_its_prompt(duosora: Callable, tmp_path: Path) -> None:
    precious = [tmp_path / name for name in ("a-star_42.json", "a-star_42.safetensors")]
    for target in precious:
        target.write_text("of the video")
        outcome = duosora(
            "sample", "a star", *FAST, "-s", "video.frames=1", "-s", "output.save_latents=true", "--out", tmp_path
        )
        assert outcome.code == 2
        assert "a-star_42" in outcome.err
        assert "exists already and is kept" in outcome.err
        assert target.read_text() == "of the video"
        target.unlink()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told_before_the_models_are_loaded(duosora: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = duosora("sample", "a star", *FAST, "--out", tmp_path / "file", "--dry-run")
    assert outcome.code == 2
    assert outcome.err.endswith("file/a-star_42.mp4: cannot be written (" + str(tmp_path / "file") + " is no folder)\n")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["video.frames=30"], "num_frames = 30: needs 1 + a multiple of 4 frames; the nearest are 29 and 33"),
        (["video.height=60"], "height = 60: needs a multiple of 8 pixels; the nearest are 56 and 64"),
        (["video.width=72"], "latent width = 9: needs a multiple of the patch size 2"),
        (["sampler.stepz=3"], "did you mean"),
        (["sampler.name=eular"], "sampler.name = 'eular': unknown, did you mean 'euler'"),
        (
            ["sampler.name=flow_euler", "sampler.zero_terminal_snr=true"],
            "sampler.zero_terminal_snr: flow_euler has no use for it",
        ),
        (["sampler.name=flow_euler", "sampler.objective=epsilon"], "'epsilon': flow_euler takes flow"),
        (["sampler.name=pndm", "sampler.shift=null"], "zero_terminal_snr"),
        (
            ["sampler.name=ddim", "sampler.shift=3"],
            "sampler.shift: ddim has no use for it; leave it out, or set",
        ),
        (["sampler.steps=many"], "sampler.steps"),
        (["model.denoiser=nowhere"], "model.denoiser = nowhere: no such folder"),
        (["model.recipe=tinny"], "model.recipe = tinny: there is no such recipe, did you mean tiny?"),
        (["model.denoiser=tiny_inpaint", "condition.images=[nowhere.png]"], "nowhere.png: there is no such file"),
        (["condition.images=[nowhere.png]"], "makes videos from text only"),
        (["backend.name=mindspore", "backend.device=npu"], "mindspore"),
        (["backend.device=cuda:63"], "cannot use the device 'cuda:63'"),
        (["backend.attention=flash"], "attention = 'flash' needs an NVIDIA GPU"),
        (["prompts.template=no place"], "needs {} once"),
        (["seed=-1"], "seed"),
        (["video.fps=1e-4"], "video.fps=1e-4: expected at least 0.001, got 0.0001"),
        (["video.fps=1e12"], "video.fps=1e12: expected at most 1000"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line(
    duosora: Callable, tmp_path: Path, settings: list[str], words: str
) -> None:
    options = [part for setting in settings for part in ("-s", setting)]
    outcome = duosora("sample", "a star", *FAST, *options, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert words in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", samplers.names())
def test_every_sampler_makes_a_video(duosora: Callable, tmp_path: Path, name: str) -> None:
    able = samplers.resolve(name).objectives
    objective = "v_prediction" if "v_prediction" in able else able[0]
    settings = ["sampler.shift=null"] if objective == "v_prediction" else []
    settings += ["sampler.zero_terminal_snr=false", "sampler.steps=4"] if name == "pndm" else []
    settings += ["sampler.options.variance=fixed_small"] if name == "iddpm" else []
    settings += [f"model.denoiser={run_of(tmp_path / 'run', objective)}", f"sampler.name={name}"]
    options = [part for setting in settings for part in ("-s", setting)]
    outcome = duosora("sample", "a star", *FAST, *options, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err


def run_of(folder: Path, objective: str) -> Path:
    """The tiny model as a run left it that trained this objective."""
    said = {"model": {"denoiser": "tiny"}, "folder": str(folder), "objective": {"kind": objective}}
    config = resolved(trained(read(TrainConfig, said)).config)

    def write(checkpoint: Path) -> None:
        shutil.copytree(TINY_FOLDER / "denoiser", checkpoint / "model")
        (checkpoint / STATE).write_text(json.dumps({"step": 1, "guard": {}, "run": {"config": config}}))

    Checkpoints(folder).save(1, write)
    return folder


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            ["sampler.name=ddim"],
            "ddim: takes epsilon or v_prediction or sample, but the tiny model was trained with flow",
        ),
        (
            ["sampler.name=rflow"],
            "rflow: takes rflow, but the tiny model was trained with flow; take one of flow_euler",
        ),
        (
            ["sampler.name=iddpm"],
            "sampler.name = iddpm: reads a variance, which tiny does not predict; set sampler.opt",
        ),
        (
            ["sampler.guidance_channels=9"],
            "sampler.guidance_channels = 9: latents of tiny have 8 channels; null guides all",
        ),
    ],
)
def test_a_sampler_that_the_model_does_not_allow_is_refused_with_those_that_it_does(
    duosora: Callable, tmp_path: Path, settings: list[str], told: str
) -> None:
    options = [part for setting in (*settings, "sampler.shift=null") for part in ("-s", setting)]
    outcome = duosora("sample", "a star", *FAST, *options, "--out", tmp_path / "out")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert told in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["", "\n\n  \n"])
def test_an_empty_prompt_file_is_refused(duosora: Callable, tmp_path: Path, content: str) -> None:
    (tmp_path / "prompts.txt").write_text(content)
    outcome = duosora("sample", tmp_path / "prompts.txt", *FAST, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert "holds no prompt" in outcome.err


def test_a_dry_run_prints_the_plan_only(duosora: Callable, tmp_path: Path) -> None:
    outcome = duosora("sample", "a star", *FAST, "--out", tmp_path / "out", "--dry-run")
    assert outcome.code == 0
    assert "2 steps (2 network calls), flow, guidance 4" in outcome.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("backend", ["torch", "mindspore"])
def test_a_video_that_no_memory_holds_is_one_line(backend: str, duosora: Callable, tmp_path: Path) -> None:
    pytest.importorskip(backend)
    huge = ("-s", "video.height=1000000", "-s", "video.width=1000000", "-s", "video.frames=1")
    outcome = duosora("sample", "a red circle", *FAST, *huge, "--backend", backend, "--out", tmp_path)
    assert outcome.code == 2
    line = outcome.err.splitlines()[-1]
    assert line.startswith("duosora: out of memory: 466.0 GiB were asked for at once; what needs less: smaller video.h")
    assert "Traceback" not in outcome.err
    assert list(tmp_path.iterdir()) == []
