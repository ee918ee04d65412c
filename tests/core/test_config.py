"""Settings: strict names and types, YAML 1.2, overrides, and errors that name their place."""

import json
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import Field, ValidationError, model_validator

from duosora.core.config.loading import load
from duosora.core.config.schema import ReconstructConfig, SampleConfig
from duosora.core.config.settings import Settings, list_settings, resolved
from duosora.core.config.training import TrainConfig
from duosora.core.config.verbs import SCHEMAS
from duosora.core.errors import ConfigError


class Part(Settings):
    size: Annotated[int, Field(ge=1)] = 4
    """How large."""
    share: float = 0.5


class Sampler(Settings):
    steps: Annotated[int, Field(ge=1, le=1000)] = 50
    """Calls of the
    network."""
    rate: float = 1e-4
    kind: Literal["euler", "heun"] = "euler"
    on: bool = False
    name: str = "x"
    folder: Path | None = None
    sizes: tuple[int, ...] = ()
    either: int | Literal["auto"] = "auto"
    pick: tuple[int, ...] | Literal["all"] = "all"
    tile: Part | None = None
    table: Annotated[dict[str, float], Field(default_factory=dict)]
    some: Annotated[list[int], Field(min_length=1, max_length=2)] = [1]  # noqa: RUF012
    part: Annotated[float, Field(gt=0, lt=1)] = 0.5


class Dataset(Settings):
    path: str
    """Where it is."""
    weight: float = 1.0


class Config(Settings):
    sampler: Sampler = Sampler()
    video: Part = Part()
    data: tuple[Dataset, ...] = ()
    seed: int = 42

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if self.video.size > self.sampler.steps:
            raise ValueError(f"video.size = {self.video.size} needs as many steps, not {self.sampler.steps}")
        return self


def loaded(tmp_path: Path, text: str, *overrides: str) -> Config:
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    return load(tmp_path / "x.yaml", Config, overrides)


def problem(tmp_path: Path, text: str, *overrides: str) -> str:
    """The error line, with x.yaml for the whole path."""
    with pytest.raises(ConfigError) as raised:
        loaded(tmp_path, text, *overrides)
    assert "\n" not in str(raised.value)
    return str(raised.value).replace(str(tmp_path / "x.yaml"), "x.yaml")


# Values


def test_defaults_stand_in_the_schema_once(tmp_path: Path) -> None:
    for text in ("", "# only a comment\n", "sampler:\n  # all of it commented out\n", "{}", "---\n"):
        assert loaded(tmp_path, text) == Config()
    assert load(None, Config) == Config()


def test_a_file_sets_what_it_names(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        """
        seed: 7
        sampler: {steps: 3, kind: heun, folder: out/x, sizes: [1, 2], either: 5, tile: {size: 2}, table: {1: 1}}
        video:
          share: 1e-1
          size: 2
        data:
          - path: a
          - {path: b, weight: 2}
        """,
    )
    assert config.seed == 7
    assert config.sampler.folder == Path("out/x")
    assert config.sampler.sizes == (1, 2)
    assert config.sampler.either == 5
    assert config.sampler.tile == Part(size=2)
    assert config.sampler.table == {"1": 1.0}
    assert (config.video.size, config.video.share) == (2, 0.1)
    assert [(each.path, each.weight) for each in config.data] == [("a", 1.0), ("b", 2.0)]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1E3", 1000.0), ("5", 5.0), (".5", 0.5), ("5.", 5.0), ("-1.5e+2", -150.0), ("+2", 2.0)],
)
def test_numbers_are_numbers_in_every_spelling(tmp_path: Path, text: str, value: float) -> None:
    assert loaded(tmp_path, f"sampler: {{rate: {text}}}").sampler.rate == value
    assert loaded(tmp_path, "", f"sampler.rate={text}").sampler.rate == value


@pytest.mark.parametrize(
    "text", ["no", "yes", "on", "off", "y", "2024-01-01", "1:30", "0x10", "1_000", "0b1", "=", "~x", "1e"]
)
def test_texts_are_texts_as_in_yaml_1_2(tmp_path: Path, text: str) -> None:
    assert loaded(tmp_path, f"sampler:\n  name: {text}\n").sampler.name == text
    assert loaded(tmp_path, "", f"sampler.name={text}").sampler.name == text


def test_a_leading_zero_is_no_octal_number(tmp_path: Path) -> None:
    assert loaded(tmp_path, "seed: 010").seed == 10
    assert loaded(tmp_path, "seed: 08").seed == 8


