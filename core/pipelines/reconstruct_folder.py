"""All videos and pictures of a folder through the autoencoder and back, each with its figures; a bad one costs itself.

Beside each result lies a .json with its figures and settings. So a run goes on where it was ended: what was made from
the same file with the same settings is not made again, and its figures count.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..config.schema import ReconstructConfig
from ..config.settings import resolved
from ..errors import ConfigError, DuosoraError, MediaError
from ..io.files import atomic_write, read_json, refuse_unwritable
from ..io.images import image_format, write_image
from ..io.kinds import MEDIA_SUFFIXES
from ..io.video import check_ending, write_video
from ..memory import out_of_memory
from ..printable import one_line
from ..progress import progress
from .reconstruct import ClipReconstruction, LazyAutoencoder, open_autoencoder, prepare

SUMMARY = "reconstruction.json"
"""In the folder of results: the figures of all, and what went wrong."""
FIGURES = ("psnr_mean", "ssim_mean")


def check_result(run: ClipReconstruction, out: Path) -> None:
    """Raises: MediaError when a result of this kind cannot have this name."""
    (image_format if run.clip.is_image else check_ending)(out)


def write_result(
    run: ClipReconstruction, out: Path, config: ReconstructConfig, grid: bool, overwrite: bool
) -> dict[str, Any]:
    """Reconstruct a clip into a file, with its report (.json) beside it, which is handed back.

    grid: the original on the left, the reconstruction on the right. Raises: as what reads, encodes and writes.
    """
    frames = progress(run.frames(beside_original=grid), "decoding", "frame", run.clip.shape.frames)
    with atomic_write(out.with_suffix(".json"), overwrite) as temporary:
        if run.clip.is_image:
            write_image(out, next(iter(frames)), overwrite)
        else:
            write_video(out, frames, run.clip.fps, config.crf, overwrite)
        report: dict[str, Any] = run.quality.summary() | {
            "frames": list(run.clip.shape),
            "source": str(run.clip.path),
            "source_bytes": run.clip.path.stat().st_size,
            "result": out.name,
            "grid": grid,
            "config": resolved(run.vae.pinned(config)),
        }
        temporary.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return report


class Item(NamedTuple):
    """A clip of the folder, and where its result goes."""

    name: str
    """Its path inside the folder."""
    source: Path
    target: Path
    """Without an ending."""


@dataclass(frozen=True)
class Outcome:
    """What became of a clip."""

    item: Item
    report: dict[str, Any] | None = None
    problem: str | None = None
    is_kept: bool = False
    """It was there already."""

    def as_json(self) -> dict[str, Any]:
        if self.report is None:
            return {"name": self.item.name, "problem": self.problem}
        kept = {key: value for key, value in self.report.items() if key != "config"}
        return {"name": self.item.name} | kept

    def __str__(self) -> str:
        if self.report is None:
            return f"{self.item.name}: {self.problem}"
        return f"{self.item.name}: {told_figures(self.report)}{' (kept)' if self.is_kept else ''}"


class FolderReconstruction:
    """The clips of a folder: iterate over `outcomes()`, then `write_summary`."""

    def __init__(self, folder: Path, out: Path, config: ReconstructConfig, grid: bool, overwrite: bool) -> None:
        """Raises: MediaError when the folder holds no clip; ConfigError and MediaError for an unfit `out`, and for
        the model."""
        if not out.is_dir() and (out.exists() or out.suffix.lower() in MEDIA_SUFFIXES):
            raise MediaError(f"{out}: is no folder; the results of a folder go to one")
        if out.resolve() == folder.resolve():
            raise ConfigError(f"{out}: holds the originals; give --out another folder")
        self.folder, self.out, self.grid, self.overwrite = folder, out, grid, overwrite
        self.items = list_items(folder, out)
        self._check_summary()
        self.vae: LazyAutoencoder = open_autoencoder(config)
        self.config = self.vae.pinned(config)

    def plan(self) -> list[str]:
        """What the run is about to do, a line per subject."""
        return [*self.vae.plan(), f"clips      {len(self.items)} of {self.folder}"]

    def outcomes(self) -> Iterator[Outcome]:
        """One clip after the other. Raises: DuosoraError for what is wrong with the model, and so with all of them."""
        for item in self.items:
            outcome = self._found(item)
            if outcome is None:
                self.vae.load()
                outcome = self._made(item)
            yield outcome

    def write_summary(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Write all figures into one file; their means over the clips, each counting once. Raises: MediaError."""
        done = [outcome.report for outcome in outcomes if outcome.report]
        mean = {figure: float(np.mean([report[figure] for report in done])) for figure in FIGURES if done}
        said = {
            "source": str(self.folder),
            "mean": mean,
            "clips": [outcome.as_json() for outcome in outcomes if outcome.report],
            "problems": [outcome.as_json() for outcome in outcomes if not outcome.report],
            "grid": self.grid,
            "config": resolved(self.config),
        }
        with atomic_write(self.out / SUMMARY, overwrite=True) as temporary:
            text = json.dumps(said, indent=1, ensure_ascii=False)
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        return mean

    def _made(self, item: Item) -> Outcome:
        try:
            run = prepare(item.source, self.config, self.vae)
            out = _with_ending(item.target, ".png" if run.clip.is_image else ".mp4")
            return Outcome(item, write_result(run, out, self.config, self.grid, self.overwrite))
        except Exception as error:
            told = error if isinstance(error, DuosoraError) else out_of_memory(error)
            if told is None:
                raise
            return Outcome(item, problem=one_line(told).removeprefix(f"{item.source}: "))

    def _found(self, item: Item) -> Outcome | None:
        """What is there already: the result of an earlier run, or something else in its place."""
        places = [_with_ending(item.target, ending) for ending in (".mp4", ".png", ".json")]
        there = [place for place in places if os.path.lexists(place)]
        if self.overwrite or not there:
            return None
        report = _read_report(places[-1])
        expected = {
            "source_bytes": item.source.stat().st_size,
            "grid": self.grid,
            "config": json.loads(json.dumps(resolved(self.config))),
        }
        is_same = all(report.get(key) == value for key, value in expected.items())
        if is_same and item.target.with_name(str(report.get("result"))).is_file():
            return Outcome(item, report, is_kept=True)
        return Outcome(
            item, problem=f"{there[0]} exists and was not made from it with these settings; --overwrite replaces it"
        )

    def _check_summary(self) -> None:
        """Only what an earlier run wrote is replaced. Raises: MediaError."""
        summary = self.out / SUMMARY
        is_ours = {"clips", "problems"} <= _read_report(summary).keys()
        refuse_unwritable(summary, overwrite=self.overwrite or is_ours)


