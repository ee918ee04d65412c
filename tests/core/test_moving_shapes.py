"""The tiny model's world: its sentences fit the tokeniser, its clips show what the sentences say."""

import numpy as np
import pytest

from duosora.core import random
from duosora.core.data.moving_shapes import (
    AESTHETIC,
    BACKGROUNDS,
    COLOURS,
    FRAMES,
    MOTION,
    RATES,
    SHAPES,
    SIDE,
    USUAL_LOOK,
    Look,
    Scene,
    any_look,
    as_caption,
    as_scored_caption,
    caption,
    captions,
    held_out_scenes,
    render,
    scenes,
    training_scenes,
    unseen_words,
)
from duosora.core.data.shape_judge import Tally, judge
from duosora.core.recipes.opensora_v1_2_prompts import PromptScores

RED_CIRCLE = Scene("big", "red", "circle", "right", "white")


def draw(number: int) -> np.random.Generator:
    return random.stream(3, "test clip", number)


def test_a_later_colour_is_seen_and_is_a_word_for_those_who_learned_it() -> None:
    scene = RED_CIRCLE._replace(colour="cyan")
    assert judge(render(scene, draw(0)), ["cyan"]).agrees(scene)["colour"]
    assert judge(render(scene, draw(0))).colour != "cyan"
    assert judge(render(RED_CIRCLE, draw(0)), ["cyan"]).colour == "red"
    assert scene not in list(scenes())
    assert unseen_words("a cyan circle") == ["cyan"]
    assert unseen_words("a cyan circle", later=("cyan",)) == []


def test_a_clip_is_a_function_of_its_scene_and_draw() -> None:
    clip = render(RED_CIRCLE, draw(0))
    assert clip.shape == (FRAMES, SIDE, SIDE, 3)
    assert clip.dtype == np.uint8
    np.testing.assert_array_equal(clip, render(RED_CIRCLE, draw(0)))
    assert (clip != render(RED_CIRCLE, draw(1))).any()


def test_a_clip_has_the_scenes_colours_at_its_places() -> None:
    clip = render(RED_CIRCLE, draw(0)).astype(int)
    assert np.abs(clip[:, 0, 0] - BACKGROUNDS["white"]).max() <= 7
    reddest = (clip[..., 0] - clip[..., 1]).reshape(FRAMES, -1).argmax(1)
    columns = reddest % SIDE
    assert columns[-1] - columns[0] > 20
    assert np.abs(clip.reshape(FRAMES, -1, 3)[0, reddest[0]] - COLOURS["red"]).max() <= 11


def test_held_out_combinations_are_never_trained_and_cover_every_value() -> None:
    trained, held_out = set(training_scenes()), set(held_out_scenes())
    assert not trained & held_out
    assert trained | held_out == set(scenes())
    assert 64 <= len(held_out) <= 0.12 * len(trained | held_out)
    for every, kept in zip(zip(*scenes(), strict=True), zip(*held_out, strict=True), strict=True):
        assert set(every) == set(kept)


def test_captions_say_every_attribute() -> None:
    scene = Scene("small", "blue", "ring", "up", "pink")
    for sentence in captions(scene):
        assert all(word in sentence for word in ("small", "blue", "ring", "pink"))
        assert any(word in sentence for word in (" up", " upwards", " top"))
    assert {caption(scene, draw(i)) for i in range(200)} == set(captions(scene))


def test_the_judge_is_right_about_rendered_clips() -> None:
    tally = Tally.of((scene, render(scene, draw(i))) for i, scene in enumerate(list(scenes())[::5]))
    assert tally.rates() == dict.fromkeys((*Scene._fields, "all", "whole"), 1.0)
    assert tally.confusion("shape") == {shape: {shape: sum(s.shape == shape for s in tally.scenes)} for shape in SHAPES}


@pytest.mark.parametrize("attribute", Scene._fields)
def test_the_judge_counts_what_is_not_as_asked(attribute: str) -> None:
    values = {getattr(scene, attribute) for scene in scenes()} - {getattr(RED_CIRCLE, attribute)}
    asked = [RED_CIRCLE._replace(**{attribute: value}) for value in sorted(values)]
    rates = Tally.of((scene, render(RED_CIRCLE, draw(i))) for i, scene in enumerate(asked)).rates()
    assert rates[attribute] == rates["all"] == 0.0
    assert all(rates[other] == 1.0 for other in Scene._fields if other != attribute)


def test_the_judge_sees_nothing_in_an_empty_clip_and_no_way_in_a_still_one() -> None:
    clip = render(RED_CIRCLE, draw(0))
    empty = np.broadcast_to(clip[:1, :1, :1], clip.shape)
    assert judge(empty)[:4] == ("nothing", "nothing", "nothing", "still")
    still = np.broadcast_to(clip[:1], clip.shape)
    assert judge(still).direction == "still"


