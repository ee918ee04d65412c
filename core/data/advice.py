"""Which one setting would make the most bad rows of a training set good: found by trying, told only if it is true.

What is wrong with the rows says which settings may help, and their own lengths, sizes and rates say which values. Each
is then tried on the whole set, because a setting that helps some rows may cost others.
"""

from __future__ import annotations

import json
import math
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ..config.data import DataSettings
from ..config.yaml12 import parse_yaml
from ..errors import ConfigError, DuosoraError
from ..maths.resize import size_within_area, whole_strides
from ..shapes import Compression, next_length
from .check import Check, CheckReport
from .plan import RARE
from .records import Record
from .selection import LONGEST, frame_interval, rate_of

LOOKED_FOR = 20
"""Files that are missing, of which most must lie in a folder that is tried."""
FOLDERS = 2000
"""That are looked through for them."""
LEAST_FRAMES = 5
"""Fewer make pictures of videos."""
WHOLE_STRIDE = 16
"""Pixels of one token of the published model, 8 of its autoencoder by 2."""


class Advice(NamedTuple):
    """A setting, and how many of all rows would be used with it."""

    setting: str
    """As --set takes it."""
    used: int
    rows: int

    def __str__(self) -> str:
        return f"{self.used} of {self.rows} rows would be used with --set {shlex.quote(self.setting)}"


def find_advice(
    check: Check, report: CheckReport, settings: DataSettings, changed: Callable[[str], DataSettings]
) -> Advice | None:
    """The setting with which the most rows are used, if these are more than now.

    changed: the settings with one more `--set`. Raises: DuosoraError where it says so of one that does not fit.
    """
    best = Advice("", report.num_good, report.rows)
    for name, value in _candidates(check, report, settings):
        setting = f"data.{name}={_written(value)}"
        try:
            used = check(changed(setting)).num_good
        except DuosoraError:
            continue  # it does not go with the other settings
        if used > best.used:
            best = Advice(setting, used, report.rows)
        if used == report.rows:
            break
    return best if best.setting else None


def _written(value: Any) -> str:
    """A value as YAML reads it, with quotes only where it needs them."""
    if isinstance(value, str) and _is_plain(value):
        return value
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


def _is_plain(text: str) -> bool:
    try:
        return bool(parse_yaml(text, "", is_file=False) == text)
    except ConfigError:
        return False


def _candidates(check: Check, report: CheckReport, settings: DataSettings) -> Iterator[tuple[str, Any]]:
    """Settings and values that may help, those first that change the least."""
    rows: dict[str, list[Record]] = {}
    for row in report.checked:
        for finding in row.findings:
            rows.setdefault(finding.kind, []).append(row.record)
    if "missing" in rows:
        yield from (("root", folder) for folder in _folders(check.files, rows["missing"]))
    if rows.keys() & {"no size", "no length"}:
        yield "probe", True
    if "HDR" in rows:
        yield "media.hdr", "tone_map"
    if "too large" in rows:
        yield "grouped", True
    if RARE in rows and check.total_batch:
        smallest = min(Counter(row.shape for row in report.checked if row.shape).values())
        yield "min_bucket_batches", smallest // check.total_batch
    yield from _sizes(rows, settings)
    yield from _lengths(rows, settings, check.compression)
    if "a picture" in rows and not any(row.record.is_video for row in report.checked):
        yield "frames", 1
    if "no caption" in rows and check.total_batch is None:  # no run says that they are for a denoiser
        yield "autoencoder", {}


def _sizes(rows: dict[str, list[Record]], settings: DataSettings) -> Iterator[tuple[str, Any]]:
    if "too small" in rows and settings.max_area is not None:
        for name, stride in (("min_area", settings.stride), ("stride", min(settings.stride, WHOLE_STRIDE))):
            areas = [_usable_area(record, settings.max_area, stride) for record in rows["too small"]]
            usable = [area for area in areas if area]
            if usable:
                yield name, min(usable) if name == "min_area" else stride
    if "odd proportions" in rows and settings.max_area is None and settings.height and settings.width:
        yield "max_area", settings.height * settings.width


def _usable_area(record: Record, max_area: int, stride: int) -> int:
    """Pixels that are left of a record's frames."""
    height, width = record.height, record.width
    if record.crop is not None:
        height, width = record.crop.y1 - record.crop.y0, record.crop.x1 - record.crop.x0
    if not height or not width:
        return 0
    box = whole_strides(*size_within_area(height, width, max_area), stride)
    return box.height * box.width


def _lengths(
    rows: dict[str, list[Record]], settings: DataSettings, compression: Compression
) -> Iterator[tuple[str, Any]]:
    short = [record for record in rows.get("too short", ()) if record.num_frames]
    if short and settings.autoencoder is None:
        yield "drop_short", 0
        yield "fps", Counter(map(rate_of, short)).most_common(1)[0][0]
        seen = [(record.num_frames or 0) / frame_interval(record.fps, settings.fps) for record in short]
        yield from _frames(seen, compression)
    if short and settings.autoencoder is not None:
        rate = settings.autoencoder.sample_rate
        yield from (("autoencoder.sample_rate", slower) for slower in range(rate - 1, 0, -1))
        yield from _frames([((record.num_frames or 0) - 1) // rate + 1 for record in short], compression)
    long = [record for record in rows.get("too long", ()) if record.num_frames]
    if long:
        times = max((record.num_frames or 0) * settings.fps / (LONGEST * rate_of(record)) for record in long)
        yield "speed_factor", math.ceil(10 * times / settings.frames) / 10
        yield "frames", next_length(compression, math.ceil(times))


def _frames(seen: Sequence[float], compression: Compression) -> Iterator[tuple[str, int]]:
    """The number of frames of a clip with which most frames of short clips are used, of which so many can be seen."""
    lengths = [compression.longest(math.ceil(frames)) for frames in seen]
    used = {length: length * sum(other >= length for other in lengths) for length in lengths if length >= LEAST_FRAMES}
    if used:
        yield "frames", max(used, key=used.__getitem__)


def _folders(files: Sequence[Path], missing: Sequence[Record]) -> Iterator[str]:
    """Folders near the annotations, and the current one, in which most of the missing files lie; the best two."""
    names = [record.name for record in missing if not os.path.isabs(record.name)][:LOOKED_FOR]
    found: Counter[Path] = Counter()
    for folder in islice(_near(files), FOLDERS):
        found[folder] = sum(os.path.isfile(folder / name) for name in names)
    here = Path().absolute()
    for folder, count in found.most_common(2):
        if count:
            yield str(folder.relative_to(here) if folder.is_relative_to(here) else folder)


def _near(files: Sequence[Path]) -> Iterator[Path]:
    """The current folder, those that hold an annotation, those around these, and all inside them."""
    homes = list(dict.fromkeys(file.absolute().parent for file in files))
    yield Path().absolute()
    for home in homes:
        yield from (home, *home.parents)
    for home in homes:
        for top in (home, home.parent):
            yield from (Path(folder) for folder, _, _ in os.walk(top))
