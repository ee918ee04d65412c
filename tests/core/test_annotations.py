"""Annotations as people have them: every format and habit gives the same records, or one line."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duosora.core.config.data import DataSettings, StrideSettings
from duosora.core.data import rows
from duosora.core.data.annotations import MAX_CAPTION, Annotations, read_annotations, record_of
from duosora.core.data.reading import ReadJob
from duosora.core.data.records import BadRow, Record
from duosora.core.data.selection import RecordDraws, choose_frames
from duosora.core.data.sources import Frames
from duosora.core.data.transforms import to_signed
from duosora.core.errors import MediaError
from duosora.core.shapes import Causal, VideoShape

ROWS = [
    {"path": "a.mp4", "caption": "a dog, a cat; and\ta bird", "height": 64, "width": 48, "num_frames": 9, "fps": 24.0},
    {"path": "b/c.png", "caption": 'says "hello" | twice', "height": 32, "width": 32},
]
PLAIN = DataSettings(frames=13, min_frames=1, fps=24.0, height=32, width=32, drop_short=0.0)


def read(folder: Path, name: str, content: str | bytes) -> Annotations:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return read_annotations([folder / name])


def facts(record: Record) -> tuple[Any, ...]:
    return record.name, record.captions, record.height, record.width, record.num_frames, record.fps


EXPECTED = [
    ("a.mp4", (ROWS[0]["caption"],), 64, 48, 9, 24.0),
    ("b/c.png", (ROWS[1]["caption"],), 32, 32, None, None),
]


def table(delimiter: str, end: str = "\n") -> str:
    columns = list(ROWS[0])
    quoted = lambda cell: '"' + str(cell).replace('"', '""') + '"'  # noqa: E731
    lines = [delimiter.join(columns)]
    lines += [delimiter.join(quoted(row.get(column, "")) for column in columns) for row in ROWS]
    return end.join(lines) + end


LINES = "\n".join(json.dumps(row) for row in ROWS)
FORMS = {
    "list.json": json.dumps(ROWS),
    "indented.json": "\n " + json.dumps(ROWS, indent=4) + "\n\n",
    "marked.json": "\ufeff" + json.dumps(ROWS),
    "lines.json": LINES,
    "blank_lines.json": "\r\n" + LINES.replace("\n", "\r\n\r\n") + "\r\n",
    "lines.jsonl": LINES,
    "lines.ndjson": LINES + "\n",
    "list.jsonl": json.dumps(ROWS, indent=1),
    "comma.csv": table(","),
    "marked.csv": "\ufeff" + table(","),
    "semicolon.csv": table(";"),
    "tab.csv": table("\t"),
    "tab.tsv": table("\t"),
    "comma.tsv": table(","),
    "bar.csv": table("|"),
    "windows.csv": table(";", "\r\n"),
    "old_mac.csv": table(",", "\r"),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_records(tmp_path: Path, name: str) -> None:
    found = read(tmp_path, name, FORMS[name])
    assert found.bad == []
    assert [facts(record) for record in found.records] == EXPECTED


def test_a_json_list_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in range(1, 40):
        monkeypatch.setattr(rows, "_CHUNK_BYTES", size)
        content = json.dumps([*ROWS, {"path": "d.mp4", "caption": "é中"}, 17, "x"], ensure_ascii=False, indent=size % 3)
        found = read(tmp_path, "a.json", content)
        assert [record.name for record in found.records] == ["a.mp4", "b/c.png", "d.mp4"]
        assert [bad.origin.rpartition(" ")[2] for bad in found.bad] == ["4", "5"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "expected a list of records"),
        ("[", "is not JSON"),
        ("[3, ", "is not JSON at record 2"),
        ('[{"path": "a.mp4"}', "it ends too early"),
        ('[{"path": "a.mp4"', "is not JSON at record 1"),
        ('[{"path": "a.mp4"},]', "is not JSON at record 2"),
        ('[{"path": "a.mp4"} {"path": "b.mp4"}]', "is not JSON at record 1 (expected , or ], got '{')"),
        ('[{"path": "a.mp4"}] []', "something follows its list"),
        ("[" * 100_000, "nested too deep"),
        ('{"videos": []}', "expected a list of records, got dict"),
        ("17", "expected a list of records"),
        ('[{"path": "a.mp4"},\n{"path": "\xff"}]'.encode("latin1"), "a.json:2: is not UTF-8"),
    ],
)
def test_a_json_that_is_no_list_is_refused_in_a_line(tmp_path: Path, content: str | bytes, words: str) -> None:
    with pytest.raises(MediaError) as refused:
        read(tmp_path, "a.json", content)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


HPCAI = """,path,text,num_frames,height,width,aspect_ratio,fps,resolution,aes,flow,match
0,/data/a.mp4,a dog runs,45,720,1280,0.5625,24.0,921600,5.9,0.1,22.5
1,sub/b.mp4,a cat sleeps,60.0,480,854,0.562,29.97,409920.0,,,
2,c.jpg,a bird,1,256,256,1.0,nan,65536,,,
"""


def test_tables_of_hpcai_are_read(tmp_path: Path) -> None:
    found = read(tmp_path, "meta.csv", HPCAI)
    assert found.bad == []
    assert [facts(record) for record in found.records] == [
        ("/data/a.mp4", ("a dog runs",), 720, 1280, 45, 24.0),
        ("sub/b.mp4", ("a cat sleeps",), 480, 854, 60, 29.97),
        ("c.jpg", ("a bird",), 256, 256, 1, None),
    ]
    assert [record.path for record in found.records] == [
        Path("/data/a.mp4"),
        tmp_path / "sub/b.mp4",
        tmp_path / "c.jpg",
    ]
    assert [record.aesthetic for record in found.records] == [5.9, None, None]


def made(**columns: Any) -> Record | BadRow:
    return record_of({"path": "a.mp4"} | columns, Path("media"), "here")


def record(**columns: Any) -> Record:
    found = made(**columns)
    assert isinstance(found, Record), found
    return found


@pytest.mark.parametrize("column", ["caption", "cap", "text"])
@pytest.mark.parametrize(
    "value", ["nan", "NaN", " None ", "null", "<NA>", "N/A", "", " ", None, float("nan"), ["nan", ""]]
)
def test_a_missing_caption_is_none_whatever_stands_for_it(column: str, value: Any) -> None:
    assert record(**{column: value}).captions == ()


def test_of_several_caption_columns_the_first_that_says_something_counts() -> None:
    assert record(caption="nan", cap=None, text="a dog").captions == ("a dog",)
    assert record(cap=["None", "a cat", None], text="a dog").captions == ("a cat",)
    assert record(caption="none of them moves").captions == ("none of them moves",)
    assert record(caption='["a dog", "nan"]').captions == ("a dog",)


@pytest.mark.parametrize(
    ("columns", "start", "length"),
    [
        ({"cut": [10, 30], "num_frames": 50}, 10, 20),
        ({"cut": [10, 30], "num_frames": 12}, 10, 12),
        ({"cut": [10, 30]}, 10, 20),
        ({"cut": "[10, 30]", "num_frames": "50"}, 10, 20),
        ({"cut": [10, 30], "start": 15, "num_frames": 50}, 15, 15),
        ({"cut": [10, 0], "num_frames": 50}, 10, 50),
        ({"cut": [10], "num_frames": 50}, 10, 50),
        ({"cut": [10, math.nan], "num_frames": 50}, 10, 50),
        ({"cut": "[nan, 20]", "num_frames": 50}, 0, 20),
        ({"cut": ["", None], "num_frames": 50}, 0, 50),
        ({"num_frames": 50}, 0, 50),
    ],
)
def test_a_clip_ends_where_it_is_cut(columns: dict[str, Any], start: int, length: int) -> None:
    found = record(caption="a dog", height=32, width=32, fps=24, **columns)
    assert (found.start, found.num_frames) == (start, length)
    for epoch in range(5):
        frames = choose_frames(found, PLAIN, Causal(4, 8), 1, RecordDraws(0, 0, epoch))
        assert start <= frames.min() <= frames.max() < start + length


@pytest.mark.parametrize(
    "columns", [{"cut": [1e300, 1e301]}, {"start": 1e300}, {"num_frames": "1e300"}, {"height": 1e18}]
)
def test_counts_that_nothing_has_are_a_bad_row(columns: dict[str, Any]) -> None:
    assert "to 1000000000" in made(**columns).reason  # type: ignore[union-attr]


def test_a_cut_without_frames_is_a_bad_row() -> None:
    assert "before the clip begins" in made(cut=[20, 10]).reason  # type: ignore[union-attr]


class Counted:
    """Opens a video whose frames show their numbers."""

    def __call__(self, record: Record, draw: np.random.Generator) -> Frames:
        return Frames(np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None, None, None], (60, 8, 8, 3)))


def test_an_autoencoders_clip_stays_within_the_cut_as_well() -> None:
    settings = DataSettings(frames=5, height=8, width=8, autoencoder=StrideSettings(sample_rate=2))
    for epoch in range(20):
        job = ReadJob(Counted(), record(cut=[10, 22]), None, settings, VideoShape(5, 8, 8), (0, 0, epoch))
        shown = np.rint((to_signed(job())[0, :, 0, 0] + 1) * 127.5)
        assert shown.min() >= 10
        assert shown.max() < 22


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"path": "a" * 5000 + ".mp4"}, "too long"),
        ({"path": "a/" * 2500 + "b.mp4"}, "too long"),
        ({"path": "a\0.mp4"}, "NUL"),
        ({"path": "\ud800.mp4"}, "not valid text"),
        ({"text_embed": "b" * 5000}, "too long"),
        ({"text_embed": "\0"}, "holds a NUL"),
        ({"caption": "\udfff"}, "surrogate"),
        ({"caption": "a" * (MAX_CAPTION + 1)}, "letters"),
        ({"caption": "[" * 100_000}, "letters"),
        ({"caption": {"a": ["b" * 5000]}}, "expected a text"),
        ({"fps": "9" * 5000}, "expected a number"),
        ({"crop": "1" * 5000}, "crop"),
    ],
)
def test_hostile_values_are_bad_rows_of_one_short_line(columns: dict[str, Any], words: str) -> None:
    found = made(**columns)
    assert isinstance(found, BadRow)
    assert words in found.reason
    assert found.name.isprintable()
    assert found.reason.isprintable()
    assert len(found.name) + len(found.reason) < 500


def test_short_captions_of_brackets_are_texts() -> None:
    assert record(caption="[" * 5000).captions == ("[" * 5000,)
    assert record(caption="[wind howls]").captions == ("[wind howls]",)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson", "a.csv", "a.tsv", "a.parquet", "a.txt"])
def test_a_pipe_is_refused_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(MediaError, match="expected a regular file"):
        read_annotations([tmp_path / name])


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson", "a.csv", "a.tsv", "a.parquet", "a.txt"])
def test_two_gigabytes_of_nothing_are_refused_before_they_are_read(tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(1 << 31)
    with pytest.raises(MediaError) as refused:
        read_annotations([tmp_path / name])
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("part", ["media\0", "m" * 5000])
def test_a_list_with_a_name_that_cannot_be_is_refused_in_a_line(tmp_path: Path, part: str) -> None:
    with pytest.raises(MediaError, match="list.txt, line 1: ") as refused:
        read(tmp_path, "list.txt", f"{part},a.json\n")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 1000


def test_a_long_table_is_read_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that the whole file is above, and no row."""
    monkeypatch.setattr(rows, "MAX_ROW_BYTES", 200)
    contents: dict[str, Callable[[int], str]] = {
        "a.jsonl": lambda number: f'{{"path": "{number}.mp4"}}\n',
        "a.csv": lambda number: f"{number}.mp4,a dog\n" if number else "path,caption\n0.mp4,a dog\n",
    }
    for name, row in contents.items():
        assert len(read(tmp_path, name, "".join(map(row, range(100)))).records) == 100
    with pytest.raises(MediaError, match="a.jsonl, line 1: has more than 200 bytes"):
        read(tmp_path, "a.jsonl", json.dumps({"path": "a.mp4", "caption": "a" * 200}))
