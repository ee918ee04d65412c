"""What VBench's dimensions come to: each is scaled, then they are summed in groups and to a total.

Nothing is cut off, so a value below its least possible one counts below 0.
Source: Huang et al. 2024, arXiv:2311.17982; eval/vbench and eval/vbench_i2v of hpcaitech Open-Sora at v1.2.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ConfigError

DIGITS = 4
"""To which measured values are rounded first."""
LOW_TO_HIGH = {
    "subject_consistency": (0.1462, 1.0),
    "background_consistency": (0.2615, 1.0),
    "temporal_flickering": (0.6293, 1.0),
    "motion_smoothness": (0.706, 0.9975),
    "scene": (0.0, 0.8222),
    "appearance_style": (0.0009, 0.2855),
    "temporal_style": (0.0, 0.364),
    "overall_consistency": (0.0, 0.364),
    "i2v_subject": (0.1462, 1.0),
    "i2v_background": (0.2615, 1.0),
}
"""The measured values that count 0 and 1; where nothing is said, 0 and 1."""
WEIGHTS = {"dynamic_degree": 0.5, "camera_motion": 0.1}
"""Of a dimension in its group, where it is not 1."""
QUALITY = (
    *("subject_consistency", "background_consistency", "temporal_flickering", "motion_smoothness"),
    *("aesthetic_quality", "imaging_quality", "dynamic_degree"),
)
SEMANTIC = (
    *("object_class", "multiple_objects", "human_action", "color", "spatial_relationship", "scene"),
    *("appearance_style", "temporal_style", "overall_consistency"),
)


@dataclass(frozen=True)
class Suite:
    """Dimensions and what they count."""

    groups: Mapping[str, tuple[str, ...]]
    shares: Mapping[str, float]
    """Of each group in the total."""
    alone: tuple[str, ...] = ()
    """Dimensions that no group counts."""

    @property
    def dimensions(self) -> tuple[str, ...]:
        return *self.alone, *(name for names in self.groups.values() for name in names)

    def scores(self, measured: Mapping[str, float]) -> dict[str, float]:
        """Of measured values by dimension: each one scaled and weighted, `<group> score`s and the `total score`.

        Raises: ConfigError for a dimension that is missing.
        """
        missing = [name for name in self.dimensions if name not in measured]
        if missing:
            raise ConfigError(f"VBench: no value for {', '.join(missing)}")
        scaled = {name: _scaled(name, measured[name]) for name in self.dimensions}
        found = {
            group: sum(scaled[name] for name in names) / sum(map(weight, names)) for group, names in self.groups.items()
        }
        total = sum(self.shares[group] * found[group] for group in found) / sum(self.shares.values())
        return {"total score": total, **{f"{group} score": value for group, value in found.items()}, **scaled}


TEXT_TO_VIDEO = Suite({"quality": QUALITY, "semantic": SEMANTIC}, {"quality": 4.0, "semantic": 1.0})
PICTURE_TO_VIDEO = Suite(
    {"quality": QUALITY, "i2v": ("i2v_subject", "i2v_background")}, {"quality": 1.0, "i2v": 1.0}, ("camera_motion",)
)


def weight(dimension: str) -> float:
    """Of a dimension in its group."""
    return WEIGHTS.get(dimension, 1.0)


def _scaled(dimension: str, measured: float) -> float:
    low, high = LOW_TO_HIGH.get(dimension, (0.0, 1.0))
    return (round(measured, DIGITS) - low) / (high - low) * weight(dimension)
