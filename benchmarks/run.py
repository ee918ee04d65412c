"""Time and memory of duosora's models, by turns with their plain PyTorch forms.

    python benchmarks/run.py [case ...] [--against COMMIT] [--mindspore] [--threads 1] [--repeat 5]

Every case runs in several forms: ours, plain (benchmarks/plain), with --against the same case by another commit's
package, with --mindspore by the MindSpore backend, and cases in bf16 also in fp32. Each form has a process of its own.
All forms are built first; then they run one after the other, again and again, so that whatever else the machine does
meets all of them alike. Between the turns the machine's own limits are measured: products of matrices and copies.

On a CPU times are seconds of the processor, over all threads, the least and in brackets the median; elsewhere they are
wall time. "of the limit" says how much of the least time that counts products and weights alone takes (counted from
the shapes) the form reaches. Memory is what a call takes beyond the model, inputs included, in MiB; of MindSpore, which
keeps what it has freed, what the first call takes.
Prints a Markdown table, as docs/performance.md has them; --json FILE keeps every figure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import cases
import limits

HERE = Path(__file__).parent
ROOT = HERE.parent
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
FASTER = {"plain": "plain / ours", "before": "before / ours", "fp32": "fp32 / ours", "mindspore": "MindSpore / ours"}
"""Headings of the ratios: how many times as long the other form takes."""
MIB = 2**20


class Worker:
    """A process that holds a form."""

    def __init__(self, name: str, order: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self.name, self.times, self.told = name, [], {}
        self.problem = ""
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py"), json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment},
            text=True,
        )

    def ask(self, command: str) -> dict[str, Any]:
        """Tell it something and wait for the answer."""
        assert self.process.stdin
        assert self.process.stdout
        if self.problem:
            return {}
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline() or '{"error": "the process ended"}')
        except (OSError, ValueError) as error:
            answer = {"error": str(error)}
        self.problem = answer.pop("error", "")
        return answer

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def figures(self, clock: str) -> dict[str, Any]:
        """What was measured."""
        if self.problem:
            return {"form": self.name, "problem": self.problem}
        seconds = [each[clock] for each in self.times]
        wall = [each["wall"] for each in self.times]
        found = {"least": min(seconds), "median": median(seconds), "wall": min(wall), **self.told}
        return {"form": self.name, **found}


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """The files of another commit in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="duosora-") as folder:
        archive = Path(folder) / "files.tar"
        subprocess.run(["git", "archive", "-o", str(archive), commit], cwd=ROOT, check=True)
        with tarfile.open(archive) as files:
            files.extractall(Path(folder) / "files", filter="tar")
        yield Path(folder) / "files"


