"""Prompts from every kind of source, with exact places in errors, and the names made of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duosora.core.errors import ConfigError, MediaError
from duosora.core.io.prompts import Prompt, apply_template, read_prompts, slug


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


def test_only_line_feeds_end_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\u2028still one\x0bstill one\ntwo")
    assert len(read_prompts([str(tmp_path / "a.txt")])) == 2


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
        ('{"prompt": "a", "xyz": 1}', "unknown key 'xyz', known are prompt, negative_prompt"),
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
