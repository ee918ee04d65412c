"""Golden cases are read in both forms, runners are found by their names, and nothing that is not computed passes."""

import json
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duosora.core.errors import CheckpointError
from duosora.core.goldens import runners, suite
from duosora.core.goldens.case import Case, Comparison, find_cases
from duosora.core.goldens.forms import Limit, read_contents
from duosora.core.goldens.runners import e2e
from duosora.core.io.weights import save_weights
from duosora.core.layout import GivenWeights

X = np.array([[1.0, -4.0]], np.float32)
MASK = np.array([[1, 0]])


def write_calls_case(folder: Path, **more: Any) -> Path:
    """A case of the form with calls."""
    folder.mkdir(parents=True)
    tensors = {"call0/x": X, "call0/mask": MASK, "call0/out": X, "call1/x": X, "call1/out": 2 * X}
    save_weights(folder / "io.safetensors", GivenWeights(tensors, ""))
    case = {
        "config": {"depth": 2},
        "calls": {"call0": {"inputs": ["x"]}, "call1": {"inputs": ["x"]}},
        "tolerances": {"rtol": 1e-4, "atol": "2e-4 * max|out| (see fp32_vs_fp64_maxabs)"},
        "io_tensors": {name: {"shape": list(x.shape), "dtype": str(x.dtype)} for name, x in tensors.items()},
    }
    (folder / "case.json").write_text(json.dumps(case | more))
    return folder


def contents(tolerances: Mapping[str, Any], *names: str, dtype: str = "float32") -> Mapping[str, Limit]:
    return read_contents({"io_tensors": {name: {"dtype": dtype} for name in names}, "tolerances": tolerances}).limits


@pytest.mark.parametrize(
    ("tolerances", "name", "expected"),
    [
        ({"rtol": 1e-4, "atol": "1e-4*max|out|"}, "out", Limit(0.0, 1e-4, 1e-4)),
        ({"rtol": 1e-4, "atol": "2e-4 * max|out| (see the floor)"}, "call0/out", Limit(0.0, 1e-4, 2e-4)),
        ({"rtol": 1e-3, "atol": 1e-5}, "a", Limit(1e-5, 1e-3)),
        ({"rtol": 2e-6, "bf16_args rtol": 0.01}, "bf16_args/240x426/steps30", Limit(0.0, 0.01)),
        ({"rtol": 2e-6, "bf16_args rtol": 0.01}, "plain/steps30", Limit(0.0, 2e-6)),
        ({"latent": "rtol 1e-3 atol 2e-3*max", "video": "rtol 1e-2"}, "loop0/latent", Limit(0.0, 1e-3, 2e-3)),
        ({"latent": "rtol 1e-3 atol 2e-3*max", "video": "rtol 1e-2"}, "video0", Limit(0.0, 1e-2)),
        ({"grad": "rtol 2e-3, atol 1e-5*max|grad|"}, "grad/blocks.0.weight", Limit(0.0, 2e-3, 1e-5)),
        ({"grad": "rtol 2e-3", "grad_global": "rtol 1e-5"}, "grad_global_norm", Limit(0.0, 1e-5)),
        ({"image": "atol 1/127.5 (one grey level)"}, "c0/image_out", Limit(1 / 127.5)),
    ],
)
def test_limits_in_words_are_read(tolerances: dict[str, Any], name: str, expected: Limit) -> None:
    assert contents(tolerances, name) == {name: expected}


def test_whole_numbers_and_what_no_limit_is_for_keep_the_limit_of_their_kind() -> None:
    assert contents({"rtol": 1e-4}, "input_ids", dtype="int64") == {}
    assert contents({"grad": "rtol 2e-3", "v1.0": "as upstream"}, "loss") == {}


def test_both_forms_become_one(tmp_path: Path) -> None:
    case = Case(write_calls_case(tmp_path / "stdit3/basic"))
    assert (case.name, case.family, case.tags()) == ("stdit3/basic", "stdit3", ["call0", "call1"])
    np.testing.assert_array_equal(case.get("call1", "out"), 2 * X)
    assert case.judge(Comparison("call0/out", X + 8e-4)).passed
    assert not case.judge(Comparison("call0/out", X + 1.3e-3)).passed
    assert case.judge(Comparison("call0/mask", MASK)).passed
    assert not case.judge(Comparison("call0/mask", 1 - MASK)).passed


