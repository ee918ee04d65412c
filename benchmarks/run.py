"""Time and peak memory of the models with fresh weights, each case in a process of its own.

    python benchmarks/run.py [--backend torch] [--device cpu] [--dtype fp32] [--threads 2] [--repeat 3] [--compile]
                             [case ...]

Prints one row of a Markdown table per case: wall time of the first call, which compiles and warms up, the best of the
repeats after it, and the most memory that the process (on a GPU: the device) held. docs/performance.md records such
runs with their date.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np

from duosora.core import random
from duosora.core.layout import FreshWeights
from duosora.core.models.opensora_t2v import TINY, OpenSoraT2VSpec
from duosora.core.models.wfvae import WFVAESpec
from duosora.core.pipelines.autoencode import DecodeOptions, decode_chunks
from duosora.core.seam.backend import Backend, default_name, get
from duosora.core.seam.models import Given
from duosora.core.seam.training import DiffusionBatch, TrainOptions
from duosora.core.shapes import LatentShape
from duosora.core.train.objectives import DiffusionObjective

WFVAE_64 = WFVAESpec(
    base_channels=64,
    norm_type="layernorm",
    t_interpolation="trilinear",
    connect_res_layer_num=2,
    encoder_energy_flow_hidden_size=64,
    decoder_energy_flow_hidden_size=64,
)
T2V_8_LAYERS = OpenSoraT2VSpec(
    num_layers=8,
    num_attention_heads=12,
    attention_head_dim=96,
    in_channels=8,
    out_channels=8,
    caption_channels=4096,
)
T2V_LATENT = LatentShape(6, 32, 32)
"""6 x 16 x 16 = 1536 tokens."""
TEXT_TOKENS = 128
TINY_LATENT = LatentShape(5, 8, 8)
TINY_TEXT_TOKENS = 12

Case = Callable[[Backend, str, bool], Callable[[], Any]]
"""On a backend, in a dtype, compiled or not."""


def encode(backend: Backend, dtype: str, compile: bool) -> Callable[[], Any]:
    model = backend.build(WFVAE_64, FreshWeights(WFVAE_64.layout(), 0), dtype)
    video = backend.asarray(random.normal((1, 3, 17, 128, 128), 0, "video"))
    return lambda: model.encode(video)


def decode(backend: Backend, dtype: str, compile: bool) -> Callable[[], Any]:
    model = backend.build(WFVAE_64, FreshWeights(WFVAE_64.layout(), 0), dtype)
    latents = backend.asarray(random.normal((1, 8, 5, 16, 16), 0, "latents"))
    return lambda: model.decode(latents)


def forward(backend: Backend, dtype: str, compile: bool) -> Callable[[], Any]:
    model = backend.build(T2V_8_LAYERS, FreshWeights(T2V_8_LAYERS.layout(), 0), dtype, compile=compile)
    text = random.normal((1, TEXT_TOKENS, 4096), 0, "text")
    latents = backend.asarray(random.normal((1, 8, *T2V_LATENT), 0, "latents"))
    timestep = backend.asarray(np.array([500.0], np.float32))
    condition = model.condition(Given(text=text, text_mask=np.ones((1, TEXT_TOKENS))), T2V_LATENT)
    return lambda: model(latents, timestep, condition)


def guided_step(backend: Backend, dtype: str, compile: bool) -> Callable[[], Any]:
    model = backend.build(TINY, FreshWeights(TINY.layout(), 0), dtype, compile=compile)
    text = random.normal((2, TINY_TEXT_TOKENS, TINY.caption_channels), 0, "text")
    latents = backend.asarray(random.normal((2, TINY.in_channels, *TINY_LATENT), 0, "latents"))
    timesteps = backend.asarray(np.full(2, 500.0, np.float32))
    condition = model.condition(Given(text=text), TINY_LATENT)
    return lambda: model(latents, timesteps, condition)


def train_step(backend: Backend, dtype: str, compile: bool) -> Callable[[], Any]:
    options = TrainOptions(dtype=dtype, compile=compile)
    trainer = backend.train_denoiser(TINY, FreshWeights(TINY.layout(), 0), options)
    shape = (2, TINY.in_channels, *TINY_LATENT)
    batch = DiffusionBatch(
        latents=random.normal(shape, 0, "latents"),
        noise=random.normal(shape, 0, "noise"),
        given=Given(text=random.normal((2, TINY_TEXT_TOKENS, TINY.caption_channels), 0, "text")),
        **DiffusionObjective().draw(0, (0, 1), 0)._asdict(),
    )

    def run() -> None:
        trainer.step([batch], lr=1e-4, ema_decay=0.99)

    return run


def streamed(num_frames: int, side: int = 64) -> Case:
    def case(backend: Backend, dtype: str, compile: bool) -> Callable[[], Any]:
        model = backend.build(WFVAE_64, FreshWeights(WFVAE_64.layout(), 0), dtype)
        latents = random.normal((1, 8, 1 + (num_frames - 1) // 4, side // 8, side // 8), 0, "latents")

        def run() -> None:
            for _ in decode_chunks(backend, model, WFVAE_64, latents, DecodeOptions(chunk=2)):
                pass

        return run

    return case


CASES: dict[str, tuple[str, Case]] = {
    "tiny-step": ("tiny OpenSoraT2V, a guided step, 80 tokens", guided_step),
    "tiny-train": ("tiny OpenSoraT2V, a training step of two clips of 80 tokens", train_step),
    "wfvae-encode": ("WFVAE base 64, encode 17x128x128", encode),
    "wfvae-decode": ("WFVAE base 64, decode 17x128x128", decode),
    "t2v-forward": ("OpenSoraT2V 8 layers, 12x96, 1536 tokens, 128 text tokens", forward),
    "stream-17": ("WFVAE base 64, streamed decode of 17x64x64, chunk 2", streamed(17)),
    "stream-65": ("WFVAE base 64, streamed decode of 65x64x64, chunk 2", streamed(65)),
    "stream-257": ("WFVAE base 64, streamed decode of 257x64x64, chunk 2", streamed(257)),
}


def measure(name: str, backend_name: str, device: str, dtype: str, repeat: int, compile: bool) -> dict[str, Any]:
    """Run one case in this process."""
    backend = get(backend_name, device)
    case = CASES[name][1]
    with nullcontext() if case is train_step else backend.inference():
        run = case(backend, dtype, compile)
        loaded = _memory_bytes("VmRSS")
        seconds = []
        for _ in range(repeat + 1):
            start = time.perf_counter()
            result = run()
            if result is not None:
                backend.to_numpy(result)
            seconds.append(time.perf_counter() - start)
    peak = backend.peak_memory_bytes() or _memory_bytes("VmHWM")
    return {
        "first": seconds[0],
        "seconds": min(seconds[1:]),
        "peak": peak,
        "loaded": loaded,
        "versions": backend.versions(),
    }


def _memory_bytes(entry: str) -> int:
    """VmRSS (now) or VmHWM (at most) of this process; not ru_maxrss, which starts at that of the parent."""
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines[entry].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=f"some of {', '.join(CASES)}")
    parser.add_argument("--backend", default=default_name())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="the denoiser as a compiled graph")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_process:
        settings = (options.backend, options.device, options.dtype, options.repeat, options.compile)
        print(json.dumps(measure(options.cases[0], *settings)))
        return
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    print("| case | dtype | first s | seconds | peak MiB | before the run MiB |\n| --- | --- | --- | --- | --- | --- |")
    for name in options.cases:
        arguments = [name, "--backend", options.backend, "--device", options.device, "--dtype", options.dtype]
        arguments += ["--repeat", str(options.repeat), "--in-process", *(["--compile"] if options.compile else [])]
        done = subprocess.run(
            [sys.executable, __file__, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        figures = json.loads(done.stdout.splitlines()[-1])
        peak, loaded = figures["peak"] / 2**20, figures["loaded"] / 2**20
        times = f"{figures['first']:.3f} | {figures['seconds']:.3f}"
        print(f"| {CASES[name][0]} | {options.dtype} | {times} | {peak:.0f} | {loaded:.0f} |", flush=True)
    print(
        "\n"
        + ", ".join(f"{key} {value}" for key, value in figures["versions"].items())
        + f", {options.threads} threads"
    )


if __name__ == "__main__":
    main()
