"""Family `cond`: sizes, prompts, references, buckets, frame masks and transforms of Open-Sora 1.2; no backend is
involved.

Where upstream is wrong and no result depends on it, the right behaviour is compared: see `_sizes`. Upstream draws with
Python's, numpy's and torch's generators; here the rules get the same draws.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from ...bucketing.order import batch_order
from ...bucketing.size_table import even_size
from ...bucketing.table import BucketTable
from ...conditioning import mask_strategy
from ...conditioning.clip_facts import clip_facts
from ...conditioning.prompt_parts import Segments
from ...data.frame_masks import FrameMasks
from ...data.frame_window import frame_window
from ...errors import ConfigError
from ...maths.cover import centre_picture, centre_video, cover_picture, cover_video
from ...recipes import opensora_v1_2_prompts as prompts
from ...recipes.opensora_v1_2_sizes import RATIOS, SIZES
from ...shapes import Grouped, VideoShape
from ...train.ema import EmaSchedule
from ...train.learning_rate import LearningRate
from ..case import Case, Comparison
from ..tables import answers, same
from ..torch_draws import TorchDraws

GROUPS = Grouped(17, 4, 8)
INPUTS = ".+/video"


def run(case: Case, backend: object | None = None) -> Iterator[Comparison]:
    """Compute every result of a case of this family. Raises: ConfigError for a case of another kind."""
    for key, runner in _RUNNERS.items():
        if key in case.raw:
            yield from runner(case)
            return
    raise ConfigError(f"{case.name}: expected a table with one of the keys {', '.join(_RUNNERS)}")


def _sizes(case: Case) -> Iterator[Comparison]:
    raw = case.raw
    yield same("aspect_ratio_map", RATIOS, raw["aspect_ratio_map"])
    for name, entry in raw["resolutions"].items():
        resolution = SIZES.resolution(name)
        found = {"pixels": resolution.pixels, "hw": {key: list(size) for key, size in resolution.sizes.items()}}
        yield same(f"resolutions.{name}", found, entry)
    yield same("num_frames_map", SIZES.lengths, raw["num_frames_map"])
    for number, row in enumerate(raw["get_num_frames"]):
        yield answers(f"get_num_frames.{number}", row["out"], SIZES.frames, row["inp"])
    for number, row in enumerate(raw["get_image_size"]):
        name, ratio = row["resolution"], row["aspect_ratio"]
        if "raises" in row["out"] and float(RATIOS[ratio]) in map(float, SIZES.resolution(name).sizes):
            continue  # upstream looks up the text "1.00" in a table that has "1.0" (quirk Q13)
        yield answers(f"get_image_size.{number}", row["out"], _size, name, ratio)
    for number, row in enumerate(raw["get_closest_ratio"]):
        nearest = SIZES.nearest_ratio(row["resolution"], row["height"], row["width"])
        yield same(f"get_closest_ratio.{number}", nearest, row["out"])
    for number, row in enumerate(raw["get_h_w"]):
        yield same(f"get_h_w.{number}", list(even_size(row["ar"], row["area"])), row["out"])
    for number, row in enumerate(raw["prepare_multi_resolution_info"]):
        yield answers(f"prepare_multi_resolution_info.{number}", row["out"], _facts, row, np.float32)
    example = raw["bf16_rounding_example"]
    row = {"info_type": "OpenSora", "batch_size": 1} | example["inputs"]
    yield same("bf16_rounding_example", _facts(row, ml_dtypes.bfloat16), example["out"])


def _size(resolution: str, ratio: str) -> list[int]:
    return list(SIZES.size(resolution, ratio))


def _facts(row: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
    """In the form of each of upstream's models. Raises: ConfigError for a form it does not have."""
    facts = clip_facts(VideoShape(row["num_frames"], *row["image_size"]), row["fps"], row["batch_size"])
    told = {"ar" if name == "ratio" else name: values.astype(dtype) for name, values in facts.items()}
    forms: dict[str | None, dict[str, np.ndarray]] = {
        None: {},
        "STDiT2": told,
        "OpenSora": told,
        "PixArtMS": {"ar": told["ar"][:, None], "hw": np.stack([told["height"], told["width"]], 1)},
    }
    if row["info_type"] not in forms:
        raise ConfigError(f"info_type = {row['info_type']!r}: expected one of {', '.join(map(str, forms))}")
    return {name: values.astype(np.float64).tolist() for name, values in forms[row["info_type"]].items()}


