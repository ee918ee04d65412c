"""DDIM as CogVideoX uses it: the step of `ddim` on a schedule whose signal-to-noise ratios are divided by three.

Source: Yang et al. 2024, arXiv:2408.06072.
"""

from __future__ import annotations

from .ddim import DDIM
from .schedule import COGVIDEOX, Schedule


class CogVideoXDDIM(DDIM):
    """DDIM with the schedule of CogVideoX as its default."""

    name = "cogvideox_ddim"
    aliases = ("CogVideoX", "CogVideoXDDIM")

    def __init__(
        self, steps: int, *, objective: str = "epsilon", schedule: Schedule = COGVIDEOX, spacing: str | None = None
    ) -> None:
        super().__init__(steps, objective=objective, schedule=schedule, spacing=spacing)
