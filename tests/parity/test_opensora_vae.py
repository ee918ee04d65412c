"""OpenSoraVAE's gradients: those of torch and of MindSpore, through both posteriors, for every weight."""

import mindspore
import numpy as np
import pytest
import torch

from duosora.core.layout import FreshWeights
from duosora.core.models.opensora_vae import PRESETS
from duosora.core.seam.backend import Backend, get
from duosora.core.shapes import VideoShape

TINY = PRESETS["opensora_vae_tiny"]
LIMIT = 1e-4
"""Of the largest value of each weight's gradient, through the whole model."""


def gradients(backend: Backend, frames: int) -> dict[str, np.ndarray]:
    """Of sums of everything that a loss looks at, each number of it times one of its own."""
    vae = backend.build(TINY, FreshWeights(TINY.layout(), 0))
    draw = np.random.default_rng(frames)

    def new(*shape: int) -> object:
        return backend.asarray(draw.standard_normal(shape, np.float32))

    latent = TINY.compression.latent(VideoShape(frames, 16, 24))
    video = new(1, 3, frames, 16, 24)
    noise = {"spatial": new(1, 4, frames, 2, 3), "temporal": new(1, 4, *latent)}
    slopes = [new(1, 3, frames, 16, 24), new(1, 4, *latent), new(1, 8, *latent), new(1, 4, frames, 2, 3)]

    def total() -> object:
        pixels, latents, moments, pairs = vae.reconstruct(video, noise)[:4]
        results = (pixels, latents, moments["temporal"], pairs["spatial"][1])
        return sum((result * slope).sum() for result, slope in zip(results, slopes, strict=True))

    if backend.name == "torch":
        parameters = dict(vae.named_parameters())
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        found = torch.autograd.grad(total(), list(parameters.values()))
    else:
        parameters = {parameter.name: parameter for parameter in vae.get_parameters()}
        for parameter in parameters.values():
            parameter.requires_grad = True
        _, found = mindspore.value_and_grad(total, None, list(parameters.values()))()
    return {name: backend.to_numpy(gradient) for name, gradient in zip(parameters, found, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("frames", [1, 20])
def test_gradients_of_both_backends_are_the_same(frames: int) -> None:
    torchs, mindspores = (gradients(get(name, "cpu"), frames) for name in ("torch", "mindspore"))
    assert torchs.keys() == mindspores.keys()
    largest = max(np.abs(gradient).max() for gradient in torchs.values())
    for name, gradient in torchs.items():
        # The biases of keys have no gradient but rounding.
        limit = LIMIT * np.abs(gradient).max() + 1e-7 * largest
        np.testing.assert_allclose(mindspores[name], gradient, rtol=0, atol=limit, err_msg=name)
    assert len(torchs) == len(TINY.layout()) - 2
