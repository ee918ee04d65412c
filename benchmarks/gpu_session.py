"""A session on a GPU, at most eight minutes: first whether its numbers are right, then how fast it is.

    python benchmarks/gpu_session.py [--seconds 460] [--out FILE] [--device cuda]

Tiny models and the golden cases are compared with a CPU in fp32, in sampling, training, compiled, offloaded, in 8 bits,
in every attention kernel. Where a number is wrong the session ends there, with exit code 1. Then models of published
sizes run by turns with their plain PyTorch forms, each row of the table within its own time; rows for which none is
left are told. A form whose first numbers are not those of the row's first form is told, and not measured. Times
are wall time, the least of the turns; "of the limit" is the least time that products and weights take at the rates
measured in the same session, over the row's. Memory is that of the device's tensors, in GiB.
With `--device cpu --tiny` it runs anywhere in half a minute: that tests this program, and says nothing of speed.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import cases
import gpu_checks
import limits
import numpy as np
import torch

from duosora.core.models import opensora_t2v, stdit3, t5, wfvae
from duosora.core.shapes import LatentShape

GIB = 2**30
TURNS = 5
CHECKS_SHARE = 0.3
"""Of the session's time, the most that checks take."""
FORMS_LIMIT = gpu_checks.VAE_BF16_LIMIT
"""Of the difference between the forms of a row, both in bf16."""
T2V_93X640, T2V_93X480, T2V_93X352 = (LatentShape(24, height, 80) for height in (80, 60, 44))
"""93 frames: 38,400, 28,800 and 21,120 tokens."""
STDIT3_720P = LatentShape(30, 90, 160)
"""102 frames, 4 seconds: 108,000 tokens."""


@dataclass(frozen=True)
class Row:
    """A case and the forms it is measured in."""

    case: cases.Case
    needs: float
    """Seconds that it takes in all, about; it is left out where less are left."""
    forms: tuple[str, ...] = ("ours", "plain")
    """Names in FORMS."""
    together: bool = True
    """Whether all forms fit on the device, so that they run by turns."""


@dataclass
class Measured:
    """What a form took."""

    form: str
    seconds: list[float] = field(default_factory=list)
    model: int = 0
    beyond: int = 0
    problem: str = ""
    numbers: np.ndarray | None = None
    """What the first call gave; None where nothing of it is kept."""


FORMS: dict[str, dict[str, Any]] = {
    "ours": {},
    "plain": {},
    "ours, compiled": {"compile": True},
    "ours, offloaded": {"settings": {"blocks_on": "host"}},
    "ours, in 8 bits": {"dtype": "int8"},
}
"""Fields of cases.Place."""


def rows() -> list[Row]:
    """The most important first."""
    denoiser, vae = opensora_t2v.T2V_2B, wfvae.D8_4X8X8
    step = cases.Denoising("T2V 2B, guided step, 93x640x640", denoiser, "bf16", latent=T2V_93X640, batch=2)
    offloaded = cases.Denoising("T2V 2B, guided step, 93x480x640", denoiser, "bf16", latent=T2V_93X480, batch=2)
    text = cases.TextEncoding("T5 v1.1 xxl, 4 of 24 layers", replace(t5.V1_1_XXL, num_layers=4), "bf16")
    clip = {"spec": vae, "dtype": "bf16", "size": (33, 512, 512)}
    training = cases.DenoiserTraining(
        "T2V 2B, training step, 93x352x640, recomputing", denoiser, "bf16", latent=T2V_93X352, recomputes=True
    )
    return [
        Row(step, 110, ("ours", "plain", "ours, compiled")),
        Row(training, 90, together=False),
        Row(offloaded, 70, ("ours", "ours, offloaded")),
        Row(cases.Autoencoding("WFVAE, decode 33x512x512", way="decode", **clip), 25),
        Row(cases.Autoencoding("WFVAE, encode 33x512x512", way="encode", **clip), 20),
        Row(cases.Autoencoding("WFVAE, decode 33x512x512 by 2 latent frames", way="stream", **clip), 25),
        Row(
            cases.Denoising(
                "STDiT3, guided step, 102x720x1280", stdit3.XL_2, "bf16", latent=STDIT3_720P, text_tokens=300, batch=2
            ),
            60,
        ),
        Row(text, 30, ("ours", "plain", "ours, in 8 bits")),
    ]


