"""Batches for the denoiser of a case, and what a few train steps on them leave: made of nothing but what its spec says
of itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from family_cases import BATCH, DENOISERS, DenoiserCase, awake

from duosora.core.layout import FreshWeights, GivenWeights, Weights
from duosora.core.models.lora.adapter import ALL_LINEAR, Adapter, adapter_layout, chosen
from duosora.core.random import normal
from duosora.core.seam.backend import Backend
from duosora.core.seam.models import Given
from duosora.core.seam.ranks import Ranks
from duosora.core.seam.training import AdamW, DiffusionBatch, StepReport, TrainOptions
from duosora.core.train.objectives import DiffusionObjective

LR, DECAY, MICRO_BATCHES = 1e-2, 0.9, 2
TARGETS = (ALL_LINEAR, "*embed*.proj")
"""Of LoRA: all that the families have between them, convolutions of patches among them."""
OPTIONS = TrainOptions(optimizer=AdamW(eps=1e-2), max_grad_norm=0.5)
"""An eps so large that no step is made of rounding alone, as where a key's bias changes nothing."""


def batch(case: DenoiserCase, number: int) -> DiffusionBatch:
    """With clean frames where the denoiser reads those, and with a bound where it predicts its variance."""
    spec, size = case.spec, case.sizes[0]
    samples = range(BATCH * number, BATCH * (number + 1))
    given = _turned(case.given(spec, size), number)
    objective = DiffusionObjective(kind="epsilon", bound="hybrid" if spec.output == "mean_and_range" else "none")

    def drawn(channels: int, name: str) -> np.ndarray:
        return np.stack([normal((channels, *size), 1, name, sample) for sample in samples])

    return DiffusionBatch(
        latents=drawn(spec.latent_channels, "clean"),
        noise=drawn(spec.latent_channels, "noise"),
        given=given,
        condition=drawn(spec.further_channels, "condition") if spec.further_channels else None,
        **objective.draw(1, samples, number, moves=given.frame_mask)._asdict(),
    )


def _turned(given: Given, number: int) -> Given:
    """In every other batch the last sample is the first."""
    order = slice(None, None, -1) if number % 2 else slice(None)
    return Given(**{name: value[order] for name, value in vars(given).items() if value is not None})


def _own(spec: Any) -> GivenWeights:
    """Weights that training may change: those of `awake` are everybody's."""
    held = awake(spec)
    return GivenWeights({name: held[name].copy() for name in held}, held.source)


def with_adapters(case: DenoiserCase, targets: tuple[str, ...] = TARGETS) -> TrainOptions:
    """The options of training LoRA beside some layers of a case's model."""
    layout = case.spec.layout()
    adapters = dict.fromkeys(chosen(layout, case.spec.blocks(), targets), Adapter(3, 6.0))
    return replace(OPTIONS, adapters=adapters, only=frozenset(adapter_layout(layout, adapters)))


def beside(case: DenoiserCase, options: TrainOptions, is_awake: bool = True) -> GivenWeights:
    """The weights of a case's model and of its adapters; is_awake: B is not zero, as after some steps."""
    layout = adapter_layout(case.spec.layout(), options.adapters)
    fresh, own = FreshWeights(layout, 0), _own(case.spec)
    drawn = {name: fresh[name] + is_awake * np.float32(0.1) * normal(fresh.shape(name), 4, name) for name in fresh}
    return GivenWeights({**own, **drawn}, own.source)


LORA = "lora-"
"""Before the name of a case: not its model is trained."""


def lora_run(backend: Backend, name: str, ranks: Ranks) -> Run:
    """LoRA of a case in training."""
    case = DENOISERS[name.removeprefix(LORA)]
    options = with_adapters(case)
    return Run(backend, case, ranks, beside(case, options), options)


class Run:
    """A denoiser in training, on one process or as one rank of several."""

    def __init__(
        self,
        backend: Backend,
        case: DenoiserCase,
        ranks: Ranks,
        weights: Weights | None = None,
        options: TrainOptions = OPTIONS,
    ) -> None:
        self.case, self.ranks = case, ranks
        self.trainer: Any = backend.train_denoiser(case.spec, weights or _own(case.spec), options, ranks)

    def step(self, number: int) -> StepReport:
        """The step of that number, of which each data rank has its share."""
        plan = self.ranks.plan
        whole = range(number * MICRO_BATCHES, (number + 1) * MICRO_BATCHES)
        own = list(whole)[plan.place(self.ranks.rank).data :: plan.data]
        report: StepReport = self.trainer.step([batch(self.case, each) for each in own], LR, DECAY)
        assert report.applied
        return report
