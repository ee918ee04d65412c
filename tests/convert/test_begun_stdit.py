"""STDiT and STDiT2 that begin with the weights of PixArt: at first they compute PixArt, frame by frame."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from duosora.convert import commands
from duosora.core.converting import Conversion
from duosora.core.io.weights import open_weights, save_weights
from duosora.core.layout import FreshWeights, GivenWeights
from duosora.core.models import pixart, stdit, stdit2
from duosora.core.models.finding import recognise
from duosora.core.random import normal
from duosora.core.seam.backend import get
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape

sys.path.append(str(Path(__file__).parents[1] / "families"))
from family_cases import awake

STARTS = {
    "stdit_tiny": replace(pixart.PRESETS["pixart_tiny"], no_temporal_pos_emb=True, space_scale=stdit.TINY.space_scale),
    "stdit2_tiny": replace(pixart.PRESETS["pixart_ms_tiny"], no_temporal_pos_emb=True, model_max_length=20),
}
"""What each begins with: positions are counted alike; the second has a table of fewer tokens."""
SIZES = ("csize_embedder.mlp.2.", "ar_embedder.mlp.2.")
"""Next to nothing here: PixArt's last layer sees the size, STDiT2's does not."""
FACTS = {"height": 64.0, "width": 64.0, "ratio": 1.0, "fps": 24.0, "num_frames": 3.0}
"""64 pixels are the side at which positions of the tiny models are not scaled."""


def trained(preset: str) -> dict[str, np.ndarray]:
    """What PixArt's training left."""
    held = awake(STARTS[preset])
    return {name: held[name] * np.float32(1e-6 if name.startswith(SIZES) else 1) for name in held}


def begin(folder: Path, preset: str) -> Path:
    """A .pth as PixArt's training leaves it, converted."""
    spec = STARTS[preset]
    held = {**trained(preset), "pos_embed": np.ones((1, 16, spec.hidden_size), np.float32)}
    state = {name: torch.from_numpy(array) for name, array in held.items()}
    state["x_embedder.proj.weight"] = state["x_embedder.proj.weight"][:, :, 0]
    torch.save({"state_dict": state, "epoch": 3}, folder / "PixArt.pth")
    commands.convert(Conversion(source=folder / "PixArt.pth", target=folder / "start", config=preset))
    return folder / "start"


def predicted(spec: Any, weights: Any, latents: np.ndarray) -> np.ndarray:
    backend = get("torch", "cpu")
    batch = len(latents)
    facts = {name: np.full(batch, value, np.float32) for name, value in FACTS.items() if name in spec.given}
    text = np.repeat(normal((1, 5, spec.caption_channels), 2, "text"), batch, 0)
    with backend.inference():
        model: Any = backend.build(spec, weights, "fp32")
        condition = model.condition(Given(text=text, **facts), LatentShape(*latents.shape[2:]))
        times = backend.asarray(np.full(batch, 300.0, np.float32))
        return backend.to_numpy(model(backend.asarray(latents), times, condition))


@pytest.mark.parametrize("preset", STARTS)
def test_it_computes_pixart_of_each_frame(tmp_path: Path, preset: str) -> None:
    part = recognise(begin(tmp_path, preset))
    part.check()
    frames = normal((3, 4, 1, 8, 8), 1, "latents")
    clip = frames.transpose(2, 1, 0, 3, 4)
    expected = predicted(STARTS[preset], GivenWeights(trained(preset), "x"), frames).transpose(2, 1, 0, 3, 4)
    np.testing.assert_allclose(predicted(part.spec, part.open(), clip), expected, rtol=0, atol=2e-5)
    assert expected.std() > 0.1


def test_a_table_of_fewer_tokens_is_made_longer(tmp_path: Path) -> None:
    made = open_weights(begin(tmp_path, "stdit2_tiny"))["y_embedder.y_embedding"]
    held = trained("stdit2_tiny")["y_embedder.y_embedding"]
    np.testing.assert_array_equal(made, held[np.minimum(np.arange(32), 19)])


