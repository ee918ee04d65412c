"""The lines of scripts/: each gives a plan, takes its number of processes from the environment, and runs on a CPU."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from duosora.core.cli.main import main
from duosora.core.io.weights import save_weights
from duosora.core.layout import FreshWeights
from duosora.core.models import opensora_t2v, opensora_vae, sd_vae, stdit, stdit2, stdit3
from duosora.core.models.finding import TINY_FOLDER

ROOT = Path(__file__).parents[2]
FOLDERS = ("cuda", "ascend")


def published(*systems: str) -> list[Path]:
    """The configurations of systems, by the beginnings of their names."""
    paths = (ROOT / "configs").glob("*/*.yaml")
    named = (path for path in paths if path.parent.name in ("sample", "train") and path.stem.startswith(systems))
    return sorted(path.relative_to(ROOT) for path in named)


CONFIGS = published("opensora", "wfvae")
OF_CLASSES = published("dit_", "sit_")
"""Their data has other folders; tests/recipes makes their plans."""
PATIENCE = 120
"""Seconds after which a run is given up."""
SEPARATOR = "\x1f"
STUB = """#!/usr/bin/env bash
{ printf '%s\\x1f' "$(basename "$0")" "$@"; echo; } >> "$RECORD"
"""


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny models under the names of the published ones."""
    folder = tmp_path_factory.mktemp("models")
    tiny = Path(TINY_FOLDER)
    for name, source in (("vae", "vae"), ("mt5-xxl", "text_encoder")):
        shutil.copytree(tiny / source, folder / name)
    shutil.copy(tiny / "spiece.model", folder / "mt5-xxl")
    shutil.copytree(folder / "mt5-xxl", folder / "t5-v1_1-xxl")
    fresh = {
        "any93x640x640": replace(opensora_t2v.TINY, num_layers=4),  # of the published system, not of the tiny one
        "any93x640x640_i2v": replace(opensora_t2v.TINY_INPAINT, num_layers=4),
        "OpenSora-STDiT-v3": stdit3.TINY,
        "OpenSora-STDiT-v2-stage3": stdit2.TINY,
        "OpenSora-v1-HQ-16x256x256": stdit.TINY,
        "sd-vae-ft-ema": sd_vae.PRESETS["sd_vae_tiny"],
        "OpenSora-VAE-v1.2": opensora_vae.PRESETS["opensora_vae_tiny"],
    }
    for name, spec in fresh.items():
        save_weights(folder / name, FreshWeights(spec.layout(), 0))
        (folder / name / "config.json").write_text(json.dumps(spec.to_config()))
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    image = ROOT / "tests/media/city.jpg"
    file.write_text(json.dumps({"prompt": "a city", "image": str(image)}) + "\n")
    return file


