"""A training step asks the device for no number, and what the device decides is what the host would have."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from duosora.backends.torch.optimization import Optimization
from duosora.core.layout import FreshWeights
from duosora.core.models.patch_discriminator import PatchDiscriminatorSpec
from duosora.core.models.wfvae import TINY
from duosora.core.random import normal
from duosora.core.seam.backend import get
from duosora.core.seam.training import AdamW, AutoencoderBatch, AutoencoderLosses, Companion, TrainOptions

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "backends")]
import flows
from waits import Waits

VAE = replace(TINY, base_channels=4, encoder_energy_flow_hidden_size=4, decoder_energy_flow_hidden_size=4)
JUDGE = PatchDiscriminatorSpec(base_channels=4, num_layers=2)


def denoiser(**options: Any) -> Any:
    return get("torch", "cpu").train_denoiser(flows.SPEC, flows.awake(flows.SPEC), TrainOptions(**options))


def autoencoder() -> Any:
    judge = Companion(JUDGE, FreshWeights(JUDGE.layout(), 1))
    losses = AutoencoderLosses(pair_weights={"wavelet": 0.1})
    return get("torch", "cpu").train_autoencoder(VAE, FreshWeights(VAE.layout(), 0), losses, TrainOptions(), judge)


def clip(update: str) -> AutoencoderBatch:
    video, noise = normal((1, 3, 5, 16, 16), 1, "video"), normal((1, 8, 2, 2, 2), 1, "posterior")
    return AutoencoderBatch(np.tanh(video), {"latent": noise}, update, True)


@pytest.mark.parametrize(
    ("make", "batches"),
    [
        (denoiser, [flows.batch(3), flows.batch(1)]),
        (lambda: denoiser(dtype="bf16", recompute_every=1), [flows.batch(3)]),
        (autoencoder, [clip("generator")] * 2),
        (autoencoder, [clip("discriminator")]),
    ],
    ids=["denoiser", "bf16 and recomputed", "generator", "discriminator"],
)
def test_a_step_waits_for_nothing_before_its_report_is_looked_at(make: Callable[[], Any], batches: list[Any]) -> None:
    trainer = make()
    for number in range(3):  # the first makes the optimiser's state, and averages begin in another way
        with Waits() as waits:
            report = trainer.step(batches, 1e-3, (0.1, 0.9, None)[number], lambda: float("inf"))
        assert waits.found == []
        with Waits():
            assert report.applied
            assert report.loss > 0


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.5, 0.9, 0.9999])
def test_the_average_moves_as_torch_lerps_unless_the_step_is_left_out(decay: float) -> None:
    weights = {name: torch.nn.Parameter(torch.from_numpy(normal(shape, 0, name))) for name, shape in SHAPES.items()}
    optimization = Optimization(weights, AdamW(), device="cpu", keeps_ema=True)
    for number, is_finite in enumerate((True, False, True)):
        before = {name: value.clone() for name, value in (weights | optimization.shadows).items()}
        kept = {name: shadow.clone() for name, shadow in optimization.shadows.items()}
        optimization.backward(sum((value * (number + 1)).square().sum() for value in weights.values()))
        update = optimization.update(0.1, decay, float("inf"), torch.tensor(is_finite))
        assert bool(update.applied) is is_finite
        for name, shadow in optimization.shadows.items():
            expected = torch.lerp(kept[name], weights[name].detach(), 1.0 - decay) if is_finite else kept[name]
            torch.testing.assert_close(shadow, expected, rtol=1.2e-7, atol=0 if decay < 0.5 else 1e-7)
            assert is_finite or torch.equal(shadow, before[name])


SHAPES = {"matrix": (33, 17), "row": (5,), "one": (1,)}


def test_a_limit_is_asked_for_behind_the_gradients_and_may_raise() -> None:
    trainer = denoiser()
    trainer.step([flows.batch(3)], 1e-3)
    before = {name: array.copy() for name, array in trainer.saved().weights(False).items()}
    learned = trainer.optimization.parameters.values()

    def limit() -> float:
        assert any(parameter.grad is not None for parameter in learned)
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        trainer.step([flows.batch(3)], 1e-3, None, limit)
    after = trainer.saved().weights(False)
    assert all(np.array_equal(after[name], array) for name, array in before.items())
    assert not trainer.step([flows.batch(3)], 1e-3, None, lambda: 1e-9).applied
