"""Training on several ranks gives what one process gives: losses, norms, weights, averages, and what is saved."""

import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks

from duosora.core.errors import ConfigError, PackageMissing
from duosora.core.io.weights import INDEX_SUFFIX, SUFFIX, WeightsReader, open_weights
from duosora.core.layout import FreshWeights
from duosora.core.models.opensora_t2v import OpenSoraT2VSpec
from duosora.core.seam.backend import get
from duosora.core.seam.group import Alone
from duosora.core.seam.ranks import ParallelPlan, Ranks
from duosora.core.seam.training import TrainOptions

pytestmark = pytest.mark.processes
TOLERANCE = 1e-5
HALF = "even-zero2-on-2x2"
"""Whose state after half of its steps others go on from."""
DEEPSPEED_HALF = "even-deepspeed-on-2x2"
"""The same for those who go on without DeepSpeed."""
RUNS = {
    "torch": {
        (1, 1): (
            "even-zero0", "uneven-zero0", "inpaint-zero0", "frozen-zero0", "half-zero0", "stdit3-zero0",
            "stdit3half-zero0", "lists-zero0", "listsconcat-zero0", "listscross-zero0",
        ),
        (4, 2): (
            "even-zero0", "even-zero2", "even-zero3", "even-deepspeed", "uneven-zero2", "uneven-deepspeed",
            "frozen-zero3", "frozen-deepspeed", "recomputed-zero3", "recomputed-deepspeed",
        ),
        (2, 1): (
            "even-zero0", "even-zero2", "even-zero3", "even-deepspeed", "half-zero2", "half-deepspeed",
            f"even-zero3-from-{HALF}", f"even-zero2-from-{DEEPSPEED_HALF}", f"even-deepspeed-from-{HALF}",
            "stdit3-zero2", "stdit3-zero3", "stdit3-deepspeed", "stdit3half-zero2", "lists-zero2",
        ),
        (2, 2): (
            "even-zero0", "even-zero2", "even-zero3", "even-deepspeed", "inpaint-zero3", "uneven-zero0",
            "compiled-zero0", "stdit3-zero0", "stdit3-zero2", "stdit3recomputed-zero3", "stdit3compiled-zero0",
            "lists-zero2", "listsconcat-zero3", "listscross-zero2",
        ),
    },
    "mindspore": {  # slow on a CPU, and in fp16 much slower
        (1, 1): ("even-zero0", "uneven-zero0", "frozen-zero0", "stdit3-zero0", "lists-zero0"),
        (4, 2): ("even-zero2", "uneven-zero2"),
        (2, 1): ("even-zero2", "frozen-zero0", f"even-zero2-from-{HALF}", "stdit3-zero2", "lists-zero2"),
        (2, 2): ("even-zero2", "frozen-zero2", "recomputed-zero2", "stdit3-zero2", "lists-zero2"),
    },
}  # fmt: skip
"""Of each backend, by the number of processes, and of those that share tokens."""
RESUMED_ALONE = {
    "torch": (f"even-zero0-from-{HALF}", f"even-zero0-from-{DEEPSPEED_HALF}"),
    "mindspore": (f"even-zero0-from-{HALF}",),
}
MODELS = ("model", "average")
REFERENCES = {"recomputed": "even", "compiled": "even", "stdit3recomputed": "stdit3", "stdit3compiled": "stdit3"}
"""Whose first numbers others are to have; else one process's run of the same name."""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with what all runs of a backend have left, which are made when it is first asked for.

    Once in a session: pytest goes from file to file for one backend, then for the other, and ends modules on the way.
    """

    @cache
    def folder(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        for (world, sequence), cases in RUNS[name].items():
            ranks.run("train_denoiser.py", name, world, folder, sequence, *cases)
        ranks.run("train_denoiser.py", name, 1, folder, 1, *RESUMED_ALONE[name])
        return folder

    return folder


@pytest.fixture
def folder(name: str, trained: Callable[[str], Path]) -> Path:
    return trained(name)


def said(place: Path) -> dict[str, Any]:
    return json.loads((place / "said.json").read_text())


def state(place: Path, name: str = "optimizer") -> WeightsReader:
    file = place / f"{name}{SUFFIX}"
    return open_weights(file if file.exists() else place / f"{name}{INDEX_SUFFIX}")


CASES = [
    (backend, f"{case}-on-{world // sequence}x{sequence}")
    for backend, runs in RUNS.items()
    for (world, sequence), cases in runs.items()
    for case in (cases if world > 1 else RESUMED_ALONE[backend])
]


@pytest.mark.parametrize(("name", "case"), CASES, indirect=["name"])
def test_a_run_is_that_of_one_process(folder: Path, case: str) -> None:
    kind = case.partition("-")[0]
    one, many = folder / f"{REFERENCES.get(kind, kind)}-zero0-on-1x1", folder / case
    expected, found = said(one), said(many)
    steps = len(found["reports"])
    span = slice(0, steps) if kind in REFERENCES else slice(len(expected["reports"]) - steps, None)
    np.testing.assert_allclose(found["reports"], expected["reports"][span], rtol=TOLERANCE)
    assert not found["refused"]
    if kind in REFERENCES:
        return  # it made fewer steps
    np.testing.assert_allclose(found["evaluated"], expected["evaluated"], rtol=TOLERANCE)
    np.testing.assert_allclose(found["prediction"], expected["prediction"], atol=TOLERANCE)
    for models in MODELS:
        ours, theirs = open_weights(one / models), open_weights(many / models)
        assert set(ours) == set(theirs)
        # A key's bias adds the same to all of a query's scores: its gradient is nothing but rounding, which AdamW
        # blows up.
        for weight in (weight for weight in ours if not weight.endswith(("to_k.bias", "kv_linear.bias"))):
            scale = np.abs(ours[weight]).max()
            np.testing.assert_allclose(theirs[weight], ours[weight], rtol=0, atol=TOLERANCE * scale, err_msg=weight)
    ours, theirs = state(one), state(many)
    assert set(ours) == set(theirs)
    assert all(ours.shape(tensor) == theirs.shape(tensor) for tensor in ours)


@pytest.mark.parametrize(
    ("name", "case", "world"),
    [
        *(
            (name, case, world)
            for name in RUNS
            for case, world in (("even-zero2-on-2x1", 2), ("even-zero2-on-1x2", 2), (HALF, 4))
        ),
        ("torch", "even-deepspeed-on-2x1", 2),
        ("torch", DEEPSPEED_HALF, 4),
    ],
    indirect=["name"],
)
def test_each_rank_holds_its_share_of_the_optimisers_state(folder: Path, case: str, world: int) -> None:
    (whole,) = said(folder / "even-zero0-on-1x1")["state_bytes"]
    assert said(folder / case)["state_bytes"] == [whole // world] * world


@pytest.mark.parametrize(
    ("name", "split"), [("torch", "zero2"), ("torch", "deepspeed"), ("mindspore", "zero2")], indirect=["name"]
)
def test_uneven_weights_cost_no_more_than_a_slice_each(folder: Path, split: str) -> None:
    (whole,) = said(folder / "uneven-zero0-on-1x1")["state_bytes"]
    shares = said(folder / f"uneven-{split}-on-2x2")["state_bytes"]
    assert whole <= sum(shares) < 1.01 * whole
    assert max(shares) < 1.1 * whole / 4


def test_each_rank_writes_its_share(folder: Path) -> None:
    sizes = [file.stat().st_size for file in sorted((folder / HALF / "model").glob(f"*{SUFFIX}"))]
    assert len(sizes) == 4
    assert max(sizes) < 1.1 * sum(sizes) / 4


@pytest.mark.parametrize(
    ("name", "case"),
    [("torch", "frozen-zero3-on-2x2"), ("torch", "frozen-deepspeed-on-2x2"), ("mindspore", "frozen-zero2-on-1x2")],
    indirect=["name"],
)
def test_frozen_weights_stay(folder: Path, case: str) -> None:
    one, many = folder / "frozen-zero0-on-1x1", folder / case
    trained, alone = open_weights(many / "model"), open_weights(one / "model")
    frozen = [name for name in alone if name.startswith(("caption_projection", "transformer_blocks.1.", "pos_embed"))]
    assert frozen
    for name in frozen:
        np.testing.assert_array_equal(trained[name], alone[name])
        assert f"exp_avg.{name}" not in state(many)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (TrainOptions(compile=True), "compute.compile = true"),
        (TrainOptions(optimizer_name="prodigy"), "prodigy"),
        (TrainOptions(engine="deepspeed", optimizer_name="prodigy"), "prodigy"),
    ],
)
def test_what_needs_whole_weights_is_refused_with_slices(options: TrainOptions, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"{reason}.*set parallel.zero: 0"):
        train_on_two(options)


def test_where_deepspeed_is_missing_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "")  # which are set, and go back to what they were
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(
        PackageMissing, match=r'install -e "\.\[deepspeed\]" in the clone of duosora, or set parallel.engine: fully_'
    ):
        train_on_two(TrainOptions(engine="deepspeed"))


def train_on_two(options: TrainOptions) -> None:
    class Two(Alone):
        size = 2

    spec = OpenSoraT2VSpec(
        num_layers=1, num_attention_heads=1, attention_head_dim=6, in_channels=4, out_channels=4, caption_channels=4
    )
    get("torch", "cpu").train_denoiser(
        spec, FreshWeights(spec.layout(), 0), options, Ranks(ParallelPlan(2), world=Two())
    )


def test_autoencoders_and_a_discriminator_learn_as_on_one_process(name: str, tmp_path: Path) -> None:
    for world in (1, 2):
        ranks.run("train_autoencoder.py", name, world, tmp_path, "wfvae", "opensora_vae", "vqvae")
    kinds_of = {"wfvae": ("optimizer", "discriminator_optimizer")}
    for family in ("wfvae", "opensora_vae", "vqvae"):
        kinds = kinds_of.get(family, ("optimizer",))
        one, two = tmp_path / f"{family}-on-1", tmp_path / f"{family}-on-2"
        expected, found = said(one), said(two)
        for ours, theirs in zip(expected["reports"], found["reports"], strict=True):
            assert ours.keys() == theirs.keys()
            for term in ours:
                # A discriminator's norms of few numbers blow rounding up, in its gradients most.
                rtol = 1e-3 if term == "grad_norm" else 1e-4
                np.testing.assert_allclose(theirs[term], ours[term], rtol=rtol, atol=1e-6, err_msg=term)
            np.testing.assert_allclose(theirs["loss"], ours["loss"], rtol=TOLERANCE)
        assert not found["refused"]
        judges = [(state(one, kind), state(two, kind)) for kind in ("discriminator",) if family == "wfvae"]
        for ours, theirs in (*judges, *((open_weights(one / each), open_weights(two / each)) for each in MODELS)):
            assert set(ours) == set(theirs)
            for weight in (weight for weight in ours if not weight.endswith(("k.conv.bias", "to_k.bias"))):
                # Adam makes of a gradient's rounding up to a hundredth of a step, which is 1e-3 here.
                close = {"rtol": TOLERANCE, "atol": 2 * TOLERANCE}
                np.testing.assert_allclose(theirs[weight], ours[weight], **close, err_msg=weight)
        for kind in kinds:
            assert set(state(one, kind)) == set(state(two, kind))
