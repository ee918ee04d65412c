"""Run in a fresh process: how much memory encoding takes beyond the start. Arguments: backend, file, dtype, blocks_on.

Prints MiB at most, MiB that stay, and a sum of the states.
"""

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from duosora.core.io.weights import open_weights
from duosora.core.layout import FreshWeights
from duosora.core.models.t5 import T5Spec
from duosora.core.seam.backend import get

LARGE = T5Spec(vocab_size=64, d_model=1024, d_kv=64, d_ff=1024, num_layers=24, num_heads=16)
FEW_LAYERS = replace(LARGE, num_layers=2)
"""What threads and kernels take for themselves is there after them."""
LAYER_MIB = 7 * 4
"""Of LARGE, in float32."""
IDS = np.arange(1, 9)[None]


def resident(entry: str) -> float:
    found = re.search(rf"^{entry}:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    assert found
    return int(found.group(1)) / 1024


def main(name: str, file: str, dtype: str, blocks_on: str) -> None:
    backend = get(name, "cpu")
    texts = [(backend.asarray(ids), backend.asarray(np.ones_like(ids))) for ids in (IDS, IDS[:, :5], IDS[:, 2:])]
    with backend.inference():
        list(backend.build(FEW_LAYERS, FreshWeights(FEW_LAYERS.layout(), 0), dtype, blocks_on=blocks_on).encode(texts))
        start = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
        encoder = backend.build(LARGE, open_weights(file), dtype, blocks_on=blocks_on)
        states = [backend.to_numpy(output) for output in encoder.encode(texts)]
    total = sum(float(np.abs(each).sum()) for each in states)
    print(resident("VmHWM") - start, resident("VmRSS") - start, total)


if __name__ == "__main__":
    main(*sys.argv[1:])