class Session:
    """The device, and the time that is left."""

    def __init__(self, device: str, seconds: float, tiny: bool) -> None:
        self.device, self.tiny = device, tiny
        self.seconds, self.end = seconds, time.perf_counter() + seconds
        self.needs = 0.1 if tiny else 1.0
        """How much of a row's time it takes."""
        self.probe = limits.Probe(device, ("fp32", "bf16"), 128 if tiny else None)

    def left(self) -> float:
        return self.end - time.perf_counter()

    def checks(self) -> Iterator[gpu_checks.Verdict]:
        """All verdicts as they come."""
        yield from gpu_checks.checked(gpu_checks.checks(self.device, self.tiny))
        yield from gpu_checks.goldens(
            self.device, self.seconds * CHECKS_SHARE - (self.seconds - self.left()), self.tiny
        )

    def measure(self, row: Row) -> list[Measured]:
        """The forms of a row, by turns where they fit together."""
        if row.together:
            return self._by_turns(row.case, row.forms)
        done: list[Measured] = []
        for form in row.forms:
            done += self._by_turns(row.case, (form,), done)
        return done

    def _by_turns(self, case: cases.Case, forms: tuple[str, ...], done: list[Measured] | None = None) -> list[Measured]:
        """done: forms of the row that were measured before."""
        found = {form: Measured(form) for form in forms}
        runs = {
            form: run for form in forms if (run := self._attempt(found[form], partial(self._built, case, found[form])))
        }
        first, *others = [*(done or []), *found.values()]
        for other in others:
            other.problem = other.problem or difference(other.numbers, first.numbers)
        runs = {form: run for form, run in runs.items() if not found[form].problem}
        for turn in range(2 if self.tiny else TURNS):
            self.probe.measure(time.perf_counter)
            for form in list(runs) if turn % 2 == 0 else reversed(list(runs)):
                seconds = self._attempt(found[form], partial(self._timed, case, runs[form]))
                if seconds:
                    found[form].seconds.append(seconds)
        for form in list(runs):
            if not found[form].problem:
                found[form].beyond = self._beyond(case, runs[form])
        runs.clear()
        self.free()
        return list(found.values())

    def _attempt(self, measured: Measured, do: Callable[[], Any]) -> Any:
        """What comes of it, or None with the problem noted."""
        if measured.problem:
            return None
        try:
            return do()
        except Exception as error:
            measured.problem = f"{type(error).__name__}: {error}".splitlines()[0][:100]
            return None

    def _built(self, case: cases.Case, measured: Measured) -> cases.Run:
        """Built and warmed up; what is held then is the model, in training with the optimiser's state."""
        before = self._held()
        options = {"dtype": case.dtype, **FORMS[measured.form]}
        place = cases.Place(device=self.device, weights=cases.tiled_weights, **options)
        with self._inference(case):
            run = (case.plain(place) if measured.form == "plain" else case.ours(place))()
            measured.numbers = numbers(run())
        limits.settle(self.device)
        measured.model = self._held() - before
        return run

    def _held(self) -> int:
        """Bytes of the device's tensors; nobody counts those of a CPU."""
        return torch.cuda.memory_allocated() if self.device.startswith("cuda") else 0

    def _timed(self, case: cases.Case, run: cases.Run) -> float:
        with self._inference(case):
            start = time.perf_counter()
            run()
            limits.settle(self.device)
            return time.perf_counter() - start

    def _beyond(self, case: cases.Case, run: cases.Run) -> int:
        """Of the device's memory, the most that a call takes beyond what it finds."""
        if not self.device.startswith("cuda"):
            return 0
        torch.cuda.reset_peak_memory_stats()
        before = self._held()
        self._timed(case, run)
        return torch.cuda.max_memory_allocated() - before

    def _inference(self, case: cases.Case) -> AbstractContextManager[Any]:
        return nullcontext() if case.trains else torch.inference_mode()

    def free(self) -> None:
        gc.collect()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()


