"""Tables: rows that layers read by number and that are no parameters. A step of a row optimiser costs what it read."""

from __future__ import annotations

import copy
import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from loci.library import classes, ops

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

    Raises:
        ValueError: sizes, dtype or home that are none of these.
        RuntimeError: memory or disk are too small.
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
        self._values = torch.empty(self.rows, self.width, dtype=dtype, device="meta")
        self._scale: Tensor | None = None
        if where.type != "meta":
            self._allocate()
            self.reset_parameters(seed)

    def _allocate(self) -> None:
        if self.home == "mapped" and self.path is not None:
            os.makedirs(self.path, exist_ok=True)
        made = classes.Table(self.name, self.rows, self.width, DTYPES[self.dtype], self.home, self.path or "")
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
        """The rows themselves [rows, width]: writing into them changes the table. No gradient."""
        return self._values

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
            self.object.initialise_normal(drawn_seed() if seed is None else seed, self.std)

    def set_rows(self, first: int, rows: Tensor) -> None:
        """Rows first, first + 1, ... become `rows` [n, width], rounded to the table's dtype."""
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
        """The mask of train_rows(), or None."""
        mask: Tensor | None = self.object.trained_rows()
        return mask

    def gradient(self) -> Tensor | None:
        """What backward left since the last step: a sparse COO tensor [rows, width] in the dtype of sums, or None."""
        if not self.object.has_gradient():
            return None
        row, gradient = self.object.gradient()
        shape = (self.rows, self.width)
        return torch.sparse_coo_tensor(row.unsqueeze(0), gradient, shape, is_coalesced=True, check_invariants=False)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets what backward left."""
        if self._object is not None:
            self._object.clear_gradient()

    def extra_repr(self) -> str:
        where = f", home='{self.home}'" if self.home != "memory" else ""
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
        destination[prefix + "values"] = self._values
        if self._scale is not None:
            destination[prefix + "scale"] = self._scale

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
        wanted = {"values": self._values} | ({} if self._scale is None else {"scale": self._scale})
        given = {}
        for key, own in wanted.items():
            value = state_dict.get(prefix + key)
            if value is None:
                missing_keys.append(prefix + key)
            elif value.shape != own.shape:
                error_msgs.append(
                    f"size mismatch for {prefix + key}: copying a param with shape {value.shape} from checkpoint, "
                    f"the shape in current model is {own.shape}."
                )
            else:
                given[key] = value
        if strict:
            for key in state_dict:
                if key.startswith(prefix) and key[len(prefix) :].split(".")[0] not in wanted:
                    unexpected_keys.append(key)
        if len(given) == len(wanted) and self.device.type != "meta":
            with torch.no_grad():
                for key, value in given.items():
                    if wanted[key].data_ptr() != value.data_ptr():
                        wanted[key].copy_(value)

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
        if torch.compiler.is_exporting():  # without Python nothing is trained
            exported: Tensor = ops.table_read(table.values, index, weight, table.scale)
            return exported
        out: Tensor = ops.read_table(table.values, index, weight, table.scale, self.numbers, table.anchor)[0]
        return out

    def project(self, index: Tensor, x: Tensor) -> Tensor:
        """out[t, r] = <row[index[t, r]], x[t]>: index [T, K], x [T, width] -> [T, K]."""
        table = self.table
        if torch.compiler.is_exporting():
            exported: Tensor = ops.table_project(table.values, index, x, table.scale)
            return exported
        out: Tensor = ops.project_table(table.values, index, x, table.scale, self.numbers, table.anchor)[0]
        return out

    def __deepcopy__(self, memo: dict[int, Any]) -> TableUse:
        return TableUse(copy.deepcopy(self.table, memo))

    def __reduce__(self) -> tuple[type[TableUse], tuple[Table]]:
        return TableUse, (self.table,)
