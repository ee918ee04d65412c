"""Whether a device computes what a CPU computes in fp32: what `gpu_session.py` asks before it measures anything.

Models are tiny. Each check gives a difference and how much it may be: the largest one, relative to the largest number,
and in bf16 and in 8 bits the root of the mean square, relative to that of the numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cases
import numpy as np

from duosora.core import caching, random
from duosora.core.errors import ConfigError
from duosora.core.goldens.suite import find_all, is_implemented, run_case
from duosora.core.layout import FreshWeights, GivenWeights
from duosora.core.models import opensora_t2v, stdit3, t5, wfvae
from duosora.core.models.lora.adapter import ATTENTION, Adapter, adapter_layout, chosen
from duosora.core.seam.backend import Backend, get
from duosora.core.seam.group import Alone
from duosora.core.seam.training import AdamW, TrainOptions

GOLDENS = Path(__file__).parents[1] / "tests" / "goldens"
FEW = ("t2v/small_activations", "wfvae/haar", "sched", "rflow")
"""Those that even the smallest session runs, by the beginnings of their names."""
FP32_LIMIT, BF16_LIMIT, INT8_LIMIT, VAE_BF16_LIMIT = 1e-4, 3e-2, 3e-2, 1e-1
TRAINING_LIMIT = 1e-3
"""Of weights after two steps, relative to the change of the largest: AdamW divides by gradients' sizes."""
GOLDEN_SLACK = 3.0
"""Of the cases' tolerances, which were set for a CPU: a GPU adds up in another order."""
T2V = replace(opensora_t2v.TINY, num_layers=3)
"""Its last layer is one of skiparse."""
LATENT = cases.LatentShape(3, 8, 8)
EPS = 1e-6
EAGER = 100.0
"""A threshold that no change reaches."""


class Verdict(NamedTuple):
    """What came of a check."""

    name: str
    error: float
    limit: float
    seconds: float
    problem: str = ""

    @property
    def passed(self) -> bool:
        return not self.problem and self.error <= self.limit


Check = Callable[[], tuple[float, float]]
"""The difference, and its limit."""


def goldens(device: str, seconds: float, few: bool) -> Iterator[Verdict]:
    """The numbers of the original implementations, until the time is over; cases that are left out are not told."""
    backend, end = get("torch", device), time.perf_counter() + seconds
    for case in find_all(GOLDENS)[1]:
        if time.perf_counter() > end:
            return
        if not is_implemented(case) or (few and not case.name.startswith(FEW)):
            continue
        start = time.perf_counter()
        result = run_case(case, backend)
        worst = result.worst.ratio if result.worst else float("inf")
        yield Verdict(f"golden {case.name}", worst, GOLDEN_SLACK, time.perf_counter() - start, result.error)


def checked(checks: dict[str, Check]) -> Iterator[Verdict]:
    """All of some checks, whatever becomes of the ones before."""
    for name, check in checks.items():
        start = time.perf_counter()
        try:
            error, limit = check()
            yield Verdict(name, error, limit, time.perf_counter() - start)
        except Exception as error:
            told = f"{type(error).__name__}: {error}".splitlines()[0]
            yield Verdict(name, float("inf"), 0.0, time.perf_counter() - start, told)


