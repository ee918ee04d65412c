"""`duosora inspect`, `check`, `doctor` and the command itself."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from duosora.core import ascend
from duosora.core.cli import doctor
from duosora.core.io.weights import open_weights, save_weights
from duosora.core.layout import FreshWeights
from duosora.core.models import opensora_t2v, t5, wfvae

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """Three model folders, side by side as on the hub."""
    for name, spec in (("any93", opensora_t2v.TINY_INPAINT), ("mt5", t5.TINY), ("vae", wfvae.TINY)):
        save_weights(tmp_path / name, FreshWeights(spec.layout(), 0))
        (tmp_path / name / "config.json").write_text(json.dumps(spec.to_config()))
    return tmp_path


def test_inspect_describes_each_model_of_a_folder(duosora: Callable, hub: Path) -> None:
    outcome = duosora("inspect", hub)
    assert outcome.code == 0, outcome.err
    assert "OpenSoraInpaint(num_layers=6, heads=3x48)" in outcome.out
    assert "2 layers, 4 heads of 16, vocabulary 160" in outcome.out
    assert "4x8x8 compression, 8 latent channels, layernorm" in outcome.out
    assert outcome.out.count("complete") == 3


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tiny", ["a recipe, the tiny model", "a preset of model.vae", "OpenSoraT2V(num_layers=6", "come with it"]),
        ("opensora_v1_2", ["model.denoiser: stdit3_xl_2 or stdit3_3b_2", "objective: rflow", "prompts.negative=null"]),
        ("stdit3_3b_2", ["STDiT3(depth=28, heads=26x72)), 3,182,211,572 parameters", "none come with it"]),
    ],
)
def test_inspect_knows_presets_and_recipes(duosora: Callable, name: str, told: list[str]) -> None:
    outcome = duosora("inspect", name)
    assert outcome.code == 0, outcome.err
    assert [each for each in told if each not in outcome.out] == []


def test_a_name_that_nothing_has_is_one_line(duosora: Callable) -> None:
    outcome = duosora("inspect", "no_such_model")
    assert outcome.code == 2
    assert outcome.err == "duosora: no_such_model: no such file or folder, and no preset or recipe of that name\n"


def test_inspect_says_what_is_missing(duosora: Callable, hub: Path) -> None:
    file = next((hub / "vae").glob("*.safetensors"))
    reader = open_weights(file)
    kept = {name: reader[name] for name in reader if name != "decoder.conv_in.conv.weight"}
    save_weights(file, kept, overwrite=True)
    outcome = duosora("inspect", hub / "vae")
    assert outcome.code == 1
    assert "DOES NOT FIT" in outcome.out
    assert "1 missing (decoder.conv_in.conv.weight)" in outcome.out


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda array: array * 0,
            "DAMAGED: {place}: 1 of {count} matrices are all zeros (shared.weight); the file was",
        ),
        (lambda array: array.astype(np.int8), "1 of 21 weights hold no floating-point numbers (shared.weight is int8)"),
    ],
    ids=["zeros", "integers"],
)
def test_inspect_says_what_cannot_be_weights(
    duosora: Callable, hub: Path, with_config: bool, damage: Callable, message: str
) -> None:
    file = next((hub / "mt5").glob("*.safetensors"))
    reader = open_weights(file)
    save_weights(
        file,
        {name: reader[name] for name in reader} | {"shared.weight": damage(reader["shared.weight"])},
        overwrite=True,
    )
    place = hub / "mt5"
    if not with_config:
        place = shutil.move(file, hub / "bare.safetensors")
    outcome = duosora("inspect", place)
    assert outcome.code == 1
    assert message.format(place=place, count=16) in outcome.out
    assert "complete" not in outcome.out


def test_inspect_leaves_weights_of_no_known_model_alone(duosora: Callable, tmp_path: Path) -> None:
    save_weights(tmp_path / "x.safetensors", {"a\x1b[2J": np.zeros((2, 2)), "b": np.ones((2, 2), np.int8)})
    outcome = duosora("inspect", tmp_path / "x.safetensors", "--tensors")
    assert outcome.code == 0, outcome.err
    assert "model: unknown" in outcome.out
    assert "a\\x1b[2J  [2, 2]  float64" in outcome.out


def test_inspect_guesses_the_model_of_a_bare_file(duosora: Callable, hub: Path) -> None:
    file = next((hub / "mt5").glob("*.safetensors"))
    shutil.move(file, hub / "bare.safetensors")
    outcome = duosora("inspect", hub / "bare.safetensors", "--tensors")
    assert outcome.code == 0, outcome.err
    assert "its names are those of T5 encoder" in outcome.out
    assert "shared.weight  [160, 64]  float32" in outcome.out


def test_check_passes_and_counts_what_is_not_there_yet(duosora: Callable, tmp_path: Path) -> None:
    shutil.copytree(GOLDENS / "t2v/rope3d", tmp_path / "t2v/rope3d")
    shutil.copytree(GOLDENS / "t2v/rope3d", tmp_path / "unheard_of/case")
    outcome = duosora("check", tmp_path, "--json", tmp_path / "report.json")
    assert outcome.code == 0, outcome.err
    assert "not yet: unheard_of (1 cases)" in outcome.out
    assert "1 passed, 0 failed, 1 not yet on torch" in outcome.out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["cases"][0]["case"] == "t2v/rope3d"
    assert report["cases"][0]["passed"]


def test_check_fails_when_numbers_differ(duosora: Callable, tmp_path: Path) -> None:
    shutil.copytree(GOLDENS / "t2v/rope3d", tmp_path / "t2v/rope3d")
    file = tmp_path / "t2v/rope3d/io.safetensors"
    reader = open_weights(file)
    save_weights(file, {name: reader[name] * np.float32(1.001) for name in reader}, overwrite=True)
    # Inputs scaled alike give outputs scaled alike, so one is left as it was.
    tensors = {name: reader[name] for name in open_weights(file)}
    tensors["plain.tokens"] = tensors["plain.tokens"] * np.float32(1.001)
    save_weights(file, tensors, overwrite=True)
    outcome = duosora("check", tmp_path)
    assert outcome.code == 1
    assert "FAIL" in outcome.out


@pytest.mark.parametrize("damage", ["weights", "json", "io"])
def test_check_reports_a_case_that_cannot_be_read_as_an_error(duosora: Callable, tmp_path: Path, damage: str) -> None:
    shutil.copytree(GOLDENS / "mt5/tiny", tmp_path / "mt5/tiny")
    if damage == "weights":
        file = tmp_path / "mt5/tiny/weights.safetensors"
        reader = open_weights(file)
        save_weights(file, {name: reader[name] + np.float32(1e-3) for name in reader}, overwrite=True)
    elif damage == "json":
        (tmp_path / "mt5/tiny/case.json").write_text("{")
    else:
        (tmp_path / "mt5/tiny/io.safetensors").write_bytes(b"short")
    outcome = duosora("check", tmp_path)
    assert outcome.code != 0
    assert {"weights": "sha256", "json": "case.json", "io": "io.safetensors"}[damage] in " ".join(
        (outcome.out + outcome.err).split()
    )


def test_check_refuses_a_folder_without_cases(duosora: Callable, tmp_path: Path) -> None:
    outcome = duosora("check", tmp_path)
    assert outcome.code == 2
    assert "no golden case here" in outcome.err


def test_doctor_reports_backends(duosora: Callable) -> None:
    outcome = duosora("doctor")
    assert outcome.code == 0, outcome.err
    assert "backend torch: torch 2" in outcome.out
    assert "sentencepiece" in outcome.out


def test_doctor_compares_the_ways_of_the_device(duosora: Callable) -> None:
    lines = duosora("doctor", "--npu-check").out.splitlines()
    assert any(line.startswith("torch on cpu, fp32, attention sdpa: ") for line in lines)
    assert "mindspore on cpu, fp32: nothing is done in a way of its own" in lines


def test_doctor_says_nothing_of_ascend_where_there_is_none(duosora: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    assert "Ascend:" not in duosora("doctor").out


@pytest.mark.parametrize(
    ("cann", "verdict"),
    [
        ("9.1.0", "MindSpore 2.10.0 and CANN 9.1.0 belong together"),
        ("8.5.0", "MindSpore 2.10.0 was built with CANN 9.1, here is 8.5.0: install the one that fits"),
        (None, "MindSpore 2.10.0 needs CANN 9.1: install it and source its set_env.sh"),
    ],
)
def test_doctor_tells_whether_cann_and_mindspore_belong_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cann: str | None, verdict: str
) -> None:
    driver = tmp_path / "version.info"
    driver.write_text("Version=24.1.rc3\nascendhal_version=7.35.23\n", encoding="utf-8")
    toolkit = tmp_path / "toolkit"
    (toolkit / "aarch64-linux").mkdir(parents=True)
    if cann:
        told = f"package_name=Ascend-cann-toolkit\nversion={cann}\ninnerversion=V100R001\n"
        (toolkit / "aarch64-linux" / "ascend_toolkit_install.info").write_text(told, encoding="utf-8")
    monkeypatch.setattr(ascend, "DRIVER", driver)
    monkeypatch.setenv("ASCEND_HOME_PATH", str(toolkit))
    monkeypatch.setattr(ascend.metadata, "version", lambda name: "2.10.0")
    report = list(ascend.ascend_report())
    assert report[0] == f"Ascend: driver 24.1.rc3, CANN {cann or 'not found'}"
    assert report[1] == f"Ascend: {verdict}"
    assert "not checked" in report[2]


@pytest.mark.slow
def test_parity_compares_blocks_and_videos(duosora: Callable, tmp_path: Path) -> None:
    settings = ("video.frames=1", "video.height=32", "video.width=32", "sampler.steps=2", 'prompts.sources=["a star"]')
    changes = [word for setting in settings for word in ("--set", setting)]
    files = ("--json", tmp_path / "parity.json", "--markdown", tmp_path / "parity.md")
    outcome = duosora("parity", *changes, *files)
    assert outcome.code == 0, outcome.err
    (report,) = json.loads((tmp_path / "parity.json").read_text())
    assert report["dtype"] == "fp32"
    assert len(report["blocks"]["denoiser"]) == opensora_t2v.TINY.num_layers + 1
    assert report["gradients"].keys() == {"denoiser", "autoencoder"}
    assert 0 < report["videos"]["latents"]["error"] < 1e-4
    page = (tmp_path / "parity.md").read_text()
    assert "| denoiser output | " in page
    assert "| gradients, denoiser transformer_blocks.0 | " in page
    assert page in outcome.out


def test_doctor_says_how_to_install_what_is_missing(duosora: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = doctor.Package("no_such_module", "absent", "nothing", "torch")
    monkeypatch.setattr(doctor, "PACKAGES", (absent,))
    assert 'pip install -e ".[torch]"' in duosora("doctor").out


def test_the_command_answers_without_a_framework() -> None:
    script = "import sys; sys.argv = ['duosora', '--help']\n"
    script += "from duosora.core.cli.main import main\n"
    script += "try: main()\nexcept SystemExit: print(sorted({'torch', 'mindspore', 'numpy', 'av'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "sample" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_version_and_unknown_verbs(duosora: Callable) -> None:
    assert duosora("--version").out == "0.1.0\n"
    assert duosora("sampel").code == 2
