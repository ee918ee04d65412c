"""When the frames of a video are shown: by their time stamps, or at one rate where there are none to trust."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ROUNDING_SECONDS = 1e-3
"""Matroska rounds time stamps to milliseconds."""
STEADY = 0.25
"""Frames; where each is nearer to its place at one rate, choosing by count is as good as by time."""
SAME_RATE = 0.01
"""Part by which a rate that the container states may differ from that of its time stamps."""


@dataclass(frozen=True)
class Timeline:
    """When each frame is shown, in seconds from the first one."""

    starts: np.ndarray
    """(T,), rising from 0."""
    duration: float
    """To the end of the last frame."""
    fps: float
    """The rate; the mean one where it varies."""
    is_variable: bool = False

    @classmethod
    def constant(cls, num_frames: int, fps: float) -> Timeline:
        """One rate from first to last."""
        return cls(np.arange(num_frames) / fps, num_frames / fps, fps)

    @classmethod
    def of(cls, starts: np.ndarray, last: float, stated: float | None) -> Timeline:
        """From rising time stamps (T,) in seconds.

        last: seconds that the last frame is shown, 0 where the file does not say. stated: the rate that the container
        names; it counts where the time stamps agree with it, as it is exact and they are rounded.
        """
        starts = np.asarray(starts, np.float64) - starts[0]
        gaps = np.diff(starts)
        duration = float(starts[-1]) + (last or (float(np.median(gaps)) if len(gaps) else 1 / (stated or 1.0)))
        mean = len(starts) / duration
        places = np.append(starts, duration) * mean
        is_variable = bool(np.abs(places - np.arange(len(places))).max() > max(STEADY, 2 * ROUNDING_SECONDS * mean))
        agrees = stated is not None and abs(stated / mean - 1) < SAME_RATE
        if is_variable or not (agrees or (stated and len(starts) == 1)):
            return cls(starts, duration, mean, is_variable)
        assert stated is not None
        return cls(starts, duration, stated)

    def at(self, seconds: np.ndarray) -> np.ndarray:
        """Numbers of the frames that are shown at some times; the first before all, the last after all."""
        found = np.searchsorted(self.starts, np.asarray(seconds) + ROUNDING_SECONDS, side="right") - 1
        return np.clip(found, 0, len(self.starts) - 1)

    def resampled(self, fps: float) -> np.ndarray:
        """Numbers of the frames that make a video of constant rate and equal duration."""
        count = max(int(np.ceil(self.duration * fps - fps * ROUNDING_SECONDS)), 1)
        return self.at(np.arange(count) / fps)

    def time(self, number: int) -> float:
        """When a frame begins; of the number after the last, when that ends."""
        return float(self.starts[number]) if number < len(self.starts) else self.duration

    def rate(self, start: int, stop: int) -> float:
        """The mean rate of the frames from start to before stop."""
        stop = min(stop, len(self.starts))
        if not self.is_variable or start >= stop:
            return self.fps
        return (stop - start) / (self.time(stop) - self.time(start))

    def words(self) -> str:
        """For people: how many frames in which time, at which rates."""
        gaps = np.diff(np.append(self.starts, self.duration))
        slowest, fastest = 1 / gaps.max(), 1 / gaps.min()
        return f"{len(self.starts)} frames in {self.duration:.3g} s, {slowest:.3g} to {fastest:.3g} a second"
