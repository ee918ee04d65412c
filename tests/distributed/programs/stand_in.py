"""One rank of a run without a framework, which behaves as its first argument says: `NAME` or `NAME:RANK`."""

import os
import signal
import subprocess
import sys
import time

RANK = int(os.environ["RANK"])


def hang() -> None:
    time.sleep(600)


def save_and_leave(number: int, frame: object) -> None:
    time.sleep(0.5)
    print(f"rank {RANK} saved on {signal.Signals(number).name}", flush=True)
    sys.exit(0)


def own_children() -> None:
    """A process of this one's, as those that read clips."""
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


behaviour, _, which = sys.argv[1].partition(":")
if which and int(which) != RANK:
    hang()
match behaviour:
    case "tell":
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS")
        print(*(f"{name}={os.environ[name]}" for name in names))
    case "fail":
        print("the reason")
        sys.exit(3)
    case "killed":
        own_children()
        os.kill(os.getpid(), signal.SIGKILL)
    case "misses_the_first" if RANK:
        sys.exit(1)
    case "user_error" | "misses_the_first":
        time.sleep(0.5)
        print("duosora: a.yaml: steps: expected a number, not 'many'", file=sys.stderr)
        sys.exit(2)
    case "slow_user_error" if RANK:
        print("duosora: a.yaml: steps: expected a number, not 'many'", file=sys.stderr, flush=True)
        hang()
    case "slow_user_error":
        sys.exit(2)
    case "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("ready", flush=True)
        hang()
    case "save":
        own_children()
        signal.signal(signal.SIGTERM, save_and_leave)
        signal.signal(signal.SIGINT, save_and_leave)
        print("ready", flush=True)
        hang()
