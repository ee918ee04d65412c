"""The README's block on the published files, line by line as written, with tiny models in their places."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from duosora.core.io.weights import save_weights
from duosora.core.layout import FreshWeights, Layout
from duosora.core.models import opensora_t2v, t5, wfvae
from duosora.core.models.finding import TINY_FOLDER, recognise

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
(LINES,) = (block.splitlines() for block in BLOCKS if "duosora convert" in block)
SHORTER = {
    "sample": ["--dry-run"],
    "reconstruct": [word for size in ("height=32", "width=32") for word in ("--set", size)],
}
"""What 93 frames of 352x640 would take too long for here."""


def tensors(layout: Layout) -> dict[str, torch.Tensor]:
    weights = FreshWeights(layout, 0)
    return {name: torch.from_numpy(np.array(weights[name])) for name in weights}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The published folders as they come: safetensors of the transformers, pickles of the others."""
    folder = tmp_path / "models"
    specs = {
        "any93x640x640": replace(opensora_t2v.TINY, num_layers=4),  # of the published system, not of the tiny one
        "any93x640x640_i2v": replace(opensora_t2v.TINY_INPAINT, num_layers=4),
        "mt5-xxl": t5.TINY,
        "vae": recognise(TINY_FOLDER / "vae").spec,
    }
    for name, spec in specs.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(spec.to_config()), encoding="utf-8")
        if name.startswith("any93"):
            save_weights(folder / name, FreshWeights(spec.layout(), 0))
    torch.save(tensors(t5.TINY.layout()), folder / "mt5-xxl" / "pytorch_model.bin")
    torch.save({"state_dict": {"gen_model": tensors(wfvae.TINY.layout())}}, folder / "vae" / "merged.ckpt")
    shutil.copy(TINY_FOLDER / "spiece.model", folder / "mt5-xxl")
    for name in ("configs", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_lines_on_published_files_run_one_after_the_other(duosora: Callable, models: Path) -> None:
    assert len(LINES) >= 5
    for line in LINES:
        program, verb, *words = shlex.split(line, comments=True)
        assert program == "duosora"
        outcome = duosora(verb, *words, *SHORTER.get(verb, ()))
        assert (line, outcome.code, outcome.err.count("duosora: ")) == (line, 0, 0), outcome.err
