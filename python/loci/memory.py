"""Searched memories as modules: product keys (Lample et al. 2019), flat keys, and PEER's experts (He 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loci.library import ops
from loci.memory_layer import MemoryLayer
from loci.table import Table, no_memory, one_of
from loci.table_use import TableUse

SCORES_AT_ONCE = 1 << 24  # of a search over flat keys
ADDRESSINGS = ("mask", "modulo")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": torch.relu}


def sub_keys_for(rows: int) -> tuple[int, int]:
    """Sub-keys of the halves for a table: n2 = ceil(sqrt(rows)), n1 = ceil(rows / n2)."""
    second = math.isqrt(rows - 1) + 1
    return -(-rows // second), second


class ProductKeyMemory(MemoryLayer):
    """Product-key memory (Lample et al. 2019, "Large Memory Layers with Product Keys", section 3).

    A key is a pair of sub-keys, so that the best of R rows are found among 2 sqrt(R) sub-keys, exactly.

        memory = loci.ProductKeyMemory(width=512, rows=2**18, heads=4, top_k=32, key_width=256, query_norm="batch")
        y = memory(x)                                   # [..., 512] -> [..., 512]
        rows = loci.optim.RowAdam(memory.tables(), lr=1e-2)

    Args:
        width: d, of the inputs.
        rows: of a table of its own; or `table`: one that layers share.
        heads, top_k: independent searches of a token, and the rows that each reads.
        key_width: of a whole key, even; 0 for half of the width.
        query_hidden: widths of hidden layers of the query net.
        query_norm: "none", "layer", "rms" (over each half of a query), "batch", "center" (over the tokens).
        normalise_keys: unit queries and keys, with a learned temperature for each head.
        weight: "softmax" over the top_k of a head, "relu", "sigmoid".
        output: "none", "projection" (W y + b), "swilu" (W (y * silu(G x)) + b).
        value_width: D of a table of its own; 0 for the width. Another than the width needs an output map, or gives D.
        addressing: pairs of keys beyond the last row are masked out ("mask") or wrapped around ("modulo").
        row_offset: added to every address before it is wrapped around, to rotate a shared table for each layer.
        input_dropout, query_dropout, output_dropout: shares.
        table_dtype, home, path: of a table of its own (loci.Table).
        query_net: a module [T, d] -> [T, heads * key_width] in place of linear maps.
        name, seed: of the random numbers; the same as those of the C++ layer. seed None: from torch's generator.
        device, dtype: of the parameters.
    """

    keys1: Tensor
    keys2: Tensor

    def __init__(self, width: int, rows: int | None = None, *, addressing: str = "mask", **options: Any):
        one_of(type(self).__name__, "addressing", addressing, ADDRESSINGS)
        self.addressing = addressing
        super().__init__(width, rows, **options)

    def _addresses(self, rows: int) -> int:
        return rows if self.addressing == "mask" else math.prod(sub_keys_for(rows))

    def _add_keys(self, factory: Mapping[str, Any]) -> None:
        for which, count in zip(("keys1", "keys2"), sub_keys_for(self.table.rows), strict=True):
            self._add(which, True, (self.heads, count, self.key_width // 2), factory)

    def _reset_keys(self) -> None:
        for which in ("keys1", "keys2"):
            self._draw_uniform(getattr(self, which), which, (self.key_width / 2) ** -0.5)

    def _search(self, query: Tensor) -> tuple[Tensor, Tensor]:
        keys = [self._scaled_keys(keys, query.dtype) for keys in (self.keys1, self.keys2)]
        found: tuple[Tensor, Tensor] = ops.product_key_search(query, *keys, self.top_k, self.addresses)
        return found


class FlatKeyMemory(MemoryLayer):
    """A memory with one key for each row and a full search: the control of product keys, for small tables.

    Arguments: those of ProductKeyMemory without `addressing`."""

    keys: Tensor

    def _add_keys(self, factory: Mapping[str, Any]) -> None:
        self._add("keys", True, (self.heads, self.table.rows, self.key_width), factory)

    def _reset_keys(self) -> None:
        self._draw_uniform(self.keys, "keys", (self.key_width / 2) ** -0.5)

    def _search(self, query: Tensor) -> tuple[Tensor, Tensor]:
        tokens, heads, rows = query.size(0), self.heads, self.table.rows
        halves = self.keys.view(heads, rows, 2, self.key_width // 2)
        scaled = self._scaled_keys(halves, query.dtype).reshape(heads, rows, self.key_width)
        flat = query.reshape(tokens, heads, self.key_width)
        row = self._best_rows(flat.detach(), scaled.detach())
        key = row + torch.arange(heads, device=row.device).view(heads, 1) * rows  # among all heads' keys
        # The scores of the chosen rows alone, without gathering their keys.
        score = ops.table_project(
            scaled.reshape(heads * rows, self.key_width),
            key.view(tokens * heads, self.top_k),
            flat.reshape(tokens * heads, self.key_width),
        )
        return score.view(tokens, heads, self.top_k), row

    def _best_rows(self, query: Tensor, keys: Tensor) -> Tensor:
        chunk = max(1, SCORES_AT_ONCE // (self.heads * keys.size(1)))
        parts = []
        for part in torch.split(query, chunk):
            score = torch.matmul(part.transpose(0, 1), keys.transpose(1, 2)).transpose(0, 1).contiguous()
            zero = score.new_zeros(part.size(0), self.heads, 1)
            parts.append(ops.product_key_select(zero, score, self.top_k, keys.size(1))[1])
        return torch.cat(parts)


class PeerMemory(ProductKeyMemory):
    """PEER (He 2024, "Mixture of A Million Experts"): a row is an expert of one hidden unit.

        y = sum over h, k of weight * activation(<down[row], x>) * up[row]

    Arguments: those of ProductKeyMemory, whose table is `up`; `down`: a table [rows, width], or None for one of its
    own; activation: "gelu" or "relu"."""

    def __init__(self, width: int, rows: int | None = None, *, down: Table | None = None, activation: str = "gelu",
                 **options: Any):  # fmt: skip
        one_of("PeerMemory", "activation", activation, tuple(ACTIVATIONS))
        super().__init__(width, rows, **options)
        if down is None:
            up = self.table
            down = Table(up.rows, width, up.dtype, home=up.home, path=up.path, seed=self.seed, shard=up.shard,
                         group=None if up.shards is None else up.shards.group,
                         name=f"{self.name}.down", device=up.device)  # fmt: skip
        if down.rows != self.table.rows:
            raise ValueError(f"PeerMemory: down must have {self.table.rows} rows like up, got {down.rows}")
        if down.width != width:
            raise ValueError(f"PeerMemory: down must have the layer's width {width}, got {down.width}")
        self.down, self.activation = down, activation
        self.down_use = TableUse(down)

    def tables(self) -> list[Table]:
        return [self.table, self.down]

    def _read(self, tokens: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        hidden = self.down_use.project(index, tokens.to(self.down.sum_dtype)).to(weight.dtype)
        return self.use.read(index, weight * ACTIVATIONS[self.activation](hidden))


# By the names that configurations have.
KINDS: dict[str, type[MemoryLayer]] = {"product_key": ProductKeyMemory, "flat": FlatKeyMemory, "peer": PeerMemory}


def product_key_memories(who: str, module: nn.Module) -> dict[str, ProductKeyMemory]:
    """Those in a module by name. ValueError for a module without any, and for a memory of another kind in it."""
    found: dict[str, ProductKeyMemory] = {}
    for name, memory in module.named_modules():
        if isinstance(memory, ProductKeyMemory):
            found[name] = memory
        elif isinstance(memory, MemoryLayer):
            raise ValueError(f"{who}: memories must have product keys, got {type(memory).__name__} {name!r}")
    if not found:
        raise no_memory(who, module)
    return found
