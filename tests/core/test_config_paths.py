"""Settings files by short names, and relative paths inside them: what is read lies beside the file or here."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from duosora.core.config import beside
from duosora.core.config.loading import load
from duosora.core.config.schema import EvaluateConfig, ReconstructConfig, SampleConfig
from duosora.core.config.settings import Settings, list_settings, resolved
from duosora.core.config.shipped import settings_file, shipped_names
from duosora.core.config.training import TrainConfig
from duosora.core.config.verbs import SCHEMAS
from duosora.core.errors import ConfigError

ROOT = Path(__file__).parents[2]
MODELS = ("model.denoiser", "vae")
"""Settings that are the name of a preset, or a path."""


def nested(path: str, value: object) -> dict:
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def value_of(settings: Settings, path: str) -> object:
    value = resolved(settings)
    for name in path.split("."):
        value = value[name]
    return value[0] if isinstance(value, list) else value


def path_settings() -> Iterator[tuple[type[Settings], str, bool]]:
    for schema in SCHEMAS.values():
        for setting in list_settings(schema):
            if "path" in setting.type or (setting.path in MODELS and setting.type == "text"):
                yield schema, setting.path, "list" in setting.type


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the settings file, with files in it; another one beside it is the current folder."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    for folder in ("here", "there"):
        for name in ("both", f"only {folder}", "both.txt"):
            (tmp_path / folder / name).touch()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "there"


def written(folder: Path, values: object) -> Path:
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    "name", ["sample/tiny", "sample/tiny.yaml", "configs/sample/tiny.yaml", "./configs/sample/tiny"]
)
def test_shipped_settings_have_short_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(name, SampleConfig) == load(ROOT / "configs" / "sample" / "tiny.yaml", SampleConfig)


def test_every_settings_file_comes_with_the_package() -> None:
    files = {path.relative_to(ROOT / "configs").with_suffix("") for path in (ROOT / "configs").glob("*/*.yaml")}
    assert set(shipped_names()) == set(map(str, files))
    assert len(files) > 15


def test_a_file_that_is_there_wins_over_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("configs/sample").mkdir(parents=True)
    Path("configs/sample/tiny.yaml").write_text("seed: 5", encoding="utf-8")
    assert load("configs/sample/tiny.yaml", SampleConfig) == SampleConfig(seed=5)
    Path("sample/tiny").mkdir(parents=True)  # a folder is no file
    assert settings_file(Path("sample/tiny")) != Path("sample/tiny")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sample/tyni", "sample/tyni: there is no such file; the nearest of those that come with duosora: sample/tiny"),
        ("configs/sample/tinny.yaml", "sample/tiny"),
        ("tiny", "reconstruct/tiny, sample/tiny"),
        ("train/wfvae", "train/wfvae_stage"),
        ("opensora_plan_v1_3_t2v.yaml", "sample/opensora_plan_v1_3_t2v"),
        ("sample", "sample: there is no such file; the nearest of those that come with duosora: sample/"),
    ],
)
def test_a_wrong_name_lists_the_nearest(name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load(name, SampleConfig)
    assert words in str(caught.value)


def test_another_file_that_is_missing_lists_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mine\.yaml: there is no such file$"):
        load(tmp_path / "mine.yaml", SampleConfig)


@pytest.mark.parametrize(("schema", "path", "is_list"), list(path_settings()), ids=str)
def test_what_is_read_lies_beside_the_file_first_and_then_here(
    schema: type[Settings], path: str, is_list: bool, elsewhere: Path
) -> None:
    def found(name: str) -> object:
        value = [name] if is_list else name
        return value_of(load(written(elsewhere, nested(path, value)), schema), path)

    if path in beside.WRITTEN:
        assert (found("both"), found("only there")) == ("both", "only there")
    else:
        assert found("both") == str(elsewhere / "both")
        assert found("only there") == str(elsewhere / "only there")
        assert found("../there/both") == str(elsewhere / "both")
    assert (found("only here"), found("nowhere")) == ("only here", "nowhere")
    assert found(str(elsewhere / "both")) == str(elsewhere / "both")


def test_all_that_is_written_is_a_setting() -> None:
    paths = {path for _, path, _ in path_settings()}
    assert set(beside.WRITTEN) <= paths
    assert {setting.path for schema in SCHEMAS.values() for setting in list_settings(schema)} >= set(beside.PROMPTS)


def test_files_of_prompts_lie_beside_the_file_and_prompts_stay(elsewhere: Path) -> None:
    file = written(elsewhere, {"prompts": {"sources": ["both.txt", "both", "absent.txt"]}})
    assert load(file, SampleConfig).prompts.sources == (str(elsewhere / "both.txt"), "both", "absent.txt")
    file = written(elsewhere, {"show": {"prompts": ["both.txt"]}})
    assert load(file, TrainConfig).show.prompts == (str(elsewhere / "both.txt"),)


def test_options_are_of_the_current_folder(elsewhere: Path) -> None:
    file = written(elsewhere, {"vae": "both"})
    assert load(file, ReconstructConfig, ["vae=only there"]).vae == "only there"
    assert load(file, ReconstructConfig, ["vae=both"]).vae == "both"


def test_the_name_of_a_preset_is_no_path(elsewhere: Path) -> None:
    (elsewhere / "tiny").mkdir()
    file = written(elsewhere, {"model": {"denoiser": "tiny", "vae": "tiny"}})
    assert load(file, SampleConfig).model.denoiser == "tiny"
    assert load(file, SampleConfig).model.vae == Path("tiny")


def test_below_the_current_folder_paths_stay_relative(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(elsewhere.parent)
    file = written(elsewhere, {"lpips": "both"})
    for given in (file, Path("there/settings.yaml"), Path("here/../there/settings.yaml")):
        assert load(given, EvaluateConfig).lpips == Path("there/both")
    monkeypatch.chdir(elsewhere)
    assert load("settings.yaml", EvaluateConfig).lpips == Path("both")


def test_saved_settings_are_the_same_again(elsewhere: Path) -> None:
    config = load(written(elsewhere, {"data": {"files": ["both", "only here"]}, "folder": "run"}), TrainConfig)
    run = Path("run")
    run.mkdir()
    assert load(written(run, resolved(config)), TrainConfig) == config


@pytest.mark.parametrize("values", [{"data": {"files": 3}}, {"data": {"files": [["a"]]}}, {"data": 3}, {3: "a"}])
def test_wrong_values_are_told_as_ever(values: dict, elsewhere: Path) -> None:
    with pytest.raises(ConfigError, match=r"settings\.yaml"):
        load(written(elsewhere, values), TrainConfig)