def test_the_judge_notices_an_object_that_breaks_or_vanishes() -> None:
    clip = render(RED_CIRCLE, draw(0))
    assert judge(clip).is_whole
    vanished = clip.copy()
    vanished[5] = clip[0, 0, 0]
    assert not judge(vanished).is_whole
    broken = clip.copy()
    columns = np.nonzero(np.abs(clip[8].astype(int) - clip[0, 0, 0]).sum(-1).max(0) > 100)[0]
    centre = int(columns.mean())
    broken[8, :, centre - 2 : centre + 3] = clip[0, 0, 0]
    assert not judge(broken).is_whole


def test_captions_are_left_as_they_are_and_hold_no_unseen_word() -> None:
    for scene in scenes():
        for text in captions(scene):
            assert as_caption(text) == text
            assert unseen_words(text) == []


@pytest.mark.parametrize(
    ("text", "expected", "unseen"),
    [
        ("A Big RED circle.", "a big red circle", []),
        ("  \u201cA big, red\ncircle!!\u201d ", "a big, red circle", []),
        ("big-red_circle ; moves ,, up;", "big red circle; moves, up", []),
        ("A red circle moves right\u2026", "a red circle moves right", []),
        ("A purple dog\u2019s bone", "a purple dog's bone", ["dog's", "bone"]),
        ("un \u00e9l\u00e9phant Rouge", "un \u00e9l\u00e9phant rouge", ["un", "\u00e9l\u00e9phant", "rouge"]),
        ("3 circles", "3 circles", ["3", "circles"]),
        ("a bar <pad>", "a bar pad", ["pad"]),
        ("!!!", "", ["!!!"]),
        ("", "", []),
    ],
)
def test_a_sentence_becomes_a_caption(text: str, expected: str, unseen: list[str]) -> None:
    assert as_caption(text) == expected
    assert unseen_words(text) == unseen


def way(clip: np.ndarray) -> float:
    """Pixels that the shape of a clip goes from left to right."""
    shown = np.abs(clip.astype(int) - clip[0, 0, 0]).sum(-1) > 150  # (T, H, W)
    places = [np.nonzero(frame)[1].mean() for frame in shown[[0, -1]]]
    return float(places[1] - places[0])


def test_a_shape_goes_less_far_at_a_higher_rate_and_a_lower_motion_score() -> None:
    looks = {look: way(render(RED_CIRCLE, draw(0), look)) for look in map(Look, (8, 12, 24, 8), (5, 5, 5, 2.5))}
    longest = looks[Look()]
    assert longest > 20
    for look, gone in looks.items():
        assert gone == pytest.approx(longest * look.pace, abs=0.5), look


def test_slow_shapes_are_met_everywhere() -> None:
    slow = Look(fps=24.0, motion=1.0)
    starts = [
        np.nonzero(np.abs(render(RED_CIRCLE, draw(i), slow)[0].astype(int)[:, :, 1] - 243) > 60)[1].mean()
        for i in range(40)
    ]
    assert min(starts) < 25
    assert max(starts) > 40


def test_an_outline_is_softer_at_a_lower_aesthetic_score() -> None:
    def between(look: Look) -> int:
        """Pixels that are neither the shape's nor the background's."""
        red = render(RED_CIRCLE, draw(0), look)[0, ..., 1].astype(int)
        return int(((red > red.min() + 20) & (red < red.max() - 20)).sum())

    sharp, soft = between(Look()), between(Look(aesthetic=AESTHETIC[0]))
    assert soft > 3 * sharp


def test_any_look_is_often_usual_and_within_the_scores() -> None:
    looks = [any_look(draw(i)) for i in range(300)]
    assert {look.fps for look in looks} == set(RATES)
    assert all(
        MOTION[0] <= look.motion <= MOTION[1] and AESTHETIC[0] <= look.aesthetic <= AESTHETIC[1] for look in looks
    )
    assert all(0.4 < np.mean([look[i] == usual for look in looks]) < 0.8 for i, usual in enumerate(USUAL_LOOK))


def test_scores_are_said_as_the_recipe_says_them() -> None:
    look = Look(motion=2.25, aesthetic=4.0)
    assert look.behind("a bar") == PromptScores(look.aesthetic, look.motion).behind("a bar")
    for scene in scenes():
        text = look.behind(captions(scene)[0])
        assert as_scored_caption(text) == text
    assert as_scored_caption("A Bar! aesthetic score: 6.5. motion score: 5.0. ") == (
        "a bar aesthetic score: 6.5. motion score: 5.0."
    )
    assert as_scored_caption("A Bar!") == "a bar"
    assert as_scored_caption("motion score: 5.0.") == "motion score: 5.0."
