"""What `duosora doctor` says of each verb: that it works, or what it misses; and when nothing can be sampled."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.main import get_command

from duosora.core import checkup
from duosora.core.checkup import NEEDS, known_problems, problems_of_verbs
from duosora.core.cli import doctor
from duosora.core.cli.main import app, main
from duosora.core.config import shipped
from duosora.core.models import finding
from duosora.core.seam import backend

BOTH = ("torch", "mindspore")
WITHOUT_BACKEND = {"evaluate", "plot", "convert", "inspect", "data"}


def lacking(problems: dict[str, str]) -> set[str]:
    return {verb for verb, problem in problems.items() if problem}


def test_every_verb_is_looked_at() -> None:
    assert set(NEEDS) == set(get_command(app).commands) - {"doctor", "plan", "settings"}


def test_here_all_work() -> None:
    assert lacking(problems_of_verbs(BOTH)) == set()
    assert lacking(problems_of_verbs(("mindspore",))) == {"parity"}


def test_without_a_backend_the_others_work() -> None:
    problems = problems_of_verbs(())
    assert lacking(problems) == set(NEEDS) - WITHOUT_BACKEND
    assert problems["sample"] == (
        'a backend: pip install -e ".[torch]" or pip install -e ".[mindspore]" in the clone of duosora'
    )
    assert problems["parity"] == (
        'both backends: pip install -e ".[torch]" and pip install -e ".[mindspore]" in the clone of duosora'
    )


@pytest.mark.parametrize(
    ("module", "verbs", "words"),
    [
        ("av", {"sample", "reconstruct", "evaluate", "train", "judge", "data"}, "mp4 files: "),
        ("PIL", {"sample", "judge", "evaluate"}, "png files: "),
        ("matplotlib", {"plot"}, 'matplotlib, which is not installed: pip install -e ".[train]"'),
        ("safetensors", {"train", "convert"}, "weights: "),
        ("sentencepiece", {"sample", "train", "cache"}, "the tiny model: "),
    ],
)
def test_a_package_that_is_missing_is_told_where_it_is_needed(module: str, verbs: set[str], words: str) -> None:
    script = f"import json, sys; sys.modules[{module!r}] = None; from duosora.core.checkup import problems_of_verbs; "
    script += f"print(json.dumps(problems_of_verbs({BOTH})))"  # in a process of its own, where nothing is imported yet
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    problems = json.loads(done.stdout)
    assert verbs <= lacking(problems) < set(NEEDS)
    assert all(words in problems[verb] for verb in verbs)


@pytest.mark.parametrize("codec", ["libx264", "h264"])
def test_an_ffmpeg_without_h264_is_told(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = checkup._codecs() - {codec}
    monkeypatch.setattr(checkup, "_codecs", lambda: kept)
    problem = problems_of_verbs(BOTH)["sample"]
    assert problem == f"mp4 files: the ffmpeg in PyAV lacks {codec}; pip install --force-reinstall av"


def test_decoders_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checkup.missing_decoders() == []
    monkeypatch.setattr(checkup, "_codecs", lambda: {"h264", "gif"})
    assert "hevc" in checkup.missing_decoders()


def test_lost_files_of_the_package_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(finding.TINY_FOLDER / "spiece.model", tmp_path)
    monkeypatch.setitem(finding.TRAINED, "tiny", tmp_path)
    monkeypatch.setattr(shipped, "shipped_names", lambda: ())
    problem = problems_of_verbs(BOTH)["sample"]
    assert problem.startswith("the tiny model: the weights of its denoiser are lost; install duosora anew; ")
    assert "; settings files: sample/tiny: there is no such file" in problem


@pytest.fixture
def run_doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], tuple[int, str]]:
    def run() -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["duosora", "doctor"])
        with pytest.raises(SystemExit) as left:
            main()
        return int(left.value.code or 0), capsys.readouterr().out

    return run


def test_the_doctor_is_red_where_nothing_can_be_sampled(run_doctor: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "available", lambda: ())
    code, out = run_doctor()
    assert code == 1
    assert "RED: nothing can be sampled here" in out
    assert 'no backend works here: pip install -e ".[torch]" (GPU, CPU)' in out
    working = SimpleNamespace(name="torch")
    monkeypatch.setattr(doctor, "_working", lambda name: working)
    monkeypatch.setattr(checkup, "_codecs", set)
    code, out = run_doctor()
    assert code == 1
    assert "RED: nothing can be sampled here" in out


def test_a_backend_that_does_not_load_is_a_line(run_doctor: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError("libcudart.so: cannot open")

    monkeypatch.setattr(backend, "get", broken)
    code, out = run_doctor()
    assert code == 1
    assert "backend torch: libcudart.so: cannot open" in out


def test_without_its_own_packages_the_doctor_says_how_to_get_them(
    run_doctor: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", (doctor.Package("no_such_module", "lost", "all"),))
    code, out = run_doctor()
    assert code == 1
    assert "nothing works without lost: pip install -e . in the clone of duosora" in out


def test_a_version_with_a_known_problem_is_told() -> None:
    told = "torch 2.9.1+cu130 runs 3-D convolutions on GPUs without cuDNN, with up to 17 times the memory; take another"
    assert known_problems({"torch": "2.9.1+cu130", "device": "cuda"}) == [f"{told} version"]
    assert known_problems({"torch": "2.13.0"}) == known_problems({"mindspore": "2.9.0"}) == []
