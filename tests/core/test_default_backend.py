"""The backend where none is named: the one that is installed, torch before mindspore; records say which it was."""

import gc
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from duosora.core.cli.launch import _program
from duosora.core.cli.main import main
from duosora.core.config.schema import EvaluateConfig, ReconstructConfig, SampleConfig
from duosora.core.config.settings import resolved
from duosora.core.config.training import TrainConfig
from duosora.core.errors import BackendMissing, PackageMissing
from duosora.core.evaluate import clips
from duosora.core.pipelines import reconstruct, sample
from duosora.core.seam import backend
from duosora.core.train import cache_run, calibrate, run

MEDIA = Path(__file__).parents[1] / "media"
MOVING = TrainConfig.model_validate_json('{"data": {"kind": "moving_shapes"}}')


class Asked(Exception):
    """Which backend a run asked for."""


def asked(name: str | None = None, device: str = "auto") -> None:
    raise Asked(name or backend.default_name())


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def install(*names: str) -> None:
        monkeypatch.setattr(backend, "available", lambda: names)

    return install


@pytest.mark.parametrize(
    "start",
    [
        lambda: sample.Sampling(SampleConfig()),
        lambda: reconstruct.prepare(MEDIA / "city.jpg", ReconstructConfig()),
        lambda: run.TrainRun(MOVING),
        lambda: cache_run.TextCacheRun(MOVING),
        lambda: calibrate.calibrate_folder(Path("vae"), MOVING, 1),
    ],
    ids=["sample", "reconstruct", "train", "cache", "calibrate"],
)
def test_every_run_takes_the_backend_that_is_installed(
    start: Callable, installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "get", asked)
    installed("mindspore")
    with pytest.raises(Asked, match="mindspore"):
        start()


@pytest.mark.parametrize(("names", "expected"), [(("torch", "mindspore"), "torch"), (("mindspore",), "mindspore")])
def test_launch_starts_its_processes_for_the_backend_that_is_installed(
    names: tuple[str, ...], expected: str, installed: Callable[..., None]
) -> None:
    installed(*names)
    words, chosen = _program(["sample", "a star"], None)
    assert chosen == expected
    assert "--backend" not in words


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("backend: {name: mindspore}", [], "mindspore"),
        ("compute: {name: mindspore}", [], "mindspore"),
        ("backend: {name: mindspore}", ["--backend", "torch"], "torch"),
        ("compute: {name: mindspore}", ["--set", "compute.name=torch"], "torch"),
        ("backend: {device: cpu}", [], "torch"),
        ("backend: [", [], "torch"),
    ],
)
def test_launch_takes_the_backend_of_the_settings_file(
    text: str, options: list[str], expected: str, installed: Callable[..., None], tmp_path: Path
) -> None:
    installed("torch", "mindspore")
    file = tmp_path / "settings.yaml"
    file.write_text(text, encoding="utf-8")
    for given in (["--config", str(file)], [f"--config={file}"], ["-c", str(file)]):
        assert _program(["sample", *given, *options], None)[1] == expected


@pytest.mark.parametrize(
    "words",
    [
        ("sample", "a star"),
        ("judge",),
        ("reconstruct", MEDIA / "city.jpg", "--out", "again.png"),
        ("train", "--set", "data.kind=moving_shapes"),
        ("cache", "text", "--set", "data.kind=moving_shapes"),
        ("calibrate", "vae", "--config", "train.yaml"),
        ("check", MEDIA.parent / "goldens" / "sched"),
        ("launch", "-n", "2", "--", "sample"),
    ],
    ids=lambda words: words[0],
)
def test_where_none_is_installed_each_verb_names_both(
    words: tuple[object, ...],
    installed: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    installed()
    monkeypatch.chdir(tmp_path)
    Path("train.yaml").write_text("data: {kind: moving_shapes}\n", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["duosora", *map(str, words)])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err == (
        'duosora: no backend is installed: pip install -e ".[torch]" or pip install -e ".[mindspore]" '
        "in the clone of duosora\n"
    )


def test_parity_wants_both(
    installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed("mindspore")
    monkeypatch.setattr("sys.argv", ["duosora", "parity"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err == (
        "duosora: backend 'torch' is not installed: pip install -e \".[torch]\" in the clone of duosora\n"
    )


@pytest.mark.parametrize(
    ("name", "device", "line"),
    [
        ("torch", "npu", "device npu: Ascend NPUs are used with --backend mindspore, and this is backend 'torch'"),
        ("torch", "npu:3", "device npu:3: Ascend NPUs are used with --backend mindspore, and this is backend 'torch'"),
        ("torch", "Ascend", "device Ascend: Ascend NPUs are used with --backend mindspore, and this is backend"),
        ("mindspore", "cuda:1", "device cuda:1: NVIDIA GPUs are used with --backend torch, and this is backend"),
        ("mindspore", "GPU", "device GPU: NVIDIA GPUs are used with --backend torch, and this is backend 'mindspore'"),
        ("torch", "gpu", "device gpu: expected cuda, or cuda:1 for the second one"),
        ("mindspore", "ascend:0", "device ascend:0: expected npu, or npu:1 for the second one"),
        ("torch", "cuda:7", "the framework's own words"),
        ("mindspore", "npu", "the framework's own words"),
        ("torch", "tpu", "the framework's own words"),
    ],
)
def test_a_device_of_the_other_backend_is_told_so(
    name: str, device: str, line: str, installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(device: str) -> None:
        raise BackendMissing("the framework's own words")

    installed("torch", "mindspore")
    monkeypatch.setattr(backend.importlib, "import_module", lambda module: SimpleNamespace(create=create))
    with pytest.raises(BackendMissing, match=re.escape(line)):
        backend.get(name, device)


def test_a_framework_that_does_not_load_is_one_line(
    installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(module: str) -> None:
        raise OSError("libcudart.so: cannot open shared object file")

    installed("torch")
    monkeypatch.setattr(backend.importlib, "import_module", broken)
    with pytest.raises(PackageMissing, match=r"backend 'torch': what it needs does not load \(libcudart.so"):
        backend.get()


def test_records_say_which_backend_was_used() -> None:
    sampled = sample.Sampling(SampleConfig(), prompts=[]).config
    trained = run.TrainRun(MOVING, is_dry=True).config
    perceptual = SimpleNamespace(backend=SimpleNamespace(name="mindspore"))
    measured = clips.Evaluation([], [], ("lpips",), perceptual, EvaluateConfig(), False).config
    assert resolved(sampled)["backend"]["name"] == "torch"
    assert resolved(trained)["compute"]["name"] == "torch"
    assert resolved(measured)["backend"] == "mindspore"


def test_what_a_program_already_held_is_still_looked_through_for_garbage(
    installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a framework that `get` itself imports is left out: with one that is there, models may be."""
    installed("torch")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "duosora.backends.torch", SimpleNamespace(create=lambda device: device))
    before = gc.get_freeze_count()
    assert backend.get("torch", "here") == "here"
    assert gc.get_freeze_count() == before
    assert gc.isenabled()
