"""Twenty steps of Open-Sora 1.2 on both backends, with small models in published folders; no weights are trifles."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import duosora
from duosora.core.io.images import write_image
from duosora.core.io.weights import save_weights
from duosora.core.layout import Constant
from duosora.core.models.finding import TINY_FOLDER, open_part
from duosora.core.random import normal

LATENTS = 1e-5
"""Of their range. The same in float32, summed in another order, 20 steps with guidance long."""
SETTINGS = {"steps": 20, "frames": 20, "height": 24, "width": 40, "max_tokens": 32}
"""15 tokens in each of 6 latent frames: a group of 17 frames and a shorter one."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models; weights that start as zeros are others here, so that every layer counts."""
    root = tmp_path_factory.mktemp("models")
    for kind, preset in (("denoiser", "stdit3_tiny"), ("vae", "opensora_vae_tiny"), ("text_encoder", "tiny")):
        part, folder = open_part(kind, preset), root / kind
        layout, weights = part.layout, part.open()
        drawn = {
            name: weights[name]
            if isinstance(layout[name].init, Constant) or weights[name].any()
            else 0.1 * normal(weights.shape(name), 1, name)
            for name in weights
        }
        save_weights(folder, drawn)
        (folder / "config.json").write_text(json.dumps(part.spec.to_config()))
    shutil.copy(TINY_FOLDER / "spiece.model", root / "text_encoder")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("has_picture", [False, True], ids=["text", "picture"])
def test_both_backends_make_the_same_video(models: Path, tmp_path: Path, has_picture: bool) -> None:
    write_image(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (24, 40, 3)).astype(np.uint8))
    images = [tmp_path / "a.png"] if has_picture else []
    made = []
    for backend in ("torch", "mindspore"):
        pipe = duosora.load("opensora_v1_2", models=models, backend=backend, device="cpu", settings=SETTINGS)
        made.append(pipe("a red ring moves left", seed=3, images=images))
    first, second = made
    assert first.latents.shape == (4, 6, 3, 5)
    assert first.frames.shape == (20, 24, 40, 3)
    assert first.frames.std() > 10
    assert np.abs(first.latents - second.latents).max() <= LATENTS * np.ptp(first.latents)
    assert np.abs(first.frames.astype(int) - second.frames).max() <= 1
