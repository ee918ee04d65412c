"""Caches on disk: resumable, told apart by what they were made from, the same bytes however often interrupted."""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from duosora.core.data.cache import CacheReader, CacheWriter, check_identity, fill
from duosora.core.data.embedding_folder import EmbeddingFolder
from duosora.core.data.fingerprints import file_fingerprint, model_fingerprint, text_fingerprint
from duosora.core.data.latent_cache import CachedClip, LatentCache, find_uncached, write_latent_cache
from duosora.core.data.text_cache import TextCache, text_identity, uncached_captions, write_text_cache
from duosora.core.errors import CheckpointError, MediaError, NumericsError
from duosora.core.io.tokenizer import Tokenizer
from duosora.core.io.weights import save_weights
from duosora.core.layout import Constant, FreshWeights
from duosora.core.models.finding import TINY_FOLDER, Part, open_part, recognise
from duosora.core.seam.ranks import ParallelPlan, Ranks

sys.path.append(str(Path(__file__).parent))
from thread_ranks import run

IDENTITY = {"kind": "text states", "model": "a" * 64, "max_tokens": 16}


def tensor(number: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal((1 + number % 5, 8)).astype(np.float32)


def key(number: int) -> str:
    return text_fingerprint(str(number))


def write(folder: Path, numbers: range, shard_bytes: int = 1000, dtype: str = "fp32", **identity: Any) -> CacheWriter:
    writer = CacheWriter(folder, IDENTITY | identity, dtype, shard_bytes)
    for number in numbers:
        if key(number) not in writer:
            writer.add(key(number), tensor(number), str(number))
    return writer


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_was_added_is_found_again(tmp_path: Path) -> None:
    write(tmp_path, range(50)).close()
    reader = CacheReader(tmp_path)
    assert len(reader) == 50
    assert len(reader.index.shards) > 3
    for number in range(50):
        found = reader.find(key(number))
        assert found is not None
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, tensor(number))
    assert reader.find(key(50)) is None


def test_an_empty_cache_finds_nothing(tmp_path: Path) -> None:
    write(tmp_path, range(0)).close()
    assert CacheReader(tmp_path).find(key(0)) is None


@pytest.mark.parametrize(("dtype", "stored"), [("bf16", ml_dtypes.bfloat16), ("fp16", np.float16)])
def test_half_precision_is_rounded_once(tmp_path: Path, dtype: str, stored: Any) -> None:
    write(tmp_path, range(3), dtype=dtype).close()
    found = CacheReader(tmp_path).find(key(1))
    np.testing.assert_array_equal(found, tensor(1).astype(stored).astype(np.float32))


def test_what_the_dtype_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NumericsError, match=r"one\.mp4: gives NaN or infinity as float16"):
        CacheWriter(tmp_path, IDENTITY, "fp16").add(key(0), np.full((1, 8), 1e5, np.float32), "one.mp4")


def test_shards_are_bounded(tmp_path: Path) -> None:
    write(tmp_path, range(50), shard_bytes=1000).close()
    assert max(path.stat().st_size for path in tmp_path.glob("*.safetensors")) < 1000 + 160 + 2000
    writer = CacheWriter(tmp_path / "few", IDENTITY, shard_tensors=2)
    for number in range(5):
        writer.add(key(number), tensor(number), "")
    writer.close()
    assert list(CacheReader(tmp_path / "few").index.shards.values()) == [2, 2, 1]


@pytest.mark.parametrize("stop", [1, 7, 20, 49])
def test_an_interrupted_writer_goes_on_and_ends_in_the_same_bytes(tmp_path: Path, stop: int) -> None:
    write(tmp_path / "straight", range(50)).close()
    write(tmp_path / "stopped", range(stop))
    resumed = write(tmp_path / "stopped", range(50))
    resumed.close()
    assert contents(tmp_path / "stopped") == contents(tmp_path / "straight")


def test_finished_shards_are_not_computed_again(tmp_path: Path) -> None:
    write(tmp_path, range(20))
    before = CacheWriter(tmp_path, IDENTITY, shard_bytes=1000)
    assert 0 < len(before) < 20
    assert all((key(number) in before) == (number < len(before)) for number in range(20))


