"""`duosora plan`, and what sample and train say of it when they start."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from duosora.core.config.loading import load
from duosora.core.config.schema import SampleConfig
from duosora.core.config.training import TrainConfig
from duosora.core.io.weights import save_weights
from duosora.core.planning import calibrating
from duosora.core.planning.advice import advice
from duosora.core.planning.calibration import Calibration, keep
from duosora.core.planning.devices import SHEETS
from duosora.core.planning.here import processor
from duosora.core.planning.operations import OPERATIONS
from duosora.core.planning.rates import MeasuredRates, RateTable
from duosora.core.planning.telling import short_lines
from duosora.core.planning.unstarted import plan_sampling, plan_training

ROOT = Path(__file__).parents[2]


def figures(backend: str = "torch") -> Calibration:
    names = {operation.name for operation in OPERATIONS}
    rates = MeasuredRates(dict.fromkeys(names, RateTable(((1.0, 1.0, 1e9),))), 1e9, 1e-6, 1e-9, 1e-9)
    return Calibration(processor(), backend, "cpu", 2, "1.0", "2026-01-01", 1 << 20, 0.5, {"fp32": rates})


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No figures of this machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "duosora" / "calibration.json"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sample"], ["autoencoder activations", "guessed; this machine has not been measured"]),
        (["sample", "a dog", "--config", "sample/tiny", "--set", "video.frames=5"], ["denoise", "decode"]),
        (["sample", "--set", "model.denoiser=opensora_plan_v1_3_t2v", "--on", "gpu-24g"], ["GeForce", "tokeniser"]),
        (["sample", "--set", "model.denoiser=dit_xl_2", "--on", "gpu-40g"], ["A100", "denoiser weights"]),
        (["train", "--config", "train/opensora_plan_v1_3_t2v_stage3", "--on", "ascend-910b"], ["stands in for it"]),
        (["train", "--config", "train/opensora_v1_2_stage1", "--on", "gpu-24g"], ["warning: it does not fit: "]),
        (["train", "--config", "train/wfvae_stage1"], ["discriminator"]),
        (["sample", "--set", "backend.compile=true"], ["the first call of each size takes longer"]),
        (
            ["train", "--config", "train/tiny_t2v", "--set", "compute.compile=true"],
            ["the first call of each size takes longer"],
        ),
    ],
)
def test_a_run_is_planned_without_its_models(duosora: Callable, words: list[str], expected: list[str]) -> None:
    outcome = duosora("plan", *words)
    assert (outcome.code, outcome.err) == (0, "")
    assert all(text in outcome.out for text in expected), outcome.out


def test_lora_is_named_as_where_it_runs(duosora: Callable, tmp_path: Path) -> None:
    layer, matrix = "transformer_blocks.0.attn1.to_q", np.ones((144, 144), np.float32)
    save_weights(tmp_path / "x.safetensors", {f"{layer}.lora_A.weight": matrix, f"{layer}.lora_B.weight": matrix})
    words = ("plan", "sample", "--set", "model.denoiser=tiny", "--lora")
    assert duosora(*words, f"{tmp_path}/x.safetensors:0.5").code == 0
    outcome = duosora(*words, f"{tmp_path}/x.safetensors:1e39")
    assert outcome.code == 2
    assert "1e+39 times this LoRA" in outcome.err


SHIPPED = sorted(path for kind in ("sample", "train") for path in (ROOT / "configs" / kind).glob("*.yaml"))
DEVICES = ("cpu", *SHEETS)


def test_every_config_that_comes_with_duosora_is_planned() -> None:
    for number, file in enumerate(SHIPPED):
        on = DEVICES[number % len(DEVICES)]
        if file.parent.name == "sample":
            case, device, _ = plan_sampling(load(file, SampleConfig, []), frozenset(), on, None)
        else:
            case, device, _ = plan_training(load(file, TrainConfig, []), frozenset(), on, None)
        forecast = case.forecast(device)
        assert all(0 < phase.peak < 1 << 40 and 0 <= phase.seconds < 1e9 for phase in forecast.phases), (file, on)
        assert len(short_lines(forecast, advice(case, device))) == 2 + (forecast.fits is False), (file, on)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["sample", "--on", "gpu-1t"], "--on gpu-1t: there are cpu, gpu-24g"),
        (["sample", "--on", ""], "--on : there are cpu"),
        (["sample", "--devices", "0"], "--devices"),
        (["train", "--devices", "-1"], "--devices"),
        (["train", "--on", "cuda"], "--on cuda: there are cpu, gpu-24g"),
        (["sample", "--set", "backend.offload=blocks"], "the device is the host's CPU"),
        (["sample", "--on", "none.yaml"], "none.yaml: there is no such file"),
        (["sample", "--devices", "3", "--set", "parallel.sequence=2"], "parallel.sequence = 2: does not divide 3"),
        (["sample", "--set", "video.frames=6"], "num_frames = 6"),
        (["--calibrate", "sample"], "--calibrate measures the machine and plans nothing"),
    ],
)
def test_what_cannot_be_planned_is_one_line(duosora: Callable, words: list[str], told: str) -> None:
    outcome = duosora("plan", *words)
    assert outcome.code == 2
    assert told in outcome.err
    assert outcome.err.count("\n") == 1


def test_planning_loads_no_framework() -> None:
    script = (
        "import sys; sys.argv = ['duosora', 'plan', 'sample']\n"
        "from duosora.core.cli.main import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'mindspore'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0


def test_every_installed_backend_is_measured_by_itself(
    duosora: Callable, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrating, "available", lambda: ("torch", "mindspore"))
    monkeypatch.setattr(calibrating, "_alone", lambda name, device: figures(backend=name))
    outcome = duosora("plan", "--calibrate")
    assert outcome.code == 0
    assert [entry["backend"] for entry in json.loads(home.read_text())["entries"]] == ["torch", "mindspore"]


def test_damaged_figures_are_said_and_the_plan_is_a_guess(duosora: Callable, home: Path) -> None:
    home.parent.mkdir(parents=True)
    home.write_bytes(b"\xff\x00{")
    outcome = duosora("plan", "sample")
    assert (outcome.code, outcome.err) == (0, "")
    assert "guessed; " in outcome.out
    assert "cannot be used" in outcome.out


def test_figures_that_are_there_are_used(duosora: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    keep(figures())
    assert "measured 2026-01-01 with torch 1.0" in duosora("plan", "sample", "--backend", "torch").out


def test_a_run_says_its_plan_when_it_starts(duosora: Callable, tmp_path: Path) -> None:
    outcome = duosora("sample", "a dog", "--dry-run", "--out", tmp_path / "out", "--set", "backend.device=cpu")
    assert [line.split()[0] for line in outcome.out.splitlines()][-2:] == ["memory", "time"]
