"""Trains a tiny denoiser on the ranks that were started, or on one process: BACKEND FOLDER SEQUENCE CASE...

Writes FOLDER/<case>-<data>x<sequence>/: what the steps reported, and the saved state; with "from-<other>" in a case's
name it goes on from the state that the other saved.
"""

import json
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from writing import save

from duosora.core.io.weights import open_weights
from duosora.core.models.opensora_t2v import OpenSoraT2VSpec
from duosora.core.parallel.launched import launched
from duosora.core.random import normal
from duosora.core.seam.backend import Backend, get
from duosora.core.seam.models import Given
from duosora.core.seam.ranks import Ranks, make_plan
from duosora.core.seam.training import AdamW, DiffusionBatch, TrainOptions
from duosora.core.shapes import LatentShape
from duosora.core.train.objectives import DiffusionObjective

sys.path.append(str(Path(__file__).parents[2] / "backends"))
import flows
import lists

LR, DECAY, MICRO_BATCHES = 1e-3, 0.9, 4
EVEN = OpenSoraT2VSpec(
    num_layers=4, num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, caption_channels=16,
    sparse_n=2,
)  # fmt: skip
UNEVEN = replace(EVEN, num_attention_heads=3, attention_head_dim=6)
"""A width of 18 and 3 heads, which 4 ranks do not divide."""
INPAINT = replace(EVEN, num_layers=2, mask_channels=4)
OPTIONS = TrainOptions(optimizer=AdamW(eps=1e-6), max_grad_norm=0.5)
CASES = {
    "even": (EVEN, OPTIONS, 6),
    "uneven": (UNEVEN, OPTIONS, 3),
    "inpaint": (INPAINT, OPTIONS, 2),
    "recomputed": (EVEN, replace(OPTIONS, recompute_every=1), 2),
    "frozen": (EVEN, replace(OPTIONS, frozen=("caption_projection", "transformer_blocks.1.", "pos_embed")), 2),
    "half": (EVEN, replace(OPTIONS, dtype="fp16"), 2),
    "stdit3": (flows.SPEC, OPTIONS, 3),
    "stdit3recomputed": (flows.SPEC, replace(OPTIONS, recompute_every=1), 2),
    "stdit3compiled": (flows.SPEC, replace(OPTIONS, compile=True), 2),
    "stdit3half": (flows.SPEC, replace(OPTIONS, dtype="fp16"), 2),
    "lists": (lists.SPEC, OPTIONS, 3),
    "listsconcat": (lists.CONCAT, OPTIONS, 2),
    "listscross": (lists.CROSS, replace(OPTIONS, recompute_every=1), 2),
    "bf16": (EVEN, replace(OPTIONS, dtype="bf16"), 2),
    "compiled": (EVEN, replace(OPTIONS, compile=True), 2),
}
SHAPE = flows.SHAPE


def batch(spec: Any, number: int, size: int = 2) -> DiffusionBatch:
    """Every other one with padding in one clip, or with clean frames where the model reads those."""
    samples = range(number * 100, number * 100 + size)
    if "frame_mask" in spec.given:
        return flows.batch(number, size)
    if spec.lists_patches:
        return lists.batch(spec, number)
    mask = np.ones((size, *SHAPE), np.float32)
    mask[0, :, :, 4:] = 0
    condition = None
    if spec.is_inpaint:
        channels = spec.further_channels
        condition = np.stack([normal((channels, *SHAPE), 1, "condition", sample) for sample in samples])
    return DiffusionBatch(
        latents=np.stack([normal((4, *SHAPE), 1, "clean", sample) for sample in samples]),
        noise=np.stack([normal((4, *SHAPE), 1, "noise", sample) for sample in samples]),
        given=Given(
            text=np.stack([normal((3, 16), 1, "text", sample) for sample in samples]),
            text_mask=np.array([[1, 1, 0], [1, 1, 1]]),
            latent_mask=mask if number % 2 else None,
        ),
        condition=condition,
        **DiffusionObjective(snr_gamma=5.0).draw(1, samples, number)._asdict(),
    )


def own(ranks: Ranks, numbers: range) -> list[int]:
    """Micro-batch m belongs to data rank m % d."""
    return list(numbers)[ranks.plan.place(ranks.rank).data :: ranks.plan.data]


