"""Weights among other things: prefixes of other tools, several models in one file, tensors beside them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from duosora.convert.commands import convert, describe
from duosora.convert.naming import plan
from duosora.convert.prefixes import find_fits
from duosora.convert.readers.opening import open_checkpoint
from duosora.convert.readers.stored import Stored, StoredTensor
from duosora.core.converting import Conversion
from duosora.core.errors import CheckpointError
from duosora.core.io.weights import open_weights
from duosora.core.models import opensora_t2v, t5, wfvae

LAYOUTS = {
    "opensora_t2v": opensora_t2v.TINY.layout(),
    "t5": t5.TINY.layout(),
    "wfvae": wfvae.TINY.layout(),
}


def weights(model: str, before: str = "", value: float = 1.0) -> dict[str, torch.Tensor]:
    return {f"{before}{name}": torch.full((1,), value) for name in LAYOUTS[model]}


class Names(Stored):
    """Names without tensors."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__("x", {name: StoredTensor((0,), np.dtype(np.float32), ()) for name in names})


def saved(tmp_path: Path, tree: Any) -> Path:
    torch.save(tree, tmp_path / "x.pt")
    return tmp_path / "x.pt"


def made(path: Path, **options: Any) -> list[str]:
    """Convert, and give back what was said."""
    target = path.with_name("y.safetensors")
    lines = convert(Conversion(source=path, target=target, overwrite=True, **options))
    assert all("\n" not in line for line in lines)
    return lines


PREFIXES = [
    "model.", "net.", "transformer.", "dit.", "vae.", "first_stage_model.", "text_encoder.", "module.", "_orig_mod.",
    "generator.", "ema_model.", "model.diffusion_model.", "state_dict.model.transformer.", "module.dit._orig_mod.",
    "network.", "network._backbone.", "autoencoder._backbone.",
]  # fmt: skip


@pytest.mark.parametrize("model", LAYOUTS)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_are_found_by_the_names_of_the_models(model: str, prefix: str) -> None:
    found = plan(Names(f"{prefix}{name}" for name in LAYOUTS[model]), None)
    assert (found.model, set(found.origins)) == (model, set(LAYOUTS[model]))


@pytest.mark.parametrize(
    "inner", ["_checkpoint_wrapped_module.", "_fsdp_wrapped_module.", "_orig_mod.", "module.", "_backbone."]
)
def test_wrappers_inside_of_names_are_taken_out(tmp_path: Path, inner: str) -> None:
    held = {name.replace("transformer_blocks.0.", f"transformer_blocks.0.{inner}"): torch.ones(1)
            for name in LAYOUTS["opensora_t2v"]}  # fmt: skip
    assert any(inner in name for name in held)
    made(saved(tmp_path, held))
    assert set(open_weights(tmp_path / "y.safetensors")) == set(LAYOUTS["opensora_t2v"])


@pytest.mark.parametrize("is_flat", [True, False])
def test_of_several_models_one_is_chosen(tmp_path: Path, is_flat: bool) -> None:
    parts = {"transformer": "opensora_t2v", "vae": "wfvae"}
    tree: dict[str, Any] = {}
    for key, model in parts.items():
        tree |= weights(model, f"{key}.") if is_flat else {key: weights(model)}
    path = saved(tmp_path, tree)
    with pytest.raises(CheckpointError, match=r"wfvae under 'vae\.' .*opensora_t2v under 'transformer\.'.*--model"):
        made(path)
    for key, model in parts.items():
        choices = [{"model": model}, {"strip": key}, {"strip": f"{key}."}, *([] if is_flat else [{"key": key}])]
        for choice in choices:
            lines = made(path, **choice)
            assert f"  model: {model}" in lines
            assert set(open_weights(tmp_path / "y.safetensors")) == set(LAYOUTS[model])
            if choice != {"key": key}:
                assert any("left out" in line and "not below" in line for line in lines)
    said = "\n".join(describe(path, False))
    assert "its names below transformer. are those of OpenSoraT2V" in said
    assert "its names below vae. are those of WFVAE" in said


def test_one_model_without_prefix_beside_another_is_chosen(tmp_path: Path) -> None:
    path = saved(tmp_path, weights("opensora_t2v") | weights("t5", "text_encoder."))
    with pytest.raises(CheckpointError, match="holds several models"):
        made(path)
    for model in ("opensora_t2v", "t5"):
        made(path, model=model)
        assert set(open_weights(tmp_path / "y.safetensors")) == set(LAYOUTS[model])