def list_items(folder: Path, out: Path) -> list[Item]:
    """All clips below a folder but results in it, in the order of their names; hidden files are none.

    Clips of one name (a.mov and a.mkv) keep their endings in the names of their results, which would else be one.
    Raises: MediaError when there is none.
    """
    results = out.resolve() if out.resolve().is_relative_to(folder.resolve()) else None
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if _is_clip(path, folder, results)]
    if not names:
        raise MediaError(f"{folder}: holds no video or picture ({', '.join(MEDIA_SUFFIXES)})")
    stems = Counter([Path(SUMMARY).with_suffix(""), *(name.with_suffix("") for name in names)])
    return [
        Item(str(name), folder / name, out / (name if stems[name.with_suffix("")] > 1 else name.with_suffix("")))
        for name in names
    ]


def _is_clip(path: Path, folder: Path, results: Path | None) -> bool:
    if path.suffix.lower() not in MEDIA_SUFFIXES or not path.is_file():
        return False
    is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return not is_hidden and not (results and path.resolve().is_relative_to(results))


def told_figures(report: dict[str, Any]) -> str:
    """The figures of a clip, for people."""
    return "PSNR {psnr_mean:.2f} dB (lowest frame {psnr_min:.2f}), SSIM {ssim_mean:.4f} (lowest {ssim_min:.4f})".format(
        **report
    )


def _with_ending(target: Path, ending: str) -> Path:
    return target.with_name(target.name + ending)


def _read_report(path: Path) -> dict[str, Any]:
    """What an earlier run wrote, or nothing."""
    try:
        report = read_json(path)
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}
