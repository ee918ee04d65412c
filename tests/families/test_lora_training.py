"""LoRA of every denoiser on both backends: what is trained is what adding B A to the weights would train."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from family_cases import DENOISERS
from training_cases import LR, OPTIONS, Run, batch, beside, with_adapters

from duosora.core.layout import GivenWeights
from duosora.core.models.lora.adapter import DOWN, UP, product
from duosora.core.seam.backend import NAMES, Backend, get
from duosora.core.seam.ranks import Ranks

QUICK = [name for name in DENOISERS if name.startswith(("opensora_t2v-tiny", "stdit3", "dit_first"))]
"""Attentions apart and in one, convolutions of patches of both kinds."""
CASES = [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in DENOISERS]


TWO = [pytest.param(name, marks=[pytest.mark.slow] * (name != "torch")) for name in NAMES]


@pytest.fixture
def backend() -> Backend:
    return get("torch", "cpu")


def merged(name: str, weights: GivenWeights) -> GivenWeights:
    """The model alone, with what its adapters add."""
    options = with_adapters(DENOISERS[name])
    own = {each: weights[each].copy() for each in DENOISERS[name].spec.layout() if each in weights}
    for layer, adapter in options.adapters.items():
        added = product(weights[f"{layer}.{DOWN}.weight"], weights[f"{layer}.{UP}.weight"])
        own[f"{layer}.weight"] += np.float32(adapter.scale) * added
    return GivenWeights(own, "merged")


@pytest.mark.parametrize("name", CASES)
def test_the_first_loss_is_that_of_the_model_itself(backend: Backend, name: str) -> None:
    case = DENOISERS[name]
    options = with_adapters(case)
    adapted = Run(backend, case, Ranks(), beside(case, options, is_awake=False), options)
    given = batch(case, 0)
    whole = Run(backend, case, Ranks()).trainer.evaluate(given, False)
    # Not to the bit: without adapters a product and the GELU behind it may be one operation.
    assert adapted.trainer.evaluate(given, False) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_sum_of_the_weights(backend: Backend, name: str) -> None:
    case = DENOISERS[name]
    options = with_adapters(case)
    weights = beside(case, options)
    whole = Run(backend, case, Ranks(), merged(name, weights))
    adapted = Run(backend, case, Ranks(), beside(case, options), options)  # training may change what it is given
    losses = [run.trainer.step([batch(case, 0)], LR).loss for run in (adapted, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    found, of_whole = (dict(run.trainer.first_moments()) for run in (adapted, whole))
    assert set(found) == options.only
    clip = 0.0
    for layer, adapter in options.adapters.items():
        slope = of_whole[f"{layer}.weight"].reshape(len(of_whole[f"{layer}.weight"]), -1) * adapter.scale
        down, up = (weights[f"{layer}.{each}.weight"].reshape(-1, slope.shape[1] if each == DOWN else adapter.rank)
                    for each in (DOWN, UP))  # fmt: skip
        expected = {DOWN: up.T @ slope, UP: slope @ down.T}
        for each, values in expected.items():
            ours = found[f"{layer}.{each}.weight"].reshape(values.shape)
            clip = clip or float((ours * values).sum() / (values * values).sum())  # both are clipped, to other lengths
            limit = 2e-4 * np.abs(ours).max() + 1e-9
            np.testing.assert_allclose(ours, values * clip, rtol=0, atol=limit, err_msg=f"{layer}.{each}")


@pytest.mark.parametrize("name", CASES)
def test_only_adapters_change_and_only_they_are_saved(backend: Backend, name: str, tmp_path: Path) -> None:
    assert_goes_on(backend, name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_so_it_is_with_mindspore(name: str, tmp_path: Path) -> None:
    assert_goes_on(get("mindspore", "cpu"), name, tmp_path)


def assert_goes_on(backend: Backend, name: str, tmp_path: Path) -> None:
    """A run of which only the adapters change, that is saved and goes on exactly."""
    case = DENOISERS[name]
    options = with_adapters(case)
    weights = beside(case, options)
    first = Run(backend, case, Ranks(), beside(case, options), options)
    first.step(0)
    saved = first.trainer.saved()
    saved.save(tmp_path)
    kept, average = ({each: part[each] for each in part} for part in map(saved.weights, (False, True)))
    assert set(kept) == set(average) == options.only
    assert any((kept[each] != weights[each]).any() for each in kept)
    second = Run(backend, case, Ranks(), GivenWeights({**weights, **kept}, "resumed"), options)
    second.trainer.load(tmp_path)
    second.trainer.load_average(average)
    for run in (first, second):
        run.step(1)
    for use_ema in (False, True):
        ours, theirs = (run.trainer.saved().weights(use_ema) for run in (first, second))
        for each in ours:
            assert ours[each].tobytes() == theirs[each].tobytes(), each


@pytest.mark.slow
@pytest.mark.parametrize("name", DENOISERS)
def test_both_backends_learn_alike(name: str) -> None:
    case = DENOISERS[name]
    options = with_adapters(case)
    one, other = (Run(get(each, "cpu"), case, Ranks(), beside(case, options), options) for each in NAMES)
    for number in range(2):
        theirs, ours = one.step(number), other.step(number)
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-4)
    for use_ema in (False, True):
        theirs_saved, ours_saved = (run.trainer.saved().weights(use_ema) for run in (one, other))
        for each in theirs_saved:
            limit = 1e-4 * np.abs(theirs_saved[each]).max()
            np.testing.assert_allclose(ours_saved[each], theirs_saved[each], rtol=0, atol=limit, err_msg=each)


@pytest.mark.parametrize("name", TWO)
def test_blocks_that_are_computed_again_give_the_same(name: str) -> None:
    backend = get(name, "cpu")
    case = next(iter(DENOISERS.values()))
    options = with_adapters(case)
    runs = [
        Run(backend, case, Ranks(), beside(case, options), replace(options, recompute_every=every)) for every in (0, 1)
    ]
    reports = [run.step(0) for run in runs]
    assert reports[0].loss == reports[1].loss
    assert reports[0].grad_norm == pytest.approx(reports[1].grad_norm, rel=1e-6)


@pytest.mark.parametrize("name", TWO)
def test_in_half_precision_the_model_is_kept_in_it_and_its_adapters_are_not(name: str) -> None:
    backend = get(name, "cpu")
    case = next(iter(DENOISERS.values()))
    dtype = "bf16" if backend.name == "torch" else "fp16"  # what each has on a CPU
    options = replace(with_adapters(case), dtype=dtype)
    weights = beside(case, options)
    run = Run(backend, case, Ranks(), weights, options)
    full = Run(backend, case, Ranks(), merged(next(iter(DENOISERS)), weights), replace(OPTIONS, dtype=dtype))
    reports = [each.step(0).loss for each in (run, full)]
    assert reports[0] == pytest.approx(reports[1], rel=2e-2)
    named = run.trainer.model.named_parameters if backend.name == "torch" else run.trainer.model.parameters_and_names
    dtypes = {each: str(value.dtype).rpartition(".")[2].lower() for each, value in named()}
    assert {dtype for each, dtype in dtypes.items() if each in (options.only or ())} == {"float32"}
    assert {dtype for each, dtype in dtypes.items() if each not in (options.only or ())} == {
        {"bf16": "bfloat16", "fp16": "float16"}[dtype]
    }
