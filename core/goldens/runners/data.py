"""Family `data`: choice of frames, order, caption cleaning, transforms and collation; no backend is involved.

Upstream draws with torch's and Python's generators, the product with its own streams: here the rules get upstream's
draws handed in, so that results are equal to the last index.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...config.data import DataSettings, UpstreamHabits
from ...data.annotations import record_of
from ...data.captions import clean_caption
from ...data.collate import collate
from ...data.order import upstream_order
from ...data.plan import is_rare
from ...data.records import Record
from ...data.selection import Unusable, choose_frames, clip_size, has_usual_proportions, usable_length
from ...data.transforms import Transform
from ...errors import ConfigError
from ...maths.resize import size_within_area, whole_strides
from ...shapes import Causal, Patch, VideoShape
from ..case import Case, Comparison, check_options
from ..tables import same
from ..torch_draws import TorchDraws

SELECTION_OPTIONS = (
    *("num_frames", "train_fps", "force_resolution", "max_height", "max_width", "max_hxw", "min_hxw", "hw_stride"),
    *("drop_short_ratio", "speed_factor", "sp_size", "total_batch_size"),
)
ORDER_OPTIONS = ("world_size", "batch_size", "group_data", "initial_global_step", "gradient_accumulation_size")
CAPTION_FORMS = ("list_chinese", "list_nochinese", "str_chinese", "str_nochinese")
TRANSFORM_OPTIONS = ("force_resolution_size", "max_hxw", "hw_stride")
COLLATE_OPTIONS = (
    *("train_batch_size", "group_data", "force_resolution", "num_frames", "max_height", "max_width"),
    *("ae_stride", "ae_stride_t", "patch_size", "patch_size_t"),
)
PYTHON_SEED, TORCH_SEED = 5, 42
COMPRESSION = Causal(4, 8)
HABITS = UpstreamHabits(
    always_29_frames=True,
    speed_up_unplanned=True,
    last_start_unused=True,
    captions_as_lists=True,
    size_before_crop=True,
    mixed_groups=True,
)


def run(case: Case, backend: object | None = None) -> Iterator[Comparison]:
    """Compute every result of a case of this family. Raises: ConfigError for a case of another kind."""
    symbol = str(case.raw["upstream"]["symbol"])
    for word, runner in _RUNNERS.items():
        if word in symbol:
            yield from runner(case)
            return
    raise ConfigError(f"{case.name}: {symbol} has no counterpart here; known are {', '.join(_RUNNERS)}")


class UpstreamDraws:
    """Draws as upstream makes them: torch's generator on the CPU and Python's."""

    def __init__(self) -> None:
        self._torch = TorchDraws(TORCH_SEED)
        self._python = random.Random(PYTHON_SEED)

    def short(self) -> float:
        """torch.rand(1) in float32: the low 24 bits."""
        return (self._torch.next() & 0xFFFFFF) * 2.0**-24

    def start(self, limit: int) -> int:
        return self._python.randint(0, limit)

    def permutation(self, count: int) -> list[int]:
        return self._torch.permutation(count)

    def below(self, count: int) -> int:
        return self._python.choice(range(count))


def _run_selection(case: Case) -> Iterator[Comparison]:
    for tag, config in case.config.items():
        check_options(config, f"{case.name}, {tag}", SELECTION_OPTIONS)
        chosen = _select(case.raw["annotations"], config)
        expected = case.raw["results"][tag]
        found = {
            "kept": [record.name for record, _, _ in chosen],
            "buckets": [f"{len(frames)}x{size[0]}x{size[1]}" for _, frames, size in chosen],
            "first_last_count": [[int(frames[0]), int(frames[-1]), len(frames)] for _, frames, _ in chosen],
            "sample_hw": [list(size) for _, _, size in chosen],
        }
        for name in (name for name in found if name in expected):
            yield same(f"results.{tag}.{name}", found[name], expected[name])
        if "example_indices" in expected:
            item = expected["example_indices"]["item"]
            indices: list[int] = next((frames.tolist() for record, frames, _ in chosen if record.name == item), [])
            yield same(f"results.{tag}.example_indices", indices, expected["example_indices"]["indices"])


def _select(rows: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> list[Any]:
    """(record, frames, size) of the rows that upstream's rules keep, in their order."""
    settings = _settings(config)
    sp_size, draws = config["sp_size"], UpstreamDraws()
    kept = []
    for number, row in enumerate(rows):
        record = record_of(row, Path(), f"record {number}")
        if not isinstance(record, Record) or not record.captions:
            continue
        try:
            size = clip_size(record, settings)
            kept.append((record, choose_frames(record, settings, COMPRESSION, sp_size, draws, True), size))
        except Unusable:
            continue
    counts = Counter((len(frames), size) for _, frames, size in kept)
    least = settings.min_bucket_batches
    return [entry for entry in kept if not is_rare(counts[len(entry[1]), entry[2]], config["total_batch_size"], least)]


