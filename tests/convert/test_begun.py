"""STDiT3 that begins with the weights of PixArt: what is taken, what is drawn, and that it computes PixArt."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from duosora.convert import commands
from duosora.core.converting import Conversion
from duosora.core.errors import ConfigError, DuosoraError, LayoutError
from duosora.core.io.weights import open_weights, save_weights
from duosora.core.layout import FreshWeights, GivenWeights
from duosora.core.models import opensora_vae
from duosora.core.models.finding import recognise
from duosora.core.models.stdit3 import TINY, STDiT3Spec

sys.path.append(str(Path(__file__).parents[1] / "families"))
from stdit3_reference import Reference

SMALL = STDiT3Spec(hidden_size=24, depth=2, num_heads=2, caption_channels=20, model_max_length=9, qk_norm=False)
LACKS = ("temporal_blocks.", "fps_embedder.", "rope.")
Tensors = dict[str, np.ndarray]


def pixart(spec: STDiT3Spec = SMALL, tokens: int = 9, seed: int = 3) -> Tensors:
    """What PixArt-Sigma's training leaves: kernels of pictures, positions in a table, blocks without a kind."""
    draw = np.random.default_rng(seed)
    held: Tensors = {}
    for name, weight in spec.layout().items():
        if not name.startswith(LACKS) and "_norm." not in name:
            shape = weight.shape if "y_embedding" not in name else (tokens, spec.caption_channels)
            held[name.replace("spatial_blocks.", "blocks.")] = draw.normal(0, 0.3, shape).astype(np.float32)
    held["x_embedder.proj.weight"] = held["x_embedder.proj.weight"][:, :, 0]
    held["pos_embed"] = np.ones((1, 16, spec.hidden_size), np.float32)
    return held


def begin(folder: Path, held: Tensors, config: str | None = None) -> str:
    """Convert to folder/out, with SMALL as the config where none is named."""
    if config is None:
        config = str(folder / "small.json")
        Path(config).write_text(json.dumps(SMALL.to_config()))
    save_weights(folder / "pixart.safetensors", GivenWeights(held, "x"), overwrite=True)
    model = None if config else "stdit3"  # without either, PixArt's weights stay PixArt's
    source, target = folder / "pixart.safetensors", folder / "out"
    request = Conversion(source=source, target=target, model=model, config=config or None)
    return "\n".join(commands.convert(request))


def test_blocks_of_pixart_are_the_spatial_ones(tmp_path: Path) -> None:
    held = pixart()
    said = begin(tmp_path, held)
    part = recognise(tmp_path / "out")
    part.check()
    made = open_weights(tmp_path / "out")
    assert part.spec == SMALL
    for name, array in held.items():
        if name != "pos_embed":
            new = made[name.replace("blocks.", "spatial_blocks.")]
            np.testing.assert_array_equal(new.reshape(-1), array.reshape(-1), err_msg=name)
    assert made["x_embedder.proj.weight"].shape == (24, 4, 1, 2, 2)
    assert "begins as PixArt: 35 tensors are drawn freshly" in said
    assert "left out: 1 (positions are computed): pos_embed" in said


class PixArt(Reference):
    """The same maths with spatial blocks alone."""

    def _block(
        self, name: str, x: np.ndarray, tables: np.ndarray, text: np.ndarray, is_temporal: bool, kept: np.ndarray
    ) -> np.ndarray:
        return x if is_temporal else super()._block(name, x, tables, text, is_temporal, kept)

    def _scalar(self, name: str, value: float) -> np.ndarray:
        return np.zeros(self.spec.hidden_size) if name == "fps_embedder" else super()._scalar(name, value)