def test_recorded_zeros_are_met_by_zeros_alone(tmp_path: Path) -> None:
    zeros = np.zeros_like(X)
    case = Case(write_calls_case(tmp_path / "stdit3/basic"))
    case.raw["tolerances"] = {"out": "rtol 1e-4"}
    case.tensors["call0/out"] = zeros
    assert case.judge(Comparison("call0/out", zeros)).passed
    assert not case.judge(Comparison("call0/out", zeros + 1e-9)).passed


def test_weights_without_a_sum_are_used_and_said(tmp_path: Path) -> None:
    case = Case(write_calls_case(tmp_path / "stdit3/basic"))
    assert not case.has_unproven_weights
    save_weights(case.folder / "weights.safetensors", GivenWeights({"proj.weight": X}, ""))
    assert case.has_unproven_weights
    np.testing.assert_array_equal(case.weights()["proj.weight"], X)
    tagged = {"config": {}, "tensors": {}, "weights": {"file": "weights.safetensors", "sha256": "0" * 64}}
    (case.folder / "case.json").write_text(json.dumps(tagged))
    assert not Case(case.folder).has_unproven_weights
    with pytest.raises(CheckpointError, match="do not have the sha256"):
        Case(case.folder).weights()


class Runner:
    """Computes the second call only."""

    INPUTS = ".+/mask"
    NOT_YET = ("later",)

    @staticmethod
    def run(case: Case, backend: object) -> list[Comparison]:
        return [Comparison("call1/out", case.tensors["call1/x"] * 2)]


class Host:
    """A backend that only says that there are no gradients."""

    def inference(self) -> Any:
        return nullcontext()


def test_what_a_runner_does_not_compute_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(write_calls_case(tmp_path / "stub/basic"))
    later = Case(write_calls_case(tmp_path / "stub/later"))
    assert not suite.is_implemented(case)
    monkeypatch.setitem(sys.modules, f"{runners.__name__}.stub", Runner)
    monkeypatch.setattr(suite, "RUNNERS", {"stub"})
    assert suite.is_implemented(case)
    assert not suite.is_implemented(later)
    result = suite.run_case(case, Host())
    assert not result.passed
    assert [verdict.name for verdict in result.verdicts if not verdict.passed] == ["call0/out (not computed)"]


def test_tables_are_cases_and_other_files_are_not(tmp_path: Path) -> None:
    folder = write_calls_case(tmp_path / "cond/transforms")
    (folder / "notes.json").write_text('{"what": "beside a case"}')
    (tmp_path / "cond/bucket.json").write_text('{"what": "buckets", "rows": []}')
    (tmp_path / "cond/manifest_x.json").write_text('{"params": {}}')
    (tmp_path / "cond/broken.json").write_text("{")
    assert [case.name for case in find_cases(tmp_path)] == ["cond/bucket", "cond/transforms"]
    table = Case(tmp_path / "cond/bucket.json")
    assert (table.family, table.tensors, table.outputs()) == ("cond", {}, [])
    assert table.judge(Comparison("rows", np.zeros(1), expected=np.zeros(1))).passed


def test_every_runner_is_found_by_its_name(tmp_path: Path) -> None:
    names = [file.stem for file in Path(runners.__file__).parent.glob("*.py") if file.stem != "__init__"]
    assert len(names) >= 9
    for name in names:
        assert suite.is_implemented(Case(write_calls_case(tmp_path / name / "basic")))
    for other in ("unheard_of", "not-a-module", "__init__"):
        assert not suite.is_implemented(Case(write_calls_case(tmp_path / other / "basic")))


def test_flags_of_an_inference_run_may_have_several_values() -> None:
    argv = "--image-size 16 24 --mask-strategy 0 1,-1 --reference-path a.png b.png --cfg-scale 2.5 --aes 7 --loop 2"
    config = e2e.settings({"cli_config": {"scheduler": {}, "image_size": None}, "argv": argv.split()})
    assert config == {
        "scheduler": {"cfg_scale": 2.5},
        "image_size": [16, 24],
        "mask_strategy": ["0", "1,-1"],
        "reference_path": ["a.png", "b.png"],
        "aes": 7,
        "loop": 2,
    }
    assert e2e.settings({"cli_config": {"scheduler": {}}}) == {"scheduler": {}}
