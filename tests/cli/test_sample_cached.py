"""`duosora sample` with sampler.cache: each video for itself, told in its sidecar, compared with the plain one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duosora.core.io.weights import open_weights

SMALL = ("model.denoiser=tiny", "sampler.steps=8", "video.frames=1", "output.save_latents=true")
CACHE = ("sampler.cache.kind=first_block", "sampler.cache.threshold=0.4", "sampler.cache.warmup=1")
PROMPTS = ("a big red ring moves up on a black background", "a small blue bar moves left on a gray background")


def given(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def sampled(duosora: Callable, folder: Path, *prompts: str, more: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """What the sidecars say, by prompts, with the latents and what was printed."""
    outcome = duosora("sample", *prompts, *given(*SMALL), *more, "--out", folder)
    assert outcome.code == 0, outcome.err
    told = {}
    for sidecar in folder.glob("*.json"):
        said = json.loads(sidecar.read_text())
        reader = open_weights(sidecar.with_suffix(".safetensors"))
        told[said["prompt"]] = said | {"latents": reader[next(iter(reader))], "printed": outcome.out}
    return told


@pytest.mark.slow
def test_each_video_is_what_it_is_alone(duosora: Callable, tmp_path: Path) -> None:
    """Nothing is kept from one run of the sampler to the next."""
    together = sampled(duosora, tmp_path / "both", *PROMPTS, more=(*given(*CACHE), "--compare"))
    (alone,) = sampled(duosora, tmp_path / "alone", PROMPTS[1], more=tuple(given(*CACHE))).values()
    ours = together[PROMPTS[1]]
    assert ours["latents"].tobytes() == alone["latents"].tobytes()
    assert ours["cache"]["calls"] == alone["cache"]["calls"]
    assert "psnr" not in alone["cache"]
    for each in together.values():
        calls = each["cache"]["calls"]
        assert calls[0] == "x"
        assert each["cache"]["blocks"] == sum(6 if call == "x" else 1 for call in calls) < 48
        assert each["cache"]["blocks_without"] == 48
        assert 10 < each["cache"]["psnr"] < 60
    blocks = sum(each["cache"]["blocks"] for each in together.values())
    assert f"{blocks} of 96 block evaluations, {96 / blocks:.2f} times fewer" in ours["printed"]
    assert "dB to the videos without it" in ours["printed"]


@pytest.mark.slow
@pytest.mark.parametrize("off", ["threshold=0", "warmup=8"])
def test_a_cache_that_leaves_out_nothing_says_so_and_changes_nothing(
    off: str, duosora: Callable, tmp_path: Path
) -> None:
    (plain,) = sampled(duosora, tmp_path / "plain", PROMPTS[0]).values()
    options = (CACHE[0], f"sampler.cache.{off}")
    (ours,) = sampled(duosora, tmp_path / "off", PROMPTS[0], more=tuple(given(*options))).values()
    np.testing.assert_array_equal(ours["latents"], plain["latents"])
    assert "all 8 network calls are computed" in ours["printed"]
    assert "cache" not in plain


WRONG = [
    (("kind=taylor", "threshold=0.1"), "sampler.cache.threshold"),
    (("kind=teacache", "interval=2"), "sampler.cache.interval"),
    (("kind=first_block", "threshold=-1"), "sampler.cache.threshold"),
    (("kind=nothing",), "sampler.cache.kind"),
]


@pytest.mark.parametrize(("options", "told"), WRONG)
def test_options_that_make_no_sense_are_refused(
    options: tuple[str, ...], told: str, duosora: Callable, tmp_path: Path
) -> None:
    settings = given(*SMALL, *(f"sampler.cache.{each}" for each in options))
    assert_refused(duosora("sample", PROMPTS[0], *settings, "--out", tmp_path / "out"), told, tmp_path)


def assert_refused(outcome: Any, told: str, folder: Path) -> None:
    assert outcome.code == 2
    assert told in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (folder / "out").exists()