def _prompts(case: Case) -> Iterator[Comparison]:
    raw = case.raw
    for number, row in enumerate(raw["append_score_to_prompts"]):
        scores = prompts.PromptScores(row["aes"], row["flow"], row["camera_motion"])
        yield same(f"append_score_to_prompts.{number}", [scores.behind(text) for text in row["prompts"]], row["out"])
    for number, row in enumerate(raw["split_prompt"]):
        yield answers(f"split_prompt.{number}", row["out"], _split, row["inp"])
    for number, row in enumerate(raw["merge_prompt"]):
        merged = Segments(tuple(row["text_list"]), tuple(row["loop_idx_list"] or ()))
        yield same(f"merge_prompt.{number}", str(merged), row["out"])
    for number, row in enumerate(raw["extract_prompts_loop"]):
        # Upstream keeps spaces around segments here, which it has stripped off before (quirk Q22).
        expected = [text.strip() for text in row["out"]] if isinstance(row["out"], list) else row["out"]
        yield answers(f"extract_prompts_loop.{number}", expected, _of_loop, row)
    for number, row in enumerate(raw["extract_json_from_prompts"]):
        yield answers(f"extract_json_from_prompts.{number}", row["out"], _described, row)


def _split(text: str) -> list[Any]:
    found = prompts.segments(text)
    return [list(found.texts), list(found.starts) or None]


def _of_loop(row: Mapping[str, Any]) -> list[str]:
    return [prompts.segments(text).at(row["loop"]) for text in row["prompts"]]


def _described(row: Mapping[str, Any]) -> dict[str, Any]:
    found = prompts.describe(row["prompt"], row["reference"], row["mask_strategy"])
    return {
        "prompts": [found.text],
        "reference": [";".join(found.references)],
        "mask_strategy": [found.mask_strategy],
    }


def _references(case: Case) -> Iterator[Comparison]:
    raw = case.raw
    for number, row in enumerate(raw["parse_mask_strategy"]):
        yield answers(f"parse_mask_strategy.{number}", row["out"], _entries, row["inp"])
    for number, row in enumerate(raw["find_nearest_point"]):
        point = mask_strategy.aligned(row["value"], row["point"], row["max_value"])
        yield same(f"find_nearest_point.{number}", point, row["out"])
    for number, row in enumerate(raw["dframe_to_frame"]):
        yield answers(f"dframe_to_frame.{number}", row["out"], GROUPS.whole_groups, row["inp"])
    for number, row in enumerate(raw["apply_mask_strategy"]["rows"]):
        mask = row["mask"]
        expected = mask if "raises" in mask else [row["z_codes"], np.array(mask, np.float32).tolist()]
        yield answers(f"apply_mask_strategy.{number}", expected, _placed, row)
    for number, row in enumerate(raw["append_generated"]):
        counts = [len(refs) for refs in row["refs"]]
        length, edit = row["condition_frame_length"], row["condition_frame_edit"]
        found = [
            mask_strategy.carry_over(strategy, row["loop_i"], count, length, edit)
            for strategy, count in zip(row["mask_strategy"], counts, strict=True)
        ]
        yield same(f"append_generated.{number}", found, row["out_mask_strategy"])


def _entries(strategy: str | None) -> list[list[Any]]:
    return [list(entry) for entry in mask_strategy.parse(strategy)]


def _placed(row: Mapping[str, Any]) -> list[Any]:
    codes, masks = [], []
    for sample, (strategy, lengths) in enumerate(zip(row["mask_strategy"], row["ref_lengths"], strict=True)):
        latents = -(np.arange(row["T"], dtype=np.float64) + 1 + 1000 * sample)
        given = [100.0 * (j + 1) + np.arange(length) for j, length in enumerate(lengths)]
        placed = mask_strategy.place(
            _as_latents(latents),
            [_as_latents(frames) for frames in given],
            mask_strategy.parse(strategy),
            row["loop_i"],
            row["align"],
        )
        codes.append(placed.latents.reshape(-1).astype(int).tolist())
        masks.append(placed.strength.tolist())
    return [codes, masks]


def _as_latents(codes: np.ndarray) -> np.ndarray:
    return codes.reshape(1, -1, 1, 1)


def _buckets(case: Case) -> Iterator[Comparison]:
    tables = {name: BucketTable(config, SIZES, name) for name, config in case.raw["configs"].items()}
    for name, order in case.raw["order"].items():
        table = tables[name]
        yield same(f"{name}.num_bucket", len(table.buckets), order["num_bucket"])
        scanned = [[resolution, list(row)] for resolution, row in table.entries.items()]
        yield same(f"{name}.scan_order", scanned, order["scan_order"])
    for number, row in enumerate(case.raw["rows"]):
        table = tables[row["cfg"]]
        bucket = table.assign(row["T"], row["H"], row["W"], row["seed"], row["frame_interval"])
        yield same(f"rows.{number}", bucket and list(bucket), row["out"])
        if bucket is not None:
            yield same(f"rows.{number}.thw", list(table.video(bucket)), row["thw"])
            yield same(f"rows.{number}.batch_size", table.batch_size(bucket), row["batch_size"])


