"""Folders of models: config.json of strangers is read or refused in one line, and weights are checked unloaded."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duosora.core.errors import CheckpointError, ConfigError, DuosoraError, LayoutError
from duosora.core.io.weights import open_weights, save_weights
from duosora.core.layout import FreshWeights
from duosora.core.models import FAMILIES, opensora_t2v, t5, wfvae
from duosora.core.models.finding import open_part, recognise

CONFIGS = {
    "denoiser": opensora_t2v.TINY_INPAINT.to_config()
    | {"sample_size_t": 24, "sample_size_h": [80, 80], "sample_size_w": [80, 80]},
    "text_encoder": t5.TINY.to_config(),
    "vae": wfvae.TINY.to_config(),
}
HUGE = "1" + "0" * 300


def write_config(folder: Path, config: Any, **texts: str) -> Path:
    """A config.json in which some keys have values that are written as they are."""
    rest = {key: json.dumps(value) for key, value in config.items()} | texts
    (folder / "config.json").write_text("{" + ", ".join(f'"{key}": {text}' for key, text in rest.items()) + "}")
    return folder


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    save_weights(tmp_path, FreshWeights(wfvae.TINY.layout(), 0))
    return write_config(tmp_path, CONFIGS["vae"])


@pytest.mark.parametrize(
    ("kind", "key", "value", "message"),
    [
        ("denoiser", "num_layers", "1000000", "num_layers = 1000000: needs a whole number from 1 to 320"),
        ("denoiser", "num_layers", HUGE, f"num_layers = {'1' + '0' * 20}.*: needs a whole number from 1 to 320"),
        ("denoiser", "attention_head_dim", "0", "attention_head_dim = 0: needs a whole number from 1"),
        ("denoiser", "num_layers", "2.5", r"num_layers = 2\.5: needs a whole number"),
        ("denoiser", "num_layers", "true", "num_layers = True: needs a whole number"),
        ("denoiser", "interpolation_scale_h", "0", r"interpolation_scale_h = 0: needs a number from 0\.001 to 1000"),
        ("denoiser", "norm_eps", "NaN", "norm_eps = nan: needs a number from 0 to 1"),
        ("denoiser", "sample_size_h", "[1, 2, 3]", "sample_size_h = a list: needs a whole number"),
        ("text_encoder", "num_heads", "-1", "num_heads = -1: needs a whole number from 1"),
        ("text_encoder", "relative_attention_num_buckets", "2", "relative_attention_num_buckets = 2: needs a whole"),
        ("text_encoder", "relative_attention_max_distance", "8", "relative_attention_max_distance = 8: must be more"),
        ("text_encoder", "feed_forward_proj", '"relu"', "feed_forward_proj = 'relu': duosora implements gated-gelu"),
        ("vae", "encoder_num_resblocks", "1000000", "encoder_num_resblocks = 1000000: needs a whole number from 0"),
        ("vae", "latent_dim", "1000000000", "latent_dim = 1000000000: needs a whole number from 1 to 512"),
        ("vae", "latent_dim", "4", "scale and shift need latent_dim = 4 entries each, not 8 and 8"),
        ("vae", "scale", "0.18215", r"scale = 0\.18215: needs a list"),
        ("vae", "scale", "[0, 1, 1, 1, 1, 1, 1, 1]", "scale = 0: needs a number from 1e-06 to 1e"),
        ("vae", "shift", '["a"]', "shift = 'a': needs a number"),
        ("vae", "_class_name", '["WFVAEModel", {}]', None),
        ("vae", "architectures", '[["WFVAEModel"], {}, 3]', None),
        ("vae", "dtype", '"bfloat16"', None),
        ("denoiser", "torch_dtype", '"float32"', None),
        ("text_encoder", "dtype", '"float32"', None),
        ("denoiser", "num_layers", "6.0", None),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_file(
    tmp_path: Path, kind: str, key: str, value: str, message: str | None
) -> None:
    write_config(tmp_path, CONFIGS[kind], **{key: value})
    if message is None:
        assert recognise(tmp_path).family.kind == kind
        return
    with pytest.raises(ConfigError, match=rf"config\.json: (\w+: )?{message}"):
        recognise(tmp_path)


@pytest.mark.parametrize(
    "spec", [spec for family in FAMILIES for spec in family.presets.values()], ids=lambda spec: type(spec).__name__
)
def test_limits_leave_room_above_every_preset(spec: Any) -> None:
    for key, value in spec.to_config().items():
        if type(value) is int and key not in ("patch_size_t", "cross_attention_dim", "latent_dim", "sample_size_t"):
            times = 4 if key == "num_attention_heads" else 6  # which the width has to be divided by
            config = spec.to_config() | {key: times * value, "cross_attention_dim": None}
            del config["cross_attention_dim"]
            type(spec).from_config(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "holds list instead of a JSON object"),
        ("3", "holds int instead of a JSON object"),
        ("", "cannot be read as JSON"),
        ("version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer instead of the file"),
        ("<html>404</html>", "is a web page instead of the file"),
        ("[" * 100_000, "cannot be read as JSON"),
        ('{"num_layers": 1, "num_layers": 2}', "'num_layers' is written twice"),
        ('{"a": {"b": 1, "b": 2}}', "'b' is written twice"),
        (f'{{"a": "{"x" * 2_000_000}"}}', "it has more than 1000000 bytes"),
        ('{"a": 1' + "0" * 5000 + "}", "cannot be read as JSON"),
        ("{}", "not the config of a model that duosora knows"),
    ],
)
def test_what_is_no_config_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises((CheckpointError, ConfigError), match=message) as raised:
        recognise(tmp_path)
    assert str(raised.value).startswith(str(tmp_path / "config.json"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_a_config_that_is_no_file_is_one_line(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        recognise(tmp_path)


def test_a_config_may_begin_with_a_byte_order_mark(vae: Path) -> None:
    text = (vae / "config.json").read_text()
    (vae / "config.json").write_text("\ufeff" + text)
    assert recognise(vae).spec == wfvae.TINY


@pytest.mark.parametrize("name", ["x" * 5000, "x\0y", "x/" * 2500])
def test_a_name_that_no_file_can_have_is_one_line(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"model\.vae = .*: no such folder, and no preset of that name") as raised:
        open_part("vae", name)
    assert len(str(raised.value)) < 400


def changed(folder: Path, name: str, change: Callable[[np.ndarray], np.ndarray | None]) -> Path:
    """A model folder with one tensor made anew, or left out."""
    reader = open_weights(folder)
    tensors = {each: reader[each] for each in reader}
    value = change(tensors.pop(name))
    save_weights(folder, tensors if value is None else tensors | {name: value}, overwrite=True)
    return folder


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda array: None, LayoutError, "1 missing (decoder.conv_in.conv.weight)"),
        (lambda array: array[:1], LayoutError, "1 mis-shaped (decoder.conv_in.conv.weight is 1x8x3x3x3 instead of"),
        (lambda array: array.astype(np.int8), LayoutError, "1 of 212 weights hold no floating-point numbers ("),
        (lambda array: array * 0, CheckpointError, "1 of 94 matrices are all zeros (decoder.conv_in.conv.weight)"),
    ],
)
def test_weights_are_checked_without_loading_them(
    vae: Path, change: Callable[[np.ndarray], np.ndarray | None], error: type[DuosoraError], message: str
) -> None:
    recognise(vae).check()
    changed(vae, "decoder.conv_in.conv.weight", change)
    with pytest.raises(error) as raised:
        recognise(vae).check()
    assert str(raised.value).startswith(str(vae))
    assert message in str(raised.value)


def test_a_download_that_ended_half_way_is_refused(vae: Path) -> None:
    file = vae / "diffusion_pytorch_model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    with pytest.raises(CheckpointError, match=r"\d\d of 94 matrices are all zeros \(.* and \d+ more\); .* download it"):
        recognise(vae).check()


def test_fresh_models_have_nothing_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FreshWeights, "__getitem__", None)
    open_part("text_encoder", "mt5_xxl").check()
