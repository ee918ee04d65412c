"""Sampling on several processes gives what one gives: the tokens, the halves of guidance, the prompts and the decoding
are shared, and each video is written once."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks

from duosora.core.config.loading import load
from duosora.core.config.schema import SampleConfig, SamplingParallelSettings
from duosora.core.errors import ConfigError
from duosora.core.io.images import write_image
from duosora.core.io.video import read_video
from duosora.core.io.weights import open_weights
from duosora.core.pipelines.sample import Sampling
from duosora.core.pipelines.sample_files import SampleFiles

pytestmark = pytest.mark.processes
CONFIG = Path(__file__).parents[2] / "configs/sample/tiny.yaml"
PROMPTS = ("a red circle moves right", "a star", "a big blue bar on a pink background")
FAST = ("sampler.steps=3", "video.frames=13", "video.height=48", "video.width=80")
KEPT = ("output.save_latents=true", "output.crf=0")
TOLERANCE = 1e-5
"""Of the latents' range."""


def settings(backend: str, out: Path, prompts: tuple[str, ...], more: tuple[str, ...] = ()) -> list[str]:
    named = (f"backend.name={backend}", f"output.folder={out}", f"prompts.sources={json.dumps(prompts)}")
    return [*FAST, *KEPT, *named, *more]


def on_one(backend: str, out: Path, prompts: tuple[str, ...], more: tuple[str, ...] = ()) -> None:
    assert list(SampleFiles(Sampling(load(CONFIG, SampleConfig, settings(backend, out, prompts, more)))).run())


def on_many(backend: str, world: int, out: Path, prompts: tuple[str, ...], *parallel: str) -> list[str]:
    options = [part for each in settings(backend, out, prompts, parallel) for part in ("--set", each)]
    return ranks.run("cli.py", backend, world, "sample", "--config", CONFIG, *options)


def difference(one: Path, many: Path) -> float:
    """The largest between the latents of two folders, which hold the same files, as a part of their range; frames are
    compared too."""
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in many.iterdir())
    largest = 0.0
    for path in one.glob("*.safetensors"):
        ours, theirs = open_weights(path)["latents"], open_weights(many / path.name)["latents"]
        largest = max(largest, float(np.abs(ours - theirs).max() / np.ptp(ours)))
        frames = [read_video(folder / f"{path.stem}.mp4")[0].astype(int) for folder in (one, many)]
        assert np.abs(frames[0] - frames[1]).max() <= 3  # one level, in chroma of half size
    return largest


