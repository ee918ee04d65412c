"""The denoiser's optimiser step: gradients, refusals, averages, and state that goes on bit for bit."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duosora.core.errors import CheckpointError, ConfigError
from duosora.core.layout import FreshWeights, GivenWeights
from duosora.core.models.opensora_t2v import OpenSoraT2VSpec
from duosora.core.random import normal
from duosora.core.seam.backend import Backend, get
from duosora.core.seam.models import Given
from duosora.core.seam.training import AdamW, DiffusionBatch, TrainOptions
from duosora.core.train.objectives import DiffusionObjective

sys.path.append(str(Path(__file__).parent))
import flows

SPEC = OpenSoraT2VSpec(
    num_layers=4, num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, caption_channels=16
)
OPTIONS = TrainOptions(optimizer=AdamW(eps=1e-8))
LR = 1e-3


@pytest.fixture(scope="module", params=["torch", pytest.param("mindspore", marks=pytest.mark.slow)])
def backend(request: pytest.FixtureRequest) -> Backend:
    return get(request.param, "cpu")


def make(backend: Backend, options: TrainOptions = OPTIONS, seed: int = 0, spec: Any = SPEC):
    return backend.train_denoiser(spec, flows.awake(spec, seed), options)


def batch(number: int, size: int = 2, masked: bool = False) -> DiffusionBatch:
    samples = range(number * 100, number * 100 + size)
    mask = np.ones((size, 2, 4, 4), np.float32)
    mask[0, :, :, 2:] = 0
    return DiffusionBatch(
        latents=np.stack([normal((4, 2, 4, 4), 1, "clean", sample) for sample in samples]),
        noise=np.stack([normal((4, 2, 4, 4), 1, "noise", sample) for sample in samples]),
        given=Given(
            text=np.stack([normal((3, 16), 1, "text", sample) for sample in samples]),
            latent_mask=mask if masked else None,
        ),
        **DiffusionObjective(snr_gamma=5.0).draw(1, samples, number)._asdict(),
    )


def everything(trainer) -> dict[str, np.ndarray]:
    arrays, rest = trainer.optimization.state()
    arrays = dict(arrays)
    steps = {f"step.{name}": np.array(value) for name, value in rest["numbers"].get("step", {}).items()}
    weights = {f"weight.{name}": array for name, array in trainer.saved().weights(use_ema=False).items()}
    averages = {f"ema.{name}": array for name, array in trainer.saved().weights(use_ema=True).items()}
    return arrays | steps | weights | averages


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_run_goes_on_bit_for_bit_from_what_it_saved(backend: Backend, tmp_path: Path) -> None:
    straight = make(backend)
    for number in range(5):
        straight.step([batch(number), batch(number + 50)], LR, 0.9)
    first = make(backend)
    for number in range(2):
        first.step([batch(number), batch(number + 50)], LR, 0.9)
    first.saved().save(tmp_path)
    second = backend.train_denoiser(SPEC, GivenWeights(dict(first.saved().weights(False)), "saved"), OPTIONS)
    second.load(tmp_path)
    second.load_average(first.saved().weights(use_ema=True))
    for number in range(2, 5):
        second.step([batch(number), batch(number + 50)], LR, 0.9)
    assert_same(everything(straight), everything(second))


def test_a_run_that_made_no_step_yet_can_be_saved_and_loaded(backend: Backend, tmp_path: Path) -> None:
    make(backend).saved().save(tmp_path)
    again = make(backend)
    again.load(tmp_path)
    assert again.step([batch(0)], LR).applied


def test_gradients_are_means_over_micro_batches(backend: Backend) -> None:
    whole, parts = make(backend), make(backend)
    samples = batch(3, size=4)
    halves = [_rows(samples, part) for part in (slice(0, 2), slice(2, 4))]
    one, two = whole.step([samples], LR), parts.step(halves, LR)
    np.testing.assert_allclose(one.loss, two.loss, rtol=1e-6)
    np.testing.assert_allclose(one.grad_norm, two.grad_norm, rtol=1e-5)
    moments = parts.first_moments()
    for name, moment in whole.first_moments().items():
        np.testing.assert_allclose(moments[name], moment, rtol=0, atol=1e-6, err_msg=name)


def test_how_a_step_is_split_does_not_matter_where_clips_have_other_lengths(backend: Backend) -> None:
    """The loss is one mean over all latents of the step that are no padding, however they are cut and padded."""
    whole = uneven(lengths=(1, 2, 3, 4))
    splits = ([slice(0, 4)], [slice(0, 2), slice(2, 4)], [slice(0, 1), slice(1, 4)])
    cut = [[_rows(whole, rows) for rows in split] for split in splits]
    cut.append([_unpadded(_rows(whole, slice(row, row + 1))) for row in range(4)])
    trainers = [make(backend) for _ in cut]
    reports = [trainer.step(batches, LR) for trainer, batches in zip(trainers, cut, strict=True)]
    for trainer, report in zip(trainers[1:], reports[1:], strict=True):
        np.testing.assert_allclose(report.loss, reports[0].loss, rtol=1e-6)
        np.testing.assert_allclose(report.parts["loss"], reports[0].loss, rtol=1e-6)
        np.testing.assert_allclose(report.grad_norm, reports[0].grad_norm, rtol=1e-5)
        moments = trainer.first_moments()
        for name, moment in trainers[0].first_moments().items():
            np.testing.assert_allclose(moments[name], moment, rtol=0, atol=1e-6, err_msg=name)


def uneven(lengths: tuple[int, ...]) -> DiffusionBatch:
    """Clips of so many latent frames, padded to the longest."""
    shape = (4, max(lengths), 4, 4)
    is_valid = np.arange(max(lengths)) < np.array(lengths)[:, None]
    mask = np.broadcast_to(is_valid[:, :, None, None], (len(lengths), *shape[1:])).astype(np.float32)
    samples = range(len(lengths))
    return DiffusionBatch(
        latents=np.stack([normal(shape, 1, "clean", sample) for sample in samples]) * mask[:, None],
        noise=np.stack([normal(shape, 1, "noise", sample) for sample in samples]) * mask[:, None],
        given=Given(text=np.stack([normal((3, 16), 1, "text", sample) for sample in samples]), latent_mask=mask),
        **DiffusionObjective(snr_gamma=5.0).draw(1, samples, 0)._asdict(),
    )


def _rows(samples: DiffusionBatch, rows: slice) -> DiffusionBatch:
    def cut(held: Any) -> dict[str, Any]:
        return {name: value[rows] for name, value in vars(held).items() if isinstance(value, np.ndarray)}

    return replace(samples, given=replace(samples.given, **cut(samples.given)), **cut(samples))


def _unpadded(samples: DiffusionBatch) -> DiffusionBatch:
    """A single clip without its padding, as a loader gives it."""
    assert samples.mask is not None
    frames = int(samples.mask[0, :, 0, 0].sum())
    given = replace(samples.given, latent_mask=None)
    return replace(samples, latents=samples.latents[:, :, :frames], noise=samples.noise[:, :, :frames], given=given)


@pytest.mark.parametrize("reason", ["norm", "infinite"])
def test_a_rejected_step_changes_nothing(backend: Backend, reason: str) -> None:
    trainer = make(backend)
    trainer.step([batch(0)], LR, 0.9)
    before = everything(trainer)
    bad = batch(1)
    if reason == "infinite":
        bad.latents[0, 0, 0, 0, 0] = np.inf
    report = trainer.step([bad], LR, 0.9, reject_above=1e-9 if reason == "norm" else float("inf"))
    assert not report.applied
    assert_same(before, everything(trainer))
    other = make(backend)
    other.step([batch(0)], LR, 0.9)
    trainer.step([batch(2)], LR, 0.9)
    other.step([batch(2)], LR, 0.9)
    assert_same(everything(trainer), everything(other))


FAMILIES = pytest.mark.parametrize(("spec", "new"), [(SPEC, batch), (flows.SPEC, flows.batch)], ids=["plan", "stdit3"])


@FAMILIES
def test_recomputed_activations_give_the_same_step(backend: Backend, spec: Any, new: Callable) -> None:
    states = {}
    for every in (0, 1, 2):
        trainer = make(backend, replace(OPTIONS, recompute_every=every), spec=spec)
        trainer.step([new(3)], LR)
        states[every] = everything(trainer)
    assert_same(states[0], states[1])
    assert_same(states[0], states[2])


def test_every_weight_gets_a_gradient(backend: Backend) -> None:
    trainer = make(backend)
    trainer.step([batch(0, masked=True)], LR)
    silent = [name for name, moment in trainer.first_moments().items() if not np.abs(moment).max() > 0]
    # A key's bias adds the same to all of a query's scores.
    assert all(name.endswith("to_k.bias") for name in silent)


def test_the_null_caption_is_saved_and_never_learns(backend: Backend) -> None:
    trainer, name = make(backend, spec=flows.SPEC), "y_embedder.y_embedding"
    before = flows.awake(flows.SPEC)
    trainer.step([flows.batch(1)], LR, 0.5)
    for use_ema in (False, True):
        saved = trainer.saved().weights(use_ema)
        np.testing.assert_array_equal(saved[name], before[name])
        assert {each for each in saved if (saved[each] == before[each]).all()} == {name}
    assert name not in trainer.first_moments()


def test_micro_batches_may_count_alike_whatever_they_hold(backend: Backend) -> None:
    one, other = flows.batch(1, 1), flows.batch(2, 3)
    alone = [make(backend, spec=flows.SPEC).evaluate(each, use_ema=False) for each in (one, other)]
    losses = {
        alike: make(backend, spec=flows.SPEC)
        .step([replace(each, counts_alike=alike) for each in (one, other)], LR)
        .loss
        for alike in (True, False)
    }
    assert losses[True] == pytest.approx(np.mean(alone), rel=1e-6)
    assert losses[False] == pytest.approx(np.average(alone, weights=(1, 3)), rel=1e-6)


def test_a_samples_loss_is_the_mean_over_its_own_frames(backend: Backend) -> None:
    """Three frames of one clip, of which one is clean, and all of another count alike."""
    whole = flows.batch(1, 3)
    rows = [make(backend, spec=flows.SPEC).evaluate(_rows(whole, slice(i, i + 1)), use_ema=False) for i in range(3)]
    assert make(backend, spec=flows.SPEC).evaluate(whole, use_ema=False) == pytest.approx(np.mean(rows), rel=1e-6)


def test_padding_does_not_count(backend: Backend) -> None:
    a, b = batch(0, masked=True), batch(0, masked=True)
    b.latents[0, :, :, :, 2:] = 7.0
    b.noise[0, :, :, :, 2:] = -3.0
    losses = [make(backend).evaluate(each, use_ema=False) for each in (a, b)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


def test_padding_may_count_in_the_mean_so_that_short_clips_weigh_less(backend: Backend) -> None:
    whole = batch(0, masked=True)
    without, within = (
        make(backend).evaluate(replace(whole, padding_counts=counts), use_ema=False) for counts in (False, True)
    )
    assert whole.mask is not None
    assert within == pytest.approx(without * whole.mask.mean(), rel=1e-5)
    assert replace(whole, padding_counts=True).size == whole.mask.size > whole.size


def test_frozen_weights_stay_and_have_no_state(backend: Backend) -> None:
    trainer = make(backend, replace(OPTIONS, frozen=("pos_embed.", "transformer_blocks.0.")))
    before = dict(trainer.saved().weights(use_ema=False))
    trainer.step([batch(0)], LR, 0.5)
    changed = {name for name, array in trainer.saved().weights(use_ema=False).items() if (array != before[name]).any()}
    assert changed
    assert not [name for name in changed if name.startswith(("pos_embed.", "transformer_blocks.0."))]
    assert not [name for name, _ in trainer.first_moments().items() if name.startswith("pos_embed.")]
    assert set(trainer.saved().weights(use_ema=True)) == set(before)


def test_the_average_follows_and_is_what_evaluation_uses(backend: Backend) -> None:
    trainer = make(backend)
    start = dict(trainer.saved().weights(use_ema=False))
    trainer.step([batch(0)], 0.05, ema_decay=0.75)
    now = dict(trainer.saved().weights(use_ema=False))
    for name, average in trainer.saved().weights(use_ema=True).items():
        np.testing.assert_allclose(average, 0.75 * start[name] + 0.25 * now[name], rtol=0, atol=1e-6)
    with_ema, without = trainer.evaluate(batch(1), True), trainer.evaluate(batch(1), False)
    assert with_ema != without
    averaged = GivenWeights(dict(trainer.saved().weights(use_ema=True)), "average")
    expected = backend.train_denoiser(SPEC, averaged, OPTIONS).evaluate(batch(1), False)
    np.testing.assert_allclose(with_ema, expected, rtol=1e-6)
    assert trainer.evaluate(batch(1), False) == without


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_is_near_and_keeps_float32_weights(backend: Backend, dtype: str) -> None:
    if (backend.name, dtype) == ("mindspore", "bf16"):
        pytest.skip("MindSpore computes in bf16 on Ascend only")
    exact, half = make(backend), make(backend, replace(OPTIONS, dtype=dtype))
    one, two = exact.step([batch(0)], LR, 0.9), half.step([batch(0)], LR, 0.9)
    assert two.applied
    assert one.loss != two.loss
    np.testing.assert_allclose(two.loss, one.loss, rtol=0.02)
    np.testing.assert_allclose(two.grad_norm, one.grad_norm, rtol=0.05)
    assert all(array.dtype == np.float32 for _, array in half.saved().weights(use_ema=False).items())


def test_the_loss_scale_is_saved(backend: Backend, tmp_path: Path) -> None:
    options = replace(OPTIONS, dtype="fp16")
    trainer = make(backend, options)
    bad = batch(0)
    bad.latents[0] = np.inf
    assert not trainer.step([bad], LR).applied
    scale = trainer.optimization.scaler.get_scale()
    trainer.saved().save(tmp_path)
    again = make(backend, options)
    assert again.optimization.scaler.get_scale() == 2 * scale
    again.load(tmp_path)
    assert again.optimization.scaler.get_scale() == scale


def test_another_models_state_and_unknown_optimizers_are_refused(backend: Backend, tmp_path: Path) -> None:
    trainer = make(backend)
    trainer.step([batch(0)], LR)
    trainer.saved().save(tmp_path)
    other = backend.train_denoiser(
        replace(SPEC, num_layers=2), FreshWeights(replace(SPEC, num_layers=2).layout(), 0), OPTIONS
    )
    with pytest.raises(CheckpointError, match="belongs to another model"):
        other.load(tmp_path)
    with pytest.raises(ConfigError, match="needs one of adamw"):
        make(backend, replace(OPTIONS, optimizer_name="sgdx"))


def test_a_copy_of_the_state_is_left_alone_by_later_steps(backend: Backend) -> None:
    trainer = make(backend)
    trainer.step([batch(0)], LR, 0.9)
    copy, live = trainer.saved(is_copy=True), trainer.saved()
    before = {name: live.weights(False)[name] for name in live.weights(False)}
    trainer.step([batch(1)], LR, 0.9)
    assert_same(dict(copy.weights(False)), before)
    assert any((live.weights(False)[name] != before[name]).any() for name in before)
    moments = copy.optimizers["optimizer"][0]
    assert any((moments[f"exp_avg.{name}"] != array).any() for name, array in trainer.first_moments().items())
