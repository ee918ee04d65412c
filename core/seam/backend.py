"""The seam between core and the frameworks: what a backend can do, and how to get one.

core knows backends by this protocol alone; pipelines and the golden runners use nothing else.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, Protocol

import numpy as np

from ..errors import BackendMissing
from ..extras import WHERE, install_command, needs_extra
from ..layout import Weights
from ..maths.eight_bits import EIGHT_BITS
from ..printable import short_name
from .group import Group
from .models import Array, Model
from .ranks import MEET_SECONDS, ParallelPlan, Ranks
from .training import AutoencoderBatch, AutoencoderLosses, Companion, DiffusionBatch, TrainOptions, TrainStep

NAMES = ("torch", "mindspore")
DTYPES = ("fp32", "bf16", "fp16")
BlocksOn = Literal["device", "host", "file"]
"""Where the weights of a model's blocks are between its calls. "host", of a denoiser: in the host's memory, from where
the next is copied to the device while one computes, and two blocks are on the device at a time. "file", of a text
encoder: they are read anew for each call of `encode`, likewise."""
_ACCELERATORS = {"cuda": ("NVIDIA GPUs", "torch"), "npu": ("Ascend NPUs", "mindspore")}
"""By the name of their device: what they are, and the backend that they are used with."""
_OTHER_NAMES = {"gpu": "cuda", "nvidia": "cuda", "ascend": "npu"}


class Backend(Protocol):
    """One framework on one device."""

    name: str
    device: str

    @property
    def on_host(self) -> bool:
        """Whether the device is the host's CPU."""

    @property
    def slow_dtypes(self) -> tuple[str, ...]:
        """Of DTYPES those that the device computes in tens of times slower than in fp32."""

    def asarray(self, array: np.ndarray) -> Array:
        """A tensor on the device, of the array's dtype."""

    def stage(self, array: np.ndarray) -> Callable[[], Array]:
        """Bring an array to where the device fetches it from, on any thread.

        What it gives does as `asarray`, on the thread of the device's work, and waits for no work of the device.
        """

    def is_finite(self, array: Array) -> Callable[[], bool]:
        """Begin to see whether a tensor holds neither NaN nor infinity; the answer waits until that is known."""

    def to_numpy(self, array: Array) -> np.ndarray:
        """A numpy copy on the host; half precision comes back as float32."""

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        """The tensors joined along one axis."""

    def inference(self) -> AbstractContextManager[Any]:
        """A context in which no gradients are kept."""

    def connect(self, plan: ParallelPlan, meet_seconds: float = MEET_SECONDS) -> Ranks:
        """Join the processes that were started together with this one.

        Raises: ConfigError when the plan is for another number of processes; BackendMissing when they do not find
        together in that time.
        """

    def build(
        self,
        spec: Any,
        weights: Weights,
        dtype: str = "fp32",
        attention: str = "auto",
        compile: bool = False,
        sequence: Group | None = None,
        blocks_on: BlocksOn = "device",
        adapters: Mapping[str, Any] | None = None,
    ) -> Model:
        """The model of a spec with its weights on the device, ready for inference.

        weights are checked against the spec's layout, and the model's own parameters too. dtype is one of DTYPES, or
        EIGHT_BITS for a text encoder, which then computes in the `compute_dtype` of that;
        attention names the kernel, one of `attention_kernels()`, or "auto". compile: calls of the model run as a
        compiled graph, which is made at the first call with each combination of shapes. sequence: ranks that share the
        tokens of a denoiser; all of them make the same calls and get the same predictions. blocks_on: where the weights
        of its blocks are until they compute. adapters: by layers of a denoiser, the core.models.lora.adapter.Adapter
        that is beside each; `weights` holds their matrices too.
        Raises: LayoutError, CheckpointError (bad tensors), ConfigError (a kernel or dtype the device lacks).
        """

    def train_denoiser(
        self, spec: Any, weights: Weights, options: TrainOptions, ranks: Ranks | None = None
    ) -> TrainStep[DiffusionBatch]:
        """The model of a denoiser's spec with its weights on the device, ready to be trained.

        ranks: that train together. Each hands its own data's micro-batches to `step`, the ranks of a team the same
        ones; reports, and what `evaluate` gives, are the same on all.
        Raises: as build; PackageMissing for an optimiser whose library is not installed.
        """

    def train_autoencoder(
        self,
        spec: Any,
        weights: Weights,
        losses: AutoencoderLosses,
        options: TrainOptions,
        discriminator: Companion | None = None,
        perceptual: Companion | None = None,
        ranks: Ranks | None = None,
    ) -> TrainStep[AutoencoderBatch]:
        """The model of an autoencoder's spec with its weights on the device, ready to be trained.

        discriminator: trained against it. perceptual: a core.models.lpips, which stays as it is. ranks: as
        train_denoiser; only data is split.
        Raises: as train_denoiser.
        """

    def relay(self, group: Group) -> Any:
        """The stream of a clip whose chunks an autoencoder decodes on several ranks side by side: what a model's
        `stream()` gives to one rank."""

    def check(self, dtype: str, attention: str) -> None:
        """Raises what `build` would raise for the dtype and the kernel, before any long work."""

    def structure(self, spec: Any) -> Mapping[str, tuple[int, ...]]:
        """Parameter names and shapes of the model of a spec, built without memory for the weights."""

    def attention_kernels(self) -> tuple[str, ...]:
        """The attention kernels that work here."""

    def function(self, name: str) -> Callable[..., Any]:
        """A piece of a model without weights, which golden cases test by itself.

        "rotate" (queries or keys, cosines, sines); "diffusion_loss" (a DiffusionBatch and a prediction, in numpy) gives
        loss, gradient by the prediction and model_input by name; "judge_in_training" (a discriminator, pixels in numpy)
        gives logits and the running statistics after it. "<family>.<name>" is one of FUNCTIONS in the family's file.
        """

    def operation(self, name: str, sizes: tuple[int, ...], dtype: str) -> Callable[[], None]:
        """An operation of core.planning.operations on numbers of its own, to be timed: each call does it once."""

    def compare_forms(self, dtype: str) -> Iterator[tuple[str, float]]:
        """Run each operation that is done in a way of its own on this device, and in the plain way too.

        Gives names and the largest differences, relative to the largest value.
        """

    def record(self, model: Model, names: Iterable[str]) -> AbstractContextManager[dict[str, Array]]:
        """A context that notes the output of the named inner modules at each call of the model (the last one stays)."""

    def free_memory(self) -> None:
        """Give memory of models that are no longer referenced back to the device."""

    def device_memory_bytes(self) -> int | None:
        """Memory of the device, None where it is the host's."""

    def free_memory_bytes(self) -> int | None:
        """Memory of the device that may be taken now, of the host's where it is that; None where nobody says."""

    def peak_memory_bytes(self) -> int | None:
        """Most device memory in use since the backend was made, None where it is the host's."""

    def versions(self) -> dict[str, str]:
        """What `duosora doctor` and sidecar files say of the framework and device."""


