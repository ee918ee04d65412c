"""Prompts that are classes, by numbers and names."""

import json
from pathlib import Path

import pytest

from duosora.core.errors import ConfigError, MediaError
from duosora.core.pipelines.classes import Classes, read_class_names

NAMES = ("tench, Tinca tinca", "goldfish", "crane", "Crane", "7", "ostrich")
KNOWN = Classes(6, NAMES, "a run")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        (" 5 ", 5),
        ("goldfish", 1),
        ("GoldFish", 1),
        ("tinca Tinca", 0),
        ("Tench, Tinca tinca", 0),
        ("7", None),
    ],
)
def test_a_class_is_known_by_its_number_and_by_its_names(text: str, number: int | None) -> None:
    if number is None:
        with pytest.raises(ConfigError, match="class 7: the model has classes 0 to 5"):
            KNOWN.number(text)
    else:
        assert KNOWN.number(text) == number


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("6", "class 6: the model has classes 0 to 5$"),
        ("-1", "class -1: the model has classes 0 to 5$"),
        ("9" * 5000, "the model has classes 0 to 5$"),
        ("٣٣", "the model has classes 0 to 5$"),
        ("goldfsh", "there is none of this name; the nearest are goldfish, .*of classes 0 to 5"),
        ("CRANE", "is the name of classes 2 and 3; write the number"),
        ("", "there is none of this name"),
        ("1.0", "there is none of this name"),
    ],
)
def test_what_is_no_class_is_refused_with_what_is(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as refused:
        KNOWN.number(text)
    assert len(str(refused.value)) < 400


def test_without_names_only_numbers_are_known() -> None:
    with pytest.raises(ConfigError, match=r"whose names nobody knows; write the number, or set prompts\.classes"):
        Classes(10).number("dog")
    assert Classes(10).number("9") == 9


def test_a_number_that_is_the_name_of_another_class_is_told() -> None:
    notes: list[str] = []
    assert Classes(3, ("1", "10", "2")).number("2", notes.append) == 2
    assert Classes(3, ("1", "10", "2")).number("1", notes.append) == 1
    assert notes == ["1 is read as the number of a class, 10; the class of this name has the number 0"]


def test_there_are_no_more_names_than_classes() -> None:
    with pytest.raises(ConfigError, match="a run: names 6 classes, and the model has 5"):
        Classes(5, NAMES, "a run")


@pytest.mark.parametrize("name", ["names.txt", "names.json"])
def test_names_come_from_a_file(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text(json.dumps(NAMES) if name.endswith("json") else "\n".join(NAMES) + "\n\n", encoding="utf-8")
    assert read_class_names(file, 6) == NAMES
    with pytest.raises(MediaError, match="names 6 classes, and the model has 7"):
        read_class_names(file, 7)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", "{}", "expected the names of the classes"),
        ("a.json", '["a", 3]', "expected the names of the classes"),
        ("a.json", '["a"', "is no JSON"),
        ("a.json", "[" * 100_000, "is no JSON"),
        ("a.txt", "\n \n", "expected the names of the classes"),
    ],
)
def test_a_file_that_holds_no_names_is_refused(tmp_path: Path, name: str, content: str, told: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(MediaError, match=told):
        read_class_names(tmp_path / name, 1)
