"""What caches decide on recorded signals, and a run over a model by a formula."""

from typing import Any

import numpy as np
import pytest

from duosora.core import caching, recipes
from duosora.core.caching import CachedRun, CacheKind, CacheReport
from duosora.core.caching.base import Course, relative
from duosora.core.caching.first_block import FirstBlock
from duosora.core.caching.taylor import Taylor, differences, predicted
from duosora.core.caching.teacache import Sum, TeaCache
from duosora.core.config.schema import BlockCacheSettings
from duosora.core.errors import ConfigError
from duosora.core.models.finding import open_part
from duosora.core.pipelines.cached import cache_of
from duosora.core.samplers import create
from duosora.core.seam.group import Alone

OPEN_SORA = tuple(recipes.named("opensora_v1_2").sampling["sampler.cache.polynomial"])
CHANGES = (0.02, 0.03, 0.05, 0.08, 0.05, 0.04, 0.03, 0.06, 0.10)
EXPECTED = (0.057359, 0.068225, 0.099880, 0.165038, 0.099880, 0.082575, 0.068225, 0.119665, 0.215937)
SUMS = (0.057359, 0.125584, 0.225464, 0.165038, 0.264918, 0.082575, 0.150801, 0.270466, 0.215937)


def test_teacache_adds_up_what_the_output_is_expected_to_change_by() -> None:
    kind = TeaCache(threshold=0.2, polynomial=OPEN_SORA)
    so_far, sums, reused = Sum(kind), [], []
    for change in CHANGES:
        reused.append(so_far.reuses(change))
        sums.append(so_far.value)
        if not reused[-1]:
            so_far.begin_anew()
    assert [kind.expected(change) for change in CHANGES] == pytest.approx(EXPECTED, abs=1e-6)
    assert sums == pytest.approx(SUMS, abs=1e-6)
    assert reused == [True, True, False, True, False, True, True, False, False]


def test_teacache_never_counts_less_than_nothing_nor_on_with_what_is_no_number() -> None:
    assert TeaCache(polynomial=(1.0, -1.0)).expected(0.3) == 0
    so_far = Sum(TeaCache(threshold=0.5))
    assert not so_far.reuses(float("nan"))
    so_far.begin_anew()
    assert so_far.reuses(0.3)
    assert not Sum(TeaCache(threshold=0)).reuses(0.0)


def test_first_block_compares_with_the_threshold() -> None:
    before, now = np.array([1.0, -2.0, 3.0]), np.array([1.05, -2.1, 2.9])
    change = relative(float(np.abs(now - before).sum()), float(np.abs(before).sum()))
    assert change == pytest.approx(0.0833333 / 2, abs=1e-6)
    assert FirstBlock(threshold=0.05).reuses(change)
    assert not FirstBlock(threshold=0.04).reuses(change)
    assert not FirstBlock(threshold=0).reuses(0.0)
    assert not FirstBlock().reuses(relative(1.0, 0.0))


def test_taylor_computes_every_so_many_calls() -> None:
    kind = Taylor(warmup=3, interval=5)
    assert [call for call in range(20) if not kind.predicts(call)] == [0, 1, 2, 4, 9, 14, 19]
    assert not any(Taylor(warmup=1, interval=1).predicts(call) for call in range(9))


@pytest.mark.parametrize(
    ("order", "at_2", "third", "at_4", "fifth", "eighth"),
    [
        (0, [1.896], 1.896, [2.648], 2.648, 2.648),
        (1, [1.896, 0.424], 2.320, [2.648, 0.376], 3.024, 4.152),
        (2, [1.896, 0.424, -0.048], 2.296, [2.648, 0.376, -0.024], 3.012, 3.960),
    ],
)
def test_taylor_predicts_from_backward_differences(
    order: int, at_2: list[float], third: float, at_4: list[float], fifth: float, eighth: float
) -> None:
    factors: list[Any] = []
    last = 0
    for step in (0, 1, 2, 4):
        value = 1 + 0.5 * step - 0.03 * step**2 + 0.002 * step**3
        factors = differences(value, factors, step - last, order)
        last = step
        if step == 2:
            assert factors == pytest.approx(at_2)
            assert predicted(factors, 1) == pytest.approx(third)
    assert factors == pytest.approx(at_4)
    assert predicted(factors, 1) == pytest.approx(fifth)
    assert predicted(factors, 4) == pytest.approx(eighth)