def test_anchors_and_merged_groups_work(tmp_path: Path) -> None:
    config = loaded(tmp_path, "sampler: {tile: &t {size: 3, share: 0.1}}\nvideo: {<<: *t, share: 0.9}\n")
    assert config.sampler.tile == Part(size=3, share=0.1)
    assert config.video == Part(size=3, share=0.9)
    config = loaded(tmp_path, "sampler: {tile: &t {size: 3}}\nvideo: *t\n", "video.size=2")
    assert config.sampler.tile == Part(size=3)
    assert config.video == Part(size=2)


def test_settings_are_frozen(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().seed = 3  # type: ignore[misc]


def multiplied(levels: int, times: int, form: str = "all: [{}]") -> str:
    """A text in which each line holds the one before so many times."""
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, levels):
        aliases = ",".join(f"*a{level - 1}" for _ in range(times))
        lines.append(f"a{level}: &a{level} {{{form.format(aliases)}}}")
    return "\n".join(lines)


def test_an_override_that_multiplies_is_refused() -> None:
    text = multiplied(9, 10).replace("\n", ", ")
    with pytest.raises(ConfigError, match=r"^--set video=\{a0.*with every alias written out") as raised:
        load(None, Config, [f"video={{{text}}}"])
    assert len(str(raised.value)) < 500


def test_an_alias_as_a_name_leaves_the_value_what_it_is(tmp_path: Path) -> None:
    config = loaded(tmp_path, "seed: &s 5\nsampler: {table: {*s : 1}}")
    assert (config.seed, config.sampler.table) == (5, {"5": 1.0})


def test_a_character_that_json_writes_as_two_is_one(tmp_path: Path) -> None:
    assert loaded(tmp_path, json.dumps({"sampler": {"name": "🙂"}})).sampler.name == "🙂"


def test_of_very_many_problems_some_are_told(tmp_path: Path) -> None:
    line = problem(tmp_path, f"sampler: {{sizes: [{','.join(['a'] * 3000)}]}}")
    assert "sampler.sizes.0: expected a whole number" in line
    assert len(line) < 3000


