"""Where the parts of a table are that several processes share: consecutive rows or columns on each rank of a group.

Rank r of P has those from r * ceil(rows / P) on, as many at most: the parts of DTensor's Shard(0), or Shard(1) of
columns, so that torch.distributed.checkpoint saves them and loads them on any number of ranks. The last ranks may have
no rows; each has a column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard


def group_of(who: str, group: Any) -> dist.ProcessGroup:
    """None: the default group. A mesh: that of its one dimension."""
    if not dist.is_initialized():
        raise RuntimeError(
            f"{who}: torch.distributed must be initialised for rows on several processes (init_process_group), got none"
        )
    if group is None:
        group = dist.group.WORLD
    if isinstance(group, DeviceMesh):
        if group.ndim != 1:
            raise ValueError(f"{who}: a mesh must have one dimension (mesh['name'] is one), got {group.ndim}")
        group = group.get_group()
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(
            f"{who}: group must be a process group or a mesh that has this process, got {type(group).__name__}"
        )
    devices = [device.type for device in group._device_types]
    if "cpu" not in devices:
        raise ValueError(
            f"{who}: group must have a backend for cpu (init_process_group('cpu:gloo,cuda:nccl')), "
            f"got one for {', '.join(devices)}"
        )
    return group


class RowShards:
    """The part of this rank, and what the ranks agree on. Every rank makes it."""

    def __init__(self, who: str, rows: int, width: int, by: str, group: Any):
        self.who, self.rows, self.width = who, rows, width
        self.columns = by == "columns"
        self.group = group_of(who, group)
        self.rank, self.ranks = dist.get_rank(self.group), dist.get_world_size(self.group)
        self.mesh = DeviceMesh.from_group(self.group, "cpu")
        size = width if self.columns else rows
        most = -(-size // self.ranks)
        if self.columns and (self.ranks - 1) * most >= width:
            raise ValueError(
                f"{who}: width must give each of {self.ranks} ranks a column, {most} to all but the last, got {width}"
            )
        self.first = min(self.rank * most, size)
        self.count = min(most, size - self.first)

    @property
    def name(self) -> str:
        """The group's, by which the library finds it."""
        return str(self.group.group_name)

    def all_gathered(self, own: Any) -> list[Any]:
        """An object of each rank. All ranks call it together."""
        objects: list[Any] = [None] * self.ranks
        dist.all_gather_object(objects, own, group=self.group)
        return objects

    def agree(self, settings: Mapping[str, Any]) -> None:
        """ValueError on all ranks where a rank has others than rank 0."""
        first, *others = self.all_gathered(dict(settings))
        for rank, other in enumerate(others, start=1):
            for key, value in first.items():
                if other[key] != value:
                    raise ValueError(f"{self.who}, rank {rank}: {key} must be {value} as on rank 0, got {other[key]}")

    def of_first_rank(self, own: Any) -> Any:
        return self.all_gathered(own)[0]

    @property
    def first_row(self) -> int:
        return 0 if self.columns else self.first

    @property
    def here(self) -> tuple[int, int]:
        """How many rows and columns are here."""
        return (self.rows, self.count) if self.columns else (self.count, self.width)

    def placement(self, dim: int) -> Any:
        """Of what has an entry for each row, and for each column where it has two dimensions: by columns every rank has
        what is of whole rows."""
        if not self.columns:
            return Shard(0)
        return Shard(1) if dim == 2 else Replicate()

    def shape(self, part: Tensor) -> torch.Size:
        """That of all ranks together."""
        if self.columns:
            return torch.Size((self.rows, self.width) if part.dim() == 2 else part.shape)
        return torch.Size((self.rows, *part.shape[1:]))

    def whole(self, part: Tensor) -> Tensor:
        """What has an entry for each row here, as a DTensor of the whole table that shares its memory."""
        shape = self.shape(part)
        stride = tuple(torch.empty(shape, device="meta").stride())
        placement = self.placement(part.dim())
        return DTensor.from_local(part, self.mesh, [placement], run_check=False, shape=shape, stride=stride)

    def part(self, value: Tensor) -> Tensor:
        """What is here of a tensor of all rows. For a DTensor with other parts all ranks call it together."""
        placement = self.placement(value.dim())
        if isinstance(value, DTensor):
            if value.device_mesh == self.mesh and tuple(value.placements) == (placement,):
                local: Tensor = value.to_local()
                return local
            value = value.full_tensor()
        return value.narrow(placement.dim, self.first, self.count) if isinstance(placement, Shard) else value

    def within(self, first: int, rows: Tensor) -> tuple[int, Tensor]:
        """Of rows first, first + 1 ...: the first one that is here, counted from here, and those that are."""
        if first < 0 or first + rows.size(0) > self.rows:
            raise IndexError(f"{self.who}: rows must be within 0 .. {self.rows - 1}, got {first} + {rows.size(0)}")
        if self.columns:
            return first, rows.narrow(1, self.first, self.count)
        begin = max(first, self.first)
        end = max(min(first + rows.size(0), self.first + self.count), begin)
        return begin - self.first, rows[begin - first : end - first]

    def __deepcopy__(self, memo: dict[int, Any]) -> RowShards:
        return self

    def __reduce__(self) -> Any:
        raise TypeError(f"{self.who}: a table on several processes cannot be pickled: save its state_dict")


def whole_of(value: Tensor) -> Tensor:
    """A plain tensor of a DTensor, for which all ranks call it together."""
    return value.full_tensor() if isinstance(value, DTensor) else value
