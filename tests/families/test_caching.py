"""Caches over the denoiser of every family: what they may leave out, what they may not, and who decides it alike."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo
from family_cases import BATCH, DENOISERS, awake
from thread_tensors import on_ranks

from duosora.core import caching
from duosora.core.caching import CachedRun, CacheReport
from duosora.core.random import normal
from duosora.core.seam.backend import NAMES, Backend, get
from duosora.core.seam.group import Alone, Group

CALLS = 6
KINDS: dict[str, dict[str, Any]] = {
    "first_block": {"threshold": 0.4, "warmup": 1},
    "teacache": {"threshold": 0.4, "warmup": 1},
    "taylor": {"interval": 2, "warmup": 1},
}
"""That leave out some of the calls below, and compute some."""
OFF: dict[str, dict[str, Any]] = {
    "first_block": {"threshold": 0},
    "teacache": {"threshold": 0},
    "taylor": {"interval": 1},
}
KINDS_OF_BLOCKS = 3
"""The most that a model has."""
QUICK = ("opensora_t2v-tiny", "stdit3-stdit3_tiny")
"""Cases of which all is tried each time."""
of_quick = pytest.mark.parametrize("name", QUICK)
of_all = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in DENOISERS]
)
on_both = pytest.mark.parametrize("backend", [NAMES[0], pytest.param(NAMES[1], marks=pytest.mark.slow)], indirect=True)


def course(
    name: str,
    backend: Backend,
    kind: str | None,
    options: dict[str, Any] | None = None,
    group: Group | None = None,
    halves: Group | None = None,
    compile: bool = False,
) -> tuple[np.ndarray, CacheReport]:
    """What a case's model predicts in calls whose latents come from one clip's noise to the clip itself.

    halves: ranks of which each has one of the two requests.
    """
    case = DENOISERS[name]
    spec, size, halves = case.spec, case.sizes[0], halves or Alone()
    model = backend.build(spec, awake(spec), sequence=group, compile=compile)
    shape = (BATCH, spec.latent_channels + spec.further_channels, *size)
    noise, clip = (normal(shape, 2, what) for what in ("noise", "clip"))
    own = slice(None) if halves.size == 1 else slice(halves.index, halves.index + 1)
    made = []
    with backend.inference():
        condition = model.condition(_part(case.given(spec, size), own), size)
        run = CachedRun(backend, CALLS, halves)
        called: Any = model if kind is None else caching.make(kind, options or KINDS[kind]).over(model, run)
        for call in range(CALLS):
            share = 1 - 0.7 * call / CALLS
            latents = (share * noise + (1 - share) * clip)[own]
            times = np.full(len(latents), 1000 * share, np.float32)
            made.append(backend.to_numpy(called(backend.asarray(latents), backend.asarray(times), condition)))
    return np.stack(made), CacheReport() if kind is None else called.report


@cache
def usual(name: str, backend: str, kind: str | None) -> tuple[np.ndarray, CacheReport]:
    """The same of one process, once for all tests."""
    return course(name, get(backend, "cpu"), kind)


def _part(given: Any, own: slice) -> Any:
    return type(given)(**{name: value[own] for name, value in vars(given).items() if value is not None})


def near(got: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Backend:
    return get(request.param, "cpu")


@of_all
def test_a_cache_that_leaves_nothing_out_changes_no_bit(name: str) -> None:
    expected, _ = usual(name, "torch", None)
    for kind, options in OFF.items():
        got, report = course(name, get("torch", "cpu"), kind, options)
        np.testing.assert_array_equal(got, expected, err_msg=kind)
        assert report.blocks == report.blocks_without == CALLS * len(DENOISERS[name].spec.blocks())


@of_all
def test_calls_that_leave_out_blocks_cost_none_of_them_and_predict_nearly_the_same(name: str) -> None:
    expected, _ = usual(name, "torch", None)
    for kind in KINDS:
        got, report = usual(name, "torch", kind)
        num_blocks, partly = len(DENOISERS[name].spec.blocks()), int(kind == "first_block")
        assert report.whole[0]
        assert 0 < sum(report.whole) < CALLS, kind
        assert report.blocks == sum(num_blocks if whole else partly for whole in report.whole)
        for call, whole in enumerate(report.whole):
            error = np.abs(got[call] - expected[call]).max() / np.abs(expected[call]).max()
            assert error == 0 if whole else 0 < error < 0.5, (kind, call)


@pytest.mark.slow
@pytest.mark.parametrize("name", DENOISERS)
def test_both_backends_leave_out_the_same(name: str) -> None:
    for kind in KINDS:
        (expected, one), (got, other) = (usual(name, backend, kind) for backend in NAMES)
        assert one.whole == other.whole
        np.testing.assert_allclose(other.changes, one.changes, rtol=1e-3)
        near(got, expected)


@on_both
@of_quick
@pytest.mark.parametrize("kind", ["first_block", "teacache"])
def test_ranks_that_share_the_tokens_decide_alike_and_as_one_does(backend: Backend, name: str, kind: str) -> None:
    expected, one = usual(name, backend.name, kind)
    both = on_ranks(2, backend, lambda group: course(name, backend, kind, group=group))
    assert both[0][1].changes == both[1][1].changes, "to the bit"
    for got, report in both:
        assert report.whole == one.whole
        np.testing.assert_allclose(report.changes, one.changes, rtol=1e-4)
        near(got, expected)


@of_quick
@pytest.mark.parametrize("kind", ["first_block", "teacache"])
def test_halves_of_guidance_on_two_ranks_decide_as_in_one_batch(name: str, kind: str) -> None:
    backend = get("torch", "cpu")
    expected, one = usual(name, "torch", kind)
    both = on_ranks(2, backend, lambda group: course(name, backend, kind, halves=group))
    for _, report in both:
        assert report.whole == one.whole
        np.testing.assert_allclose(report.changes, one.changes, rtol=1e-5)
    near(np.concatenate([got for got, _ in both], 1), expected)
    alone = [course(name, backend, kind, halves=_Half(index))[1].changes[0] for index in (0, 1)]
    assert not np.isclose(*alone, rtol=1e-4), "each by itself sees another change"


class _Half(Alone):
    """One of two ranks that hears nothing of the other."""

    ranks = (0, 1)

    def __init__(self, index: int) -> None:
        self.index = index

    @property
    def size(self) -> int:
        return 2


@pytest.mark.slow
@pytest.mark.parametrize("backend", NAMES, indirect=True)
@pytest.mark.parametrize("kind", ["first_block", "taylor"])  # teacache runs all blocks or none, as taylor does
def test_compiled_blocks_are_left_out_too(backend: Backend, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On torch its graphs are run as they are: code for them would take half a minute to make."""
    traced: list[Any] = []
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=_noted(traced)))
    expected, plain = usual(QUICK[0], backend.name, kind)
    got, report = course(QUICK[0], backend, kind, compile=True)
    assert report.whole == plain.whole
    near(got, expected)
    if backend.name == "torch":
        assert traced


@pytest.mark.slow
@pytest.mark.parametrize("name", DENOISERS)
def test_compiled_blocks_are_graphs_without_breaks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cache, and without one."""
    for kind in (None, "first_block"):
        traced: list[Any] = []
        with monkeypatch.context() as patched:
            patched.setattr(torch, "compile", partial(torch.compile, backend=_noted(traced), fullgraph=True))
            torch._dynamo.reset()
            got, _ = course(name, get("torch", "cpu"), kind, compile=True)
        near(got, usual(name, "torch", kind)[0])
        assert 0 < len(traced) <= KINDS_OF_BLOCKS


def _noted(traced: list[Any]) -> Callable[..., Any]:
    def compiled(graph: Any, inputs: Any) -> Any:
        traced.append(graph)
        return graph.forward

    return compiled
