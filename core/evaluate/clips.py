"""Clips against those that they should equal: PSNR, SSIM and LPIPS of every frame, averaged per clip and over clips.

Both clips of a pair are read side by side, a few frames at a time, so memory does not grow with their length.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..config.schema import EvaluateConfig
from ..config.settings import with_setting
from ..errors import ConfigError, DuosoraError, MediaError, NumericsError, ShapeError
from ..io.kinds import MEDIA_SUFFIXES, is_video
from ..io.video import check_reader
from ..maths.metrics import PSNR_LIMIT, SSIM_SIGMA, SSIM_WINDOW, finite_psnr, psnr, ssim
from ..maths.pixels import from_uint8
from ..models.lpips import LPIPSSpec, open_lpips
from ..pipelines.clip import Clip, whole_clip
from ..progress import progress
from ..seam import backend as backends
from ..seam.backend import Backend
from ..seam.models import Model
from ..shapes import VideoShape

PIXELS_AT_A_TIME = 1 << 18
"""Of a clip, at least one frame: LPIPS keeps some hundred numbers a pixel."""
LOWER_IS_BETTER = ("lpips",)
SHOWN_OTHERS = 3


class Perceptual(NamedTuple):
    """LPIPS on a backend."""

    backend: Backend
    model: Model
    spec: LPIPSSpec

    def distances(self, frames: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Of uint8 frames (T, H, W, 3): (T,). Raises: ShapeError when they are too small for the backbone."""
        with self.backend.inference():
            first, second = (
                self.backend.asarray(from_uint8(pixels).transpose(0, 3, 1, 2)) for pixels in (frames, reference)
            )
            distances = self.backend.to_numpy(self.model(first, second))
        if not np.isfinite(distances).all():
            raise NumericsError("LPIPS gave NaN or infinity; check the weights in its folder")
        return distances


@dataclass(frozen=True)
class Pair:
    """A clip and the one that it should equal, None where it is not there."""

    name: str
    """Their path in the folders, without the ending."""
    reference: Path | None
    generated: Path | None
    problem: str | None = None
    """Why they cannot be compared, as far as their names tell."""


