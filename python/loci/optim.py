"""Optimisers of the rows of tables: a step updates the rows that were read since the last one, and nothing else.

    rows = loci.optim.RowAdam(memory.tables(), lr=1e-2)
    loss.backward(); dense.step(); rows.step(); dense.zero_grad(); rows.zero_grad()

They are optimisers of torch: parameter groups, schedulers, hooks and `state_dict` work as usual. What stands for a
table in `param_groups` is its `anchor`, a tensor of one number that never changes. Formulas:
docs/product-key-memory.md.

Of a sharded table each rank updates the rows or columns that it holds, and all ranks step together. Their gradients are
**sums over ranks, never means**, where DistributedDataParallel and FSDP average those of dense parameters. Beside
these, give the optimiser of rows the number of ranks: `RowAdam(tables, scale=dist.get_world_size())`. A gradient that
is not finite on one rank skips the step on all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed

from loci.library import classes
from loci.table import Table, at_least, drawn_seed
from loci.table_state import rows_here

# The settings that a group may change from step to step; the others fix the state.
RATES = ("lr", "eps", "weight_decay", "clip_norm")
FIXED = ("rule", "rounding", "moments", "pages")


class RowOptimizer(torch.optim.Optimizer):
    """Use RowAdam, RowAdagrad or RowSGD, which say what their arguments are.

    `scale` divides the gradients of a step: the number of micro-batches, a scale of the loss, or the number of ranks.
    It may change from step to step and is no part of the state."""

    def __init__(
        self,
        tables: Iterable[Table | dict[str, Any]] | Table,
        defaults: dict[str, Any],
        seed: int | None,
        scale: float = 1.0,
    ):
        self.scale = float(scale)
        self._tables: dict[int, Table] = {}  # by the anchor's id
        self._optimizers: dict[int, Any] = {}
        self._seed = drawn_seed() if seed is None else int(seed)
        groups = [tables] if isinstance(tables, Table) else list(tables)
        if not groups:
            raise ValueError(f"{type(self).__name__}: tables must name at least one table, got none")
        super().__init__([self._group_of(group) for group in groups], defaults)
        self.last_steps: list[tuple[str, int, float, bool]] = []

    def _group_of(self, group: Table | dict[str, Any]) -> dict[str, Any]:
        if not isinstance(group, (Table, dict)):
            raise TypeError(f"{type(self).__name__}: tables must be loci.Table, got {type(group).__name__}")
        settings = {"tables": [group]} if isinstance(group, Table) else dict(group)
        if "tables" not in settings:
            raise ValueError(f"{type(self).__name__}: a group must have tables, got {sorted(settings)}")
        tables = settings.pop("tables")
        tables = [tables] if isinstance(tables, Table) else list(tables)
        for table in tables:
            if not isinstance(table, Table):
                raise TypeError(f"{type(self).__name__}: tables must be loci.Table, got {type(table).__name__}")
            self._tables[id(table.anchor)] = table
        return settings | {"params": [table.anchor for table in tables]}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """A group has `tables` and its own settings."""
        group = self._group_of(param_group) if "tables" in param_group else param_group
        super().add_param_group(group)
        group = self.param_groups[-1]
        self._check(group)
        for anchor in group["params"]:
            table = self._tables.get(id(anchor))
            if table is None:
                raise ValueError(f"{type(self).__name__}: groups must be made of tables, got a tensor")
            made = classes.RowOptimizer(table.object, *(group[key] for key in FIXED), self._seed)
            self._optimizers[id(anchor)] = made
            self.state[anchor] = {
                key: table.shards.whole(tensor) if table.shards is not None and tensor.dim() > 0 else tensor
                for key, tensor in made.state()
            }

    def _check(self, group: dict[str, Any]) -> None:
        who = type(self).__name__
        for key in RATES:
            at_least(who, key, group[key], 0)
        for beta in group["betas"]:
            if not 0 <= beta < 1:
                raise ValueError(f"{who}: betas must be at least 0 and below 1, got {beta}")

    def tables(self) -> list[Table]:
        return [self._tables[id(anchor)] for group in self.param_groups for anchor in group["params"]]

    def pending(self) -> bool:
        """Sums what backward left. False where a gradient is not finite, of any rank where tables are sharded: then no
        table must be updated."""
        if not 0 < self.scale < math.inf:
            raise ValueError(f"{type(self).__name__}: scale must be above 0 and finite, got {self.scale}")
        found = []
        for group in self.param_groups:
            self._check(group)
            settings = (group["lr"], *group["betas"], group["eps"], group["weight_decay"], group["clip_norm"])
            rates = [float(setting) for setting in (*settings, self.scale)]
            found += [self._optimizers[id(anchor)].pending(*rates) for anchor in group["params"]]
        return self._over_ranks(all(found))

    def _over_ranks(self, finite: bool) -> bool:
        """Whether all ranks are finite; norms to clip by become those of all rows."""
        sharded: dict[str, list[tuple[Any, bool]]] = {}  # optimisers by group, and whether they clip
        groups: dict[str, Any] = {}
        for group in self.param_groups:
            for anchor in group["params"]:
                shards = self._tables[id(anchor)].shards
                if shards is not None:
                    groups[shards.name] = shards.group
                    clips = group["clip_norm"] > 0 and not shards.columns  # by columns the norm is of all ranks already
                    sharded.setdefault(shards.name, []).append((self._optimizers[id(anchor)], clips))
        for name, optimizers in sharded.items():
            clipped = [optimizer for optimizer, clips in optimizers if clips]
            squares = [optimizer.norm() ** 2 if finite else 0.0 for optimizer in clipped]
            sums = torch.tensor([0.0 if finite else 1.0, *squares], dtype=torch.float64)
            torch.distributed.all_reduce(sums, group=groups[name])
            finite = bool(sums[0] == 0)
            for optimizer, square in zip(clipped, sums[1:].tolist(), strict=True):
                optimizer.set_norm(math.sqrt(square))
        return finite

    def apply(self, wanted: bool = True) -> None:
        """Updates the rows, unless not `wanted`; forgets the gradients in any case. After pending()."""
        self.last_steps = []
        for group in self.param_groups:
            for anchor in group["params"]:
                done = self._optimizers[id(anchor)].apply(wanted)
                self.last_steps.append((self._tables[id(anchor)].name, *done))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates the rows that were read, and forgets the gradients. A gradient that is not finite skips the step for
        all tables: rows, state and counts stay. `last_steps` has (table, rows, norm, skipped) of each, rows and norm of
        those here."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.apply(wanted=self.pending())
        return loss

    def clear_state(self, table: Table, rows: torch.Tensor | None = None) -> None:
        """Forgets what is kept for these rows [U] int64 of one of its tables, or for all: they were replaced."""
        if id(table.anchor) not in self._optimizers:
            raise ValueError(f"{type(self).__name__}: table must be one of this optimiser's, got {table.name}")
        if rows is not None and table.shards is not None:
            rows = rows[(rows >= table.first_row) & (rows < table.first_row + table.values.size(0))] - table.first_row
        self._optimizers[id(table.anchor)].clear_state(rows)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for table in self.tables():
            table.zero_grad(set_to_none)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copies into the state, which may be in files. ValueError for groups or states of other shapes."""
        who = type(self).__name__
        groups = state_dict["param_groups"]
        if [len(group["params"]) for group in groups] != [len(group["params"]) for group in self.param_groups]:
            raise ValueError(f"{who}: the state must be of as many tables in the same groups")
        for own, given in zip(self.param_groups, groups, strict=True):
            for key in FIXED:
                if given[key] != own[key]:
                    raise ValueError(f"{who}: the state must be of {key} {own[key]}, got {given[key]}")
            for anchor, number in zip(own["params"], given["params"], strict=True):
                state = state_dict["state"].get(number, {})
                if set(state) != set(self.state[anchor]):
                    raise ValueError(
                        f"{who}: the state must have {sorted(self.state[anchor])}, got {sorted(state)} "
                        f"for table {self._tables[id(anchor)].name}"
                    )
                for key, tensor in self.state[anchor].items():
                    if state[key].shape != tensor.shape:
                        raise ValueError(f"{who}: {key} must be {list(tensor.shape)}, got {list(state[key].shape)}")
        for own, given in zip(self.param_groups, groups, strict=True):
            own.update({key: value for key, value in given.items() if key != "params"})
            for anchor, number in zip(own["params"], given["params"], strict=True):
                for key, tensor in self._state_here(anchor).items():
                    given_rows = state_dict["state"][number][key]
                    tensor.copy_(rows_here(self._tables[id(anchor)], given_rows) if tensor.dim() > 0 else given_rows)

    def _state_here(self, anchor: torch.Tensor) -> dict[str, torch.Tensor]:
        return dict(self._optimizers[id(anchor)].state())


