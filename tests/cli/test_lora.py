"""LoRA from end to end with the tiny denoiser: trained, gone on with, sampled, converted, refused where it is none."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from duosora.core.config.loading import load
from duosora.core.config.schema import ModelSettings
from duosora.core.config.training import TrainConfig
from duosora.core.io.weights import open_weights, save_weights
from duosora.core.models.finding import TINY_FOLDER, open_part, recognise, with_loras
from duosora.core.models.lora.files import open_lora
from duosora.core.train.run import TrainRun

TINY = ("data.kind=moving_shapes", "data.workers=0", "tensorboard=off", "data.drawn_clips=4", "checkpoints.every=2",
        "model.denoiser=tiny", "objective.kind=flow")  # fmt: skip
LORA = ("tune.kind=lora", "tune.rank=4", "tune.targets=[to_q,attn2.*]", "data.colours=[cyan,red]")
QUERY = "transformer_blocks.0.attn1.to_q.weight"


def given(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps."""
    folder = tmp_path_factory.mktemp("lora") / "run"
    settings = (*TINY, *LORA, "max_steps=4", f"folder={folder}")
    TrainRun(load(None, TrainConfig, settings)).run(say=lambda line: None)
    return folder


def files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_a_checkpoint_holds_the_adapters_alone(run: Path) -> None:
    for name in ("model", "model_ema"):
        assert files(run / "checkpoint-4" / name) == {"adapter_model.safetensors", "adapter_config.json"}
    reader = open_weights(run / "checkpoint-4" / "model" / "adapter_model.safetensors")
    assert len(reader) == 2 * (6 + 4 * 6)
    base = json.loads(reader.metadata["duosora_base"])
    assert base["source"] == "tiny"
    assert len(base["fingerprint"]) == 64
    held = open_weights(run / "checkpoint-4" / "optimizer.safetensors")
    assert len(held) == 2 * len(reader)


