"""The autoencoder of Stable Diffusion: what its family has beside what holds for all."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_cases import awake

from duosora.convert import commands
from duosora.convert.names import NAMES
from duosora.convert.naming import plan
from duosora.convert.rules import fill, match
from duosora.core.converting import Conversion
from duosora.core.errors import ConfigError, ShapeError
from duosora.core.io.weights import open_weights, save_weights
from duosora.core.layout import GivenWeights
from duosora.core.models import opensora_vae
from duosora.core.models.finding import recognise
from duosora.core.models.sd_vae import FRAMES_AT_A_TIME, PRESETS, SDVAESpec
from duosora.core.random import normal
from duosora.core.seam.backend import Backend
from duosora.core.shapes import VideoShape

TINY = PRESETS["sd_vae_tiny"]
OLDER = {name: old for old, name in TINY.layout().aliases.items()}


def older(spec: SDVAESpec) -> GivenWeights:
    """Weights under the names of older versions of diffusers."""
    return GivenWeights({OLDER.get(name, name): array for name, array in awake(spec).items()}, "older")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of the hub's form with older names."""
    save_weights(tmp_path / "older", older(TINY))
    (tmp_path / "older/config.json").write_text(json.dumps(TINY.to_config()))
    return tmp_path / "older"


def test_rules_rename_what_older_files_hold() -> None:
    renames = {}
    for old, name in TINY.layout().aliases.items():
        rule = next(rule for rule in NAMES["sd_vae"].rules if match(rule.old, old) is not None)
        renames[old] = fill(rule.new, match(rule.old, old) or ())
        assert renames[old] == name
    assert len(renames) == 16


def test_files_with_older_names_are_converted(folder: Path, tmp_path: Path) -> None:
    commands.convert(Conversion(source=folder, target=tmp_path / "new"))
    made = open_weights(tmp_path / "new")
    assert set(made) == set(TINY.layout())
    for name, array in awake(TINY).items():
        np.testing.assert_array_equal(made[name], array)
    assert recognise(tmp_path / "new").spec == TINY


def test_files_with_older_names_load_as_they_are(folder: Path, backend: Backend) -> None:
    part = recognise(folder)
    part.check()
    pixels = backend.asarray(np.tanh(normal((1, 3, 2, 16, 16), 1, "video")))
    with backend.inference():
        made = [backend.build(TINY, weights).encode(pixels).latents for weights in (part.open(), awake(TINY))]
    np.testing.assert_array_equal(*map(backend.to_numpy, made))


def test_a_part_of_another_model_is_no_model_of_its_own() -> None:
    weights = awake(opensora_vae.PRESETS["opensora_vae_tiny"])
    assert plan(weights, None).model == "opensora_vae"  # type: ignore[arg-type]
    assert plan(older(TINY), None).model == "sd_vae"  # type: ignore[arg-type]
    assert plan(older(TINY), "opensora_vae").model == "opensora_vae"  # type: ignore[arg-type]


def test_memory_is_bounded_by_a_few_frames(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    vae, seen = backend.build(TINY, awake(TINY)), []
    for name in ("moments", "pictures"):
        function = getattr(vae, name)

        def call(x: Any, function: Any = function) -> Any:
            seen.append(x.shape[0])
            return function(x)

        monkeypatch.setattr(vae, name, call)
    with backend.inference():
        vae.decode(vae.encode(backend.asarray(np.zeros((1, 3, 9, 16, 16), np.float32))).latents)
    assert seen == [FRAMES_AT_A_TIME, FRAMES_AT_A_TIME, 1] * 2


def test_the_network_sees_pixels_in_another_range(backend: Backend) -> None:
    """As the first release of Open-Sora gives it: from -0.5 to 0.5."""
    half, weights = replace(TINY, input_range=0.5), awake(TINY)
    assert SDVAESpec.from_config(half.to_config()) == half
    assert "input_range" not in TINY.to_config(), "diffusers does not know the key"
    video = backend.asarray(np.tanh(normal((1, 3, 2, 16, 16), 1, "video")))
    whole, other = backend.build(TINY, weights), backend.build(half, weights)
    with backend.inference():
        latents = whole.encode(0.5 * video).latents
        np.testing.assert_array_equal(*map(backend.to_numpy, (latents, other.encode(video).latents)))
        np.testing.assert_array_equal(*map(backend.to_numpy, (2 * whole.decode(latents), other.decode(latents))))


def test_pixels_that_fill_no_latent_are_lost(backend: Backend) -> None:
    assert TINY.compression.latent(VideoShape(3, 20, 31)) == (3, 2, 3)
    with pytest.raises(ShapeError, match="height = 7: needs at least 8 pixels"):
        TINY.compression.latent(VideoShape(3, 7, 16))
    vae: Any = backend.build(TINY, awake(TINY))
    with backend.inference():
        assert vae.encode(backend.asarray(np.zeros((1, 3, 3, 20, 31), np.float32))).latents.shape == (1, 4, 3, 2, 3)


def test_scales_are_those_of_diffusers() -> None:
    assert SDVAESpec().scale == (0.18215,) * 4
    spec = SDVAESpec.from_config({"scaling_factor": 0.5, "latents_std": [1, 2, 4, 5], "shift_factor": None})
    assert spec.scale == (0.5, 0.25, 0.125, 0.1)
    assert spec.calibrated([1, 2, 3, 4], [2, 2, 4, 4]).scale == (0.5, 0.5, 0.25, 0.25)
    with pytest.raises(ConfigError, match="use_quant_conv = False"):
        SDVAESpec.from_config({"use_quant_conv": False})
