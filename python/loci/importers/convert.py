"""A state under the names of one library as the same state under those of another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from loci.importers.names import BLOCK_ROLES, LOCI, SOURCES, Names
from loci.importers.networks import Network, Part, Shape, WeightsError, parts

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Layout:
    """How a library writes embeddings of blocks: kernels of so many dimensions, and whether pooling follows them."""

    names: Names
    dimensions: int = 2
    pooled: bool = False

    def shape(self, part: Part, word: str) -> Shape:
        shape = part.tensors[word]
        if self.names.matrices or part.role not in BLOCK_ROLES or word != "weight" or part.role == "block_norm":
            return shape
        if part.role == "concat":  # [2 I] as a convolution over the map of all pairs
            return (1, *shape, 1, 1)
        return (*shape, *(1,) * self.dimensions)


@dataclass(frozen=True)
class Converted:
    state: State
    left_out: int  # tensors of other parts of a larger network


def layouts(network: Network, source: str, dimensions: int, pooled: bool) -> tuple[Layout, Layout]:
    """Of Loci and of the source. Raises KeyError where the source has no networks of the kind."""
    return Layout(LOCI[network.kind]), Layout(SOURCES[source][network.kind], dimensions, pooled)


def convert(state: State, network: Network, source: Layout, target: Layout, who: str) -> Converted:
    """Every tensor of the network, under the target's names. Raises WeightsError in the name of `who`."""
    listed = list(parts(network))
    has_norm = any(part.role == "block_norm" for part in listed)
    result: State = {}
    missing, used = [], set()
    for part in listed:
        for word in part.tensors:
            names = [source.names.name(t, part.role, part.where, word) for t in source.names.templates[part.role]]
            found = [name for name in names if name in state]
            if not found:
                missing.append(names[0])
                continue
            used.add(found[0])
            tensor = state[found[0]]
            check_tensor(tensor, found[0], source.shape(part, word), who)
            template = target.names.written(part.role, target.pooled, has_norm)
            name = target.names.name(template, part.role, part.where, word)
            result[name] = tensor.reshape(target.shape(part, word)).clone(memory_format=torch.contiguous_format)
    unknown = [name for name in state if name not in used and not name.endswith(".num_batches_tracked")]
    elsewhere = [name for name in unknown if name.startswith(source.names.elsewhere)] if source.names.elsewhere else []
    unexpected = sorted(set(unknown) - set(elsewhere))
    if missing and unexpected:
        raise WeightsError(f"{who}: {first_of(missing)} must be given, got {first_of(unexpected)}")
    if missing:
        raise WeightsError(f"{who}: {first_of(missing)} must be given, got none")
    if unexpected:
        raise WeightsError(f"{who}: every tensor must belong to the network, got {first_of(unexpected)}")
    return Converted(result, len(elsewhere))


def check_tensor(tensor: torch.Tensor, name: str, shape: Shape, who: str) -> None:
    if tuple(tensor.shape) != shape:
        raise WeightsError(f"{who}: {name} must be {list(shape)}, got {list(tensor.shape)}")
    if not tensor.is_floating_point():
        raise WeightsError(f"{who}: {name} must be of a floating type, got {str(tensor.dtype).removeprefix('torch.')}")


def first_of(names: Iterable[str]) -> str:
    listed = list(names)
    return listed[0] if len(listed) == 1 else f"{listed[0]} and {len(listed) - 1} more"
