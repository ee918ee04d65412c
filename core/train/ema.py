"""How slowly the average of the weights follows them, update by update.

Sources: diffusers' EMAModel, with which Open-Sora Plan trains its transformers; opensora/models/causalvideovae/model/
ema_model.py, with which it trains its autoencoders.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EmaSchedule:
    """The decay of each update."""

    decay: float = 0.9999
    """At most."""
    warms_up: bool = True
    """Begin as a plain average and rise to `decay` over its own time scale; the first update copies the weights."""
    start_step: int = 0
    """Optimiser steps during which the average is a copy."""

    def at(self, update: int) -> float:
        """The decay of update 1, 2, ...: shadow = decay * shadow + (1 - decay) * weights."""
        if not self.warms_up:
            return self.decay if update > self.start_step else 0.0
        age = max(0, update - self.start_step - 1)
        return 0.0 if age == 0 else min((1.0 + age) / (10.0 + age), self.decay)
