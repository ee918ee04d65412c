"""The published sizes: structure on the meta device, loading of a sharded hub folder, and what loading costs in
memory."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from duosora.core.io.weights import save_weights
from duosora.core.layout import FreshWeights
from duosora.core.models.finding import open_part
from duosora.core.models.opensora_t2v import OpenSoraT2VSpec
from duosora.core.seam.backend import get

MEDIUM = OpenSoraT2VSpec(
    num_layers=8,
    num_attention_heads=8,
    attention_head_dim=96,
    in_channels=8,
    out_channels=8,
    caption_channels=1024,
)
"""94 million parameters: enough for its weights to stand out from what torch itself takes."""

MEASURE_LOADING = """
import re, sys
from duosora.core.seam.backend import get
from duosora.core.models.finding import open_part
def peak():
    # Not ru_maxrss: a new process starts with that of the one that started it.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
backend = get("torch", "cpu")
part = open_part("denoiser", sys.argv[1])
before = peak()
model = backend.build(part.spec, part.open(), sys.argv[2])
print(peak() - before)
"""


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as the hub has it: config.json, three shards and an index."""
    folder = tmp_path_factory.mktemp("hub") / "any93x640x640"
    layout = MEDIUM.layout()
    size = layout.num_parameters * 4
    save_weights(folder, FreshWeights(layout, 0), shard_size=size * 2 // 5)
    (folder / "config.json").write_text(json.dumps(MEDIUM.to_config()))
    return folder


def test_a_sharded_hub_folder_loads(hub_folder: Path) -> None:
    assert len(list(hub_folder.glob("*-of-00003.safetensors"))) == 3
    part = open_part("denoiser", str(hub_folder))
    assert part.spec == MEDIUM
    model = get("torch", "cpu").build(part.spec, part.open())
    expected = MEDIUM.layout().fresh_weight("transformer_blocks.7.ff.net.2.weight", 0)
    np.testing.assert_array_equal(model.transformer_blocks[7].ff.net[2].weight.numpy(), expected)


@pytest.mark.parametrize(("dtype", "bytes_per_number"), [("fp32", 4), ("bf16", 2)])
def test_loading_takes_little_more_memory_than_the_weights(hub_folder: Path, dtype: str, bytes_per_number: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE_LOADING, hub_folder, dtype], capture_output=True, text=True, check=True
    )
    weights = MEDIUM.layout().num_parameters * bytes_per_number
    assert weights < int(done.stdout) + 2**25
    assert int(done.stdout) < 1.3 * weights
