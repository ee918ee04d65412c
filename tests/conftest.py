"""How tests are run, whatever they are about: in which order, beside which others, and what is told of their times."""

import gc
import os
import random
from collections import Counter, defaultdict
from pathlib import PurePosixPath
from typing import Any

import pytest

# Read when MindSpore is loaded, which a test file may do before the backend does; see duosora.backends.mindspore. Else
# it warns into the output of whichever test comes first.
os.environ.setdefault("GLOG_v", "3")

gc.disable()  # until all tests are collected

SHARE_RANKS = {
    "test_every_denoiser.py", "test_pool.py", "test_sampling.py", "test_sequence_parallel.py", "test_training.py",
    "test_training_cli.py",
}  # fmt: skip
"""Files of tests/distributed."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--order",
        metavar="ORDER",
        help="of the tests: 'reversed', or a number to shuffle the files by, and the tests of each file",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    order = config.getoption("order")
    if order:
        items[:] = _ordered(items, order)


def _ordered(items: list[pytest.Item], order: str) -> list[pytest.Item]:
    if order == "reversed":
        return items[::-1]
    draw = random.Random(int(order))
    files = defaultdict(list)
    for item in draw.sample(items, len(items)):
        files[item.path].append(item)
    return [item for file in files.values() for item in file]


def pytest_collection_finish() -> None:
    """Look for no garbage in the tests and in what they imported, now or later: a fifth of their time went into that,
    and five seconds while they were collected."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """--dist loadfile, with one worker for all files that share a set of ranks, which are as many processes again."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "ranks" if PurePosixPath(file).name in SHARE_RANKS else file

    return Scheduling(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how long the tests of each folder took."""
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in (each for each in reports if isinstance(each, pytest.TestReport)):
            seconds[str(PurePosixPath(report.nodeid.split("::")[0]).parent)] += report.duration
    terminalreporter.section("seconds of each folder")
    for folder, total in seconds.most_common():
        terminalreporter.write_line(f"{total:8.1f} {folder}")
