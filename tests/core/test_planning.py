"""Planning by counting: what grows with what, what fits, and the file of a machine's figures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from duosora.core.errors import ConfigError
from duosora.core.models import FAMILIES, opensora_t2v, t5, wfvae
from duosora.core.models.finding import open_part
from duosora.core.models.lpips import LPIPSSpec
from duosora.core.models.work import counted
from duosora.core.parallel import budget
from duosora.core.pipelines.placing import block_bytes
from duosora.core.planning import calibration
from duosora.core.planning.advice import MOST, advice
from duosora.core.planning.devices import SHEETS, device_named, this_device
from duosora.core.planning.forecast import Holding, Phase
from duosora.core.planning.here import processor
from duosora.core.planning.operations import OPERATIONS
from duosora.core.planning.rates import MeasuredRates, RateTable
from duosora.core.planning.sampling import SamplingCase
from duosora.core.planning.telling import rows, seconds_text, short_lines, size_text
from duosora.core.planning.training import TrainingCase
from duosora.core.seam.ranks import ParallelPlan
from duosora.core.shapes import LatentShape, VideoShape

T2V, WFVAE, MT5 = opensora_t2v.T2V_2B, wfvae.PRESETS["wfvae_d8_4x8x8"], t5.XXL
LARGE = VideoShape(93, 640, 640)
SAMPLING = SamplingCase(
    denoiser=T2V,
    vae=WFVAE,
    text_encoder=MT5,
    dtypes={"denoiser": "bf16", "text_encoder": "bf16", "vae": "bf16"},
    videos={LARGE: 1},
    calls=100,
    is_guided=True,
    texts=(60, 3),
    chunk=2,
)
TRAINING = TrainingCase(
    denoiser=T2V,
    vae=WFVAE,
    text_encoder=MT5,
    video=VideoShape(93, 352, 640),
    batch=1,
    micro_batches=1,
    text=120,
    dtype="bf16",
    frozen_dtype="bf16",
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of this machine's figures, which is not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    return tmp_path / "duosora" / "calibration.json"


def figures(**changes: Any) -> calibration.Calibration:
    names = {operation.name for operation in OPERATIONS}
    rates = MeasuredRates(dict.fromkeys(names, RateTable(((1.0, 1.0, 1e9),))), 1e9, 1e-6, 1e-9, 1e-9)
    known = calibration.Calibration(processor(), "torch", "cpu", 2, "1.0", "2026-01-01", 1 << 20, 0.5, {"fp32": rates})
    return replace(known, **changes)


@pytest.mark.parametrize(
    "larger",
    [
        {"videos": {VideoShape(97, 640, 640): 1}},
        {"videos": {VideoShape(93, 704, 640): 1}},
        {"dtypes": dict.fromkeys(SAMPLING.dtypes, "fp32")},
    ],
)
def test_more_never_needs_less(larger: dict[str, Any]) -> None:
    device = device_named("gpu-80g", "torch")
    before, after = SAMPLING.forecast(device), replace(SAMPLING, **larger).forecast(device)
    assert after.seconds > before.seconds
    for one, other in zip(before.phases, after.phases, strict=True):
        assert other.peak >= one.peak
    assert after.peak >= before.peak


@pytest.mark.parametrize("changes", [{"chunk": None}, {"is_guided": True, "split": ParallelPlan()}])
def test_what_saves_memory_saves_it(changes: dict[str, Any]) -> None:
    device = device_named("gpu-80g", "torch")
    small = replace(SAMPLING, chunk=1, split=ParallelPlan(sequence=4))
    peaks = {phase.name: phase.peak for phase in small.forecast(device).phases}
    for phase in replace(small, **changes).forecast(device).phases:
        assert phase.peak >= peaks[phase.name]


def test_training_state_is_that_of_the_budget() -> None:
    parameters = T2V.layout().num_parameters
    held = TRAINING.forecast(device_named("gpu-80g", "torch")).phases[0].held
    assert held[Holding("denoiser", "moments")] == 8 * parameters
    assert held[Holding("text encoder", "weights")] == 2 * MT5.layout().num_parameters
    split = replace(TRAINING, zero=2, split=ParallelPlan(data=8), micro_batches=8)
    phases = {phase.name: phase for phase in split.forecast(device_named("gpu-80g", "torch")).phases}
    assert phases["state"].held[Holding("denoiser", "moments")] == 8 * -(-parameters // 8)
    assert phases["forward and backward"].moved == budget.state_bytes(parameters, 8, 2)


def test_recomputing_trades_memory_for_time() -> None:
    device = device_named("gpu-80g", "torch")
    plain, again = (replace(TRAINING, recompute_every=every).forecast(device) for every in (0, 1))
    assert again.peak < plain.peak
    assert again.seconds > plain.seconds


def phases_of(case: SamplingCase | TrainingCase) -> dict[str, Phase]:
    return {phase.name: phase for phase in case.forecast(device_named("gpu-80g", "torch")).phases}


WEIGHTS_OF_TEXT, WEIGHTS_OF_DENOISER = Holding("text encoder", "weights"), Holding("denoiser", "weights")


def test_blocks_on_the_host_are_counted_there_and_copied_in_every_call() -> None:
    here, there = phases_of(SAMPLING)["denoise"], phases_of(replace(SAMPLING, offload="blocks"))["denoise"]
    part = open_part("denoiser", "opensora_plan_v1_3_t2v")
    assert there.on_host == block_bytes(part, "bf16"), "as the run itself asks for"
    assert there.hosted == 100 * there.on_host
    kept = here.held[WEIGHTS_OF_DENOISER] - there.held[WEIGHTS_OF_DENOISER]
    assert kept == pytest.approx(there.on_host * 30 / 32, rel=0.01), "two of 32 blocks stay"
    assert there.seconds == here.seconds, "copies are hidden"
    slow = replace(device_named("gpu-80g", "torch"), host=1e8)
    copying = next(p for p in replace(SAMPLING, offload="blocks").forecast(slow).phases if p.name == "denoise")
    assert copying.seconds == pytest.approx(there.hosted / 1e8, rel=0.01), "the larger of computing and copying"


def test_parts_that_leave_are_not_there_while_decoding() -> None:
    stays, leaves = phases_of(SAMPLING)["decode"], phases_of(replace(SAMPLING, offload="parts"))["decode"]
    assert WEIGHTS_OF_DENOISER in stays.held
    assert WEIGHTS_OF_DENOISER not in leaves.held
    looped = replace(SAMPLING, offload="parts", clips=3)
    assert phases_of(looped)["load"].seconds > 1.2 * phases_of(replace(looped, clips=1))["load"].seconds


def test_a_text_encoder_in_eight_bits_takes_half_of_bf16_and_longer() -> None:
    bf16 = phases_of(SAMPLING)["encode text"]
    int8 = phases_of(replace(SAMPLING, dtypes={**SAMPLING.dtypes, "text_encoder": "int8"}))["encode text"]
    assert int8.held[WEIGHTS_OF_TEXT] == pytest.approx(bf16.held[WEIGHTS_OF_TEXT] / 2, rel=0.01)
    assert int8.seconds > bf16.seconds


@pytest.mark.parametrize(("dtype", "gib"), [("fp32", 1.3), ("bf16", 0.65)])
def test_a_streamed_text_encoder_takes_two_layers_on_any_device(dtype: str, gib: float) -> None:
    case = replace(SAMPLING, streams_text_encoder=True, dtypes={**SAMPLING.dtypes, "text_encoder": dtype})
    for name in ("cpu", "gpu-24g"):
        load, encode, *_ = case.forecast(device_named(name, "torch")).phases
        assert encode.held[WEIGHTS_OF_TEXT] / 2**30 == pytest.approx(gib, rel=0.05), (
            "less the last matrix of the one behind"
        )
        assert encode.seconds >= device_named(name, "torch").of(dtype).load * MT5.layout().num_parameters
        assert WEIGHTS_OF_TEXT not in load.held


def test_lpips_is_counted_in_training_an_autoencoder() -> None:
    plain = replace(TRAINING, denoiser=None, text_encoder=None, video=VideoShape(25, 256, 256))
    before, after = phases_of(plain), phases_of(replace(plain, perceptual=LPIPSSpec("vgg16")))
    weights = 4 * LPIPSSpec("vgg16").layout().num_parameters
    assert after["state"].held[Holding("LPIPS", "weights")] == weights
    grown = after["forward and backward"].peak - before["forward and backward"].peak
    assert grown > weights
    assert after["forward and backward"].seconds > before["forward and backward"].seconds


def test_only_what_is_trained_has_gradients_moments_and_an_average() -> None:
    full, some = phases_of(TRAINING)["state"].held, phases_of(replace(TRAINING, trained_share=0.25))["state"].held
    assert some[Holding("denoiser", "weights")] == full[Holding("denoiser", "weights")]
    for what in ("gradients", "moments", "average"):
        assert some[Holding("denoiser", what)] == full[Holding("denoiser", what)] // 4


def test_devices_that_share_tokens_send_what_the_budget_says() -> None:
    shared = replace(SAMPLING, split=ParallelPlan(sequence=2))
    phase = next(each for each in shared.forecast(device_named("gpu-80g", "torch")).phases if each.name == "denoise")
    tokens = T2V.grid(WFVAE.compression.latent(LARGE)).num_tokens
    assert phase.moved == 100 * budget.call_bytes(T2V.costs(), 2, tokens, 2)


def test_advice_names_what_fits_the_cheapest_first() -> None:
    device = replace(device_named("gpu-24g", "torch"), memory=30 << 30)
    case = replace(SAMPLING, text_encoder=None, dtypes={"denoiser": "fp32", "vae": "fp32"}, chunk=None)
    assert not case.forecast(device).fits
    found = advice(case, device)
    assert 0 < len(found) <= MOST
    assert found[0].startswith("backend.dtype.denoiser=bf16 backend.dtype.vae=bf16 fits at 0.")
    assert "decode.chunk=2 fits" in found
    assert "decode.chunk=1 fits" not in found, "a smaller chunk than needed saves nothing"
    (line,) = short_lines(case.forecast(device), found)[2:]
    assert line.startswith("warning: it does not fit: ")


def test_advice_names_offloading_and_the_text_encoders_forms_with_their_cost() -> None:
    room = replace(device_named("gpu-24g", "torch"), memory=int(6.6 * 2**30))
    small = replace(SAMPLING, text_encoder=None, videos={VideoShape(29, 480, 480): 1}, chunk=1)
    assert advice(small, room)[0] == "backend.offload=parts fits"
    room = replace(room, memory=5 << 30)
    assert advice(small, room)[0] == "backend.offload=blocks fits"
    slow = replace(room, host=1.2e9)
    assert re.fullmatch(r"backend.offload=blocks fits at [\d.]+ times the time", advice(small, slow)[0])
    found = advice(
        replace(SAMPLING, dtypes={**SAMPLING.dtypes, "text_encoder": "fp32"}), replace(room, memory=20 << 30)
    )
    assert any(line.startswith("backend.text_encoder=stream fits") for line in found)
    assert any(line.startswith("backend.dtype.text_encoder=int8 fits") for line in found)


def test_what_the_host_has_for_a_device_is_told() -> None:
    forecast = replace(SAMPLING, offload="blocks").forecast(device_named("gpu-80g", "torch"))
    assert {"on the host", "to and from the host"} <= {row[0] for row in rows(forecast)}
    assert short_lines(forecast, [])[0].endswith(" of the host's for each")


def test_advice_is_silent_where_a_run_fits_and_honest_where_nothing_does() -> None:
    assert advice(SAMPLING, device_named("gpu-141g", "torch")) == []
    tiny = replace(device_named("gpu-24g", "torch"), memory=1 << 30)
    assert advice(SAMPLING, tiny) == []
    assert "nothing that was tried fits" in short_lines(SAMPLING.forecast(tiny), [])[-1]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_can_be_planned(family: Any) -> None:
    spec = next(iter(family.presets.values()))
    if family.kind == "denoiser":
        works = [spec.work(getattr(spec, "only_latent", LatentShape(4, 8, 8)), 2, 7)]
    elif family.kind == "vae":
        works = [half(LatentShape(4, 8, 8), 1) for half in (spec.encoding, spec.decoding)]
    else:
        works = [spec.work(1, 7)]
    assert all(counted(spec.layout(), work).flop > 0 for work in works) == bool(len(spec.layout()))


@pytest.mark.parametrize("name", SHEETS)
def test_known_devices_are_guesses(name: str) -> None:
    forecast = SAMPLING.forecast(device_named(name, "torch"))
    assert forecast.device.is_guess
    assert "not measured" in short_lines(forecast, [])[1]


def test_an_unknown_device_is_told_which_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r"--on gpu-1t: there are cpu, gpu-24g, .*describe another in a file NAME.yaml"
    ):
        device_named("gpu-1t", "torch")


GOOD = "title: my card\nmemory: 48\nfp32: 40\nbf16: 180\ncopies: 900\nlink: 30\nhost: 30\n"


def test_a_device_is_described_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "card.yaml").write_text(GOOD)
    device = device_named(str(tmp_path / "card.yaml"), "torch")
    assert (device.title, device.memory) == ("my card", 48_000_000_000)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace("memory: 48\n", ""), "memory: needs a number above 0, got None"),
        (GOOD.replace("48", "-1"), "memory: needs a number above 0, got -1"),
        (GOOD.replace("48", "true"), "memory: needs a number"),
        (GOOD + "colour: red\n", "colour: unknown"),
        (GOOD + "backend: jax\n", "backend torch or mindspore"),
        ("[1, 2]", "expected settings"),
    ],
)
def test_a_bad_description_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        device_named(str(tmp_path / "card.yaml"), "torch")
    assert "\n" not in str(caught.value)


def test_figures_are_kept_and_found(home: Path) -> None:
    assert calibration.calibrated("torch", "cpu")[0] is None
    calibration.keep(figures())
    calibration.keep(figures(backend="mindspore"))
    calibration.keep(figures(floor=7))
    found, _ = calibration.calibrated("torch", "cpu")
    assert found == figures(floor=7)
    assert len(json.loads(home.read_text())["entries"]) == 2
    device = this_device("torch", "cpu")
    assert (device.floor, device.is_guess) == (7, False)
    with pytest.raises(ConfigError, match="fp16: this CPU with 2 threads was measured in fp32 only"):
        device.of("fp16")


def broken(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(text)


def changed(change: Callable[[Any], None]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        broken(""),
        broken("[]"),
        broken("[" * 100_000),
        broken('{"version": 1}'),
        changed(lambda values: values.update(version=99)),
        changed(lambda values: values["entries"][0].update(dtypes={})),
        changed(lambda values: values["entries"][0]["dtypes"]["fp32"].update(call=0)),
        changed(lambda values: values["entries"][0]["dtypes"]["fp32"]["tables"].update(product=[])),
        changed(lambda values: values["entries"][0]["dtypes"]["fp32"].update(load="NaN")),
        changed(lambda values: values["entries"][0]["dtypes"]["fp32"].update(call=10**400)),
        changed(lambda values: values["entries"][0].update(floor=float("inf"))),
        changed(lambda values: values["entries"][0].update(floor=-1)),
        changed(lambda values: values["entries"][0].update(start=float("nan"))),
        changed(lambda values: values["entries"][0].update(memory=10**400)),
    ],
)
def test_a_damaged_file_is_said_and_replaced(home: Path, spoil: Callable[[Path], None]) -> None:
    calibration.keep(figures())
    spoil(home)
    found, note = calibration.calibrated("torch", "cpu")
    assert found is None
    assert "cannot be used" in note
    assert this_device("torch", "cpu").is_guess
    calibration.keep(figures())
    assert calibration.calibrated("torch", "cpu")[0] is not None


def test_who_has_no_home_runs_without_figures(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user that no list of users knows."""

    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", unknown)
    found, note = calibration.calibrated("torch", "cpu")
    assert found is None
    assert "set HOME or XDG_CACHE_HOME" in note
    with pytest.raises(ConfigError, match="set HOME or XDG_CACHE_HOME"):
        calibration.keep(figures())


