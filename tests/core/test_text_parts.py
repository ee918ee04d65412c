"""Parts of a captions file with text features."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest

from duosora.core.data.annotations import read_annotations
from duosora.core.data.text_parts import TextParts, borders, part_folders, read_parts, rows_by_part
from duosora.core.errors import MediaError
from duosora.core.train.stored import RecordTexts

NAME = "data-00000-of-00001.arrow"


def write_part(folder: Path, files: list[Any], states: list[Any], name: str = NAME) -> None:
    folder.mkdir(parents=True)
    table = pyarrow.table({"video_file": files, "text_latent_states": states})
    with pyarrow.OSFile(str(folder / NAME), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))


@pytest.mark.parametrize("rows", [0, 1, 7, 100, 12345])
@pytest.mark.parametrize("bins", [1, 3, 8, 10, 100, 1000])
def test_bins_cover_every_row_once(rows: int, bins: int) -> None:
    edges = borders(rows, bins)
    assert len(edges) <= min(bins, 100)
    assert [row for start, end in edges for row in range(start, end)] == list(range(rows))
    with pytest.raises(ValueError, match=r"^bins = 0: needs at least 1$"):
        borders(rows, 0)


def test_each_caption_is_a_row_and_clips_that_are_too_long_give_none() -> None:
    clips = [("a.mp4", ["x", "y"]), ("b.mp4", ["z"]), ("c.mp4", ["w"])]
    frames = {"a.mp4": 600, "b.mp4": 601, "c.mp4": 1}
    parts = rows_by_part(clips, frames, 10)
    assert [[tuple(row) for row in part] for part in parts] == [[("a.mp4", "x"), ("a.mp4", "y")], [], [("c.mp4", "w")]]


@pytest.mark.parametrize("shape", [(2, 3), (3,)], ids=["tokens", "pooled"])
def test_parts_are_read_one_after_the_other(tmp_path: Path, shape: tuple[int, ...]) -> None:
    states = [np.full(shape, float(number), np.float32) for number in range(4)]
    for part in (0, 1):
        rows = slice(2 * part, 2 * part + 2)
        write_part(tmp_path / f"part-0000{part}", ["a.mp4", "b.mp4"], [each.tolist() for each in states[rows]])
    assert part_folders(tmp_path / "part-00001") == [tmp_path / "part-00001"]
    read = list(read_parts(part_folders(tmp_path)))
    assert [row.file for row in read] == ["a.mp4", "b.mp4"] * 2
    for row, expected in zip(read, states, strict=True):
        assert row.states.dtype == np.float32
        np.testing.assert_array_equal(row.states, expected)


@pytest.mark.parametrize(
    ("files", "states", "said"),
    [
        (["a.mp4"], [[[1.0, 2.0], [3.0]]], "its rows are of unequal length or no numbers"),
        (["a.mp4"], [["one"]], "its rows are of unequal length or no numbers"),
        (["a.mp4"], [[float("nan")]], "needs finite numbers"),
        (["a.mp4"], [None], "needs finite numbers"),
        ([3], [[1.0]], "video_file = 3: needs the name of a video"),
    ],
)
def test_odd_rows_are_refused(tmp_path: Path, files: list[Any], states: list[Any], said: str) -> None:
    write_part(tmp_path / "part-00000", files, states)
    with pytest.raises(MediaError, match=said) as refused:
        list(read_parts([tmp_path / "part-00000"]))
    assert str(refused.value).startswith(str(tmp_path / "part-00000" / NAME))
    assert "\n" not in str(refused.value)


def test_what_is_no_part_is_told(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="holds no part-00000 of text features"):
        part_folders(tmp_path)
    part = tmp_path / "part-00000"
    write_part(part, ["a.mp4"], [[1.0]], name=f"../{NAME}")
    with pytest.raises(MediaError, match="needs a file beside it"):
        list(read_parts([part]))
    (part / "state.json").write_text("[]")
    with pytest.raises(MediaError, match="does not name the files of the part"):
        list(read_parts([part]))
    (part / "state.json").write_text(json.dumps({"_data_files": [{"filename": NAME}]}))
    whole = (part / NAME).read_bytes()
    for damaged in (b"", b"no arrow at all", whole[:200], whole.replace(b"a.mp4", b"\xff.mp4")):
        (part / NAME).write_bytes(damaged)
        with pytest.raises(MediaError, match="cannot be read as a part of text features") as refused:
            list(read_parts([part]))
        assert "\n" not in str(refused.value)
    (part / NAME).unlink()
    with pytest.raises(MediaError, match="cannot be read as a part"):
        list(read_parts([part]))


@pytest.mark.parametrize("pooled", [False, True], ids=["tokens", "pooled"])
def test_parts_are_records_whose_captions_bring_their_features(tmp_path: Path, pooled: bool) -> None:
    shape = (3,) if pooled else (2, 3)
    states = [np.full(shape, float(number), np.float32).tolist() for number in range(4)]
    folder = tmp_path / "parts"
    write_part(folder / "part-00000", ["a.mp4", "b.mp4"], states[:2])
    write_part(folder / "part-00001", ["b.mp4", "b.mp4"], states[2:])
    records = read_annotations([folder], tmp_path / "videos").records
    assert [record.path for record in records] == [tmp_path / "videos" / name for name in ("a.mp4", "b.mp4")]
    assert [len(record.captions) for record in records] == [1, 3]
    texts = RecordTexts(3, pooled)
    found = [texts(record, number) for record in records for number in range(len(record.captions))]
    for got, expected in zip(found, states, strict=True):
        np.testing.assert_array_equal(got, np.array(expected))
    assert texts(records[0], None) is None


@pytest.mark.parametrize(
    ("channels", "pooled", "item", "said"),
    [
        (3, True, "a.mp4", "holds states of tokens, the model reads one vector of a text"),
        (4, False, "a.mp4", "its features have 3 channels, the model reads 4"),
        (3, False, "c.mp4", "the parts of text features hold no caption 0 of it"),
    ],
)
def test_features_of_another_encoder_are_refused(
    tmp_path: Path, channels: int, pooled: bool, item: str, said: str
) -> None:
    write_part(tmp_path / "part-00000", ["a.mp4"], [np.ones((2, 3)).tolist()])
    with pytest.raises(MediaError, match=said):
        TextParts(tmp_path, channels, pooled).states(item)
