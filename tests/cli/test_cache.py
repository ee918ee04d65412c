"""`duosora cache`, and `duosora train` with what it made: the same losses without the frozen models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from duosora.core.data.cache import CacheReader
from duosora.core.data.captions import GOOD_SENTENCES
from duosora.core.data.text_cache import TextCache
from duosora.core.io.images import write_image
from duosora.core.io.video import write_video
from duosora.core.models import t5, wfvae

SIDE = 32


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Of a run over five clips, of which one is damaged, and a picture."""
    rows = []
    for number in range(5):
        noise = np.random.default_rng(number).integers(0, 256, (14, 4, 4, 3), np.uint8)
        write_video(tmp_path / f"{number}.mp4", noise.repeat(SIDE // 4, axis=1).repeat(SIDE // 4, axis=2), fps=24)
        rows.append({"path": f"{number}.mp4", "caption": f"a star moves {number}", "num_frames": 14, "fps": 24})
    write_image(tmp_path / "still.png", np.full((SIDE, SIDE, 3), 90, np.uint8))
    rows.append({"path": "still.png", "caption": ["a gray square", "gray"], "aesthetic": 7})
    (tmp_path / "3.mp4").write_bytes((tmp_path / "3.mp4").read_bytes()[:600])
    (tmp_path / "a.json").write_text(json.dumps([row | {"height": SIDE, "width": SIDE} for row in rows]))
    size = {"frames": 9, "height": SIDE, "width": SIDE, "fps": 24, "min_bucket_batches": 0, "workers": 0}
    settings = {
        "data": size | {"files": [str(tmp_path / "a.json")]},
        "caches": {"text_dtype": "fp32"},
        "learning_rate": {"peak": 1e-3},
        "max_steps": 3,
        "tensorboard": "off",
        "compute": {"device": "cpu"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "config.yaml"


def losses(duosora: Callable, config: Path, folder: Path, *more: str) -> list[float]:
    outcome = duosora("train", "--config", config, "--out", folder, *more)
    assert outcome.code == 0, outcome.err
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == "step"]


def refuse_to_build(monkeypatch: pytest.MonkeyPatch, *specs: type) -> None:
    """Loading a model of these specs fails from now on."""
    from duosora.backends.torch import TorchBackend

    build = TorchBackend.build

    def guarded(self: Any, spec: Any, *arguments: Any) -> Any:
        assert not isinstance(spec, specs), f"{type(spec).__name__} was loaded"
        return build(self, spec, *arguments)

    monkeypatch.setattr(TorchBackend, "build", guarded)


def test_training_with_full_caches_gives_the_same_losses_without_the_frozen_models(
    duosora: Callable, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: fp32 caches hold what the models give for single samples, which is what training computes on a CPU,
    and within the first epoch a clip is cut where its cache was cut."""
    expected = losses(duosora, config, tmp_path / "plain")
    text, latents = (f"caches.{name}={json.dumps(str(tmp_path / name))}" for name in ("text", "latents"))
    for name, setting in (("text", text), ("latents", latents)):
        assert duosora("cache", name, "--config", config, "--set", setting).code == 0

    refuse_to_build(monkeypatch, t5.T5Spec, wfvae.WFVAESpec)
    assert losses(duosora, config, tmp_path / "cached", "--set", text, "--set", latents) == expected
    with pytest.raises(AssertionError, match="T5Spec was loaded"):
        losses(duosora, config, tmp_path / "half", "--set", latents)


def test_a_text_cache_has_every_caption_that_training_may_meet(duosora: Callable, config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "text"
    command = ("cache", "text", "--config", config, "--set", f"caches.text={json.dumps(str(folder))}")
    outcome = duosora(*command, "--dry-run")
    assert outcome.code == 0, outcome.err
    texts_of_the_picture = 2 * 2 * len(GOOD_SENTENCES)
    total = 1 + 5 + texts_of_the_picture
    assert f"captions   {total} of at most 512 tokens, 0 stored already" in outcome.out
    assert "T5 encoder" in outcome.out
    assert str(folder) in outcome.out
    assert not folder.exists()

    assert f"{folder}: {total} captions, {total} of them new, " in duosora(*command).out
    assert f"{total} stored already" in duosora(*command, "--dry-run").out
    assert f"{total} captions, 0 of them new, " in duosora(*command).out
    assert len(CacheReader(folder)) == total


def test_a_text_cache_has_the_captions_that_a_run_is_measured_on(
    duosora: Callable, config: Path, tmp_path: Path
) -> None:
    settings = yaml.safe_load(config.read_text())
    held_out = {"path": "0.mp4", "caption": "held out", "height": SIDE, "width": SIDE, "num_frames": 14, "fps": 24}
    (tmp_path / "b.jsonl").write_text(json.dumps(held_out))
    held_out_data = settings["data"] | {"files": [str(tmp_path / "b.jsonl")]}
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump(settings | {"validation": {"every": 1, "data": held_out_data}})
    )
    setting = f"caches.text={json.dumps(str(tmp_path / 'text'))}"
    assert duosora("cache", "text", "--config", config, "--set", setting).code == 0
    cache = TextCache(tmp_path / "text")
    assert cache.find("held out") is not None
    assert cache.find("held in") is None


def test_a_latent_cache_names_damaged_and_missing_clips(duosora: Callable, config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "latents"
    (tmp_path / "1.mp4").unlink()
    command = ("cache", "latents", "--config", config, "--set", f"caches.latents={json.dumps(str(folder))}")
    outcome = duosora(*command, "--dry-run")
    assert "clips      6, 0 stored already, 1 not there" in outcome.out
    assert not folder.exists()
    outcome = duosora(*command)
    assert outcome.code == 0, outcome.err
    assert f"{folder}: 4 clips, 4 of them new, " in outcome.out
    assert "2 could not be read, index.json there names them" in outcome.out
    assert "1.mp4: cannot be read (No such file or directory)" in outcome.err
    assert "3.mp4: " in outcome.err
    assert CacheReader(folder).index.failed.keys() == {"1.mp4", "3.mp4"}
    assert "6, 4 stored already, 1 not there" in duosora(*command, "--dry-run").out


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("text", [], "caches.text: name the folder for the text states"),
        ("latents", [], "caches.latents: name the folder for the moments"),
        ("latents", ["model.denoiser=tiny_inpaint", "data.masks={}"], "caches.latents: an inpaint model"),
        ("latents", ["data.kind=moving_shapes"], "caches.latents: moving shapes are drawn anew"),
        ("text", ["autoencoder={}"], "caches are for denoisers"),
        ("text", ["caches.text=none", "data.files=[none.json]"], "none.json: there is no such file"),
        ("text", ["caches.txt=a"], "did you mean"),
    ],
)
def test_wrong_use_is_one_line(duosora: Callable, config: Path, name: str, settings: list[str], words: str) -> None:
    outcome = duosora("cache", name, "--config", config, *(part for each in settings for part in ("--set", each)))
    assert outcome.code == 2
    assert words in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("made_with", "words"),
    [
        (("text", "max_tokens=16"), "was made with max_tokens = 16, here it is 512"),
        (("latents", "seed=5"), "was made with seed = 5, here it is 1234"),
        (("latents", "data.frames=5"), "was made with data.frames = 5, here it is 9"),
    ],
)
def test_training_refuses_a_cache_made_with_other_settings(
    duosora: Callable, config: Path, tmp_path: Path, made_with: tuple[str, str], words: str
) -> None:
    name, setting = made_with
    where = f"caches.{name}={json.dumps(str(tmp_path / name))}"
    assert duosora("cache", name, "--config", config, "--set", where, "--set", setting).code == 0
    outcome = duosora("train", "--config", config, "--out", tmp_path / "run", "--set", where)
    assert outcome.code == 2
    assert words in outcome.err


def test_training_reads_the_states_that_records_bring_and_replaces_records_that_lack_them(
    duosora: Callable, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of three columns; no caption is dropped, so the text encoder has nothing to do."""
    states = np.random.default_rng(0).standard_normal((7, t5.TINY.d_model)).astype(np.float32)
    (tmp_path / "embeddings").mkdir()
    for name in ("0", "1", "4"):
        np.savez(tmp_path / "embeddings" / f"{name}-0.npz", text_emb=states, mask=np.ones(7, np.uint8))
    videos = json.loads((tmp_path / "a.json").read_text())[:-1]
    (tmp_path / "videos.json").write_text(json.dumps(videos))
    (tmp_path / "list.txt").write_text(".,embeddings,videos.json\n")
    refuse_to_build(monkeypatch, t5.T5Spec)
    settings = (f"data.files={json.dumps([str(tmp_path / 'list.txt')])}", "data.caption_dropout=0.0", "max_steps=5")
    losses(duosora, config, tmp_path / "run", *(part for setting in settings for part in ("--set", setting)))
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    failures = [failure for line in log for failure in line.get("failures", ())]
    assert any("2-0.npz: there is no such file" in failure for failure in failures)
    assert {Path(failure.split(": ")[0]).name for failure in failures} == {"2.mp4", "3.mp4"}
