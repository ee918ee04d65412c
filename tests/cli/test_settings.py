"""`duosora settings`, and the page that it writes."""

from collections.abc import Callable
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_page_of_settings_is_the_schema(duosora: Callable) -> None:
    printed = duosora("settings", "--markdown").out
    assert printed == PAGE.read_text("utf-8"), "run: duosora settings --markdown > docs/settings.md"


@pytest.mark.parametrize(
    ("path", "beginnings"),
    [
        (
            "sampler.steps",
            ["duosora sample (and ", "  sampler.steps = recipe  (whole number >= 1)", "      "],
        ),
        (
            "train.autoencoder.kl_weight",
            ["duosora train (and ", "  autoencoder.kl_weight = 1e-06  (number >= 0)", "      "],
        ),
        ("evaluate.lpips", ["duosora evaluate", "  lpips = null  (path | null)", "      "]),
    ],
)
def test_one_setting_is_three_lines(duosora: Callable, path: str, beginnings: list[str]) -> None:
    lines = duosora("settings", path).out.splitlines()
    assert len(lines) == len(beginnings)
    assert all(line.startswith(beginning) for line, beginning in zip(lines, beginnings, strict=True)), lines


def test_a_group_lists_what_is_in_it_and_nothing_beside(duosora: Callable) -> None:
    lines = duosora("settings", "train.ema").out.splitlines()
    assert [line.split()[0] for line in lines[1::2]] == ["ema", "ema.decay", "ema.warms_up", "ema.start_step"]


def test_a_setting_of_several_verbs_is_listed_for_each(duosora: Callable) -> None:
    assert [line for line in duosora("settings", "seed").out.splitlines() if line.startswith("duosora")] == [
        "duosora sample (and sample-set, judge, parity)",
        "duosora train (and cache, calibrate, data check)",
        "duosora reconstruct",
    ]


@pytest.mark.parametrize(
    ("path", "advice"), [("steps", "did you mean 'sampler.steps'?"), ("zzz", "duosora settings lists them all")]
)
def test_an_unknown_setting_is_one_line(duosora: Callable, path: str, advice: str) -> None:
    outcome = duosora("settings", path)
    assert outcome.code == 2
    assert outcome.err == f"duosora: {path}: there is no such setting; {advice}\n"
