"""Mask strategies: parsed or refused, and references placed in latents."""

from dataclasses import replace

import numpy as np
import pytest

from duosora.core.conditioning.mask_strategy import Placement, aligned, carry_over, parse, place
from duosora.core.conditioning.prompt_parts import one_text
from duosora.core.conditioning.references import GivenReferences, References
from duosora.core.config.schema import SampleConfig
from duosora.core.config.settings import read
from duosora.core.errors import ConfigError, MediaError
from duosora.core.io.prompts import Prompt
from duosora.core.shapes import Grouped, VideoShape


def frames(count: int, first: float) -> np.ndarray:
    """Latents (2, T, 1, 3) whose numbers tell the frame."""
    return np.broadcast_to(first + np.arange(count, dtype=np.float32)[:, None, None], (2, count, 1, 3)).copy()


def test_fields_have_defaults() -> None:
    assert parse("0;1,2,-3,4,5,.25") == [Placement(0), Placement(1, 2, -3, 4, 5, 0.25)]
    assert parse("") == parse(None) == []


def test_an_entry_is_written_as_it_is_read() -> None:
    entry = Placement(1, 2, -3, 4, 5, 0.25)
    assert parse(str(entry)) == [entry]
    assert parse(carry_over("0", 3, 1, 5, 0.4)) == [Placement(0), Placement(3, 1, -5, 0, 5, 0.4)]


@pytest.mark.parametrize(
    ("strategy", "told"),
    [
        ("a", "entry 1: loop: expected a whole number of at least 0, got 'a'"),
        ("-1", "entry 1: loop: expected a whole number of at least 0, got '-1'"),
        ("0;0,b", "entry 2: reference: expected a whole number, got 'b'"),
        ("0,0,1.5", "entry 1: start: expected a whole number, got '1.5'"),
        ("0,", "entry 1: reference: expected a whole number, got ''"),
        ("0;", "entry 2: loop: expected a whole number of at least 0, got ''"),
        ("0,0,0,0,-1", "entry 1: length: expected a whole number of at least 0, got '-1'"),
        ("0,0,0,0,1,2", "entry 1: edit: expected a number from 0 to 1, got '2'"),
        ("0,0,0,0,1,nan", "entry 1: edit: expected a number from 0 to 1, got 'nan'"),
        ("0,0,0,0,1,-0.5", "entry 1: edit: expected a number from 0 to 1, got '-0.5'"),
        ("0,0,0,0,1,0,7", "entry 1: expected at most 6 fields (loop,reference,start,target,length,edit), got 7"),
        ("0,0,99999999", "entry 1: start: expected a whole number"),
        ("0,0,٣", "entry 1: start: expected a whole number"),
    ],
)
def test_what_does_not_parse_is_refused_saying_where_and_what_was_expected(strategy: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(strategy, "prompt 2: mask_strategy")
    assert str(refused.value).startswith(f"prompt 2: mask_strategy: {told}")
    assert "\n" not in str(refused.value)


def test_references_are_placed_and_the_rest_is_left() -> None:
    clip = frames(6, -10)
    placed = place(clip, [frames(3, 100), frames(4, 200)], parse("0,1,-2,-1,5;0,0,0,1,2,0.5;7"))
    assert placed.latents[0, :, 0, 0].tolist() == [-10, 100, 101, -7, -6, 202]
    assert placed.strength.tolist() == [1, 0.5, 0.5, 1, 1, 0]
    assert clip[0, 1, 0, 0] == -9, "the latents that were given are not written to"


def test_later_entries_go_over_earlier_ones() -> None:
    placed = place(frames(3, 0), [frames(3, 100), frames(1, 200)], parse("0,0,0,0,3;0,1,0,1,1,0.25"))
    assert placed.latents[1, :, 0, 2].tolist() == [100, 200, 102]
    assert placed.strength.tolist() == [0, 0.25, 0]


def test_positions_are_rounded_to_groups() -> None:
    assert [aligned(position, 5, 15) for position in (0, 2, 3, 7, 8, 12, 13, 14)] == [0, 0, 5, 5, 10, 10, 10, 10]
    placed = place(frames(10, 0), [frames(1, 100)], parse("0,0,0,-1"), align=5)
    assert placed.latents[0, :, 0, 0].tolist() == [0, 1, 2, 3, 4, 100, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("strategy", "told"),
    [
        ("0,1", "entry 1: reference: expected one of 1 reference, counted from 0, got 1"),
        ("0;0,0,2", "entry 2: start: expected a latent frame from -2 to 1, as the reference has 2, got 2"),
        ("0,0,0,-5", "entry 1: target: expected a latent frame from -4 to 3, as the clip has 4, got -5"),
    ],
)
def test_frames_that_are_not_there_are_refused(strategy: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        place(frames(4, 0), [frames(2, 100)], parse(strategy))
    assert told in str(refused.value)


def test_a_place_without_any_reference_is_refused() -> None:
    with pytest.raises(ConfigError, match="entry 1: reference: expected a picture or a video, and none is given"):
        place(frames(4, 0), [], parse("0"))


def test_references_longer_than_the_clip_are_cut_where_the_strategy_says_and_else_refused() -> None:
    """Upstream cuts in silence what goes past an end."""
    conditioner, video = References(Grouped(17, 4, 8), align=5), VideoShape(34, 8, 16)
    clip = np.zeros((3, 68, 8, 16), np.float32)
    for strategy in ("0,0,0,0,10", "0,0,-5,0,5", "0,0,10,5,5"):
        placed = conditioner.place(GivenReferences((clip,), strategy), video)
        assert conditioner.keeps_frames(placed)
    for strategy, least in (
        ("0,0,0,0,11", "10 latent frames"),
        ("0,0,-5,0,6", "5 latent frames"),
    ):
        with pytest.raises(ConfigError, match=f"entry 1: length: expected at most {least}"):
            conditioner.place(GivenReferences((clip,), strategy), video)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("$HOME/x.png", "holds \\$HOME, which only a shell replaces"),
        ("https://example.com/x.png", "is an address; download what is there"),
        ("none.png", "none.png: there is no such file"),
        ("a\0b", "holds a NUL character"),
    ],
)
def test_a_path_in_a_prompt_that_is_none_is_one_line(path: str, told: str) -> None:
    prompt = Prompt(text="", name="a")
    parts = replace(one_text("a", "prompt 'a'"), references=(path,))
    config = read(SampleConfig, {"video": {"frames": 34, "height": 8, "width": 16}})
    with pytest.raises(MediaError, match=told):
        References(Grouped(17, 4, 8)).ask(prompt, parts, config, print)


def test_a_reference_of_another_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="reference 0 has latents of"):
        place(frames(4, 0), [np.zeros((2, 1, 2, 3), np.float32)], parse("0"))