# Errors in files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sampler: {step: 3}", "x.yaml: sampler.step: unknown key, did you mean 'steps'?"),
        ("smapler: {}", "x.yaml: smapler: unknown key, did you mean 'sampler'?"),
        ("steps: 3", "x.yaml: steps: unknown key, did you mean 'sampler.steps'?"),
        ("xyz: 3", "x.yaml: xyz: unknown key; known are sampler, video, data, seed"),
        ("1: 3", "x.yaml: 1: unknown key; known are sampler, video, data, seed"),
        ("true: 3", "x.yaml: true: unknown key; known are sampler, video, data, seed"),
        ("sampler: {tile: {sise: 3}}", "x.yaml: sampler.tile.sise: unknown key, did you mean 'size'?"),
        ("data: [{path: a}, {path: b, wieght: 1}]", "x.yaml: data.1.wieght: unknown key, did you mean 'weight'?"),
        ("data: [{weight: 1}]", "x.yaml: data.0.path: is missing and has no default"),
        ("seed: 1.5", "x.yaml: seed: expected a whole number, got 1.5"),
        ("seed: 1.0", "x.yaml: seed: expected a whole number, got 1.0"),
        ("seed: '3'", 'x.yaml: seed: expected a whole number, got the text "3"'),
        ("seed: true", "x.yaml: seed: expected a whole number, got true"),
        ("seed:", "x.yaml: seed: expected a whole number, got nothing"),
        ("seed: [1]", "x.yaml: seed: expected a whole number, got a list"),
        ("seed: {a: 1}", "x.yaml: seed: expected a whole number, got a mapping"),
        ("sampler: {rate: '1'}", 'x.yaml: sampler.rate: expected a number, got the text "1"'),
        ("sampler: {rate: .nan}", "x.yaml: sampler.rate: expected a finite number, got NaN"),
        ("sampler: {rate: -.inf}", "x.yaml: sampler.rate: expected a finite number, got -Infinity"),
        ("sampler: {name: 3}", "x.yaml: sampler.name: expected a text, got 3"),
        ("sampler: {folder: 3}", "x.yaml: sampler.folder: expected a text, got 3"),
        ("sampler: {on: yes}", 'x.yaml: sampler.on: expected true or false, got the text "yes"'),
        ("sampler: {on: 1}", "x.yaml: sampler.on: expected true or false, got 1"),
        ("sampler: {kind: eular}", "x.yaml: sampler.kind: expected 'euler' or 'heun', got the text \"eular\""),
        ("sampler: {sizes: 3}", "x.yaml: sampler.sizes: expected a list, got 3"),
        ("sampler: {sizes: [1, a]}", 'x.yaml: sampler.sizes.1: expected a whole number, got the text "a"'),
        ("sampler: {either: x}", "x.yaml: sampler.either: expected a whole number or 'auto', got the text \"x\""),
        (
            "sampler: {pick: [1, x]}",
            'x.yaml: sampler.pick.1: expected a whole number, got the text "x"; '
            "sampler.pick: expected 'all', got a list",
        ),
        ("sampler: {table: {a: b}}", 'x.yaml: sampler.table.a: expected a number, got the text "b"'),
        ("sampler: {table: 3}", "x.yaml: sampler.table: expected a mapping, got 3"),
        ("sampler: {steps: 0}", "x.yaml: sampler.steps: expected at least 1, got 0"),
        ("sampler: {part: 0}", "x.yaml: sampler.part: expected more than 0.0, got 0"),
        ("sampler: {part: 1.0}", "x.yaml: sampler.part: expected less than 1.0, got 1.0"),
        ("sampler: {some: 1}", "x.yaml: sampler.some: expected a list, got 1"),
        ("sampler: {some: []}", "x.yaml: sampler.some: expected at least 1 entries, got a list"),
        ("sampler: {some: [1, 2, 3]}", "x.yaml: sampler.some: expected at most 2 entries, got a list"),
        ("sampler: {steps: 1001}", "x.yaml: sampler.steps: expected at most 1000, got 1001"),
        (
            "sampler: {tile: 3}",
            "x.yaml: sampler.tile: expected settings inside it, got 3; did you mean sampler.tile.size=3 or "
            "sampler.tile.share=3? It has size, share",
        ),
        (
            "sampler: {tile: 0.5}",
            "x.yaml: sampler.tile: expected settings inside it, got 0.5; did you mean sampler.tile.share=0.5? "
            "It has size, share",
        ),
        (
            "sampler: {tile: x}",
            'x.yaml: sampler.tile: expected settings inside it, got the text "x"; it has size, share',
        ),
        ("- 1", "x.yaml: expected settings such as `seed: 1`, got a list"),
        ("just text", 'x.yaml: expected settings such as `seed: 1`, got the text "just text"'),
        ("video: {size: 60}", "x.yaml: video.size = 60 needs as many steps, not 50"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected_and_what_came(tmp_path: Path, text: str, message: str) -> None:
    assert problem(tmp_path, text) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nvideo: {}\nseed: 2", "x.yaml:3: seed is set twice, first in line 1"),
        ("sampler:\n  steps: 1\n\n  steps: 1\n", "x.yaml:4: steps is set twice, first in line 2"),
        ("sampler: {tile: {size: 1, size: 2}}", "x.yaml:1: size is set twice, first in line 1"),
        ("seed: 1\nsampler: [1", "x.yaml:2: is not valid YAML (expected ',' or ']', but got '<stream end>')"),
        ("seed: 1\n\tsteps: 2", "x.yaml:2: is not valid YAML (found character '\\t' that cannot start any token)"),
        ("a: b: c", "x.yaml:1: is not valid YAML (mapping values are not allowed here)"),
        ("seed: 1\n---\nseed: 2", "x.yaml:2: is not valid YAML (but found another document)"),
        ("? [a]\n: 1", "x.yaml:1: the name of a setting must be a text"),
        ("video: *v", "x.yaml:1: is not valid YAML (found undefined alias 'v')"),
        ("seed: 1\n\nvideo: \x01", "x.yaml:3: is not valid YAML (special characters are not allowed)"),
        ("seed: " + "9" * 5000, "x.yaml:1: 99"),
        ("seed: !!int x", "x.yaml:1: 'x' is not !!int"),
        ("seed: !!python/object:os.x {}", "x.yaml:1: !!python/object:os.x is not read; write a"),
        ("seed: !!binary aGVsbG8=", "x.yaml:1: !!binary is not read; write a text, number"),
        ("sampler: &s {table: *s}", "x.yaml:1: *s is inside what it stands for"),
        ("[" * 700, "x.yaml: is nested too deeply"),
        ("? " * 700, "x.yaml: is nested too deeply"),
        ('seed: 1\nsampler:\n  name: "a\\ud800"\n', "x.yaml:3: a\\ud800 is not valid text (a lone surrogate)"),
        ("sampler: {on: !!bool maybe}", "x.yaml:1: 'maybe' is not !!bool"),
        ("sampler: {on: !!bool ''}", "x.yaml:1: '' is not !!bool"),
        ("seed: 1\nsampler: {rate: !!float ''}", "x.yaml:2: '' is not !!float"),
        ("sampler: {rate: !!float 1:30}", "x.yaml:1: '1:30' is not !!float"),
        ("seed: !!int 1.5", "x.yaml:1: '1.5' is not !!int"),
        ("seed: !!null x", "x.yaml:1: 'x' is not !!null"),
        ("seed: !!merge x", "x.yaml:1: 'x' is not !!merge"),
        ("seed: !!timestamp 2024-99-99", "x.yaml:1: !!timestamp is not read"),
        ("seed: !!set {a, b}", "x.yaml:1: !!set is not read"),
        ("seed: !!omap [a: 1]", "x.yaml:1: !!omap is not read"),
        ("seed: !!pairs [a: 1]", "x.yaml:1: !!pairs is not read"),
        ("seed: !mine x", "x.yaml:1: !mine is not read"),
        ("seed: !!int {}", "x.yaml:1: is not valid YAML (expected a scalar node"),
        ("seed: !!bool [x]", "x.yaml:1: is not valid YAML (expected a scalar node"),
        ("seed: !!map x", "x.yaml:1: is not valid YAML (expected a mapping node"),
        ("sampler: {rate: " + "9" * 4000 + "}", "x.yaml: sampler.rate: expected a "),
        ("sampler: {rate: 1e999}", "x.yaml: sampler.rate: expected a finite number"),
        ("sampler: {steps: " + "9" * 4000 + "}", "x.yaml: sampler.steps: expected at most 1000, got 999"),
        ("#" * 1_000_001, "x.yaml: has more than 1000000 characters"),
        (multiplied(9, 10), "x.yaml:6: holds too much: at most 50000 values or 2000000"),
        (multiplied(9, 10, "<<: [{}]"), "x.yaml:6: holds too much: at most 50000 values or 2000000"),
        ("a: &a " + "x" * 100_000 + "\nb: [" + "*a," * 30 + "]", "x.yaml:2: holds too much"),
    ],
)
def test_bad_yaml_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    assert problem(tmp_path, text).startswith(message)


