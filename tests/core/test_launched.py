"""What a process reads of a launcher's variables: a place among others, none, or one line that says which is wrong."""

import pytest

from duosora.core.errors import ConfigError
from duosora.core.parallel import launched as variables
from duosora.core.parallel.launched import Launched, is_scheduler, launched, meeting_point, told_once, unset

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
MSRUN = {"RANK_ID": "3", "MS_WORKER_NUM": "8", "DEVICE_ID": "1"}


@pytest.mark.parametrize("environment", [TORCHRUN, MSRUN, TORCHRUN | MSRUN, MSRUN | {"WORLD_SIZE": "2"}])
def test_a_launchers_variables_are_a_place_among_others(environment: dict[str, str]) -> None:
    assert launched(environment) == Launched(rank=3, world=8, local_rank=1)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"RANK": "", "WORLD_SIZE": ""},
        {"RANK": "", "WORLD_SIZE": "", "RANK_ID": "", "MS_WORKER_NUM": ""},
        {"WORLD_SIZE": "1"},
        {"RANK": "0"},
        {"LOCAL_RANK": "3"},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"MS_WORKER_NUM": "1"},
        {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "OMPI_COMM_WORLD_SIZE": "8", "RANK_SIZE": "8"},
    ],
)
def test_a_process_without_them_is_by_itself(environment: dict[str, str]) -> None:
    assert launched(environment) == Launched(rank=0, world=1, local_rank=0)


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE = 2, but RANK is not set;"),
        ({"WORLD_SIZE": "2", "RANK": ""}, "WORLD_SIZE = 2, but RANK is not set;"),
        ({"RANK": "1"}, "RANK = 1, but WORLD_SIZE is not set;"),
        ({"MS_WORKER_NUM": "2", "MS_ROLE": "MS_WORKER"}, "MS_WORKER_NUM = 2, but RANK_ID is not set;"),
        ({"RANK_ID": "5"}, "RANK_ID = 5, but MS_WORKER_NUM is not set;"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK = 2, WORLD_SIZE = 2: expected a rank from 0"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "RANK = 0, WORLD_SIZE = 0: expected a rank from 0"),
        ({"RANK": "0", "WORLD_SIZE": "1000000"}, "at most 100000 processes"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK = -1: expected a whole number;"),
        ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE = two: expected a whole number;"),
        ({"RANK": "0", "WORLD_SIZE": "9" * 5000}, "expected a whole number;"),
        ({"RANK": "0", "WORLD_SIZE": "\u00b2"}, "expected a whole number;"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "x"}, "LOCAL_RANK = x: expected a whole number;"),
    ],
)
def test_variables_that_do_not_go_together_are_named_with_the_way_out(environment: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        launched(environment)
    assert text in str(refused.value)
    assert str(refused.value).endswith(unset(environment))
    assert launched(dict.fromkeys(environment, "")) == Launched()


def test_all_that_is_set_is_to_be_unset() -> None:
    environment = {"PATH": "/bin", "WORLD_SIZE": "2", "RANK": "0", "MS_ROLE": "MS_WORKER", "MASTER_PORT": ""}
    assert unset(environment) == "unset RANK WORLD_SIZE MS_ROLE"


def test_processes_meet_where_the_variables_of_their_backend_say() -> None:
    environment = {"MASTER_ADDR": "a", "MASTER_PORT": "1", "MS_SCHED_HOST": "b", "MS_SCHED_PORT": "2"}
    assert meeting_point("torch", environment) == ("a", 1)
    assert meeting_point("mindspore", environment) == ("b", 2)
    assert meeting_point("torch", {"MASTER_ADDR": "", "MASTER_PORT": "7"}) == ("127.0.0.1", 7)


@pytest.mark.parametrize(
    ("backend", "environment", "text"),
    [
        ("torch", {"RANK": "0", "MS_SCHED_PORT": "2"}, "MASTER_PORT is not set, where processes of torch meet"),
        ("mindspore", {"RANK": "0", "MASTER_PORT": "2"}, "MS_SCHED_PORT is not set, where processes of mindspore meet"),
        ("torch", {"MASTER_PORT": "http"}, "MASTER_PORT = http: expected a whole number"),
        ("torch", {"MASTER_PORT": "65535"}, "MASTER_PORT = 65535: expected a port from 1 to 65534"),
    ],
)
def test_a_meeting_point_that_is_none_is_named(backend: str, environment: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        meeting_point(backend, environment)


def test_a_role_is_one_of_mindspores() -> None:
    assert [is_scheduler({"MS_ROLE": role}) for role in ("", "MS_WORKER", "MS_SCHED")] == [False, False, True]
    with pytest.raises(ConfigError, match="MS_ROLE = MS_PSERVER: expected MS_WORKER or MS_SCHED; .*unset MS_ROLE"):
        is_scheduler({"MS_ROLE": "MS_PSERVER"})


@pytest.mark.parametrize(
    ("local_rank", "launcher", "is_told"),
    [("0", "DUOSORA_JOB", False), ("1", "DUOSORA_JOB", True), ("1", "TORCHELASTIC_RUN_ID", True), ("1", None, False)],
)
def test_one_of_a_machine_speaks_where_a_launcher_listens(
    local_rank: str, launcher: str | None, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process with variables that were left behind is no other's echo, whatever its number."""
    for name in variables._COLLECTORS:
        monkeypatch.delenv(name, raising=False)
    for name, value in {**TORCHRUN, "LOCAL_RANK": local_rank, launcher or "NONE": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as refused, told_once():
        raise ConfigError("a mistake")
    assert refused.value.is_told == is_told
