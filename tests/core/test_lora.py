"""LoRA in core: which layers targets mean, the spellings of files, what they add to a model, and what is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from duosora.core.config.schema import ModelSettings
from duosora.core.errors import CheckpointError, ConfigError, LayoutError
from duosora.core.io.weights import open_weights, save_weights
from duosora.core.layout import FreshWeights, GivenWeights
from duosora.core.models.dit_meta import DiTMetaSpec
from duosora.core.models.finding import beside, open_part, with_loras
from duosora.core.models.lora.adapter import ALL_LINEAR, ATTENTION, DOWN, UP, Adapter, chosen, product
from duosora.core.models.lora.files import Lora, Matrices, open_lora, peft_config, save_lora
from duosora.core.models.lora.merging import MergedWeights, Used, extracted
from duosora.core.models.lora.names import SPELLINGS
from duosora.core.models.opensora_t2v import OpenSoraT2VSpec
from duosora.core.models.stdit3 import STDiT3Spec
from duosora.core.pipelines.settings import open_parts
from duosora.core.random import normal
from duosora.core.train.setup.parts import train_parts

TINY = open_part("denoiser", "tiny")
WIDTH = 144
QUERY = "transformer_blocks.0.attn1.to_q"


def pair(name: str, outputs: int = WIDTH, inputs: int = WIDTH, rank: int = 3, scale: float = 0.5) -> Matrices:
    return Matrices(normal((rank, inputs), 1, f"{name} down"), normal((outputs, rank), 1, f"{name} up"), scale)


def tensors(layer: str, down: str, up: str, rank: int = 3, **more: np.ndarray) -> dict[str, np.ndarray]:
    held = pair("layer", rank=rank)
    return {f"{layer}{down}": held.down, f"{layer}{up}": held.up, **more}


def written(path: Path, held: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> Path:
    save_weights(path, dict(held), metadata or {})
    return path


def test_the_example_in_numbers(tmp_path: Path) -> None:
    down, up = np.array([[1.0, -1.0]], np.float32), np.array([[0.5], [2.0]], np.float32)
    matrix = np.array([[1, 2], [3, 4]], np.float32)
    for scale, expected in ((1.0, [[1.25, 1.75], [4, 3]]), (0.8, [[1.2, 1.8], [3.8, 3.2]])):
        total = matrix + np.float32(scale) * Matrices(down, up, 0.5).delta()
        np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert Adapter(16, 32.0).scale == 2
    assert Adapter(16, 32.0, stabilised=True).scale == 8


def test_a_convolution_of_two_steps_is_one_by_the_product() -> None:
    down, up = normal((2, 3, 2, 2), 1, "down"), normal((5, 2, 1, 1), 1, "up")
    picture = normal((3, 2, 2), 1, "picture")
    inner = np.einsum("rikl,ikl->r", down, picture)
    np.testing.assert_allclose(np.einsum("oikl,ikl->o", product(down, up), picture), up[:, :, 0, 0] @ inner, rtol=1e-5)


@pytest.mark.parametrize(
    ("targets", "count"),
    [(["to_q"], 12), (["attn1.to_q"], 6), (["attn2.*"], 24), (["to_out.0", "to_k"], 24), ([QUERY], 1),
     ([ALL_LINEAR], 60), (ATTENTION, 48), (["pos_embed.proj"], 1), (["to_q", "*.to_q"], 12)],
)  # fmt: skip
def test_targets_mean_the_layers_whose_names_end_so(targets: list[str], count: int) -> None:
    assert len(chosen(TINY.layout, TINY.spec.blocks(), targets)) == count


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("to_qq", "to_q"),
        ("o_q", "means no layer"),
        ("norm_out", "means no layer"),
        ("scale_shift_table", "no linear map"),
        ("", "means no layer"),
    ],
)
def test_targets_that_mean_no_layer_are_told_with_near_names(target: str, told: str) -> None:
    with pytest.raises(ConfigError, match="tune.targets: ") as error:
        chosen(TINY.layout, TINY.spec.blocks(), [target])
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_table_of_classes_is_no_layer() -> None:
    spec = DiTMetaSpec.__dataclass_fields__ and open_part("denoiser", "dit_digits").spec
    with pytest.raises(ConfigError, match=r"means y_embedder.embedding_table of .* no linear map"):
        chosen(spec.layout(), spec.blocks(), ["embedding_table"])


FORMS: list[tuple[str, str, str]] = [
    ("base_model.model.{}", ".lora_A.weight", ".lora_B.weight"),
    ("base_model.model.{}", ".lora_A.default.weight", ".lora_B.default.weight"),
    ("transformer.{}", ".lora_A.weight", ".lora_B.weight"),
    ("{}", ".lora.down.weight", ".lora.up.weight"),
    ("diffusion_model.{}", ".lora_down.weight", ".lora_up.weight"),
]


@pytest.mark.parametrize(("prefix", "down", "up"), FORMS)
def test_every_spelling_is_read(prefix: str, down: str, up: str, tmp_path: Path) -> None:
    file = written(tmp_path / "x.safetensors", tensors(prefix.format(QUERY), down, up))
    lora = open_lora(file).fitted(TINY.layout)
    assert list(lora.pairs) == [QUERY]
    np.testing.assert_array_equal(lora.pairs[QUERY].delta(), pair("layer", scale=1.0).delta())


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (6.0, 2.0)])
def test_kohya_says_alpha_for_each_layer(alpha: float | None, scale: float, tmp_path: Path) -> None:
    name = f"lora_unet_{QUERY.replace('.', '_')}"
    more = {} if alpha is None else {f"{name}.alpha": np.array(alpha, np.float16)}
    held = tensors(name, ".lora_down.weight", ".lora_up.weight") | more
    lora = open_lora(written(tmp_path / "x.safetensors", held)).fitted(TINY.layout)
    assert lora.pairs[QUERY].scale == scale


def test_older_files_name_the_processors(tmp_path: Path) -> None:
    held: dict[str, np.ndarray] = {}
    for old in ("to_q", "to_out"):
        held |= tensors(f"transformer_blocks.0.attn1.processor.{old}_lora", ".down.weight", ".up.weight")
    lora = open_lora(written(tmp_path / "x.safetensors", held)).fitted(TINY.layout)
    assert set(lora.pairs) == {QUERY, "transformer_blocks.0.attn1.to_out.0"}


def test_pefts_settings_say_alphas_also_by_patterns(tmp_path: Path) -> None:
    held: dict[str, np.ndarray] = {}
    for layer in (QUERY, "transformer_blocks.1.attn1.to_q", "transformer_blocks.0.attn1.to_k"):
        held |= tensors(f"base_model.model.{layer}", ".lora_A.weight", ".lora_B.weight")
    written(tmp_path / "adapter_model.safetensors", held)
    config = peft_config({QUERY: Adapter(3, 6.0)}) | {"alpha_pattern": {"to_k": 3, "blocks.1.attn1.to_q": 12}}
    config_file = tmp_path / "adapter_config.json"
    config_file.write_text(json.dumps(config))
    for path in (tmp_path, tmp_path / "adapter_model.safetensors"):
        scales = {layer: each.scale for layer, each in open_lora(path).fitted(TINY.layout).pairs.items()}
        assert scales == {
            QUERY: 2.0,
            "transformer_blocks.1.attn1.to_q": 2.0,  # "blocks.1..." is not the end of whole parts
            "transformer_blocks.0.attn1.to_k": 1.0,
        }
    config_file.write_text(json.dumps(config | {"use_rslora": True}))
    assert open_lora(tmp_path).fitted(TINY.layout).pairs[QUERY].scale == pytest.approx(6 / 3**0.5)


def test_newer_files_of_diffusers_say_alphas_in_their_header(tmp_path: Path) -> None:
    told = {"transformer.r": 3, "transformer.lora_alpha": 9, "transformer.alpha_pattern": {}}
    held = tensors(f"transformer.{QUERY}", ".lora_A.weight", ".lora_B.weight")
    file = written(tmp_path / "x.safetensors", held, {"lora_adapter_metadata": json.dumps(told)})
    assert open_lora(file).pairs[f"transformer.{QUERY}"].scale == 3.0


def test_a_file_of_fused_maps_is_cut_for_a_model_that_has_them_apart(tmp_path: Path) -> None:
    fused = pair("fused", outputs=3 * WIDTH)
    held = {"blocks.lora_A.weight": fused.down, "blocks.lora_B.weight": fused.up}
    name = "transformer.transformer_blocks.0.attn1.qkv"
    held = {key.replace("blocks", name): value for key, value in held.items()}
    lora = open_lora(written(tmp_path / "x.safetensors", held)).fitted(TINY.layout)
    parts = [lora.pairs[f"transformer_blocks.0.attn1.to_{each}"].delta() for each in "qkv"]
    np.testing.assert_allclose(np.concatenate(parts), fused._replace(scale=1.0).delta(), rtol=1e-5, atol=1e-5)


def test_parts_are_joined_for_a_model_that_has_them_in_one(tmp_path: Path) -> None:
    part = open_part("denoiser", "stdit3_tiny")
    width = part.layout["spatial_blocks.0.attn.qkv.weight"].shape[1]
    assert isinstance(part.spec, STDiT3Spec)
    held, deltas = {}, {}
    for each in "qv":  # the keys' is not there: it adds nothing
        deltas[each] = pair(each, width, width, scale=1.0)
        held[f"transformer.spatial_blocks.0.attn.to_{each}.lora_A.weight"] = deltas[each].down
        held[f"transformer.spatial_blocks.0.attn.to_{each}.lora_B.weight"] = deltas[each].up
    lora = open_lora(written(tmp_path / "x.safetensors", held)).fitted(part.layout)
    expected = [deltas["q"].delta(), np.zeros((width, width), np.float32), deltas["v"].delta()]
    np.testing.assert_allclose(lora.pairs["spatial_blocks.0.attn.qkv"].delta(), np.concatenate(expected), atol=1e-5)


def some_lora() -> Lora:
    layers = (QUERY, "transformer_blocks.3.ff.net.0.proj")
    pairs = {layers[0]: pair("a", rank=2, scale=0.25), layers[1]: pair("b", outputs=4 * WIDTH, scale=1.5)}
    conv = Matrices(normal((2, 8, 2, 2), 1, "down"), normal((WIDTH, 2, 1, 1), 1, "up"), 2.0)
    return Lora("made here", "peft", pairs | {"pos_embed.proj": conv})


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_what_is_written_adds_the_same_in_every_spelling(spelling: Any, dtype: Any, tmp_path: Path) -> None:
    lora = some_lora()
    save_lora(tmp_path / "out", lora, spelling, np.dtype(dtype))
    again = open_lora(tmp_path / "out").fitted(TINY.layout)
    assert again.spelling == spelling
    limit = 1e-5 if dtype is np.float32 else 2e-2
    for layer, each in lora.pairs.items():
        expected = each.delta()
        np.testing.assert_allclose(again.pairs[layer].delta(), expected, atol=limit * np.abs(expected).max())


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"{}.lora_magnitude_vector": (WIDTH,)}, "DoRA"),
    ({"{}.hada_w1_a": (3, WIDTH)}, "LoHa"),
    ({"{}.lokr_w1": (3, WIDTH)}, "LoKr"),
    ({"{}.diff": (WIDTH, WIDTH)}, "whole differences"),
    ({"{}.weight": (WIDTH, WIDTH)}, "tensors of another kind"),
    ({"other.lora_A.weight": (3, WIDTH)}, "without one of their two matrices"),
]


@pytest.mark.parametrize(("more", "told"), REFUSED)
def test_what_is_more_than_lora_is_named(more: dict[str, Any], told: str, tmp_path: Path) -> None:
    held = tensors(f"transformer.{QUERY}", ".lora_A.weight", ".lora_B.weight")
    held |= {name.format(QUERY): np.ones(shape, np.float32) for name, shape in more.items()}
    with pytest.raises(CheckpointError, match=told):
        open_lora(written(tmp_path / "x.safetensors", held))


@pytest.mark.parametrize(
    ("down", "up", "told"),
    [((3, 64), (64, 3), "rank 3, 64x64, and the model's is 144x144"), ((3, WIDTH), (WIDTH, 4), "no pair of a rank"),
     ((3, WIDTH, 1, 1), (WIDTH, 3, 1, 1), None), ((WIDTH,), (WIDTH, 3), "no pair of a rank")],
)  # fmt: skip
def test_matrices_of_other_shapes_are_told(down: Any, up: Any, told: str | None, tmp_path: Path) -> None:
    held = {f"{QUERY}.lora_A.weight": np.ones(down, np.float32), f"{QUERY}.lora_B.weight": np.ones(up, np.float32)}
    file = written(tmp_path / "x.safetensors", held)
    if told is None:
        assert open_lora(file).fitted(TINY.layout).pairs[QUERY].down.shape == (3, WIDTH)
        return
    with pytest.raises((CheckpointError, LayoutError), match=told):
        open_lora(file).fitted(TINY.layout)


def test_layers_of_another_model_are_told_in_a_line(tmp_path: Path) -> None:
    held = tensors("transformer.blocks.0.attn.qkv", ".lora_A.weight", ".lora_B.weight")
    with pytest.raises(LayoutError, match=r"no layers for 1 of 1 \(transformer.blocks.0.attn.qkv\); it has ") as error:
        open_lora(written(tmp_path / "x.safetensors", held)).fitted(TINY.layout)
    assert "\n" not in str(error.value)
    texts = tensors("text_encoder.layers.0.q_proj", ".lora_A.weight", ".lora_B.weight")
    with pytest.raises(LayoutError, match="of a text encoder"):
        open_lora(written(tmp_path / "y.safetensors", texts)).fitted(TINY.layout)


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    held = tensors(QUERY, ".lora_A.weight", ".lora_B.weight")
    held[f"{QUERY}.lora_A.weight"] = held[f"{QUERY}.lora_A.weight"] * np.nan
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        open_lora(written(tmp_path / "x.safetensors", held))


@pytest.mark.parametrize("change", [{"peft_type": "IA3"}, {"use_dora": True}, {"modules_to_save": ["proj_out"]}])
def test_settings_of_peft_that_are_not_lora_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    save_lora(tmp_path, some_lora(), "peft", np.dtype(np.float32))
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=next(iter(change))):
        open_lora(tmp_path)


def test_several_are_added_in_any_order(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    save_lora(one, some_lora(), "peft", np.dtype(np.float32))
    save_lora(other, Lora("b", "kohya", {QUERY: pair("c")}), "kohya", np.dtype(np.float32))
    name, own = f"{QUERY}.weight", TINY.open()
    sums = [with_loras(TINY, used).open()[name] for used in ([(one, 0.8), (other, -0.5)], [(other, -0.5), (one, 0.8)])]
    assert sums[0].tobytes() == sums[1].tobytes()
    expected = own[name] + 0.8 * some_lora().pairs[QUERY].delta() - 0.5 * pair("c").delta()
    np.testing.assert_allclose(sums[0], expected, atol=1e-5)
    untouched = with_loras(TINY, [(one, 0.0)]).open()
    assert all(untouched[each].tobytes() == own[each].tobytes() for each in own)


def test_beside_a_model_several_are_one_of_their_ranks_together(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    save_lora(one, some_lora(), "peft", np.dtype(np.float32))
    save_lora(other, Lora("b", "kohya", {QUERY: pair("c")}), "kohya", np.dtype(np.float32))
    merged = with_loras(TINY, [(one, 0.8), (other, -0.5)])
    part, own = beside(merged), TINY.open()
    part.check()
    held, sums = part.open(), merged.open()
    assert all(held[name].tobytes() == own[name].tobytes() for name in own)
    for layer, adapter in part.adapters.items():
        added = product(*(held[f"{layer}.{matrix}.weight"] for matrix in (DOWN, UP)))
        np.testing.assert_allclose(own[f"{layer}.weight"] + added, sums[f"{layer}.weight"], atol=1e-5)
        assert adapter.scale == 1
    assert set(part.adapters) == set(some_lora().pairs)
    assert part.adapters[QUERY].rank == some_lora().pairs[QUERY].rank + pair("c").rank
    assert beside(TINY) is TINY


def test_training_adds_lora_to_the_weights_in_any_case(tmp_path: Path) -> None:
    save_lora(tmp_path, some_lora(), "peft", np.dtype(np.float32))
    settings = {"denoiser": "tiny", "lora": [str(tmp_path)], "lora_mode": "applied"}
    model = ModelSettings.model_validate_json(json.dumps(settings))
    assert open_parts(model).denoiser.adapters
    assert not train_parts(model, None, 0).trained.adapters


def test_sums_are_made_in_float32_and_not_in_the_files_dtype() -> None:
    layout = TINY.layout
    half = GivenWeights({name: FreshWeights(layout, 0)[name].astype(ml_dtypes.bfloat16) for name in layout}, "half")
    small = Lora("small", "peft", {QUERY: pair("a", scale=1e-4)})
    merged = MergedWeights(half, layout, [Used(small, 1.0)])
    assert merged.dtype(f"{QUERY}.weight") == merged[f"{QUERY}.weight"].dtype == np.float32
    added = merged[f"{QUERY}.weight"] - half[f"{QUERY}.weight"].astype(np.float32)
    np.testing.assert_allclose(added, small.pairs[QUERY].delta(), atol=1e-6)
    assert merged.dtype("proj_out.weight") == ml_dtypes.bfloat16


def test_what_was_added_is_taken_out_again() -> None:
    spec = OpenSoraT2VSpec(num_layers=1, num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
                           caption_channels=16)  # fmt: skip
    layout = spec.layout()
    before = FreshWeights(layout, 0)
    conv = Matrices(normal((2, 4, 2, 2), 1, "down"), normal((24, 2, 1, 1), 1, "up"), 1)
    queries = pair("a", 24, 24, scale=1.0)
    lora = Lora("made", "peft", {"transformer_blocks.0.attn1.to_q": queries, "pos_embed.proj": conv})
    after = dict(MergedWeights(before, layout, [Used(lora, 1.0)]))
    after["proj_out.bias"] = after["proj_out.bias"] + 1
    found = extracted(layout, before, GivenWeights(after, "after"), 3)
    assert set(found.lora.pairs) == set(lora.pairs)
    assert found.elsewhere == ("proj_out.bias",)
    assert found.kept == pytest.approx(1)
    for layer, each in lora.pairs.items():
        np.testing.assert_allclose(found.lora.pairs[layer].delta(), each.delta(), atol=1e-5)
    less = extracted(layout, before, GivenWeights(after, "after"), 1)
    assert 0.1 < less.kept < 0.99
    with pytest.raises(LayoutError, match="no LoRA between them"):
        extracted(layout, before, before, 3)


def test_a_peft_folder_has_what_peft_reads(tmp_path: Path) -> None:
    save_lora(tmp_path, some_lora(), "peft", np.dtype(np.float32))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["r"] == 2
    assert config["rank_pattern"] == {"transformer_blocks.3.ff.net.0.proj": 3}
    assert config["lora_alpha"] == 0.5
    assert config["alpha_pattern"] == {"transformer_blocks.3.ff.net.0.proj": 4.5, "pos_embed.proj": 4.0}
    reader = open_weights(tmp_path / "adapter_model.safetensors")
    assert reader.metadata["format"] == "pt"
    assert f"base_model.model.{QUERY}.lora_A.weight" in reader


def test_files_that_exist_stay(tmp_path: Path) -> None:
    save_lora(tmp_path, some_lora(), "peft", np.dtype(np.float32))
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        kept = (tmp_path / file).read_bytes()
        with pytest.raises(CheckpointError, match="exists"):
            save_lora(tmp_path, Lora("x", "peft", {QUERY: pair("c")}), "peft", np.dtype(np.float32))
        assert (tmp_path / file).read_bytes() == kept
    with pytest.raises(ConfigError, match="name a folder"):
        save_lora(tmp_path / "x.safetensors", some_lora(), "peft", np.dtype(np.float32))


@pytest.mark.parametrize("mode", ["merged", "applied"])
@pytest.mark.parametrize("scale", [1e39, -1e39, 1e300, 1e31])
def test_a_scale_beyond_float32_is_told_with_its_file(scale: float, mode: str, tmp_path: Path) -> None:
    save_lora(tmp_path, some_lora(), "peft", np.dtype(np.float32))
    settings = ModelSettings.model_validate_json(json.dumps({"lora": [f"{tmp_path}:{scale}"], "lora_mode": mode}))
    with pytest.raises(ConfigError) as error:
        open_parts(settings)
    assert str(error.value).startswith(f"{tmp_path}: {scale:g} times this LoRA")


@pytest.mark.parametrize("alpha", [np.nan, np.inf, 1e300, 10**400, [1], "8", {"a": 1}])
def test_an_alpha_that_is_no_number_of_use_is_told(alpha: Any, tmp_path: Path) -> None:
    save_lora(tmp_path, some_lora(), "peft", np.dtype(np.float32))
    file = tmp_path / "adapter_config.json"
    for change in ({"lora_alpha": alpha}, {"alpha_pattern": {QUERY: alpha}}):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"alpha_pattern": {}} | change))
        with pytest.raises(CheckpointError, match=rf"{tmp_path}: .*alpha of .* is ") as error:
            open_lora(tmp_path)
        assert "\n" not in str(error.value)


def test_patterns_of_alphas_are_by_names(tmp_path: Path) -> None:
    save_lora(tmp_path, some_lora(), "peft", np.dtype(np.float32))
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"alpha_pattern": [3]}))
    with pytest.raises(CheckpointError, match="alpha_pattern is"):
        open_lora(tmp_path)


@pytest.mark.parametrize("alpha", [np.array(np.nan), np.array(np.inf), np.array(1e300), np.zeros(0), np.ones(2)])
def test_so_is_that_of_kohya(alpha: np.ndarray, tmp_path: Path) -> None:
    name = f"lora_unet_{QUERY.replace('.', '_')}"
    held = tensors(name, ".lora_down.weight", ".lora_up.weight") | {f"{name}.alpha": alpha}
    with pytest.raises(CheckpointError, match=r"x.safetensors: .*alpha.* is "):
        open_lora(written(tmp_path / "x.safetensors", held))


def test_matrices_beyond_float32_are_told(tmp_path: Path) -> None:
    held = tensors(QUERY, ".lora_A.weight", ".lora_B.weight")
    held[f"{QUERY}.lora_A.weight"] = held[f"{QUERY}.lora_A.weight"].astype(np.float64) * 1e300
    with pytest.raises(CheckpointError, match="beyond float32"):
        open_lora(written(tmp_path / "x.safetensors", held))


def test_what_is_too_large_for_a_dtype_is_not_written(tmp_path: Path) -> None:
    held = pair("a")
    lora = Lora("b", "peft", {QUERY: held._replace(up=held.up * np.float32(1e6))})
    with pytest.raises(CheckpointError, match=rf"{QUERY}: has numbers too large for float16"):
        save_lora(tmp_path / "x", lora, "peft", np.dtype(np.float16))
    assert not (tmp_path / "x").exists()
