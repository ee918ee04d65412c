"""Open-Sora 1.0 to 1.2 and PixArt on both backends, with small models in published folders; no weights are trifles."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import duosora
from duosora.core.io.images import write_image
from duosora.core.io.video import write_video
from duosora.core.io.weights import save_weights
from duosora.core.layout import Constant
from duosora.core.models.finding import TINY_FOLDER, open_part
from duosora.core.random import normal

LATENTS = 1e-5
"""Of their range. The same in float32, summed in another order, many steps with guidance long."""
PARTS = {
    "opensora_v1_2": ("stdit3_tiny", "opensora_vae_tiny"),
    "opensora_v1_1": ("stdit2_tiny", "sd_vae_tiny"),
    "opensora_v1_0": ("stdit_tiny", "sd_vae_tiny"),
    "opensora_v1_0_pooled": ("video_dit_tiny", "sd_vae_tiny"),
    "pixart_alpha": ("pixart_ms_tiny", "sd_vae_tiny"),
}
SETTINGS = {"height": 24, "width": 40, "max_tokens": 32}
OF_1_2 = {"steps": 20, "frames": 20}
"""15 tokens in each of 6 latent frames: a group of 17 frames and a shorter one."""
OF_1_1 = {"steps": 12, "frames": 8, "width": 44}
"""The last 4 columns of pixels fill no latent, and 5 latents no patches of two."""

Models = Callable[[str], Path]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Folders of the models of recipes; weights that start as zeros are others here, so that every layer counts."""
    root, made = tmp_path_factory.mktemp("models"), {}

    def of(recipe: str) -> Path:
        if recipe not in made:
            made[recipe] = root / recipe
            _write(root / recipe, *PARTS[recipe])
        return made[recipe]

    return of


def _write(root: Path, denoiser: str, vae: str) -> None:
    for kind, preset in (("denoiser", denoiser), ("vae", vae), ("text_encoder", "tiny")):
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


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, drawn = tmp_path_factory.mktemp("media"), np.random.default_rng(0)
    write_image(folder / "a.png", drawn.integers(0, 255, (24, 44, 3)).astype(np.uint8))
    write_video(folder / "b.mp4", list(drawn.integers(0, 255, (6, 24, 44, 3)).astype(np.uint8)), 8)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "settings", "given", "latents"),
    [
        pytest.param("opensora_v1_2", OF_1_2, None, (6, 3, 5), id="1.2"),
        pytest.param("opensora_v1_2", OF_1_2, {"reference_path": "a.png", "mask_strategy": "0"}, (6, 3, 5), id="1.2i"),
        pytest.param("opensora_v1_1", OF_1_1, None, (8, 3, 5), id="1.1"),
        pytest.param(
            "opensora_v1_1",
            OF_1_1,
            {"reference_path": "a.png;b.mp4", "mask_strategy": "0;0,0,0,-1,1;0,1,1,2,4,0.4"},
            (8, 3, 5),
            id="1.1 connects and edits",
        ),
        pytest.param("opensora_v1_1", {**OF_1_1, "loop.count": 3}, None, (24, 3, 5), id="1.1 goes on"),
        pytest.param("opensora_v1_0", {"steps": 20, "frames": 4, "width": 48, "height": 32}, None, (4, 4, 6), id="1.0"),
        pytest.param("opensora_v1_0_pooled", {"steps": 20, "frames": 4}, None, (4, 3, 5), id="1.0 DiT"),
        pytest.param("pixart_alpha", {"steps": 20}, None, (1, 3, 5), id="pixart"),
    ],
)
def test_both_backends_make_the_same_video(
    models: Models,
    media: Path,
    recipe: str,
    settings: dict[str, Any],
    given: dict[str, str] | None,
    latents: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(media)
    folder, made = models(recipe), []
    prompt = f"a red ring moves left{json.dumps(given) if given else ''}"
    chosen = {**SETTINGS, **settings, "model.text_encoder": str(folder / "text_encoder")}
    for backend in ("torch", "mindspore"):
        pipe = duosora.load(recipe, models=folder, backend=backend, device="cpu", settings=chosen)
        made.append(pipe(prompt, seed=3))
    first, second = made
    assert first.latents.shape == (4, *latents)
    assert first.frames.std() > 10
    assert np.abs(first.latents - second.latents).max() <= LATENTS * np.ptp(first.latents)
    assert np.abs(first.frames.astype(int) - second.frames).max() <= 1


def test_clips_of_1_1_share_frames(models: Models) -> None:
    settings, folder = {**SETTINGS, **OF_1_1, "steps": 2, "loop.count": 3}, models("opensora_v1_1")
    pipe = duosora.load("opensora_v1_1", models=folder, backend="torch", device="cpu", settings=settings)
    video = pipe("|0|a red ring|1|a blue ring", seed=3)
    assert video.frames.shape == (8 + 2 * (8 - 4), 24, 40, 3)
    assert video.fps == 8
    clips = np.split(video.latents, 3, axis=1)
    assert video.latents.shape[1] == 24
    # the clip before is decoded and encoded again, so the shared frames are alike, not equal
    assert np.abs(clips[1][:, :4] - clips[0][:, -4:]).max() < np.abs(clips[1][:, 4:] - clips[0][:, :4]).max()