@dataclass(frozen=True)
class PairScores:
    """What was measured of a pair, or why nothing was."""

    pair: Pair
    problem: str | None
    shape: VideoShape | None = None
    identical_frames: int = 0
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Metric to its value at each frame."""

    @property
    def name(self) -> str:
        return self.pair.name

    def mean(self, metric: str) -> float:
        return float(self.values[metric].mean())

    def worst(self, metric: str) -> float:
        values = self.values[metric]
        return float(values.max() if metric in LOWER_IS_BETTER else values.min())

    def as_json(self) -> dict[str, Any]:
        said: dict[str, Any] = {
            "name": self.name,
            "reference": self.pair.reference and str(self.pair.reference),
            "generated": self.pair.generated and str(self.pair.generated),
        }
        if self.shape is None:
            return said | {"problem": self.problem}
        said |= self.shape._asdict() | {"identical_frames": self.identical_frames}
        return said | {metric: {"mean": self.mean(metric), "worst": self.worst(metric)} for metric in self.values}


@dataclass(frozen=True)
class Scores:
    """The outcomes of an evaluation."""

    outcomes: tuple[PairScores, ...]

    @property
    def measured(self) -> list[PairScores]:
        return [outcome for outcome in self.outcomes if outcome.shape]

    @property
    def problems(self) -> list[PairScores]:
        return [outcome for outcome in self.outcomes if not outcome.shape]

    def mean(self, metric: str) -> float | None:
        """Over the clips, each counting once; None when none was measured."""
        means = [outcome.mean(metric) for outcome in self.measured]
        return float(np.mean(means)) if means else None


class Evaluation:
    """Pairs of clips and how they are compared."""

    def __init__(
        self,
        pairs: list[Pair],
        others: list[Path],
        metrics: tuple[str, ...],
        perceptual: Perceptual | None,
        config: EvaluateConfig,
        is_single: bool,
    ) -> None:
        """With is_single, what is wrong with the pair is raised instead of reported. Raises: as check_reader."""
        check_reader(config.reader)
        self.pairs, self.others, self.metrics, self.perceptual = pairs, others, metrics, perceptual
        self.config = with_setting(config, "backend", perceptual.backend.name) if perceptual else config
        self.is_single = is_single

    def plan(self) -> list[str]:
        """What the run is about to do, a line per subject."""
        lines = [f"pairs      {len(self.pairs)}", f"metrics    {', '.join(self.metrics)}"]
        if self.perceptual:
            backend = self.perceptual.backend
            lines.append(
                f"lpips      {self.perceptual.spec.backbone} from {self.config.lpips}, {backend.name} on "
                f"{backend.device}"
            )
        if self.others:
            names = ", ".join(path.name for path in self.others[:SHOWN_OTHERS])
            more = ", ..." if len(self.others) > SHOWN_OTHERS else ""
            lines.append(f"NOTE       left alone, no videos or pictures by their names: {names}{more}")
        return lines

    def definitions(self) -> dict[str, str]:
        """What each figure is, for the report."""
        said = {
            "psnr": f"dB of RGB frames of 8 bits, per frame; at most {PSNR_LIMIT:g}, which equal frames have",
            "ssim": f"Wang et al. 2004: Gaussian window {SSIM_WINDOW}x{SSIM_WINDOW} with sigma {SSIM_SIGMA}, "
            "population covariance, whole windows only, mean over pixels and RGB channels, per frame",
        }
        if self.perceptual:
            said["lpips"] = f"LPIPS v0.1 by {self.perceptual.spec.backbone}, fp32, per frame"
        return {metric: said[metric] for metric in self.metrics}

    def outcomes(self) -> Iterator[PairScores]:
        """Measure one pair after the other. Raises: what is wrong with it where there is a single pair."""
        for pair in self.pairs:
            try:
                yield self._measure(pair)
            except DuosoraError as error:
                if self.is_single:
                    raise
                yield PairScores(pair, problem=" ".join(str(error).split()))

    def _measure(self, pair: Pair) -> PairScores:
        if pair.problem:
            raise MediaError(pair.problem)
        assert pair.reference is not None
        assert pair.generated is not None
        reference, generated = self._open(pair.reference, self.config.every), self._open(pair.generated, every=1)
        shape = reference.shape
        _check_alike(reference, generated)
        values: dict[str, list[np.ndarray]] = {metric: [] for metric in self.metrics}
        identical = 0
        size = max(1, PIXELS_AT_A_TIME // (shape.height * shape.width))
        chunks = (clip.frames(self.config.reader, size) for clip in (reference, generated))
        number = -(-shape.frames // size)
        for expected, frames in progress(zip(*chunks, strict=True), pair.name, "chunk", number):
            identical += int((expected == frames).all(axis=(1, 2, 3)).sum())
            for metric in self.metrics:
                values[metric].append(self._values(metric, frames, expected))
        joined = {metric: np.concatenate(parts) for metric, parts in values.items()}
        return PairScores(pair, None, shape, identical, joined)

    def _values(self, metric: str, frames: np.ndarray, reference: np.ndarray) -> np.ndarray:
        if metric == "psnr":
            return finite_psnr(psnr(frames, reference))
        if metric == "ssim":
            return ssim(frames, reference)
        assert self.perceptual is not None
        return self.perceptual.distances(frames, reference)

    def _open(self, path: Path, every: int) -> Clip:
        whole = whole_clip(path, every, self.config.reader, self.config.media)
        frames = (not whole.is_image and self.config.frames) or whole.shape.frames
        if frames > whole.shape.frames:
            raise MediaError(f"{path}: has {whole.shape.frames} frames (every {every}), {frames} are asked for")
        height, width = self.config.height or whole.shape.height, self.config.width or whole.shape.width
        return replace(whole, shape=VideoShape(frames, height, width))


def prepare(reference: Path, generated: Path, config: EvaluateConfig) -> Evaluation:
    """The evaluation of two files or of two folders with clips of the same names; no clip is opened yet.

    Raises: MediaError when one of them is missing, is not of the other's kind or has no clip, or no clip of one folder
    has its like in the other; ConfigError when LPIPS is asked for without its folder; CheckpointError and LayoutError
    for what is in that folder.
    """
    metrics = _metrics(config)
    for place in (reference, generated):
        if not place.exists():
            raise MediaError(f"{place}: there is no such file or folder")
    if reference.is_dir() != generated.is_dir():
        raise MediaError(f"{reference} and {generated}: one is a file and one a folder; give two files or two folders")
    if reference.is_dir():
        pairs, others = find_pairs(reference, generated)
        if all(pair.problem for pair in pairs):
            raise MediaError(f"{reference} and {generated}: no clips to compare; {told_problems(pairs)}")
    else:
        pairs, others = [Pair(generated.name, reference, generated)], []
    perceptual = _load_lpips(config) if "lpips" in metrics else None
    return Evaluation(pairs, others, metrics, perceptual, config, is_single=not reference.is_dir())


def told_problems(of: Sequence[Pair | PairScores]) -> str:
    """The first problems of pairs, each behind its name."""
    told = [f"{each.name}: {each.problem}" for each in of if each.problem]
    return "; ".join(told[:SHOWN_OTHERS]) + (f"; and {len(told) - SHOWN_OTHERS} more" if told[SHOWN_OTHERS:] else "")


def find_pairs(reference: Path, generated: Path) -> tuple[list[Pair], list[Path]]:
    """The pairs of two folders and what is inside them, by path without the ending; and the files that are no clips.

    Where several have the same name, videos are compared with videos and pictures with pictures, and of these first
    those with the same ending. a.mov.mp4, as `reconstruct` calls its result beside one of a.mkv, belongs to a.mov. A
    clip that is on one side only, or twice on a side (a.mp4 and a.mkv, neither of which
    the other side has), makes a pair with a problem. Hidden files are no clips.
    Raises: MediaError when a folder holds no clip.
    """
    listed = [_list_clips(folder) for folder in (reference, generated)]
    first, second = (clips for clips, _ in listed)
    pairs = _pairs_by_full_name(reference, first, second)
    pairs += [pair for name in sorted({*first, *second}) for pair in _pairs(name, first[name], second[name])]
    return pairs, [path for _, others in listed for path in others]


def _pairs_by_full_name(folder: Path, reference: dict[str, list[Path]], generated: dict[str, list[Path]]) -> list[Pair]:
    """Take out the clips whose names without the ending are whole names of references, with these."""
    pairs = []
    for name in sorted(generated.keys() - reference.keys()):
        namesakes = reference.get(os.path.splitext(name)[0], [])
        if folder / name in namesakes:
            namesakes.remove(folder / name)
            pairs.append(_pair(name, [folder / name], generated.pop(name)))
    return pairs


def _pairs(name: str, reference: list[Path], generated: list[Path]) -> Iterator[Pair]:
    """The pair of one name, or those of the videos and of the pictures where there are both."""
    are_videos = {is_video(path) for path in (*reference, *generated)}
    if len(are_videos) == 1 or len(reference) == len(generated) == 1:
        yield from _pairs_of_a_kind(name, reference, generated)
        return
    for kind, wanted in (("video", True), ("picture", False)):
        first, second = ([path for path in side if is_video(path) == wanted] for side in (reference, generated))
        yield from _pairs_of_a_kind(f"{name} ({kind})", first, second)


def _pairs_of_a_kind(name: str, reference: list[Path], generated: list[Path]) -> Iterator[Pair]:
    """The pair of one name, or, where a side has several, those of the same ending and one of what is left."""
    sides = (reference, generated)
    is_plain = max(map(len, sides)) == 1
    shared = set() if is_plain else set.intersection(*({_ending(path) for path in side} for side in sides))
    for ending in sorted(shared):
        yield _pair(f"{name} ({ending})", *([path for path in side if _ending(path) == ending] for side in sides))
    left = [[path for path in side if _ending(path) not in shared] for side in sides]
    if any(left):
        yield _pair(name, *left)


def _ending(path: Path) -> str:
    return path.suffix.lower()


def _pair(name: str, reference: list[Path], generated: list[Path]) -> Pair:
    problem = None
    for files, side in ((reference, "reference"), (generated, "generated clip")):
        if not files:
            problem = f"there is no {side} of this name"
        elif len(files) > 1:
            problem = f"{' and '.join(path.name for path in files)} have the same name; keep one"
    return Pair(name, reference[0] if reference else None, generated[0] if generated else None, problem)


def _list_clips(folder: Path) -> tuple[defaultdict[str, list[Path]], list[Path]]:
    clips: defaultdict[str, list[Path]] = defaultdict(list)
    others = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") for part in inside.parts):
            continue
        if path.suffix.lower() in MEDIA_SUFFIXES:
            clips[inside.with_suffix("").as_posix()].append(path)
        else:
            others.append(path)
    if not clips:
        raise MediaError(f"{folder}: holds no video or picture ({', '.join(MEDIA_SUFFIXES)})")
    return clips, [path for path in others if not _is_report(path, folder, clips)]


def _is_report(path: Path, folder: Path, clips: Mapping[str, list[Path]]) -> bool:
    """Whether a file is what `sample` or `reconstruct` writes beside a clip."""
    return path.suffix == ".json" and path.relative_to(folder).with_suffix("").as_posix() in clips


def _check_alike(reference: Clip, generated: Clip) -> None:
    first, second = reference.shape, generated.shape
    between = f"{generated.path} and {reference.path}"
    if first.frames != second.frames:
        fewer = min(first.frames, second.frames)
        raise ShapeError(
            f"{between}: {second.frames} frames against {first.frames}; --set frames={fewer} compares the first {fewer}"
        )
    if first != second:
        raise ShapeError(
            f"{between}: {second.height}x{second.width} pixels against {first.height}x{first.width}; --set "
            f"height={second.height} --set width={second.width} brings both to one size"
        )


def _metrics(config: EvaluateConfig) -> tuple[str, ...]:
    if config.metrics is None:
        return ("psnr", "ssim", "lpips") if config.lpips else ("psnr", "ssim")
    if "lpips" in config.metrics and config.lpips is None:
        raise ConfigError(
            "metrics: lpips needs the folder of its weights, --lpips FOLDER; docs/evaluation.md says how to make it"
        )
    return tuple(dict.fromkeys(config.metrics))


def _load_lpips(config: EvaluateConfig) -> Perceptual:
    assert config.lpips is not None
    spec, weights = open_lpips(config.lpips)
    backend = backends.get(config.backend, config.device)
    return Perceptual(backend, backend.build(spec, weights), spec)
