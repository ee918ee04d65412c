"""What the machine can do: products of matrices and copies, measured in the same run as the cases."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Limits(NamedTuple):
    """The best that was seen."""

    matmul: dict[str, float]
    """FLOP a second, by dtype."""
    copy: float
    """Bytes a second, read and written."""

    def seconds(self, work: Any, dtype: str) -> float:
        """The least time that some work can take: products at the one limit, weights at the other."""
        return float(work.flop / self.matmul[dtype] + work.bytes / self.copy)

    def text(self) -> str:
        rates = ", ".join(f"{dtype} {_rate(rate, 'FLOP/s')}" for dtype, rate in self.matmul.items())
        return f"products {rates}; copies {_rate(self.copy, 'B/s')}"


class Probe:
    """Measures them again and again, and keeps the best."""

    def __init__(self, device: str, dtypes: tuple[str, ...], side: int | None = None) -> None:
        """side: of the square matrices; by default 1,536 on a CPU and 8,192 elsewhere."""
        import torch

        self.device = device
        side = side or (1536 if device == "cpu" else 8192)
        kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        pairs = {dtype: [torch.randn(side, side).to(device, kinds[dtype]) for _ in range(3)] for dtype in dtypes}
        source = torch.ones(side * side * 16, device=device)
        target = torch.empty_like(source)
        self.products: dict[str, Callable[[], Any]] = {
            dtype: lambda each=each: torch.mm(each[0], each[1], out=each[2]) for dtype, each in pairs.items()
        }
        onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if device == "cpu" else None
        if onednn is not None:  # in float32 twice as fast as torch's own choice on some processors
            for dtype, each in pairs.items():
                self.products[f"{dtype} by oneDNN"] = lambda each=each: onednn(*each[:2], None, "none", [], "")
        self.copying: Callable[[], Any] = lambda: target.copy_(source)
        self.flop, self.bytes = 2.0 * side**3, 2.0 * 4 * source.numel()
        self.best: dict[str, float] = {}

    def measure(self, clock: Callable[[], float]) -> None:
        """Once more; the first time after a warm-up."""
        for name, call in {**self.products, "copy": self.copying}.items():
            if name not in self.best:
                call()
            settle(self.device)
            start = clock()
            call()
            settle(self.device)
            # A clock of the processor may be too coarse for a tiny probe.
            self.best[name] = min(self.best.get(name, float("inf")), max(clock() - start, 1e-7))

    def limits(self) -> Limits:
        rates: dict[str, float] = {}
        for name, seconds in self.best.items():
            dtype = name.partition(" ")[0]
            rates[dtype] = max(self.flop / seconds, rates.get(dtype, 0.0))
        del rates["copy"]
        return Limits(rates, self.bytes / self.best["copy"])


def settle(device: str) -> None:
    """Wait for the device."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


def clock_of(device: str) -> Callable[[], float]:
    """Processor seconds where the processor does the work, so that others on the machine hardly count."""
    return time.process_time if device == "cpu" else time.perf_counter


def _rate(rate: float, unit: str) -> str:
    for prefix, factor in (("T", 1e12), ("G", 1e9)):
        if rate >= factor:
            return f"{rate / factor:.3g} {prefix}{unit}"
    return f"{rate:.3g} {unit}"