def test_figures_of_another_machine_are_not_used(home: Path) -> None:
    calibration.keep(figures(machine="another one, 4 cores"))
    found, note = calibration.calibrated("torch", "cpu")
    assert found is None
    assert "has figures of another machine (another one, 4 cores)" in note


def test_what_is_different_by_now_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calibration.keep(figures())
    assert "measured with torch 1.0" in calibration.calibrated("torch", "cpu")[1]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert "measured with 2 threads, not 7" in calibration.calibrated("torch", "cpu")[1]


def test_rates_are_interpolated_by_logarithms() -> None:
    table = RateTable([(1, 1, 1.0), (1, 4, 4.0), (16, 1, 16.0), (16, 4, 64.0)])
    assert table.at(4, 2) == pytest.approx(8)
    assert table.at(100, 100) == table.at(16, 4) == 64
    assert table.at(0.1, 0.1) == 1


def test_the_table_adds_up() -> None:
    forecast = SAMPLING.forecast(device_named("gpu-80g", "torch"))
    table = {row[0]: row[1:] for row in rows(forecast)}
    assert len(table["peak"]) == len(forecast.phases)
    assert table["peak"][-1] == size_text(sum(forecast.phases[-1].held.values()))
    assert "to other devices" not in table


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0012, "1 ms"), (59.0, "59.0 s"), (125.0, "2 min 5 s"), (7260.0, "2 h 1 min")]
)
def test_times_are_told_as_people_do(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_lora_needs_states_for_its_own_matrices_only() -> None:
    device = device_named("gpu-80g", "torch")
    full, lora = TRAINING.forecast(device), replace(TRAINING, adapters=1_000_000).forecast(device)
    held = lora.phases[0].held
    assert held[Holding("denoiser", "frozen weights")] == 2 * T2V.layout().num_parameters
    assert held[Holding("denoiser", "moments")] == 8_000_000
    assert lora.peak < full.peak
    assert lora.seconds < full.seconds


def test_what_a_cache_leaves_out_takes_no_time_and_some_memory() -> None:
    device = device_named("gpu-80g", "torch")
    plain, cached = SAMPLING.forecast(device), replace(SAMPLING, left_out=0.5).forecast(device)
    before, after = plain.phases[2], cached.phases[2]
    assert after.seconds == pytest.approx(before.seconds / 2, rel=0.01)
    assert after.held[Holding("denoiser", "cache")] > 0


def test_what_is_timed_is_a_grid() -> None:
    for name in {operation.name for operation in OPERATIONS}:
        places = {operation.place for operation in OPERATIONS if operation.name == name}
        assert places == {(count, width) for count, _ in places for _, width in places}, name
