"""How the weights of a model in training, their gradients, averages and optimiser state lie on the ranks.

Replicas: every rank has all of them (one process, zero = 0). Shards: each has a slice of each (zero = 2 and 3), which
torch's fully_shard brings together around each block of the model. Stretches: every rank has the weights, and a stretch
of all else (zero = 2), as DeepSpeed cuts it.
Source: Rajbhandari et al. 2020, arXiv:1910.02054 (ZeRO, DeepSpeed); Zhao et al. 2023, arXiv:2304.11277 (FSDP).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from duosora.core.errors import BackendMissing, ConfigError
from duosora.core.extras import needs_extra
from duosora.core.maths.parts import Blocks
from duosora.core.parallel.launched import launched
from duosora.core.parallel.zero import owners, split_axis
from duosora.core.seam.group import Group
from duosora.core.seam.training import TrainOptions

from ..denoiser import TokenDenoiser
from ..layers import parameter_dtype, parameter_shapes, set_parameter
from ..operators import length, pad_end, sum_of_squares
from ..precision import to_tensor, to_weight

BUCKET_SIZE = 1 << 25
"""Elements of gradients that are added up at a time."""

_Result = TypeVar("_Result")


class Replicas:
    """Every rank holds all of every tensor; gradients are added up."""

    def __init__(self, group: Group) -> None:
        """group: all ranks that train together."""
        self.group = group

    def own(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """What the optimiser of this rank works on: the parameters themselves."""
        return dict(parameters)

    def cut(self, name: str, whole: np.ndarray) -> np.ndarray:
        """This rank's part of an array in the shape of a weight: all of it."""
        return whole

    def collect(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sums over the ranks of what each has found. All ranks call together."""
        if self.group.size == 1:
            return dict(gradients)
        return {name: total for bucket in _buckets(gradients) for name, total in self._added(bucket).items()}

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """The length of all gradients as one vector, the same on all ranks, which call together."""
        return length(gradients)

    def written(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors that this rank is to write; core.parallel.zero.owners says which. All ranks call together."""
        owner = owners({name: part.nbytes for name, part in parts.items()}, self.group.size)
        return {name: part for name, part in parts.items() if owner[name] == self.group.index}

    def spread(self, parts: Mapping[str, Tensor], weights: Mapping[str, nn.Parameter]) -> None:
        """Bring own parts that have changed into the weights: they are those."""

    def _added(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        total = self.group.reduce(torch.cat([gradient.reshape(-1) for gradient in gradients.values()]))
        parts = total.split([gradient.numel() for gradient in gradients.values()])
        return {name: part.view_as(gradients[name]) for name, part in zip(gradients, parts, strict=True)}


class Shards:
    """Each rank holds a slice of every tensor, along the first axis that the ranks divide, or uneven ones."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], group: Group) -> None:
        """shapes: of the whole weights, by name. group: all ranks that train together."""
        self.shapes, self.group = dict(shapes), group

    def own(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """This rank's parts of what fully_shard made of the parameters, in the same memory; for the optimiser."""
        return {name: nn.Parameter(_part(parameter)) for name, parameter in parameters.items()}

    def cut(self, name: str, whole: np.ndarray) -> np.ndarray:
        """A copy of this rank's part of an array in the shape of a weight."""
        axis, blocks = self._cut(name)
        own = blocks.own(self.group.index)
        return whole[(slice(None),) * axis + (slice(own.start, own.stop),)].copy()

    def collect(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sums over the ranks of what each has found; own parts. All ranks call together."""
        # fully_shard has averaged them.
        return {name: _part(gradient).mul_(self.group.size) for name, gradient in gradients.items()}

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """The length of all gradients as one vector, from own parts; the same on all ranks, which call together."""
        return self.group.reduce(sum_of_squares(gradients)).sqrt()

    def written(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """From own parts, the whole tensors that this rank is to write, on the host. All ranks call together.

        They come together one at a time.
        """
        sizes = {name: int(np.prod(self.shapes[name])) * part.itemsize for name, part in parts.items()}
        owner = owners(sizes, self.group.size)
        mine = {}
        for name, part in parts.items():
            whole = self._whole(name, part.detach())
            if owner[name] == self.group.index:
                mine[name] = whole.to("cpu", copy=True)
        return mine

    def spread(self, parts: Mapping[str, Tensor], weights: Mapping[str, nn.Parameter]) -> None:
        """Bring own parts that have changed into the weights of all ranks: fully_shard does, at each call."""

    def _whole(self, name: str, part: Tensor) -> Tensor:
        axis, blocks = self._cut(name)
        padded = pad_end(part, axis, blocks.length - part.shape[axis])
        return self.group.gather(padded, axis).narrow(axis, 0, blocks.size)

    def _cut(self, name: str) -> tuple[int, Blocks]:
        shape = self.shapes[name]
        axis = split_axis(shape, self.group.size)
        return axis, Blocks(shape[axis], self.group.size)


class _Stretches(Shards):
    """Each rank holds a stretch of all weights that learn, laid end to end, of some weights none; frozen ones whole."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], optimizer: Any, group: Group) -> None:
        """parameters: of the model, by name. optimizer: what DeepSpeed has made of those that learn."""
        super().__init__({name: tuple(parameter.shape) for name, parameter in parameters.items()}, group)
        self._parameters, self._optimizer = dict(parameters), optimizer

    def own(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """This rank's stretches of the weights (n,), for the optimiser; `spread` brings them into the weights."""
        return {name: self._own(parameter) for name, parameter in parameters.items()}

    def cut(self, name: str, whole: np.ndarray) -> np.ndarray:
        """A copy of this rank's stretch of an array in the shape of a weight that learns."""
        start, length = self._place(name)
        return whole.reshape(-1)[start : start + length].copy()

    def collect(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sums over the ranks of what each has found, own stretches; DeepSpeed holds them, and forgets them now."""
        learned = {name: parameter for name, parameter in self._parameters.items() if parameter.requires_grad}
        own = {name: self._gradient(parameter) for name, parameter in learned.items()}
        self._optimizer.averaged_gradients.clear()
        torch._foreach_mul_(list(own.values()), self.group.size)  # it has averaged them
        return own

    @torch.no_grad()
    def spread(self, parts: Mapping[str, Tensor], weights: Mapping[str, nn.Parameter]) -> None:
        """Bring own parts that have changed into the weights of all ranks, which call together."""
        self._optimizer.update_lp_params()

    def _own(self, parameter: nn.Parameter) -> nn.Parameter:
        if not parameter.requires_grad:
            return parameter
        held: Any = parameter
        return nn.Parameter(held._hp_mapping.hp_fragment.detach() if held._hp_mapping else parameter.new_empty(0))

    def _gradient(self, parameter: nn.Parameter) -> Tensor:
        held: Any = parameter
        if not held._hp_mapping:
            return parameter.new_empty(0)
        return held._hp_mapping.get_lp_grad_fragment(held._index_in_param_group).reshape(-1)

    def _place(self, name: str) -> tuple[int, int]:
        """Where this rank's stretch of a weight begins in it, and how long it is."""
        mapping = self._parameters[name]._hp_mapping  # type: ignore[attr-defined]
        return (mapping.lp_fragment_address.start, mapping.lp_fragment_address.numel) if mapping else (0, 0)

    def _whole(self, name: str, part: Tensor) -> Tensor:
        parameter = self._parameters[name]
        if not parameter.requires_grad:
            return part
        whole = part.new_zeros(parameter.numel())
        whole.narrow(0, *self._place(name)).copy_(part)
        return self.group.reduce(whole).view(parameter.shape)


class Entrance:
    """A denoiser in training, and the way in to it: every rank has its weights, and all that belongs to them."""

    shards: Replicas | Shards

    def __init__(self, model: TokenDenoiser, network: Any, group: Group, device: str) -> None:
        """model: without memory for its weights; `fill` brings them. network: called like a denoiser, the model itself
        or what shares its tokens among ranks. group: all ranks that train together.
        """
        self.model, self.network, self.group, self.device = model, network, group, torch.device(device)
        self.is_last = True
        """Whether no other backward pass with the same weights follows the next one."""

    def fill(self, name: str, array: np.ndarray) -> None:
        """Set a weight, or this rank's part of it."""
        set_parameter(self.model, name, to_weight(array, self.device, "fp32").to(parameter_dtype(self.model, name)))

    def settle(self) -> None:
        """Once before the first call, when it is known which weights learn: fix how all lies on the ranks, `shards`."""
        self.shards = Replicas(self.group)

    def __call__(self, call: Callable[[], _Result]) -> _Result:
        """What is done with the network, its forward and more. All ranks call together."""
        return call()

    @contextmanager
    def inference(self) -> Iterator[nn.Module]:
        """What is called like the network itself, by all ranks together, without gradients."""
        yield self.network


def share(model: TokenDenoiser, network: Any, options: TrainOptions, group: Group, device: str) -> Entrance:
    """The way in to a denoiser whose training the ranks share as the options say; for the arguments see Entrance.

    Raises: ConfigError for what does not go with that; BackendMissing when torch is too old for it.
    """
    if options.zero == 0 or group.size == 1:
        return Entrance(model, network, group, device)
    _check(options)
    if options.engine == "deepspeed":
        return _Partitioned(model, network, group, device)
    return _Sharded(model, network, group, device, options.zero)


def _check(options: TrainOptions) -> None:
    """Raises: ConfigError for what does not go with weights, or with an optimiser's state, in slices."""
    if options.optimizer_name != "adamw":
        problem = f"optimizer.name = {options.optimizer_name!r} looks at whole weights"
    elif options.compile and options.engine == "fully_shard":
        problem = "compute.compile = true makes graphs of whole weights"
    else:
        return
    raise ConfigError(f"{problem}, which parallel.zero = {options.zero} cuts into slices; set parallel.zero: 0")


class _Sharded(Entrance):
    """A model whose weights lie in slices on all ranks, and the way in to it.

    fully_shard brings a module's weights together around its forward, and the outermost one's is whatever is done with
    the model. So one backward pass belongs to one call, at whose end the outermost weights' gradients are added up.
    """

    shards: Shards

    def __init__(self, model: TokenDenoiser, network: Any, group: Group, device: str, zero: int) -> None:
        """zero: 2 keeps weights that came together for a block from forward to backward, 3 gathers them twice."""
        super().__init__(model, network, group, device)
        self.shards, self.zero = Shards(parameter_shapes(model), group), zero
        try:
            from torch.distributed.device_mesh import DeviceMesh
            from torch.distributed.fsdp import FSDPModule, fully_shard
            from torch.distributed.tensor import Shard
        except ImportError as error:
            raise BackendMissing(
                f"parallel.zero = {zero} needs torch 2.6 or newer, not {torch.__version__}; parallel.zero = 0 works"
            ) from error
        # The text's keys and values are views of what a linear map gives; nothing changes them in place.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
        world: Any = dist.group.WORLD
        options: dict[str, Any] = {
            "mesh": DeviceMesh.from_group(world, self.device.type),
            "reshard_after_forward": zero == 3,
            "shard_placement_fn": lambda parameter: Shard(split_axis(tuple(parameter.shape), group.size)),
        }
        model.requires_grad_(False)
        self._outermost = _Outermost(network)
        for unit in _units(model):
            fully_shard(unit, **options)
        fully_shard(self._outermost, **options)
        self._outermost.to_empty(device=device)
        self._slices = dict(model.named_parameters())
        self._units: list[Any] = [module for module in self._outermost.modules() if isinstance(module, FSDPModule)]

    @torch.no_grad()
    def fill(self, name: str, array: np.ndarray) -> None:
        """Set a weight's own slice."""
        _part(self._slices[name]).copy_(to_tensor(self.shards.cut(name, array)))

    def settle(self) -> None:
        """The slices do not move from then on."""
        for unit in self._units:
            unit.unshard()
            unit.reshard()

    def __call__(self, call: Callable[[], _Result]) -> _Result:
        for unit in self._units:
            unit.set_reshard_after_backward(self.is_last or self.zero == 3, recurse=False)
        return self._outermost(call)

    @contextmanager
    def inference(self) -> Iterator[nn.Module]:
        """As in Entrance; weights that a call without a backward pass has left together go back into slices."""
        try:
            yield _Gathered(self)
        finally:
            for unit in self._units:
                unit.reshard()


def _units(model: TokenDenoiser) -> Iterator[nn.Module]:
    """What of a denoiser gathers its weights by itself: the text's keys and values are made before all blocks run."""
    for block in model.blocks():
        yield from (*block.of_text(), block)


class _Gathered(nn.Module):
    """A sharded denoiser in inference, called like the model itself by all ranks together."""

    def __init__(self, sharded: _Sharded) -> None:
        super().__init__()
        self.sharded = sharded

    def condition(self, *inputs: Any) -> Any:
        return self._enter(partial(self.sharded.network.condition, *inputs))

    def forward(self, *inputs: Any) -> Any:
        return self._enter(partial(self.sharded.network, *inputs))

    def _enter(self, call: Callable[[], Any]) -> Any:
        # fully_shard keeps its buffers, and tensors made in inference mode would be of no use in training.
        with torch.inference_mode(False), torch.no_grad():
            return self.sharded(call)


class _Partitioned(Entrance):
    """A model that every rank has, while DeepSpeed splits what belongs to its learning, and the way in to it.

    DeepSpeed adds gradients up while a backward pass runs, and each rank keeps a stretch of the sums. Its own step,
    clipping, loss scale and checkpoints are not used.
    """

    def settle(self) -> None:
        """Weights that learn move into one piece of memory. Raises: PackageMissing when DeepSpeed is not there."""
        deepspeed = _deepspeed(self.device)
        parameters = dict(self.model.named_parameters())
        learned = [parameter for parameter in parameters.values() if parameter.requires_grad]
        self._engine, optimizer, _, _ = deepspeed.initialize(
            args=SimpleNamespace(device_rank=self.device.index or 0),
            model=_Outermost(self.network),
            optimizer=torch.optim.AdamW(learned),
            mpu=_OneModelEach(self.group),
            config={
                "train_micro_batch_size_per_gpu": 1,  # for its own reports
                "gradient_accumulation_steps": 1,  # the loss is divided already
                "zero_optimization": {
                    "stage": 2,
                    "overlap_comm": self.device.type != "cpu",
                    "reduce_bucket_size": BUCKET_SIZE,
                },
            },
        )
        self.shards = _Stretches(parameters, optimizer, self.group)

    def __call__(self, call: Callable[[], _Result]) -> _Result:
        self._engine.set_gradient_accumulation_boundary(self.is_last)
        return self._engine(call)


class _Outermost(nn.Module):
    """What fully_shard and DeepSpeed take for the model: its forward is whatever is done with the model."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, call: Callable[[], _Result]) -> _Result:
        return call()


class _OneModelEach:
    """What DeepSpeed asks about the ranks: each has the whole model, and gradients are those of all.

    Without it DeepSpeed would make a group of its own, with a shorter time-out.
    """

    def __init__(self, group: Group) -> None:
        self._group = group

    def get_data_parallel_group(self) -> Any:
        return dist.group.WORLD

    def get_data_parallel_world_size(self) -> int:
        return self._group.size

    def get_data_parallel_rank(self) -> int:
        return self._group.index

    def get_model_parallel_group(self) -> None:
        return None

    def get_model_parallel_world_size(self) -> int:
        return 1

    def get_model_parallel_rank(self) -> int:
        return 0


def _deepspeed(device: torch.device) -> Any:
    """DeepSpeed, told what it would guess or ask its own launcher's environment for."""
    os.environ["DS_ACCELERATOR"] = device.type
    os.environ.setdefault("LOCAL_RANK", str(launched().local_rank))
    with needs_extra("deepspeed", "parallel.engine = deepspeed", "set parallel.engine: fully_shard"):
        import deepspeed
    # It calls torch by names that are going out of use, which is its own affair.
    warnings.filterwarnings("ignore", "`torch.distributed.* is deprecated", FutureWarning)
    # On CPUs it would compile a kernel at every first start, for exchanges in inference.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _part(tensor: Tensor) -> Tensor:
    """The own slice of what fully_shard made of a weight, or of its gradient, in the same memory."""
    return tensor.detach().to_local()  # type: ignore[attr-defined]


def _buckets(gradients: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    bucket: dict[str, Tensor] = {}
    room = BUCKET_SIZE
    for name, gradient in gradients.items():
        if bucket and gradient.numel() > room:
            yield bucket
            bucket, room = {}, BUCKET_SIZE
        bucket[name] = gradient
        room -= gradient.numel()
    if bucket:
        yield bucket