def given(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def arguments(config: Path, models: Path, prompts: Path, run: Path) -> list[str]:
    """What a line is given on the tiny models."""
    if config.parent.name == "sample":
        words = [models, prompts if "i2v" in config.name else "a small blue ring"]
    else:
        media = ROOT / "tests/media"
        words = [models, media if "vae" in config.name else media / "clips.json", run]
    return [str(word) for word in (config, *words)]


def on_cpu(config: Path) -> list[str]:
    """Options under which the plan of a published configuration is made without its weights and without a device."""
    if config.parent.name == "sample":
        settings = ["backend.device=cpu", "backend.dtype={}", *(_first("video") if "first" in config.name else [])]
    else:
        settings = ["compute.device=cpu", "compute.dtype=fp32", "start={}", *_small(config)]
    return given(*settings)


def _small(config: Path) -> list[str]:
    """What fits the tiny models and the clips of the tests."""
    if "first" in config.name:
        return [*_first("data"), "data.max_area=1024", "caches={}", "max_tokens=32"]
    if "vae" in config.name:
        return ["autoencoder.perceptual_weight=0", *(["model.vae=opensora_vae_tiny"] if "v1_2" in config.name else [])]
    for version, denoiser in (("v1_2", "stdit3_tiny"), ("v1_1", "stdit2_tiny"), ("v1_0", "stdit_tiny")):
        if version in config.name:
            return [f"model.denoiser={denoiser}", "max_tokens=32", "data.probe=true"]
    return ["data.min_bucket_batches=0"]


def _first(section: str) -> list[str]:
    """A small model of the first release, which published none, and clips that it has places for."""
    models = ("denoiser=dit_first_tiny_cross_attn", "text_encoder=tiny", "vae=pixels_half")
    sizes = ("frames=2", "height=32", "width=32")
    return [*(f"model.{words}" for words in models), *(f"{section}.{words}" for words in sizes)]


Recorded = list[list[str]]


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., Recorded]:
    """Run a line with stand-ins for the commands that it calls: these commands, each with its arguments."""
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    for name in ("duosora", "torchrun", "msrun", "scontrol"):
        (stubs / name).write_text(STUB)
    (stubs / "scontrol").write_text("#!/usr/bin/env bash\necho node-a\necho node-b\n")
    (stubs / "srun").write_text('#!/usr/bin/env bash\nshift\nSLURM_NODEID=1 exec "$@"\n')
    for stub in stubs.iterdir():
        stub.chmod(0o755)

    def record(*command: object, **environment: str) -> Recorded:
        file = tmp_path / "record"
        file.unlink(missing_ok=True)
        here = {"PATH": f"{stubs}:{os.environ['PATH']}", "RECORD": str(file), "LOGS": str(tmp_path / "logs")}
        subprocess.run(
            [str(word) for word in command], env=os.environ | here | environment, check=True, timeout=PATIENCE
        )
        return [line.split(SEPARATOR)[:-1] for line in file.read_text("utf-8").splitlines()]

    return record


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_line_gives_a_plan(
    folder: str,
    config: Path,
    models: Path,
    prompts: Path,
    tmp_path: Path,
    recorded: Callable[..., Recorded],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip({"cuda": "torch", "ascend": "mindspore"}[folder])
    line = ROOT / "scripts" / folder / f"{config.parent.name}.sh"
    words = arguments(ROOT / config, models, prompts, tmp_path / "run")
    *_, command = recorded(line, *words, *on_cpu(config), "--dry-run", SEQUENCE="1")
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as left:
        main()
    captured = capsys.readouterr()
    assert not left.value.code, captured.err
    assert f"backend    {'torch' if folder == 'cuda' else 'mindspore'} on cpu" in captured.out
    assert ("videos" if command[1] == "sample" else "objective") in captured.out


def test_models_of_a_configuration_are_those_of_the_folder(recorded: Callable[..., Recorded]) -> None:
    line = ROOT / "scripts/cuda/train.sh"
    i2v, wfvae = (ROOT / "configs/train" / name for name in ("opensora_plan_v1_3_i2v_stage1.yaml", "wfvae_stage3.yaml"))
    (command,) = recorded(line, i2v, "my models", "a.txt", "run")
    settings = [word for before, word in pairwise(command) if before == "--set"]
    assert settings == [
        "compute.device=cuda",
        'data.files=["a.txt"]',
        "model.text_encoder=my models/mt5-xxl",
        "model.vae=my models/vae",
        "start.weights=my models/any93x640x640",
    ]
    (command,) = recorded(line, wfvae, "m", "videos", "run", START="stage2/model_ema")
    assert command[-4:] == [
        "--set",
        "autoencoder.perceptual_backbone=m/lpips",
        "--set",
        "start.weights=stage2/model_ema",
    ]


def test_upstreams_scripts_have_a_line_and_every_configuration_is_named() -> None:
    page = (ROOT / "scripts/README.md").read_text("utf-8")
    table = page.partition("## Upstream's scripts")[2]
    assert {"sample.sh", "train.sh", "reconstruct.sh"} == set(re.findall(r"\| `(\w+\.sh)` \|", table))
    named = set(re.findall(r"`(configs/[^`]+)`", table))
    assert named == {*map(str, CONFIGS + OF_CLASSES), "configs/reconstruct/wfvae.yaml"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_reconstruction_runs(
    folder: str,
    models: Path,
    tmp_path: Path,
    recorded: Callable[..., Recorded],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip({"cuda": "torch", "ascend": "mindspore"}[folder])
    picture, result = ROOT / "tests/media/city.jpg", tmp_path / "again.png"
    line = ROOT / "scripts" / folder / "reconstruct.sh"
    options = given("device=cpu", "dtype=fp32", "height=32", "width=32")
    *_, command = recorded(line, ROOT / "configs/reconstruct/wfvae.yaml", models, picture, result, *options)
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as left:
        main()
    assert not left.value.code
    assert result.exists()


@pytest.mark.parametrize("folder", FOLDERS)
def test_one_device_is_no_job(folder: str, recorded: Callable[..., Recorded]) -> None:
    *before, command = recorded(ROOT / "scripts" / folder / "launch.sh", "train", "--out", "a run")
    assert command == ["duosora", "train", "--out", "a run"]
    assert before == ([] if folder == "cuda" else [["duosora", "doctor"]])


def test_gpus_are_started_by_torchrun(recorded: Callable[..., Recorded]) -> None:
    line = ROOT / "scripts/cuda/launch.sh"
    (command,) = recorded(line, "sample", "a prompt", NPROC="8", SEQUENCE="4")
    split = command.index("-m")
    assert command[split:] == ["-m", "duosora", "sample", "--set", "parallel.sequence=4", "a prompt"]
    options = dict(zip(command[1:split:2], command[2:split:2], strict=True))
    assert (options["--nnodes"], options["--nproc-per-node"]) == ("1", "8")
    assert 20000 <= int(options["--master-port"]) < 30000


def test_npus_are_started_by_msrun(recorded: Callable[..., Recorded]) -> None:
    line = ROOT / "scripts/ascend/launch.sh"
    here = {"NPROC": "8", "NNODES": "4", "NODE_RANK": "3", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "8118"}
    _, command = recorded(line, "train", "--out", "a run", **here)
    split = command.index("python")
    assert command[split:] == ["python", "-m", "duosora", "train", "--out", "a run"]
    assert {
        "--worker_num=32",
        "--local_worker_num=8",
        "--node_rank=3",
        "--master_addr=10.0.0.1",
        "--master_port=8118",
        "--bind_core=True",
        "--join=True",
    } <= set(command[:split])


def test_slurm_numbers_the_machines(recorded: Callable[..., Recorded]) -> None:
    job = {"SLURM_GPUS_ON_NODE": "8", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_JOB_ID": "71234"}
    scripts = ROOT / "scripts/cuda"
    (command,) = recorded(scripts / "slurm.sh", scripts / "launch.sh", "doctor", **job)
    split = command.index("-m")
    assert command[split:] == ["-m", "duosora", "doctor"]
    options = dict(zip(command[1:split:2], command[2:split:2], strict=True))
    assert options.items() >= {"--nnodes": "2", "--node-rank": "1", "--nproc-per-node": "8"}.items()
    assert options.items() >= {"--master-addr": "node-a", "--master-port": "21234"}.items()


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_port_in_use_is_named(folder: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        done = run_line(ROOT / "scripts" / folder / "launch.sh", "doctor", "--help", logs=tmp_path, MASTER_PORT=port)
    assert done.returncode == 2
    assert f"port {port} of this machine is in use by another process" in done.stderr


def start_line(line: Path, *words: object, logs: Path, **environment: str) -> subprocess.Popen[str]:
    """A line on two processes."""
    here = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "LOGS": str(logs), "NPROC": "2"}
    return subprocess.Popen(
        [str(word) for word in (line, *words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | here | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_line(line: Path, *words: object, logs: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    started = start_line(line, *words, logs=logs, **environment)
    out, err = started.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(words, started.returncode, out, err)


@pytest.mark.processes
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_line_samples_on_two_processes(folder: str, models: Path, tmp_path: Path) -> None:
    pytest.importorskip({"cuda": "torch", "ascend": "mindspore"}[folder])
    done = run_line(
        ROOT / "scripts" / folder / "sample.sh",
        ROOT / "configs/sample/opensora_plan_v1_3_t2v.yaml",
        models,
        "a small blue ring moves up",
        *given("backend.device=cpu", "backend.dtype={}", "prompts.max_tokens=16", "sampler.steps=2"),
        *given("video.frames=5", "video.height=64", "video.width=64"),
        "--out",
        tmp_path / "videos",
        logs=tmp_path / "logs",
        SEQUENCE="2",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "processes  2 = data 1 x cfg 1 x sequence 2" in done.stdout
    assert [file.name for file in (tmp_path / "videos").glob("*.mp4")] == ["a-small-blue-ring-moves-up_42.mp4"]


def training(folder: str, run: Path, *settings: str) -> list[object]:
    """A stage's line on drawn clips and the tiny model."""
    return [
        ROOT / "scripts" / folder / "train.sh",
        ROOT / "configs/train/opensora_plan_v1_3_t2v_stage1.yaml",
        "no models",
        "no data",
        run,
        *given("compute.device=cpu", "compute.dtype=fp32", "compute.encode_chunk=null", "max_tokens=16"),
        *given("model={denoiser: tiny}", "data={kind: moving_shapes, workers: 0}", "accumulate=2", *settings),
    ]


@pytest.mark.processes
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_training_line_saves_and_leaves_on_sigterm(folder: str, tmp_path: Path) -> None:
    pytest.importorskip({"cuda": "torch", "ascend": "mindspore"}[folder])
    run = tmp_path / "run"
    started = start_line(*training(folder, run, "max_steps=100000", "checkpoints.every=null"), logs=tmp_path / "logs")
    until = time.monotonic() + PATIENCE
    while not (run / "log.jsonl").exists() or '"step"' not in (run / "log.jsonl").read_text("utf-8"):
        assert time.monotonic() < until
        assert started.poll() is None, started.communicate()
        time.sleep(0.2)
    started.send_signal(signal.SIGTERM)
    out, err = started.communicate(timeout=PATIENCE)
    assert started.returncode == 0, out + err
    assert len(list(run.glob("checkpoint-*/manifest.json"))) == 1
    assert "the same command goes on from there" in out


@pytest.mark.processes
def test_a_killed_rank_ends_the_line_with_its_log(tmp_path: Path) -> None:
    run, logs = tmp_path / "run", tmp_path / "logs"
    started = start_line(*training("cuda", run, "max_steps=100000"), logs=logs)
    until = time.monotonic() + PATIENCE
    while not (run / "log.jsonl").exists() or not (logs / "ranks").exists():
        assert time.monotonic() < until
        assert started.poll() is None, started.communicate()
        time.sleep(0.2)
    (victim,) = (int(row.split()[0]) for row in (logs / "ranks").read_text().splitlines() if row.endswith(" 1"))
    os.kill(victim, signal.SIGKILL)
    _, err = started.communicate(timeout=60)
    assert started.returncode != 0
    assert "a rank failed; the end of" in err
