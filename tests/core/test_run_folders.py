"""Models of one's own runs: what a path means, and what a checkpoint says of its companions and its training."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from duosora.core import recipes
from duosora.core.config.schema import ModelSettings, SampleConfig
from duosora.core.config.settings import read, resolved, with_setting
from duosora.core.config.training import TrainConfig
from duosora.core.errors import CheckpointError, ConfigError
from duosora.core.models import opensora_t2v
from duosora.core.models.finding import TINY_FOLDER, open_part
from duosora.core.models.run_folders import MANIFEST, STATE, RunRecord, model_folder
from duosora.core.pipelines.fitting import check_scale
from duosora.core.pipelines.following import prompts_for, sampled, trained
from duosora.core.pipelines.practice import facts_of
from duosora.core.pipelines.settings import open_parts, pinned
from duosora.core.recipes.opensora_plan_v1_3 import NEGATIVE_PROMPT
from duosora.core.train.checkpoints import Checkpoints

WEIGHTS = "diffusion_pytorch_model.safetensors"
PLAN = "opensora_plan_v1_3_t2v"
FLOW = {"objective": {"kind": "flow", "shift": 2.0}}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config_of(kind: Any, **values: Any) -> Any:
    return kind.model_validate_json(json.dumps(values))


def make_run(
    folder: str,
    *steps: int,
    kind: str = "denoiser",
    keeps_ema: bool = True,
    said: dict[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """A run of stand-ins for weights. said: what checkpoints of today tell beside the settings."""
    config = config_of(TrainConfig, folder=folder, **settings)
    is_plan = config.model.denoiser == PLAN
    begun = trained(with_setting(config, "model.denoiser", PLAN if is_plan else "tiny")).config
    run = {"config": resolved(begun) | {"model": resolved(config.model)}, **(said or {})}

    def write(checkpoint: Path) -> None:
        for name in ("model", "model_ema")[: 1 + keeps_ema]:
            make_model(checkpoint / name, kind)
        (checkpoint / STATE).write_text(json.dumps({"step": 1, "guard": {}, "run": run}))

    for step in steps:
        Checkpoints(Path(folder)).save(step, write)
    return Path(folder)


def make_model(folder: Path, kind: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes((TINY_FOLDER / kind / "config.json").read_bytes())
    (folder / WEIGHTS).write_bytes(bytes(100))
    return folder


def lose_manifest(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).unlink()


def damage_manifest(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).write_text("{")


def cut_weights(checkpoint: Path) -> None:
    (checkpoint / "model_ema" / WEIGHTS).write_bytes(b"")


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("runs/mine", "runs/mine/checkpoint-100/model_ema"),
        ("runs/mine/checkpoint-20", "runs/mine/checkpoint-20/model_ema"),
        ("runs/mine/checkpoint-20/model", "runs/mine/checkpoint-20/model"),
        ("runs/plain", "runs/plain/checkpoint-1/model"),
        ("runs/plain/checkpoint-1", "runs/plain/checkpoint-1/model"),
        ("best", "best/model_ema"),
        ("latest", "latest/model_ema"),
    ],
)
def test_a_run_and_a_checkpoint_mean_the_average_or_the_weights(path: str, meant: str) -> None:
    make_run("runs/mine", 20, 100, 3)
    make_run("runs/plain", 1, keeps_ema=False)
    make_run("runs/other", 5)
    Path("runs/other/checkpoint-5").rename("best")
    Path("latest").symlink_to("runs/mine/checkpoint-20")
    assert model_folder(Path(path)) == (Path(meant), ())
    assert open_part("denoiser", path).source == meant


def test_a_checkpoint_is_known_from_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_run("runs/mine", 20) / "checkpoint-20")
    assert open_part("denoiser", ".").source == "model_ema"
    assert open_parts(ModelSettings(denoiser="model_ema")).vae.source == "tiny"


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lose_manifest, "manifest.json is missing: it was not copied whole, or another program wrote it"),
        (damage_manifest, "manifest.json cannot be read"),
        (cut_weights, f"model_ema/{WEIGHTS} is missing or cut off"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_passed_over(harm: Callable[[Path], None], reason: str) -> None:
    run = make_run("runs/mine", 10, 20)
    harm(run / "checkpoint-20")
    part = open_part("denoiser", "runs/mine")
    assert part.source == "runs/mine/checkpoint-10/model_ema"
    assert part.notes[0].startswith(f"passed over runs/mine/checkpoint-20: {reason}")
    with pytest.raises(CheckpointError, match=rf"^runs/mine/checkpoint-20: {reason}.*; name another checkpoint"):
        open_part("denoiser", "runs/mine/checkpoint-20")
    harm(run / "checkpoint-10")
    with pytest.raises(CheckpointError, match=rf"^runs/mine: holds no whole checkpoint \(passed over .*{reason}"):
        open_part("denoiser", "runs/mine")


def test_what_other_tools_call_a_checkpoint_is_a_folder_like_others() -> None:
    make_model(Path("out/checkpoint-500"), "denoiser").joinpath("config.json").unlink()
    assert model_folder(Path("out/checkpoint-500")) == (Path("out/checkpoint-500"), ())


def test_the_weights_are_meant_where_no_average_is_wanted() -> None:
    make_run("runs/mine", 10, 20)
    assert model_folder(Path("runs/mine"), average=False).path == Path("runs/mine/checkpoint-20/model")
    assert model_folder(Path("runs/mine/checkpoint-10"), average=False).path == Path("runs/mine/checkpoint-10/model")


def test_a_run_without_a_checkpoint_says_so() -> None:
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine/config.yaml").touch()
    with pytest.raises(CheckpointError, match="^runs/mine: is the folder of a run that has no checkpoint yet"):
        open_part("denoiser", "runs/mine")


def test_optimiser_state_may_be_gone() -> None:
    run = make_run("runs/mine", 10)
    manifest = json.loads((run / "checkpoint-10" / MANIFEST).read_text())
    manifest["files"]["optimizer.safetensors"] = {"size": 1, "sha256": ""}
    (run / "checkpoint-10" / MANIFEST).write_text(json.dumps(manifest))
    assert open_part("denoiser", "runs/mine").source == "runs/mine/checkpoint-10/model_ema"


@pytest.mark.parametrize("path", ["runs/mine", "runs/mine/checkpoint-1", "runs/mine/checkpoint-1/model"])
def test_companions_are_those_that_a_run_was_trained_with(path: str) -> None:
    make_model(Path("models/vae"), "vae")
    make_run("runs/mine", 1, model={"denoiser": "tiny", "vae": "models/vae"})
    parts = open_parts(ModelSettings(denoiser=path))
    assert (parts.text_encoder.source, parts.vae.source) == ("tiny", "models/vae")
    chosen = open_parts(ModelSettings(denoiser=path, vae=TINY_FOLDER / "vae"))
    assert chosen.vae.source == str(TINY_FOLDER / "vae")


def test_a_tokenizer_goes_with_the_text_encoder_of_the_record() -> None:
    make_model(Path("models/text"), "text_encoder")
    (Path("words")).mkdir()
    (Path("words/spiece.model")).write_bytes((TINY_FOLDER / "spiece.model").read_bytes())
    make_run("runs/mine", 1, model={"text_encoder": "models/text", "tokenizer": "words", "vae": "tiny"})
    parts = open_parts(ModelSettings(denoiser="runs/mine"))
    assert (parts.text_encoder.source, parts.tokenizer.source) == ("models/text", "words/spiece.model")
    assert open_parts(ModelSettings(denoiser="runs/mine", text_encoder=Path("tiny"))).tokenizer.source == str(
        TINY_FOLDER / "spiece.model"
    )


def test_companions_are_found_from_elsewhere_and_after_a_move(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(Path("project/models/vae"), "vae")
    monkeypatch.chdir("project")
    make_run("runs/mine", 1, model={"denoiser": "tiny", "vae": "models/vae"})
    monkeypatch.chdir(here)
    Path("project").rename("moved")
    vae = open_parts(ModelSettings(denoiser="moved/runs/mine")).vae
    assert vae.source == str(here / "moved/models/vae")


def test_companions_are_found_where_the_run_was_started(here: Path) -> None:
    make_model(Path("project/models/vae"), "vae")
    said = {"models": {"vae": "models/vae"}, "started_in": str(here / "project")}
    make_run(str(here / "disk/mine"), 1, said=said)
    assert open_parts(ModelSettings(denoiser="disk/mine")).vae.source == str(here / "project/models/vae")


def test_the_checkpoint_that_a_run_was_trained_with_counts_not_a_newer_one() -> None:
    make_run("runs/vae", 1, 2, kind="vae")
    said = {"models": {"vae": "runs/vae/checkpoint-1/model_ema", "text_encoder": "tiny"}}
    make_run("runs/mine", 1, said=said, model={"denoiser": "tiny", "vae": "runs/vae"})
    assert open_parts(ModelSettings(denoiser="runs/mine")).vae.source == "runs/vae/checkpoint-1/model_ema"
    assert open_parts(ModelSettings(denoiser="tiny", vae=Path("runs/vae"))).vae.source.startswith(
        "runs/vae/checkpoint-2"
    )


def test_a_companion_that_is_gone_is_told_in_a_line() -> None:
    make_run("runs/mine", 1, model={"denoiser": "tiny", "vae": "models/gone"})
    message = (
        r"^model.vae: runs/mine/checkpoint-1 was trained with models/gone, which is not there \(models/gone\); name"
    )
    with pytest.raises(ConfigError, match=message):
        open_parts(ModelSettings(denoiser="runs/mine"))


def test_what_a_run_found_is_pinned_for_its_sidecars() -> None:
    make_run("runs/vae", 1, kind="vae")
    make_run("runs/mine", 1, model={"denoiser": "tiny"})
    model = ModelSettings(denoiser="runs/mine", vae=Path("runs/vae"))
    assert pinned(model, open_parts(model)) == ModelSettings(
        denoiser="runs/mine/checkpoint-1/model_ema",
        text_encoder=Path("tiny"),
        vae=Path("runs/vae/checkpoint-1/model_ema"),
    )
    assert pinned(ModelSettings(), open_parts(ModelSettings())) == ModelSettings()


@pytest.mark.parametrize("content", ["{", '{"run": 3}', '{"run": {"config": [1]}}', '{"step": 1}'])
def test_a_record_that_cannot_be_read_is_told_in_a_line(content: str) -> None:
    state = make_run("runs/mine", 1) / "checkpoint-1" / STATE
    state.write_text(content)
    for reads in (open_parts, lambda model: sampled(SampleConfig(model=model))):
        with pytest.raises(CheckpointError, match="^runs/mine/checkpoint-1/state.json: cannot be read as the state"):
            reads(ModelSettings(denoiser="runs/mine"))


def test_a_model_is_sampled_as_its_run_trained_it() -> None:
    make_run("runs/mine", 1, **FLOW, data={"frames": 33, "height": 96, "width": 64, "fps": 12}, max_tokens=40)
    given = config_of(SampleConfig, model={"denoiser": "runs/mine"}, sampler={"steps": 7})
    config, lines, notes, _ = sampled(given, {"sampler.steps"})
    sampler, video = config.sampler, config.video
    assert (sampler.name, sampler.shift, sampler.steps) == ("flow_euler", 2.0, 7)
    assert (video.frames, video.height, video.width, video.fps) == (33, 96, 64, 12.0)
    assert (config.prompts.max_tokens, config.prompts.template) == (40, "{}")
    assert lines == [
        'recipe     tiny: sampler name flow_euler, guidance 4.0; prompts template "{}", negative ""; '
        "condition max_area 236544",
        "run        runs/mine/checkpoint-1: sampler shift 2.0; video frames 33, height 96, width 64, fps 12.0; prompts "
        "max_tokens 40",
        "--set      sampler steps 7",
    ]
    assert notes == []


def test_a_schedule_follows_the_run_whichever_sampler_is_chosen() -> None:
    objective = {"kind": "epsilon", "schedule": "scaled_linear", "zero_terminal_snr": False}
    make_run("runs/mine", 1, model={"denoiser": "opensora_plan_v1_3_t2v"}, objective=objective)
    for chosen in ({}, {"name": "ddim"}):
        sampler = sampled(config_of(SampleConfig, model={"denoiser": "runs/mine"}, sampler=chosen)).config.sampler
        assert (sampler.objective, sampler.schedule, sampler.zero_terminal_snr) == ("epsilon", "scaled_linear", False)
    assert sampler.name == "ddim"


def test_a_run_that_went_on_from_another_keeps_what_that_one_had() -> None:
    make_run("runs/one", 1, **FLOW)
    make_run("runs/two", 1, model={"denoiser": "runs/one"}, **FLOW)
    assert sampled(config_of(SampleConfig, model={"denoiser": "runs/two"})).config.sampler.guidance == 4.0
    make_run("runs/three", 1, model={"denoiser": "runs/three"}, **FLOW)  # no end, if it were followed
    assert sampled(config_of(SampleConfig, model={"denoiser": "runs/three"})).config.sampler.name == "flow_euler"


def test_a_record_of_what_no_setting_can_be_is_told_in_a_line() -> None:
    state = make_run("runs/mine", 1, **FLOW) / "checkpoint-1" / STATE
    state.write_text(state.read_text().replace('"shift": 2.0', '"shift": "wide"'))
    with pytest.raises(CheckpointError, match=r"^run runs/mine/checkpoint-1: sampler.shift = 'wide', which no"):
        sampled(config_of(SampleConfig, model={"denoiser": "runs/mine"}))


def test_the_tiny_model_is_sampled_as_a_flow() -> None:
    config, lines, notes, _ = sampled(SampleConfig())
    sampler = config.sampler
    assert (sampler.name, sampler.steps, sampler.shift, sampler.guidance) == ("flow_euler", 25, 3.0, 4.0)
    assert (config.video.frames, config.video.height, config.prompts.negative) == (17, 64, "")
    assert config.model.recipe == "tiny"
    assert [line.partition(":")[0] for line in lines] == ["recipe     tiny"]
    assert not notes


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"name": "ddim"}, {"objective": "v_prediction", "schedule": "linear", "shift": None}),
        ({"name": "flow_euler"}, {"objective": None, "schedule": None, "shift": 3.0}),
        ({"name": "flow_euler", "shift": 1.5}, {"shift": 1.5}),
        ({"name": "flow_euler", "shift": None}, {"shift": None}),
    ],
)
def test_a_chosen_sampler_takes_what_it_has_a_use_for(given: dict[str, Any], taken: dict[str, Any]) -> None:
    config, _, notes, _ = sampled(config_of(SampleConfig, sampler=given))
    assert {name: getattr(config.sampler, name) for name in given | taken} == given | taken
    assert (config.sampler.steps, config.sampler.guidance) == (25, 4.0)
    assert len(notes) == (given["name"] == "ddim")
    contradiction = "sampler.name = ddim expects v_prediction, but the tiny model was trained with flow"
    assert all(note.startswith(contradiction) for note in notes)


def test_settings_that_are_all_given_stay_as_they_are() -> None:
    for denoiser in ("tiny", PLAN):
        given = sampled(SampleConfig(model=ModelSettings(denoiser=denoiser))).config
        again = read(SampleConfig, resolved(given))
        assert sampled(again).config == given == again
        assert [line.split()[0] for line in sampled(again).lines] == ["file"]


def test_published_models_keep_the_published_practice() -> None:
    Path("models/plan").mkdir(parents=True)
    Path("models/plan/config.json").write_text(json.dumps(opensora_t2v.T2V_2B.to_config()))
    for denoiser in (PLAN, "models/plan"):
        config, lines, notes, _ = sampled(config_of(SampleConfig, model={"denoiser": denoiser}))
        assert (config.sampler.name, config.sampler.steps, config.video.height) == ("euler_ancestral", 100, 352)
        assert config.prompts.negative == NEGATIVE_PROMPT
        assert ([line.split()[1] for line in lines], notes) == (["opensora_plan_v1_3:"], [])
        config, _, notes, _ = trained(config_of(TrainConfig, model={"denoiser": denoiser}))
        assert (config.objective.kind, config.objective.snr_gamma, notes) == ("v_prediction", 5.0, [])


def test_a_folder_with_the_spec_of_a_preset_has_its_recipe() -> None:
    make_model(Path("models/copy"), "denoiser")
    config = sampled(config_of(SampleConfig, model={"denoiser": "models/copy"})).config
    assert (config.model.recipe, config.sampler.steps) == ("tiny", 25)


@pytest.mark.parametrize("model", [{}, {"denoiser": "tiny_inpaint"}])
@pytest.mark.parametrize("fresh", [False, True])
def test_the_tiny_model_is_trained_as_a_flow(model: dict[str, str], fresh: bool) -> None:
    followed = trained(config_of(TrainConfig, model=model, start={"fresh": fresh}))
    objective = followed.config.objective
    assert (objective.kind, objective.shift) == ("flow", 3.0)
    assert "; max_tokens 512; objective kind flow, shift 3.0; objective.t" in followed.lines[0]


def test_another_objective_is_allowed_with_a_note() -> None:
    followed = trained(config_of(TrainConfig, objective={"kind": "v_prediction"}))
    objective = followed.config.objective
    assert (objective.kind, objective.shift, objective.schedule) == ("v_prediction", None, "linear")
    assert followed.notes[0].startswith("objective.kind = v_prediction, but the tiny model was trained with flow")
    fresh = config_of(TrainConfig, objective={"kind": "v_prediction"}, start={"fresh": True})
    assert trained(fresh).notes == []


@pytest.mark.parametrize("settings", [{"model": {"denoiser": "runs/mine"}}, {"start": {"weights": "runs/mine"}}])
def test_training_goes_on_with_the_objective_of_the_weights(settings: dict[str, Any]) -> None:
    make_run("runs/mine", 1, **FLOW)
    objective = trained(config_of(TrainConfig, **settings)).config.objective
    assert (objective.kind, objective.shift) == ("flow", 2.0)


@pytest.mark.parametrize(
    ("recipe", "objective", "told"),
    [
        ("tiny", {"kind": "epsilon", "bound": "hybrid"}, "hybrid"),
        ("tiny", {"kind": "epsilon", "bound": None}, None),
        ("dit_imagenet", {"kind": "epsilon", "bound": "hybrid"}, None),
        ("dit_imagenet", {"kind": "epsilon", "bound": "rescaled"}, "rescaled"),
        ("dit_imagenet", {"kind": "epsilon", "bound": None}, "none"),
        ("dit_imagenet", {"kind": "flow"}, "none"),
    ],
)
def test_a_run_tells_the_bound_that_its_recipe_has_not(recipe: str, objective: Any, told: str | None) -> None:
    record = RunRecord(Path("checkpoint-1"), {"objective": objective}, {}, None)
    sampling, training = facts_of(record, recipes.named(recipe))
    assert training.get("objective.bound") == told
    assert "sampler.bound" not in sampling


@pytest.mark.parametrize(("bound", "variance"), [("none", "fixed_large"), ("hybrid", "learned_range")])
def test_a_variance_is_read_where_a_bound_taught_it(bound: str, variance: str) -> None:
    model = {"denoiser": "dit_xl_2", "recipe": "dit_imagenet"}
    make_run("runs/mine", 1, model=model, objective={"kind": "epsilon", "bound": bound})
    options = {"sections": "10,15,20"}  # what is set beside it does not take its place
    for given, expected in (({}, variance), (options, variance), ({"variance": "fixed_small"}, "fixed_small")):
        followed = sampled(
            config_of(SampleConfig, model={"denoiser": "runs/mine"}, sampler={"name": "iddpm", "options": given})
        )
        assert followed.config.sampler.options == {**given, "variance": expected}
    others = sampled(config_of(SampleConfig, model={"denoiser": "runs/mine"}, sampler={"name": "ddim"}))
    assert others.config.sampler.options == {}
    plan = sampled(config_of(SampleConfig, model={"denoiser": "runs/mine"}, sampler={"name": "iddpm"})).lines
    assert any(line.startswith("run ") and variance in line for line in plan)


def test_a_run_that_was_begun_before_keeps_its_objective() -> None:
    make_run("runs/mine", 1, objective={"kind": "v_prediction"})
    followed = trained(config_of(TrainConfig, folder="runs/mine"), Path("runs/mine"))
    assert followed.config.objective.kind == "v_prediction"
    assert followed.notes == []


def test_what_a_run_shows_is_sampled_as_it_trains() -> None:
    settings = {"show": {"every": 5, "video": {"frames": 5}}, "data": {"frames": 33, "height": 64, "width": 64}}
    show = trained(config_of(TrainConfig, **settings)).config.show
    assert (show.sampler.name, show.sampler.shift, show.video.frames, show.video.height) == ("flow_euler", 3.0, 5, 64)
    settings["show"] = {"every": 5, "sampler": {"name": "euler"}}
    sampler = trained(config_of(TrainConfig, **settings)).config.show.sampler
    assert (sampler.name, sampler.objective, sampler.shift) == ("euler", "v_prediction", None)


def test_prompts_are_read_as_captions_where_a_model_knows_no_others() -> None:
    make_run("runs/shapes", 1, data={"kind": "moving_shapes"})
    make_run("runs/clips", 1, data={"kind": "files"})
    for denoiser, text in (("tiny", "a red dog"), ("runs/shapes", "a red dog"), ("runs/clips", "A Red DOG.")):
        practice = sampled(config_of(SampleConfig, model={"denoiser": denoiser})).practice
        texts, negatives, notes = prompts_for(practice, ["A Red DOG."], [NEGATIVE_PROMPT, "A DOG", None])
        assert (texts, negatives[::2]) == ([text], [NEGATIVE_PROMPT, None])
        told = "tiny model" if denoiser == "tiny" else f"{denoiser}/checkpoint-1"
        assert len(notes) == (denoiser != "runs/clips")
        assert not notes or f"{told} has never seen dog; it knows sentences such as" in notes[0]


def test_a_note_names_few_of_many_unseen_words() -> None:
    practice = sampled(SampleConfig()).practice
    (note,) = prompts_for(practice, [f"a word{number}" for number in range(20)]).notes
    assert "word0, word1, word2, word3, word4, word5, word6, word7 and 12 more; it knows" in note


# The scale of latents


def scaled_vae(folder: str) -> str:
    """The folder of an autoencoder like the tiny one, but for the scale of its latents."""
    make_model(Path(folder), "vae")
    config = Path(folder) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scale": [2.0] * 8}))
    return folder


def test_an_autoencoder_of_another_scale_than_a_run_was_trained_with_is_refused() -> None:
    make_run("runs/mine", 20)
    tiny, denoiser = recipes.named("tiny"), open_part("denoiser", "runs/mine")
    other = open_part("vae", scaled_vae("other"))
    model = ModelSettings(denoiser="runs/mine", vae=Path("other"))
    with pytest.raises(ConfigError, match="latents have shift .* and scale 2, but runs/mine/.* tiny, with"):
        check_scale(model, tiny, denoiser, other)
    check_scale(model, tiny, denoiser, open_part("vae", "tiny"))
    make_run("runs/other", 20, model={"denoiser": "tiny", "vae": "other"})
    check_scale(
        ModelSettings(denoiser="runs/other", vae=Path("other")), tiny, open_part("denoiser", "runs/other"), other
    )


def test_an_autoencoder_of_another_scale_than_published_models_have_is_refused() -> None:
    plan, other = recipes.named("opensora_plan_v1_3"), open_part("vae", scaled_vae("other"))
    published = opensora_t2v.T2V_2B
    for spec, told in ((published, "with shift 0 and scale 0.1822"), (replace(published, num_layers=2), None)):
        Path("t2v").mkdir(exist_ok=True)
        Path("t2v/config.json").write_text(json.dumps(spec.to_config()))
        denoiser, model = open_part("denoiser", "t2v"), ModelSettings(denoiser="t2v", vae=Path("other"))
        with pytest.raises(ConfigError, match=told) if told else nullcontext():
            check_scale(model, plan, denoiser, other)
        check_scale(model, plan, denoiser, open_part("vae", "wfvae_d8_4x8x8"))
