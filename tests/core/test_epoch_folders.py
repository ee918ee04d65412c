"""What hpcaitech's training of Open-Sora leaves: which model a folder means, known by the shapes of its weights."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from duosora.core.errors import CheckpointError, ConfigError, LayoutError
from duosora.core.io.weights import open_weights, save_weights
from duosora.core.layout import FreshWeights
from duosora.core.models import opensora_vae, stdit3, t5
from duosora.core.models.by_shapes import seen_by_shapes
from duosora.core.models.epoch_folders import epoch_folder
from duosora.core.models.finding import open_part, recognise
from duosora.core.models.run_folders import model_folder

SMALL = stdit3.STDiT3Spec(hidden_size=24, depth=2, num_heads=2, caption_channels=20, model_max_length=9)


def make_epoch(folder: Path, seed: int = 1, is_safe: bool = True) -> Path:
    """A folder as that training leaves it; of files of torch there is no more than the names."""
    (folder / "optimizer").mkdir(parents=True)
    (folder / "model").mkdir()
    for name in ("lr_scheduler", "sampler", "ema.pt", "optimizer/pytorch_optim_group.bin", "model/notes.txt"):
        (folder / name).write_bytes(b"PK\x03\x04")
    if is_safe:
        weights = FreshWeights(SMALL.layout(), seed)
        save_weights(folder / "model", weights, stem="model", shard_size=20_000)
    else:
        (folder / "model/pytorch_model-00001.bin").write_bytes(b"PK\x03\x04")
    states = {"epoch": 3, "step": 20, "global_step": 300, "batch_size": 8}
    (folder / "running_states.json").write_text(json.dumps(states))
    return folder


@pytest.fixture
def epoch(tmp_path: Path) -> Path:
    return make_epoch(tmp_path / "outputs/000-STDiT3-XL-2/epoch3-global_step300")


def test_a_checkpoint_says_where_its_training_stood(epoch: Path) -> None:
    found = epoch_folder(epoch)
    assert found is not None
    assert found.describe() == (
        "a checkpoint of Open-Sora's training (epoch 3, step 20, global_step 300, batch_size 8) with weights in model, "
        "their average in ema.pt"
    )


@pytest.mark.parametrize("text", [None, "{", "[]", '"x"', '{"epoch": ' + "9" * 5000 + "}"])
def test_without_readable_states_the_name_of_the_folder_tells(epoch: Path, text: str | None) -> None:
    (epoch / "running_states.json").unlink()
    if text is not None:
        (epoch / "running_states.json").write_text(text)
    found = epoch_folder(epoch)
    assert found is not None
    assert "(epoch 3, global_step 300)" in found.describe()


def test_a_renamed_checkpoint_is_known_by_its_states(epoch: Path) -> None:
    found = epoch_folder(epoch.rename(epoch.parent / "best"))
    assert found is not None
    assert found.states["global_step"] == 300
    assert epoch_folder(epoch.parent / "best/model") is None


def test_of_a_training_the_newest_checkpoint_is_meant(epoch: Path) -> None:
    newer = make_epoch(epoch.parent / "epoch3-global_step1000", seed=2)
    assert model_folder(epoch.parent, foreign=True).path == newer / "ema.pt"
    assert recognise(epoch.parent).source == str(newer / "model")


@pytest.mark.parametrize(
    ("average", "foreign", "meant"),
    [(True, True, "ema.pt"), (False, True, "model"), (True, False, "model"), (False, False, "model")],
)
def test_the_average_is_meant_where_files_of_torch_are_read(
    epoch: Path, average: bool, foreign: bool, meant: str
) -> None:
    found = model_folder(epoch, average, foreign)
    assert found.path == epoch / meant
    assert len(found.notes) == (average and not foreign)
    assert all(f"duosora convert {epoch} --to FOLDER" in note for note in found.notes)


def test_an_average_that_was_converted_in_its_place_is_taken(epoch: Path) -> None:
    save_weights(epoch / "ema.safetensors", FreshWeights(SMALL.layout(), 5))
    assert recognise(epoch).source == str(epoch / "ema.safetensors")


def test_safetensors_are_taken_directly_and_known_by_their_shapes(epoch: Path) -> None:
    part = open_part("denoiser", str(epoch))
    assert part.spec == SMALL
    part.check()
    assert (part.open()["t_block.1.weight"] == open_weights(epoch / "model")["t_block.1.weight"]).all()
    assert "by its shapes it is STDiT3(depth=2, heads=2x12)" in part.notes[-1]


@pytest.mark.parametrize("name", [".", "model", "ema.pt"])
def test_files_of_torch_are_to_be_converted(tmp_path: Path, name: str) -> None:
    epoch = make_epoch(tmp_path / "epoch0-global_step1", is_safe=False)
    with pytest.raises(CheckpointError, match=r"only safetensors are read.*duosora convert FILE --to FOLDER"):
        open_part("denoiser", str(epoch / name))


def remove_model(epoch: Path) -> None:
    for file in (epoch / "model").iterdir():
        file.unlink()
    (epoch / "model").rmdir()


def remove_shard(epoch: Path) -> None:
    next((epoch / "model").glob("model-00003*")).unlink()


def cut_shard(epoch: Path) -> None:
    shard = next((epoch / "model").glob("model-00003*"))
    shard.write_bytes(shard.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("harm", "message"), [(remove_shard, "model-00003.*is not there"), (cut_shard, "model-00003.*cut off")]
)
def test_damage_is_one_line_that_names_the_file(epoch: Path, harm: Callable[[Path], None], message: str) -> None:
    harm(epoch)
    with pytest.raises(CheckpointError, match=message) as error:
        recognise(epoch)
    assert "\n" not in str(error.value)


def test_a_checkpoint_without_a_model_says_so(epoch: Path) -> None:
    remove_model(epoch)
    with pytest.raises(CheckpointError, match="holds no model beside its average"):
        model_folder(epoch, average=False)
    (epoch / "ema.pt").unlink()
    with pytest.raises(CheckpointError, match="holds neither model nor ema.pt"):
        model_folder(epoch)


@pytest.mark.parametrize(
    ("spec", "preset"),
    [
        (stdit3.TINY, "stdit3_tiny"),
        (stdit3.LARGE_2, "stdit3_3b_2"),
        (opensora_vae.PRESETS["opensora_vae_tiny"], "opensora_vae_tiny"),
        (t5.V1_1_XXL, "t5_v1_1_xxl"),
    ],
)
def test_the_shapes_of_a_preset_tell_it(spec: stdit3.STDiT3Spec, preset: str) -> None:
    seen = seen_by_shapes({name: weight.shape for name, weight in spec.layout().items()}, "x")
    assert seen is not None
    assert (seen.spec, seen.told) == (spec, f"its shapes are those of {preset}")


@pytest.mark.parametrize(
    "change",
    [
        {"depth": 5},
        {"num_heads": 3},
        {"mlp_ratio": 2.5},
        {"in_channels": 8, "pred_sigma": False},
        {"patch_size": (2, 4, 4)},
        {"caption_channels": 7, "model_max_length": 50},
        {"qk_norm": False},
    ],
)
def test_the_shapes_of_another_stdit3_tell_what_it_is(change: dict[str, object]) -> None:
    spec = replace(SMALL, **change)
    shapes = {name: weight.shape for name, weight in spec.layout().items()}
    seen = seen_by_shapes(shapes, "x")
    assert seen is not None
    assert seen.spec == spec
    with pytest.raises(LayoutError, match=r"1 missing \(spatial_blocks.1.mlp.fc2.bias\)"):
        seen_by_shapes({name: shape for name, shape in shapes.items() if name != "spatial_blocks.1.mlp.fc2.bias"}, "x")


def test_shapes_that_no_model_has_are_told() -> None:
    shapes = {name: weight.shape for name, weight in SMALL.layout().items()}
    with pytest.raises(ConfigError, match="x: STDiT3: hidden_size = 26"):
        seen_by_shapes(shapes | {"x_embedder.proj.weight": (26, 4, 1, 2, 2)}, "x")
    assert seen_by_shapes(shapes | {"x_embedder.proj.weight": (0, 4, 1, 2, 2)}, "x") is None
    assert seen_by_shapes({"a.weight": (3,)}, "x") is None
