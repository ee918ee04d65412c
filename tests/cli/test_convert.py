"""`duosora convert`, and `duosora inspect` of what it reads."""

import datetime
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from duosora.convert.naming import Named
from duosora.convert.readers import stored
from duosora.convert.writers import write
from duosora.core.cli.main import main
from duosora.core.errors import CheckpointError
from duosora.core.io.weights import open_weights, save_weights
from duosora.core.layout import Constant, FreshWeights, Layout
from duosora.core.models import stdit3, t5, wfvae
from duosora.core.models.finding import TINY_FOLDER, recognise
from duosora.core.train.checkpoints import Checkpoints


def tensors(layout: Layout, seed: int = 0) -> dict[str, torch.Tensor]:
    weights = FreshWeights(layout, seed)
    return {name: torch.from_numpy(np.array(weights[name])) for name in weights}


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """The autoencoder and the text encoder as they are published: a training checkpoint and the whole mT5."""
    layout = wfvae.TINY.layout()
    trained = {name for name, weight in layout.items() if not isinstance(weight.init, Constant)}
    checkpoint = {
        "epoch": 3,
        "optimizer_state": {"gen_optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
        "state_dict": {
            "gen_model": {
                name.replace("transform", "tranform"): tensor for name, tensor in tensors(layout, seed=2).items()
            },
            "dics_model": {"logvar": torch.zeros(())},
        },
        "ema_state_dict": {
            f"module.{name}": tensor for name, tensor in tensors(layout, seed=1).items() if name in trained
        },
    }
    whole = tensors(t5.TINY.layout())
    whole["encoder.embed_tokens.weight"] = whole["decoder.embed_tokens.weight"] = whole["shared.weight"]
    whole["decoder.final_layer_norm.weight"] = whole["lm_head.weight"] = torch.ones(2, 2)
    scaled = recognise(TINY_FOLDER / "vae").spec  # as the latents that the tiny denoiser was trained on
    for name, held, spec in (("vae/merged.ckpt", checkpoint, scaled), ("mt5/pytorch_model.bin", whole, t5.TINY)):
        (tmp_path / name).parent.mkdir()
        torch.save(held, tmp_path / name)
        (tmp_path / name).with_name("config.json").write_text(json.dumps(spec.to_config()))
    return tmp_path


@pytest.mark.parametrize("backend", ["torch", "mindspore"])
def test_published_files_become_folders_that_sample_uses(duosora: Callable, hub: Path, backend: str) -> None:
    pytest.importorskip(backend)
    assert duosora("convert", hub / "mt5", "--to", hub / "mt5").code == 0
    assert duosora("convert", hub / "vae", "--to", hub / "out/vae").code == 0
    assert duosora("inspect", hub / "out/vae").code == 0
    assert "complete" in duosora("inspect", hub / "mt5").out
    held = open_weights(hub / "mt5")
    assert set(held) == set(t5.TINY.layout())
    outcome = duosora(
        "sample", "a dog", "--set", "model.denoiser=tiny", "--set", f"model.vae={hub / 'out/vae'}",
        "--set", f"model.text_encoder={hub / 'mt5'}", "--set",
        f"model.tokenizer={TINY_FOLDER / 'spiece.model'}", "--set", "video.frames=1",
        "--set", "video.height=32", "--set", "video.width=32", "--set", "sampler.steps=2", "--set",
        f"backend.name={backend}", "--set", "backend.device=cpu", "--out", hub / "pictures",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert list((hub / "pictures").glob("*.png"))


@pytest.mark.parametrize(("option", "seed"), [(["--ema"], 1), (["--no-ema"], 2), ([], 1)])
def test_the_moving_average_is_chosen(duosora: Callable, hub: Path, option: list[str], seed: int) -> None:
    outcome = duosora("convert", hub / "vae/merged.ckpt", "--to", hub / "x.safetensors", *option)
    assert outcome.code == 0, outcome.err
    name = "encoder.conv_out.conv.weight"
    np.testing.assert_array_equal(
        open_weights(hub / "x.safetensors")[name], FreshWeights(wfvae.TINY.layout(), seed)[name]
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two checkpoints; the newer one keeps no average."""

    def write(checkpoint: Path, models: dict[str, int]) -> None:
        for name, seed in models.items():
            (checkpoint / name).mkdir()
            weights = FreshWeights(wfvae.TINY.layout(), seed)
            save_weights(checkpoint / name / "diffusion_pytorch_model.safetensors", weights)
            (checkpoint / name / "config.json").write_text(json.dumps(wfvae.TINY.to_config()))
        # Its names are those of the model behind a prefix, so it must not be taken for one.
        moments = {f"exp_avg.{name}": weights[name] for name in weights}
        save_weights(checkpoint / "optimizer.safetensors", moments)

    kept = Checkpoints(tmp_path / "runs/mine")
    kept.save(10, lambda checkpoint: write(checkpoint, {"model": 1, "model_ema": 2}))
    kept.save(20, lambda checkpoint: write(checkpoint, {"model": 3}))
    return tmp_path / "runs/mine"


@pytest.mark.parametrize(
    ("name", "option", "seed"),
    [
        (".", [], 3),
        ("checkpoint-10", [], 2),
        ("checkpoint-10", ["--ema"], 2),
        ("checkpoint-10", ["--no-ema"], 1),
        ("checkpoint-10/model", [], 1),
    ],
)
def test_a_run_stands_for_its_model(duosora: Callable, run: Path, name: str, option: list[str], seed: int) -> None:
    outcome = duosora("convert", run / name, "--to", run.parent / "out", *option)
    assert outcome.code == 0, outcome.err
    weight = "encoder.conv_out.conv.weight"
    np.testing.assert_array_equal(
        open_weights(run.parent / "out")[weight], FreshWeights(wfvae.TINY.layout(), seed)[weight]
    )
    assert (run.parent / "out/config.json").exists()


def test_inspect_says_what_a_checkpoint_of_upstreams_training_is(duosora: Callable, tmp_path: Path) -> None:
    spec = stdit3.STDiT3Spec(hidden_size=24, depth=2, num_heads=2, caption_channels=20, model_max_length=9)
    epoch = tmp_path / "000-STDiT3-XL-2/epoch0-global_step7"
    (epoch / "model").mkdir(parents=True)
    torch.save(tensors(spec.layout()), epoch / "ema.pt")
    torch.save(tensors(spec.layout()), epoch / "model/pytorch_model.bin")
    (epoch / "running_states.json").write_text('{"epoch": 0, "step": 7, "global_step": 7, "batch_size": 2}')
    outcome = duosora("inspect", epoch.parent)
    assert outcome.code == 0, outcome.err
    assert "epoch 0, step 7, global_step 7, batch_size 2) with weights in model, their average in ema.pt" in outcome.out
    assert outcome.out.count("its shapes: STDiT3(depth=2, heads=2x12)") == 2
    assert f"duosora convert {epoch / 'ema.pt'} --to FOLDER" in outcome.out


def test_inspect_sees_by_shapes_whether_a_model_is_whole(duosora: Callable, tmp_path: Path) -> None:
    weights = FreshWeights(stdit3.TINY.layout(), 0)
    held = {name: weights[name] for name in weights}
    save_weights(tmp_path / "whole.safetensors", held)
    outcome = duosora("inspect", tmp_path / "whole.safetensors")
    assert outcome.code == 0
    assert "its shapes are those of stdit3_tiny" in outcome.out
    del held["t_block.1.bias"]
    save_weights(tmp_path / "part.safetensors", held)
    outcome = duosora("inspect", tmp_path / "part.safetensors")
    assert outcome.code == 1
    assert "DOES NOT FIT" in outcome.out
    assert "1 missing (t_block.1.bias)" in outcome.out


def test_an_average_that_a_checkpoint_does_not_keep_is_an_error(duosora: Callable, run: Path) -> None:
    outcome = duosora("convert", run, "--to", run.parent / "out", "--ema")
    assert outcome.code == 2
    assert "keeps no moving average" in outcome.err


def test_an_average_that_is_not_there_is_an_error(duosora: Callable, hub: Path) -> None:
    outcome = duosora("convert", hub / "mt5", "--to", hub / "x.safetensors", "--ema")
    assert outcome.code == 2
    assert "holds no moving average" in outcome.err


def test_a_dry_run_writes_nothing(duosora: Callable, hub: Path) -> None:
    outcome = duosora("convert", hub / "mt5", "--to", hub / "new/x", "--dry-run")
    assert outcome.code == 0
    assert "left out: 3 (prompts are encoded only)" in outcome.out
    assert not (hub / "new").exists()


@pytest.mark.parametrize("target", ["x.safetensors", "x.pth", "x.ckpt", "folder"])
def test_existing_files_are_kept(duosora: Callable, hub: Path, target: str) -> None:
    assert duosora("convert", hub / "mt5", "--to", hub / target).code == 0
    outcome = duosora("convert", hub / "mt5", "--to", hub / target)
    assert outcome.code == 2
    assert "--overwrite" in outcome.err
    assert duosora("convert", hub / "mt5", "--to", hub / target, "--overwrite", "--dtype", "bf16").code == 0
    assert duosora("convert", hub / target, "--verify").code == 0


def test_verify_sees_one_changed_bit(duosora: Callable, hub: Path) -> None:
    file = hub / "x.safetensors"
    assert duosora("convert", hub / "mt5", "--to", file).code == 0
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    outcome = duosora("convert", file, "--verify")
    assert outcome.code == 2
    assert "is not what was written" in outcome.err
    (hub / "x.safetensors.sums.json").unlink()
    assert "only what duosora convert wrote" in duosora("convert", file, "--verify").err


def test_sums_of_other_weights_are_seen(duosora: Callable, hub: Path) -> None:
    assert duosora("convert", hub / "mt5", "--to", hub / "x.safetensors").code == 0
    sums = hub / "x.safetensors.sums.json"
    table = json.loads(sums.read_text())
    sums.write_text(json.dumps(table | {"more": table["shared.weight"]}))
    assert "'more' is in only one of" in duosora("convert", hub / "x.safetensors", "--verify").err
    sums.write_text(json.dumps(table) + " " * 10**6)
    assert "it has more than" in duosora("convert", hub / "x.safetensors", "--verify").err


def test_what_was_written_is_read_again(duosora: Callable, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_badly(target: Path, *rest: Any) -> None:
        write(target, *rest)
        content = bytearray(target.read_bytes())
        content[-1] ^= 1
        target.write_bytes(content)

    monkeypatch.setattr("duosora.convert.commands.write", write_badly)
    outcome = duosora("convert", hub / "mt5", "--to", hub / "x.safetensors")
    assert outcome.code == 2
    assert "is not what was written" in outcome.err


def test_old_sums_go_with_the_weights_they_describe(
    duosora: Callable, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert duosora("convert", hub / "mt5", "--to", hub / "x.pth").code == 0

    def fail(*arguments: object) -> None:
        raise CheckpointError("the disk is full")

    monkeypatch.setattr("duosora.convert.commands.save_sums", fail)
    assert duosora("convert", hub / "mt5", "--to", hub / "x.pth", "--overwrite", "--dtype", "bf16").code == 2
    assert (hub / "x.pth").exists()
    assert not (hub / "x.pth.sums.json").exists()


def test_shards_keep_to_their_size(duosora: Callable, hub: Path) -> None:
    outcome = duosora("convert", hub / "mt5", "--to", hub / "out", "--shard-size", "100KB")
    assert outcome.code == 0, outcome.err
    files = sorted((hub / "out").glob("model-*.safetensors"))
    assert len(files) > 2
    assert all(file.stat().st_size < 104_000 for file in files)
    for size in ("much", "9" * 400, "9" * 400 + "GB", "1." + "9" * 400, "0", "-1GB", "1e3"):
        outcome = duosora("convert", hub / "mt5", "--to", hub / "out2", f"--shard-size={size}")
        assert outcome.code == 2
        assert "expected a size like 5GB or 500MB" in outcome.err


def test_weights_that_are_not_all_of_the_model_are_refused(duosora: Callable, hub: Path) -> None:
    held = torch.load(hub / "mt5/pytorch_model.bin", weights_only=True)
    del held["encoder.final_layer_norm.weight"]
    torch.save(held, hub / "mt5/pytorch_model.bin")
    outcome = duosora("convert", hub / "mt5", "--to", hub / "out")
    assert outcome.code == 2
    assert "1 missing (encoder.final_layer_norm.weight)" in outcome.err


def test_a_full_disk_is_said_before_anything_is_written(
    duosora: Callable, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 1000}))
    outcome = duosora("convert", hub / "mt5", "--to", hub / "out")
    assert outcome.code == 2
    assert "the disk has" in outcome.err
    assert not (hub / "out").exists()


@pytest.mark.parametrize("target", ["out", "out.safetensors", "out.pth", "out.ckpt"])
def test_an_interrupted_run_leaves_nothing_that_looks_finished(
    duosora: Callable, hub: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    chunks = Named.chunks

    def interrupted(named: Named, name: str) -> object:
        if "final_layer_norm" in name:
            raise OSError(5, "Input/output error")
        return chunks(named, name)

    monkeypatch.setattr(Named, "chunks", interrupted)
    before = sorted(hub.rglob("*"))
    monkeypatch.setattr("sys.argv", ["duosora", "convert", str(hub / "mt5"), "--to", str(hub / target)])
    with pytest.raises(OSError, match="Input/output"):
        main()
    assert sorted(hub.rglob("*")) == before


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_count_bytes(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("duosora.core.progress.PATIENCE_SECONDS", 0)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr("sys.argv", ["duosora", "convert", str(hub / "mt5"), "--to", str(hub / "x.pth")])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert not leaving.value.code
    for what in ("writing", "reading again"):
        assert re.search(what + r": .*0.00/[0-9.]+[kM].*B/s", screen.getvalue())


def test_the_source_can_be_the_target(duosora: Callable, hub: Path) -> None:
    assert duosora("convert", hub / "mt5", "--to", hub / "one.safetensors").code == 0
    (hub / "link.safetensors").symlink_to(hub / "one.safetensors")
    before = (hub / "one.safetensors").read_bytes()
    assert duosora("convert", hub / "link.safetensors", "--to", hub / "link.safetensors").code == 2
    for name, dtype in (("link", "bf16"), ("one", "keep")):
        same = hub / f"{name}.safetensors"
        assert duosora("convert", same, "--to", same, "--overwrite", "--dtype", dtype).code == 0
        assert duosora("convert", same, "--verify").code == 0
    assert not (hub / "link.safetensors").is_symlink(), "the link is replaced and not what it leads to"
    assert (hub / "one.safetensors").read_bytes() == before
    for _ in range(2):
        assert duosora("convert", hub / "one.safetensors", "--to", hub / "f", "--overwrite").code == 0
        outcome = duosora("convert", hub / "f", "--to", hub / "f", "--overwrite", "--shard-size", "100KB")
        assert outcome.code == 0, outcome.err
        assert duosora("convert", hub / "f", "--verify").code == 0
    assert set(open_weights(hub / "f")) == set(t5.TINY.layout())


@pytest.mark.parametrize("names", [["x" * 300], ["x" * 300, "y"], ["mt5", "pytorch_model.bin", "y"]])
def test_places_that_cannot_be_are_one_line(duosora: Callable, hub: Path, names: list[str]) -> None:
    place = hub.joinpath(*names)
    for arguments in (["convert", place, "--to", hub / "y"], ["convert", place, "--verify"], ["inspect", place]):
        outcome = duosora(*arguments)
        assert (outcome.code, len(outcome.err.splitlines())) == (2, 1), outcome.err
    for ending in (".safetensors", ".pth", ".ckpt", ""):
        outcome = duosora("convert", hub / "mt5", "--to", f"{place}{ending}")
        assert (outcome.code, len(outcome.err.splitlines())) == (2, 1), outcome.err
        assert re.search("cannot be written|is too long for a path", outcome.err)


def test_inspect_reads_the_beginnings_of_tensors_only(
    duosora: Callable, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert duosora("convert", hub / "mt5", "--to", hub / "x.ckpt").code == 0
    torch.save({"a": torch.ones(2)}, hub / "old.pt", _use_new_zipfile_serialization=False)
    (hub / "shards").mkdir()
    torch.save({"shared.weight": torch.ones(2)}, hub / "shards/x.bin")
    (hub / "shards/x.bin.index.json").write_text(json.dumps({"weight_map": {"shared.weight": "x.bin"}}))

    real = stored._read

    def read(piece: Any, start: int, count: int, name: str) -> np.ndarray:
        assert start + count <= 4096
        return real(piece, start, count, name)

    monkeypatch.setattr(stored, "_read", read)
    for place, form in (
        ("vae", "torch"),
        ("x.ckpt", "MindSpore"),
        ("old.pt", "torch (before 1.6)"),
        ("shards", "torch, in shards"),
    ):
        outcome = duosora("inspect", hub / place)
        assert outcome.code == 0, outcome.err
        assert f": {form}, " in outcome.out
        assert "dtypes: " in outcome.out
        assert "model: " in outcome.out


def test_converting_needs_no_framework(hub: Path) -> None:
    script = (
        "import sys\n"
        "from duosora.core.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as leaving: assert not leaving.code\n"
        "print(sorted({'torch', 'mindspore', 'safetensors', 'transformers'} & set(sys.modules)))\n"
    )
    for target in ("x.safetensors", "x.ckpt", "x.pth"):
        arguments = ["convert", str(hub / "vae"), "--to", str(hub / target)]
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
        assert done.stdout.endswith("[]\n")


def test_inspect_shows_what_is_around_the_weights(duosora: Callable, hub: Path) -> None:
    outcome = duosora("inspect", hub / "vae", "--tensors")
    assert outcome.code == 0, outcome.err
    assert "wrapper: ema_state_dict (the moving average)" in outcome.out
    assert "gen_model: 212 entries, 212 tensors" in outcome.out
    assert "its names are those of WFVAE" in outcome.out
    assert "module.encoder.conv_out.conv.weight  [16, 32, 3, 3, 3]  float32" in outcome.out
    assert duosora("convert", hub / "vae", "--to", hub / "x.ckpt").code == 0
    assert "x.ckpt: MindSpore, 172 tensors" in duosora("inspect", hub / "x.ckpt").out


def test_either_a_target_or_a_check_is_asked_for(duosora: Callable, hub: Path) -> None:
    assert duosora("convert", hub / "vae").code == 2
    assert duosora("convert", hub / "vae", "--to", hub / "x.pth", "--verify").code == 2
    assert "there are clip_text, dit" in duosora("convert", hub / "vae", "--to", hub / "x.pth", "--model", "sora").err


def test_weights_among_other_things_are_said_to_be_so(duosora: Callable, hub: Path) -> None:
    held = {
        "transformer": {"proj_out.weight": torch.ones(1), "proj_out.bias": torch.ones(1)},
        "vae": {f"module.{name}": torch.ones(1) for name in wfvae.TINY.layout()},
        "when": datetime.date(2026, 1, 2),
        "name\x1b[31m\u202e": [torch.ones(1)],
    }
    torch.save(held, hub / "both.pt")
    outcome = duosora("inspect", hub / "both.pt", "--tensors")
    assert outcome.code == 0, outcome.err
    assert "model: its names below vae. are those of WFVAE (212 of 212)" in outcome.out
    assert r"left aside: when (datetime.date); name\x1b[31m\u202e (1 tensor)" in outcome.out
    assert duosora("convert", hub / "both.pt", "--to", hub / "v.ckpt", "--key", "vae").code == 0
    outcome = duosora("convert", hub / "both.pt", "--to", hub / "v.pth", "--strip", "vae", "--model", "wfvae")
    assert outcome.code == 0, outcome.err
    assert "left out: 2 (not below vae.)" in outcome.out
    assert "--key dit: no such branch" in duosora(
        "convert", hub / "both.pt", "--to", hub / "w.pth", "--key", "dit"
    ).err  # fmt: skip


def test_inspect_finds_prefixes_in_safetensors(duosora: Callable, tmp_path: Path) -> None:
    held = {f"model.vae.{name}": np.ones(1, np.float32) for name in wfvae.TINY.layout()}
    save_weights(tmp_path / "x.safetensors", held)
    outcome = duosora("inspect", tmp_path / "x.safetensors")
    assert "its names below model.vae. are those of WFVAE (212 of 212)" in outcome.out, outcome.err


@pytest.mark.parametrize("ending", ["pt", "safetensors", "ckpt"])
def test_pipes_and_pointers_are_one_line(duosora: Callable, tmp_path: Path, ending: str) -> None:
    os.mkfifo(tmp_path / f"pipe.{ending}")
    (tmp_path / f"pointer.{ending}").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    for name, said in (("pipe", "is a pipe"), ("pointer", "git lfs pull")):
        path = tmp_path / f"{name}.{ending}"
        for arguments in (["inspect", path], ["convert", path, "--to", tmp_path / "y.safetensors"]):
            outcome = duosora(*arguments)
            assert (outcome.code, len(outcome.err.splitlines())) == (2, 1), outcome.err
            assert said in outcome.err
