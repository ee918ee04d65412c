"""One form of one case in a process of its own: `run.py` starts it and tells it, line by line, what to do.

"prepare": build, warm up, count memory. "run": once more, or as often as it takes to be measured. Each is answered by
a line of JSON. Nothing else is written to what was standard output.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

LEAST_SECONDS = 0.2
"""Of one measurement: shorter calls are repeated."""


def memory(entry: str) -> int:
    """VmRSS (now) or VmHWM (at most) of this process, in bytes; not ru_maxrss, which starts at that of the parent."""
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines[entry].split()[0]) * 1024


def give_memory_back() -> None:
    """What was freed, to the system, so that it counts when it is taken again."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


class Form:
    """A form that is built, and how it is run."""

    def __init__(self, case: Any, form: str, place: Any) -> None:
        self.place, self.is_ours = place, form != "plain"
        self.trains = case.trains
        before = memory("VmRSS")
        with self.inference():
            self.setup = case.ours(place) if self.is_ours else case.plain(place)
        keeps_freed_memory = place.backend == "mindspore"  # so only its first call shows what it takes
        if not keeps_freed_memory:
            self.call()
        self.run = None
        give_memory_back()
        self.model = self.held() if self.on_device else memory("VmRSS") - before
        self.beyond, seconds = self.count_memory()
        self.times = max(1, int(LEAST_SECONDS / max(seconds, 1e-4)))

    @property
    def on_device(self) -> bool:
        return str(self.place.device).startswith("cuda")

    def inference(self) -> Any:
        """In which all but training runs."""
        if self.trains:
            return nullcontext()
        if self.is_ours:
            return self.place.connect().inference()
        import torch

        return torch.inference_mode()

    def measure(self, times: int) -> tuple[float, float]:
        """Processor and wall seconds of a call."""
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(times):
            self.settle(self.run())
        return (time.process_time() - cpu) / times, (time.perf_counter() - wall) / times

    def settle(self, result: Any) -> None:
        """Wait until it is there."""
        from limits import settle

        settle(self.place.device)
        if self.place.backend == "mindspore" and hasattr(result, "asnumpy"):
            result.asnumpy()

    def held(self) -> int:
        import torch

        return int(torch.cuda.memory_allocated())

    def call(self) -> float:
        """Make the inputs and call once; its seconds."""
        with self.inference():
            self.run = self.setup()
            return self.measure(1)[1]

    def count_memory(self) -> tuple[int, float]:
        """The most that inputs and a call take beyond the model, and the call's seconds."""
        if self.on_device:
            import torch

            torch.cuda.reset_peak_memory_stats()
            before, peak = self.held(), lambda: int(torch.cuda.max_memory_allocated())
        else:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
            before, peak = memory("VmRSS"), lambda: memory("VmHWM")
        seconds = self.call()
        return peak() - before, seconds

    def again(self) -> dict[str, float]:
        with self.inference():
            cpu, wall = self.measure(self.times)
        return {"cpu": cpu, "wall": wall}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers)

    order = json.loads(sys.argv[1])
    import cases

    case = cases.CASES[order["case"]]
    case = cases.shrunk(case) if order["tiny"] else case
    place = cases.Place(order["backend"], order["device"], order["dtype"], order["compile"], order["settings"])
    form: Form | None = None
    commands: dict[str, Callable[[], dict[str, Any]]] = {"run": lambda: form.again() if form else {}}
    for line in sys.stdin:
        try:
            if line.strip() == "prepare":
                form = Form(case, order["form"], place)
                answer(model=form.model, beyond=form.beyond)
            else:
                answer(**commands[line.strip()]())
        except Exception as error:
            answer(error=f"{type(error).__name__}: {error}".splitlines()[0])


if __name__ == "__main__":
    main()
