"""Prompts of Open-Sora 1.2: scores, segments for loops, JSON at the end."""

import pytest

from duosora.core.errors import MediaError
from duosora.core.recipes.opensora_v1_2_prompts import PromptScores, clean, describe, segments


def test_scores_stand_behind_a_text_that_does_not_name_them() -> None:
    scores = PromptScores(aesthetic=6.5, motion=5, camera="pan left")
    assert scores.behind("a cat") == "a cat aesthetic score: 6.5. motion score: 5.0. camera motion: pan left."
    assert scores.behind("a cat motion score: 1.0.") == (
        "a cat motion score: 1.0. aesthetic score: 6.5. camera motion: pan left."
    )
    assert PromptScores().behind("a cat") == "a cat"
    assert PromptScores(aesthetic=0.0).behind("a cat") == "a cat aesthetic score: 0.0."
    assert PromptScores(camera="").behind("a bar") == "a bar"


def test_scores_survive_cleaning() -> None:
    text = PromptScores(6.5, 4, "pan right").behind("A Cat")
    assert clean(text) == "a cat aesthetic score: 6.5. motion score: 4.0. camera motion: pan right."


def test_a_segment_holds_from_its_loop_on() -> None:
    found = segments("|0| calm |5|storm|7|night")
    assert [found.at(loop) for loop in (0, 4, 5, 6, 7, 99)] == ["calm", "calm", "storm", "storm", "night", "night"]
    assert str(found) == "|0|calm|5|storm|7|night"


def test_other_texts_are_one_segment() -> None:
    for text in ("a | b", "|1|b", ""):
        assert segments(text).at(3) == text
        assert str(segments(text)) == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("|0|a|x|b", "'x'"),
        ("|0|a|5", "'5'"),
        ("|0|a|5|b|5|c", "rising loops, got 0, 5, 5"),
        ("|0|a|5|b|2|c", "rising loops, got 0, 5, 2"),
        ("|0|a|-1|b", "'-1'"),
    ],
)
def test_segments_that_do_not_parse_are_refused(text: str, told: str) -> None:
    with pytest.raises(MediaError, match=r"^line 3: ") as refused:
        segments(text, "line 3")
    assert told in str(refused.value)


def test_json_goes_before_what_is_given_beside() -> None:
    parts = describe('a boat {"reference_path": "x.png; y.mp4", "mask_strategy": "0"}', "other.png", "1")
    assert parts == ("a boat ", ("x.png", "y.mp4"), "0")
    assert describe("a boat", "x.png;", "1") == ("a boat", ("x.png",), "1")


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ('a {"foo": "x"}', "unknown key 'foo'"),
        ('a {"reference": "x"}', "expected reference_path"),
        ('a {"reference_path": 1}', "reference_path: expected text, got 1"),
        ('a {"reference_path": "a", "reference_path": "b"}', "expected at its end an object"),
        ("a {not json}", "expected at its end an object"),
        ("a {", "expected at its end an object"),
        ('a {"reference_path": "{x}"}', "more than one {"),
    ],
)
def test_json_that_does_not_parse_is_refused(prompt: str, told: str) -> None:
    with pytest.raises(MediaError, match=r"^line 3: ") as refused:
        describe(prompt, where="line 3")
    assert told in str(refused.value)
