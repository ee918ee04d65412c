"""Rules: which tensor becomes which, there and back, and what happens to names that nobody knows."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from duosora.convert.names import NAMES
from duosora.convert.naming import Named, Renaming, apply, guess, plan
from duosora.convert.rules import Drop, Merge, Rename, Rule, Split, Tied, Transpose, inverse, pattern_of
from duosora.core.errors import CheckpointError
from duosora.core.io.weights import WeightsReader, open_weights, save_weights
from duosora.core.models import opensora_t2v, t5, wfvae

ATTENTION = "transformer_blocks.{}.attn1"
FUSED = (
    Merge((f"{ATTENTION}.q", f"{ATTENTION}.k", f"{ATTENTION}.v"), f"{ATTENTION}.to_q.weight"),
    Transpose("blocks.{}.proj", f"{ATTENTION}.to_out.0.weight", (1, 0)),
    Rename("scale", "scale_shift_table"),
)


def reader(folder: Path, tensors: dict[str, np.ndarray]) -> WeightsReader:
    save_weights(folder / "x.safetensors", tensors, overwrite=True)
    return open_weights(folder / "x.safetensors")


def made(
    source: WeightsReader, rules: tuple[Rule, ...], known: frozenset[str] = NAMES["opensora_t2v"].patterns()
) -> dict[str, np.ndarray]:
    found, unknown = apply(rules, list(source), known)
    assert not unknown
    named = Named(source, found, None)
    return {
        name: np.concatenate([np.empty(0, np.uint8), *named.chunks(name)])
        .view(named.dtype(name))
        .reshape(named.shape(name))
        for name in named
    }


def test_rules_merge_transpose_and_rename(tmp_path: Path) -> None:
    q, k, v = (np.arange(6, dtype=np.float32).reshape(2, 3) + 10 * part for part in range(3))
    proj = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensors = {f"transformer_blocks.7.attn1.{name}": array for name, array in (("q", q), ("k", k), ("v", v))}
    tensors |= {"blocks.12.proj": proj, "scale": np.ones(2, np.float32)}
    result = made(reader(tmp_path, tensors), FUSED)
    np.testing.assert_array_equal(result["transformer_blocks.7.attn1.to_q.weight"], np.concatenate([q, k, v]))
    np.testing.assert_array_equal(result["transformer_blocks.12.attn1.to_out.0.weight"], proj.T)
    assert result["scale_shift_table"].shape == (2,)


def test_split_undoes_merge(tmp_path: Path) -> None:
    whole = np.arange(18, dtype=np.float32).reshape(6, 3)
    parts = tuple(f"{ATTENTION}.to_{name}.weight" for name in "qkv")
    split = Split("blocks.{}.qkv", parts)
    result = made(reader(tmp_path, {"blocks.3.qkv": whole}), (split,))
    np.testing.assert_array_equal(result["transformer_blocks.3.attn1.to_k.weight"], whole[2:4])
    assert inverse((split,)) == (Merge(parts, "blocks.{}.qkv"),)
    assert inverse(inverse((split,))) == (split,)


BOTH_WAYS = (
    Merge(("b.{}.q", "b.{}.k", "b.{}.v"), "b.{}.qkv"),
    Split("b.{}.both", ("b.{}.gate", "b.{}.value")),
    Transpose("b.{}.linear", "b.{}.matrix", (1, 0)),
    Transpose("conv.{}.kernel", "conv.{}.weight", (2, 3, 4, 1, 0)),
    Rename("old.{*}", "new.{*}"),
)


@pytest.mark.parametrize("seed", range(8))
def test_rules_and_their_inverse_change_no_bit(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    dtype = [np.float32, ml_dtypes.bfloat16, np.float16, np.int64, np.bool_, np.complex64, np.uint8, np.float64][seed]

    def tensor(*shape: int) -> np.ndarray:
        raw = generator.integers(0, 256, (*shape, np.dtype(dtype).itemsize), np.uint8)
        return raw.view(dtype)[..., 0]

    tensors: dict[str, np.ndarray] = {"old.a.3": tensor(), "old.b": tensor(0, 4), "kept.7.weight": tensor(3)}
    for block in (0, 11):
        size, width = generator.integers(1, 9, 2)
        tensors |= {f"b.{block}.{part}": tensor(size, width) for part in "qkv"}
        tensors |= {f"b.{block}.both": tensor(2 * size, width, 2), f"b.{block}.linear": tensor(size, width)}
        tensors[f"conv.{block}.kernel"] = tensor(*generator.integers(1, 5, 5))
    there = frozenset(
        ["b.{}.qkv", "b.{}.gate", "b.{}.value", "b.{}.matrix", "conv.{}.weight", "new.a.{}", "new.b", "kept.{}.weight"]
    )
    between = made(reader(tmp_path, tensors), BOTH_WAYS, there)
    assert set(map(pattern_of, between)) == there
    back = made(reader(tmp_path, between), inverse(BOTH_WAYS), frozenset(map(pattern_of, tensors)))
    assert set(back) == set(tensors)
    for name, array in tensors.items():
        assert (back[name].shape, back[name].dtype) == (array.shape, array.dtype)
        assert back[name].tobytes() == array.tobytes(), name


def test_parts_of_two_dtypes_are_not_joined(tmp_path: Path) -> None:
    parts = {"a.q": np.ones(2, np.float32), "a.k": np.ones(2, np.float16)}
    with pytest.raises(CheckpointError, match=r"a\.q .* cannot be joined with a\.k"):
        made(reader(tmp_path, parts), (Merge(("a.q", "a.k"), "a.qk"),), frozenset(["a.qk"]))


@pytest.mark.parametrize("axes", [(1, 0), (2, 0, 1), (1, 2, 3, 0)])
def test_the_inverse_of_transpose_undoes_it(axes: tuple[int, ...]) -> None:
    rule = Transpose("a", "b", axes)
    array = np.arange(2 * 3 * 4 * 5)[: int(np.prod(range(2, 2 + len(axes))))].reshape(range(2, 2 + len(axes)))
    np.testing.assert_array_equal(array.transpose(axes).transpose(rule.inverse().axes), array)


@pytest.mark.parametrize("rule", [Drop("a", why="a table"), Tied("a", "b"), Rename("a", "b", one_way="both are b")])
def test_a_rule_without_a_way_back_says_why(rule: Rule) -> None:
    with pytest.raises(CheckpointError):
        inverse((rule,))


def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    tensors = {"blocks.0.qkv": np.zeros((7, 3), np.float32)}
    with pytest.raises(CheckpointError, match="3 equal parts"):
        made(reader(tmp_path, tensors), (Split("blocks.{}.qkv", tuple(f"{ATTENTION}.to_{x}.weight" for x in "qkv")),))


def sources(found: Renaming) -> dict[str, str]:
    return {new: origin.names[0] for new, origin in found.origins.items()}


@pytest.mark.parametrize(
    ("model", "old", "new"),
    [
        ("wfvae", "module.encoder.conv_out.conv.weight", "encoder.conv_out.conv.weight"),
        ("wfvae", "_orig_mod.module.encoder.conv_out.conv.weight", "encoder.conv_out.conv.weight"),
        ("wfvae", "_backbone.encoder._backbone.conv_out.conv.weight", "encoder.conv_out.conv.weight"),
        ("wfvae", "encoder.wavelet_tranform_l1.aa", "encoder.wavelet_transform_l1.aa"),
        ("wfvae", "decoder.inverse_wavelet_tranform_l1.aa", "decoder.inverse_wavelet_transform_l1.aa"),
        ("wfvae", "module.encoder.mid.0.norm1.norm.gamma", "encoder.mid.0.norm1.norm.weight"),
        (
            "opensora_vae",
            "spatial_vae.module.encoder.mid_block.attentions.0.proj_attn.weight",
            "spatial_vae.module.encoder.mid_block.attentions.0.to_out.0.weight",
        ),
        (
            "opensora_vae",
            "module.spatial_vae.module.decoder.mid_block.attentions.0.query.bias",
            "spatial_vae.module.decoder.mid_block.attentions.0.to_q.bias",
        ),
        (
            "opensora_vae",
            "spatial_vae.module.encoder.conv_norm_out.gamma",
            "spatial_vae.module.encoder.conv_norm_out.weight",
        ),
        ("opensora_vae", "temporal_vae.encoder.norm1.beta", "temporal_vae.encoder.norm1.bias"),
        ("wfvae", "encoder.mid.0.norm1.norm.beta", "encoder.mid.0.norm1.norm.bias"),
        ("t5", "shared.embedding_table", "shared.weight"),
        ("t5", "encoder.embed_tokens.weight", "shared.weight"),
        ("t5", "encoder.final_layer_norm.gamma", "encoder.final_layer_norm.weight"),
        (
            "opensora_t2v",
            "module.transformer_blocks.27.attn1.to_q.weight",
            "transformer_blocks.27.attn1.to_q.weight",
        ),
    ],
)
def test_other_spellings_are_known(model: str, old: str, new: str) -> None:
    found, unknown = apply(NAMES[model].rules, [old], NAMES[model].patterns())
    assert not unknown
    assert sources(found) == {new: old}


def test_t5_keeps_the_encoder(tmp_path: Path) -> None:
    table = np.ones((4, 2), np.float32)
    held = dict.fromkeys(["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"], table)
    held |= dict.fromkeys(["lm_head.weight", "decoder.block.0.layer.0.SelfAttention.q.weight"], table)
    found = plan(reader(tmp_path, held), "t5")
    assert list(found.origins) == ["shared.weight"]
    assert len(found.dropped) == 4
    Named(reader(tmp_path, held), found, None)

    with pytest.raises(CheckpointError, match="should be one tensor"):
        Named(reader(tmp_path, held | {"encoder.embed_tokens.weight": table * 2}), found, None)


def test_unknown_names_are_listed_and_the_model_is_guessed(tmp_path: Path) -> None:
    tensors = {name: np.zeros(1, np.float32) for name in t5.TINY.layout()} | {"surprise.weight": np.zeros(1)}
    with pytest.raises(CheckpointError, match=r"1 tensors are unknown to t5: surprise.weight; it looks like t5"):
        plan(reader(tmp_path, tensors), None)
    with pytest.raises(CheckpointError, match=r"unknown to wfvae.*looks like t5"):
        plan(reader(tmp_path, tensors), "wfvae")
    with pytest.raises(CheckpointError, match="--model none"):
        plan(reader(tmp_path, {"a": np.zeros(1)}), None)
    assert list(plan(reader(tmp_path, {"module.a": np.zeros(1)}), "none").origins) == ["module.a"]


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    names = [*wfvae.TINY.layout(), "module.encoder.conv_out.conv.weight"]
    with pytest.raises(CheckpointError, match="unknown to wfvae"):
        plan(reader(tmp_path, {name: np.zeros(1) for name in names}), "wfvae")


def test_both_kinds_of_denoiser_are_one_family() -> None:
    assert guess(list(opensora_t2v.TINY_INPAINT.layout()))[0] == "opensora_t2v"
