"""What optimisers must forget of parameters and rows that were drawn anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from loci.library import ops
from loci.optim import Both, RowOptimizer
from loci.table import Table

# Sums of gradients, by their names in torch.optim; other state of a parameter's shape is of squares or sizes.
FIRST_MOMENTS = ("exp_avg", "momentum_buffer", "grad_avg")


Optimizers = torch.optim.Optimizer | Iterable[torch.optim.Optimizer]


def parts_of(optimizers: Optimizers) -> Iterator[torch.optim.Optimizer]:
    for optimizer in [optimizers] if isinstance(optimizers, torch.optim.Optimizer) else optimizers:
        if isinstance(optimizer, Both):
            yield from (optimizer.dense, optimizer.rows)
        else:
            yield optimizer


def forget_parameter(optimizers: Optimizers, parameter: Tensor) -> None:
    """A dense optimiser makes the state again, as for its first step."""
    for optimizer in parts_of(optimizers):
        if not isinstance(optimizer, RowOptimizer):
            optimizer.state.pop(parameter, None)


def forget_vectors(optimizers: Optimizers, parameter: Tensor, vectors: Tensor, like: Tensor) -> None:
    """Of some vectors of a dense parameter, numbered [U] over its last dimension: first moments become 0, second ones
    the mean over the vectors `like` [V], since the count of updates is the whole parameter's."""
    for optimizer in parts_of(optimizers):
        if isinstance(optimizer, RowOptimizer):
            continue
        for name, moment in optimizer.state.get(parameter, {}).items():
            if isinstance(moment, Tensor) and moment.shape == parameter.shape:
                ops.reset_moment_rows_(moment, vectors, None if name in FIRST_MOMENTS else like)


def forget_rows(optimizers: Optimizers, table: Table, rows: Tensor | None = None) -> None:
    """Of rows [U] of a table, or of all."""
    for optimizer in parts_of(optimizers):
        if isinstance(optimizer, RowOptimizer) and any(table is own for own in optimizer.tables()):
            optimizer.clear_state(table, rows)