def test_some_calls_are_computed_whatever_the_signals_say() -> None:
    course, computed = Course(FirstBlock(warmup=2, keep_last=1, most_reused=2), 10), []
    for _ in range(10):
        computed.append(course.must_compute())
        course.go_on(reused=not computed[-1])
    assert "".join("x" if each else "." for each in computed) == "xx..x..x.x"


class Model:
    """Two blocks that move one token by what the latents say, and so do nothing with it but add."""

    num_blocks = 2

    def begin(self, latents: np.ndarray, timestep: np.ndarray, condition: Any) -> tuple[np.ndarray, np.ndarray]:
        return latents, timestep

    def run_blocks(self, first: int, end: int, x: np.ndarray, time: np.ndarray, condition: Any) -> np.ndarray:
        for _ in range(first, end):
            x = x + 0.5 * (2.0 + 0.25 * time)
        return x

    def finish(self, x: np.ndarray, time: np.ndarray, condition: Any) -> np.ndarray:
        return x

    def with_frames(self, condition: Any, mask: Any) -> Any:
        return object()

    def signal(self, x: np.ndarray, time: np.ndarray, condition: Any) -> np.ndarray:
        return x

    def change(self, now: np.ndarray, before: np.ndarray, condition: Any) -> np.ndarray:
        return np.array([[np.abs(now - before).sum(), np.abs(before).sum()]])

    def moved(self, x: np.ndarray, before: np.ndarray) -> np.ndarray:
        return x - before

    def move(self, x: np.ndarray, way: np.ndarray) -> np.ndarray:
        return x + way


class Numpy:
    def to_numpy(self, array: np.ndarray) -> np.ndarray:
        return array


def called(kind: CacheKind, calls: int, conditions: list[Any], shape: tuple[int, ...] = (1, 1, 1)) -> Any:
    denoiser = kind.over(Model(), CachedRun(Numpy(), calls, Alone()))  # type: ignore[arg-type]
    made = []
    for call in range(calls):
        latents = np.full(shape, 10.0 + call)
        made.append(denoiser(latents, np.full(shape, float(call)), conditions[min(call, len(conditions) - 1)]))
    return made, denoiser.report


def test_taylor_of_first_order_is_exact_for_what_goes_straight() -> None:
    made, report = called(Taylor(warmup=2, interval=4), 12, [object()])
    assert sum(report.whole) == 5
    assert [each.item() for each in made] == pytest.approx([12.0 + 1.25 * call for call in range(12)])


@pytest.mark.parametrize(
    "kind", [FirstBlock(threshold=0.5, warmup=2), TeaCache(threshold=0.5, warmup=2), Taylor(warmup=2)]
)
def test_another_condition_or_size_begins_anew(kind: CacheKind) -> None:
    one, other = object(), object()
    _, report = called(kind, 4, [one])
    assert report.whole == [True, True, False, kind.name == "taylor"]
    _, report = called(kind, 6, [one, one, one, other])
    assert report.whole[3:] == [True, True, False]
    denoiser = kind.over(Model(), CachedRun(Numpy(), 9, Alone()))  # type: ignore[arg-type]
    for size in (1, 1, 1, 2, 2, 2):
        denoiser(np.ones((1, size, 1)), np.zeros((1, size, 1)), one)
    assert denoiser.report.whole == [True, True, False, True, True, False]


def test_nothing_of_another_condition_is_left_in_a_prediction() -> None:
    class Pushed(Model):
        def run_blocks(self, first: int, end: int, x: np.ndarray, time: np.ndarray, condition: Any) -> np.ndarray:
            return x + condition * (end - first)

    denoiser = Taylor(warmup=1, interval=4).over(Pushed(), CachedRun(Numpy(), 9, Alone()))  # type: ignore[arg-type]
    still = np.zeros((1, 1, 1))
    one, other = np.full(still.shape, 1.0), np.full(still.shape, 100.0)
    made = [denoiser(still, still, condition).item() for condition in (one, one, other, other)]
    assert denoiser.report.whole == [True, False, True, False]
    assert made == [2.0, 2.0, 200.0, 200.0]


