"""What only torch's optimisation has: optimisers of libraries, and activations that can be counted."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from duosora.backends.torch.distributed.zero import Replicas
from duosora.backends.torch.optimization import (
    OTHER_OPTIMIZERS,
    Optimization,
    SavedStep,
    Tensors,
    load_state,
    make_trainable,
    recompute,
)
from duosora.core.errors import PackageMissing
from duosora.core.seam.group import Alone
from duosora.core.seam.training import AdamW


def test_recomputed_activations_are_not_kept() -> None:
    counts = {}
    for every in (0, 1, 2):
        blocks = nn.Sequential(*(nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 8)) for _ in range(4)))
        make_trainable(blocks, lambda name: True)
        recompute(blocks, every)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: (kept.append(x.numel()), x)[1], lambda x: x):
            blocks(torch.ones(16, 8))
        counts[every] = sum(kept)
    assert counts[1] < counts[2] < counts[0]
    assert counts[1] < 0.5 * counts[0]


class LibraryOptimizer(torch.optim.Optimizer):
    """What packages of optimisers do: a flat tensor, a packed one, a plain count, and a number of the whole group."""

    def __init__(self, parameters, lr: float, betas, eps: float, weight_decay: float) -> None:
        assert lr > 0  # as Prodigy asks
        super().__init__(parameters, {"lr": lr, "scale": 1.0})

    def step(self) -> None:
        for group in self.param_groups:
            group["scale"] *= 0.5
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    flat = torch.zeros(parameter.numel())
                    state |= {"step": 0, "flat": flat, "packed": torch.zeros(7, dtype=torch.uint8)}
                state["step"] += 1
                assert type(state["step"]) is int
                state["packed"] += state["step"]
                state["flat"] += parameter.grad.flatten() * group["scale"] + state["packed"][0]
                parameter.data -= group["lr"] * state["flat"].view_as(parameter)


def test_an_optimizer_of_a_library_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "library", SimpleNamespace(Better=LibraryOptimizer))
    monkeypatch.setitem(OTHER_OPTIMIZERS, "better", ("library", "Better", "library"))

    def make(start: torch.Tensor) -> Optimization:
        return Optimization({"weight": nn.Parameter(start.clone())}, AdamW(), device="cpu", name="better")

    def step(optimization: Optimization) -> None:
        weight = optimization.parameters["weight"]
        losses = {"loss": torch.zeros(1)}
        optimization.take(lambda: optimization.backward((weight**2).sum()) or losses, 1e-3, None, float("inf"))

    first = make(torch.arange(6.0).reshape(2, 3))
    step(first)
    SavedStep(Tensors({}), Tensors({}), {"optimizer": first.state()}).save(tmp_path)
    second = make(first.parameters["weight"].detach())
    second.load_state(*load_state(tmp_path, "optimizer"), source="the folder")
    for optimization in (first, second):
        step(optimization)
    assert torch.equal(first.parameters["weight"], second.parameters["weight"])


@pytest.mark.parametrize("name", OTHER_OPTIMIZERS)
def test_a_library_that_is_missing_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = OTHER_OPTIMIZERS[name][0]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        PackageMissing, match=rf"'{name}' needs {module}, .*\[optimizers\]\" in the clone of duosora, or use adamw"
    ):
        Optimization({"weight": nn.Parameter(torch.zeros(2))}, AdamW(), device="cpu", name=name)


@pytest.mark.parametrize("seen_elsewhere", [True, False])
def test_all_ranks_lower_the_scale_of_the_loss_when_one_has_to(seen_elsewhere: bool) -> None:
    class Others(Alone):
        def any(self, flag: bool) -> bool:
            return flag or seen_elsewhere

    parameters = make_trainable(nn.Linear(2, 2), lambda name: True)
    optimization = Optimization(
        parameters, AdamW(), device="cpu", scales_loss=True, max_grad_norm=None, shards=Replicas(Others())
    )
    scale = optimization.scaler.get_scale()
    optimization.backward(sum(parameter.sum() for parameter in parameters.values()))
    update = optimization.update(
        lr=1e-3, ema_decay=None, reject_above=float("inf"), is_finite=torch.ones((), dtype=torch.bool)
    )
    assert bool(update.applied) is not seen_elsewhere
    assert update.loss_scale_was_too_high is seen_elsewhere
    assert optimization.scaler.get_scale() == (scale / 2 if seen_elsewhere else scale)
