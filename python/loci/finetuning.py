"""Sparse memory finetuning: a batch trains the few rows that it is about, and all others keep their bits.

    with loci.ReadBackground(model) as background:          # which rows ordinary text reads
        for batch in ordinary:
            model(**batch)
            background.step()

    with loci.finetune_rows(model, background, most=500) as finetune:
        for batch in facts:
            with finetune.choosing():                       # the rows that this batch reads more than usual
                loss = model(**batch).loss
            loss.backward()
            rows.step()

    loci.write_patch("facts.patch", before, table)          # what changed, as a small file
    loci.apply_patch("facts.patch", another_table)

Of the rows i that a batch reads, those with the largest scores are trained (Lin et al. 2025, "Continual Learning via
Sparse Memory Finetuning"):

    score(i) = c(i) / sum of c * ln((B + 1) / (b(i) + 1))

c(i): reads of row i by the batch; B: batches of the background; b(i): those of them that read row i. Use
loci.optim.RowSGD: moments of rows that are read once in a while mislead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from loci.library import classes, ops
from loci.table import Table, Watching, at_least, check_whole, table_layers

WHO = "finetune_rows"


class ReadList:
    """The reads of a memory; called with what it reads."""

    def __init__(self) -> None:
        self.index: list[Tensor] = []

    def __call__(self, reads: Any) -> None:
        self.index.append(reads.index)


class TableReads(Watching):
    """What the memories in a module read of each of their tables, while it is entered."""

    def __init__(self, who: str, module: nn.Module):
        self.lists = [(memory, ReadList()) for memory in table_layers(who, module).values()]
        super().__init__(self.lists)
        self.tables = {name: part for name, part in module.named_modules() if isinstance(part, Table)}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._forget()

    def take(self) -> dict[str, Tensor]:
        """int64 [reads] by the table's name in the module, in all passes since they were taken last."""
        taken = {}
        for name, table in self.tables.items():
            parts = [index.flatten() for memory, reads in self.lists for index in reads.index
                     if any(table is own for own in memory.tables())]  # fmt: skip
            taken[name] = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)
        self._forget()
        return taken

    def _forget(self) -> None:
        for _, reads in self.lists:
            reads.index.clear()


class ReadBackground:
    """Counts of how many batches of ordinary data read each row of the tables in `module`. It counts while entered.

        with loci.ReadBackground(model) as background:
            for batch in ordinary:
                model(**batch)
                background.step()                   # a batch is over: all passes since the last step
        background.save("background")               # a file for each table, as of C++ (read_background.h)
        background = loci.ReadBackground(model).load("background")

    Reads after the last step() are forgotten. Holds 4 bytes a row."""

    def __init__(self, module: nn.Module):
        self._reads = TableReads("ReadBackground", module)
        self.counts = {name: classes.ReadBackground(table.rows) for name, table in self._reads.tables.items()}

    def __enter__(self) -> ReadBackground:
        self._reads.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reads.__exit__(kind, error, trace)

    @property
    def batches(self) -> int:
        return min(int(counts.batches()) for counts in self.counts.values())

    def step(self) -> None:
        for name, index in self._reads.take().items():
            self.counts[name].add_batch(index)

    def of(self, table: Table) -> Any:
        """The counts of a table. ValueError for one that is not in the module."""
        for name, own in self._reads.tables.items():
            if table is own:
                return self.counts[name]
        raise ValueError(f"ReadBackground: table must be in the module that it counts, got {table.name}")

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes `NAME.safetensors` for each table, NAME that of the table in the module."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, counts in self.counts.items():
            counts.save(str(_file_of(folder, name)))

    def load(self, folder: str | os.PathLike[str]) -> ReadBackground:
        """Takes counts that save() wrote in place of its own. ValueError for a file that is missing, broken, or of
        another number of rows; then nothing changes."""
        loaded = {}
        for name, table in self._reads.tables.items():
            loaded[name] = classes.ReadBackground(table.rows)
            loaded[name].load(str(_file_of(folder, name)))
        self.counts = loaded
        return self


