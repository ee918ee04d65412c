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
from duosora.core.data.columns import column_uses
from duosora.core.data.plan import make_plan
from duosora.core.data.reading import ReadJob
from duosora.core.data.records import BadRow, Record
from duosora.core.data.selection import RecordDraws, choose_frames
from duosora.core.data.sources import Frames, open_source
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
        ({"frame_idx": "10:30"}, 10, 20),
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


NAMES = ["a.mp4", "b/c d.mkv", "e.png"]


@pytest.mark.parametrize(
    "header", ["video\n", '"video"\n', "file\r\n", "Video\n", "\ufeffVideo Path\r", "\n\nimage\n", ""]
)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_table_of_paths_alone_is_read(tmp_path: Path, header: str, name: str) -> None:
    end = "\r" if header.endswith("\r") else "\n"
    found = read(tmp_path, name, header + end.join(NAMES) + end)
    assert found.bad == []
    assert [(record.name, record.captions) for record in found.records] == [(each, ()) for each in NAMES]


def test_an_autoencoder_trains_on_a_table_of_paths_alone(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("video\na.mp4\nb.mkv\n")
    settings = DataSettings(
        files=(tmp_path / "a.csv",), root=Path("videos"), frames=5, height=8, width=8, autoencoder=StrideSettings()
    )
    source = open_source(settings)
    plan = make_plan(source, settings, Causal(4, 8), seed=0, total_batch=0)
    assert [source.record(number).path for number in plan.numbers] == [Path("videos/a.mp4"), Path("videos/b.mkv")]


@pytest.mark.parametrize(
    ("key", "captions"), [("captions", ["a dog", "a cat"]), ("captions", "a dog"), ("cap", "a dog")]
)
@pytest.mark.parametrize("path", ["file", "video", "file_name"])
def test_other_projects_keys_are_read_in_every_json(tmp_path: Path, path: str, key: str, captions: Any) -> None:
    row = {path: "a.mp4", key: captions, "frames": 29, "id": 7}
    expected = ("a.mp4", tuple(captions) if isinstance(captions, list) else (captions,), 29)
    for name, content in {
        "list.json": json.dumps([row, row]),
        "lines.jsonl": json.dumps(row) + "\n" + json.dumps(row),
        "lines.json": json.dumps(row) + "\n" + json.dumps(row),
    }.items():
        found = read(tmp_path, name, content)
        assert found.bad == []
        assert [(each.name, each.captions, each.num_frames) for each in found.records] == [expected] * 2


def test_frames_that_are_pictures_are_no_length() -> None:
    assert record(frames=["1.png", "2.png"]).num_frames is None
    assert record(frames=9, num_frames=12).num_frames == 12


def test_of_several_columns_of_paths_the_first_that_says_something_counts() -> None:
    assert record(file="b.mp4").name == "a.mp4"
    assert record(path="nan", file="b.mp4").name == "b.mp4"


NAMELESS = [("a.mp4", "a dog, a cat; and more", "29"), ("b c.mov", "2024", "45"), ("d.png", "runs | jumps", "")]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (0, 2, 1), (0, 1), (1, 0), (2, 0)])
def test_a_table_without_names_is_told_by_what_its_columns_hold(
    tmp_path: Path, order: tuple[int, ...], delimiter: str
) -> None:
    quoted = [[f'"{row[place]}"' if place == 1 else row[place] for place in order] for row in NAMELESS]
    found = read(tmp_path, "a.csv", "\n".join(map(delimiter.join, quoted)) + "\n")
    assert found.bad == []
    for made, row in zip(found.records, NAMELESS, strict=True):
        assert made.name == row[0]
        assert made.captions == ((row[1],) if 1 in order else ())
        assert made.num_frames == (int(row[2]) if 2 in order and row[2] else None)


