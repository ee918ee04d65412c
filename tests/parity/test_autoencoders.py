"""One data set, one denoiser, any autoencoder: trained and sampled alike by both backends, latents cached or not."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import duosora
from duosora.core.config.loading import load
from duosora.core.config.training import TrainConfig
from duosora.core.models.opensora_t2v import PRESETS, OpenSoraT2VSpec
from duosora.core.seam.backend import NAMES
from duosora.core.train.cache_run import LatentCacheRun
from duosora.core.train.run import TrainRun

pytestmark = pytest.mark.slow
CHANNELS = {"pixels": 3, "vqvae_tiny": 8, "sd_vae_tiny": 4, "tiny": 8, "tiny_v1_2": 8}
"""Of the latents of each autoencoder; the last two are a WFVAE and an OpenSoraVAE."""
PROMPT = "a small blue ring moves up on a pink background"


def denoiser(folder: Path, channels: int) -> Path:
    """A folder with the config.json of a denoiser of so many channels, and no weights yet."""
    tiny: OpenSoraT2VSpec = PRESETS["tiny"]
    small = replace(tiny, num_layers=1, num_attention_heads=1, in_channels=channels, out_channels=channels)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(replace(small, sparse1d=False).to_config()))
    return folder


def settings(folder: Path, autoencoder: str) -> TrainConfig:
    begun = denoiser(folder / "begun", CHANNELS[autoencoder])
    asked = [f"model={{denoiser: {begun}, text_encoder: tiny, vae: {autoencoder}}}", "start.fresh=true"]
    asked += ["data={kind: moving_shapes, frames: 5, height: 16, width: 16, workers: 0, drawn_clips: 2}"]
    asked += ["batch_size=2", "max_steps=1", "learning_rate={peak: 1.0e-3}", "compute={device: cpu}"]
    return load(None, TrainConfig, asked)


@pytest.mark.parametrize("autoencoder", CHANNELS)
def test_a_denoiser_learns_and_makes_the_latents_of_any_autoencoder(autoencoder: str, tmp_path: Path) -> None:
    config = settings(tmp_path, autoencoder)
    losses, latents, frames = [], [], []
    for name in NAMES:
        changed = {"folder": tmp_path / name, "compute": config.compute.model_copy(update={"name": name})}
        if name == "torch" and autoencoder != "tiny_v1_2":  # which draws twice; the other one encodes in each step
            changed["caches"] = config.caches.model_copy(update={"latents": tmp_path / "latents"})
        run = config.model_copy(update=changed)
        if run.caches.latents:
            LatentCacheRun(run).run()
        TrainRun(run).run(lambda step, report: losses.append(report.loss), say=lambda line: None)
        pipe = duosora.load(tmp_path / name, backend=name, device="cpu", settings={"steps": 2})
        made = pipe(PROMPT, seed=1)
        latents.append(made.latents)
        frames.append(made.frames.astype(int))
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    np.testing.assert_allclose(latents[1], latents[0], atol=1e-3 * np.abs(latents[0]).max())
    assert frames[0].shape[0] == (4 if autoencoder == "vqvae_tiny" else 5), "as many as it takes"
    assert np.abs(frames[1] - frames[0]).max() <= 2