class RowAdam(RowOptimizer):
    """Adam on the rows that a step reads; moments and bias correction count a row's own steps.

    Args:
        tables: tables, or groups {"tables": ..., "lr": ...}.
        lr, betas, eps, weight_decay (decoupled, on rows that a step touches).
        clip_norm: largest norm of a table's summed gradient; 0: off.
        row_moment: one second moment for each row in place of one for each number.
        rounding: of bfloat16 rows: "stochastic", "nearest", or "master" (a float32 copy).
        moments: "float32" or "bfloat16". pages: of the state, "huge" or "small" (less memory while few rows train).
        seed: of stochastic rounding; None draws it from torch's generator.
        scale: divides the gradients. Those of a sharded table are sums over ranks: beside DistributedDataParallel or
            FSDP, which average, give the number of ranks.
    """

    def __init__(
        self,
        tables: Iterable[Table | dict[str, Any]] | Table,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        clip_norm: float = 0.0,
        row_moment: bool = False,
        rounding: str = "stochastic",
        moments: str = "float32",
        pages: str = "huge",
        seed: int | None = None,
        scale: float = 1.0,
    ):
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "clip_norm": clip_norm,
            "rule": "adam_row_moment" if row_moment else "adam", "rounding": rounding, "moments": moments,
            "pages": pages,
        }  # fmt: skip
        super().__init__(tables, defaults, seed, scale)


