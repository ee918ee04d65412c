"""The plain PyTorch forms in benchmarks/ give the numbers of the backend, so that times and memory can be compared."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from duosora.core import random, samplers
from duosora.core.layout import FreshWeights, GivenWeights
from duosora.core.models import opensora_t2v, stdit3, t5, wfvae
from duosora.core.pipelines.autoencode import DecodeOptions, decode_chunks
from duosora.core.pipelines.denoise import Guidance, denoise
from duosora.core.samplers.schedule import Schedule
from duosora.core.seam.backend import get
from duosora.core.seam.models import Given
from duosora.core.seam.training import AdamW, AutoencoderBatch, AutoencoderLosses, DiffusionBatch, TrainOptions
from duosora.core.shapes import LatentShape

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
BACKEND = get("torch", "cpu")
T2V = replace(opensora_t2v.TINY, num_layers=4, in_channels=4, out_channels=4)
GROUPED = replace(
    wfvae.TINY,
    base_channels=32,
    encoder_energy_flow_hidden_size=32,
    decoder_energy_flow_hidden_size=32,
    norm_type="groupnorm",
    t_interpolation="nearest",
)
TOLERANCE = 1e-5
"""Of the largest number; both are float32 and differ by the order of their sums."""
EPS = 1e-6
"""Of the optimiser. Keys of the text have biases without a gradient; a smaller one would make steps of its noise."""


@pytest.fixture(scope="module", autouse=True)
def plain() -> Any:
    """benchmarks/ on the path, as its scripts have it."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def form(name: str) -> ModuleType:
    return importlib.import_module(f"plain.{name}")


def tensor(shape: tuple[int, ...], purpose: str) -> torch.Tensor:
    return torch.from_numpy(random.normal(shape, 0, purpose))


def check(found: Any, expected: Any) -> None:
    expected = np.asarray(expected)
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("latent", [(3, 8, 8), (1, 6, 10)], ids=["whole groups", "padded groups"])
def test_transformer(sparse: bool, latent: tuple[int, int, int]) -> None:
    spec = replace(T2V, sparse1d=sparse)
    weights = FreshWeights(spec.layout(), 0)
    latents, text = tensor((2, 4, *latent), "latents"), tensor((2, 7, spec.caption_channels), "text")
    mask, timestep = torch.tensor([[1.0] * 7, [1.0] * 4 + [0.0] * 3]), torch.tensor([500.0, 20.0])
    model = form("loading").load(form("opensora_t2v").OpenSoraT2V, spec, weights)
    with torch.inference_mode():
        found = model(latents, timestep, text, mask)
        ours = BACKEND.build(spec, weights)
        condition = ours.condition(Given(text=text.numpy(), text_mask=mask.numpy()), LatentShape(*latent))
        check(found, ours(latents, timestep, condition))


def test_spatial_and_temporal_transformer() -> None:
    fresh = FreshWeights(stdit3.TINY.layout(), 0)
    spread = {name: random.normal(fresh[name].shape, 0, name) * 0.02 for name in fresh if name != "rope.freqs"}
    # Many start as zeros.
    weights = GivenWeights({name: fresh[name] + spread.get(name, 0.0) for name in fresh}, "a test")
    latents, text = tensor((2, 4, 3, 6, 7), "latents"), tensor((2, 5, 64), "text")
    mask, timestep = torch.tensor([[1.0] * 5, [1.0] * 3 + [0.0] * 2]), torch.tensor([500.0, 20.0])
    facts = {"fps": torch.tensor([24.0, 8.0]), "height": torch.full((2,), 48.0), "width": torch.full((2,), 56.0)}
    model = form("loading").load(form("stdit3").STDiT3, stdit3.TINY, weights)
    given = Given(text=text.numpy(), text_mask=mask.numpy(), **{name: value.numpy() for name, value in facts.items()})
    with torch.inference_mode():
        found = model(latents, timestep, text, mask, **facts)
        ours = BACKEND.build(stdit3.TINY, weights)
        check(found, ours(latents, timestep, ours.condition(given, LatentShape(3, 6, 7))))


def test_text_encoder() -> None:
    weights = FreshWeights(t5.TINY.layout(), 0)
    ids, mask = torch.arange(24).reshape(2, 12), torch.tensor([[1.0] * 12, [1.0] * 7 + [0.0] * 5])
    model, ours = form("loading").load(form("t5").T5Encoder, t5.TINY, weights), BACKEND.build(t5.TINY, weights)
    with torch.inference_mode():
        check(model(ids, mask) * mask[:, :, None], ours(ids, mask) * mask[:, :, None])