KILLED = """
    import os, signal, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[3])
    import duosora.core.io.files as files
    from test_caches import write
    moments, real = int(sys.argv[2]), {name: getattr(Path, name) for name in ("replace", "write_text")}
    def dying(name):
        def call(*arguments, **options):
            global moments
            moments -= 1
            if moments == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real[name](*arguments, **options)
        return call
    for name in real:
        setattr(Path, name, dying(name))
    write(Path(sys.argv[1]), range(12), 300).close()
"""


@pytest.mark.slow
def test_kill_9_at_any_write_leaves_a_cache_that_goes_on(tmp_path: Path) -> None:
    """The process is killed before every rename and every index in turn, until one lives to the end."""
    write(tmp_path / "straight", range(12), 300).close()
    for moment in range(1, 100):
        folder = tmp_path / str(moment)
        run = [sys.executable, "-c", textwrap.dedent(KILLED), str(folder), str(moment), str(Path(__file__).parent)]
        ended = subprocess.run(run, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False).returncode
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        with pytest.raises(CheckpointError):
            CacheReader(folder)
        write(folder, range(12), 300).close()
        assert contents(folder) == contents(tmp_path / "straight")
    assert moment > 5


def test_several_writers_fill_a_cache_together_and_go_on_where_they_were_ended(tmp_path: Path) -> None:
    """Two ranks, of which the second was ended earlier; then one alone, which adds what is new."""

    def fill_share(numbers: range, stop: int) -> Callable[[Ranks], object]:
        def work(ranks: Ranks) -> None:
            group = ranks.world
            writer = CacheWriter(tmp_path, IDENTITY, shard_bytes=300, writer=group.index, writers=group.size)
            to_do = [number for number in numbers if key(number) not in writer]

            def add_all() -> None:
                for number in to_do[group.index :: group.size]:
                    if group.index and number > stop:
                        raise CheckpointError("the disk is full")
                    writer.add(key(number), tensor(number), str(number))

            fill(writer, add_all, group)

        return work

    ended = run(ParallelPlan(data=2), fill_share(range(20), stop=11))
    assert [str(error) for error in ended] == ["the disk is full"] * 2
    with pytest.raises(CheckpointError, match="is not finished"):
        CacheReader(tmp_path)
    assert run(ParallelPlan(data=2), fill_share(range(20), stop=99)) == [None, None]
    write(tmp_path, range(23), 300).close()
    reader = CacheReader(tmp_path)
    assert len(reader) == sum(reader.index.shards.values()) == 23
    for number in range(23):
        np.testing.assert_array_equal(reader.find(key(number)), tensor(number))


def test_notes_stay_beside_their_tensors(tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path, IDENTITY, shard_tensors=2)
    for number in range(5):
        writer.add(key(number), tensor(number), "", {"label": number} if number else None)
    writer.close()
    assert dict(CacheReader(tmp_path).notes()) == {key(number): {"label": number} for number in range(1, 5)}


def test_looking_at_a_cache_writes_nothing_and_a_folder_that_cannot_be_written_is_named_first(tmp_path: Path) -> None:
    assert key(0) not in CacheWriter(tmp_path / "new", IDENTITY)
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        CacheWriter(tmp_path / "file", IDENTITY).begin()


def test_an_unfinished_cache_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, range(20))
    with pytest.raises(CheckpointError, match="the cache is not finished"):
        CacheReader(tmp_path)


