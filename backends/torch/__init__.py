"""The PyTorch backend: `create(device)` gives what core.seam.backend.Backend describes."""

from __future__ import annotations

import gc
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import nn

from duosora.core.errors import BackendMissing, ConfigError
from duosora.core.host_memory import free_host_bytes
from duosora.core.layout import Weights
from duosora.core.loading import CheckedWeights, check_structure, checked_weights
from duosora.core.maths.eight_bits import EIGHT_BITS
from duosora.core.models.lora.adapter import NO_ADAPTERS, Adapters, adapted_layout
from duosora.core.parallel.launched import launched, own_device
from duosora.core.seam.backend import DTYPES, BlocksOn, compute_dtype
from duosora.core.seam.group import Alone, Group
from duosora.core.seam.ranks import MEET_SECONDS, ParallelPlan, Ranks
from duosora.core.seam.training import AutoencoderLosses, Companion, TrainOptions
from duosora.core.streamed_encoder import StreamedEncoder

from . import attention as kernels
from . import operators
from .adapters import adapt
from .autoencoder_step import AutoencoderTrainStep, judge_in_training
from .compiling import compile_blocks, compile_forward
from .distributed import groups
from .distributed.sequence_parallel import SequenceAttend, SequenceParallel
from .distributed.streaming import RelayStream
from .distributed.zero import share
from .eight_bits import quantise
from .forms import compare_forms
from .layers import pack, parameter_shapes, set_layer, set_parameter
from .matrices import TableInFile, drop, linear_layers, put
from .measuring import make_operation
from .memory import is_out_of_memory as is_out_of_memory
from .offload import HostedBlocks
from .precision import read_late, to_array, to_tensor, to_weight
from .train_step import DiffusionTrainStep, replay_loss


def create(device: str = "auto") -> TorchBackend:
    """The backend on one device; "auto" takes an accelerator where there is one.

    A process that was started with others takes the device of its own number.
    Raises: BackendMissing when torch cannot see the device.
    """
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        device = accelerator.type if accelerator else "cpu"
    device = own_device(device, launched())
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise BackendMissing(f"torch {torch.__version__} cannot use the device {device!r}: {reason}") from error
    operators.settle(device)
    return TorchBackend(device)