@pytest.fixture(scope="session")
def alone(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what one process makes of all prompts, with the threads of a rank: sums follow their number."""
    folder = tmp_path_factory.mktemp(name)
    on_many(name, 1, folder, PROMPTS)
    return folder


def test_prompts_spread_unevenly_over_processes(name: str, alone: Path, tmp_path: Path) -> None:
    said = on_many(name, 2, tmp_path, PROMPTS)
    assert "processes  2 = data 2 x cfg 1 x sequence 1" in said[0]
    assert "processes" not in said[1]
    assert difference(alone, tmp_path) == 0


def test_halves_of_guidance_and_tokens_are_shared(name: str, alone: Path, tmp_path: Path) -> None:
    on_many(name, 4, tmp_path, PROMPTS, "parallel.cfg=true", "parallel.sequence=2")
    assert difference(alone, tmp_path) <= TOLERANCE
    sidecar = next(iter(tmp_path.glob("*.json")))
    assert json.loads(sidecar.read_text())["config"]["parallel"] == SamplingParallelSettings().model_dump()


@pytest.mark.parametrize("kind", ["first_block", "teacache"])
def test_ranks_leave_out_the_same_blocks_as_one_does(name: str, kind: str, tmp_path: Path) -> None:
    cached = ("sampler.steps=8", f"sampler.cache={{kind: {kind}, threshold: 0.3, warmup: 2}}")
    one = tmp_path / "one"
    on_many(name, 1, one, PROMPTS[:1], *cached)
    expected = left_out(one)
    assert expected["blocks"] < expected["blocks_without"]
    for split in ("parallel.sequence=2", "parallel.cfg=true"):
        many = tmp_path / split
        on_many(name, 2, many, PROMPTS[:1], *cached, split)
        found = left_out(many)
        assert found["calls"] == expected["calls"], split
        for change, value in expected["changes"].items():
            assert found["changes"][change] == pytest.approx(value, rel=1e-4)
        assert difference(one, many) <= TOLERANCE


def left_out(folder: Path) -> dict[str, Any]:
    """What the sidecar of a folder's only video says of the cache."""
    (sidecar,) = folder.glob("*.json")
    found: dict[str, Any] = json.loads(sidecar.read_text())["cache"]
    return found


def test_a_model_that_reads_masks_and_a_null_caption_is_shared(name: str, tmp_path: Path) -> None:
    """Odd tokens within a frame, texts of unequal length, a clean frame, a clip that goes on from another."""
    write_image(tmp_path / "dog.png", np.full((20, 30, 3), 90, np.uint8))
    more = (
        *("model.denoiser=stdit3_tiny", "model.text_encoder=tiny", "model.vae=opensora_vae_tiny", "sampler.steps=2"),
        *("video.frames=34", "video.height=24", "video.width=40", "loop.count=2", "output.save_latents=true"),
        f"condition.images=[{tmp_path / 'dog.png'}]",
    )
    asked = ("a red circle moves right", "a star")
    named = (f"backend.name={name}", f"prompts.sources={json.dumps(asked)}", "output.crf=0", *more)
    one, many = (f"output.folder={tmp_path / folder}" for folder in ("one", "many"))
    assert list(SampleFiles(Sampling(load(None, SampleConfig, [*named, one]))).run())
    options = [*named, many, "parallel.cfg=true", "parallel.sequence=2"]
    ranks.run("cli.py", name, 4, "sample", *(part for each in options for part in ("--set", each)))
    assert difference(tmp_path / "one", tmp_path / "many") <= TOLERANCE


def test_what_stands_in_the_way_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "a-star_42.mp4").touch()
    options = [part for each in settings("torch", tmp_path, ("a ring", "a star")) for part in ("--set", each)]
    with ranks.started("cli.py", "torch", 2, "sample", "--config", CONFIG, *options) as processes:
        said = [process.communicate(timeout=ranks.SECONDS)[0] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    assert "".join(said).count("a-star_42.mp4: exists already and is kept") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a-star_42.mp4"]


def test_processes_that_the_sequence_does_not_divide_are_refused(tmp_path: Path) -> None:
    config = load(CONFIG, SampleConfig, settings("torch", tmp_path, ("a star",), ("sampler.guidance=1",)))
    config = config.model_copy(update={"parallel": config.parallel.model_copy(update={"sequence": 2})})
    with pytest.raises(ConfigError, match="does not divide 1 processes; parallel.sequence works with 1"):
        SampleFiles(Sampling(config))


ROUNDING = 2e-5
"""Between a clip in one piece and in chunks, of its range; on one process too."""
STREAMED, ALL = ("whole", "chunks of 2"), ("whole", "chunks of 2", "tiles")
CLIPS = [("linear", frames, ALL if frames in (1, 5, 17) else STREAMED) for frames in (17, 1, 2, 3, 4, 5, 8)]
CLIPS += [("nearest", 9, ALL), ("8x8x8", 9, ALL), ("groupnorm", 5, ("whole",)), ("groups", 7, ("whole",))]
"""Too short for two ranks; one chunk each, equal and uneven; several rounds of them. The longest are first compared."""


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_decode_a_clip_together(name: str, world: int) -> None:
    lines = ranks.run("decode.py", name, world, json.dumps(CLIPS))[0].splitlines()
    (said,) = (json.loads(line.removeprefix("found ")) for line in lines if line.startswith("found "))
    assert [clip for clip, is_exact in said["exact"].items() if not is_exact] == []
    far = {clip: value for clip, value in said["differences"].items() if value > ROUNDING}
    assert not far
    assert len(said["exact"]) == 9 * 2 + 2
    assert len(said["differences"]) == 9 * 2 + 5 + 2
    assert said["sent"] > 0
