"""The rows of a table in a state_dict: `values`, and `scale` of int8 rows; DTensors of all rows where the table is
sharded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from loci.table import Table


def rows_of(table: Table) -> dict[str, Tensor]:
    return {"values": table.values} | ({} if table.scale is None else {"scale": table.scale})


def saved_rows(table: Table) -> dict[str, Tensor]:
    shards = table.shards
    return {key: own if shards is None else shards.whole(own) for key, own in rows_of(table).items()}


def rows_here(table: Table, value: Tensor) -> Tensor:
    """Of a tensor of all rows."""
    if table.shards is not None:
        return table.shards.part(value)
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def load_rows(
    table: Table, state: Mapping[str, Any], prefix: str, missing: list[str], unexpected: list[str] | None,
    errors: list[str],
) -> None:  # fmt: skip
    """Copies them into the table, unless one is missing or of another shape. unexpected: None, or filled."""
    wanted, given = rows_of(table), {}
    for key, own in wanted.items():
        value = state.get(prefix + key)
        shape = own.shape if table.shards is None else table.shards.shape(own)
        if value is None:
            missing.append(prefix + key)
        elif value.shape != shape:
            errors.append(
                f"size mismatch for {prefix + key}: copying a param with shape {value.shape} from checkpoint, "
                f"the shape in current model is {shape}."
            )
        else:
            given[key] = value
    if unexpected is not None:
        for key in state:
            if key.startswith(prefix) and key[len(prefix) :].split(".")[0] not in wanted:
                unexpected.append(key)
    if len(given) == len(wanted) and table.device.type != "meta":
        with torch.no_grad():
            for key, value in given.items():
                part = rows_here(table, value)
                if wanted[key].data_ptr() != part.data_ptr():
                    wanted[key].copy_(part)
