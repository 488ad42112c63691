"""Where the rows of a table are that several processes share: consecutive ones on each rank of a process group.

Rank r of P has the rows from r * ceil(rows / P) on, as many at most: the parts of DTensor's Shard(0), so that
torch.distributed.checkpoint saves them and loads them on any number of ranks. The last ranks may have none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard


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

    def __init__(self, who: str, rows: int, group: Any):
        self.who, self.rows = who, rows
        self.group = group_of(who, group)
        self.rank, self.ranks = dist.get_rank(self.group), dist.get_world_size(self.group)
        self.mesh = DeviceMesh.from_group(self.group, "cpu")
        most = -(-rows // self.ranks)
        self.first = min(self.rank * most, rows)
        self.count = min(most, rows - self.first)

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

    def whole(self, part: Tensor) -> Tensor:
        """What has an entry for each row here, as a DTensor of all rows that shares its memory."""
        shape = torch.Size((self.rows, *part.shape[1:]))
        stride = tuple(torch.empty(shape, device="meta").stride())
        return DTensor.from_local(part, self.mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)

    def part(self, value: Tensor) -> Tensor:
        """The rows here of a tensor of all rows. For a DTensor with other parts all ranks call it together."""
        if isinstance(value, DTensor):
            if value.device_mesh == self.mesh and tuple(value.placements) == (Shard(0),):
                local: Tensor = value.to_local()
                return local
            value = value.full_tensor()
        return value.narrow(0, self.first, self.count)

    def within(self, first: int, rows: Tensor) -> tuple[int, Tensor]:
        """Of rows first, first + 1 ...: the first one that is here, counted from here, and those that are."""
        if first < 0 or first + rows.size(0) > self.rows:
            raise IndexError(f"{self.who}: rows must be within 0 .. {self.rows - 1}, got {first} + {rows.size(0)}")
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
