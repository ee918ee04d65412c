"""Watching the gradients: steps that are not finite, or far out of the ordinary, are not taken.

What is ordinary is the median of the last norms; it is part of a checkpoint, so that a resumed run judges alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from ..errors import NumericsError
from ..seam.training import Report

WINDOW, LEAST = 100, 20
"""Norms that the median is taken of, and how many are needed before anything counts as a spike."""


@dataclass
class Guard:
    """Decides what becomes of a bad step."""

    on_bad_step: str = "stop"
    """`stop` ends the run; `skip` leaves the step out."""
    spike_factor: float | None = None
    """A gradient norm so many times the median is a spike; None: only NaN and infinity are bad."""
    max_skips: int = 10
    """So many bad steps in a row end the run anyway."""
    norms: dict[str, deque[float]] = field(default_factory=dict)
    """The last ones of the model and, apart from them, of the discriminator."""
    skips: int = 0
    """Bad steps in a row so far."""

    def limit(self, updated: str = "model") -> float:
        """The gradient norm above which a step that updates the model, or a discriminator, is not taken."""
        norms = self.norms.get(updated, ())
        if self.spike_factor is None or len(norms) < LEAST:
            return float("inf")
        return self.spike_factor * median(norms)

    def saw(self, report: Report, step: int, sources: Sequence[str]) -> str | None:
        """Note a step; for a bad one that is left out, a line about it.

        Raises: NumericsError when the run has to end, naming the files of the step.
        """
        if report.applied:
            self.norms.setdefault(report.updated, deque(maxlen=WINDOW)).append(report.grad_norm)
            self.skips = 0
            return None
        self.skips += 1
        limit = self.limit(report.updated)
        text = (
            f"step {step}: loss {report.loss:g}, gradient norm {report.grad_norm:g} (limit {limit:g}), "
            f"files {', '.join(dict.fromkeys(sources))}"
        )
        if self.on_bad_step == "stop" or self.skips >= self.max_skips:
            raise NumericsError(
                f"{text}: the step was not taken and the run ends; look at the files, lower the learning rate, or set "
                "guard.on_bad_step=skip"
            )
        return f"left out {text}"

    def state(self) -> dict[str, object]:
        """What a checkpoint keeps."""
        return {"norms": {name: list(norms) for name, norms in self.norms.items()}, "skips": self.skips}

    def load_state(self, state: dict[str, object]) -> None:
        """Restore what `state` gave."""
        norms, skips = state["norms"], state["skips"]
        assert isinstance(norms, dict)
        assert isinstance(skips, int)
        self.norms = {name: deque(values, maxlen=WINDOW) for name, values in norms.items()}
        self.skips = skips
