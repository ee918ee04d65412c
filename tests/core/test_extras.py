"""Optional packages that are not there: one line that names the extra, wherever one is asked for."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from duosora.core.config.data import DataSettings
from duosora.core.config.schema import EvaluateConfig
from duosora.core.data import captions
from duosora.core.data.annotations import read_annotations
from duosora.core.data.records import Record
from duosora.core.data.sources import FileSource
from duosora.core.errors import BackendMissing, DuosoraError, PackageMissing
from duosora.core.evaluate.clips import Evaluation
from duosora.core.extras import install_command, needs_extra, require
from duosora.core.io.video import open_video
from duosora.core.recipes import opensora_v1_2_prompts
from duosora.core.seam import backend
from duosora.core.train.logs import StepLog
from duosora.core.train.plot import plot_run

DECORD = ("decord", "decord", "leave the reader at 'pyav'")


def draw(folder: Path) -> None:
    (folder / "log.jsonl").write_text(json.dumps({"event": "step", "step": 1, "loss": 1.0}), encoding="utf-8")
    plot_run(folder, folder / "plot.png")


def clean(folder: Path) -> None:
    captions._libraries.cache_clear()
    odd = Record(path=folder / "a.mp4", name="a.mp4", captions=("<b>bold</b>",))
    captions.Captioner(DataSettings(clean_captions=True), 0).check([odd])


def clean_prompt(folder: Path) -> None:
    captions._libraries.cache_clear()
    opensora_v1_2_prompts.clean("a cafe\u0301 <b>at night</b>")


def parquet(folder: Path) -> None:
    read_annotations([folder / "rows.parquet"])


def video(folder: Path) -> None:
    open_video(folder / "a.mp4", "decord")


@pytest.mark.parametrize(
    ("module", "extra", "otherwise", "use"),
    [
        ("matplotlib.figure", "train", "", draw),
        ("ftfy", "train", "set data.clean_captions=false", clean),
        ("bs4", "train", "set data.clean_captions=false", clean),
        ("ftfy", "train", "write them in plain ASCII, without < and &", clean_prompt),
        ("tensorboard.summary", "train", "set tensorboard: off", lambda folder: StepLog(folder, "on")),
        ("pyarrow.parquet", "parquet", "", parquet),
        (*DECORD, video),
        (*DECORD, lambda folder: FileSource([], "decord")),  # in time, not once for each clip
        (*DECORD, lambda folder: Evaluation([], [], (), None, EvaluateConfig(reader="decord"), False)),
    ],
)
def test_a_missing_package_is_one_line_with_its_extra(
    module: str, extra: str, otherwise: str, use: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PackageMissing) as caught:
        use(tmp_path)
    line = str(caught.value)
    assert "\n" not in line
    assert f'needs {module}, which is not installed: pip install -e ".[{extra}]" in the clone of duosora' in line
    assert line.endswith(f"duosora, or {otherwise}" if otherwise else "duosora")


def test_tensorboard_is_left_out_where_it_is_only_welcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    StepLog(tmp_path, "auto").close()


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (ImportError("cannot import name 'x' from 'y'"), "cannot import name 'x' from 'y'"),
        (OSError("libcudart.so.13:\ncannot open"), "libcudart.so.13: cannot open"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_a_package_that_does_not_load_is_one_line_with_the_reason(raised: Exception, reason: str) -> None:
    with pytest.raises(PackageMissing) as caught, needs_extra("train", "duosora plot", "do without"):
        raise raised
    assert str(caught.value) == (
        f"duosora plot: what it needs does not load ({reason}); "
        'pip install -e ".[train]" in the clone of duosora, or do without'
    )


@pytest.mark.parametrize(
    ("available", "line"),
    [
        ((), "backend 'torch' is not installed: pip install -e \".[torch]\" in the clone of duosora"),
        (
            ("mindspore",),
            "backend 'torch' is not installed: pip install -e \".[torch]\" in the clone of duosora, "
            "or use --backend mindspore, which is",
        ),
    ],
)
def test_a_missing_backend_is_named_with_the_one_that_is_there(
    available: tuple[str, ...], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "available", lambda: available)
    with pytest.raises(BackendMissing) as caught:
        backend.get("torch")
    assert str(caught.value) == line


def test_what_is_needed_is_looked_for_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dangerous.py").write_text("raise SystemExit", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    require("train", "dangerous", "this")
    with pytest.raises(DuosoraError, match="this needs no_such_module, which is not installed"):
        require("train", "no_such_module", "this")


def test_extras_that_are_compiled_with_torch_are_installed_so() -> None:
    assert install_command("torch") == 'pip install -e ".[torch]"'
    assert install_command("flash-attn") == 'pip install -e ".[flash-attn]" --no-build-isolation'
