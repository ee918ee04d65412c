"""What counting cannot tell and a calibration does not measure: found by benchmarks/plan.py, which finds them again.

`python benchmarks/plan.py --keep FILE` measures 20 runs and `--again FILE` plans them anew with other constants; these
brought the plans nearest to what was measured. docs/planning.md has the table, and says when and on what.
"""

from __future__ import annotations

from collections.abc import Mapping

ITEMSIZE: Mapping[str, int] = {"fp32": 4, "bf16": 2, "fp16": 2}
PASSES: Mapping[str, tuple[float, float]] = {
    "torch": (8.0, 24.0),
    "mindspore": (10.0, 16.0),
    "accelerator": (2.5, 4.0),
}
"""How often elements that a product, or a convolution, reads and writes go through memory once more: norms,
activations, gates, padding, reordering. By backend on a CPU, where they take several times what a sum takes; and on
accelerators, by reading."""
WEIGHT_PASSES: Mapping[str, float] = {"torch": 5.0, "mindspore": 7.0, "accelerator": 1.0}
"""What reading a weight out of memory takes, in passes of what is computed element by element and lies in a cache: it
counts where few rows are multiplied, as in text encoders."""
CALLS: Mapping[str, float] = {"torch": 6.0, "mindspore": 7.0, "accelerator": 8.0}
"""Operations around each product, whatever its size, in the time of the shortest."""
FIRST: Mapping[str, float] = {"torch": 0.0006, "mindspore": 0.006, "accelerator": 0.01}
"""Seconds of each product of a new shape: kernels that are chosen or compiled for it."""
KERNELS: Mapping[str, Mapping[str, int]] = {
    "torch": {"fp32": 30_000, "bf16": 600_000},
    "mindspore": {"fp32": 120_000, "bf16": 120_000},
    "accelerator": {},
}
"""Bytes that stay of each product of a new shape. oneDNN, which has all of torch's in bf16, keeps 0.5 to 2 MB."""
REORDERED: Mapping[str, float] = {"torch": 0.6, "mindspore": 4.0, "accelerator": 0.0}
"""Copies of its input that a convolution makes in another order: no tensor, but memory."""
SLACK: Mapping[str, tuple[int, float]] = {
    "torch": (1 << 20, 0.6),
    "mindspore": (12 << 20, 0.0),
    "accelerator": (0, 0.1),
}
"""Memory that lies free between what is used, as an allocator has it: bytes, and a share of activations."""
MOST_SLACK: Mapping[str, int | None] = {"torch": 36 << 20, "mindspore": None, "accelerator": None}
"""Of that share, on a CPU: what is larger than 32 MiB the system's allocator takes and gives back by itself."""
BACKWARD = (2.4, 3.3)
"""Time of a backward pass of a denoiser, and of an autoencoder, in forward passes: two products for each, some
of which are slower than forward."""
FROZEN_BACKWARD, FROZEN_KEPT = 1.0, 1.0
"""Where the weights stay as they are and LoRA is trained: no product for their gradients; but A wants their input."""
KEPT = (1.1, 2.6)
"""Elements that a backward pass wants for each that a product, or a convolution, reads and writes."""
FROZEN_CONVOLUTION_KEPT = 0.35
"""Of what a trained convolution keeps, for one of LPIPS, whose activation is a ReLU that stores no more than its
result."""
UPDATE_PASSES = 16
"""Times that the weights go through memory in an optimiser step: gradients, two moments, weights, average, and the norm
that clips them."""
CACHED = 2
"""Tensors as large as the tokens that a cache stores: what the first block added, and what the others did."""
FRAME_COPIES = 3
"""Of decoded frames in float32: the tensor, its copy on the host, and the frames as bytes with what makes them."""
CONTEXT_BYTES = 600 << 20
"""That a GPU's or an NPU's runtime takes for itself before the first tensor."""
OF_PRODUCTS, OF_ATTENTION, OF_COPIES, OF_LINKS = 0.65, 0.5, 0.75, 0.7
"""Shares of what data sheets say that are reached, as guessed where nothing was measured."""
ACCELERATOR_CALL = 6e-6
"""Seconds to launch an operation there."""
ACCELERATOR_LOAD = 2e-9
"""Seconds for each weight that is read from a disk and placed there."""
ACCELERATOR_START, HOST_START = 3.0, 1.2
"""Seconds of the first calls there, and on a host that nobody has measured."""
DRAW = 9e-9
"""Seconds for each weight that is drawn anew."""
HOST_FLOP: Mapping[str, float] = {"fp32": 40e9, "bf16": 60e9, "fp16": 1e9}
HOST_ELEMENTWISE, HOST_CALL, HOST_LOAD = 10e9, 5e-6, 4e-9
"""Of one core that nobody has measured: FLOP and bytes a second, seconds for a call and for a weight."""
HOST_FLOOR = 150 << 20
"""Bytes that a process grows by over its first calls, where nobody has measured it."""
