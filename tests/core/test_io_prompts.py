"""Prompts from every kind of source, with exact places in errors, and the names made of them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duosora.core.errors import ConfigError, MediaError
from duosora.core.io import prompt_files
from duosora.core.io.prompts import MAX_CHARACTERS, Prompt, apply_template, read_prompts, slug


def test_literal_prompts_and_files_keep_their_order(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffa dog\r\n\r\n  a cat \n一只猫".encode())
    (tmp_path / "b.jsonl").write_text(
        '{"prompt": "a bird", "seed": 7}\n\n{"prompt": "a fish", "negative_prompt": ""}\n'
    )
    prompts = read_prompts(["first", str(tmp_path / "a.txt"), "a dog runs. Fast", str(tmp_path / "b.jsonl")])
    assert [prompt.text for prompt in prompts] == [
        "first", "a dog", "a cat", "一只猫", "a dog runs. Fast", "a bird", "a fish",
    ]  # fmt: skip
    assert [prompt.seed for prompt in prompts] == [None] * 5 + [7, None]
    assert [prompt.negative for prompt in prompts] == [None] * 6 + [""]
    assert prompts[0] == Prompt(text="first", name="first")


def texts_of(path: Path, content: str) -> list[str]:
    path.write_bytes(content.encode())
    return [prompt.text for prompt in read_prompts([str(path)])]


def test_line_feeds_and_carriage_returns_end_lines_and_nothing_else_does(tmp_path: Path) -> None:
    content = "one\u2028still one\x0bstill one\ntwo\rthree\r\nfour\r\rfive"
    assert texts_of(tmp_path / "a.txt", content)[1:] == ["two", "three", "four", "five"]
    assert texts_of(tmp_path / "a.ndjson", '{"prompt": "a"}\r{"text": "b"}\r\n{"cap": "c"}\n') == ["a", "b", "c"]
    with pytest.raises(MediaError, match=r"b\.jsonl:3: is not valid JSON"):
        texts_of(tmp_path / "b.jsonl", '{"prompt": "a"}\r\r{\r')


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'prompt\na dog, running\n"a ""small"" cat"\n'),
        ("a.csv", '\ufeffid,Prompt,note\r\n1,"a dog, running",x\r\n\r\n2,"a ""small"" cat",\r\n'),
        ("a.csv", 'id;text\r1;a dog, running\r2;a "small" cat\r'),
        ("a.CSV", 'caption\tid\na dog, running\t1\na "small" cat\t2\n'),
        ("a.tsv", 'path\tcaption\nx.mp4\ta dog, running\ny.mp4\ta "small" cat\n'),
        ("a.csv", 'text,prompt,caption\nno,"a dog, running",no\nno,"a ""small"" cat",\n'),
        ("a.json", '["a dog, running", "a \\"small\\" cat"]'),
        ("a.json", '\n[{"prompt": "a dog, running"},\n {"text": "a \\"small\\" cat"}]\n'),
        ("a.json", '{"prompt": "a dog, running"}\n{"prompt": "a \\"small\\" cat"}\n'),
        ("a.jsonl", '[{"prompt": "a dog, running"},\n {"text": "a \\"small\\" cat"}]\n'),
    ],
)
def test_tables_and_json_are_read(tmp_path: Path, name: str, content: str) -> None:
    assert texts_of(tmp_path / name, content) == ["a dog, running", 'a "small" cat']


def test_one_object_in_a_json_file_is_one_prompt(tmp_path: Path) -> None:
    assert texts_of(tmp_path / "a.json", '{\n "prompt": "a dog",\n "seed": 3\n}') == ["a dog"]


def test_a_table_brings_what_lines_of_json_bring_and_says_what_it_leaves_alone(tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    (tmp_path / "a.csv").write_text(
        'prompt,seed,negative prompt,images,video,note,category\na,7,bad,"[""x.png"", ""x.png""]",,fine,1\n'
        "b,8.0,,x.png,nan,,\nc,,NaN,,x.png,,\n"
    )
    notes: list[str] = []
    prompts = read_prompts([str(tmp_path / "a.csv")], notes.append)
    assert [(each.text, each.seed, each.negative) for each in prompts] == [
        ("a", 7, "bad"), ("b", 8, None), ("c", None, None),
    ]  # fmt: skip
    picture = str(tmp_path / "x.png")
    assert [each.conditions for each in prompts] == [(picture, picture), (picture,), (picture,)]
    assert [each.is_video for each in prompts] == [False, False, True]
    assert notes == [f"{tmp_path / 'a.csv'}: columns left alone: note, category"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a dog\na cat\n", "a.csv: has no column prompt, text, caption or cap; its header is: a_dog"),
        ("id,name\n1,a dog\n", "a.csv: has no column prompt, text, caption or cap; its header is: id, name"),
        ("prompt,prompt\na,b\n", "a.csv: has two columns 'prompt'; keep one"),
        ("id,prompt\n1,a dog, running\n", "a.csv:2: has 3 cells and the header 2; put texts with ',' in quotes"),
        ('id,prompt\n1,a\n\n2,"a dog\n3,b\n', "a.csv:4: cannot be read as a row of a table"),
        ("id,prompt\n1,a\n2,\n", "a.csv:3: the prompt is blank"),
        ("id,prompt\n1,a\n2\n", "a.csv:3: the key 'prompt' is missing"),
        ("id,prompt\n1,a\n2,NaN\n", "a.csv:3: the prompt is blank"),
        ('id,prompt\n1,"a\nb"\n2,\n', "a.csv:4: the prompt is blank"),
        ("prompt,seed\na,x\n", 'a.csv:2: seed: expected a whole number from 0 to 18446744073709551615, got "x"'),
        ("prompt,seed\na,99999999999999999999\n", "a.csv:2: seed: expected a whole number"),
        ("prompt,image\na,y.png\n", "a.csv:2: image: there is no file"),
        ("prompt\n" + "x" * 200_000, "a.csv:2: "),  # by the reader, or a limit of ours: MindSpore lifts the reader's
        ("prompt\n", "a.csv: holds no prompt; write one a line"),
        ("\n\n", "a.csv: holds no prompt; write one a line below a header"),
    ],
)
def test_a_wrong_table_is_named_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(MediaError) as raised:
        texts_of(tmp_path / "a.csv", content)
    assert str(raised.value).startswith(f"{tmp_path}/{message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "a.json: is not valid JSON (Expecting value at column 2)"),
        ('["a",\n"b"', "a.json: is not valid JSON (Expecting ',' delimiter at line 2 column 4)"),
        ("[" * 100_000, "a.json: is not valid JSON"),
        ('["a", 3]', 'a.json: entry 2: expected a text or an object such as {"prompt": "a dog"}'),
        ('["a", ""]', "a.json: entry 2: the prompt is blank"),
        ('["a", {"prompt": "b", "text": "c"}]', "a.json: entry 2: has prompt and text; give only one of them"),
        ('["a", {"prompt": "\\ud800"}]', "a.json: entry 2: the prompt is not valid text at character 1"),
        ('["a", {"prompt": "b", "image": "\\u0000"}]', "a.json: entry 2: image: \\x00: holds a NUL character"),
        ('[{"prompt": "b", "image": "' + "x" * 5000 + '"}]', "a.json: entry 1: image: xxx"),
        ("[]", "a.json: holds no prompt; write one a line"),
        ('{"prompt": "a"}\n3', 'a.json:2: expected an object such as {"prompt": "a dog"}'),
        ('{\n"prompt": "a",\n"prompt": "b"}', "a.json: is not valid JSON ('prompt' is written twice"),
        ('{\n"prompt": "a",\n}', "a.json: is not valid JSON ("),
        ('{"prompts": ["a"]}', "a.json: unknown key 'prompts', did you mean 'prompt'?"),
        ("3", 'a.json: expected a text or an object such as {"prompt": "a dog"}'),
        ('["a", {"prompt": "b", "seed": ' + "9" * 5000 + "}]", "a.json: is not valid JSON (Exceeds the limit"),
        ('["a", {"prompt": ' + "[" * 900 + "]" * 900 + "}]", "a.json: entry 2: prompt: expected text, got [["),
    ],
)
def test_wrong_json_is_named_with_its_entry(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(MediaError) as raised:
        texts_of(tmp_path / "a.json", content)
    assert str(raised.value).startswith(f"{tmp_path}/{message}")
    assert len(str(raised.value)) < 800


@pytest.mark.parametrize("name", ["a.yaml", "a.md", "a.parquet", "a", "a.png", "a dog", "folder", "pipe"])
def test_files_and_folders_of_other_kinds_are_no_prompts(tmp_path: Path, monkeypatch: Any, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "folder":
        (tmp_path / name).mkdir()
    elif name == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).write_text("a dog\n")
    for source in (name, str(tmp_path / name)):
        with pytest.raises(MediaError, match="prompts are read from .txt, .jsonl, .ndjson, .json, .csv and .tsv files"):
            read_prompts(["first", source])


@pytest.mark.parametrize("suffix", prompt_files.FILE_SUFFIXES)
def test_only_regular_files_are_opened(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"a{suffix}")
    with pytest.raises(MediaError, match="expected a regular file"):
        read_prompts([str(tmp_path / f"a{suffix}")])


def test_the_name_of_a_yaml_file_is_no_prompt_and_longer_texts_are(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MediaError, match="absent.yaml: is no file of prompts"):
        read_prompts(["absent.yaml"])
    long = "a dog " * 5000
    assert [each.text for each in read_prompts(["a dog saves its x.yaml", "dog.png", long])][2] == long


@pytest.mark.parametrize("blank", ["", " ", "\t\n", "\u00a0", "\u200b", "\ufeff", "\x00", "\u2066\u2069"])
def test_a_blank_prompt_is_refused(tmp_path: Path, blank: str) -> None:
    with pytest.raises(ConfigError, match="^prompt 2 is blank"):
        read_prompts(["a dog", blank])
    with pytest.raises(MediaError, match=r"a\.jsonl:2: the prompt is blank"):
        texts_of(tmp_path / "a.jsonl", '{"prompt": "a"}\n' + json.dumps({"prompt": blank}))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_prompt_with_a_nul_character_is_refused(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes("a dog\na cat".encode(encoding))
    with pytest.raises(MediaError, match=r"a\.txt:1: the prompt holds a NUL character; .* UTF-8"):
        read_prompts([str(tmp_path / "a.txt")])
    with pytest.raises(MediaError, match=r"a\.jsonl:1: the negative_prompt holds a NUL"):
        texts_of(tmp_path / "a.jsonl", json.dumps({"prompt": "a", "negative_prompt": "b\0"}))


def test_a_prompt_of_absurd_length_and_too_many_are_refused(tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(ConfigError, match="prompt 1 has 100001 characters"):
        read_prompts(["x" * (MAX_CHARACTERS + 1)])
    monkeypatch.setattr(prompt_files, "MAX_PROMPTS", 3)
    assert len(texts_of(tmp_path / "a.txt", "a\nb\nc\n")) == 3
    with pytest.raises(MediaError, match="holds more than 3 prompts"):
        texts_of(tmp_path / "a.txt", "a\nb\nc\nd")


def test_the_home_folder_is_found_and_a_variable_refused(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.png").touch()
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "image": "~/x.png"}')
    assert read_prompts(["~/a.jsonl"])[0].conditions == (str(tmp_path / "x.png"),)
    with pytest.raises(MediaError, match=r"\$HOME/a\.jsonl: holds \$HOME, which only a shell replaces"):
        read_prompts(["$HOME/a.jsonl"])
    with pytest.raises(MediaError, match=r"a\.csv:2: image: \$\{HOME\}/x\.png: holds \$\{HOME\}"):
        texts_of(tmp_path / "a.csv", "prompt,image\na,${HOME}/x.png\n")
    assert [each.text for each in read_prompts(["~ a wave", "it costs $HOME"])] == ["~ a wave", "it costs $HOME"]


@pytest.mark.parametrize("key", ["image", "images", "video"])
def test_conditions_count_from_the_folder_of_the_file(tmp_path: Path, key: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.png").touch()
    value = ["x.png", str(tmp_path / "sub" / "x.png")] if key == "images" else "x.png"
    (tmp_path / "sub" / "a.jsonl").write_text(json.dumps({"prompt": "a", key: value}))
    (prompt,) = read_prompts([str(tmp_path / "sub" / "a.jsonl")])
    assert set(prompt.conditions) == {str(tmp_path / "sub" / "x.png")}
    assert len(prompt.conditions) == (2 if key == "images" else 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"is not valid JSON \(.* at column \d+\)"),
        ("[" * 100_000, "is not valid JSON"),
        ('"a dog"', 'expected an object such as {"prompt": "a dog"}'),
        ('{"prompt": "a", "prompt": "b"}', "'prompt' is written twice"),
        ('{"promt": "a"}', "unknown key 'promt', did you mean 'prompt'?"),
        ('{"prompt": "a", "xyz": 1}', "unknown key 'xyz', known are prompt, text, caption, cap, negative_prompt"),
        ('{"seed": 3}', "the key 'prompt' is missing"),
        ('{"prompt": 3}', "prompt: expected text, got 3"),
        ('{"prompt": "a", "negative_prompt": ["b"]}', r'negative_prompt: expected text, got \["b"\]'),
        ('{"prompt": "a", "seed": "3"}', 'seed: expected a whole number from 0 to 18446744073709551615, got "3"'),
        ('{"prompt": "a", "seed": 1.0}', "seed: expected a whole number"),
        ('{"prompt": "a", "seed": true}', "seed: expected a whole number .* got true"),
        ('{"prompt": "a", "seed": -1}', "seed: expected a whole number .* got -1"),
        ('{"prompt": "a", "seed": 18446744073709551616}', "seed: expected a whole number"),
        ('{"prompt": "a", "image": "x.png", "video": "y.mp4"}', "has image and video; give only one of them"),
        ('{"prompt": "a", "image": ["x.png"]}', "image: expected a path, got"),
        ('{"prompt": "a", "images": "x.png"}', "images: expected a list of paths, got"),
        ('{"prompt": "a", "images": []}', "images: expected a list of paths, got"),
        ('{"prompt": "a", "images": ["a.jsonl", 3]}', "images: expected a list of paths, got"),
        ('{"prompt": "a", "image": "absent.png"}', "image: there is no file .*absent.png"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_named_with_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"prompt": "fine"}}\n\n{line}\n')
    with pytest.raises(MediaError, match=message.replace("?", r"\?") if "did you" in message else message) as raised:
        read_prompts([str(path)])
    assert str(raised.value).startswith(f"{path}:3: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", ["", "\n \n\t\n", "\ufeff"])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_an_empty_file_is_one_line(tmp_path: Path, content: str, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_text(content)
    with pytest.raises(MediaError, match="holds no prompt; write one a line"):
        read_prompts(["a dog", str(tmp_path / f"a{suffix}")])


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "gbk"])
def test_another_encoding_is_named_with_its_line(tmp_path: Path, encoding: str) -> None:
    text = "fine\nä dog" if encoding == "latin-1" else "fine\n一只狗"
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    line = 1 if encoding == "utf-16" else 2
    with pytest.raises(MediaError, match=rf"a\.txt:{line}: is not UTF-8 text; save the file in UTF-8"):
        read_prompts([str(tmp_path / "a.txt")])


def test_a_missing_file_is_never_taken_for_a_prompt(tmp_path: Path) -> None:
    for name in ("absent.txt", "absent.jsonl", "absent.TXT"):
        with pytest.raises(MediaError, match="there is no such file"):
            read_prompts([str(tmp_path / name)])
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(MediaError, match="cannot be read"):
        read_prompts([str(tmp_path / "folder.txt")])


def test_no_source_at_all_is_one_line() -> None:
    with pytest.raises(ConfigError, match="there is no prompt"):
        read_prompts([])


def test_names_differ_within_a_run() -> None:
    prompts = read_prompts(["a dog", "A Dog!", "a dog", "a dog 2", "一只猫", "一只狗"])
    names = [prompt.name for prompt in prompts]
    assert len(set(names)) == len(names)
    assert names[:2] == ["a-dog", "a-dog-2"]


def test_equal_prompts_are_numbered_one_after_the_other(monkeypatch: Any) -> None:
    tries = 0

    class Counted(str):
        """A name that counts how often a number is put behind it."""

        def __format__(self, how: str) -> str:
            nonlocal tries
            tries += 1
            return str(self)

    monkeypatch.setattr("duosora.core.io.prompts.slug", Counted)
    prompts = read_prompts(["a", "a-3", *["a"] * 1000])
    assert [each.name for each in prompts[:5]] == ["a", "a-3", "a-2", "a-4", "a-5"]
    assert len({each.name for each in prompts}) == 1002
    assert tries < 1100


# Names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A dog, running!", "a-dog-running"),
        ("  two   words\n", "two-words"),
        ("../../etc/passwd", "etc-passwd"),
        ("“quoted” — dash", "quoted-dash"),
    ],
)
def test_a_slug_is_readable(text: str, name: str) -> None:
    assert slug(text) == name


@settings(deadline=None)
@given(st.text(), st.integers(10, 80))
def test_a_slug_is_a_short_ascii_file_name_for_any_text(text: str, limit: int) -> None:
    name = slug(text, limit)
    assert 0 < len(name) <= limit
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert not name.startswith("-")
    assert not name.endswith("-")
    assert slug(text, limit) == name


def test_texts_that_lose_something_stay_apart() -> None:
    long = "a very long prompt about many things " * 5
    texts = ["一只猫", "一只狗", "café", "cafe", long + "x", long + "y", "", "🙂", "!!"]
    assert len({slug(text) for text in texts}) == len(texts)
    assert slug("一只猫").startswith("prompt-")
    assert slug(long + "x").startswith("a-very-long-prompt-about-many-things")
    assert slug("cafe") == "cafe"
    assert slug("café").startswith("cafe-")


# Templates


@pytest.mark.parametrize("prompt", ["a dog", "", "{}", "{0} {x} %s \\1"])
def test_a_template_takes_the_prompt_as_it_is(prompt: Any) -> None:
    assert apply_template("fine, {} {x}", prompt) == f"fine, {prompt} {{x}}"


@pytest.mark.parametrize("template", ["", "no place", "{} and {}", "{0}"])
def test_a_template_needs_one_place(template: str) -> None:
    with pytest.raises(ConfigError, match="needs {} once, where the prompt goes"):
        apply_template(template, "a dog")
