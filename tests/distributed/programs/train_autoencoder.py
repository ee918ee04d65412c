"""Trains a tiny WFVAE and its discriminator on the ranks that were started, or on one process: BACKEND FOLDER DTYPE...

Writes FOLDER/<dtype>-on-<ranks>/: what the steps reported, and the saved state.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from writing import save

from duosora.core.layout import FreshWeights
from duosora.core.models.patch_discriminator import PatchDiscriminatorSpec
from duosora.core.models.wfvae import TINY
from duosora.core.parallel.launched import launched
from duosora.core.random import normal
from duosora.core.seam.backend import Backend, get
from duosora.core.seam.ranks import Ranks, make_plan
from duosora.core.seam.training import AdamW, AutoencoderBatch, AutoencoderLosses, Companion, TrainOptions

SPEC = replace(TINY, base_channels=4, encoder_energy_flow_hidden_size=4, decoder_energy_flow_hidden_size=4)
JUDGE = PatchDiscriminatorSpec(base_channels=4, num_layers=2)
LOSSES = AutoencoderLosses(pair_weights={"wavelet": 0.1}, discriminator_max_grad_norm=0.2)
OPTIONS = TrainOptions(optimizer=AdamW(eps=1e-6), max_grad_norm=0.5, frozen=("encoder.conv_in",))
LR, DECAY, STEPS, MICRO_BATCHES = 1e-3, 0.9, 6, 4


def batch(number: int, update: str) -> AutoencoderBatch:
    video = np.tanh(normal((1, 3, 5, 16, 16), 1, "video", number))
    noise = {"latent": normal((1, 8, 2, 2, 2), 1, "posterior", number)}
    return AutoencoderBatch(video, noise, update, number >= MICRO_BATCHES)


def run(backend: Backend, ranks: Ranks, dtype: str, folder: Path) -> None:
    judge = Companion(JUDGE, FreshWeights(JUDGE.layout(), 1))
    options = replace(OPTIONS, dtype=dtype)
    trainer = backend.train_autoencoder(SPEC, FreshWeights(SPEC.layout(), 0), LOSSES, options, judge, ranks=ranks)
    reports = []
    for step in range(STEPS):
        update = "discriminator" if step % 2 else "generator"
        numbers = range(step * MICRO_BATCHES, (step + 1) * MICRO_BATCHES)
        own = list(numbers)[ranks.plan.place(ranks.rank).data :: ranks.plan.data]
        report = trainer.step([batch(number, update) for number in own], LR, DECAY)
        reports.append({"grad_norm": report.grad_norm, "applied": report.applied} | report.parts)
    broken = batch(1000, "discriminator")
    if ranks.rank == ranks.plan.world - 1:  # seen by one rank only
        broken.video[0] = np.nan
    said = {"evaluated": trainer.evaluate(batch(2000, "generator"), use_ema=True), "reports": reports}
    assert len(set(ranks.world.share(json.dumps(said).encode()))) == 1, "ranks report different things"
    save(trainer, ranks, folder, ("optimizer", "discriminator_optimizer", "discriminator"))
    said["refused"] = trainer.step([broken] * (MICRO_BATCHES // ranks.plan.data), LR, DECAY).applied
    if ranks.is_first:
        (folder / "said.json").write_text(json.dumps(said))


def main(backend_name: str, folder: str, *dtypes: str) -> None:
    backend = get(backend_name, "cpu")
    ranks = backend.connect(make_plan(launched().world))
    for dtype in dtypes:
        run(backend, ranks, dtype, Path(folder) / f"{dtype}-on-{ranks.plan.world}")


if __name__ == "__main__":
    main(*sys.argv[1:])
