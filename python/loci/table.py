"""Tables: rows that layers read by number and that are no parameters. A step of a row optimiser costs what it read."""

from __future__ import annotations

import copy
import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from loci.library import classes
from loci.table_state import load_rows, saved_rows

if TYPE_CHECKING:
    from loci.sharding import RowShards
    from loci.table_use import TableUse

DTYPES = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float64: "float64",
    torch.int8: "int8",
}
HOMES = ("memory", "mapped", "served")


def drawn_seed() -> int:
    """A seed from torch's default generator, so that torch.manual_seed decides."""
    return int(torch.randint(2**62, ()).item())


def at_least(who: str, what: str, value: float, least: int) -> None:
    if not value >= least:  # NaN is not
        raise ValueError(f"{who}: {what} must be at least {least}, got {value}")


def one_of(who: str, what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{who}: {what} must be one of {', '.join(known)}, got {value!r}")


class Table(nn.Module):
    """Rows [rows, width] that layers share.

    A table is no parameter: dense optimisers never see it, and backward leaves row references (small) in place of a
    gradient of its size. `loci.optim` has the optimisers of rows. `state_dict` holds `values` (and `scale` of int8
    rows); a table that several layers share appears under each of them, as tied parameters do, and is stored once.

    Args:
        rows, width: at least 1.
        dtype: float32, bfloat16, float64, or int8 with a float32 scale for each row, which only serves.
        home: "memory"; "mapped": in files in the folder `path`, which is made, and which may be larger than memory;
            "served": in a checkpoint's file `path`, which holds rows of these sizes and stays as it is. Always frozen.
        seed: of the starting values, N(0, std^2); None draws it from torch's generator.
        std: None for width ** -0.5; 0 for zeros, which take no memory until they are written.
        name: names the table in messages, files and the random numbers of its start.
        device: "cpu", or "meta" for a table without rows (`to_empty`).
        shard: "rows": each rank of `group` has a part of the rows, in memory or in files in a folder of its own in
            `path`. `rows` is the number of all, `values` has those from `first_row` on. "columns": each has a part of
            the columns of all rows, from `first_column` on; no int8. All ranks make the table, read it, run backward,
            step and save together, also without tokens. Row gradients are sums over ranks, never means (`scale` of the
            optimiser). Starting rows are those of one process: the seed is that of rank 0.
        group: a process group of torch.distributed or a mesh of one dimension; None: the default group.

    Raises:
        ValueError: sizes, dtype, home, shard or group that are none of these; other ones than on rank 0.
        RuntimeError: memory or disk are too small; no process group.
    """

    def __init__(
        self,
        rows: int,
        width: int,
        dtype: torch.dtype = torch.float32,
        *,
        home: str = "memory",
        path: str | os.PathLike[str] | None = None,
        seed: int | None = None,
        std: float | None = None,
        name: str = "table",
        device: torch.device | str | None = None,
        shard: str | None = None,
        group: Any = None,
    ):
        super().__init__()
        if dtype not in DTYPES:
            raise ValueError(f"Table: dtype must be float32, bfloat16, float64 or int8, got {dtype}")
        if home not in HOMES:
            raise ValueError(f"Table: home must be {', '.join(HOMES[:-1])} or {HOMES[-1]}, got {home!r}")
        if (home != "memory") != (path is not None):
            raise ValueError(
                f"Table: path must be given for a mapped or served table alone, got {path!r} for home {home!r}"
            )
        at_least(f"table {name}", "rows", rows, 1)
        at_least(f"table {name}", "width", width, 1)
        if shard not in (None, "rows", "columns"):
            raise ValueError(f"table {name}: shard must be None, 'rows' or 'columns', got {shard!r}")
        if shard is None and group is not None:
            raise ValueError(f"table {name}: group must be None for a table without shard, got {type(group).__name__}")
        if shard is not None and home == "served":
            raise ValueError(f"table {name}: home must be memory or mapped for shard {shard!r}, got 'served'")
        where = torch.device(device or torch.get_default_device())
        if where.type not in ("cpu", "meta"):
            raise ValueError(f"table {name}: device must be cpu, where rows are updated, or meta, got {where}")
        self.rows, self.width, self.dtype, self.name = int(rows), int(width), dtype, name
        self.home, self.path = home, None if path is None else os.fspath(path)
        self.std = self.width**-0.5 if std is None else float(std)
        # Where it requires a gradient, backward reaches the rows even if nothing else in a read needs one.
        self.anchor = torch.zeros(1, requires_grad=True)
        self.uses: weakref.WeakSet[TableUse] = weakref.WeakSet()
        self._held: list[Any] = []  # the library's table, in a list, where torch.export does not look for it
        self.shard = shard
        self.shards = None if shard is None else self._shards_of(group)
        here = (self.rows, self.width) if self.shards is None else self.shards.here
        self._values = torch.empty(here, dtype=dtype, device="meta")
        self._scale: Tensor | None = None
        if where.type != "meta":
            self._allocate()
            self.reset_parameters(seed)

    def _shards_of(self, group: Any) -> RowShards:
        from loci.sharding import RowShards

        shards = RowShards(f"table {self.name}", self.rows, self.width, str(self.shard), group)
        shards.agree({key: getattr(self, key) for key in ("name", "rows", "width", "dtype", "std", "shard")})
        return shards

    def _allocate(self) -> None:
        path, part = self.path or "", ("", 0, self.rows, False)
        if self.shards is not None:
            path = path and os.path.join(path, f"rank-{self.shards.rank}-of-{self.shards.ranks}")
            part = (self.shards.name, self.shards.first, self.shards.count, self.shards.columns)
        if self.home == "mapped":
            # The library says what is wrong with a folder, to all ranks.
            with nullcontext() if self.shards is None else suppress(OSError):
                os.makedirs(path, exist_ok=True)
        made = classes.Table(self.name, self.rows, self.width, DTYPES[self.dtype], self.home, path, *part)
        self._held = [made]
        self._values, self._scale = made.values().detach(), made.scale()
        for use in self.uses:
            use.renew()

    @property
    def _object(self) -> Any:
        return self._held[0] if self._held else None

    def new_use(self) -> Tensor:
        """int64 [2]: the table and a number of a layer, for the operators."""
        if self._object is None:
            return torch.empty(2, dtype=torch.int64, device="meta")
        use: Tensor = self._object.new_use()
        return use

    @property
    def object(self) -> Any:
        """The table of the library. RuntimeError for one on the meta device, which has no rows yet."""
        if self._object is None:
            raise RuntimeError(f"table {self.name}: rows must be allocated (to_empty), got a table on meta")
        return self._object

    @property
    def values(self) -> Tensor:
        """What is here of the rows [rows, width]: writing into it changes the table. No gradient."""
        return self._values

    @property
    def first_row(self) -> int:
        """The number of the first row here."""
        return 0 if self.shards is None else self.shards.first_row

    @property
    def first_column(self) -> int:
        """The number of the first column here."""
        return self.shards.first if self.shards is not None and self.shards.columns else 0

    @property
    def scale(self) -> Tensor | None:
        """float32 [rows] of int8 rows, else None."""
        return self._scale

    @property
    def device(self) -> torch.device:
        return self._values.device

    @property
    def sum_dtype(self) -> torch.dtype:
        """The dtype of weights and of sums of rows: float64 for float64 rows, else float32."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def reset_parameters(self, seed: int | None = None) -> None:
        """Draws the rows anew, N(0, std^2). int8 rows stay as they are, zero at first; so do those that are served."""
        if self.device.type == "meta" or self.dtype == torch.int8 or self.home == "served":
            return
        if self.std == 0:
            self.object.initialise_zero()
        else:
            seed = drawn_seed() if seed is None else seed
            if self.shards is not None:
                seed = self.shards.of_first_rank(seed)
            self.object.initialise_normal(seed, self.std)

    def set_rows(self, first: int, rows: Tensor) -> None:
        """Rows first, first + 1, ... become `rows` [n, width], rounded to the table's dtype: those of them that are
        here."""
        if self.shards is not None:
            first, rows = self.shards.within(first, rows)
            if rows.size(0) == 0:
                return
        self.object.set_rows(first, rows)

    def prefetch(self, index: Tensor) -> None:
        """Fetches rows that will be read soon: int64 of any shape. A table in memory has nothing to do.

        Raises IndexError for a row that does not exist."""
        self.object.prefetch(index)

    @property
    def frozen(self) -> bool:
        """A frozen table gets no row references; int8 rows always are."""
        return bool(self.object.frozen())

    @frozen.setter
    def frozen(self, value: bool) -> None:
        self.object.set_frozen(value)

    def train_rows(self, mask: Tensor | None) -> None:
        """Trains only the rows whose mask bool [rows] is true; None: all."""
        self.object.set_trained_rows(mask)

    @property
    def trained_rows(self) -> Tensor | None:
        """The mask of train_rows(), or None; false for rows that are not here."""
        here: Tensor | None = self.object.trained_rows()
        if here is None or self.shards is None:
            return here
        mask = torch.zeros(self.rows, dtype=torch.bool)
        mask[self.first_row : self.first_row + here.size(0)] = here
        return mask

    def gradient(self) -> Tensor | None:
        """What backward left here since the last step: a sparse COO tensor [rows, width] in the dtype of sums, 0 where
        columns are not here, or None."""
        if not self.object.has_gradient():
            return None
        row, gradient = self.object.gradient()
        if self.shards is not None and self.shards.columns:
            right = self.width - self.first_column - gradient.size(1)
            gradient = nn.functional.pad(gradient, (self.first_column, right))
        shape = (self.rows, self.width)
        index = (row + self.first_row).unsqueeze(0)
        return torch.sparse_coo_tensor(index, gradient, shape, is_coalesced=True, check_invariants=False)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets what backward left."""
        if self._object is not None:
            self._object.clear_gradient()

    def extra_repr(self) -> str:
        where = f", home='{self.home}'" if self.home != "memory" else ""
        if self.shards is not None:
            where += f", shard='{self.shard}' ({self.shards.count} from {self.shards.first} on)"
        return f"{self.rows}, {self.width}, dtype={self.dtype}{where}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Table:
        """Rows keep their dtype, which is an option of the table, and stay on the CPU, where their updates run."""
        target = fn(torch.empty(0, dtype=torch.float32, device=self.device)).device
        if target.type == self.device.type:
            return self
        if self.device.type == "meta" and target.type == "cpu":
            self._allocate()
        elif target.type == "meta":
            raise RuntimeError(f"table {self.name}: rows must not be moved to meta, which would lose them")
        else:
            raise RuntimeError(f"table {self.name}: rows must stay on cpu, where their updates run, got {target}")
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination.update({prefix + key: rows for key, rows in saved_rows(self).items()})

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        load_rows(self, state_dict, prefix, missing_keys, unexpected_keys if strict else None, error_msgs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Table:
        if self.home != "memory":
            raise TypeError(f"table {self.name}: a {self.home} table cannot be copied: its rows are in {self.path}")
        made = self.__class__.__new__(self.__class__)
        memo[id(self)] = made
        made.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return made

    def __getstate__(self) -> dict[str, Any]:
        if self.home != "memory":
            raise TypeError(
                f"table {self.name}: a {self.home} table cannot be pickled: its rows are in {self.path}; "
                "save its state_dict"
            )
        state = dict(self.__dict__)
        state["frozen"] = self._object is not None and self.frozen
        state["trained_rows"] = None if self._object is None else self.trained_rows
        del state["_held"], state["anchor"], state["uses"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        frozen, values, scale = state.pop("frozen"), state.pop("_values"), state.pop("_scale")
        trained_rows = state.pop("trained_rows")
        self.__dict__.update(state)
        self.anchor, self.uses = torch.zeros(1, requires_grad=True), weakref.WeakSet()
        self._held, self._values, self._scale = [], values, scale
        if values.device.type == "meta":
            return
        self._allocate()
        with torch.no_grad():
            self._values.copy_(values)
            if scale is not None and self._scale is not None:
                self._scale.copy_(scale)
        self.frozen = frozen
        self.train_rows(trained_rows)


class TableLayer(nn.Module):
    """What layers with tables share."""

    def __init__(self) -> None:
        super().__init__()
        self.observers: list[Callable[[Any], None]] = []  # told of every read (loci.Usage); none by default
        self.table: Table

    def tables(self) -> list[Table]:
        """Those that it reads, for the optimisers of rows (loci.optim)."""
        raise NotImplementedError

    def tell_observers(self, reads: Any) -> None:
        # Within a backward pass the forward pass runs again, for gradient checkpointing: its reads were told before.
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
            return
        for observer in self.observers:
            observer(reads)


def table_layers(who: str, module: nn.Module) -> dict[str, TableLayer]:
    """Those in a module by name. ValueError for a module without any."""
    found = {name: part for name, part in module.named_modules() if isinstance(part, TableLayer)}
    if not found:
        raise no_memory(who, module)
    return found


def no_memory(who: str, module: nn.Module) -> ValueError:
    return ValueError(f"{who}: the module must have a memory, got {type(module).__name__} without any")


def check_whole(who: str, tables: Iterable[Table]) -> None:
    """ValueError for a table of which other processes have a part."""
    for table in tables:
        if table.shards is not None:
            raise ValueError(f"{who}: tables must have all rows in this process, got sharded table {table.name}")


def distinct_tables(layers: Iterable[TableLayer]) -> list[Table]:
    """The tables of layers, each once."""
    return list({id(table): table for layer in layers for table in layer.tables()}.values())


class Watching:
    """Gives layers their observers where it is entered, and takes these alone away at the end."""

    def __init__(self, observers: Iterable[tuple[TableLayer, Callable[[Any], None]]]):
        self._observers = list(observers)

    def __enter__(self) -> Self:
        for layer, observer in self._observers:
            layer.observers = [*layer.observers, observer]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for layer, observer in self._observers:
            layer.observers = [seen for seen in layer.observers if seen is not observer]
