"""`duosora doctor`: which backends, devices and helpers are here, and how to install what is missing."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..seam.backend import Backend


@dataclass(frozen=True)
class Package:
    """A package that duosora uses, or can use where it is installed."""

    module: str
    distribution: str
    use: str
    extra: str = ""
    """Of pyproject.toml, that it belongs to; "" is duosora itself."""


PACKAGES = (
    Package("numpy", "numpy", "tables, noise, all of core"),
    Package("ml_dtypes", "ml-dtypes", "weights in half precision"),
    Package("yaml", "pyyaml", "settings files"),
    Package("sentencepiece", "sentencepiece", "tokeniser"),
    Package("safetensors", "safetensors", "messages between processes"),
    Package("av", "av", "video files"),
    Package("PIL", "pillow", "images"),
    Package("torch", "torch", "backend torch", "torch"),
    Package("mindspore", "mindspore", "backend mindspore", "mindspore"),
    Package("ftfy", "ftfy", "training: clean odd captions", "train"),
    Package("bs4", "beautifulsoup4", "training: clean odd captions", "train"),
    Package("tensorboard", "tensorboard", "training: curves", "train"),
    Package("matplotlib", "matplotlib", "duosora plot", "train"),
    Package("pyarrow", "pyarrow", "annotations: .parquet", "parquet"),
    Package("sklearn", "scikit-learn", "the lesson: handwritten digits", "lesson"),
    Package("tokenizers", "tokenizers", "tokeniser of CLIP", "clip"),
    Package("decord", "decord2", "reader: decord", "decord"),
    Package("flash_attn", "flash-attn", "attention: flash (CUDA)", "flash-attn"),
    Package("deepspeed", "deepspeed", "parallel.engine: deepspeed", "deepspeed"),
    Package("bitsandbytes", "bitsandbytes", "optimizer: adamw_8bit (CUDA)", "optimizers"),
    Package("prodigyopt", "prodigyopt", "optimizer: prodigy", "optimizers"),
    Package("mindone", "mindone", "cross-check of MindSpore", "mindone"),
)


def doctor(
    npu_check: Annotated[
        bool,
        typer.Option(
            "--npu-check", help="Also run what is done in a way of its own on the device, and compare the plain way."
        ),
    ] = False,
    distributed: Annotated[
        bool,
        typer.Option(
            "--distributed",
            help="Test the links between the processes that torchrun, msrun or duosora launch started with this one.",
        ),
    ] = False,
    backend: Annotated[str | None, typer.Option(help="With --distributed: torch or mindspore.")] = None,
    device: Annotated[str, typer.Option(help="With --distributed: auto, cpu, cuda, npu, ...")] = "auto",
    sequence: Annotated[
        int, typer.Option(min=1, help="With --distributed: groups as parallel.sequence makes them.")
    ] = 1,
    cfg: Annotated[bool, typer.Option("--cfg", help="With --distributed: groups as parallel.cfg makes them.")] = False,
    wait: Annotated[
        float, typer.Option(min=0, max=86400, help="With --distributed: seconds after which processes count as absent.")
    ] = 60.0,
) -> None:
    """Report what is here and what is missing.

    Packages, backends and devices, how to install the rest, and which verbs work. Exit code 1 when nothing can be
    sampled, or when a link between processes gives wrong numbers.
    """
    if distributed:
        _test_links(backend, device, sequence, cfg, wait)
        return
    from duosora import __version__

    from ..extras import WHERE, install_command
    from ..printable import say

    say(f"duosora {__version__}, Python {platform.python_version()}, {platform.platform()}")
    if absent := _show_packages():
        say(f"nothing works without {', '.join(absent)}: {install_command('')} {WHERE}")
        raise typer.Exit(1)

    from ..ascend import ascend_report  # these want the packages
    from ..checkup import problems_of_verbs
    from ..seam.backend import NAMES

    working = [backend for backend in map(_working, NAMES) if backend]
    say(*ascend_report())
    problems = problems_of_verbs([backend.name for backend in working])
    _show_verbs(problems)
    if not working:
        commands = (f"{install_command('torch')} (GPU, CPU)", f"{install_command('mindspore')} (Ascend, CPU)")
        say(f"no backend works here: {' or '.join(commands)} {WHERE}")
    if problems["sample"]:
        say("RED: nothing can be sampled here")
        raise typer.Exit(1)
    if npu_check:
        for each in working:
            _compare_forms(each)


def _show_packages() -> list[str]:
    """A table of what is installed; returns what duosora itself lacks."""
    from ..extras import WHERE, install_command
    from .tables import Table, show

    table = Table("package", "version", "used for", f"to install, {WHERE}")
    versions = {package: _version(package) for package in PACKAGES}
    for package, version in versions.items():
        install = "" if version else install_command(package.extra)
        table.add_row(package.distribution, version or "missing", package.use, install)
    show(table)
    return [package.distribution for package, version in versions.items() if not version and not package.extra]


def _show_verbs(problems: Mapping[str, str]) -> None:
    """A table of the verbs: which ones work, and what the others miss."""
    from ..checkup import missing_decoders
    from ..printable import say
    from .tables import Table, show

    table = Table("verb", "")
    for verb, problem in problems.items():
        table.add_row(verb, problem or "works", style="red" if problem else None)
    show(table)
    if not problems["data"] and (absent := missing_decoders()):
        say(f"videos: the ffmpeg in PyAV cannot read {', '.join(absent)}; pip install --force-reinstall av")


def _test_links(name: str | None, device: str, sequence: int, has_cfg: bool, wait_seconds: float) -> None:
    """Every collective between the processes of this run, in a table that rank 0 prints."""
    import socket
    import statistics

    from ..errors import ConfigError
    from ..parallel import links
    from ..parallel.launched import launched
    from ..printable import say
    from ..seam.backend import get
    from ..seam.ranks import make_plan
    from .tables import Table, show

    here = launched()
    if here.world == 1:
        raise ConfigError(
            "doctor --distributed: this process is alone; start it as the run, such as "
            "duosora launch -n 8 -- doctor --distributed, or with torchrun or msrun"
        )
    plan = make_plan(here.world, sequence, has_cfg)
    backend = get(name, device)
    ranks = backend.connect(plan, wait_seconds)
    hosts = [each.decode() for each in ranks.world.share(socket.gethostname().encode())]
    wrong = []
    table = Table("ranks", "operation", "tensor", "time", "GB/s")
    for each in links.measure(backend, ranks):
        size, seconds = _binary(each.num_bytes), f"{each.seconds * 1e3:.3f} ms"
        table.add_row(f"{each.kind}, {each.size}", each.operation, size, seconds, f"{each.gigabytes_per_second:.3f}")
        wrong += [f"WRONG: rank {rank} on {hosts[rank]}: {each.operation} of {each.kind}" for rank in each.wrong]
    pace = links.pace(backend, ranks)
    if ranks.is_first:
        split = f"data {plan.data} x cfg {plan.cfg} x sequence {plan.sequence}"
        machines = ", ".join(dict.fromkeys(hosts))
        say(f"{here.world} ranks of {backend.name} on {backend.device}, {split}; machines: {machines}")
        show(table)
        usual, slowest = statistics.median(pace.link), max(pace.link)
        last = pace.link.index(slowest)
        first = (last - 1) % here.world
        say(
            f"slowest link: rank {first} on {hosts[first]} to rank {last} on {hosts[last]}, {slowest * 1e3:.3f} ms for "
            f"4 MiB; the median is {usual * 1e3:.3f} ms"
        )
        for rank in links.slow(pace.work):
            times = pace.work[rank] / statistics.median_low(pace.work)
            say(f"SLOW: rank {rank} on {hosts[rank]} takes {times:.1f} times the median for work of its own")
        say(*(dict.fromkeys(wrong) or ["every collective gives the right numbers on every rank"]))
    if wrong:
        raise typer.Exit(1)


def _binary(num_bytes: int) -> str:
    """A size with its unit."""
    return f"{num_bytes / 2**20:g} MiB" if num_bytes >= 2**20 else f"{num_bytes / 2**10:g} KiB"


def _version(package: Package) -> str | None:
    from importlib import metadata

    if importlib.util.find_spec(package.module) is None:
        return None
    try:
        return metadata.version(package.distribution)
    except metadata.PackageNotFoundError:
        return "installed"


def _working(name: str) -> Backend | None:
    """The backend, reported in a line, or None with the reason printed."""
    from ..checkup import known_problems
    from ..errors import DuosoraError
    from ..printable import one_line, say
    from ..seam.backend import get

    try:
        backend = get(name)
    except Exception as error:  # whatever a broken package raises when it is imported
        say(f"backend {name}: {error if isinstance(error, DuosoraError) else one_line(error)}")
        return None
    versions = ", ".join(f"{key} {value}" for key, value in backend.versions().items())
    memory = backend.device_memory_bytes()
    size = f", {memory / 2**30:.0f} GiB" if memory else ""
    say(f"backend {name}: {versions}{size}; attention kernels: {', '.join(backend.attention_kernels())}")
    say(*(f"NOTE: {problem}" for problem in known_problems(backend.versions())))
    return backend


def _compare_forms(backend: Backend) -> None:
    from ..printable import say

    for dtype in ("fp32", "fp16") if backend.on_host else ("fp32", "fp16", "bf16"):
        where = f"{backend.name} on {backend.device}, {dtype}"
        compared = [f"{where}, {name}: {far:.1e} from the plain way" for name, far in backend.compare_forms(dtype)]
        say(*(compared or [f"{where}: nothing is done in a way of its own"]))