def test_a_finished_cache_grows(tmp_path: Path) -> None:
    write(tmp_path, range(10)).close()
    write(tmp_path, range(15)).close()
    reader = CacheReader(tmp_path)
    assert len(reader) == 15
    assert all(reader.find(key(number)) is not None for number in range(15))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"max_tokens": 32}, "was made with max_tokens = 16, here it is 32"),
        ({"model": "b" * 64}, "was made with model = aaaaaaaaaaaa..., here it is bbbbbbbbbbbb..."),
        ({"frames": 93}, "was made with frames = nothing, here it is 93"),
    ],
)
def test_another_identity_is_refused(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    write(tmp_path, range(3)).close()
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        CacheWriter(tmp_path, IDENTITY | changed)
    with pytest.raises(CheckpointError, match=words):
        check_identity(tmp_path, CacheReader(tmp_path).index.identity, IDENTITY | changed)
    assert contents(tmp_path) == before


def test_another_dtype_is_refused(tmp_path: Path) -> None:
    write(tmp_path, range(3)).close()
    with pytest.raises(CheckpointError, match="was made with stored as = fp32, here it is bf16"):
        CacheWriter(tmp_path, IDENTITY, "bf16")


def test_damage_is_named(tmp_path: Path) -> None:
    write(tmp_path, range(20)).close()
    shard = tmp_path / "shard-00001.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-5])
    with pytest.raises(CheckpointError, match=r"shard-00001\.safetensors: is cut off"):
        CacheReader(tmp_path)
    write(tmp_path / "other", range(20), max_tokens=17).close()
    shard.write_bytes((tmp_path / "other" / shard.name).read_bytes())
    with pytest.raises(CheckpointError, match=r"shard-00001\.safetensors: belongs to another cache"):
        CacheReader(tmp_path)
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is not the index of a cache"):
        CacheReader(tmp_path)
    with pytest.raises(CheckpointError, match="holds no cache"):
        CacheReader(tmp_path / "nowhere")


def sum_in_process(reader: CacheReader, numbers: range) -> float:
    return float(sum(found.sum() for number in numbers if (found := reader.find(key(number))) is not None))


def test_readers_travel_to_processes_and_threads(tmp_path: Path) -> None:
    write(tmp_path, range(40)).close()
    reader = CacheReader(tmp_path)
    assert len(pickle.dumps(reader)) < 300 + len(str(tmp_path))
    expected = sum_in_process(reader, range(40))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: sum_in_process(reader, range(40)), range(8))) == [expected] * 8
    with multiprocessing.get_context("fork").Pool(2) as processes:
        assert processes.starmap(sum_in_process, [(reader, range(40))] * 2) == [expected] * 2


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer.open(TINY_FOLDER)


def states_of(captions: Any) -> list[np.ndarray]:
    return [np.full((len(caption) + 1, 4), len(caption), np.float32) for caption in captions]


def test_a_text_cache_holds_each_caption_once(tmp_path: Path, tokenizer: Tokenizer) -> None:
    captions = [f"caption {i % 90}" for i in range(200)] + ["", "ein Stern über 星"]
    asked: list[str] = []
    counted: list[int] = []

    def encode(group: Any) -> list[np.ndarray]:
        asked.extend(group)
        return states_of(group)

    identity = text_identity(open_part("text_encoder", "tiny"), tokenizer, 32)
    writer = CacheWriter(tmp_path, identity)
    write_text_cache(writer, uncached_captions(writer, captions), encode, counted.append)
    assert asked == list(dict.fromkeys(captions))
    assert sum(counted) == len(asked)
    cache = TextCache(tmp_path, identity)
    for caption in captions:
        np.testing.assert_array_equal(cache.find(caption), states_of([caption])[0])
    assert cache.find("another") is None
    assert uncached_captions(CacheWriter(tmp_path, identity), [*captions, "new", "new"]) == ["new"]


def fresh_part(kind: str, seed: int) -> Part:
    """The tiny model with weights of this seed, instead of those that come with the project."""
    part = open_part(kind, "tiny")
    spec = part.family.presets["tiny"]
    return replace(part, spec=spec, is_fresh=True, open=lambda: FreshWeights(spec.layout(), seed))


def test_a_text_cache_of_another_model_or_length_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    part = fresh_part("text_encoder", 0)
    write_text_cache(CacheWriter(tmp_path, text_identity(part, tokenizer, 32)), ["a"], states_of)
    for seed, length, words in ((1, 32, "was made with model = "), (0, 16, "was made with max_tokens = 32")):
        other = text_identity(fresh_part("text_encoder", seed), tokenizer, length)
        with pytest.raises(CheckpointError, match=words):
            TextCache(tmp_path, other)
    write(tmp_path / "latents", range(1), kind="latent moments").close()
    with pytest.raises(CheckpointError, match="was made with kind = latent moments, here it is text states"):
        TextCache(tmp_path / "latents")


