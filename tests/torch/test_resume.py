"""Real training processes that are killed, asked to leave, and go on. In full: benchmarks/kill_and_resume.py."""

import importlib.util
import json
import random
import signal
from pathlib import Path
from types import ModuleType

import pytest

from duosora.core.train.checkpoints import Checkpoints

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill_and_resume.py"


@pytest.fixture(scope="module")
def proof() -> ModuleType:
    """The benchmark, as a module."""
    spec = importlib.util.spec_from_file_location("kill_and_resume", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def straight(proof: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "straight"
    proof.Trainer(None, list(proof.TINY)).finish(folder, f"max_steps={proof.STEPS}")
    return folder


def assert_goes_on(proof: ModuleType, straight: Path, folder: Path, step: int) -> None:
    """From the step to one that the straight run has, which is made longer if need be, with the same result."""
    last = max(step, proof.STEPS)
    for each in (straight, folder):
        if not (each / f"checkpoint-{last}").exists():
            proof.Trainer(None, list(proof.TINY)).finish(each, f"max_steps={last}")
    proof.compare(straight, folder, last)


@pytest.mark.slow
def test_a_run_killed_after_some_steps_goes_on_as_if_it_had_not_been(
    proof: ModuleType, straight: Path, tmp_path: Path
) -> None:
    proof.resume(proof.Trainer(None, list(proof.TINY)), straight, tmp_path / "run", random.Random(3))


@pytest.mark.slow
def test_a_run_killed_while_it_saves_goes_on_from_a_whole_checkpoint(
    proof: ModuleType, straight: Path, tmp_path: Path
) -> None:
    step, _ = proof.kill_while_saving(proof.Trainer(None, list(proof.TINY)), tmp_path / "run", 3, random.Random(3))
    assert_goes_on(proof, straight, tmp_path / "run", step)


@pytest.mark.slow
def test_a_run_asked_to_leave_saves_and_ends_well(proof: ModuleType, straight: Path, tmp_path: Path) -> None:
    trainer, folder = proof.Trainer(None, list(proof.TINY)), tmp_path / "run"
    with trainer.started(folder, "max_steps=1000000") as process:
        proof.wait(folder, process, lambda: proof.logged_steps(folder) >= 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(proof.PATIENCE) == 0
    step = Checkpoints(folder).newest().step
    assert step >= 2
    assert f"left after step {step}, saved in" in folder.with_suffix(".txt").read_text()
    assert_goes_on(proof, straight, folder, step)


@pytest.mark.parametrize("what", ["weights", "state", "log"])
def test_the_comparison_notices_a_difference(proof: ModuleType, tmp_path: Path, what: str) -> None:
    for name in ("straight", "other"):
        differs = name == "other"

        def write(folder: Path, differs: bool = differs) -> None:
            (folder / "weights").write_text("b" if differs and what == "weights" else "a")
            guard = {"skips": int(differs and what == "state")}
            (folder / "state.json").write_text(json.dumps({"step": 1, "guard": guard, "run": {"seed": differs}}))

        Checkpoints(tmp_path / name).save(1, write)
        loss = 2 if differs and what == "log" else 1
        line = {"event": "step", "step": 1, "loss": loss, "seconds": int(differs)}
        (tmp_path / name / "log.jsonl").write_text(json.dumps(line))
    with pytest.raises(proof.Differs, match=what):
        proof.compare(tmp_path / "straight", tmp_path / "other", 1)
    proof.compare(tmp_path / "straight", tmp_path / "straight", 1)
