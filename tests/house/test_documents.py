"""What docs/migrating.md and launch scripts say holds: settings exist, recipes and commands make files that load."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from duosora.core.config.schema import EvaluateConfig, ReconstructConfig, SampleConfig
from duosora.core.config.settings import list_settings
from duosora.core.config.training import TrainConfig
from duosora.core.io.weights import open_weights
from duosora.core.layout import Constant, FreshWeights, Layout
from duosora.core.loading import checked_weights
from duosora.core.models import t5, wfvae
from duosora.core.models.lpips import LPIPSSpec, open_lpips

ROOT = Path(__file__).parents[2]
SCHEMAS = (SampleConfig, ReconstructConfig, EvaluateConfig, TrainConfig)
PAGE = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
MT5_COMMAND, WFVAE_COMMAND = re.findall(r"^duosora (convert .*)$", PAGE, re.MULTILINE)
LINES = [path for path in sorted((ROOT / "scripts").glob("*/*.sh")) if path.stem not in ("launch", "slurm")]
EVALUATION_PAGE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
(LPIPS_RECIPE,) = re.findall(r"```python\n(.*?)```", EVALUATION_PAGE, re.DOTALL)


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without the table's own two head lines."""
    marks = "##" if f"\n## {heading}\n" in PAGE else "###"
    text = PAGE.partition(f"\n{marks} {heading}\n")[2].partition("\n##")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize(
    ("heading", "schema"),
    [
        ("sample.py", SampleConfig),
        ("rec_video.py, rec_image.py and rec_video_vae.py", ReconstructConfig),
        ("eval.py", EvaluateConfig),
        ("train_t2v_diffusers.py, train_inpaint.py and train_causalvae.py: data", TrainConfig),
        ("train_t2v_diffusers.py and train_inpaint.py", TrainConfig),
        ("train_causalvae.py", TrainConfig),
        ("sample.py of MindONE", SampleConfig),
        ("rec_video.py, rec_image.py and rec_video_folder.py of MindONE", ReconstructConfig),
        ("train_t2v_diffusers.py of MindONE", TrainConfig),
        ("train_causalvae.py of MindONE", TrainConfig),
        ("sample_text_embed.py of MindONE", TrainConfig),
        ("Flags of all scripts of MindONE", TrainConfig),
    ],
)
def test_settings_in_the_tables_exist(heading: str, schema: type) -> None:
    known = {setting.path for setting in list_settings(schema)}
    here = [setting for row in rows(heading) for setting in re.findall(r"`([^`]+)`", row[2])]
    assert len(here) >= 5
    assert [setting for setting in here if not setting.startswith("--") and setting not in known] == []


NAMED = "--precision --parallel_mode --zero_stage --val_data --validate --val_interval --data_file_path --video_column"
TOOLS = ("rec_video_folder", "sample_text_embed", "convert_wfvae", "merge_safetensors", "msrun")


def test_what_mindones_pages_name_has_a_row() -> None:
    section = PAGE.partition("\n## Coming from MindONE\n")[2]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    for name in (*NAMED.split(), "--ms_checkpoint", *TOOLS):
        assert any(name in row.split("|")[1] for row in rows), name
    flags = [row.split("|") for row in rows if row.startswith("| `--") and row.count("|") == 5]
    assert len(flags) > 100
    assert [cells[1] for cells in flags if not cells[3].strip()] == []


def test_settings_in_the_text_of_mindones_tables_exist() -> None:
    """In every cell, whatever the verb."""
    known = {setting.path for schema in SCHEMAS for setting in list_settings(schema)}
    section = PAGE.partition("\n### msrun\n")[2]
    named = {name for name in re.findall(r"`([a-z_]+\.[a-z_.]+)`", section) if not name.endswith((".py", "."))}
    assert len(named) > 40
    assert sorted(named - known) == []


def test_the_verbs_of_mindones_tables_and_their_options_exist() -> None:
    section = PAGE.partition("\n## Coming from MindONE\n")[2]
    commands = [line.split() for line in re.findall(r"`duosora ([^`]+)`", section)]
    assert len(commands) > 10
    for verb, *words in commands:
        own = words[: words.index("--")] if "--" in words else words
        names = [verb, *(word for word in own if verb == "cache" and not word.startswith("-"))][:2]
        for option in (word for word in own if word.startswith("-")):
            assert re.search(rf"(?<!\S){option}(?![\w-])", shown_help(*names)), (names, option)


def test_the_options_of_launch_in_msruns_table_exist() -> None:
    options = [option for row in rows("msrun") for option in re.findall(r"`(-[^`]+)`", row[2])]
    assert len(options) >= 6
    assert [option for option in options if option not in re.split(r"[\s,]+", shown_help("launch"))] == []