def numbers(result: Any) -> np.ndarray | None:
    """What a call gave: a tensor's or a loss's."""
    if isinstance(result, torch.Tensor):
        return result.detach().float().cpu().numpy()
    return np.array(result) if isinstance(result, float) else None


def difference(found: np.ndarray | None, expected: np.ndarray | None) -> str:
    """What is wrong with the numbers of a form; "" where nothing is, or one of the two has none."""
    if found is None or expected is None:
        return ""
    apart = gpu_checks.apart(found, expected) if found.shape == expected.shape else float("inf")
    return "" if apart <= FORMS_LIMIT else f"numbers are {apart:.1e} apart from those of the row's first form"


def table(session: Session) -> Iterator[str]:
    """Rows of a Markdown table as they are measured."""
    yield "| case | form | s | times as fast as plain | of the limit | model GiB | beyond it GiB |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for row in rows():
        case = cases.shrunk(row.case) if session.tiny else row.case
        if session.left() < row.needs * session.needs:
            told = f"left out: {session.left():.0f} s were left, it needs {row.needs:.0f}"
            yield f"| {row.case.title} | {told} | | | | | |"
            continue
        forms = tuple(form for form in row.forms if not (session.tiny and "compile" in FORMS[form]))  # a CPU takes long
        measured = session.measure(replace(row, case=case, forms=forms))
        found = {each.form: each for each in measured}
        plain = found.get("plain")
        least = session.probe.limits().seconds(case.work(case.dtype), case.dtype)
        for each in measured:
            cells = [row.case.title, each.form]
            if each.problem or not each.seconds:
                yield "| " + " | ".join([*cells, f"failed: {each.problem}", "", "", "", ""]) + " |"
                continue
            seconds = min(each.seconds)
            ratio = f"{min(plain.seconds) / seconds:.2f}" if plain and plain.seconds else ""
            cells += [
                f"{seconds:.3g}",
                ratio,
                f"{least / seconds:.0%}",
                f"{each.model / GIB:.2f}",
                f"{each.beyond / GIB:.2f}",
            ]
            yield "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=460.0, help="of the whole session")
    parser.add_argument("--out", type=Path, help="a file that gets all that is printed as well")
    parser.add_argument("--tiny", action="store_true", help="tiny models: a test of this program")
    options = parser.parse_args()
    out = options.out.open("w") if options.out else None

    def say(line: str) -> None:
        print(line, flush=True)
        if out:
            print(line, file=out, flush=True)

    session = Session(options.device, options.seconds, options.tiny)
    verdicts = []
    for verdict in session.checks():
        verdicts.append(verdict)
        mark = "ok" if verdict.passed else f"WRONG {verdict.problem}"
        say(f"{verdict.name}: {verdict.error:.2e} of at most {verdict.limit:g}, {verdict.seconds:.1f} s, {mark}")
    wrong = [verdict.name for verdict in verdicts if not verdict.passed]
    if wrong:
        say(f"\n{len(wrong)} of {len(verdicts)} checks are wrong, nothing is measured: {', '.join(wrong)}")
        sys.exit(1)
    say(f"\nall {len(verdicts)} checks are right\n")
    for line in table(session):
        say(line)
    versions = session_versions(options.device)
    say(f"\n{versions}; {session.probe.limits().text()}; {options.seconds - session.left():.0f} s in all")


def session_versions(device: str) -> str:
    return ", ".join(f"{name} {version}" for name, version in cases.Place(device=device).connect().versions().items())


if __name__ == "__main__":
    main()
