"""The MindSpore backend: `create(device)` gives what core.seam.backend.Backend describes."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

# Read once, when MindSpore is loaded: of its log only errors concern anyone.
os.environ.setdefault("GLOG_v", "3")

import mindspore
import numpy as np
from mindspore import Tensor, nn

from duosora.core import cores
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
from .layers import cat, pack, parameter_shapes, set_layer, set_parameter
from .matrices import TableInFile, drop, linear_layers, put
from .measuring import make_operation
from .memory import is_out_of_memory as is_out_of_memory
from .offload import HostedBlocks
from .precision import read_late, to_array, to_tensor, to_weight
from .train_step import DiffusionTrainStep, replay_loss

_TARGETS = {"cpu": "CPU", "npu": "Ascend"}
"""MindSpore's names of our devices."""


def create(device: str = "auto") -> MindSporeBackend:
    """The backend on one device; "auto" takes an Ascend where CANN is installed.

    A process that was started with others takes the device of its own number.
    Raises: BackendMissing when MindSpore cannot use the device.
    """
    if device == "auto":
        device = "npu" if mindspore.get_context("device_target") == "Ascend" else "cpu"
    here = launched()
    device = own_device(device, here)
    kind, _, number = device.partition(":")
    if kind == "cpu":
        cores.keep_one(here.local_rank if here.world > 1 else None)
    try:
        mindspore.set_device(_TARGETS[kind], int(number or 0))
        operators.settle(device)
        if kind == "cpu":
            mindspore.runtime.launch_blocking()  # twice as fast here as the queue that keeps an accelerator busy
        if here.world == 1:  # else the processes of an Ascend have to be joined before
            (Tensor(np.zeros(1, np.float32)) + 1.0).asnumpy()  # a device starts at its first operation
    except (KeyError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BackendMissing(
            f"mindspore {mindspore.__version__} cannot use the device {device!r} (of cpu, npu, npu:1, ...): {reason}"
        ) from error
    return MindSporeBackend(device)


class MindSporeBackend:
    """MindSpore on one device."""

    name = "mindspore"

    def __init__(self, device: str) -> None:
        self.device = device

    @property
    def on_host(self) -> bool:
        return self.device.startswith("cpu")

    @property
    def slow_dtypes(self) -> tuple[str, ...]:
        return ()

    def asarray(self, array: np.ndarray) -> Tensor:
        return to_tensor(array)

    def stage(self, array: np.ndarray) -> Callable[[], Tensor]:
        return lambda: to_tensor(array)

    def is_finite(self, array: Tensor) -> Callable[[], bool]:
        found = read_late(array.isfinite().all())
        return lambda: bool(found())

    def to_numpy(self, array: Tensor) -> np.ndarray:
        return to_array(array)

    def concat(self, arrays: Sequence[Tensor], axis: int) -> Tensor:
        return cat(list(arrays), axis)

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
        _check_compiled(compile, sequence)
        if compile and adapters:
            raise ConfigError(
                "model.lora_mode = applied: MindSpore's graphs know no LoRA beside the weights; leave out "
                "backend.compile, or take merged"
            )
        build = self._hosted if blocks_on == "host" else self._build
        model = build(spec, weights, dtype, _attend(attend, sequence), adapters or {})
        shared = _shared(model, sequence).set_train(False)
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
        _check_compiled(options.compile, ranks.sequence)
        if options.compile and options.adapters:
            raise ConfigError("compute.compile: MindSpore's graphs know no LoRA in training; leave it out")
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
        if dtype == "bf16" and self.on_host:
            raise ConfigError("dtype = 'bf16': MindSpore computes in it on Ascend only; use fp32 or fp16 on a CPU")
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
        return StreamedEncoder(model.set_train(False), layers, read, put_here, drop)

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
                set_parameter(model, name, of_8[name].weight)
            else:
                set_parameter(model, name, to_weight(checked.whole(name), self.device, dtype))

    def structure(self, spec: Any) -> Mapping[str, tuple[int, ...]]:
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
    def record(self, model: nn.Cell, names: Iterable[str]) -> Iterator[dict[str, Any]]:
        outputs: dict[str, Any] = {}

        def noter(name: str) -> Any:
            def note(cell: nn.Cell, inputs: Any, output: Any) -> None:
                outputs[name] = output

            return note

        cells = dict(model.cells_and_names())
        hooks = [cells[name].register_forward_hook(noter(name)) for name in names]
        try:
            yield outputs
        finally:
            for hook in hooks:
                hook.remove()

    def free_memory(self) -> None:
        gc.collect()
        if not self.on_host:
            mindspore.runtime.empty_cache()

    def device_memory_bytes(self) -> int | None:
        return None if self.on_host else int(mindspore.hal.get_device_properties(0).total_memory)

    def free_memory_bytes(self) -> int | None:
        if self.on_host:
            return free_host_bytes()
        return int(mindspore.hal.get_device_properties(0).total_memory - mindspore.runtime.memory_allocated())

    def peak_memory_bytes(self) -> int | None:
        return None if self.on_host else int(mindspore.runtime.max_memory_allocated())

    def versions(self) -> dict[str, str]:
        versions = {"mindspore": mindspore.__version__, "device": self.device}
        if not self.on_host:
            versions["npu"] = mindspore.hal.get_device_name(0)
        return versions


def _attend(attend: kernels.Attend, sequence: Group) -> kernels.Attend:
    return attend if sequence.size == 1 else SequenceAttend(attend, sequence)


def _shared(model: Any, sequence: Group) -> nn.Cell:
    """A model whose tokens the ranks of a group share."""
    return model if sequence.size == 1 else SequenceParallel(model, sequence)


def _empty(spec: Any, attend: kernels.Attend) -> Any:
    """The model of a spec without memory for its weights."""
    model = _model(spec, attend)
    check_structure(spec.layout(), parameter_shapes(model))
    return model


def _check_compiled(compile: bool, sequence: Group) -> None:
    if compile and sequence.size > 1:
        raise ConfigError("compile = true: MindSpore's graphs share no tokens; drop it or set parallel.sequence: 1")


def _adapted(spec: Any, attend: kernels.Attend, adapters: Adapters, dtype: str) -> Any:
    """The same with adapters, if there are some; its own weights will have a dtype then."""
    model = _empty(spec, attend)
    if adapters:
        adapt(model, adapters, dtype)
    return model


def _model(spec: Any, attend: kernels.Attend) -> nn.Cell:
    """The model of a spec, by the file that is called after its family."""
    return _models(spec.family).create(spec, attend)


def _models(family: str) -> Any:
    return import_module(f".models.{family}", __name__)
