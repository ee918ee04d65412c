"""The trained tiny models that come with the project: they follow prompts that they were never trained on."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from duosora.core import random
from duosora.core.config.loading import load
from duosora.core.config.schema import SampleConfig
from duosora.core.data.moving_shapes import held_out_scenes, render
from duosora.core.data.shape_judge import Tally
from duosora.core.evaluate.judge import held_out_prompts, judging_run
from duosora.core.maths import gaussian
from duosora.core.maths.metrics import psnr
from duosora.core.maths.pixels import from_uint8, to_uint8
from duosora.core.models import FAMILIES
from duosora.core.models.finding import TRAINED, open_part
from duosora.core.pipelines.autoencode import decode_chunks, encode_chunks
from duosora.core.seam.backend import Backend, get

NUM_PROMPTS = 64
LEAST = {
    "tiny": {"colour": 0.95, "background": 0.95, "size": 0.95, "direction": 0.95, "shape": 0.8, "all": 0.75},
    "tiny_v1_2": {"colour": 0.9, "background": 0.9, "size": 0.9, "direction": 0.9, "shape": 0.75},
}
"""What they are for: a newcomer's first prompt is followed."""
LEAST_PSNR = {"tiny": 30, "tiny_v1_2": 26}
MEASURED = {"tiny": ("scale", "shift"), "tiny_v1_2": ("mean", "spread")}
"""Of the autoencoder's latents, after training."""
EACH = pytest.mark.parametrize("name", TRAINED)


@pytest.fixture(scope="module")
def backend() -> Backend:
    return get("torch", "cpu")


@pytest.mark.slow
@EACH
def test_it_follows_prompts_of_scenes_that_it_never_saw(name: str) -> None:
    config = load(None, SampleConfig, [f"model.denoiser={name}", "backend.device=cpu"])
    asked = held_out_prompts(NUM_PROMPTS)
    run = judging_run(config, asked)
    clips = [run.frames(job, latent) for job, latent in run.latents()]
    rates = Tally.of((each.scene, frames) for each, frames in zip(asked, clips, strict=True)).rates()
    assert {kind: rates[kind] for kind, least in LEAST[name].items() if rates[kind] < least} == {}


@EACH
def test_its_autoencoder_keeps_held_out_clips(backend: Backend, name: str) -> None:
    part = open_part("vae", name)
    vae = backend.build(part.spec, part.open())
    values = []
    for number, scene in enumerate(held_out_scenes()[::3]):
        frames = render(scene, random.stream(9, "held-out clip", number))
        video = from_uint8(frames.transpose(3, 0, 1, 2)[None])
        mean, _ = gaussian.split_moments(encode_chunks(backend, vae, part.spec, video))
        pieces = decode_chunks(backend, vae, part.spec, mean, num_frames=len(frames))
        decoded = np.concatenate(list(pieces), axis=2)
        values.append(psnr(to_uint8(decoded)[0], frames).mean())
    assert np.mean(values) >= LEAST_PSNR[name]


@EACH
def test_it_is_the_preset_with_trained_weights(name: str) -> None:
    families = [family for family in FAMILIES if name in family.presets]
    assert {family.kind for family in families} == {"denoiser", "text_encoder", "vae"}
    for family in families:
        part = open_part(family.kind, name)
        assert not part.is_fresh
        assert part.source == name
        preset = expected = family.presets[name]
        if family.kind == "vae":
            expected = replace(preset, **{key: getattr(part.spec, key) for key in MEASURED[name]})
            assert part.spec != preset
        assert part.spec == expected


@EACH
def test_its_files_are_small_and_those_of_its_card(name: str) -> None:
    files = sorted(TRAINED[name].rglob("*.safetensors"))
    assert len(files) == 3
    assert sum(file.stat().st_size for file in files) <= 12e6
    card = (TRAINED[name] / "README.md").read_text(encoding="utf-8")
    for file in files:
        assert hashlib.sha256(file.read_bytes()).hexdigest() in card, file