def _file_of(folder: str | os.PathLike[str], name: str) -> Path:
    return Path(folder) / f"{name}.safetensors"


class RowFinetuning:
    """What finetune_rows() returns: enter it to train no row but those that choosing() chooses."""

    def __init__(self, module: nn.Module, background: ReadBackground, most: int):
        at_least(WHO, "most", most, 1)
        self._reads = TableReads(WHO, module)
        self.most, self.tables = int(most), self._reads.tables
        self._counts = {name: background.of(table) for name, table in self.tables.items()}
        if background.batches == 0:
            raise ValueError(f"{WHO}: the background must have counted a batch (step()), got none")
        check_whole(WHO, self.tables.values())
        for table in self.tables.values():
            if table.frozen:
                raise ValueError(f"{WHO}: tables must be trained, got frozen {table.name}")
        self.rows: dict[str, Tensor] = {}  # chosen last, by the table's name in the module
        self._masks: dict[str, Tensor | None] | None = None

    def __enter__(self) -> RowFinetuning:
        if self._masks is not None:
            raise RuntimeError(f"{WHO}: it must be entered once at a time, got twice")
        self._masks = {name: table.trained_rows for name, table in self.tables.items()}
        for name, table in self.tables.items():
            self._train(name, table, torch.zeros(0, dtype=torch.int64))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._masks is not None
        for name, table in self.tables.items():
            table.train_rows(self._masks[name])
        self._masks = None

    @contextmanager
    def choosing(self) -> Iterator[None]:
        """The passes in this block choose the rows, which are trained from its end to the next choice. One pass for
        each training step, or once the passes of all the data that will be trained on:

            with finetune.choosing(), torch.no_grad():
                for batch in facts:
                    model(**batch)
        """
        if self._masks is None:
            raise RuntimeError(f"{WHO}: choosing() must be within its with block, got it outside")
        with self._reads:
            yield
            read = self._reads.take()
        for name, table in self.tables.items():
            self._train(name, table, self._counts[name].unusual_rows(read[name], self.most))

    def _train(self, name: str, table: Table, rows: Tensor) -> None:
        assert self._masks is not None
        mask = torch.zeros(table.rows, dtype=torch.bool)
        mask[rows] = True
        before = self._masks[name]
        if before is not None:
            mask &= before
        self.rows[name] = mask.nonzero().squeeze(1)
        table.train_rows(mask)


def finetune_rows(module: nn.Module, background: ReadBackground, most: int) -> RowFinetuning:
    """Trains chosen rows alone (see the head of this module).

    Args:
        module: with memories; their other parameters are the dense optimiser's matter.
        background: counts of the same module.
        most: rows of each table that a choice trains.

    While it is entered no row is trained but those chosen last: none at first. A table's own mask (Table.train_rows)
    holds as well, and is all that holds afterwards.

    Raises ValueError for a background of other tables or without batches, and for frozen tables."""
    return RowFinetuning(module, background, most)


def write_patch(path: str | os.PathLike[str], before: Table | Tensor, after: Table) -> int:
    """Writes the rows in which `after` differs from `before`, a table or a copy of its values, to a file that
    apply_patch() and C++ (row_patch.h) read. Returns their number.

    Raises ValueError for tables of other names, shapes or dtypes, and for int8 rows."""
    check_whole("write_patch", (table for table in (before, after) if isinstance(table, Table)))
    name, values = (before.name, before.values) if isinstance(before, Table) else (after.name, before)
    changed: int = ops.write_row_patch(os.fspath(path), name, values.detach().contiguous(), after.name, after.values)
    return changed


def apply_patch(path: str | os.PathLike[str], table: Table) -> int:
    """Writes the rows of a patch into a table. Returns their number, or 0 where it was applied before.

    Raises ValueError for a table of another name, shape, dtype or content than the patch was made from, and for a
    broken file; then nothing changes."""
    check_whole("apply_patch", [table])
    changed: int = table.object.apply_patch(os.fspath(path))
    return changed