class Tenfold(Model):
    """Three blocks, each of which moves the token ten times as far as the one before."""

    num_blocks = 3

    def run_blocks(self, first: int, end: int, x: np.ndarray, time: np.ndarray, condition: Any) -> np.ndarray:
        return x + (1 + time) * sum(10**index for index in range(first, end))


@pytest.mark.parametrize(
    ("kind", "made", "changes"),
    [
        # Moved by the first block in this call, by the others in the computed one; compared with the computed one.
        (FirstBlock(threshold=9, warmup=1, most_reused=None), [121, 20 + 2 + 110, 40 + 3 + 110], [1.0, 2.0]),
        # Moved by all in the computed one; what the first block reads is compared with the call before.
        (TeaCache(threshold=9, warmup=1, most_reused=None), [121, 20 + 111, 40 + 111], [1.0, 1.0]),
    ],
    ids=["first_block", "teacache"],
)
def test_what_is_left_out_is_what_the_computed_call_did(
    kind: CacheKind, made: list[float], changes: list[float]
) -> None:
    denoiser = kind.over(Tenfold(), CachedRun(Numpy(), 9, Alone()))  # type: ignore[arg-type]
    one, latents = object(), (10.0, 20.0, 40.0)
    got = [denoiser(np.full((1, 1, 1), x), np.full((1, 1, 1), float(t)), one).item() for t, x in enumerate(latents)]
    assert denoiser.report.whole == [True, False, False]
    assert got == made
    assert denoiser.report.changes == changes


class Both(Alone):
    """The halves of guidance on two ranks, of which the other one sees no change."""

    def gather(self, x: np.ndarray, axis: int) -> np.ndarray:
        return np.concatenate([x, np.array([[0.0, 10.0]])], axis)


@pytest.mark.parametrize("kind", [FirstBlock(threshold=9, warmup=1), TeaCache(threshold=9, warmup=1)])
def test_the_change_is_that_of_both_halves(kind: CacheKind) -> None:
    changes = []
    for halves in (Alone(), Both()):
        denoiser = kind.over(Tenfold(), CachedRun(Numpy(), 9, halves))  # type: ignore[arg-type]
        one = object()
        for x in (10.0, 20.0):
            denoiser(np.full((1, 1, 1), x), np.full((1, 1, 1), x), one)
        changes.append(denoiser.report.changes[0])
    first_or_signal = 11.0 if kind.name == "first_block" else 10.0
    assert changes == [pytest.approx(10 / first_or_signal), pytest.approx(10 / (first_or_signal + 10))]


def test_a_report_counts_blocks_and_calls_of_all_runs() -> None:
    _, report = called(FirstBlock(threshold=1.0, warmup=1, most_reused=None), 4, [object()])
    assert (report.blocks, report.blocks_without, report.ratio) == (5, 8, 1.6)
    total = CacheReport()
    total.add(report)
    total.add(report)
    assert total.facts()["blocks"] == 10
    assert total.facts()["calls"] == "x...x..."
    assert total.facts()["changes"]["max"] == max(report.changes)
    assert CacheReport().facts()["changes"] == {}


@pytest.mark.parametrize("name", ["heun", "pndm", "kdpm2_ancestral", "interpolant_ode"])
def test_samplers_of_several_calls_a_step_are_refused(name: str) -> None:
    settings, told = BlockCacheSettings(kind="taylor"), []
    with pytest.raises(ConfigError, match=rf"the sampler {name} (calls the network more than once|chooses its)"):
        cache_of(settings, create(name, 10), 10, open_part("denoiser", "tiny"), told.append)
    assert cache_of(settings, create("flow_euler", 10), 10, open_part("denoiser", "tiny"), told.append) == Taylor()
    assert told == []
    cache_of(settings, create("flow_euler", 6), 6, open_part("denoiser", "tiny"), told.append)
    assert told == ["sampler.cache: with these options all 6 network calls are computed, so it has no effect"]
    assert cache_of(None, create(name, 10), 10, open_part("denoiser", "tiny"), told.append) is None


def test_a_kind_refuses_options_of_others() -> None:
    with pytest.raises(ConfigError, match=r"^sampler\.cache\.interval: teacache has no use for it.*it has threshold"):
        caching.make("teacache", {"interval": 2})
    assert caching.make("taylor", {"interval": 2, "threshold": None}) == Taylor(interval=2)
