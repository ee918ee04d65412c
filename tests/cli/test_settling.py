"""Weights that do not fit are told while a run settles, before any model is built: in every verb, and by --dry-run."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from duosora.backends.torch import TorchBackend
from duosora.core.io.weights import open_weights, save_weights
from duosora.core.models.finding import TINY_FOLDER

ROOT = Path(__file__).parents[2]
CLIP = ROOT / "tests/media/city.mp4"
LOST = {
    "denoiser": "transformer_blocks.3.attn1.to_q.weight",
    "text_encoder": "encoder.block.1.layer.0.SelfAttention.k.weight",
    "vae": "decoder.conv_in.conv.weight",
}
TRAIN = ("--set", "data.kind=moving_shapes", "--set", "data.workers=0", "--set", "tensorboard=off")
CLIPS = ("--set", f"data.files=[{CLIP.parent}]", "--set", "data.max_area=4096", "--set", "data.workers=0")
VERBS = {
    "sample": ("sample", "a star", "--dry-run", "--out", "out"),
    "judge": ("judge", "--config", ROOT / "configs/sample/tiny.yaml"),
    "parity": ("parity",),
    "train": ("train", "--dry-run", "--out", "run", *TRAIN),
    "cache latents": ("cache", "latents", "--dry-run", "--set", "caches.latents=cache", *CLIPS),
    "cache text": ("cache", "text", "--dry-run", "--set", "caches.text=cache", *CLIPS),
}


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies of the tiny models in the current folder; nothing may be built."""
    for kind in LOST:
        shutil.copytree(TINY_FOLDER / kind, tmp_path / kind)

    def build(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a model was built")

    monkeypatch.setattr(TorchBackend, "_build", build)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def damage(folder: Path, name: str, by: Callable[[np.ndarray], np.ndarray | None]) -> None:
    reader = open_weights(folder)
    tensors = {each: reader[each] for each in reader}
    value = by(tensors.pop(name))
    save_weights(folder, tensors if value is None else tensors | {name: value}, overwrite=True)


def settings(parts: Path) -> list[str]:
    tokenizer = f"model.tokenizer={TINY_FOLDER / 'spiece.model'}"
    return [word for kind in LOST for word in ("--set", f"model.{kind}={parts / kind}")] + ["--set", tokenizer]


@pytest.mark.parametrize(
    ("verb", "kind"),
    [
        *(("sample", kind) for kind in LOST),
        *(("train", kind) for kind in LOST),
        *(("judge", "vae"), ("parity", "vae"), ("cache latents", "vae"), ("cache text", "text_encoder")),
    ],
)
def test_a_lost_tensor_is_told_before_anything_is_built(duosora: Callable, parts: Path, verb: str, kind: str) -> None:
    damage(parts / kind, LOST[kind], lambda array: None)
    outcome = duosora(*VERBS[verb], *settings(parts))
    assert outcome.code == 2
    assert outcome.err.startswith(f"duosora: {parts / kind} does not fit ")
    assert f"1 missing ({LOST[kind]})" in outcome.err
    assert outcome.err.count("\n") == 1
    assert {path.name for path in parts.iterdir()} == set(LOST)


@pytest.mark.parametrize(
    ("by", "message"),
    [
        (lambda array: array.astype(np.int8), "hold no floating-point numbers"),
        (lambda array: array * 0, "1 of 54 matrices are all zeros"),
    ],
    ids=["integers", "zeros"],
)
@pytest.mark.parametrize("verb", ["sample", "train"])
def test_weights_of_another_kind_are_told_as_early(
    duosora: Callable, parts: Path, verb: str, by: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    damage(parts / "vae", LOST["vae"], by)
    outcome = duosora(*VERBS[verb], *settings(parts))
    assert outcome.code == 2
    assert message in outcome.err


def test_reconstructing_looks_at_the_weights_first(duosora: Callable, parts: Path) -> None:
    damage(parts / "vae", LOST["vae"], lambda array: None)
    outcome = duosora("reconstruct", CLIP, "--set", f"vae={parts / 'vae'}", "--out", parts / "out.mp4")
    assert outcome.code == 2
    assert f"1 missing ({LOST['vae']})" in outcome.err


def test_weights_that_training_begins_with_are_looked_at_by_a_dry_run(duosora: Callable, parts: Path) -> None:
    damage(parts / "denoiser", LOST["denoiser"], lambda array: array[:1])
    outcome = duosora(*VERBS["train"], "--set", f"start.weights={parts / 'denoiser'}")
    assert outcome.code == 2
    assert f"1 mis-shaped ({LOST['denoiser']} is 1x144 instead of 144x144)" in outcome.err


def test_whole_models_settle(duosora: Callable, parts: Path) -> None:
    for verb in ("sample", "train"):
        assert duosora(*VERBS[verb], *settings(parts)).code == 0


def test_more_videos_than_a_run_plans_are_refused(duosora: Callable, tmp_path: Path) -> None:
    done = duosora("sample", "a star", "--dry-run", "--out", tmp_path, "--set", "samples_per_prompt=200000")
    assert "makes 200000 videos of 1 prompts; a run makes at most 100000" in done.err
    assert done.code == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("judge", "--picture", "sheet.mp4"), "sheet.mp4: pictures are written as "),
        (("judge", "--json", "file/x.json"), "file/x.json: cannot be written ("),
        (("parity", "--json", "x", "--markdown", "./x"), "--json and --markdown both name x; give each a file"),
        (("parity", "--markdown", "file/x.md"), "file/x.md: cannot be written ("),
        (("sample", "a star", "--out", "file"), "file/a-star_42.mp4: cannot be written ("),
        (("reconstruct", CLIP, "--out", "x.gif"), "x.gif: videos are written as .mp4"),
        (("reconstruct", CLIP, "--out", "file/x.mp4"), "file/x.mp4: cannot be written ("),
    ],
)
def test_what_cannot_be_written_is_told_before_anything_is_built(
    duosora: Callable, parts: Path, arguments: tuple[object, ...], told: str
) -> None:
    Path("file").touch()
    config = ("--config", ROOT / "configs/sample/tiny.yaml") if arguments[0] != "reconstruct" else ()
    outcome = duosora(*arguments, *config)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert outcome.err.startswith(f"duosora: {told}")


@pytest.mark.parametrize("arguments", [("sample", "a star", "--out", "out"), ("reconstruct", CLIP, "--out", "x.mp4")])
def test_a_missing_encoder_is_told_before_anything_is_built(
    duosora: Callable, parts: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...]
) -> None:
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    outcome = duosora(*arguments)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "mp4: cannot be written, as the FFmpeg of PyAV " in outcome.err
    assert duosora("sample", "a star", "--set", "video.frames=1", "--dry-run").code == 0  # a picture needs none


@pytest.mark.parametrize("verb", ["judge", "parity"])
def test_what_is_compared_is_told_before_it_is_and_needs_no_folder_for_videos(
    duosora: Callable, parts: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    Path("outputs").touch()
    with pytest.raises(AssertionError, match="a model was built"):
        duosora(*VERBS[verb], "--config", ROOT / "configs/sample/tiny.yaml")
    told = capsys.readouterr().out
    assert "of 17x64x64 pixels" in told
    if verb == "parity":
        assert "comparing  mindspore with torch in fp32: blocks, gradients, and one video\n" in told
        assert (
            "video      17x64x64 pixels, seed 42: a big red circle moves to the right on a white background\n" in told
        )
