"""Videos from Python: the numbers and files of the command line, models loaded once, and nothing printed."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import duosora
from duosora.core.config.loading import load as load_settings
from duosora.core.config.schema import SampleConfig
from duosora.core.errors import ConfigError, DuosoraError, MediaError, OutOfMemory
from duosora.core.models.finding import TINY_FOLDER
from duosora.core.pipelines.sample import Sampling
from duosora.core.pipelines.sample_files import SampleFiles

PROMPT = "a small blue ring moves up on a pink background"
FAST = {"steps": 2, "frames": 5, "height": 32, "width": 32}


@pytest.fixture(scope="module")
def pipe() -> duosora.Pipeline:
    return duosora.load("tiny", backend="torch", device="cpu", settings=FAST)


def test_loading_settles_and_loads_nothing() -> None:
    fresh = duosora.load("tiny", backend="torch", device="cpu")
    assert fresh.models.loaded == {}


def test_a_video_is_that_of_the_command_line_with_its_files(pipe: duosora.Pipeline, tmp_path: Path) -> None:
    asked = [f"video.{side}=32" for side in ("height", "width")]
    asked += ["sampler.steps=2", "video.frames=5", "seed=7", f"output.folder={tmp_path / 'there'}"]
    asked += [f"prompts.sources={json.dumps([PROMPT])}", "backend.name=torch", "backend.device=cpu"]
    (there,) = SampleFiles(Sampling(load_settings(None, SampleConfig, asked))).run()
    video = pipe(PROMPT, seed=7)
    here = video.save(tmp_path / "here" / there.name)
    assert here.read_bytes() == there.read_bytes()
    written, expected = (json.loads(path.with_suffix(".json").read_text()) for path in (here, there))
    assert written["config"]["output"].pop("folder") == str(here.parent)
    assert expected["config"]["output"].pop("folder") == str(there.parent)
    assert written == expected
    assert video.settings["sampler"]["name"] == "flow_euler"


def test_a_sidecar_from_python_makes_the_video_again(pipe: duosora.Pipeline, tmp_path: Path) -> None:
    video = pipe(PROMPT, seed=3, guidance=2.0)
    (tmp_path / "again.yaml").write_text(json.dumps(video.settings))
    again = duosora.load(tmp_path / "again.yaml")(PROMPT)
    np.testing.assert_array_equal(again.latents, video.latents)


def test_calls_share_what_is_loaded(pipe: duosora.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pipe(PROMPT, seed=1)
    monkeypatch.setattr(pipe.models.backend, "build", None)  # whoever loads again fails
    second, other = pipe([PROMPT, "a red circle moves right over white"], seed=1)
    np.testing.assert_array_equal(second.frames, first.frames)
    assert other.latents.shape == first.latents.shape == (8, 2, 4, 4)
    assert (first.frames.shape, first.frames.dtype) == ((5, 32, 32, 3), np.uint8)
    assert (first.fps, first.prompt, first.seed) == (8.0, PROMPT, 1)


def test_settings_of_a_call_are_of_that_call(pipe: duosora.Pipeline) -> None:
    assert len(pipe(PROMPT, frames=9).frames) == 9
    assert len(pipe(PROMPT, settings={"video": {"frames": np.int64(1)}}).frames) == 1
    assert pipe(PROMPT, settings={"sampler": {"shift": 2.0}}).settings["sampler"]["shift"] == 2.0
    with pytest.raises(DuosoraError, match="take one of flow_euler"):
        pipe(PROMPT, sampler="ddim")
    assert pipe(PROMPT).settings["sampler"]["shift"] == 3.0


def test_groups_of_settings_are_taken_apart(pipe: duosora.Pipeline) -> None:
    made = pipe(PROMPT, tile={"size": 32, "overlap": 16}, settings={"sampler": {"guidance": 2.0}})
    assert made.settings["decode"]["tile"] == {"size": 32, "overlap": 16}
    assert (made.settings["sampler"]["guidance"], made.settings["sampler"]["steps"]) == (2.0, 2)


def test_a_files_device_stays_where_none_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("backend: {device: nowhere}")
    with pytest.raises(DuosoraError, match="nowhere"):
        duosora.load(tmp_path / "x.yaml")


def test_a_small_device_lets_go_of_the_text_encoder() -> None:
    small = duosora.load("tiny", backend="torch", device="cpu", settings=FAST, keeps_text_encoder=False)
    small(PROMPT)
    assert set(small.models.loaded) == {"denoiser", "vae"}
    small.release()
    assert small.models.loaded == {}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ([1], "settings: expected a mapping such as {'steps': 20}, got list"),
        ({"step": 3}, "settings: step: there is no such setting, did you mean 'steps'?"),
        ({"sampler.step": 3}, "settings: sampler.step: unknown key, did you mean 'steps'?"),
        ({"steps": "many"}, "settings: sampler.steps: expected a whole number"),
        ({"steps": object()}, "settings: sampler.steps: expected a text, a number or a list, got object"),
        ({"steps": 3, "sampler.steps": 4}, "settings: sampler.steps: is given twice"),
        ({"name": "ddim"}, "may be backend.name or sampler.name"),
        ({"frames": 6}, "the nearest are 5 and 9"),
        ({"vae": "elsewhere"}, "settings: model.vae: is what was loaded"),
        ({"folder": "x"}, r"settings: output.folder: has no use here; save\(\) is told the file"),
        ({"samples_per_prompt": 2}, "makes 2 videos; ask with a list"),
        ({"images": ["cat.png"]}, "makes videos from text only"),
    ],
)
def test_what_does_not_fit_a_call_is_refused(pipe: duosora.Pipeline, settings: Any, said: str) -> None:
    with pytest.raises(DuosoraError, match=said):
        pipe(PROMPT, settings=settings)


@pytest.mark.parametrize("prompts", ["", [], 3, [3], None])
def test_what_is_no_prompt_is_refused(pipe: duosora.Pipeline, prompts: Any) -> None:
    with pytest.raises(ConfigError, match="prompt"):
        pipe(prompts)


@pytest.mark.parametrize("name", [3, None, "a\0b", "nothing/there", "nothing.yaml", "~nobody/x", ""])
def test_what_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(DuosoraError):
        duosora.load(name)


def test_sizes_are_refused_when_a_pipeline_is_loaded() -> None:
    with pytest.raises(DuosoraError, match="the nearest are 5 and 9"):
        duosora.load("tiny", settings={"video.frames": 6})


def test_many_processes_are_sent_to_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="load works in one process, and 2 were started"):
        duosora.load("tiny")


def test_files_are_kept_and_endings_refused(pipe: duosora.Pipeline, tmp_path: Path) -> None:
    video, picture = pipe(PROMPT), pipe(PROMPT, frames=1)
    path = video.save(tmp_path / "x.mp4")
    kept = path.read_bytes(), path.with_suffix(".json").read_bytes()
    with pytest.raises(MediaError, match="exists already and is kept"):
        pipe(PROMPT, seed=8).save(path)
    with pytest.raises(MediaError, match=r"x\.json: exists already"):
        picture.save(tmp_path / "x.png")
    assert (path.read_bytes(), path.with_suffix(".json").read_bytes()) == kept
    picture.save(tmp_path / "p.jpg")
    video.save(path, overwrite=True)
    for made, ending in ((video, "gif"), (video, "png"), (picture, "mp4"), (picture, "")):
        with pytest.raises(MediaError):
            made.save(tmp_path / f"y.{ending}")
    with pytest.raises(ConfigError):
        video.save(None)  # type: ignore[arg-type]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["p.jpg", "p.json", "x.json", "x.mp4"]


def test_latents_are_written_where_settings_say_so(pipe: duosora.Pipeline, tmp_path: Path) -> None:
    pipe(PROMPT, save_latents=True).save(tmp_path / "x.mp4")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".mp4", ".safetensors"]


def test_notes_are_logged_once_and_nothing_is_printed(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    pipe = duosora.load("tiny_inpaint", backend="torch", device="cpu", settings=FAST)
    pipe("a rabbit " * 400, max_tokens=4)
    pipe("a rabbit")
    said = [message.partition(";")[0] for message in caplog.messages]
    assert said.count("the weights are freshly drawn, not trained: the picture is noise") == 1
    assert said.count("the tiny model has never seen rabbit") == 1
    assert any("is over 4 tokens" in message for message in said)
    assert capfd.readouterr() == ("", "")


def test_memory_that_runs_out_is_a_line(pipe: duosora.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(pipe.models.backend, "to_numpy", fail)
    with pytest.raises(OutOfMemory, match="out of memory; what needs less: smaller video.height"):
        pipe(PROMPT)


def test_a_folder_of_models_is_a_pipeline(tmp_path: Path) -> None:
    """Here the tiny models stand in a folder like published ones."""
    for kind in ("denoiser", "text_encoder", "vae"):
        shutil.copytree(TINY_FOLDER / kind, tmp_path / "models" / f"my_{kind}")
    shutil.copy(TINY_FOLDER / "spiece.model", tmp_path / "models" / "my_text_encoder")
    by_folder = duosora.load(tmp_path / "models", backend="torch", device="cpu", settings=FAST)
    by_denoiser = duosora.load(tmp_path / "models" / "my_denoiser", backend="torch", device="cpu", settings=FAST)
    expected = duosora.load("tiny", backend="torch", device="cpu", settings=FAST)(PROMPT)
    for pipe in (by_folder, by_denoiser):
        np.testing.assert_array_equal(pipe(PROMPT).latents, expected.latents)
