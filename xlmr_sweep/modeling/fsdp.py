"""The ranks of a run, and a model spread over them by FSDP2 (`fully_shard`).

In: a model with weights on rank 0 and without memory ("meta" device) on the others. Out: the same model; each rank holds one
slice of every parameter along its first dimension. Later rank 0 gets the whole weights again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from xlmr_sweep.modeling.memory import keeps_gathered

# torch.distributed.fsdp and .tensor take a second to import, which a run of one rank does not need to pay.

ONE_GROUP_PARAMETERS = 20_000_000
"""A model up to this size is one group: fewer messages count more than memory (tiny models on gloo: half the overhead)."""

CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """The processes of one run."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    def gather(self, values: Sequence[int]) -> list[list[int]]:
        """Returns the numbers of each rank, in the order of the ranks. All ranks must give equally many."""
        if self.size == 1:
            return [list(values)]
        mine = torch.tensor(values, dtype=torch.int64)
        all_ranks = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(all_ranks, mine)
        return [numbers.tolist() for numbers in all_ranks]

    def add(self, values: Sequence[float]) -> list[float]:
        """Returns sums over the ranks, computed in float64."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def sum_on_device(self, values: Tensor) -> Tensor:
        """Returns sums over the ranks of a tensor on the device, which is changed in place. No rank reads a value."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def send_text(self, text: str) -> str:
        """Returns rank 0's text on every rank."""
        if self.size == 1:
            return text
        data = text.encode()
        length = max(sizes[0] for sizes in self.gather([len(data)])[:1])
        buffer = torch.zeros(length, dtype=torch.uint8)
        if self.rank == 0:
            buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        dist.broadcast(buffer, src=0)
        return bytes(buffer.tolist()).decode()

    def send_tensor(self, tensor: Tensor) -> Tensor:
        """Returns rank 0's tensor on the device of every rank. On the other ranks only shape and type of `tensor` count."""
        if self.rank == 0:
            tensor = tensor.to(self.device).contiguous()
        else:
            tensor = torch.empty(tensor.shape, dtype=tensor.dtype, device=self.device)
        dist.broadcast(tensor, src=0)
        return tensor


def shard_model(
    root: nn.Module, world: World, precision: str, by_rows: Sequence[nn.Parameter] = (), step_bytes: float = 0.0
) -> None:
    """Spreads a model over the ranks in place: one group a transformer layer, one for the rest (with tied embeddings).

    A small model is a single group.

    Rank 0 sends the weights layer by layer and every rank keeps its slice. So the host holds one copy (43 GB for XXL), and a
    device holds one whole layer beside its slices.

    Args:
        root: on rank 0 with weights in host memory; on other ranks only shapes count, so its parameters may be on the meta
            device. Its `forward` must reach every parameter.
        world: the ranks.
        precision: `bf16` gathers the layers in bf16, so that what autograd saves of them is freed with them. Embeddings and head,
            and all of a small model, are gathered in fp32 and left to autocast. Sums along the layers stay in fp32, as in one
            process; only a layer's biases and normalisations are coarser. Weights and sums of gradients are in fp32.
        by_rows: parameters whose rows of this rank the module uses itself. They are cut alike and never gathered.
        step_bytes: what a pass keeps on a GPU. What is left of the card decides whether gathered weights are kept.
    """
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    of_root = of_layer = MixedPrecisionPolicy(cast_forward_inputs=False)
    if precision == "bf16":
        of_layer = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    mesh = DeviceMesh(world.device.type, list(range(world.size)))
    num_parameters = sum(parameter.numel() for parameter in root.parameters())
    card = torch.cuda.get_device_properties(world.device).total_memory if world.device.type == "cuda" else None
    keep_gathered = keeps_gathered(num_parameters, world.size, step_bytes, card)
    layers = transformer_layers(root) if num_parameters > ONE_GROUP_PARAMETERS else []
    apart = _cut_rows(root, by_rows, mesh, world)
    for module in [*layers, root]:
        _distribute(module, world)
        # The backward pass begins with the root's weights (embeddings and head).
        reshard = not keep_gathered and module is not root
        policy = of_root if module is root else of_layer
        if policy.param_dtype is not None:
            for part in module.modules():
                if type(part) is nn.LayerNorm:
                    part.__class__ = _LayerNorm
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard, ignored_params=apart)
    root.keeps_gathered = keep_gathered  # type: ignore[assignment]