def checks(device: str, few: bool) -> dict[str, Check]:
    """By what they are of. few: without those that a CPU compiles for a minute."""

    def check(limit: float, compute: Callable[..., Any], **options: Any) -> Check:
        return lambda: (_apart(device, compute, **options), limit)

    found: dict[str, Check] = {
        "guided sampling": check(FP32_LIMIT, _sampled),
        "STDiT3": check(FP32_LIMIT, _stdit3),
        "T5 encoder": check(FP32_LIMIT, _encoded),
        "T5 encoder in 8 bits": check(INT8_LIMIT, _encoded, dtype="int8"),
        "WFVAE, whole and streamed": check(FP32_LIMIT, _decoded),
        "compiled": check(FP32_LIMIT, _predicted_by_one_block, compile=True),
        "offloaded": check(FP32_LIMIT, _predicted, blocks_on="host"),
        "offloaded, in bf16": check(BF16_LIMIT, _predicted, blocks_on="host", dtype="bf16"),
        "T2V in bf16": check(BF16_LIMIT, _predicted, dtype="bf16"),
        "WFVAE in bf16": check(VAE_BF16_LIMIT, _decoded, dtype="bf16"),
        "training step": check(TRAINING_LIMIT, _trained),
        "training step, recomputing": check(TRAINING_LIMIT, _trained, recompute_every=1),
        "training step, LoRA": check(TRAINING_LIMIT, _trained_lora),
        "training step, WFVAE": check(TRAINING_LIMIT, _trained_autoencoder),
    }
    for kind in caching.KINDS:
        found[f"cache {kind}"] = check(FP32_LIMIT, partial(_cached, kind=kind))
    found["offloaded, with a cache"] = check(FP32_LIMIT, partial(_cached, kind="first_block"), blocks_on="host")
    if not few:
        found["offloaded, compiled"] = check(FP32_LIMIT, _predicted, compile=True, blocks_on="host")
        found["training step, compiled"] = check(TRAINING_LIMIT, _trained, compile=True)
    backend = get("torch", device)
    for kernel in backend.attention_kernels():
        dtype, limit = ("fp32", FP32_LIMIT) if _takes_fp32(backend, kernel) else ("bf16", BF16_LIMIT)
        found[f"attention {kernel}"] = check(limit, _predicted, dtype=dtype, attention=kernel)
    return found


def _takes_fp32(backend: Any, kernel: str) -> bool:
    try:
        backend.check("fp32", kernel)
    except ConfigError:
        return False
    return True