def forms_of(
    case: cases.Case, options: argparse.Namespace, before: Path | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The forms of a case, by name, and what their workers are told beside it."""
    dtype = options.dtype or case.dtype
    yield "ours", {"form": "ours", "dtype": dtype}
    if not options.no_plain:
        yield "plain", {"form": "plain", "dtype": dtype}
    if dtype != "fp32" and not options.dtype:
        yield "fp32", {"form": "ours", "dtype": "fp32"}
    if before:
        yield "before", {"form": "ours", "dtype": dtype, "source": str(before / "src")}
    if options.mindspore and dtype == "fp32":
        yield "mindspore", {"form": "ours", "dtype": dtype, "backend": "mindspore"}


def measure(name: str, case: cases.Case, options: argparse.Namespace, before: Path | None) -> dict[str, Any]:
    """All forms of a case by turns, and the machine's limits between them."""
    environment = os.environ | dict.fromkeys(THREADS, str(options.threads))
    common = {"case": name, "backend": options.backend, "device": options.device, "compile": options.compile}
    common |= {"settings": dict(setting.split("=", 1) for setting in options.set), "tiny": options.tiny}
    dtype = options.dtype or case.dtype
    with ExitStack() as stack:
        workers = []
        for form, order in forms_of(case, options, before):
            source = order.pop("source", str(ROOT / "src"))
            worker = Worker(form, {**common, **order}, {**environment, "PYTHONPATH": source})
            stack.callback(worker.close)
            worker.told = worker.ask("prepare")
            workers.append(worker)
        probe = limits.Probe(options.device, (dtype,), 64 if options.tiny else None)
        clock = limits.clock_of(options.device)
        for turn in range(options.repeat):
            probe.measure(clock)
            for worker in workers if turn % 2 == 0 else reversed(workers):
                answer = worker.ask("run")
                if answer:
                    worker.times.append(answer)
    figures = [worker.figures("cpu" if options.device == "cpu" else "wall") for worker in workers]
    sized = cases.shrunk(case) if options.tiny else case
    found = probe.limits()
    least = found.seconds(sized.work(dtype), dtype)
    return {"case": name, "title": case.title, "dtype": dtype, "forms": figures, "limit": least, "limits": found}


def table(results: Iterable[dict[str, Any]], forms: list[str]) -> Iterator[str]:
    """The rows of a Markdown table, each as soon as its case is measured."""
    others = [form for form in forms if form != "ours"]
    heads = ["case", *(f"{form} s" for form in forms), *(FASTER[form] for form in others), "ours of the limit"]
    heads += [f"{form} MiB" for form in forms]
    yield row(heads)
    yield row(["---"] * len(heads))
    for result in results:
        found = {each["form"]: each for each in result["forms"]}
        ours = found["ours"]
        cells = [result["title"], *(_seconds(found.get(form)) for form in forms)]
        cells += [_ratio(found.get(form), ours) for form in others]
        cells.append("" if "problem" in ours else f"{result['limit'] / ours['least']:.0%}")
        cells += [_mib(found.get(form)) for form in forms]
        yield row(cells)


def row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _seconds(found: Mapping[str, Any] | None) -> str:
    if found is None or "problem" in found:
        return "" if found is None else f"failed: {found['problem']}"
    return f"{_number(found['least'])} ({_number(found['median'])})"


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _ratio(other: Mapping[str, Any] | None, ours: Mapping[str, Any]) -> str:
    if other is None or "problem" in other or "problem" in ours:
        return ""
    return f"{other['least'] / ours['least']:.2f}"


def _mib(found: Mapping[str, Any] | None) -> str:
    return "" if found is None or "problem" in found else _number(found["beyond"] / MIB)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"some of {', '.join(cases.CASES)}; by default the shorter ones")
    parser.add_argument("--backend", default="torch", help="of ours")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="", help="fp32, bf16 or fp16 for all cases; by default each has its own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5, help="turns")
    parser.add_argument("--against", default="", metavar="COMMIT", help="another commit by turns: before and after")
    parser.add_argument("--mindspore", action="store_true", help="the MindSpore backend by turns")
    parser.add_argument("--no-plain", action="store_true", help="without the plain forms")
    parser.add_argument("--compile", action="store_true", help="denoisers as compiled graphs, the plain ones too")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a further argument of build")
    parser.add_argument("--json", type=Path, help="keep all figures in this file, a line for each case")
    parser.add_argument("--tiny", action="store_true", help="at sizes that take no time: tests this program only")
    options = parser.parse_args()
    if unknown := [name for name in options.cases if name not in cases.CASES]:
        parser.error(f"unknown case {unknown[0]!r}: there are {', '.join(cases.CASES)}")
    return options


def main() -> None:
    options = parse()
    chosen = dict(cases.named(options.cases))
    os.environ |= dict.fromkeys(THREADS, str(options.threads))
    if options.device == "cpu":
        import torch

        torch.set_num_threads(options.threads)  # for the limits, which are measured here
    with ExitStack() as stack:
        before = stack.enter_context(checkout(options.against)) if options.against else None
        forms = list(dict.fromkeys(form for case in chosen.values() for form, _ in forms_of(case, options, before)))
        seen: list[dict[str, Any]] = []

        def results() -> Iterator[dict[str, Any]]:
            for name, case in chosen.items():
                seen.append(measure(name, case, options, before))
                if options.json:
                    with options.json.open("a") as file:
                        print(json.dumps({**seen[-1], "limits": seen[-1]["limits"]._asdict()}), file=file)
                yield seen[-1]

        for line in table(results(), forms):
            print(line, flush=True)
    print("\n" + "; ".join(dict.fromkeys(about(options, seen))))
    if any("problem" in form for result in seen for form in result["forms"]):
        sys.exit(1)


def about(options: argparse.Namespace, seen: list[dict[str, Any]]) -> Iterator[str]:
    """What the figures are of."""
    yield f"{options.threads} thread{'s' if options.threads > 1 else ''}, {options.repeat} turns, {options.device}"
    rates: dict[str, float] = {}
    for result in seen:
        for dtype, rate in result["limits"].matmul.items():
            rates[dtype] = max(rate, rates.get(dtype, 0.0))
    yield limits.Limits(rates, max(result["limits"].copy for result in seen)).text()


if __name__ == "__main__":
    main()
