"""How a layer reads a table: by operators that leave the references of a pass at the rows."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from loci.library import ops

if TYPE_CHECKING:
    from loci.table import Table


class TableUse:
    """A layer's use of a table: it numbers the passes, in whose order gradients are summed."""

    def __init__(self, table: Table):
        self.table = table
        self.numbers = table.new_use()
        table.uses.add(self)

    def renew(self) -> None:
        self.numbers = self.table.new_use()

    def read(self, index: Tensor, weight: Tensor) -> Tensor:
        """out[t] = sum over r of weight[t, r] * row[index[t, r]]: index, weight [T, K] -> [T, width]."""
        table = self.table
        if table.shards is not None:
            return self._sharded(ops.read_shards, index, weight)
        if torch.compiler.is_exporting():  # without Python nothing is trained
            exported: Tensor = ops.table_read(table.values, index, weight, table.scale)
            return exported
        out: Tensor = ops.read_table(table.values, index, weight, table.scale, self.numbers, table.anchor)[0]
        return out

    def project(self, index: Tensor, x: Tensor) -> Tensor:
        """out[t, r] = <row[index[t, r]], x[t]>: index [T, K], x [T, width] -> [T, K]."""
        table = self.table
        if table.shards is not None:
            return self._sharded(ops.project_shards, index, x)
        if torch.compiler.is_exporting():
            exported: Tensor = ops.table_project(table.values, index, x, table.scale)
            return exported
        out: Tensor = ops.project_table(table.values, index, x, table.scale, self.numbers, table.anchor)[0]
        return out

    def _sharded(self, access: Any, index: Tensor, given: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            raise RuntimeError(f"table {self.table.name}: rows must all be here for an export, got a part of them")
        out: Tensor = access(self.table.values, index, given, self.numbers, self.table.anchor, self.table.width)[0]
        return out

    def __deepcopy__(self, memo: dict[int, Any]) -> TableUse:
        return TableUse(copy.deepcopy(self.table, memo))

    def __reduce__(self) -> tuple[type[TableUse], tuple[Table]]:
        return TableUse, (self.table,)