class RowAdagrad(RowOptimizer):
    """Adagrad with one sum for each row. Arguments: those of RowAdam without betas and moments."""

    def __init__(
        self,
        tables: Iterable[Table | dict[str, Any]] | Table,
        lr: float = 1e-2,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        *,
        clip_norm: float = 0.0,
        rounding: str = "stochastic",
        pages: str = "huge",
        seed: int | None = None,
        scale: float = 1.0,
    ):
        defaults = {
            "lr": lr, "betas": (0.9, 0.999), "eps": eps, "weight_decay": weight_decay, "clip_norm": clip_norm,
            "rule": "adagrad", "rounding": rounding, "moments": "float32", "pages": pages,
        }  # fmt: skip
        super().__init__(tables, defaults, seed, scale)


class RowSGD(RowOptimizer):
    """Plain gradient descent on the rows that a step reads. Arguments: those of RowAdam without betas, eps, moments."""

    def __init__(
        self,
        tables: Iterable[Table | dict[str, Any]] | Table,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        *,
        clip_norm: float = 0.0,
        rounding: str = "stochastic",
        pages: str = "huge",
        seed: int | None = None,
        scale: float = 1.0,
    ):
        defaults = {
            "lr": lr, "betas": (0.9, 0.999), "eps": 0.0, "weight_decay": weight_decay, "clip_norm": clip_norm,
            "rule": "sgd", "rounding": rounding, "moments": "float32", "pages": pages,
        }  # fmt: skip
        super().__init__(tables, defaults, seed, scale)


class Both(torch.optim.Optimizer):
    """A dense optimiser and an optimiser of rows as one, for trainers that know only one.

        optimizer = loci.optim.Both(torch.optim.AdamW(model.parameters()), loci.optim.RowAdam(tables))

    A step is skipped for both where a gradient of either is not finite. `max_norm` clips the dense gradients (rows are
    clipped by `clip_norm` of their own optimiser). Groups are those of both, dense first; schedulers scale both."""

    def __init__(self, dense: torch.optim.Optimizer, rows: RowOptimizer, max_norm: float = 0.0):
        self.dense, self.rows, self.max_norm = dense, rows, max_norm
        self.skipped = 0
        self._made = False
        super().__init__([{"params": group["params"]} for group in (*dense.param_groups, *rows.param_groups)], {})
        self._made = True
        self._gather()

    def _gather(self) -> None:
        self.param_groups = [*self.dense.param_groups, *self.rows.param_groups]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Not here: groups belong to `dense` or `rows`."""
        if self._made:
            raise TypeError("Both: groups must be added to the dense optimiser or to that of rows, got one for both")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = [p.grad for group in self.dense.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of FSDP's parts
        finite = self.rows.pending() and bool(torch.isfinite(norm))
        if finite:
            if self.max_norm > 0:
                parameters = [p for group in self.dense.param_groups for p in group["params"]]
                torch.nn.utils.clip_grads_with_norm_(parameters, self.max_norm, norm)
            self.dense.step()
        else:
            self.skipped += 1
        self.rows.apply(wanted=finite)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.dense.zero_grad(set_to_none)
        self.rows.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"dense": self.dense.state_dict(), "rows": self.rows.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.dense.load_state_dict(state_dict["dense"])  # it makes new groups
        self.rows.load_state_dict(state_dict["rows"])
        self._gather()