def test_every_wrong_setting_is_in_the_one_line(tmp_path: Path) -> None:
    line = problem(tmp_path, "seed: x\nsampler: {step: 3, rate: y}\n", "video.size=0")
    assert line == (
        'x.yaml: sampler.rate: expected a number, got the text "y"; '
        "sampler.step: unknown key, did you mean 'steps'?; "
        '--set video.size=0: expected at least 1, got 0; x.yaml: seed: expected a whole number, got the text "x"'
    )


def test_a_long_text_is_shown_shortened(tmp_path: Path) -> None:
    assert len(problem(tmp_path, f"seed: {'x' * 1000}")) < 150


def test_unreadable_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: there is no such file"):
        load(tmp_path / "absent.yaml", Config)
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path, Config)
    (tmp_path / "latin.yaml").write_bytes("seed: ä".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml:1: is not UTF-8 text"):
        load(tmp_path / "latin.yaml", Config)


# Overrides


def test_overrides_win_over_the_file_and_the_last_over_the_others(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        "seed: 1\nsampler: {steps: 3, on: true}\nvideo: {size: 2}\n",
        "seed=2",
        "seed=3",
        "sampler.steps=4",
        "sampler.sizes=[1, 2]",
        "sampler.tile.size=9",
        "video={share: 0.25}",
        "sampler.folder=/data/a=b",
        "sampler.name=a dog, running",
    )
    assert config.seed == 3
    assert (config.sampler.steps, config.sampler.on, config.sampler.sizes) == (4, True, (1, 2))
    assert config.sampler.tile == Part(size=9)
    assert config.video == Part(share=0.25)
    assert config.sampler.folder == Path("/data/a=b")
    assert config.sampler.name == "a dog, running"


def test_nothing_after_the_sign_is_the_empty_text_and_null_is_nothing() -> None:
    assert load(None, Config, ["sampler.name="]).sampler.name == ""
    assert load(None, Config, ["sampler.folder=null"]).sampler.folder is None
    assert load(None, Config, ["sampler.tile={}", "sampler.tile=null"]).sampler.tile is None
    assert load(None, Config, ["sampler=null"]) == Config()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampler.step=3", "--set sampler.step=3: unknown key, did you mean 'steps'?"),
        ("smapler.steps=3", "--set smapler.steps=3: smapler: unknown key, did you mean 'sampler'?"),
        ("steps=3", "--set steps=3: unknown key, did you mean 'sampler.steps'?"),
        ("seed=x", '--set seed=x: expected a whole number, got the text "x"'),
        ("video={size: 0}", "--set video={size: 0}: video.size: expected at least 1, got 0"),
        ("seed=a\n b", '--set seed=a b: expected a whole number, got the text "a b"'),
        ("seed", "--set seed: expected name=value, such as sampler.steps=30"),
        ("=3", "--set =3: expected name=value, such as sampler.steps=30"),
        ("a..b=3", "--set a..b=3: expected name=value, such as sampler.steps=30"),
        ("seed.x=3", "--set seed.x=3: seed is 1 and has no settings inside"),
        ("data.0.path=x", "--set data.0.path=x: data is a list and has no settings inside"),
        ("sampler.name={} at night", "--set sampler.name={} at night: is not valid YAML "),
        ("video={size: 1, size: 2}", "--set video={size: 1, size: 2}:1: size is set twice"),
        ("sampler.name=\udcff", "--set sampler.name=\\udcff: is not valid YAML (special characters are not allowed)"),
    ],
)
def test_a_wrong_override_is_named_itself(tmp_path: Path, override: str, message: str) -> None:
    assert problem(tmp_path, "seed: 1\ndata: []\n", override).startswith(message)