def test_guided_sampling() -> None:
    weights, latent = FreshWeights(T2V.layout(), 0), LatentShape(2, 8, 8)
    text = tensor((2, 5, T2V.caption_channels), "text")
    initial = random.normal((1, 4, *latent), 0, "latents")
    sampler = samplers.create("euler_ancestral", 4, objective="v_prediction", schedule=Schedule(zero_terminal_snr=True))

    def noise(i: int) -> np.ndarray:
        return random.normal((1, 4, *latent), 0, "step noise", step=i)

    model = form("loading").load(form("opensora_t2v").OpenSoraT2V, T2V, weights)
    with torch.inference_mode():
        found = form("sampling").sample(
            model,
            torch.from_numpy(initial),
            text,
            torch.ones(2, 5),
            sampler.timesteps.tolist(),
            sampler.sigmas.tolist(),
            7.5,
            lambda i: torch.from_numpy(noise(i)),
        )
        ours = BACKEND.build(T2V, weights)
        condition = ours.condition(Given(text=text.numpy()), latent)
        check(found, denoise(BACKEND, ours, condition, initial, sampler, Guidance(7.5), noise))


@pytest.mark.parametrize("spec", [wfvae.TINY, GROUPED], ids=["layernorm", "groupnorm"])
def test_autoencoder(spec: wfvae.WFVAESpec) -> None:
    weights = FreshWeights(spec.layout(), 0)
    video = tensor((2, 3, 9, 32, 16), "video")
    model, ours = form("loading").load(form("wfvae").WFVAE, spec, weights), BACKEND.build(spec, weights)
    with torch.inference_mode():
        mean, log_variance = model.encode(video)
        encoded = ours.encode(video)
        check(mean, encoded.latents)
        check(log_variance, encoded.moments["latent"][:, mean.shape[1] :])
        check(model.decode(mean), ours.decode(mean))


def test_decoding_in_tiles() -> None:
    weights, latents = FreshWeights(wfvae.TINY.layout(), 0), tensor((1, 8, 5, 4, 4), "latents")
    model, ours = form("loading").load(form("wfvae").WFVAE, wfvae.TINY, weights), BACKEND.build(wfvae.TINY, weights)
    with torch.inference_mode():
        whole = model.decode(latents)
        check(model.tiled_decode(latents), whole)
        chunks = decode_chunks(BACKEND, ours, wfvae.TINY, latents.numpy(), DecodeOptions(chunk=2))
        check(np.concatenate(list(chunks), 2), whole)
        check(model.decode(latents), whole)


def test_training_of_the_transformer() -> None:
    weights, latent = FreshWeights(T2V.layout(), 0), (2, 8, 8)
    latents, noise = tensor((2, 4, *latent), "latents"), tensor((2, 4, *latent), "noise")
    text, timesteps = tensor((2, 5, T2V.caption_channels), "text"), torch.tensor([100.0, 700.0])
    alpha = torch.tensor([0.9, 0.3])
    training = form("training")
    trainer = training.Trainer(form("loading").load(form("opensora_t2v").OpenSoraT2V, T2V, weights), lr=1e-3, eps=EPS)
    signal, spread = (alpha**0.5).double().numpy(), ((1 - alpha) ** 0.5).double().numpy()
    batch = DiffusionBatch(
        latents.numpy(),
        noise.numpy(),
        timesteps.double().numpy(),
        signal=signal,
        spread=spread,
        of_clean=-spread,
        of_noise=signal,
        weights=np.ones(2),
        given=Given(text=text.numpy()),
    )
    ours = BACKEND.train_denoiser(T2V, weights, TrainOptions(optimizer=AdamW(eps=EPS)))
    for _ in range(2):
        loss = trainer.step(
            lambda model: training.diffusion_loss(model, latents, noise, alpha, timesteps, text, torch.ones(2, 5)), 0.9
        )
        assert loss == pytest.approx(ours.step([batch], 1e-3, 0.9).loss, rel=TOLERANCE)
    average = dict(zip([name for name, _ in trainer.model.named_parameters()], trainer.average, strict=True))
    for name, expected in ours.saved().weights(use_ema=True).items():
        np.testing.assert_allclose(average[name], expected, rtol=0, atol=1e-5, err_msg=name)


def test_training_of_the_autoencoder() -> None:
    weights = FreshWeights(wfvae.TINY.layout(), 0)
    video, noise = tensor((1, 3, 5, 16, 16), "video"), tensor((1, 8, 2, 2, 2), "noise")
    training = form("training")
    trainer = training.Trainer(form("loading").load(form("wfvae").WFVAE, wfvae.TINY, weights), lr=1e-4)
    ours = BACKEND.train_autoencoder(wfvae.TINY, weights, AutoencoderLosses(), TrainOptions())
    batch = AutoencoderBatch(video.numpy(), {"latent": noise.numpy()}, "generator", adversarial=False)
    for _ in range(2):
        loss = trainer.step(lambda model: training.autoencoder_loss(model, video, noise), 0.9)
        assert loss == pytest.approx(ours.step([batch], 1e-4, 0.9).loss, rel=TOLERANCE)