def _apart(device: str, compute: Callable[..., Any], **options: Any) -> float:
    """How far the device's numbers are from the CPU's in fp32, of which options say nothing."""
    expected, found = compute(get("torch", "cpu")), compute(get("torch", device), **options)
    if not np.isfinite(found).all():
        return float("inf")
    if options.get("dtype", "fp32") != "fp32":
        return apart(found, expected)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    """The root of the mean square of differences, relative to that of the numbers."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _case(spec: Any, **options: Any) -> cases.Denoising:
    return cases.Denoising("", spec, latent=LATENT, text_tokens=7, **options)


def _sampled(backend: Backend) -> np.ndarray:
    """Latents of four guided steps, decoded."""
    case = _case(T2V, steps=4)
    with backend.inference():
        latents = case.ours(cases.Place(device=backend.device))()()
        vae = backend.build(wfvae.TINY, FreshWeights(wfvae.TINY.layout(), 0))
        return backend.to_numpy(vae.decode(backend.asarray(latents)))


def _cached(backend: Backend, kind: str, **options: Any) -> np.ndarray:
    """Latents of guided steps of which a cache leaves out some, times the blocks that it computes: both count."""
    case = _case(T2V, steps=8)
    with backend.inference():
        model = backend.build(T2V, _spread_weights(T2V), **options)
        eager = {"threshold": EAGER} if "threshold" in caching.options(kind) else {}
        cached = caching.make(kind, eager).over(model, caching.CachedRun(backend, case.steps, Alone()))
        latents = case.call(backend, cached)()
    assert 0 < cached.report.blocks < case.steps * model.num_blocks
    return latents * np.float32(cached.report.blocks)


def _called(backend: Backend, spec: Any, **options: Any) -> np.ndarray:
    case = _case(spec, batch=2)
    model = backend.build(spec, _spread_weights(spec), **options)
    with backend.inference():
        return backend.to_numpy(case.call(backend, model)())


def _predicted(backend: Backend, **options: Any) -> np.ndarray:
    return _called(backend, T2V, **options)


def _predicted_by_one_block(backend: Backend, **options: Any) -> np.ndarray:
    return _called(backend, replace(T2V, num_layers=1), **options)


def _stdit3(backend: Backend) -> np.ndarray:
    return _called(backend, stdit3.TINY)


def _encoded(backend: Backend, dtype: str = "fp32") -> np.ndarray:
    case = cases.TextEncoding("", t5.TINY, real=9, padded=16)
    with backend.inference():
        return backend.to_numpy(case.ours(cases.Place(device=backend.device, dtype=dtype))()())


def _decoded(backend: Backend, **options: Any) -> np.ndarray:
    """Moments of a clip, its pixels in one piece, and streamed."""
    spec = wfvae.TINY
    model = backend.build(spec, FreshWeights(spec.layout(), 0), **options)
    case = cases.Autoencoding("", spec, size=(9, 32, 32))
    with backend.inference():
        latents = model.encode(backend.asarray(case.video())).latents
        whole = backend.to_numpy(model.decode(latents))
        chunks = cases.decode_chunks(backend, model, spec, backend.to_numpy(latents), cases.DecodeOptions(chunk=2))
        streamed = np.concatenate([np.asarray(chunk) for chunk in chunks], 2)
    return np.concatenate([backend.to_numpy(latents).ravel(), whole.ravel(), streamed.ravel()])


def _trained(backend: Backend, **options: Any) -> np.ndarray:
    """All weights after two steps, as changes."""
    weights = _spread_weights(T2V)
    trainer = backend.train_denoiser(T2V, weights, TrainOptions(optimizer=AdamW(eps=EPS), **options))
    batch = cases.DenoiserTraining("", T2V, latent=LATENT, text_tokens=7, batch=2).training_batch()
    return _change(trainer, batch, weights)


def _trained_lora(backend: Backend) -> np.ndarray:
    layout = T2V.layout()
    adapters = dict.fromkeys(chosen(layout, T2V.blocks(), ATTENTION), Adapter(4, 4.0))
    added = adapter_layout(layout, adapters)
    options = TrainOptions(optimizer=AdamW(eps=EPS), adapters=adapters, only=frozenset(added))
    whole = {**_spread_weights(T2V), **_SpreadWeights(added, 0)}
    trainer = backend.train_denoiser(T2V, GivenWeights(whole, "fresh weights"), options)
    batch = cases.DenoiserTraining("", T2V, latent=LATENT, text_tokens=7, batch=2).training_batch()
    for _ in range(2):
        trainer.step([batch], 1e-3, 0.9)
    weights = trainer.saved().weights(use_ema=False)
    return np.concatenate([weights[name].ravel() for name in sorted(weights)])


def _trained_autoencoder(backend: Backend) -> np.ndarray:
    spec = wfvae.TINY
    weights = FreshWeights(spec.layout(), 0)
    case = cases.AutoencoderTraining("", spec, size=(5, 16, 16))
    losses = cases.AutoencoderLosses()
    trainer = backend.train_autoencoder(spec, weights, losses, TrainOptions(optimizer=AdamW(eps=EPS)))
    return _change(trainer, case.training_batch(), weights)


def _change(trainer: Any, batch: Any, weights: Any) -> np.ndarray:
    for _ in range(2):
        trainer.step([batch], 1e-3, 0.9)
    learned = trainer.saved().weights(use_ema=False)
    return np.concatenate([(learned[name] - weights[name]).ravel() for name in sorted(learned)])


class _SpreadWeights(FreshWeights):
    """Fresh weights of which none are zeros, so that every part of a model counts."""

    def __getitem__(self, name: str) -> np.ndarray:
        fresh = super().__getitem__(name)
        return fresh if fresh.any() else random.normal(fresh.shape, 0, name) * np.float32(0.02)


def _spread_weights(spec: Any) -> _SpreadWeights:
    return _SpreadWeights(spec.layout(), 0)
