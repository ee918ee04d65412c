"""The handwritten digits of the lesson: written as pictures, read back, and judged by a classifier of real ones."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from duosora.core.data.digits import CLASSES, Digits, read_digits, write_digits
from duosora.core.errors import MediaError
from duosora.core.evaluate.digit_judge import DigitJudge, cross_validated, read_labelled
from duosora.core.io.images import write_image


@pytest.fixture(scope="module")
def real() -> Digits:
    return read_digits()


@pytest.fixture(scope="module")
def judge(real: Digits) -> DigitJudge:
    return DigitJudge(real)


def test_written_digits_are_read_back_with_their_classes(real: Digits, tmp_path: Path) -> None:
    write_digits(real, tmp_path / "new" / "digits")
    back = read_labelled(tmp_path / "new" / "digits")
    assert sorted(path.name for path in (tmp_path / "new" / "digits").iterdir()) == [str(n) for n in range(CLASSES)]
    assert len(back.labels) == 1797
    order = np.argsort(real.labels, kind="stable")
    np.testing.assert_array_equal(back.labels, real.labels[order])
    np.testing.assert_array_equal(back.pictures, real.pictures[order])
    # 17 greys over all of 8 bits, so that what scikit-learn has can be told from a picture.
    np.testing.assert_array_equal(np.rint(real.pictures / 255 * 16), load_digits().images)


def test_a_folder_that_is_there_stays(real: Digits, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(MediaError, match="exists already and is kept"):
        write_digits(real.at(np.arange(3)), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_nothing_is_left_of_a_folder_that_could_not_be_written(
    real: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(MediaError, match=r"digits: cannot be written \(No space left"):
        write_digits(real.at(np.arange(3)), tmp_path / "digits")
    assert list(tmp_path.iterdir()) == []


def test_the_classifier_recognises_real_digits_that_it_has_not_seen(real: Digits) -> None:
    found = cross_validated(real)
    assert found.count == 1797
    np.testing.assert_array_equal(found.table.sum(1), np.bincount(real.labels))
    assert 0.98 < found.right < 1


def test_the_judge_can_fail(real: Digits, judge: DigitJudge) -> None:
    """Wrong labels, noise, and one picture over and over are seen as what they are."""
    draw = np.random.default_rng(0)
    assert judge(real).right > 0.99
    assert judge(real).variety == 1
    assert 0.07 < judge(real._replace(labels=draw.permutation(real.labels))).right < 0.13
    noise = draw.integers(0, 256, real.pictures.shape).astype(np.uint8)
    assert judge(real._replace(pictures=noise)).right < 0.2
    first = np.array([np.flatnonzero(real.labels == label)[0] for label in real.labels])
    again = judge(real._replace(pictures=real.pictures[first]))
    assert again.right > 0.99
    assert again.variety < 1e-9


def test_the_table_says_what_was_taken_for_what(real: Digits, judge: DigitJudge) -> None:
    sevens = real.at(np.flatnonzero(real.labels == 7)[:5])
    table = judge(sevens._replace(labels=np.full(5, 2))).table
    assert table[2, 7] == table.sum() == 5


def grey(path: Path, side: int = 8) -> None:
    write_image(path, np.zeros((side, side, 3), np.uint8))


def test_of_sampled_pictures_the_sidecars_say_the_class(tmp_path: Path) -> None:
    for name in ("a", "b"):
        grey(tmp_path / "3" / f"{name}.png")
    assert read_labelled(tmp_path).labels.tolist() == [3, 3]
    (tmp_path / "3" / "b.json").write_text(json.dumps({"prompt_in_template": "8"}))
    grey(tmp_path / "grid.png", 80)
    assert read_labelled(tmp_path).labels.tolist() == [8]


@pytest.mark.parametrize(
    ("sidecar", "said"),
    [
        (None, "its folder: is 'cats'; expected the class of a digit, 0 to 9"),
        ("{", "cannot be read as JSON"),
        ("[]", "prompt_in_template: is None; expected"),
        ('{"prompt_in_template": "10"}', "is '10'; expected"),
        ('{"prompt_in_template": 3}', "is 3; expected"),
        ('{"prompt_in_template": "\\u0663"}', "expected the class"),
    ],
)
def test_pictures_of_no_known_class_are_refused(sidecar: str | None, said: str, tmp_path: Path) -> None:
    grey(tmp_path / "cats" / "a.png")
    if sidecar is not None:
        (tmp_path / "cats" / "a.json").write_text(sidecar)
    with pytest.raises(MediaError, match=re.escape(said)):
        read_labelled(tmp_path)


def test_what_is_no_folder_of_digits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="there is no such folder"):
        read_labelled(tmp_path / "none")
    with pytest.raises(MediaError, match="holds no pictures"):
        read_labelled(tmp_path)
    grey(tmp_path / "1" / "a.png", 16)
    with pytest.raises(MediaError, match="has 16x16 pixels; a digit has 8x8"):
        read_labelled(tmp_path)