class TorchBackend:
    """PyTorch on one device."""

    name = "torch"

    def __init__(self, device: str) -> None:
        self.device = device

    @property
    def on_host(self) -> bool:
        return torch.device(self.device).type == "cpu"

    @property
    def slow_dtypes(self) -> tuple[str, ...]:
        return ("fp16",) if self.on_host else ()

    def asarray(self, array: np.ndarray) -> torch.Tensor:
        return self.stage(array)()

    def stage(self, array: np.ndarray) -> Callable[[], torch.Tensor]:
        tensor = to_tensor(array)
        if torch.device(self.device).type == "cuda":
            with torch.cuda.device(self.device):  # a thread begins on the first one
                tensor = tensor.pin_memory()
        # The memory is kept until it is copied; without being pinned, a copy is waited for all the same.
        return lambda: tensor.to(self.device, copy=True, non_blocking=True)

    def is_finite(self, array: torch.Tensor) -> Callable[[], bool]:
        found = read_late(array.isfinite().all())
        return lambda: bool(found())

    def to_numpy(self, array: torch.Tensor) -> np.ndarray:
        return to_array(array)

    def concat(self, arrays: Sequence[torch.Tensor], axis: int) -> torch.Tensor:
        return torch.cat(list(arrays), axis)

    def inference(self) -> AbstractContextManager[Any]:
        return operators.inference()

    def connect(self, plan: ParallelPlan, meet_seconds: float = MEET_SECONDS) -> Ranks:
        return groups.connect(plan, self.device, meet_seconds)

    def build(
        self,
        spec: Any,
        weights: Weights,
        dtype: str = "fp32",
        attention: str = "auto",
        compile: bool = False,
        sequence: Group | None = None,
        blocks_on: BlocksOn = "device",
        adapters: Adapters | None = None,
    ) -> Any:
        computed = compute_dtype(dtype, self.on_host)
        self.check(computed, attention)
        attend = kernels.make_attend(attention, self.device, computed)
        if blocks_on == "file":
            return self._streamed(spec, weights, dtype, attend)
        sequence = sequence or Alone()
        build = self._hosted if blocks_on == "host" else self._build
        model = build(spec, weights, dtype, _attend(attend, sequence), adapters or {})
        shared = _shared(model, sequence).eval()
        if compile and blocks_on == "host":
            compile_blocks(model)
        elif compile:
            compile_forward(shared)
        return shared

    def train_denoiser(
        self, spec: Any, weights: Weights, options: TrainOptions, ranks: Ranks | None = None
    ) -> DiffusionTrainStep:
        self.check(options.dtype, options.attention)
        ranks = ranks or Ranks()
        options = replace(options, frozen=(*options.frozen, *spec.layout().untrained))
        attend = _attend(kernels.make_attend(options.attention, self.device, options.dtype), ranks.sequence)
        model = _adapted(spec, attend, options.adapters, options.dtype)
        entrance = share(model, _shared(model, ranks.sequence), options, ranks.world, self.device)
        for name, array in checked_weights(adapted_layout(spec.layout(), options.adapters), weights):
            entrance.fill(name, array)
        return DiffusionTrainStep(entrance, self.device, options, ranks)

    def train_autoencoder(
        self,
        spec: Any,
        weights: Weights,
        losses: AutoencoderLosses,
        options: TrainOptions,
        discriminator: Companion | None = None,
        perceptual: Companion | None = None,
        ranks: Ranks | None = None,
    ) -> AutoencoderTrainStep:
        self.check(options.dtype, options.attention)
        attend = kernels.make_attend("auto", self.device, options.dtype)
        return AutoencoderTrainStep(
            self._build(spec, weights, "fp32", attend),
            discriminator and self._build(*discriminator, "fp32", attend),
            perceptual and self._build(*perceptual, "fp32", attend),
            self.device,
            losses,
            options,
            statistics=discriminator.spec.statistics if discriminator else (),
            ranks=ranks,
        )

    def relay(self, group: Group) -> RelayStream:
        return RelayStream(group)

    def check(self, dtype: str, attention: str) -> None:
        if dtype not in DTYPES:
            raise ConfigError(f"dtype = {dtype!r}: needs one of {', '.join(DTYPES)}")
        kernels.make_attend(attention, self.device, dtype)

    def _build(
        self, spec: Any, weights: Weights, dtype: str, attend: kernels.Attend, adapters: Adapters = NO_ADAPTERS
    ) -> Any:
        computed = compute_dtype(dtype, self.on_host)
        model = _adapted(spec, attend, adapters, computed)
        checked = CheckedWeights(adapted_layout(spec.layout(), adapters), weights)
        tables = [spec.token_table] if dtype == EIGHT_BITS else []
        of_8 = quantise(model, tables, computed, self.device) if dtype == EIGHT_BITS else {}
        self._set_weights(model, checked, computed, of_8)
        pack(model)
        return model

    def _streamed(self, spec: Any, weights: Weights, dtype: str, attend: kernels.Attend) -> StreamedEncoder:
        model, checked = _empty(spec, attend), CheckedWeights(spec.layout(), weights)
        computed = compute_dtype(dtype, self.on_host)
        of_8 = quantise(model, [], computed, self.device) if dtype == EIGHT_BITS else {}
        table = TableInFile(spec.token_table, checked, dtype, computed, self.device)
        set_layer(model, spec.token_table.removesuffix(".weight"), table)
        layers = [linear_layers(model, name) for name in spec.blocks()]
        in_blocks = [name for block in layers for name in block]
        self._set_weights(model, checked, computed, of_8, apart={spec.token_table, *in_blocks})
        read, put_here = partial(checked.matrix, dtype=dtype), partial(put, device=self.device)
        return StreamedEncoder(model.eval(), layers, read, put_here, drop)

    def _hosted(self, spec: Any, weights: Weights, dtype: str, attend: kernels.Attend, adapters: Adapters) -> Any:
        model = _adapted(spec, attend, adapters, dtype)
        checked = CheckedWeights(adapted_layout(spec.layout(), adapters), weights)
        blocks = HostedBlocks(model, checked, dtype, self.device)
        self._set_weights(model, checked, dtype, {}, apart=blocks.names)
        return model

    def _set_weights(
        self,
        model: Any,
        checked: CheckedWeights,
        dtype: str,
        of_8: Mapping[str, Any],
        apart: Container[str] = (),
    ) -> None:
        """Set all weights of a model but those apart; of_8: layers of 8 bits by the names of their weights."""
        for name in checked.names():
            if name in apart:
                continue
            if name in of_8:
                put(of_8[name], checked.matrix(name, EIGHT_BITS), self.device)
            else:
                set_parameter(model, name, to_weight(checked.whole(name), self.device, dtype))

    def structure(self, spec: Any) -> Mapping[str, tuple[int, ...]]:
        with torch.device("meta"):
            return parameter_shapes(_model(spec, kernels.make_attend("auto", self.device, "fp32")))

    def attention_kernels(self) -> tuple[str, ...]:
        return kernels.kernels(self.device)

    def function(self, name: str) -> Callable[..., Any]:
        functions: dict[str, Callable[..., Any]] = {
            "rotate": kernels.rotate,
            "diffusion_loss": replay_loss,
            "judge_in_training": judge_in_training,
        }
        family, _, inner = name.rpartition(".")
        return _models(family).FUNCTIONS[inner] if family else functions[name]

    def operation(self, name: str, sizes: tuple[int, ...], dtype: str) -> Callable[[], None]:
        return make_operation(name, sizes, self.device, dtype)

    def compare_forms(self, dtype: str) -> Iterator[tuple[str, float]]:
        with self.inference():
            yield from compare_forms(self.device, dtype)

    @contextmanager
    def record(self, model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Any]]:
        outputs: dict[str, Any] = {}

        def noter(name: str) -> Any:
            def note(module: nn.Module, inputs: Any, output: Any) -> None:
                # What follows may write its result over it.
                outputs[name] = output.clone() if isinstance(output, torch.Tensor) else output

            return note

        hooks = [model.get_submodule(name).register_forward_hook(noter(name)) for name in names]
        try:
            yield outputs
        finally:
            for hook in hooks:
                hook.remove()

    def free_memory(self) -> None:
        gc.collect()
        if not self.on_host:
            torch.accelerator.empty_cache()

    def device_memory_bytes(self) -> int | None:
        if torch.device(self.device).type != "cuda":
            return None
        return int(torch.cuda.get_device_properties(self.device).total_memory)

    def free_memory_bytes(self) -> int | None:
        if torch.device(self.device).type != "cuda":
            return free_host_bytes() if self.on_host else None
        kept = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return int(torch.cuda.mem_get_info(self.device)[0] + kept)

    def peak_memory_bytes(self) -> int | None:
        if torch.device(self.device).type != "cuda":
            return None
        return int(torch.cuda.max_memory_allocated(self.device))

    def versions(self) -> dict[str, str]:
        versions = {"torch": torch.__version__, "device": self.device}
        if torch.device(self.device).type == "cuda":
            versions["gpu"] = torch.cuda.get_device_name(self.device)
            versions["cuda"] = str(torch.version.cuda)
        return versions


def _attend(attend: kernels.Attend, sequence: Group) -> kernels.Attend:
    return attend if sequence.size == 1 else SequenceAttend(attend, sequence)


def _shared(model: Any, sequence: Group) -> nn.Module:
    """A model whose tokens the ranks of a group share."""
    return model if sequence.size == 1 else SequenceParallel(model, sequence)


def _empty(spec: Any, attend: kernels.Attend) -> Any:
    """The model of a spec without memory for its weights."""
    with torch.device("meta"):
        model = _model(spec, attend)
    check_structure(spec.layout(), parameter_shapes(model))
    return model


def _adapted(spec: Any, attend: kernels.Attend, adapters: Adapters, dtype: str) -> Any:
    """The same with adapters, if there are some; its own weights will have a dtype then."""
    model = _empty(spec, attend)
    if adapters:
        adapt(model, adapters, dtype)
    return model


def _model(spec: Any, attend: kernels.Attend) -> nn.Module:
    """The model of a spec, by the file that is called after its family."""
    return _models(spec.family).create(spec, attend)


def _models(family: str) -> Any:
    return import_module(f".models.{family}", __name__)
