import pytest

from duosora.core.printable import MAX_LINE, MAX_NAME, one_line, short_name


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
