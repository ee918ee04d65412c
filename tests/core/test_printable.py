"""Lines of a terminal: nothing of strangers reaches it raw."""

import sys
from pathlib import Path

import pytest

from duosora.core.printable import MAX_LINE, MAX_NAME, one_line, printable, say, short_name
from duosora.core.progress import progress


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\n  b\tc", "a b c"),
        ("red \x1b[31m", "red \\x1b[31m"),
        ("gpj.\u202etxt", "gpj.\\u202etxt"),
        ("\ud800", "\\ud800"),
        ("绿色 é", "绿色 é"),
    ],
)
def test_nothing_reaches_the_terminal_raw(text: str, expected: str) -> None:
    assert one_line(text) == expected


def test_long_text_keeps_its_beginning_and_its_end() -> None:
    line = one_line("a" * 5000 + "end")
    assert len(line) == MAX_LINE
    assert line.startswith("aaa")
    assert line.endswith("aend")
    assert " ... " in line
    assert len(short_name("n" * 5000)) == MAX_NAME


def test_blanks_of_a_laid_out_line_stay() -> None:
    assert printable("videos     2 of\t1") == "videos     2 of\\t1"
    assert printable("a" * 5000) == "a" * 664 + " ... " + "a" * 331
    assert len(printable("\x1b" * 900)) == len(printable("\x1b" * 9000)) == 1000


def test_say_prints_a_line_for_each_text(capsys: pytest.CaptureFixture[str]) -> None:
    say("one  two", Path("a\x1b[2J\nb"))
    say("three", file=sys.stderr)
    say()
    assert capsys.readouterr() == ("one  two\na\\x1b[2J\\nb\n", "three\n")


def test_the_name_of_a_bar_is_a_short_line(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr("duosora.core.progress.tqdm", lambda items, desc, **_: shown.append(desc) or items)
    assert list(progress([1], "a\x1b[31m" + "x" * 5000, "clip")) == [1]
    assert shown[0].startswith("a\\x1b[31mxxx")
    assert len(shown[0]) <= 160
