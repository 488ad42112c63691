"""Calibration: query nets, keys and rows of memories start again from what the memories really receive.

    loci.calibrate(model, batches, optimizers=[dense, rows])     # once, early in training or after loci.insert

Queries of real tokens are strongly correlated: with the usual start few rows carry the weight. Of a memory's inputs,
mean mu and whitening P (docs/product-key-memory.md, "Calibration"):

    query weight rows (P Q)^T, bias -mu P Q          Q random orthonormal, for each head and half
    sub-keys: real half-queries of length 1          running statistics of a batch norm: those of the new queries
    rows 0, and 0 is where rows of the table start from now on
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from loci.library import ops
from loci.memory import ProductKeyMemory, product_key_memories
from loci.memory_layer import QueryNet, without_autocast
from loci.optimizer_state import Optimizers, forget_parameter, forget_rows, parts_of
from loci.table import at_least, drawn_seed

WHO = "calibrate"


def calibrate(
    module: nn.Module,
    batches: Iterable[Any],
    forward: Callable[[Any], Any] | None = None,
    *,
    tokens: int = 8192,
    seed: int | None = None,
    keep_values: bool = False,
    least_variance: float = 1e-3,
    optimizers: Optimizers = (),
) -> dict[str, int]:
    """Calibrates every memory in `module` (ProductKeyMemory, PeerMemory), in the order in which a batch reaches them:
    the inputs of a later one change with those before it. So `module` runs once over the batches for each memory, in
    evaluation mode and without gradients. Tokens that a mask excludes do not count.

    Args:
        batches: of ordinary training data; those that are used stay in memory until the end.
        forward: runs `module` on a batch; None: module(**batch) for a mapping, module(*batch) for a tuple or a list,
            module(batch) otherwise.
        tokens: whole batches are taken until a memory has received so many, or the batches end.
        seed: of the random maps and the choice of keys; None draws it from torch's generator. The memory that is
            reached as number i gets the numbers that the command line gives memory i.
        keep_values: leaves the rows, for a memory in front of a norm (SideMemory), which rows of 0 would stop.
        least_variance: directions with less than this share of the largest variance count as if they had it.
        optimizers: one or several, which forget what they keep for what starts anew.

    Returns: the tokens that each memory was calibrated with, by its name, in that order.

    Raises TypeError for one batch in place of several; ValueError for a module without such memories, for one with flat
    keys or with another query net than one linear map, for frozen rows that would become 0, and where the batches do
    not reach a memory with two tokens; RuntimeError for inputs that are not finite. Memories that were done before stay
    calibrated."""
    if isinstance(batches, (Tensor, Mapping, str)):
        raise TypeError(f"{WHO}: batches must be an iterable of batches, got one {type(batches).__name__}")
    at_least(WHO, "tokens", tokens, 2)
    at_least(WHO, "least_variance", least_variance, 0)
    remaining = calibrated_memories(module, keep_values)
    optimizers = list(parts_of(optimizers))
    seed = drawn_seed() if seed is None else int(seed)
    replayed = Replay(batches)
    done: dict[str, int] = {}
    while remaining:
        name, inputs = _next_inputs(module, remaining, replayed, forward, tokens)
        memory = remaining.pop(name)
        calibrate_memory(memory, inputs, seed, len(done), keep_values, least_variance)
        for parameter in memory.parameters():
            if not _is_output_map(memory, parameter):
                forget_parameter(optimizers, parameter)
        if not keep_values:
            forget_rows(optimizers, memory.table)
        done[name] = inputs.size(0)
    return done


def calibrated_memories(module: nn.Module, keep_values: bool) -> dict[str, ProductKeyMemory]:
    """By their names; checks them before anything changes."""
    found = product_key_memories(WHO, module)
    for name, memory in found.items():
        net = memory.query_net
        if not isinstance(net, QueryNet) or len(net.widths) != 2:
            got = f"{len(net.widths) - 1} maps" if isinstance(net, QueryNet) else type(net).__name__
            raise ValueError(f"{WHO}: the query net must be one linear map, got {got} in {name!r}")
        if memory.table.frozen and not keep_values:
            raise ValueError(f"{WHO}: rows must be trained or keep_values True, got frozen table {memory.table.name}")
    return found


@torch.no_grad()
def calibrate_memory(
    memory: ProductKeyMemory, inputs: Tensor, seed: int, number: int, keep_values: bool, least_variance: float
) -> None:
    """One memory from its inputs [T, d], T at least 2: the bits of C++ (loci/nn/memory/calibrate.h)."""
    net, table = memory.query_net, memory.table.name
    assert isinstance(net, QueryNet)
    half = memory.key_width // 2
    batch_statistics = memory.query_norm in ("batch", "center")
    weight, bias, mean, variance = ops.calibrated_map(
        inputs, memory.heads, half, batch_statistics, least_variance, table, seed, number
    )
    net.weight_0.copy_(weight)
    net.bias_0.copy_(bias)
    for tensor, start in ((memory.norm_gain, 1.0), (memory.norm_bias, 0.0), (memory.temperature, math.sqrt(half / 3))):
        if tensor is not None:
            tensor.fill_(start)
    if batch_statistics:
        memory.running_mean.copy_(mean.view_as(memory.running_mean))
        memory.running_variance.copy_(variance.view_as(memory.running_variance))
    with in_evaluation(memory), one_thread(), without_autocast(inputs):
        query = memory.queries(inputs.to(net.weight_0.dtype))
    for which, keys in enumerate((memory.keys1, memory.keys2)):
        keys.copy_(ops.calibrated_keys(query, which, keys.size(1), table, seed, number))
    if not keep_values:
        memory.table.std = 0.0  # rows that are drawn anew later start so too
        memory.table.reset_parameters()


def _is_output_map(memory: ProductKeyMemory, parameter: nn.Parameter) -> bool:
    return any(parameter is own for own in (memory.output_weight, memory.output_bias, memory.gate_weight))


class Replay:
    """Batches that can be gone through again, also where they come from an iterator; holds those that were wanted."""

    def __init__(self, batches: Iterable[Any]):
        self.rest = iter(batches)
        self.seen: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        yield from self.seen
        for batch in self.rest:
            self.seen.append(batch)
            yield batch


@torch.no_grad()
def _next_inputs(
    module: nn.Module,
    remaining: Mapping[str, ProductKeyMemory],
    batches: Iterable[Any],
    forward: Callable[[Any], Any] | None,
    tokens: int,
) -> tuple[str, Tensor]:
    """The inputs of the remaining memory that the first batch reaches first."""
    reached: list[str] = []
    inputs: list[Tensor] = []

    def observer_of(name: str) -> Callable[[Tensor], None]:
        def observe(x: Tensor) -> None:
            if not reached:
                reached.append(name)
            if reached[0] == name:
                inputs.append(x.detach().clone())  # what comes after may write into it

        return observe

    observers = {name: observer_of(name) for name in remaining}
    # Otherwise a compiled module would be compiled again for the observers of each memory.
    with in_evaluation(module), torch.compiler.set_stance("force_eager"):
        try:
            for name, memory in remaining.items():
                memory.input_observers.append(observers[name])
            for batch in batches:
                run_on(module, batch, forward)
                if sum(part.size(0) for part in inputs) >= tokens:
                    break
        finally:
            for name, memory in remaining.items():
                memory.input_observers.remove(observers[name])
    name = reached[0] if reached else next(iter(remaining))
    received = sum(part.size(0) for part in inputs)
    if received < 2:
        raise ValueError(f"{WHO}: the batches must give {name!r} at least 2 tokens, got {received}")
    return name, torch.cat(inputs)


def run_on(module: nn.Module, batch: Any, forward: Callable[[Any], Any] | None) -> Any:
    if forward is not None:
        return forward(batch)
    if isinstance(batch, Mapping):
        return module(**batch)
    return module(*batch) if isinstance(batch, (tuple, list)) else module(batch)


@contextmanager
def in_evaluation(module: nn.Module) -> Iterator[None]:
    """Evaluation mode; at the end each module has its own mode again."""
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


@contextmanager
def one_thread() -> Iterator[None]:
    """Matrix products may give other bits with other thread counts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