def _settings(config: Mapping[str, Any]) -> DataSettings:
    is_forced = config["force_resolution"]
    return DataSettings(
        frames=config["num_frames"],
        fps=config["train_fps"],
        height=config["max_height"] if is_forced else None,
        width=config["max_width"] if is_forced else None,
        max_area=None if is_forced else config["max_hxw"],
        min_area=None if is_forced else config["min_hxw"],
        stride=config["hw_stride"],
        drop_short=config["drop_short_ratio"],
        speed_factor=config["speed_factor"],
        upstream=HABITS,
    )


def _run_order(case: Case) -> Iterator[Comparison]:
    lengths = case.raw["lengths"]
    for tag, config in case.config.items():
        check_options(config, f"{case.name}, {tag}", ORDER_OPTIONS)
        order = upstream_order(
            lengths, config["world_size"], config["batch_size"], UpstreamDraws(), config["group_data"]
        )
        skipped = config.get("initial_global_step", 0) * config.get("gradient_accumulation_size", 1)
        yield same(f"results.{tag}", order[skipped:].reshape(-1).tolist(), case.raw["results"][tag])


def _run_captions(case: Case) -> Iterator[Comparison]:
    for number, entry in enumerate(case.raw["results"]):
        check_options(entry, f"{case.name}, result {number}", ("in", *CAPTION_FORMS))
        for form in entry.keys() - {"in"}:
            as_list, keep_chinese = form.startswith("list"), form.endswith("_chinese")
            cleaned = clean_caption(entry["in"], keep_chinese, as_list)
            yield same(f"results.{number}.{form}", cleaned, entry[form])


def _run_transforms(case: Case) -> Iterator[Comparison]:
    for tag in case.tags():
        config = case.config[tag]
        check_options(config, f"{case.name}, {tag}", TRANSFORM_OPTIONS)
        frames = case.get(tag, "video_uint8").transpose(0, 2, 3, 1)
        for kind, size in (("force", tuple(config["force_resolution_size"])), ("maxhw", None)):
            for form, in_levels in (("float", False), ("uint8", True)):
                transform = Transform(size, config["max_hxw"], config["hw_stride"], in_levels)
                yield Comparison(f"{tag}.{kind}_{form}", transform(frames).transpose(1, 0, 2, 3))
    for *given, expected in case.raw.get("maxhwresize", ()):
        yield same(f"maxhwresize.{given}", list(size_within_area(*given)), expected)
    for height, width, stride, expected in case.raw.get("get_params_i_j_th_tw", ()):
        yield same(f"get_params.{height}x{width}.{stride}", list(whole_strides(height, width, stride)), expected)
    for frames, time, sp_size, expected in case.raw.get("find_closest_y", ()):
        length = usable_length(frames, Causal(time, 1), sp_size) or -1
        yield same(f"find_closest_y.{frames}.{time}.{sp_size}", length, expected)
    for height, width, expected in case.raw.get("filter_resolution", ()):
        yield same(f"filter_resolution.{height}x{width}", has_usual_proportions(height, width, 1.0), expected)


def _run_collate(case: Case) -> Iterator[Comparison]:
    config = case.config
    check_options(config, case.name, COLLATE_OPTIONS)
    clips = [case.tensors[name] for name, entry in case.raw["tensors"].items() if entry["role"] == "input"]
    compression = Causal(config["ae_stride_t"], config["ae_stride"])
    patch = Patch(config["patch_size_t"], config["patch_size"])
    box = None
    if not config["group_data"] and config["train_batch_size"] > 1:
        box = VideoShape(config["num_frames"], config["max_height"], config["max_width"])
    pixels, mask = collate(clips, compression, patch, box)
    yield Comparison("pixel_values", pixels)
    yield Comparison("attention_mask", np.ones(case.tensors["attention_mask"].shape) if mask is None else mask)


_RUNNERS: dict[str, Callable[[Case], Iterator[Comparison]]] = {
    "define_frame_index": _run_selection,
    "get_length_grouped_indices": _run_order,
    "text_preprocessing": _run_captions,
    "ResizeVideo": _run_transforms,
    "Collate": _run_collate,
}
"""By a word of the upstream symbol that made the case."""