@pytest.mark.parametrize("preset", ["stdit_xl_2_16x256", "stdit_xl_2_16x512", "stdit_xl_2_64x512"])
def test_the_shapes_of_a_published_file_tell_its_size(preset: str) -> None:
    spec = stdit.PRESETS[preset]
    shapes = {name: weight.shape for name, weight in spec.layout().items()}
    assert stdit.STDiTSpec.from_shapes(shapes, "x") == spec
    assert stdit.STDiTSpec.from_shapes({**shapes, "t_block_temp.1.weight": (3, 3)}, "x") is None
    assert pixart.PixArtSpec.from_shapes(shapes, "x") is None


def published(spec: Any, drop: tuple[str, ...]) -> dict[str, torch.Tensor]:
    fresh = FreshWeights(spec.layout(), 0)
    held = {name: np.array(fresh[name]) for name in spec.layout()} | awake(spec)
    return {name: torch.from_numpy(np.array(array)) for name, array in held.items() if name not in drop}


@pytest.mark.parametrize("drop", [(), ("pos_embed", "pos_embed_temporal")], ids=["whole", "without tables"])
def test_a_file_of_open_sora_1_0_is_converted(tmp_path: Path, drop: tuple[str, ...]) -> None:
    spec = replace(stdit.TINY, depth=2, num_heads=1, space_scale=8 / 64)
    torch.save(published(spec, drop), tmp_path / "OpenSora-v1-HQ-16x256x256.pth")
    named = tmp_path / "named.json"
    named.write_text(json.dumps(spec.to_config()))
    source = tmp_path / "OpenSora-v1-HQ-16x256x256.pth"
    commands.convert(Conversion(source=source, target=tmp_path / "model", config=str(named) if drop else None))
    part = recognise(tmp_path / "model")
    part.check()
    assert part.spec == spec


OF_THE_HUB = {
    "_name_or_path": "x",
    "architectures": ["STDiT2"],
    "model_type": "STDiT2",
    "transformers_version": "4.40.1",
    "enable_flash_attn": True,
    "enable_layernorm_kernel": True,
    "torch_dtype": "float32",
    "freeze": None,
}
"""Keys that upstream's config.json has beside those of the model."""


def test_a_folder_of_the_hub_is_a_model_of_1_1(tmp_path: Path) -> None:
    spec = stdit2.TINY
    config = {key: value for key, value in spec.to_config().items() if key != "qk_norm_legacy"}
    save_weights(tmp_path, FreshWeights(spec.layout(), 1))
    (tmp_path / "config.json").write_text(json.dumps({**config, **OF_THE_HUB}))
    part = recognise(tmp_path)
    part.check()
    assert part.spec == spec


def test_a_checkpoint_of_upstreams_training_is_converted(tmp_path: Path) -> None:
    epoch = tmp_path / "000-F16S3-STDiT2-XL-2/epoch1-global_step100"
    (epoch / "model").mkdir(parents=True)
    held = published(stdit2.TINY, ())
    names = sorted(held)
    parts = {"pytorch_model-00001.bin": names[:50], "pytorch_model-00002.bin": names[50:]}
    for file, some in parts.items():
        torch.save({name: held[name].bfloat16() for name in some}, epoch / "model" / file)
    index = {name: file for file, some in parts.items() for name in some}
    (epoch / "model/pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    (epoch / "running_states.json").write_text(json.dumps({"epoch": 1, "global_step": 100}))
    torch.save(held, epoch / "ema.pt")
    for source in (epoch, epoch / "model"):
        commands.convert(Conversion(source=source, target=tmp_path / f"to_{source.name}"))
        part = recognise(tmp_path / f"to_{source.name}")
        part.check()
        assert part.spec == stdit2.TINY