def _sampler(case: Case) -> Iterator[Comparison]:
    table = BucketTable(case.raw["bucket_config"], SIZES)
    for number, row in enumerate(case.raw["runs"]):
        frames, heights, widths, samples = np.array(case.raw["data"]).T
        numbers = table.assign_all(frames, heights, widths, table.seeds_of(samples, row["seed"], row["epoch"]))
        buckets = [None if number < 0 else table.buckets[number] for number in numbers]
        draws = TorchDraws(row["seed"] + row["epoch"])
        steps = batch_order(
            buckets,
            table.batch_size,
            row["world_size"],
            draws.permutation if row["shuffle"] else None,
            row["drop_last"],
            is_upstream=True,
        )
        found = [
            ["-".join(map(str, (sample, *table.video(batch.bucket)))) for sample in batch.samples]  # type: ignore[arg-type]
            for step in steps[row["resume_after_steps"] :]
            for batch in step
        ]
        by_rank = [found[rank :: row["world_size"]] for rank in range(row["world_size"])]
        yield same(f"runs.{number}", by_rank, row["batches"])


def _masks(case: Case) -> Iterator[Comparison]:
    for number, row in enumerate(case.raw["single"]):
        draw = random.Random(row["python_random_seed"])
        mask = FrameMasks({row["mask_name"]: 1.0}).draw(row["latent_T"], draw, _uniforms(row))
        yield same(f"single.{number}", mask.astype(int).tolist(), row["mask"])
    masks = FrameMasks(case.raw["stage3_ratios"])
    for number, row in enumerate(case.raw["stage3_mix"]):
        mask = masks.draw(row["latent_T"], random.Random(row["python_random_seed"]), _uniforms(row))
        yield same(f"stage3_mix.{number}", mask.astype(int).tolist(), row["mask"])


def _uniforms(row: Mapping[str, Any]) -> Callable[[int], np.ndarray]:
    """The recorded draws of torch."""
    return lambda count: np.array(row["torch_rand"], np.float32).reshape(count)


def _helpers(case: Case) -> Iterator[Comparison]:
    for number, row in enumerate(case.raw["linear_warmup"]):
        rates = LearningRate(peak=row["base_lr"], warmup_steps=row["warmup_steps"], starts_above_zero=True)
        expected = row["lr_used_at_step"]
        found = np.array([rates.at(step) for step in range(len(expected))])
        yield Comparison(f"linear_warmup.{number}", found, expected=np.array(expected))
    ema = case.raw["ema"]
    decays, shadow = EmaSchedule(decay=ema["decay"], warms_up=False), np.array(ema["start"], np.float32)
    for update, expected in enumerate(ema["after"], 1):
        decay = decays.at(update)
        shadow = np.float32(decay) * shadow + np.float32(1 - decay) * np.array(ema["model"], np.float32)
        yield Comparison(f"ema.{update}", shadow, expected=np.array(expected))
    for number, row in enumerate(case.raw["temporal_random_crop"]["rows"]):
        yield answers(f"temporal_random_crop.{number}", row["out"], _window, row)


def _window(row: Mapping[str, Any]) -> list[int]:
    below = random.Random(row["python_random_seed"]).randint
    return frame_window(row["total_frames"], row["num_frames"], row["frame_interval"], below).tolist()


def _transforms(case: Case) -> Iterator[Comparison]:
    for row in case.raw["rows"]:
        tag, (height, width) = row["case"], row["target"]
        frames = case.get(tag, "video").transpose(0, 2, 3, 1)
        results = {
            "video_out": cover_video(frames, height, width).transpose(0, 3, 1, 2),
            "image_out": cover_picture(frames[0], height, width).transpose(2, 0, 1) / 255,
        }
        if height == width:
            results |= {
                "video_center": centre_video(frames, height).transpose(0, 3, 1, 2),
                "image_center": centre_picture(frames[0], height).transpose(2, 0, 1) / 255,
            }
        yield from (Comparison(f"{tag}/{name}", 2 * found - 1) for name, found in results.items())


_RUNNERS: dict[str, Callable[[Case], Iterator[Comparison]]] = {
    "get_image_size": _sizes,
    "append_score_to_prompts": _prompts,
    "parse_mask_strategy": _references,
    "configs": _buckets,
    "runs": _sampler,
    "stage3_mix": _masks,
    "linear_warmup": _helpers,
    "rows": _transforms,
}
"""By a key that only one table has."""
