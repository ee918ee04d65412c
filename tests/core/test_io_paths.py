"""Paths that people write: the home folder, variables of a shell, and what can be no path."""

from pathlib import Path

import pytest

from duosora.core.config.loading import load
from duosora.core.config.schema import EvaluateConfig, ReconstructConfig, SampleConfig
from duosora.core.config.settings import Settings, list_settings, resolved
from duosora.core.config.training import TrainConfig
from duosora.core.data.annotations import read_annotations
from duosora.core.errors import ConfigError, MediaError
from duosora.core.io.paths import given_path

SCHEMAS = (SampleConfig, ReconstructConfig, EvaluateConfig, TrainConfig)
NAMES_OR_PATHS = ("model.denoiser", "vae")
"""Texts that may be a preset or a path."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder, from which nothing is expanded but `~`; tests run in another one."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def test_a_leading_tilde_is_the_home_folder_and_any_other_a_letter(home: Path) -> None:
    assert given_path("~") == home
    assert given_path("~/a/b") == given_path(Path("~/a/b")) == home / "a" / "b"
    assert given_path("~root/a").is_absolute()
    for text in ("a~", "a/~/b", "./~", "a b/c"):
        assert given_path(text) == Path(text)
    (home.parent / "~x").touch()
    assert given_path("~x") == Path("~x")


@pytest.mark.parametrize("text", ["https://example.com/a.png", "s3://x/y", "file:///x.mp4"])
def test_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^\S+: is an address; download what is there, and write the file's path"):
        given_path(text)


@pytest.mark.parametrize(
    "text", ["$HOME", "$HOME/x", "${HOME}/x", "a/$X/b", "a/x$Y.mp4", "~/$X", "$(pwd)/x", "a${X", "$_a"]
)
def test_variables_of_a_shell_are_refused(home: Path, text: str) -> None:
    with pytest.raises(ValueError, match="holds .*, which only a shell replaces; write the path out") as raised:
        given_path(text)
    assert str(raised.value).startswith(f"{text}: ")


def test_a_dollar_in_a_name_that_exists_stays(home: Path) -> None:
    (home.parent / "a$b").mkdir()
    (home.parent / "$HOME.mp4").touch()
    for text in ("a$b", "a$b/new.mp4", str(home.parent / "a$b"), "$HOME.mp4", "5$", "a$5", "$/x"):
        assert given_path(text) == Path(text)
    with pytest.raises(ValueError, match="holds \\$c"):
        given_path("a$b/$c")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("~nobody-of-this-name/x", "there is no user 'nobody-of-this-name'"),
        ("a\0b", r"a\\x00b: holds a NUL character"),
        ("a\udcffb", r"a\\udcffb: is not valid text at character 2"),
        ("x" * 256, r"is too long for a path \(256 bytes\)"),
        ("ä" * 128, r"is too long for a path \(256 bytes\)"),
        ("x/" * 3000, r"is too long for a path \(6000 bytes\)"),
    ],
)
def test_what_can_be_no_path_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as raised:
        given_path(text)
    assert len(str(raised.value)) < 300


def paths_of(schema: type[Settings]) -> list[str]:
    """The settings of a schema that hold paths."""
    return [each.path for each in list_settings(schema) if "path" in each.type or each.path in NAMES_OR_PATHS]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_setting_that_is_a_path_is_read_so(home: Path, schema: type[Settings]) -> None:
    found = paths_of(schema)
    assert found
    for path in found:
        is_list = next(each for each in list_settings(schema) if each.path == path).type.startswith("list")
        write = "[{}, {}]" if is_list else "{}"
        value = resolved(load(None, schema, [f"{path}={write.format('~/x', 'y')}"]))
        for key in path.split("."):
            value = value[key]
        assert value == ([str(home / "x"), "y"] if is_list else str(home / "x"))
        with pytest.raises(ConfigError, match=r"\$HOME/x: holds \$HOME, which only a shell") as raised:
            load(None, schema, [f"{path}={write.format('$HOME/x', 'y')}"])
        assert str(raised.value).startswith(f"--set {path}=")


def test_paths_in_annotations_are_read_so(home: Path) -> None:
    rows = home.parent / "rows.jsonl"
    rows.write_text(
        '{"path": "~/a.mp4"}\n{"path": "$X/a.mp4"}\n{"path": "a\\u0000.mp4"}\n{"path": "' + "x" * 5000 + '.mp4"}'
    )
    found = read_annotations([rows])
    assert [record.path for record in found.records] == [home / "a.mp4"]
    assert [row.reason.split(": ")[1][:12] for row in found.bad] == ["holds $X, wh", "holds a NUL ", "is too long "]
    (home / "rows.jsonl").write_text('{"path": "a.mp4"}')
    (home.parent / "list.txt").write_text("~,~/rows.jsonl\n")
    assert [record.path for record in read_annotations([home.parent / "list.txt"]).records] == [home / "a.mp4"]
    for line, words in (
        ("$X,rows.jsonl", "holds \\$X"),
        ("a\0,rows.jsonl", "holds a NUL"),
        ("x" * 5000 + ",rows.jsonl", "too long"),
    ):
        (home.parent / "list.txt").write_text(f"# first\n{line}\n")
        with pytest.raises(MediaError, match=f"list.txt, line 2: .*{words}"):
            read_annotations([home.parent / "list.txt"])
