"""Calls in a thread of their own."""

import threading

import pytest

from duosora.core.apart import call_apart


def test_calls_are_made_in_one_thread_and_stay_there() -> None:
    threads = [call_apart(threading.get_ident) for _ in range(2)]
    inner = call_apart(lambda: call_apart(threading.get_ident))
    assert {*threads, inner} == {threads[0]}
    assert threads[0] != threading.get_ident()


def test_what_a_call_raises_comes_out() -> None:
    with pytest.raises(ZeroDivisionError):
        call_apart(lambda divisor: 1 / divisor, 0)
