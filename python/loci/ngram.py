"""N-gram memory: rows that the last tokens name, without a search: known before the forward pass."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loci.library import ops
from loci.memory_layer import Reads, linear_map, without_autocast
from loci.table import Table, TableLayer, at_least, drawn_seed, one_of
from loci.table_use import TableUse

INJECTIONS = ("sum", "gate", "row")
TAPS = 4  # kernel of the convolution
EPSILON = 1e-5
LONGEST = 16  # order


class NgramMemory(TableLayer):
    """Rows of the last 1 .. n tokens, added to a hidden state (docs/product-key-memory.md, "N-gram memory").

        ngram = loci.NgramMemory(width=64, rows=2**16, vocabulary=32000, orders=[1, 2, 3])
        y = x + ngram(x, tokens)                        # x [B, L, 64], tokens [B, L]

    Every pair of an order and a hash head has rows of its own, a prime number of them, and the last `order` tokens are
    hashed to one of these.

    injection:
        "sum"   y = the sum of the rows; a row is as wide as x
        "gate"  Engram (Cheng et al. 2026): keys and values are maps of the rows, one after the other;
                y = sigmoid(s) * value, s the signed root of <rms(x) w_x, rms(key) w_k> / sqrt(width);
                `convolution` adds a causal convolution
        "row"   STEM (2026): y = W_O (gelu(W_G x) * row), order 1

    Args:
        width: d, of x. rows: of a table of its own, or `table`: one that layers share. vocabulary: tokens are below it.
        orders, hash_heads: which rows a token reads.
        value_width: of a row; 0: the width. std: of the rows' start; None: width of a row ** -0.5; 0: y is 0 at first.
        table_dtype, home, path: of a table of its own. name, seed: of the random numbers, as in C++.
    """

    key_weight: Tensor
    value_weight: Tensor
    input_gain: Tensor
    key_gain: Tensor
    convolution_gain: Tensor
    convolution_weight: Tensor
    gate_weight: Tensor
    output_weight: Tensor
    multipliers: Tensor
    modulus: Tensor
    offset: Tensor

    def __init__(
        self,
        width: int,
        rows: int | None = None,
        *,
        vocabulary: int,
        table: Table | None = None,
        injection: str = "sum",
        orders: Sequence[int] = (1, 2, 3),
        hash_heads: int = 1,
        convolution: bool = False,
        value_width: int = 0,
        std: float | None = None,
        table_dtype: torch.dtype = torch.float32,
        home: str = "memory",
        path: str | os.PathLike[str] | None = None,
        name: str = "ngram",
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        at_least("NgramMemory", "width", width, 1)
        one_of("NgramMemory", "injection", injection, INJECTIONS)
        if (rows is None) == (table is None):
            got = "none" if rows is None else "both"
            raise ValueError(f"NgramMemory: rows or table must be given, one of both, got {got}")
        self.name, self.seed = name, drawn_seed() if seed is None else int(seed)
        self.width, self.vocabulary, self.injection, self.hash_heads = width, vocabulary, injection, hash_heads
        if table is None:
            assert rows is not None
            table = Table(rows, value_width or width, table_dtype, home=home, path=path, seed=self.seed, std=std,
                          name=f"{name}.values", device=device)  # fmt: skip
        self.table = table
        self.use = TableUse(table)
        multipliers, self.orders, modulus, offset = ops.ngram_rows(
            list(orders), hash_heads, table.rows, vocabulary, self.seed, name
        )
        for which, tensor in (("multipliers", multipliers), ("modulus", modulus), ("offset", offset)):
            self.register_buffer(which, tensor, persistent=False)  # they follow from the options and the seed
        if injection == "sum" and table.width != width:
            raise ValueError(
                f"NgramMemory: the table's width must be {width} (the layer's) for injection sum, got {table.width}"
            )
        if injection == "row" and (self.columns != 1 or self.orders[0] != 1):
            raise ValueError(
                f"NgramMemory: orders must be [1] with one head for injection row, got {self.columns} rows a token"
            )
        if convolution and injection != "gate":
            raise ValueError("NgramMemory: convolution must be False unless injection is gate, got True")
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        read = self.columns * table.width
        self._add("key_weight", injection == "gate", (width, read), factory)
        self._add("value_weight", injection == "gate", (width, read), factory)
        self._add("input_gain", injection == "gate", (width,), factory)
        self._add("key_gain", injection == "gate", (width,), factory)
        self._add("convolution_gain", convolution, (width,), factory)
        self._add("convolution_weight", convolution, (width, 1, TAPS), factory)
        self._add("gate_weight", injection == "row", (table.width, width), factory)
        self._add("output_weight", injection == "row", (width, table.width), factory)
        self.reset_parameters()

    def _add(self, name: str, present: bool, sizes: Sequence[int], factory: Mapping[str, Any]) -> None:
        self.register_parameter(name, nn.Parameter(torch.empty(sizes, **factory)) if present else None)

    @property
    def columns(self) -> int:
        """K, rows that a token reads."""
        return len(self.orders)

    def tables(self) -> list[Table]:
        return [self.table]

    def reset_parameters(self) -> None:
        """Draws parameters by counter from (seed, name), as the C++ layer does; the table stays."""
        with torch.no_grad():
            for which, parameter in self.named_parameters(recurse=False):
                if parameter.device.type == "meta":
                    continue
                if which.endswith("gain"):
                    parameter.fill_(1)
                elif which == "convolution_weight":
                    parameter.zero_()
                else:
                    sizes = list(parameter.shape)
                    drawn = ops.normal_start(self.seed, f"{self.name}.{which}", sizes, sizes[-1] ** -0.5)
                    parameter.copy_(drawn)

    def rows(self, tokens: Tensor, starts: Tensor | None = None) -> Tensor:
        """tokens [B, L] int64, starts [B, L] bool (true: begins a document) -> rows [B, L, K], to fetch them ahead."""
        if starts is None:
            starts = torch.zeros_like(tokens, dtype=torch.bool)
        rows: Tensor = ops.ngram_hash(
            tokens, starts, self.multipliers, self.orders, self.modulus, self.offset, self.vocabulary
        )
        return rows

    def forward(self, x: Tensor, tokens: Tensor, starts: Tensor | None = None) -> Tensor:
        """x [B, L, d], tokens [B, L] -> y [B, L, d] in x's dtype. Rows are read in float32.

        Raises ValueError for other shapes, TypeError for x that is not of a floating type."""
        if x.dim() != 3 or x.size(2) != self.width or tokens.shape != x.shape[:2]:
            got = f"{list(x.shape)}, {list(tokens.shape)}"
            raise ValueError(f"NgramMemory: x must be [B, L, {self.width}] and tokens [B, L], got {got}")
        if not x.is_floating_point():
            raise TypeError(f"NgramMemory: x must be of a floating type, got {x.dtype}")
        index = self.rows(tokens, starts).flatten(0, 1)
        y = self._injected(x.reshape(-1, self.width), self._read(index)).to(x.dtype).view(x.shape)
        return y if self.convolution_weight is None else y + self._convolved(y)

    def _read(self, index: Tensor) -> Tensor:
        reads = index.reshape(-1, 1) if self.injection == "gate" else index
        with without_autocast(index):
            weight = torch.ones(reads.shape, dtype=self.table.sum_dtype, device=index.device)
            read = self.use.read(reads, weight)
        if self.injection == "gate":
            read = read.view(index.size(0), -1)
        one_head = weight.view(-1, 1, self.columns)
        self.tell_observers(Reads(one_head, index.unsqueeze(1), one_head, read))
        return read

    def _injected(self, x: Tensor, read: Tensor) -> Tensor:
        if self.injection == "sum":
            return read
        if self.injection == "row":
            gate = F.gelu(linear_map(x, self.gate_weight, None))
            return linear_map(gate * read.to(gate.dtype), self.output_weight, None)
        key = linear_map(read, self.key_weight, None).to(x.dtype)
        value = linear_map(read, self.value_weight, None).to(x.dtype)
        product = rms_normed(x, self.input_gain) * rms_normed(key, self.key_gain)
        score = product.sum(-1, keepdim=True) / math.sqrt(self.width)
        return torch.sigmoid(score.sign() * score.abs().clamp_min(1e-6).sqrt()) * value

    def _convolved(self, u: Tensor) -> Tensor:
        dilation = self.orders[-1]
        before, length = (TAPS - 1) * dilation, u.size(1)
        padded = F.pad(rms_normed(u, self.convolution_gain), (0, 0, before, 0))
        weight = self.convolution_weight.to(u.dtype)
        total = padded.narrow(1, before, length) * weight[:, 0, 0]
        for tap in range(1, TAPS):
            total = total + padded.narrow(1, before - tap * dilation, length) * weight[:, 0, tap]
        return F.silu(total)

    def extra_repr(self) -> str:
        return f"{self.width}, rows={self.table.rows}, injection='{self.injection}', orders={self.orders}"


def rms_normed(x: Tensor, gain: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),), gain.to(x.dtype), EPSILON)
