"""Random streams: pinned numbers, independence of purpose, sample and step."""

import itertools

import numpy as np
import pytest

from duosora.core import random
from duosora.core.errors import ConfigError

PINNED_NORMAL = [-0.12383798509836197, 0.5271878242492676, 0.0557037852704525, 1.530189871788025]
PINNED_INTEGERS = [676, 873, 716, 774]


def test_the_first_numbers_are_pinned() -> None:
    np.testing.assert_array_equal(random.normal((4,), 0, "latents"), np.array(PINNED_NORMAL, np.float32))
    np.testing.assert_array_equal(random.stream(7, "posterior", 3, 5).integers(0, 1000, 4), PINNED_INTEGERS)


def test_every_name_part_opens_another_stream() -> None:
    names = itertools.product((0, 1), ("latents", "step noise"), (0, 1), (0, 1))
    draws = [random.normal((8,), *name) for name in names]
    for one, other in itertools.combinations(draws, 2):
        assert not np.allclose(one, other)


def test_a_stream_does_not_depend_on_what_was_drawn_before() -> None:
    random.normal((1000,), 5, "latents", step=3)
    late = random.normal((4,), 5, "latents", step=4)
    np.testing.assert_array_equal(late, random.normal((4,), 5, "latents", step=4))


def test_normal_numbers_are_normal() -> None:
    numbers = random.normal((200_000,), 1, "latents")
    assert numbers.dtype == np.float32
    assert abs(numbers.mean()) < 0.01
    assert abs(numbers.std() - 1) < 0.01


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_does_not_fit_is_refused(seed: int) -> None:
    with pytest.raises(ConfigError, match="seed"):
        random.stream(seed, "latents")