def test_a_model_is_known_by_its_numbers_not_its_files(tmp_path: Path) -> None:
    part = fresh_part("vae", 3)
    weights = FreshWeights(part.layout, 3)
    config = {"_class_name": "WFVAEModel", "base_channels": 8, "encoder_num_resblocks": 1, "decoder_num_resblocks": 1}
    config |= {"encoder_energy_flow_hidden_size": 8, "decoder_energy_flow_hidden_size": 8, "norm_type": "layernorm"}
    config |= {"t_interpolation": "trilinear", "scale": [1.0] * 8, "shift": [0.0] * 8}
    trainable = {name: weights[name] for name, weight in part.layout.items() if not isinstance(weight.init, Constant)}
    for name, arrays, shard_size in (("one", dict(weights), None), ("shards", trainable, 20_000)):
        save_weights(tmp_path / name, arrays, shard_size=shard_size)
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    expected = model_fingerprint(part)
    assert model_fingerprint(recognise(tmp_path / "one")) == expected
    assert model_fingerprint(recognise(tmp_path / "shards")) == expected
    assert model_fingerprint(fresh_part("vae", 4)) != expected
    for index in (0, -1):
        changed = {name: array.copy() for name, array in trainable.items()}
        changed["encoder.conv_out.conv.weight"].reshape(-1)[index] += 1e-3
        save_weights(tmp_path / "changed", changed, overwrite=True)
        (tmp_path / "changed" / "config.json").write_text(json.dumps(config))
        assert model_fingerprint(recognise(tmp_path / "changed")) != expected


@pytest.mark.parametrize(
    ("kind", "beginning"),
    [("denoiser", "94491449a16e88dd"), ("text_encoder", "27e37b0bb636f968"), ("vae", "2082b044707ffdbd")],
)
def test_a_fingerprint_stays_what_it_was_when_specs_and_files_move(kind: str, beginning: str) -> None:
    """Caches that people have would count as those of other models."""
    assert model_fingerprint(open_part(kind, "tiny")).startswith(beginning)


def test_a_file_is_known_by_size_and_time_or_by_content(tmp_path: Path) -> None:
    one, other = tmp_path / "one.mp4", tmp_path / "other.mp4"
    for path in (one, other):
        path.write_bytes(b"frames")
        os.utime(path, ns=(10**18, 10**18))
    assert file_fingerprint(one, "a.mp4") == file_fingerprint(other, "a.mp4")
    assert file_fingerprint(one, "a.mp4") != file_fingerprint(one, "b.mp4")
    assert file_fingerprint(one, "a.mp4", "content") == file_fingerprint(other, "b.mp4", "content")
    os.utime(other, ns=(10**18, 10**18 + 1))
    assert file_fingerprint(one, "a.mp4") != file_fingerprint(other, "a.mp4")
    other.write_bytes(b"framed")
    assert file_fingerprint(one, "a.mp4", "content") != file_fingerprint(other, "a.mp4", "content")
    with pytest.raises(MediaError, match="cannot be read"):
        file_fingerprint(tmp_path / "none.mp4", "none.mp4")


def clips_in(folder: Path, count: int) -> list[CachedClip]:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f"{number}.mp4").write_bytes(bytes([number]))
    return [CachedClip(folder / f"{n}.mp4", f"{n}.mp4", {"frames": [0, 1 + n], "size": [8, 8]}) for n in range(count)]


def moments_of(clip: CachedClip) -> np.ndarray:
    return np.full((4, 1, 2, 2), clip.path.read_bytes()[0], np.float32)


def test_a_latent_cache_names_what_it_could_not_read(tmp_path: Path) -> None:
    clips = clips_in(tmp_path / "clips", 6)
    lines: list[str] = []

    def encode(places: Sequence[int]) -> Iterator[np.ndarray | MediaError]:
        for place in places:
            yield MediaError(f"{clips[place].path}: is damaged") if place == 2 else moments_of(clips[place])

    clips[4].path.unlink()
    identity = {"kind": "latent moments", "files identified by": "stat"}
    writer = CacheWriter(tmp_path / "cache", identity)
    to_do = find_uncached(writer, [*clips, clips[0]])
    assert (to_do.clips, to_do.num_stored, [clip.place for clip in to_do.uncached]) == (7, 1, [0, 1, 2, 3, 5])
    write_latent_cache(writer, to_do, encode, on_failure=lines.append)
    assert lines[0].startswith("4.mp4: cannot be read (")
    assert lines[1:] == ["2.mp4: is damaged"]
    cache = LatentCache(tmp_path / "cache", identity)
    for number in (0, 1, 3, 5):
        np.testing.assert_array_equal(cache.moments(clips[number]), moments_of(clips[number]))
    with pytest.raises(MediaError, match=r"2\.mp4: is not in the latent cache .*\(is damaged\)"):
        cache.moments(clips[2])
    other_cut = CachedClip(clips[0].path, clips[0].name, {"frames": [0, 2], "size": [8, 8]})
    with pytest.raises(MediaError, match="it is new or has changed"):
        cache.moments(other_cut)
    clips[0].path.write_bytes(b"other content")
    with pytest.raises(MediaError, match="it is new or has changed"):
        cache.moments(clips[0])


