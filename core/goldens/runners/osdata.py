"""Family `osdata`: captions and camera motions as the data tools of Open-Sora 1.2 make them; no backend is involved."""

from __future__ import annotations

import random
from collections.abc import Iterator

from ...data.camera_motion import motion_of_clip, motion_of_pair
from ...data.caption_tools import with_camera_motion, with_scores, without_prefix
from ..case import Case, Comparison
from ..tables import answers, same


def run(case: Case, backend: object | None = None) -> Iterator[Comparison]:
    """Compute every result of the family's one table."""
    raw = case.raw
    for number, row in enumerate(raw["remove_caption_prefix"]):
        yield same(f"remove_caption_prefix.{number}", without_prefix(row["inp"]), row["out"])
    for number, row in enumerate(raw["merge_cmotion"]):
        given = row["caption"], row["cmotion"]
        yield answers(f"merge_cmotion.{number}", row["out"], with_camera_motion, *given)
    for number, row in enumerate(raw["score_to_text"]):
        scored, uniform = row["row"], random.Random(row["python_random_seed"]).random
        found = with_scores(scored["text"], scored.get("aes"), scored.get("flow"), uniform)
        yield same(f"score_to_text.{number}", found, row["out"])
    for number, row in enumerate(raw["camera_get_type"]):
        yield same(f"camera_get_type.{number}", motion_of_pair(row["mag"], row["ang"], row["zoom_in"]), row["out"])
    for number, row in enumerate(raw["camera_get_video_type"]):
        yield same(f"camera_get_video_type.{number}", motion_of_clip(row["inp"]), row["out"])