def test_of_several_overrides_the_one_that_counts_is_named(tmp_path: Path) -> None:
    assert problem(tmp_path, "", "seed=1", "seed=x", "video.size=2").startswith("--set seed=x: expected a whole number")
    assert problem(tmp_path, "", "seed=x", "seed=y").startswith("--set seed=y: expected a whole number")
    named = problem(tmp_path, "", "sampler=x", "sampler.steps=3")
    assert named.startswith('--set sampler=x: expected settings inside it, got the text "x"; did you mean sampler.name')


def test_a_text_with_signs_of_yaml_needs_quotes_and_is_told_so() -> None:
    with pytest.raises(ConfigError, match="needs quotes inside the argument"):
        load(None, Config, ["sampler.name={} at night"])
    assert load(None, Config, ['sampler.name="{} at night"']).sampler.name == "{} at night"


def test_without_a_file_a_missing_setting_still_has_a_place() -> None:
    with pytest.raises(ConfigError, match="^settings: path: is missing and has no default$"):
        load(None, Dataset)


# Printing


def test_resolved_settings_are_plain_and_load_to_the_same(tmp_path: Path) -> None:
    config = loaded(tmp_path, "sampler: {folder: a/b, sizes: [1], tile: {size: 3}}\ndata: [{path: x}]")
    plain = resolved(config)
    assert json.loads(json.dumps(plain)) == plain
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(plain))
    assert load(tmp_path / "again.yaml", Config) == config
    (tmp_path / "again.json").write_text(json.dumps(plain))
    assert load(tmp_path / "again.json", Config) == config


def test_every_setting_is_listed_with_its_type_default_and_text() -> None:
    listed = {setting.path: setting for setting in list_settings(Config)}
    assert list(listed)[:3] == ["sampler.steps", "sampler.rate", "sampler.kind"]
    assert listed["sampler.steps"] == ("sampler.steps", "whole number >= 1, <= 1000", 50, "Calls of the network.")
    types = {path.rpartition(".")[2]: setting.type for path, setting in listed.items()}
    assert types["kind"] == "euler | heun"
    assert types["on"] == "true | false"
    assert types["folder"] == "path | null"
    assert types["sizes"] == "list of whole number"
    assert types["either"] == "whole number | auto"
    assert types["tile"] == "settings | null"
    assert listed["sampler.tile.size"].text == "How large."
    assert "video" not in listed


# The settings of duosora sample


@pytest.mark.parametrize("schema", [SampleConfig, ReconstructConfig])
def test_the_defaults_pass_their_own_checks(tmp_path: Path, schema: type[Settings]) -> None:
    (tmp_path / "defaults.json").write_text(json.dumps(resolved(schema())))
    assert load(tmp_path / "defaults.json", schema) == schema()


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_every_setting_is_documented(schema: type[Settings]) -> None:
    assert [setting.path for setting in list_settings(schema) if not setting.text] == []


