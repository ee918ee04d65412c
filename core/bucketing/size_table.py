"""Tables of sizes: a resolution such as "240p" and a proportion such as "9:16" name a height and a width.

Proportions are height : width everywhere, as the published tables have them, so "9:16" is a landscape.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from ..printable import short_name
from ..shapes import VideoShape

_RATIO = re.compile(r"([1-9]\d{0,4}):([1-9]\d{0,4})", re.ASCII)
_WHOLE = re.compile(r"\s*([1-9]\d{0,8})\s*", re.ASCII)


@dataclass(frozen=True)
class Resolution:
    """The sizes that share one number of pixels, about."""

    pixels: int
    """What a picture is measured by that is to be sorted into a resolution."""
    sizes: Mapping[str, tuple[int, int]]
    """Height and width by their proportion, as a decimal number."""


@dataclass(frozen=True)
class SizeTable:
    """The sizes and lengths that a recipe's models were trained at."""

    resolutions: Mapping[str, Resolution]
    ratios: Mapping[str, str]
    """The decimal number that the tables have for a proportion, where it is not the nearest one of two decimals."""
    lengths: Mapping[str, int]
    """Numbers of frames by name."""

    def video(self, resolution: str, ratio: str, length: str | int) -> VideoShape:
        """The shape of ("240p", "9:16", "2s"). Raises: ConfigError naming the nearest that the tables have."""
        return VideoShape(self.frames(length), *self.size(resolution, ratio))

    def frames(self, length: str | int) -> int:
        """A length by its name, or a number of frames. Raises: ConfigError naming the nearest."""
        if isinstance(length, str) and length in self.lengths:
            return self.lengths[length]
        number = _WHOLE.fullmatch(str(length))
        if number is None or isinstance(length, bool):
            near = ", ".join(f"{name} ({frames})" for name, frames in self._nearest_lengths(str(length)).items())
            raise ConfigError(
                f"num_frames = {short_name(str(length))!r}: expected a number of frames or a length such as {near}"
            )
        return int(number[1])

    def size(self, resolution: str, ratio: str) -> tuple[int, int]:
        """Height and width. Raises: ConfigError naming the nearest that the tables have."""
        sizes = self.resolution(resolution).sizes
        wanted = self._number(ratio)
        for decimal, size in sizes.items():
            if float(decimal) == round(wanted, 2) or size[0] / size[1] == wanted:
                return size
        nearest = min(sizes, key=lambda decimal: abs(math.log(float(decimal) / wanted)))
        height, width = sizes[nearest]
        raise ConfigError(
            f"aspect_ratio = {short_name(ratio)!r}: {resolution} has no such size; the nearest is "
            f"{self._named(nearest, height, width)} (height:width), {height} x {width} pixels"
        )

    def resolution(self, name: str) -> Resolution:
        """Raises: ConfigError naming the resolutions."""
        if name not in self.resolutions:
            raise ConfigError(
                f"resolution = {short_name(str(name))!r}: expected one of {', '.join(self.resolutions)}"
                f"{self._near_resolution(str(name))}"
            )
        return self.resolutions[name]

    def nearest_ratio(self, resolution: str, height: int, width: int) -> str:
        """The decimal of a resolution's proportion nearest to that of a picture; of equal ones the first."""
        (number,) = self.nearest_ratios(resolution, np.array([height]), np.array([width]))
        return list(self.resolution(resolution).sizes)[number]

    def nearest_ratios(self, resolution: str, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
        """The numbers of these proportions among those of a resolution, (N,)."""
        wanted = heights / widths
        nearest, least = np.zeros(len(wanted), int), np.full(len(wanted), np.inf)
        for number, decimal in enumerate(self.resolution(resolution).sizes):
            distance = np.abs(float(decimal) - wanted)
            nearest[distance < least] = number
            np.minimum(least, distance, out=least)
        return nearest

    def _number(self, ratio: str) -> float:
        if ratio in self.ratios:
            return float(self.ratios[ratio])
        match = _RATIO.fullmatch(ratio)
        if match is None:
            raise ConfigError(
                f"aspect_ratio = {short_name(ratio)!r}: expected height:width, as in 9:16 for a landscape"
            )
        return int(match[1]) / int(match[2])

    def _named(self, decimal: str, height: int, width: int) -> str:
        known = (name for name, own in self.ratios.items() if float(own) == float(decimal))
        divisor = math.gcd(height, width)
        return next(known, f"{height // divisor}:{width // divisor}")

    def _near_resolution(self, name: str) -> str:
        digits = re.match(r"\d{1,6}", name, re.ASCII)
        if digits is None:
            return ""
        wanted = int(digits[0])
        nearest = min(self.resolutions, key=lambda own: abs(int(re.match(r"\d+", own)[0]) - wanted))  # type: ignore[index]
        return f"; the nearest is {nearest}"

    def _nearest_lengths(self, length: str) -> dict[str, int]:
        match = re.fullmatch(r"\s*(\d{1,6})(?:\.\d*)?\s*([a-zA-Z]?)\w*\s*", length, re.ASCII)
        if match is None:
            return dict(self.lengths)
        unit = match[2].lower()
        names = [name for name in self.lengths if not unit or name.endswith(unit)] or list(self.lengths)
        names.sort(key=lambda name: abs(int(re.match(r"\d+", name)[0]) - int(match[1])))  # type: ignore[index]
        return {name: self.lengths[name] for name in names[:2]}


def even_size(ratio: float, area: int) -> tuple[int, int]:
    """The even height and width of about `area` pixels whose proportion height / width is near `ratio`.

    The published tables of video sizes were made so; halves are rounded up.
    """
    height = _even(math.sqrt(area * ratio))
    return height, _even(height / ratio)


def _even(length: float) -> int:
    return 2 * round((length + 1e-4) / 2)
