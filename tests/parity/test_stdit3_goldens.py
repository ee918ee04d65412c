"""Cases of STDiT3 with options that no recorded one has, made of recorded ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from duosora.core.goldens.case import Case
from duosora.core.goldens.suite import Result, run_case
from duosora.core.seam.backend import Backend, get

GOLDENS = Path(__file__).parents[1] / "goldens/stdit3"


@pytest.fixture(scope="module")
def torch() -> Backend:
    return get("torch", "cpu")


def changed(name: str, folder: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None]) -> Case:
    copy = folder / "stdit3" / name
    shutil.copytree(GOLDENS / name, copy)
    raw, tensors = json.loads((copy / "case.json").read_text()), load_file(copy / "io.safetensors")
    change(raw, tensors)
    raw["io_tensors"] = {name: {"dtype": str(values.dtype)} for name, values in tensors.items()}
    (copy / "case.json").write_text(json.dumps(raw))
    save_file(tensors, copy / "io.safetensors")
    return Case(copy)


def failed(result: Result) -> list[str]:
    assert not result.error
    return [verdict.name for verdict in result.verdicts if not verdict.passed]


def test_weights_that_the_config_freezes_have_no_part_in_the_norm(tmp_path: Path, torch: Backend) -> None:
    def freeze(raw: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        raw["config"]["freeze_y_embedder"] = True
        for name in [name for name in tensors if "y_embedder" in name or name.startswith("after/")]:
            del tensors[name]
        rest = [values.astype(np.float64) for name, values in tensors.items() if name.startswith("grad/")]
        norm = np.sqrt(sum(np.square(values).sum() for values in rest))
        tensors["grad_global_norm"] = np.array(norm, np.float32)

    assert failed(run_case(changed("train_step", tmp_path, freeze), torch)) == []


def test_the_first_clip_gives_the_size_to_each_loss(tmp_path: Path, torch: Backend) -> None:
    def enlarge(raw: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        tensors["kw/height"][1:] *= 4

    assert failed(run_case(changed("train_step", tmp_path, enlarge), torch)) == []


def test_timestep_0_is_compared_where_no_frame_is_clean(tmp_path: Path, torch: Backend) -> None:
    def all_move(raw: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        embedded = {name: tensors[f"image_head/{name}_t0"] for name in ("t_emb", "t_mlp")}
        for name in [name for name in tensors if not name.startswith("all_true/")]:
            del tensors[name]
        tensors["all_true/t_emb_t0"] = embedded["t_emb"]

    assert failed(run_case(changed("x_mask", tmp_path, all_move), torch)) == []