def compute_dtype(dtype: str, on_host: bool) -> str:
    """Of DTYPES, what a model computes in whose weights have a dtype, or EIGHT_BITS."""
    return dtype if dtype != EIGHT_BITS else "fp32" if on_host else "bf16"


def get(name: str | None = None, device: str = "auto") -> Backend:
    """The backend of that name, by default the first one that is installed, on a device ("auto", "cpu", "cuda:1", ...).

    Raises: BackendMissing when the framework or the device is not there; PackageMissing when it does not load.
    """
    name = name or default_name()
    refuse_missing(name)
    with _to_stay(name):
        with needs_extra(name, f"backend {name!r}"):
            importlib.import_module(name)
        module = importlib.import_module(f"duosora.backends.{name}")
    try:
        return module.create(device)
    except BackendMissing as error:
        raise BackendMissing(_advice(name, device) or str(error)) from error


@contextmanager
def _to_stay(name: str) -> Iterator[None]:
    """A context in which a framework is imported: Python looks for no garbage meanwhile, nor later among what came.

    That is 250,000 objects, and they stay to the end of the process. Going through them took 0.1 s at each whole
    search, such as that of `free_memory`, and half a second when the process ended.
    """
    if name in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def default_name() -> str:
    """The backend where none is named. Raises: BackendMissing when none is installed."""
    if not (installed := available()):
        raise BackendMissing(f"no backend is installed: {' or '.join(map(install_command, NAMES))} {WHERE}")
    return installed[0]


def refuse_missing(name: str, offers_other: bool = True) -> None:
    """See that a backend is installed. offers_other: whether another one would do.

    Raises: BackendMissing.
    """
    if name not in NAMES:
        raise BackendMissing(f"backend {short_name(name)}: there are {' and '.join(NAMES)}")
    if name not in available():
        instead = "".join(f", or use --backend {other}, which is" for other in available() if offers_other)
        raise BackendMissing(f"backend {name!r} is not installed: {install_command(name)} {WHERE}{instead}")


def available() -> tuple[str, ...]:
    """Names of the backends whose framework is installed, found without importing it."""
    return tuple(name for name in NAMES if importlib.util.find_spec(name) is not None)


def _advice(name: str, device: str) -> str:
    """What to do about a device that belongs to the other backend or has another name; "" where that is not why."""
    given = device.partition(":")[0].casefold()
    kind = _OTHER_NAMES.get(given, given)
    what, home = _ACCELERATORS.get(kind, ("", name))
    if home != name:
        return f"device {short_name(device)}: {what} are used with --backend {home}, and this is backend {name!r}"
    if kind != given:
        return f"device {short_name(device)}: expected {kind}, or {kind}:1 for the second one"
    return ""