def test_captions_with_other_separators_need_no_quotes(tmp_path: Path) -> None:
    for delimiter, other in ((",", ";"), (";", ","), ("\t", ","), ("|", ",")):
        for order in ((0, 1), (1, 0)):
            rows = [("a.mp4", f"a dog{other} a cat"), ("b.mp4", "a bird"), ("c.mp4", f"x{other} y{other} z")]
            lines = [delimiter.join(row[place] for place in order) for row in rows]
            found = read(tmp_path, "a.csv", "\n".join(lines))
            assert [(each.name, each.captions) for each in found.records] == [(name, (text,)) for name, text in rows]


@pytest.mark.parametrize("header", ["", "path , caption , frames\n"])
def test_blanks_around_cells_count_for_nothing(tmp_path: Path, header: str) -> None:
    found = read(tmp_path, "a.csv", f'{header} a.mp4 , a dog , 29 \n" b.mp4 ","a cat ",45\n')
    assert found.bad == []
    told = [(each.name, each.captions, each.num_frames) for each in found.records]
    assert told == [("a.mp4", ("a dog",), 29), ("b.mp4", ("a cat",), 45)]


def test_a_caption_that_is_a_name_of_a_column_makes_no_header(tmp_path: Path) -> None:
    found = read(tmp_path, "a.csv", "a.mp4,video,29\nb.mp4,path,29\n")
    assert [(each.name, each.captions) for each in found.records] == [("a.mp4", ("video",)), ("b.mp4", ("path",))]


def test_a_bad_row_of_a_table_without_names_costs_that_row(tmp_path: Path) -> None:
    found = read(tmp_path, "a.csv", "a.mp4,a dog,29\nnowhere,a cat,29\nc.mp4,a, b,29\nd.mp4,a bird,45\n")
    assert [each.name for each in found.records] == ["a.mp4", "d.mp4"]
    assert [bad.origin.rpartition(" ")[2] for bad in found.bad] == ["2", "3"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a.mp4,a dog,runs\nb.mp4,a cat,sleeps\n", "each of 2 and 3 may be the caption; begin it with a line of names"),
        ("a.mp4,b.mp4\nc.mp4,d.mp4\n", "each of 1 and 2 may be the path"),
        ("a.mp4,a dog,29,24.0\n", "each of 3 and 4 may be the num_frames"),
        ("a.mp4,a dog,29,24.0\n", "such as path,caption,num_frames,other4"),
        ("a.mp4,123,29\n", "such as path,caption,num_frames"),
        ("name,caption\na.mp4,a dog\n", "the first line names the columns, and one of them is path (or video, file"),
        ("a dog,29\n", "or else each line holds the name of a video"),
        ("\n\n", "the first line names the columns"),
    ],
)
def test_a_table_whose_columns_cannot_be_told_is_refused_in_a_line(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(MediaError) as refused:
        read(tmp_path, "a.csv", content)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", "a.mp4,a dog,29\n", "no line names its columns; path from column 1, caption from column 2, "
         "num_frames from column 3"),
        ("a.csv", "video\na.mp4\n", "path from video"),
        ("a.tsv", "File\tcaption\tframes\tlength\na.mp4\ta dog\t29\t3\n",
         "path from File, caption, num_frames from frames; not read: length"),
        ("a.json", '[{"file": "a.mp4", "captions": ["a"], "resolution": {"height": 1}}]',
         "path from file, caption from captions, height from resolution, width from resolution"),
        ("a.jsonl", '{"path": "a.mp4", "cap": "a"}\n{"path": "b.mp4", "text": "b"}', "path, caption from cap or text"),
        ("a.jsonl", '3\n{"x\\u001b": 1}', "no column that is known; not read: x\\x1b"),
    ],
)  # fmt: skip
def test_what_each_column_is_taken_for_is_told(tmp_path: Path, name: str, content: str, told: str) -> None:
    (tmp_path / name).write_text(content)
    (tmp_path / "list.txt").write_text(f".,{name}\n")
    for given in (name, "list.txt"):
        assert list(column_uses([tmp_path / given])) == [f"{tmp_path / name}: {told}"]
