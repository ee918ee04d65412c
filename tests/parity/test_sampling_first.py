"""The first release on both backends: each way to tell the text, each compressor, with small models in folders."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import duosora
from duosora.core.io.weights import save_weights
from duosora.core.layout import Constant, FreshWeights
from duosora.core.models.clip_text import VIT_B_32
from duosora.core.models.dit_first import TINY
from duosora.core.models.finding import open_part
from duosora.core.random import normal

LATENTS = 1e-5
"""Of their range, as in test_sampling_1_x."""
SETTINGS = {"steps": 8, "frames": 4}
WORDS = Path(__file__).parents[1] / "goldens" / "clip_text" / "tokenizer"
CLIP = replace(
    VIT_B_32,
    vocab_size=574,
    hidden_size=TINY.text_embed_dim,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
)
"""Of as many words as there are in WORDS."""


def write_models(root: Path, way: str, vae: str) -> None:
    """A denoiser whose every layer counts, a CLIP with its words, and an autoencoder."""
    autoencoder = open_part("vae", vae)
    spec = replace(TINY, model_arch=way, in_channels=autoencoder.spec.latent_channels)
    layout, fresh = spec.layout(), FreshWeights(spec.layout(), 0)
    drawn = {
        name: fresh[name] + (0 if isinstance(layout[name].init, Constant) else 0.1) * normal(fresh.shape(name), 1, name)
        for name in layout
    }
    save_weights(root / "denoiser", drawn)
    (root / "denoiser" / "config.json").write_text(json.dumps(spec.to_config()))
    save_weights(root / "text_encoder", dict(FreshWeights(CLIP.layout(), 0)))
    config = {key: value for key, value in CLIP.to_config().items() if key != "pooled"}  # as published
    (root / "text_encoder" / "config.json").write_text(json.dumps(config))
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(WORDS / name, root / "text_encoder")
    (root / "vae").mkdir()
    (root / "vae" / "config.json").write_text(json.dumps(autoencoder.spec.to_config()))
    if len(autoencoder.layout):
        save_weights(root / "vae", autoencoder.open(), overwrite=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "vae", "size", "latents"),
    [
        ("adaln", "pixels_half", (8, 12), (3, 4, 8, 12)),
        ("cross-attn", "vqvae_tiny", (8, 16), (8, 2, 2, 4)),
        ("token-concat", "sd_vae_tiny", (16, 32), (4, 4, 2, 4)),
    ],
)
def test_both_backends_make_the_same_video(
    tmp_path: Path, way: str, vae: str, size: tuple[int, int], latents: tuple[int, ...]
) -> None:
    write_models(tmp_path, way, vae)
    made = []
    for backend in ("torch", "mindspore"):
        settings = {**SETTINGS, "height": size[0], "width": size[1]}
        pipe = duosora.load("opensora_first", models=tmp_path, backend=backend, device="cpu", settings=settings)
        made.append(pipe("a red ring moves left", seed=3))
    first, second = made
    assert first.latents.shape == latents
    assert np.abs(first.latents - second.latents).max() <= LATENTS * np.ptp(first.latents)
    assert np.abs(first.frames.astype(int) - second.frames).max() <= 1