def without_code_generation(backend: str) -> AbstractContextManager[Any]:
    """Leaves out what of torch.compile takes the most time, and has no part in what the ranks do."""
    if backend != "torch":
        return nullcontext()
    import torch

    return mock.patch("torch.compile", partial(torch.compile, backend="aot_eager"))


def run(backend: Backend, ranks: Ranks, case: str, folder: Path, start: Path | None) -> None:
    kind, split = case.split("-")
    spec, options, steps = CASES[kind]
    options = replace(options, engine=split) if split == "deepspeed" else replace(options, zero=int(split[-1]))
    first = 0
    if start is None:
        trainer = backend.train_denoiser(spec, flows.awake(spec), options, ranks)
    else:
        first, steps = steps // 2, steps - steps // 2
        trainer = backend.train_denoiser(spec, open_weights(start / "model"), options, ranks)
        trainer.load(start)
        trainer.load_average(open_weights(start / "average"))
    reports = []
    for step in range(first, first + steps):
        if step == CASES["even"][2] // 2:
            save(trainer, ranks, folder / "half-way")
        numbers = own(ranks, range(step * MICRO_BATCHES, (step + 1) * MICRO_BATCHES))
        report = trainer.step([batch(spec, number) for number in numbers], LR, DECAY)
        reports.append([report.loss, report.grad_norm, float(report.applied)])
    if options.dtype == "fp16":  # one micro-batch needs a lower scale of the loss, which all ranks are to take
        loud = [batch(spec, number) for number in own(ranks, range(20_000, 20_000 + MICRO_BATCHES))]
        if ranks.plan.place(ranks.rank).data == ranks.plan.data - 1:
            loud[-1] = replace(loud[-1], weights=loud[-1].weights * 1e4)
        report = trainer.step(loud, LR, DECAY)
        reports.append([report.loss, report.grad_norm, trainer.optimization.scaler.get_scale()])
    broken = batch(spec, 10_000)
    if ranks.rank == ranks.plan.world - 1:  # seen by one rank only
        broken.latents[0] = np.inf
    refused = trainer.step([broken] * (MICRO_BATCHES // ranks.plan.data), LR, DECAY)
    shown = batch(spec, 20_000)
    with trainer.inference_model(use_ema=True) as model, backend.inference():
        shape = LatentShape(*shown.latents.shape[2:])
        condition = model.condition(replace(shown.given, text_mask=None), shape)
        inputs = shown.latents if shown.condition is None else np.concatenate([shown.latents, shown.condition], 1)
        prediction = backend.to_numpy(model(backend.asarray(inputs), backend.asarray(np.float32([5, 6])), condition))
    said = {
        "reports": reports,
        "refused": refused.applied,
        "evaluated": [trainer.evaluate(shown, use_ema) for use_ema in (False, True)],
        "prediction": prediction.tolist(),
    }
    assert set(ranks.world.share(json.dumps(said["reports"] + said["evaluated"]).encode())) == {
        json.dumps(said["reports"] + said["evaluated"]).encode()
    }, "ranks report different things"
    save(trainer, ranks, folder)
    said["state_bytes"] = [int(each) for each in ranks.world.share(str(state_bytes(trainer)).encode())]
    if ranks.is_first:
        (folder / "said.json").write_text(json.dumps(said))


def state_bytes(trainer: Any) -> int:
    """What this rank holds of the optimiser's running means."""
    optimizer = trainer.optimization.optimizer
    if hasattr(optimizer, "means"):
        return sum(int(mean.nbytes) for means in optimizer.means.values() for mean in means)
    return sum(value.nbytes for state in optimizer.state.values() for value in state.values() if value.ndim)


def main(backend_name: str, folder: str, sequence: str, *cases: str) -> None:
    """A case is NAME-zeroN or NAME-deepspeed, and what it goes on from, -from-FOLDER."""
    backend = get(backend_name, "cpu")
    ranks = backend.connect(make_plan(launched().world, int(sequence)))
    assert ranks.leaders.size == (ranks.plan.data if ranks.leads_team else 1), "all are on one machine"
    for case in cases:
        name, _, start = case.partition("-from-")
        place = Path(folder) / f"{case}-on-{ranks.plan.data}x{ranks.plan.sequence}"
        with without_code_generation(backend_name):
            run(backend, ranks, name, place, Path(folder) / start / "half-way" if start else None)


if __name__ == "__main__":
    main(*sys.argv[1:])