def test_a_model_twice_is_not_chosen_by_chance(tmp_path: Path) -> None:
    path = saved(tmp_path, weights("wfvae", "model.") | weights("wfvae", "shadow.", 2.0))
    with pytest.raises(CheckpointError, match=r"wfvae under 'model\.'.*wfvae under 'shadow\.'.*--strip"):
        made(path)
    made(path, strip="shadow")
    assert all(held == 2 for held in open_weights(tmp_path / "y.safetensors").values())
    mixed = weights("wfvae", "model.") | {next(iter(LAYOUTS["wfvae"])): torch.zeros(1)}
    with pytest.raises(CheckpointError, match="1 tensors are unknown to wfvae"):
        made(saved(tmp_path, mixed))


def test_prefixes_that_are_not_there_are_said(tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": weights("wfvae")})
    with pytest.raises(CheckpointError, match="--strip dit: no name begins with it"):
        made(path, strip="dit")
    with pytest.raises(CheckpointError, match="--key dit: no such branch; those with tensors are model"):
        made(path, key="dit")
    made(path)
    with pytest.raises(CheckpointError, match="has no branches; leave out --key"):
        made(tmp_path / "y.safetensors", key="model")
    assert made(tmp_path / "y.safetensors", strip="encoder", model="none")


@pytest.mark.parametrize("key", ["a.b.c", "a.b", "a"])
def test_keys_may_have_dots_themselves(tmp_path: Path, key: str) -> None:
    trees = {"a.b.c": {"a.b": {"c": {"w": torch.ones(1)}}}, "a.b": {"a": {"b": {"w": torch.ones(1)}}}}
    path = saved(tmp_path, {**trees.get(key, {"a": {"w": torch.ones(1)}}), "state_dict": {"z": torch.zeros(1)}})
    opened = open_checkpoint(path, key=key)
    assert list(opened.weights) == ["w"]
    assert ".".join(opened.wrapper) == key


STEP = torch.tensor(3)
BESIDE = {
    "rng_state": lambda w: {"model": w, "rng_state": torch.zeros(5056, dtype=torch.uint8)},
    "step": lambda w: {"state_dict": w, "step": STEP, "epoch": 1},
    "global_steps": lambda w: {"module": w, "global_steps": STEP, "global_samples": STEP, "optimizer": {"s": STEP}},
    "many loose": lambda w: {"model": w} | {f"state.{number}": STEP for number in range(50)},
    "large loose": lambda w: {"model": w, "table": torch.zeros(100_000)},
    "averaged by torch": lambda w: {"n_averaged": STEP, **{f"module.{name}": value for name, value in w.items()}},
    "an average as in latent diffusion": lambda w: {"decay": STEP, "num_updates": STEP, **w},
    "inside": lambda w: {"state_dict": {"gen_model": w, "logvar": STEP}, "step": STEP},
    "a small wrapper first": lambda w: {"state_dict": {"scale": STEP}, "module": w},
    "a small average": lambda w: {"ema": {"decay": STEP, "shadow": [STEP] * 300}, "model": w, "step": STEP},
    "two optimisers": lambda w: {"model": w, "optimizer_g": {"a": STEP}, "optim_d": {"b": {"c": STEP}}},
    "unknown wrapper": lambda w: {"my_weights": w, "rng_state": STEP},
    "flat": lambda w: {**w, "rng_state": STEP, "global_step": STEP},
    "flat, of mindspore": lambda w: {**w, "learning_rate": STEP, **{f"moment1.{name}": STEP for name in w}},
}


@pytest.mark.parametrize("beside", BESIDE)
def test_tensors_beside_the_weights_do_not_hide_them(tmp_path: Path, beside: str) -> None:
    path = saved(tmp_path, BESIDE[beside](weights("wfvae")))
    lines = made(path)
    assert set(open_weights(tmp_path / "y.safetensors")) == set(LAYOUTS["wfvae"])
    assert [line for line in lines if "left aside" in line or "left out" in line]
    assert "WFVAE" in "\n".join(describe(path, False))


def test_a_look_says_what_a_conversion_would_refuse(tmp_path: Path) -> None:
    path = saved(tmp_path, {**weights("wfvae"), "lora.a": STEP * 1.0})
    assert "  NOT KNOWN to wfvae: 1 tensors (lora.a)" in describe(path, False)
    assert describe(saved(tmp_path, {"a": STEP}), False)[-1].endswith("--to FOLDER --model none")


def test_names_that_many_share_are_no_prefix() -> None:
    for model, layout in LAYOUTS.items():
        assert [(fit.model, fit.prefix) for fit in find_fits(layout)] == [(model, "")]
    assert find_fits(["a.b", "c"]) == []


def test_names_of_no_model_are_said_to_be_so() -> None:
    names = [f"a{number % 7}.b.c.d.{number}.gamma" for number in range(5_000)]
    with pytest.raises(CheckpointError, match="belong to no model"):
        plan(Names(names), None)