def test_a_picture_is_what_pixart_makes_of_it(tmp_path: Path) -> None:
    held = pixart()
    begin(tmp_path, held)
    whole = dict(open_weights(tmp_path / "out"))
    theirs = {name.replace("blocks.", "spatial_blocks."): array for name, array in held.items()}
    theirs["x_embedder.proj.weight"] = theirs["x_embedder.proj.weight"][:, :, None]
    draw = np.random.default_rng(4)
    latents, text = draw.standard_normal((4, 1, 8, 8)), draw.standard_normal((5, 20))
    given = (latents, 640.0, text, 120.0, 512.0, 512.0)
    expected = PixArt(SMALL, theirs)(*given)
    np.testing.assert_allclose(Reference(SMALL, whole)(*given), expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_what_is_drawn_is_what_a_fresh_model_has(tmp_path: Path) -> None:
    begin(tmp_path, pixart(TINY, 32), "stdit3_tiny")
    made, fresh = open_weights(tmp_path / "out"), FreshWeights(TINY.layout(), 0)
    drawn = [name for name in made if name.startswith(LACKS) or "_norm." in name]
    for name in drawn:
        np.testing.assert_array_equal(made[name], fresh[name], err_msg=name)
    assert not made["temporal_blocks.2.attn.proj.weight"].any()
    assert (made["spatial_blocks.0.attn.q_norm.weight"] == 1).all()


@pytest.mark.parametrize(
    ("tokens", "said"), [(20, "20 rows, the last repeated up to 32"), (40, "the first 32 of 40 rows")]
)
def test_the_null_caption_is_cut_or_grown(tmp_path: Path, tokens: int, said: str) -> None:
    held = pixart(TINY, tokens)
    assert f"y_embedder.y_embedding: {said}" in begin(tmp_path, held, "")
    table, made = held["y_embedder.y_embedding"], open_weights(tmp_path / "out")["y_embedder.y_embedding"]
    np.testing.assert_array_equal(made, table[np.minimum(np.arange(32), tokens - 1)])


def test_the_preset_of_the_same_shapes_is_found(tmp_path: Path) -> None:
    assert "config.json: that of stdit3_tiny" in begin(tmp_path, pixart(TINY), "")
    assert recognise(tmp_path / "out").spec == TINY


def test_without_a_preset_the_config_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"PixArt of these shapes begins no preset; name the model's with --config"):
        begin(tmp_path, pixart(), "")


def test_what_only_pixart_has_is_left_out_by_name(tmp_path: Path) -> None:
    held = pixart()
    held["csize_embedder.mlp.0.weight"] = held["ar_embedder.mlp.0.weight"] = np.ones((2, 2), np.float32)
    held["blocks.1.attn.sr.weight"] = held["blocks.1.attn.norm.weight"] = np.ones((2, 2), np.float32)
    said = begin(tmp_path, held)
    for name in ("csize_embedder.mlp.0.weight", "blocks.1.attn.sr.weight", "blocks.1.attn.norm.weight"):
        assert name in said
    assert set(open_weights(tmp_path / "out")) == set(SMALL.layout())


def test_its_norms_of_queries_and_keys_are_taken(tmp_path: Path) -> None:
    spec = replace(SMALL, qk_norm=True)
    held = pixart()
    for kind in "qk":
        for block in range(2):
            held[f"blocks.{block}.attn.{kind}_norm.weight"] = np.full(12, 3, np.float32)
    (tmp_path / "normed.json").write_text(json.dumps(spec.to_config()))
    begin(tmp_path, held, str(tmp_path / "normed.json"))
    assert (open_weights(tmp_path / "out")["spatial_blocks.1.attn.k_norm.weight"] == 3).all()
    assert recognise(tmp_path / "out").spec == spec


def without(held: Tensors) -> None:
    del held["blocks.1.mlp.fc1.bias"]


def widened(held: Tensors) -> None:
    held["t_block.1.bias"] = np.ones(7, np.float32)


def strange(held: Tensors) -> None:
    held["blocks.0.attn.q_norm.bias"] = np.ones(7, np.float32)


@pytest.mark.parametrize(
    ("harm", "error", "message"),
    [
        (without, LayoutError, r"PixArt does not begin STDiT3.*1 missing \(spatial_blocks.1.mlp.fc1.bias\)"),
        (widened, LayoutError, r"1 mis-shaped \(t_block.1.bias is \[7\] instead of \[144\]\)"),
        (strange, DuosoraError, r"blocks.0.attn.q_norm.bias"),
    ],
)
def test_other_weights_are_refused_by_name(
    tmp_path: Path, harm: Callable[[Tensors], None], error: type[DuosoraError], message: str
) -> None:
    held = pixart()
    harm(held)
    with pytest.raises(error, match=message) as refused:
        begin(tmp_path, held)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_an_autoencoder_begins_with_that_of_frames(tmp_path: Path) -> None:
    """Of diffusers, with its config.json beside it; it is a model of its own, so the one that begins is named."""
    layout = opensora_vae.PRESETS["opensora_vae_tiny"].layout()
    draw, before = np.random.default_rng(1), "spatial_vae.module."
    held = {
        name.removeprefix(before): draw.normal(0, 0.3, weight.shape).astype(np.float16)
        for name, weight in layout.items()
        if name.startswith(before)
    }
    save_weights(tmp_path / "vae", GivenWeights(held, "x"))
    (tmp_path / "vae/config.json").write_text('{"_class_name": "AutoencoderKL"}')
    said = commands.convert(Conversion(source=tmp_path / "vae", target=tmp_path / "out", model="opensora_vae"))
    assert any("begins as an autoencoder of frames" in line for line in said)
    part = recognise(tmp_path / "out")
    part.check()
    made, fresh = open_weights(tmp_path / "out"), FreshWeights(layout, 0)
    for name in layout:
        expected = held.get(name.removeprefix(before), fresh[name].astype(np.float16))
        np.testing.assert_array_equal(made[name], expected, err_msg=name)