@pytest.mark.parametrize(
    ("schema", "override", "meant"),
    [
        (TrainConfig, "learning_rate=2e-5", "learning_rate.peak=2e-05? It has peak, kind"),
        (TrainConfig, "ema=0.99", "ema.decay=0.99? It has decay"),
        (TrainConfig, "objective=flow", "objective.kind=flow? It has kind"),
        (SampleConfig, "sampler=ddim", "sampler.name=ddim? It has name"),
        (TrainConfig, "data=clips.csv", "data.files=[clips.csv]? It has kind"),
        (SampleConfig, "condition=a.jpg", "condition.images=[a.jpg]? It has images"),
        (
            SampleConfig,
            "backend.dtype=bf16",
            "backend.dtype.denoiser=bf16 or backend.dtype.text_encoder=bf16 or backend.dtype.vae=bf16? It has denoiser",
        ),
    ],
)
def test_a_value_for_a_group_names_the_settings_in_it(schema: type[Settings], override: str, meant: str) -> None:
    with pytest.raises(ConfigError) as told:
        load(None, schema, [override])
    assert f"; did you mean {meant}" in str(told.value)


CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
@pytest.mark.parametrize("verb", ["sample", "train", "reconstruct"])
def test_a_file_for_another_verb_is_told_with_its_command(verb: str, schema: type[Settings]) -> None:
    for file in sorted((CONFIGS / verb).glob("*.yaml")):
        if schema is SCHEMAS[verb]:
            load(file, schema)
            continue
        with pytest.raises(ConfigError) as told:
            load(file, schema)
        assert str(told.value).startswith(f"{file}: is a file for {verb}, not for ")
        assert str(told.value).endswith(f"--config {file}")
        assert f"; run duosora {verb} " in str(told.value)


@pytest.mark.parametrize("text", ["frames: 17", "model: {}\nframes: 17", "video: {}\nmax_steps: 3\nsampler: {}"])
def test_a_setting_in_the_wrong_place_does_not_make_a_file_anothers(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="unknown key"):
        load(file, SampleConfig)


@pytest.mark.parametrize(
    ("schema", "text", "change", "left", "notes"),
    [
        (
            SampleConfig,
            "sampler: {name: flow_euler, steps: 9, shift: 3.0, guidance: 4.0}",
            "sampler.name=ddim",
            {"sampler": {"name": "ddim", "steps": 9, "guidance": 4.0}},
            ["sampler.shift = 3.0"],
        ),
        (
            SampleConfig,
            "sampler: {name: ddim, zero_terminal_snr: true, spacing: trailing, schedule: null}",
            "sampler.name=flow_euler",
            {"sampler": {"name": "flow_euler"}},
            ['sampler.spacing = "trailing"', "sampler.zero_terminal_snr = true"],
        ),
        (
            TrainConfig,
            "objective: {kind: flow, shift: 3.0, weighting: cosmap, noise_offset: 0.1}",
            "objective.kind=epsilon",
            {"objective": {"kind": "epsilon", "noise_offset": 0.1}},
            ["objective.shift = 3.0", 'objective.weighting = "cosmap"'],
        ),
        (
            TrainConfig,
            "show: {sampler: {name: flow_euler, shift: 3.0}}",
            "show.sampler.name=ddim",
            {"show": {"sampler": {"name": "ddim"}}},
            ["show.sampler.shift = 3.0"],
        ),
        (SampleConfig, "sampler: {name: ddim, shift: 3.0}", "sampler.steps=3", None, []),
        (SampleConfig, "sampler: {name: ddim, shift: 3.0}", "sampler.name=ddim", None, []),
        (SampleConfig, "sampler: {shift: 3.0}", "sampler.name=nobody", None, []),
    ],
)
def test_another_choice_leaves_out_what_only_the_former_one_had(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    schema: type[Settings],
    text: str,
    change: str,
    left: dict | None,
    notes: list[str],
) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    caplog.set_level("INFO", logger="duosora")
    settings = load(file, schema, [change])
    assert [line.partition(" in ")[0] for line in caplog.messages] == notes
    if left is not None:
        assert settings.model_dump(mode="json", exclude_unset=True) == left
    chosen = "3.0" if "shift: 3.0" in text else "trailing"
    assert (chosen in settings.model_dump_json(exclude_unset=True)) == (left is None)


def test_what_is_set_beside_a_choice_on_the_command_line_stays(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("sampler: {name: flow_euler, shift: 3.0}")
    settings = load(file, SampleConfig, ["sampler.name=ddim", "sampler.shift=2.0"])
    assert settings.sampler.shift == 2.0