@cache
def shown_help(*verb: str) -> str:
    command = [sys.executable, "-m", "duosora", *verb, "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("script", LINES, ids=lambda script: f"{script.parent.name}/{script.stem}")
def test_settings_in_scripts_exist(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    schema = {"sample": SampleConfig, "reconstruct": ReconstructConfig, "train": TrainConfig}[
        re.findall(r'^exec .*(?:duosora|launch.sh") (\w+)', text, re.M)[0]
    ]
    named = set(re.findall(r"--set ([\w.]+)=", text))
    assert named
    assert named <= {setting.path for setting in list_settings(schema)}
    assert os.access(script, os.X_OK)


def run(recipe: str, folder: Path) -> None:
    subprocess.run([sys.executable, "-c", recipe], cwd=folder, check=True)


def command(line: str, folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "duosora", *line.split()], cwd=folder, check=True)


def tensors(layout: Layout, seed: int = 0) -> dict[str, torch.Tensor]:
    weights = FreshWeights(layout, seed)
    return {name: torch.from_numpy(np.array(weights[name])) for name in weights}


def assert_holds(folder: Path, layout: Layout, seed: int = 0) -> None:
    expected = FreshWeights(layout, seed)
    held = dict(checked_weights(layout, open_weights(folder)))
    assert held.keys() == {name for name, weight in layout.items() if not isinstance(weight.init, Constant)}
    for name, array in held.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_the_mt5_command_keeps_the_encoder(tmp_path: Path) -> None:
    layout = t5.TINY.layout()
    whole = tensors(layout)
    whole["encoder.embed_tokens.weight"] = whole["decoder.embed_tokens.weight"] = whole["shared.weight"]
    whole["decoder.block.0.layer.0.SelfAttention.q.weight"] = torch.ones(2, 2)
    whole["lm_head.weight"] = torch.ones(2, 2)
    folder = tmp_path / "models" / "mt5-xxl"
    folder.mkdir(parents=True)
    torch.save(whole, folder / "pytorch_model.bin")

    command(MT5_COMMAND, tmp_path)

    assert_holds(folder, layout)
    assert set(open_weights(folder)) == set(layout)


@pytest.mark.parametrize("has_average", [True, False])
def test_the_wfvae_command_prefers_the_moving_average(tmp_path: Path, has_average: bool) -> None:
    layout = replace(wfvae.PRESETS["tiny"], base_channels=4).layout()
    trained = {name for name, weight in layout.items() if not isinstance(weight.init, Constant)}
    average = {f"module.{name}": tensor for name, tensor in tensors(layout, seed=1).items() if name in trained}
    generator = {name.replace("transform", "tranform"): tensor for name, tensor in tensors(layout, seed=2).items()}
    checkpoint = {
        "epoch": 3,
        "optimizer_state": {"gen_optimizer": {"state": {}}},
        "state_dict": {"gen_model": generator, "dics_model": {"logvar": torch.zeros(())}},
        "ema_state_dict": average if has_average else {},
        "sampler_state": {"epoch": 3, "seed": 1234},
    }
    folder = tmp_path / "models" / "vae"
    folder.mkdir(parents=True)
    torch.save(checkpoint, folder / "merged.ckpt")

    command(WFVAE_COMMAND, tmp_path)

    assert_holds(folder, layout, seed=1 if has_average else 2)


def test_the_lpips_recipe_makes_the_folder(tmp_path: Path) -> None:
    spec = LPIPSSpec("alexnet")
    weights = tensors(spec.layout())
    backbone = {name: tensor for name, tensor in weights.items() if name.startswith("features.")}
    heads = {name: tensor for name, tensor in weights.items() if name not in backbone}
    torch.save(backbone | {"classifier.1.weight": torch.ones(2, 2)}, tmp_path / "alexnet-owt-7be5be79.pth")
    torch.save(heads, tmp_path / "alex.pth")

    run(LPIPS_RECIPE, tmp_path)

    found, opened = open_lpips(tmp_path / "lpips_alexnet")
    assert found == spec
    assert dict(checked_weights(spec.layout(), opened)).keys() == set(weights)


def test_the_settings_of_evaluation_are_all_described() -> None:
    table = EVALUATION_PAGE.partition("| setting | |")[2].partition("## ")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
    described = {name for cell in first_cells for name in re.findall(r"`([\w.]+)`", cell)}
    assert described == {setting.path for setting in list_settings(EvaluateConfig)}


def test_the_lesson_page_has_the_commands_of_make_lesson() -> None:
    made = subprocess.run(["make", "-nB", "lesson"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    page = (ROOT / "docs" / "lesson.md").read_text(encoding="utf-8").partition("\n## What came out\n")[0]
    told = "\n".join(re.findall(r"```bash\n(.*?)```", page, re.DOTALL))
    lines = [re.findall(r"^(?:\S+/)?duosora (.*)$", text.replace("\\\n", ""), re.MULTILINE) for text in (made, told)]
    by_make, by_page = ([sorted(re.sub(r" --json \S+", "", line).split()) for line in found] for found in lines)
    assert len(by_make) == 8
    assert by_make == by_page
