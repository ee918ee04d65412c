"""Trains tiny autoencoders on the ranks that were started, or on one process: BACKEND FOLDER FAMILY...

Writes FOLDER/<family>-on-<ranks>/: what the steps reported, and the saved state. A WFVAE learns with its discriminator,
an OpenSoraVAE in its first stage, from single frames in every third step, and a VQVAE with a code book that begins.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from writing import save

from duosora.core.layout import FreshWeights
from duosora.core.maths import codebook
from duosora.core.models.opensora_vae import OpenSoraVAESpec, TemporalVAESpec
from duosora.core.models.patch_discriminator import PatchDiscriminatorSpec
from duosora.core.models.sd_vae import PictureVAESpec
from duosora.core.models.vqvae import VQVAESpec
from duosora.core.models.wfvae import TINY
from duosora.core.parallel.launched import launched
from duosora.core.random import normal
from duosora.core.seam.backend import Backend, get
from duosora.core.seam.ranks import Ranks, make_plan
from duosora.core.seam.training import AdamW, AutoencoderBatch, AutoencoderLosses, Companion, TrainOptions
from duosora.core.shapes import VideoShape

SPEC = replace(TINY, base_channels=4, encoder_energy_flow_hidden_size=4, decoder_energy_flow_hidden_size=4)
HALVES = OpenSoraVAESpec(
    spatial=PictureVAESpec(block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2),
    temporal=TemporalVAESpec(
        filters=8, num_res_blocks=1, channel_multipliers=(1, 2), temporal_downsample=(True,), num_groups=4
    ),
    micro_frame_size=3,
)
CODES = VQVAESpec(embedding_dim=4, n_codes=6, n_hiddens=8, n_res_layers=1, downsample=(2, 4, 4))
NORMED_AWAY = (
    *("encoder.conv_last.conv.bias", "post_vq_conv.conv.bias"),
    *(f"{half}.res_stack.0.block.8.attn_{axis}.fc.bias" for half in ("encoder", "decoder") for axis in "wht"),
)
"""Biases whose gradient is rounding alone, which Adam makes steps of."""
JUDGE = PatchDiscriminatorSpec(base_channels=4, num_layers=2)
LOSSES = AutoencoderLosses(pair_weights={"wavelet": 0.1}, discriminator_max_grad_norm=0.2)
OPTIONS = TrainOptions(optimizer=AdamW(eps=1e-4), max_grad_norm=0.5, frozen=("encoder.conv_in",))
"""An eps so large that little of a step is rounding: with 1e-6 single weights were 2e-5 apart."""
STATES = {
    "wfvae": ("optimizer", "discriminator_optimizer", "discriminator"),
    "opensora_vae": ("optimizer",),
    "vqvae": ("optimizer",),
}
LR = {"torch": 1e-3, "mindspore": 1e-4}
"""MindSpore's convolutions round by the pictures of a batch, and a judge's gradients blow that up from step to step."""
DECAY, STEPS, MICRO_BATCHES = 0.9, 6, 4


def batch(number: int, update: str) -> AutoencoderBatch:
    video = np.tanh(normal((1, 3, 5, 16, 16), 1, "video", number))
    noise = {"latent": normal((1, 8, 2, 2, 2), 1, "posterior", number)}
    return AutoencoderBatch(video, noise, update, number >= MICRO_BATCHES)


def frames(number: int, update: str) -> AutoencoderBatch:
    video = VideoShape(5 if number // MICRO_BATCHES % 3 else 1, 8, 8)
    noise = {name: normal((1, *shape), 1, name, number) for name, shape in HALVES.noise_shapes(video).items()}
    return AutoencoderBatch(np.tanh(normal((1, 3, *video), 1, "video", number)), noise, "generator", False)


def clips(number: int, update: str) -> AutoencoderBatch:
    restarts = tuple(codebook.draw(8, 6, 4, np.random.default_rng((number, i))) for i in range(2))
    video = np.tanh(normal((1, 3, 4, 8, 8), 1, "video", number))
    return AutoencoderBatch(video, {}, "generator", False, restarts=restarts)


DRAWS = {"wfvae": batch, "opensora_vae": frames, "vqvae": clips}


def make(backend: Backend, ranks: Ranks, family: str) -> Any:
    if family == "wfvae":
        judge = Companion(JUDGE, FreshWeights(JUDGE.layout(), 1))
        return backend.train_autoencoder(SPEC, FreshWeights(SPEC.layout(), 0), LOSSES, OPTIONS, judge, ranks=ranks)
    if family == "vqvae":
        losses = AutoencoderLosses(pixel_weight=0, pair_weights={"reconstruction": 16.0, "commitment": 0.25})
        options = replace(OPTIONS, frozen=NORMED_AWAY)
        return backend.train_autoencoder(CODES, FreshWeights(CODES.layout(), 0), losses, options, ranks=ranks)
    losses = AutoencoderLosses(pixel_weight=0, pair_weights={"spatial": 1.0, "identity": 1.0})
    options = replace(OPTIONS, frozen=("spatial_vae.",))
    return backend.train_autoencoder(HALVES, FreshWeights(HALVES.layout(), 0), losses, options, ranks=ranks)


def run(backend: Backend, ranks: Ranks, family: str, folder: Path) -> None:
    trainer, draw = make(backend, ranks, family), DRAWS[family]
    reports = []
    for step in range(STEPS):
        update = "discriminator" if step % 2 else "generator"
        numbers = range(step * MICRO_BATCHES, (step + 1) * MICRO_BATCHES)
        own = list(numbers)[ranks.plan.place(ranks.rank).data :: ranks.plan.data]
        report = trainer.step([draw(number, update) for number in own], LR[backend.name], DECAY)
        reports.append({"grad_norm": report.grad_norm, "applied": report.applied} | report.parts)
    broken = draw(1000, "discriminator")
    if ranks.rank == ranks.plan.world - 1:  # seen by one rank only
        broken.video[0] = np.nan
    said = {"evaluated": trainer.evaluate(draw(2000, "generator"), use_ema=True), "reports": reports}
    assert len(set(ranks.world.share(json.dumps(said).encode()))) == 1, "ranks report different things"
    save(trainer, ranks, folder, STATES[family])
    said["refused"] = trainer.step([broken] * (MICRO_BATCHES // ranks.plan.data), LR[backend.name], DECAY).applied
    if ranks.is_first:
        (folder / "said.json").write_text(json.dumps(said))


def main(backend_name: str, folder: str, *families: str) -> None:
    backend = get(backend_name, "cpu")
    ranks = backend.connect(make_plan(launched().world))
    for family in families:
        run(backend, ranks, family, Path(folder) / f"{family}-on-{ranks.plan.world}")


if __name__ == "__main__":
    main(*sys.argv[1:])
