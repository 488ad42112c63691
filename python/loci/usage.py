"""How evenly memories use their rows: the same counts and measures as in the command line's logs.

    with loci.Usage(model) as usage:            # of every memory in it
        for batch in batches:
            model(batch)
    usage.metrics()["layers.3.memory"]["usage"]

Measures (docs/product-key-memory.md): usage (share of rows read), usage_at_1 (read with most weight by some head), kl
and gini of the rows' summed weights, rows_50, rows_90 and rows_99 (the fewest rows with that share of the weight),
collision, staleness in steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from loci.library import classes, ops
from loci.memory_layer import Reads
from loci.table import TableLayer, Watching, table_layers

MOST_READS = 0x7FFFFFFF  # the bit above says that a read was the heaviest one


class Counts:
    """The counts of one memory; called with what it reads."""

    def __init__(self, memory: TableLayer):
        self.object: Any = classes.Usage(memory.table.rows)
        self.state = self.object.state()
        self.when = torch.zeros(2, dtype=torch.int64)  # first step of the window, and the step

    def __call__(self, reads: Reads) -> None:
        ops.usage_add_at_(self.state, reads.index, reads.weight.detach().float(), self.when)

    def reads(self) -> Tensor:
        """int64 [rows]: how often each row was read in the window (loci/ops/usage_add/usage_add.h)."""
        counts, touched = self.state[:, 0].long() & MOST_READS, self.state[:, 2]
        return torch.where(touched > self.when[0], counts, 0)


class Usage(Watching):
    """Counts what the memories in `module` read while it is entered, in training and in evaluation, compiled or not.

    step() says that a training step is over: staleness is counted in steps. clear() forgets all counts."""

    def __init__(self, module: nn.Module):
        self.memories = table_layers("Usage", module)
        self.counts = {name: Counts(memory) for name, memory in self.memories.items()}
        super().__init__((memory, self.counts[name]) for name, memory in self.memories.items())

    def step(self) -> None:
        for counts in self.counts.values():
            counts.when[1] += 1
            counts.object.set_step(int(counts.when[1]))

    def begin_window(self) -> None:
        """From now on later reads alone count; the dates of last reads stay."""
        for counts in self.counts.values():
            counts.when[0] = counts.when[1]
            counts.object.begin_window(int(counts.when[1]))

    def clear(self) -> None:
        for counts in self.counts.values():
            counts.object.clear()
            counts.state = counts.object.state()

    def reads(self) -> dict[str, Tensor]:
        """How often each row was read, int64 [rows] of each memory by its name. `loci.plots.slots` draws it."""
        return {name: counts.reads() for name, counts in self.counts.items()}

    def metrics(self) -> dict[str, dict[str, float]]:
        """The measures of each memory by its name; NaN where nothing defines one, such as kl without reads."""
        return {name: dict(counts.object.metrics()) for name, counts in self.counts.items()}