class _LayerNorm(nn.LayerNorm):
    """A normalisation whose weights may have another type than its input, which torch's own refuses on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = (None if part is None else part.to(input.dtype) for part in (self.weight, self.bias))
        return functional.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


def run_as_forward(root: nn.Module, *methods: str) -> None:
    """Lets methods of a sharded model gather its weights as its `forward` does."""
    from torch.distributed.fsdp import register_fsdp_forward_method

    for method in methods:
        register_fsdp_forward_method(root, method)


def begin_micro_batch(root: nn.Module, is_last: bool) -> None:
    """Tells a sharded model whether this pass ends with summing gradients over the ranks. Does nothing for a whole model."""
    sharded: Any = root
    if _is_sharded(root) and sharded.keeps_gathered:
        sharded.set_requires_gradient_sync(is_last)
        sharded.set_reshard_after_backward(is_last)


def transformer_layers(root: nn.Module) -> list[nn.Module]:
    """Returns the model's stack of equal layers: the list of modules that holds the most parameters."""
    stacks: list[nn.ModuleList] = [module for module in root.modules() if isinstance(module, nn.ModuleList)]
    if not stacks:
        return []
    largest = max(stacks, key=lambda stack: sum(parameter.numel() for parameter in stack.parameters()))
    return list(largest)


def local_parameters(root: nn.Module) -> dict[str, nn.Parameter]:
    """Returns this rank's slice of every parameter as a plain tensor that shares its memory, by name.

    Every operation on a DTensor is dispatched in Python. For small models an optimiser over plain tensors costs a tenth of that.
    """
    if not _is_sharded(root):
        return dict(root.named_parameters())
    return {name: nn.Parameter(_local(p.detach()), requires_grad=False) for name, p in root.named_parameters()}


def local_gradients(root: nn.Module) -> Iterator[tuple[str, Tensor | None]]:
    """Yields this rank's slice of every gradient, by the parameter's name."""
    for name, parameter in root.named_parameters():
        yield name, None if parameter.grad is None else _local(parameter.grad)


def whole_weights(model: nn.Module, world: World) -> dict[str, Tensor]:
    """Collects a model's weights in rank 0's host memory, one parameter at a time; other ranks get an empty dict.

    Tied weights stand under each of their names and share their memory.
    """
    whole: dict[str, Tensor] = {}
    first_names: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = first_names.setdefault(id(parameter), name)
        if first == name:
            tensor = _whole(parameter.detach())
            if world.rank == 0:
                whole[name] = tensor.cpu()
        elif world.rank == 0:
            whole[name] = whole[first]
    return whole


def _is_sharded(root: nn.Module) -> bool:
    # Its parameters do not tell: between micro-batches they are gathered and look like any others.
    return hasattr(root, "set_requires_gradient_sync")


def _local(tensor: Tensor) -> Tensor:
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local


def _whole(tensor: Tensor) -> Tensor:
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def slice_of(length: int, rank: int, size: int) -> tuple[int, int]:
    """Returns the half-open range of a first dimension that a rank holds (the rule of `torch.chunk`)."""
    chunk = -(-length // size)
    return min(rank * chunk, length), min((rank + 1) * chunk, length)


def _distribute(module: nn.Module, world: World) -> None:
    """Puts those of a module's parameters and buffers that are not sharded yet on the device, with rank 0's values."""
    moved: dict[int, nn.Parameter] = {}
    for owner, name, parameter in _entries(module, "_parameters"):
        if hasattr(parameter, "to_local"):  # A layer's, sharded already.
            continue
        if id(parameter) not in moved:  # Tied weights stay one parameter.
            tensor = world.send_tensor(parameter.detach())
            moved[id(parameter)] = nn.Parameter(tensor, requires_grad=parameter.requires_grad)
            moved[id(moved[id(parameter)])] = moved[id(parameter)]
        setattr(owner, name, moved[id(parameter)])
    for owner, name, buffer in _entries(module, "_buffers"):
        persistent = name not in owner._non_persistent_buffers_set
        owner.register_buffer(name, world.send_tensor(buffer), persistent=persistent)


def _cut_rows(root: nn.Module, parameters: Sequence[nn.Parameter], mesh: Any, world: World) -> set[nn.Parameter]:
    """Puts this rank's rows of parameters in their places, as DTensors, and returns these."""
    from torch.distributed.tensor import DTensor, Shard

    made: dict[int, nn.Parameter] = {}
    for parameter in parameters:
        whole = world.send_tensor(parameter.detach())
        start, end = slice_of(len(whole), world.rank, world.size)
        rows = DTensor.from_local(
            whole[start:end].clone(), mesh, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride()
        )
        made[id(parameter)] = nn.Parameter(rows)
    for owner, name, old in _entries(root, "_parameters"):
        if id(old) in made:
            setattr(owner, name, made[id(old)])
    return set(made.values())


def _entries(module: nn.Module, kind: str) -> Iterable[tuple[nn.Module, str, Tensor]]:
    for owner in module.modules():
        for name, tensor in list(getattr(owner, kind).items()):
            if tensor is not None:
                yield owner, name, tensor
