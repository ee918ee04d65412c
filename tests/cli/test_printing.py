"""What reaches the terminal: names of strangers cannot move the cursor, turn the line or fill the screen."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from duosora.core.cli.tables import Table, show
from duosora.core.io.images import write_image
from duosora.core.io.weights import save_weights

HOSTILE = "a\x1b[31m\u202eb\x07[red]"
SHOWN = r"a\x1b[31m\u202eb\x07[red]"


def assert_plain(text: str) -> None:
    assert not set(text) & {"\x1b", "\u202e", "\x07", "\r"}
    assert SHOWN in text


@pytest.fixture
def picture(tmp_path: Path) -> np.ndarray:
    return np.zeros((16, 16, 3), np.uint8)


def test_inspect_shows_names_of_tensors_as_they_are(duosora: Callable, tmp_path: Path) -> None:
    file = tmp_path / f"{HOSTILE}.safetensors"
    save_weights(file, {HOSTILE: np.ones((2, 2), np.float32), "x" * 5000: np.ones(2, np.float32)})
    outcome = duosora("inspect", file, "--tensors")
    assert_plain(outcome.out)
    assert max(map(len, outcome.out.splitlines())) <= 1000


def test_evaluate_shows_names_of_clips_as_they_are(duosora: Callable, tmp_path: Path, picture: np.ndarray) -> None:
    for folder in ("reference", "generated"):
        write_image(tmp_path / folder / f"{HOSTILE}.png", picture)
    write_image(tmp_path / "generated" / f"{HOSTILE}2.png", picture)
    (tmp_path / "generated" / f"{HOSTILE}.txt").touch()
    outcome = duosora("evaluate", tmp_path / "reference", tmp_path / "generated")
    assert outcome.code == 1
    assert_plain(outcome.out)


def test_data_check_shows_paths_and_reasons_as_they_are(duosora: Callable, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        json.dumps({"path": f"{HOSTILE}.mp4", "caption": "a"}) + "\n" + json.dumps({"path": HOSTILE}) + "\n"
    )
    outcome = duosora("data", "check", rows)
    assert outcome.code == 1
    assert_plain(outcome.out)


def test_a_file_name_that_is_no_text_is_written_down_as_json_can(duosora: Callable, tmp_path: Path) -> None:
    name = "caf\udce9.mp4"
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / name).touch()
    outcome = duosora("data", "check", tmp_path / "clips", "--report", tmp_path / "report.json")
    assert outcome.code == 1
    (finding,) = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["findings"][:1]
    assert finding["path"].endswith(name)


def test_the_plan_of_a_run_shows_notes_as_they_are(duosora: Callable, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.csv"
    prompts.write_text(f"prompt,{HOSTILE}\na dog,\n", encoding="utf-8")
    outcome = duosora("sample", prompts, "--set", "video.frames=1", "--out", tmp_path / "out", "--dry-run")
    assert outcome.code == 0, outcome.err
    assert_plain(outcome.out)


def test_an_error_shows_a_path_as_it_is(duosora: Callable, tmp_path: Path) -> None:
    assert_plain(duosora("plot", tmp_path / HOSTILE).err)


@pytest.mark.parametrize("arguments", [["cache"], ["cache", "--config", "x.yaml"], ["cache", "txet"], ["data"]])
def test_a_group_without_its_verb_names_those_that_it_has(duosora: Callable, arguments: list[str]) -> None:
    outcome = duosora(*arguments)
    assert outcome.code == 2
    for verb in ("text", "latents") if "cache" in arguments else ("check",):
        assert verb in outcome.out + outcome.err
    assert len(arguments) == 1 or outcome.err.count("\n") == 1


@pytest.mark.parametrize("word", [HOSTILE, "x" * 5000])
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["sample", "--{word}"], "No such option: "),
        (["doctor", "{word}"], "Got unexpected extra argument"),
        (["{word}"], "No such command "),
        (["sample", "--seed", "{word}"], "Invalid value for '--seed': "),
        (["plot", "--out", "{word}"], "Missing argument "),
    ],
)
def test_a_wrong_use_of_a_verb_is_one_line(duosora: Callable, arguments: list[str], told: str, word: str) -> None:
    outcome = duosora(*(each.replace("{word}", word) for each in arguments))
    assert outcome.code == 2
    verb = "" if arguments == ["{word}"] else f" {arguments[0]}"
    assert outcome.err.startswith(f"duosora: {told}")
    assert outcome.err.endswith(f"; see duosora{verb} --help\n")
    assert outcome.err.count("\n") == 1
    assert not set(outcome.err) & {"\x1b", "\u202e", "\x07", "\r"}
    assert len(outcome.err) < 1200
    assert outcome.out == ""


def test_cells_of_tables_are_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("name", "figure")
    table.add_row(HOSTILE, None, style="red")
    table.add_row("x" * 5000, "1")
    show(table)
    assert_plain(capsys.readouterr().out)
