"""Parts of a captions file with text features."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest

from duosora.core.data.text_parts import borders, part_folders, read_parts, rows_by_part
from duosora.core.errors import MediaError

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
    for damaged in (b"", b"no arrow at all", (part / NAME).read_bytes()[:200]):
        (part / NAME).write_bytes(damaged)
        with pytest.raises(MediaError, match="cannot be read as a part of text features") as refused:
            list(read_parts([part]))
        assert "\n" not in str(refused.value)
    (part / NAME).unlink()
    with pytest.raises(MediaError, match="cannot be read as a part"):
        list(read_parts([part]))
