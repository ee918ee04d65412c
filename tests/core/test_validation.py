"""What a run measures on held-out clips: each data rank its share, and the number of one process. Ranks are threads."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duosora.core.data.batch import ClipBatch
from duosora.core.maths.metrics import psnr
from duosora.core.maths.pixels import to_uint8
from duosora.core.models.opensora_t2v import OpenSoraT2VSpec
from duosora.core.random import normal
from duosora.core.seam.models import Given
from duosora.core.seam.ranks import ParallelPlan, Ranks
from duosora.core.seam.training import DiffusionBatch
from duosora.core.shapes import VideoShape
from duosora.core.train.autoencoder import AutoencoderTask
from duosora.core.train.denoiser import DenoiserTask, FixedTimes
from duosora.core.train.held_out import HeldOut
from duosora.core.train.rflow import RFlowObjective

sys.path.append(str(Path(__file__).parent))
import thread_ranks

SPEC = OpenSoraT2VSpec(
    num_layers=1, num_attention_heads=1, attention_head_dim=6, in_channels=4, out_channels=4, caption_channels=2
)
COUNTS = [1, 3, 4, 5]
PLANS = [ParallelPlan(2), ParallelPlan(3), ParallelPlan(4), ParallelPlan(8), ParallelPlan(data=2, sequence=2)]


class Reader:
    """Clips that are functions of their numbers, some longer than others."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def of_steps(self, steps: Iterable[int]) -> Iterator[list[ClipBatch]]:
        for number in steps:
            self.read.append(number)
            pixels = np.tanh(normal((1, 3, 1 + 4 * (number % 2), 4, 4), 0, "clip", number))
            sizes = (VideoShape(*pixels.shape[2:]),)
            yield [ClipBatch(pixels, None, ("",), (number,), (f"{number}.mp4",), sizes=sizes)]


class Inputs:
    """Batches that say which clips they are made of."""

    def prepare(self, clips: Sequence[ClipBatch]) -> None:
        pass

    def make(self, clips: ClipBatch, step: int, in_training: bool) -> DiffusionBatch:
        (number,) = clips.samples
        value = np.full(1, number, np.float64)
        arrays = dict.fromkeys(("timesteps", "signal", "spread", "of_clean", "of_noise", "weights"), value)
        latents = np.full((1, 4, 1 + number % 2, 2, 2), number, np.float32)
        return DiffusionBatch(latents=latents, noise=latents, given=Given(text=latents[0, 0]), **arrays)


class Trainer:
    """Losses of very different size, in whose sum the order shows; ranks wait for each other in each of them."""

    keeps_ema = True

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def evaluate(self, batch: DiffusionBatch, use_ema: bool) -> float:
        self.ranks.world.share(b"")
        return float(normal((), 0, "loss", int(batch.weights[0])) * 10 ** batch.weights[0]) + use_ema

    def inference_model(self, use_ema: bool) -> Any:
        return nullcontext(0.5 + use_ema / 4)


class FlowTrainer(Trainer):
    """Losses that tell clip, timestep and weights."""

    def evaluate(self, batch: DiffusionBatch, use_ema: bool) -> float:
        self.ranks.world.share(b"")
        return float(batch.latents.flat[0]) * 1e4 + float(batch.timesteps[0]) + 1e6 * use_ema


class Autoencoder(AutoencoderTask):
    """One that makes everything paler."""

    def _through(self, model: Any, video: np.ndarray) -> np.ndarray:
        return model * video


def denoiser(ranks: Ranks, held_out: HeldOut) -> Any:
    inputs: Any = Inputs() if ranks.leads_team else None
    trainer: Any = Trainer(ranks)
    return DenoiserTask(SPEC, trainer, inputs, held_out, ranks=ranks)


def flow(ranks: Ranks, held_out: HeldOut) -> Any:
    inputs: Any = Inputs() if ranks.leads_team else None
    trainer: Any = FlowTrainer(ranks)
    return DenoiserTask(SPEC, trainer, inputs, held_out, ranks=ranks, fixed=FixedTimes(RFlowObjective(), 3))


def autoencoder(ranks: Ranks, held_out: HeldOut) -> Any:
    nothing: Any = None
    trainer: Any = Trainer(ranks)
    return Autoencoder(nothing, trainer, nothing, nothing, 0, held_out, ranks)


def measured(make: Any, plan: ParallelPlan, count: int) -> tuple[list[dict[str, float]], list[list[int]]]:
    """What each rank measures, and what it reads for that."""
    readers = [Reader() for _ in range(plan.world)]

    def work(ranks: Ranks) -> dict[str, float]:
        reader = readers[ranks.rank] if ranks.leads_team else None
        return make(ranks, HeldOut(reader, count, ranks)).validate()

    found = thread_ranks.run(plan, work)
    assert all(isinstance(each, dict) for each in found), found
    return found, [reader.read for reader in readers]


CASES = [(make, plan) for make in (denoiser, flow) for plan in PLANS] + [
    (autoencoder, plan) for plan in PLANS if plan.sequence == 1
]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("make", "plan"), CASES, ids=[f"{make.__name__} {plan}" for make, plan in CASES])
def test_all_ranks_measure_what_one_process_does(make: Any, plan: ParallelPlan, count: int) -> None:
    (alone,), _ = measured(make, ParallelPlan(), count)
    found, _ = measured(make, plan, count)
    assert found == [alone] * plan.world


@pytest.mark.parametrize(
    ("count", "read"),
    [(4, [[0, 2], [1, 3]]), (3, [[0, 2], [1, 2]]), (5, [[0, 2, 4], [1, 3, 4]]), (1, [[0], [0]])],
)
def test_a_rank_reads_its_own_clips_and_the_last_where_none_is_left(count: int, read: list[list[int]]) -> None:
    assert measured(autoencoder, ParallelPlan(2), count)[1] == read
    together = measured(denoiser, ParallelPlan(data=2, sequence=2), count)[1]
    assert together == [read[0], [], read[1], []]


def test_every_frame_counts_alike() -> None:
    clips = [next(Reader().of_steps([number]))[0].pixels for number in range(3)]
    values = [psnr(to_uint8(0.5 * clip)[0], to_uint8(clip)[0]) for clip in clips]
    (found,), _ = measured(autoencoder, ParallelPlan(), 3)
    assert found["psnr"] == pytest.approx(np.concatenate(values).mean(), rel=1e-12)
    assert found["psnr_ema"] > found["psnr"]


def test_every_latent_counts_alike_in_the_loss() -> None:
    (found,), _ = measured(denoiser, ParallelPlan(), 3)
    losses = [float(normal((), 0, "loss", number)) * 10**number for number in range(3)]
    mean = np.average(losses, weights=[1, 2, 1])
    assert found == pytest.approx({"loss": mean, "loss_ema": mean + 1})


def test_at_fixed_times_each_clip_counts_alike_and_each_size_has_a_loss() -> None:
    (found,), _ = measured(flow, ParallelPlan(), 5)
    weights = {"loss": 2e4 + 500, "loss 4x4 1": 2e4 + 500, "loss 4x4 5": 2e4 + 500}
    average = {name.replace("loss", "loss_ema", 1): value + 1e6 for name, value in weights.items()}
    assert found == pytest.approx(weights | average)
    (found,), _ = measured(flow, ParallelPlan(), 2)
    assert (found["loss"], found["loss 4x4 1"], found["loss 4x4 5"]) == pytest.approx((5500, 500, 10500))