def save_embedding(path: Path, states: Any, mask: Any, **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, text_emb=states, mask=mask, **more)


def test_embedding_folders_of_the_mindspore_port_are_read(tmp_path: Path) -> None:
    """As sample_text_embed.py of the port writes them: states padded to the tokeniser's length, a uint8 mask."""
    states = np.random.default_rng(0).standard_normal((2, 300, 16)).astype(np.float32)
    mask = np.zeros((2, 300), np.uint8)
    mask[0, :7], mask[1, :5] = 1, 1
    for caption in range(2):
        save_embedding(tmp_path / f"part01/clip.v2-{caption}.npz", states[caption], mask[caption])
    save_embedding(tmp_path / "image-0.npz", states[:1], mask[:1], tokens=np.zeros((1, 300), np.int64))
    folder = EmbeddingFolder(tmp_path, channels=16)
    np.testing.assert_array_equal(folder.states("part01/clip.v2.mp4", 0), states[0, :7])
    np.testing.assert_array_equal(folder.states("part01/clip.v2.mp4", 1), states[1, :5])
    np.testing.assert_array_equal(folder.states("image.jpg"), states[0, :7])


GOOD = (np.ones((4, 16), np.float32), np.ones(4, np.uint8))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"text_emb": GOOD[0]}, "holds text_emb; expected text_emb and mask"),
        ({"text_emb": GOOD[0], "mask": np.ones(5)}, r"text_emb \(4, 16\) and mask \(5,\) are not the states and mask"),
        ({"text_emb": np.ones((2, 4, 16)), "mask": np.ones((2, 4))}, "of one caption"),
        ({"text_emb": np.ones((4, 8), np.float32), "mask": GOOD[1]}, "8 channels, the model reads 16"),
        ({"text_emb": np.ones((4, 16), np.int64), "mask": GOOD[1]}, "text_emb is int64"),
        ({"text_emb": GOOD[0] * np.nan, "mask": GOOD[1]}, "holds NaN or infinity"),
        ({"text_emb": GOOD[0], "mask": np.zeros(4)}, "no token counts"),
        ({"text_emb": np.array([[{}]], object), "mask": GOOD[1]}, "cannot be read as .npz"),
    ],
)
def test_wrong_embedding_files_are_named(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "a-0.npz", **arrays)
    with pytest.raises(MediaError, match=words) as caught:
        EmbeddingFolder(tmp_path, channels=16).states("a.mp4")
    assert str(tmp_path / "a-0.npz") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_embedding_files_are_named(tmp_path: Path) -> None:
    folder = EmbeddingFolder(tmp_path)
    with pytest.raises(MediaError, match=r"a-3\.npz: there is no such file"):
        folder.states("a.mp4", 3)
    save_embedding(tmp_path / "a-0.npz", *GOOD)
    whole = (tmp_path / "a-0.npz").read_bytes()
    for damaged in (whole[:100], b"", b"no archive at all", whole[:60] + bytes(40) + whole[100:]):
        (tmp_path / "a-0.npz").write_bytes(damaged)
        with pytest.raises(MediaError, match=r"a-0\.npz: cannot be read as \.npz"):
            folder.states("a.mp4")
    with (tmp_path / "b-0.npz").open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(MediaError, match="holds no named arrays"):
        folder.states("b.mp4")
    with pytest.raises(MediaError, match="there is no such folder of text embeddings"):
        EmbeddingFolder(tmp_path / "nowhere")