def test_a_run_goes_on_as_if_it_had_not_been_ended(run: Path, duosora: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for steps in (2, 4):
        outcome = duosora("train", *given(*TINY, *LORA, f"max_steps={steps}"), "--out", folder)
        assert outcome.code == 0, outcome.err
    assert "at step 2" in outcome.out
    for name in ("model/adapter_model.safetensors", "model_ema/adapter_model.safetensors", "optimizer.safetensors"):
        ours, theirs = (open_weights(place / "checkpoint-4" / name) for place in (folder, run))
        assert set(ours) == set(theirs)
        assert all(ours[each].tobytes() == theirs[each].tobytes() for each in theirs)
    outcome = duosora("train", *given(*TINY, *LORA, "tune.rank=5", "max_steps=4"), "--out", folder)
    assert outcome.code == 2
    assert "tune.rank = 5 was 4" in outcome.err


def test_a_run_stands_for_its_model_with_what_it_learned(run: Path) -> None:
    base, own = open_part("denoiser", "tiny"), recognise(run)
    assert own.spec == base.spec
    added = own.open()[QUERY] - base.open()[QUERY]
    expected = open_lora(run).fitted(base.layout).pairs[QUERY.removesuffix(".weight")].delta()
    np.testing.assert_allclose(added, expected, atol=1e-6)
    assert np.abs(added).max() > 0
    other = with_loras(base, [(run, 1.0)]).open()
    assert all(other[name].tobytes() == own.open()[name].tobytes() for name in base.open())


def test_a_scale_is_read_behind_the_file() -> None:
    lora = ModelSettings.model_validate_json('{"lora": ["a:0.8", "b", "c:d", "e:-1", {"file": "f", "scale": 2}]}').lora
    assert [(str(each.file), each.scale) for each in lora] == [
        ("a", 0.8), ("b", 1.0), ("c:d", 1.0), ("e", -1.0), ("f", 2.0)
    ]  # fmt: skip


def sampled(duosora: Callable, folder: Path, *arguments: object) -> np.ndarray:
    small = given("model.denoiser=tiny", "sampler.steps=2", "video.frames=1", "output.save_latents=true")
    outcome = duosora("sample", "a cyan ring", *small, *arguments, "--out", folder)
    assert outcome.code == 0, outcome.err
    (file,) = folder.glob("*.safetensors")
    reader = open_weights(file)
    return reader[next(iter(reader))]


@pytest.mark.slow
def test_samples_are_those_of_the_merged_model(run: Path, duosora: Callable, tmp_path: Path) -> None:
    plain = sampled(duosora, tmp_path / "plain")
    ours = sampled(duosora, tmp_path / "lora", "--lora", f"{run}:0.5")
    assert np.abs(ours - plain).max() > 0
    beside = ("--lora", f"{run}:0.5", *given("model.lora_mode=applied"))
    np.testing.assert_allclose(sampled(duosora, tmp_path / "beside", *beside), ours, rtol=0, atol=1e-4)
    outcome = duosora("convert", "tiny", "--lora", f"{run}:0.5", "--to", tmp_path / "merged")
    assert outcome.code == 0, outcome.err
    merged, added = open_weights(tmp_path / "merged"), with_loras(open_part("denoiser", "tiny"), [(run, 0.5)]).open()
    assert all(merged[name].tobytes() == added[name].tobytes() for name in merged)
    (sidecar,) = (tmp_path / "lora").glob("*.json")
    told = json.loads(sidecar.read_text())["lora"]
    assert [each["scale"] for each in told] == [0.5]
    assert len(told[0]["sha256"]) == 64


def test_spellings_there_and_back(run: Path, duosora: Callable, tmp_path: Path) -> None:
    way = [(run, "kohya"), (tmp_path / "kohya", "diffusers"), (tmp_path / "diffusers", "peft")]
    for source, spelling in way:
        outcome = duosora("convert", source, "--spelling", spelling, "--config", "tiny", "--to", tmp_path / spelling)
        assert outcome.code == 0, outcome.err
        assert "verified" in outcome.out
    layout = open_part("denoiser", "tiny").layout
    ours, theirs = (open_lora(path).fitted(layout).pairs for path in (run, tmp_path / "peft"))
    for layer, pair in ours.items():
        np.testing.assert_allclose(theirs[layer].delta(), pair.delta(), rtol=0, atol=1e-6)


def test_merged_and_taken_out_again(run: Path, duosora: Callable, tmp_path: Path) -> None:
    assert duosora("convert", run, "--to", tmp_path / "full").code == 0
    outcome = duosora("convert", tmp_path / "full", "--minus", "tiny", "--rank", "4", "--to", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "30 layers, rank 4, with 100.0%" in outcome.out
    layout = open_part("denoiser", "tiny").layout
    ours, theirs = (open_lora(path).fitted(layout).pairs for path in (run, tmp_path / "out"))
    for layer, pair in ours.items():
        np.testing.assert_allclose(theirs[layer].delta(), pair.delta(), rtol=0, atol=1e-5)


def test_inspect_knows_it(run: Path, duosora: Callable, tmp_path: Path) -> None:
    outcome = duosora("inspect", run)
    assert outcome.code == 0
    assert "LoRA in the spelling of peft, 30 layers" in outcome.out
    assert "made for: tiny" in outcome.out
    duosora("convert", run, "--spelling", "kohya", "--to", tmp_path / "x.safetensors")
    outcome = duosora("inspect", tmp_path / "x.safetensors", "--tensors")
    assert "spelling of kohya" in outcome.out
    assert "fits: tiny (" in outcome.out


def test_a_moved_model_is_told_and_named(run: Path, duosora: Callable, tmp_path: Path) -> None:
    shutil.copytree(run / "checkpoint-4" / "model", tmp_path / "alone")
    outcome = duosora("sample", "a cyan ring", "--set", f"model.denoiser={tmp_path / 'alone'}", "--dry-run")
    assert outcome.code == 2
    assert "is LoRA, not a whole model" in outcome.err
    outcome = duosora("sample", "a cyan ring", "--lora", tmp_path / "alone", "--dry-run")
    assert outcome.code == 0, outcome.err


def test_lora_that_was_trained_for_other_weights_is_told(run: Path, duosora: Callable, tmp_path: Path) -> None:
    duosora("convert", run, "--to", tmp_path / "other")
    parts = given(*(f"model.{kind}={Path(open_part(kind, 'tiny').open().source)}" for kind in ("vae", "text_encoder")))
    other = (*parts, "--set", f"model.tokenizer={TINY_FOLDER}", "--set", f"model.denoiser={tmp_path / 'other'}")
    told = "was trained for other weights (tiny)"
    for arguments, expected in (
        ((*other, "--set", "sampler.shift=3"), True),
        (("--set", "model.denoiser=tiny"), False),
    ):
        outcome = duosora("sample", "a red ring", *arguments, "--lora", run, "--dry-run")
        assert outcome.code == 0, outcome.err
        assert (told in outcome.out) == expected


WRONG = [
    (("tune.kind=lora", "tune.targets=[to_qq]"), "tune.targets: to_qq means no layer"),
    (("tune.kind=lora", "tune.targets=[]"), "tune.targets: names no layer"),
    (("tune.kind=lora", "tune.rank=0"), "expected at least 1, got 0"),
    (("lora.rank=0",), "expected at least 1, got 0"),
    (("lora.rank=4", "tune.kind=tensors"), "leave out one of them"),
    (("lora=4",), "expected settings inside it"),
    (("lora.targets=[to_qq]",), "tune.targets: to_qq means no layer"),
    (("start.fresh=true", "model.lora=[nowhere]"), "nowhere: there is no such file"),
    (("tune.kind=tensors",), "needs the names of the weights"),
    (("tune.kind=tensors", "tune.targets=[nothing]"), "means no weight"),
    (("tune.rank=4",), "tune.kind = full has no use for it"),
    (("tune.kind=tensors", "tune.targets=[proj_out.bias]", "tune.alpha=4"), "tune.kind = tensors has no use for it"),
    (("tune.kind=lora", "start.frozen=[proj_out]"), "start.frozen: tune.kind = lora says what is trained"),
    (("tune.kind=lora", "start.fresh=true"), "needs a model that is whole"),
    (("tune.kind=lora", "autoencoder={}", "data.autoencoder={}"), "is for denoisers"),
]


@pytest.mark.parametrize(("settings", "told"), WRONG)
def test_settings_that_make_no_sense_are_refused_before_anything_is_written(
    settings: tuple[str, ...], told: str, duosora: Callable, tmp_path: Path
) -> None:
    outcome = duosora("train", *given(*TINY, *settings), "--out", tmp_path / "run")
    assert outcome.code == 2
    assert told in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_lora_of_another_model_is_told_before_anything_is_written(duosora: Callable, tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    name = "transformer.transformer_blocks.0.attn1.to_q"
    held = {f"{name}.lora_A.weight": (4, 64), f"{name}.lora_B.weight": (64, 4)}
    save_weights(file, {each: np.ones(shape, np.float32) for each, shape in held.items()})
    for arguments in (("sample", "a red ring", "--out"), ("convert", "tiny", "--to")):
        outcome = duosora(*arguments, tmp_path / "out", "--lora", file)
        assert outcome.code == 2
        assert "rank 4, 64x64, and the model's is 144x144" in outcome.err
        assert outcome.err.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_a_sum_that_is_too_large_for_a_dtype_is_not_written(duosora: Callable, tmp_path: Path) -> None:
    file, name = tmp_path / "large.safetensors", "transformer_blocks.0.attn1.to_q"
    held = {f"{name}.lora_A.weight": (4, 144), f"{name}.lora_B.weight": (144, 4)}
    save_weights(file, {each: np.ones(shape, np.float32) for each, shape in held.items()})
    outcome = duosora("convert", "tiny", "--lora", f"{file}:1e6", "--dtype", "fp16", "--to", tmp_path / "out")
    assert outcome.code == 2
    assert f"with LoRA: {name}.weight has numbers too large for float16" in outcome.err
    assert outcome.err.count("\n") == 1
    assert not list(tmp_path.glob("out/*.safetensors"))


def test_training_goes_on_from_a_model_with_lora(run: Path, duosora: Callable, tmp_path: Path) -> None:
    settings = (f"model.lora=[{run}:2]", "lora.rank=2", "learning_rate.peak=1e-12", "max_steps=1")
    outcome = duosora("train", *given(*TINY, *settings), "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert f"2 x {run}" in outcome.out
    twice = with_loras(open_part("denoiser", "tiny"), [(run, 2.0)]).open()
    np.testing.assert_allclose(recognise(tmp_path / "run").open()[QUERY], twice[QUERY], atol=1e-6)


def test_only_named_tensors_are_trained(duosora: Callable, tmp_path: Path) -> None:
    settings = ("tune.kind=tensors", "tune.targets=[scale_shift_table, transformer_blocks.0.attn2.*]", "max_steps=1")
    outcome = duosora("train", *given(*TINY, *settings), "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    before, after = open_part("denoiser", "tiny").open(), open_weights(tmp_path / "run" / "checkpoint-1" / "model")
    changed = {name for name in after if after[name].tobytes() != before[name].astype(np.float32).tobytes()}
    tables = {name for name in after if name.endswith("scale_shift_table")}
    assert changed <= tables | {name for name in after if name.startswith("transformer_blocks.0.attn2.")}
    assert tables <= changed
    assert len(open_weights(tmp_path / "run" / "checkpoint-1" / "optimizer.safetensors")) == 2 * (7 + 8)
