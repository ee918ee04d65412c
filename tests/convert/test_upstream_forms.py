"""The forms in which models of Open-Sora 1.2 are found: its training's checkpoints, single files, the hub's folders."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from duosora.convert import commands
from duosora.core.converting import Conversion
from duosora.core.errors import CheckpointError, ConfigError, DuosoraError, LayoutError
from duosora.core.io.weights import open_weights, save_weights
from duosora.core.layout import FreshWeights, GivenWeights
from duosora.core.models import opensora_vae, stdit3, t5
from duosora.core.models.finding import recognise

VAE = opensora_vae.PRESETS["opensora_vae_tiny"]
SMALL = stdit3.STDiT3Spec(hidden_size=24, depth=2, num_heads=2, caption_channels=20, model_max_length=9)


def tensors(spec: object, seed: int = 1) -> dict[str, torch.Tensor]:
    weights = FreshWeights(spec.layout(), seed)  # type: ignore[attr-defined]
    return {name: torch.from_numpy(np.array(weights[name])) for name in weights}


def save_shards(folder: Path, held: Mapping[str, torch.Tensor], stem: str = "pytorch_model-{:05d}.bin") -> None:
    """As ColossalAI and the hub do: two files of torch and the index that joins them."""
    folder.mkdir(parents=True, exist_ok=True)
    names, table = list(held), {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        torch.save({name: held[name] for name in part}, folder / stem.format(number))
        table |= dict.fromkeys(part, stem.format(number))
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {"x": 1}, "weight_map": table}))


@pytest.fixture
def epoch(tmp_path: Path) -> Path:
    folder = tmp_path / "outputs/002-STDiT3-XL-2/epoch0-global_step7"
    save_shards(folder / "model", tensors(SMALL, seed=1))
    save_shards(folder / "optimizer", tensors(SMALL, seed=9), "pytorch_optim-{:05d}.bin")
    torch.save(tensors(SMALL, seed=2), folder / "ema.pt")
    torch.save({"last_epoch": 3}, folder / "lr_scheduler")
    torch.save({"seed": 3}, folder / "sampler")
    (folder / "running_states.json").write_text('{"epoch": 0, "step": 7, "global_step": 7, "batch_size": 2}')
    return folder


def convert(source: Path, target: Path, **options: object) -> str:
    return "\n".join(commands.convert(Conversion(source=source, target=target, **options)))  # type: ignore[arg-type]


def assert_holds(place: Path, spec: object, seed: int) -> None:
    held, expected = open_weights(place), tensors(spec, seed)
    assert set(held) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(held[name], tensor.numpy(), err_msg=name)


@pytest.mark.parametrize(
    ("name", "options", "seed"),
    [
        (".", {}, 2),
        ("..", {}, 2),
        (".", {"ema": True}, 2),
        (".", {"ema": False}, 1),
        ("model", {}, 1),
        ("ema.pt", {}, 2),
    ],
)
def test_a_checkpoint_of_upstreams_training_becomes_a_model(
    epoch: Path, tmp_path: Path, name: str, options: dict[str, bool], seed: int
) -> None:
    said = convert(epoch / name, tmp_path / "out", **options)
    assert "config.json: by its shapes it is STDiT3(depth=2, heads=2x12)" in said
    assert_holds(tmp_path / "out", SMALL, seed)
    part = recognise(tmp_path / "out")
    assert part.spec == SMALL
    part.check()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("harm", "options", "message"),
    [
        (lambda epoch: (epoch / "model/pytorch_model-00002.bin").unlink(), {"ema": False}, "pytorch_model-00002.bin"),
        (lambda epoch: cut(epoch / "model/pytorch_model-00002.bin"), {"ema": False}, "pytorch_model-00002.bin: is cut"),
        (lambda epoch: cut(epoch / "ema.pt"), {}, "ema.pt: is cut off"),
        (lambda epoch: (epoch / "ema.pt").unlink(), {"ema": True}, "keeps no moving average"),
        (lambda epoch: torch.save({"x": torch.ones(2, 2)}, epoch / "ema.pt"), {}, "ema.pt: its names"),
    ],
)
def test_damage_is_one_line_that_names_the_file(
    epoch: Path, tmp_path: Path, harm: Callable[[Path], object], options: dict[str, bool], message: str
) -> None:
    harm(epoch)
    with pytest.raises(CheckpointError, match=message) as error:
        convert(epoch, tmp_path / "out", **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_all_of_the_model_are_refused(epoch: Path, tmp_path: Path) -> None:
    held = tensors(SMALL)
    del held["temporal_blocks.1.mlp.fc1.bias"]
    torch.save(held, epoch / "ema.pt")
    with pytest.raises(LayoutError, match=r"1 missing \(temporal_blocks.1.mlp.fc1.bias\)"):
        convert(epoch, tmp_path / "out")


def test_a_config_can_be_named(epoch: Path, tmp_path: Path) -> None:
    named = tmp_path / "mine.json"
    named.write_text(json.dumps(SMALL.to_config() | {"input_sq_size": 64}))
    convert(epoch, tmp_path / "out", config=str(named))
    assert recognise(tmp_path / "out").spec.input_sq_size == 64
    with pytest.raises(CheckpointError, match="config.json.*exists"):
        convert(epoch, tmp_path / "out", config=str(named))
    with pytest.raises(LayoutError, match="does not fit STDiT3"):
        convert(epoch, tmp_path / "other", config="stdit3_tiny")
    for wrong in ("stdit3_xl", str(epoch / "running_states.json")):
        with pytest.raises(ConfigError):
            convert(epoch, tmp_path / "other", config=wrong)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("ending", [".pt", ".pth", ".bin", ".safetensors"])
@pytest.mark.parametrize("spec", [SMALL, VAE], ids=["stdit3", "vae"])
def test_single_files_go_there_and_back(tmp_path: Path, spec: object, ending: str) -> None:
    torch.save(tensors(spec), tmp_path / "ema.pt")
    convert(tmp_path / "ema.pt", tmp_path / f"one{ending}")
    convert(tmp_path / f"one{ending}", tmp_path / "out")
    assert_holds(tmp_path / "out", spec, 1)
    assert recognise(tmp_path / "out").spec == spec


@pytest.mark.parametrize("spec", [stdit3.TINY, VAE, t5.TINY], ids=["stdit3", "vae", "t5"])
@pytest.mark.parametrize("is_safe", [False, True], ids=["bin", "safetensors"])
def test_folders_of_the_hub_are_read(tmp_path: Path, spec: stdit3.STDiT3Spec, is_safe: bool) -> None:
    hub, held = tmp_path / "hub", tensors(spec)
    if is_safe:
        given = GivenWeights({name: tensor.numpy() for name, tensor in held.items()}, "x")
        save_weights(hub, given, stem="model", shard_size=200_000)
    else:
        save_shards(hub, held, "pytorch_model-{:05d}-of-00002.bin")
    (hub / "config.json").write_text(json.dumps(spec.to_config()))
    (hub / "README.md").write_text("a model")
    convert(hub, tmp_path / "out")
    assert_holds(tmp_path / "out", spec, 1)
    assert (tmp_path / "out/config.json").read_bytes() == (hub / "config.json").read_bytes()


def test_an_encoder_comes_out_of_the_whole_t5(tmp_path: Path) -> None:
    held = tensors(t5.TINY)
    held["encoder.embed_tokens.weight"] = held["shared.weight"]
    held["lm_head.weight"] = held["decoder.final_layer_norm.weight"] = torch.ones(2, 2)
    save_shards(tmp_path / "hub", held, "pytorch_model-{:05d}-of-00002.bin")
    convert(tmp_path / "hub", tmp_path / "out")
    assert_holds(tmp_path / "out", t5.TINY, 1)
    assert recognise(tmp_path / "out").spec == t5.TINY


def test_a_file_that_runs_code_is_refused(epoch: Path, tmp_path: Path) -> None:
    (epoch / "ema.pt").write_bytes(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.")
    with pytest.raises(DuosoraError, match=r"os.system"):
        convert(epoch, tmp_path / "out")
