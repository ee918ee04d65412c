"""A family is new files and one line: somebody's stub is sampled, trained, inspected and converted on both backends."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT, STUB = Path(__file__).parents[2], Path(__file__).parent / "stub"
WORDS = {"torch import": "mindspore import", "nn.Module": "nn.Cell", "def forward": "def construct"}
"""What MindSpore says otherwise."""
BACKENDS = ("torch", "mindspore")
LINE = '    "stub",\n'


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The house with the stub in it."""
    folder = tmp_path_factory.mktemp("house")
    skipped = shutil.ignore_patterns("__pycache__")
    for room in ("core", "backends", "convert", "src", "configs", "tests/families"):
        shutil.copytree(ROOT / room, folder / room, symlinks=True, ignore=skipped)
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copy(STUB / "spec.py", folder / "core/models/stub.py")
    shutil.copy(STUB / "names.py", folder / "convert/names/stub.py")
    model = (STUB / "model.py").read_text("utf-8")
    (folder / "backends/torch/models/stub.py").write_text(model, encoding="utf-8")
    for word, other in WORDS.items():
        model = model.replace(word, other)
    (folder / "backends/mindspore/models/stub.py").write_text(model, encoding="utf-8")
    families = folder / "core/models/__init__.py"
    before, bracket, behind = families.read_text("utf-8").partition(")\n")
    families.write_text(before + LINE + bracket + behind, encoding="utf-8")
    return folder


def run(house: Path, *arguments: object, module: str = "duosora") -> str:
    """What a command prints in that house."""
    environment = os.environ | {"PYTHONPATH": str(house / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env=environment, cwd=house, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_new_family_is_files_and_a_line(house: Path, tmp_path: Path, backend: str) -> None:
    with_tiny = ("--set", "model.text_encoder=tiny", "--set", "model.vae=tiny")
    train = ("model.denoiser=stub_16", "data.kind=moving_shapes", "data.workers=0", "tensorboard=off", "max_steps=2")
    settings = [part for setting in train for part in ("--set", setting)]
    run(house, "train", "--backend", backend, *with_tiny, *settings, "--out", tmp_path / "run")
    model = tmp_path / "run/checkpoint-2/model"

    told = run(house, "inspect", model)
    assert "model: Stub (Stub(stub_width=16))" in told
    assert "3 stubborn layers" in told
    assert "complete" in told

    small = ("video.frames=1", "video.height=32", "video.width=32", "sampler.steps=2")
    sizes = [part for setting in small for part in ("--set", setting)]
    run(house, "sample", "a red ring", "--backend", backend, "--set", f"model.denoiser={model}", *with_tiny, *sizes,
        "--out", tmp_path / "made")  # fmt: skip
    assert list((tmp_path / "made").glob("*.png"))

    run(house, "convert", model, "--to", tmp_path / "stub.ckpt")
    assert "Stub" in run(house, "inspect", tmp_path / "stub.ckpt")
    run(house, "convert", tmp_path / "stub.ckpt", "--to", tmp_path / "back.safetensors")
    assert "its names are those of Stub (14 of 14)" in run(house, "inspect", tmp_path / "back.safetensors")


@pytest.mark.slow
def test_it_is_tested_as_soon_as_it_is_listed(house: Path) -> None:
    common = "tests/families/test_every_family.py"
    told = run(house, "-v", common, "-k", "stub", module="pytest")
    passed = set(re.findall(r"::(\w+)\[.*stub.*\] PASSED", told))
    every = set(re.findall(r"^def (test_\w+)", (house / common).read_text("utf-8"), re.MULTILINE))
    assert every - passed == {
        "test_a_reconstruction_is_what_decoding_makes_of_encoding",
        "test_chunks_give_what_one_piece_gives_or_are_refused",
        "test_ranks_that_share_the_tokens_each_have_blocks_on_the_host",
    }, "autoencoders, and one denoiser for all"
