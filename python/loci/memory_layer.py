"""What searched memories share; their kinds are in memory.py.

    q = norm(query_net(x))                              [T, H, 2, w]
    score, address = search(q, keys, K)                 [T, H, K]
    weight = softmax(score), for each head, in float32  [T, H, K]
    y = sum over h, k of weight * table[row(address)]   [T, D]
    output = map(y)                                     [T, d]

T tokens (all leading dimensions), d width, H heads, K top_k, w half of key_width, D width of a row. Formulas and
advice: docs/product-key-memory.md. Search and sums run in float32 (float64 for float64 inputs), under autocast too.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loci.library import ops
from loci.memory_formula import (
    NORM_EPSILON,
    batch_normalised,
    centred,
    default_key_width,
    exact_type_of,
    put_tokens,
    take_tokens,
    unit_vectors,
)
from loci.table import Table, TableLayer, at_least, drawn_seed, one_of
from loci.table_use import TableUse

FEW_VECTORS = 4  # so many and fewer have a faster linear map of their own

QUERY_NORMS = ("none", "layer", "rms", "batch", "center")
WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda score: torch.softmax(score, -1),
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
}
OUTPUTS = ("none", "projection", "swilu")


class Reads(NamedTuple):
    """What a memory read, of the T' tokens whose mask is true."""

    score: Tensor  # [T', H, K]
    index: Tensor  # type: ignore[assignment]  # [T', H, K] rows, int64
    weight: Tensor  # [T', H, K]
    query: Tensor  # [T', H, 2, w] after the norm, as it was searched with
    address: Tensor | None = None  # [T', H, K] of memories that search: what was found, i * n2 + j of two sub-keys


def autocasts(x: Tensor) -> bool:
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Matrix products of the search in bfloat16 would cost it its exactness."""
    return torch.autocast(x.device.type, enabled=False) if autocasts(x) else nullcontext()


def linear_map(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias in the type of the weight; under autocast the framework chooses it."""
    autocast = autocasts(x)
    if not autocast:
        x = x.to(weight.dtype)
    if (
        not torch.compiler.is_compiling()
        and not autocast
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() // x.size(-1) <= FEW_VECTORS
    ):
        few: Tensor = ops.few_linear(x.reshape(-1, x.size(-1)), weight, bias)
        return few.view(*x.shape[:-1], weight.size(0))
    return F.linear(x, weight, bias)


class DrawnQueryNet(nn.Module):
    """A query net of ours: its parameters are drawn by counter, as those of the memory."""

    def draw_parameters(self, draw: Callable[[Tensor, str, float], None]) -> None:
        """draw(tensor, name, bound) fills a tensor with uniform numbers."""
        raise NotImplementedError


class MapQueryNet(DrawnQueryNet):
    """A query net whose queries depend on a token's neighbours: called with x [B, ..., d] and the positions [T'] of the
    tokens that count (None: all), it returns [T', H * 2w]."""


class QueryNet(DrawnQueryNet):
    """Linear maps with ReLU between them, `widths` from input to output: x [T, d] -> [T, H * 2w].

    Before batch norm the last bias is a buffer: the batch's mean takes it away."""

    weight_0: Tensor
    bias_0: Tensor

    def __init__(self, widths: Sequence[int], train_last_bias: bool, factory: Mapping[str, Any]):
        super().__init__()
        self.widths = list(widths)
        for place in range(len(widths) - 1):
            weight = torch.empty(widths[place + 1], widths[place], **factory)
            bias = torch.empty(widths[place + 1], **factory)
            self.register_parameter(f"weight_{place}", nn.Parameter(weight))
            if train_last_bias or place + 2 < len(widths):
                self.register_parameter(f"bias_{place}", nn.Parameter(bias))
            else:
                self.register_buffer(f"bias_{place}", bias)

    def draw_parameters(self, draw: Callable[[Tensor, str, float], None]) -> None:
        for place, width in enumerate(self.widths[:-1]):
            for kind in ("weight", "bias"):
                draw(getattr(self, f"{kind}_{place}"), f"query_{place}_{kind}", width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        for place in range(len(self.widths) - 1):
            if place > 0:
                x = torch.relu(x)
            x = linear_map(x, getattr(self, f"weight_{place}"), getattr(self, f"bias_{place}"))
        return x


class MemoryLayer(TableLayer):
    """What searched memories share: use ProductKeyMemory (which has the arguments), FlatKeyMemory or PeerMemory."""

    # None where the options have no use for them.
    norm_gain: Tensor
    norm_bias: Tensor | None
    running_mean: Tensor
    running_variance: Tensor
    temperature: Tensor
    output_weight: Tensor
    output_bias: Tensor
    gate_weight: Tensor

    def __init__(
        self,
        width: int,
        rows: int | None = None,
        *,
        table: Table | None = None,
        heads: int = 4,
        top_k: int = 32,
        key_width: int = 0,
        query_hidden: Sequence[int] = (),
        query_norm: str = "layer",
        normalise_keys: bool = False,
        weight: str = "softmax",
        output: str = "none",
        value_width: int = 0,
        row_offset: int = 0,
        input_dropout: float = 0.0,
        query_dropout: float = 0.0,
        output_dropout: float = 0.0,
        table_dtype: torch.dtype = torch.float32,
        home: str = "memory",
        path: str | os.PathLike[str] | None = None,
        query_net: nn.Module | None = None,
        name: str = "memory",
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.input_observers: list[Callable[[Tensor], None]] = []  # told of the tokens [T', d] that count
        who = type(self).__name__
        at_least(who, "width", width, 1)
        at_least(who, "heads", heads, 1)
        if (rows is None) == (table is None):
            raise ValueError(
                f"{who}: rows or table must be given, one of both, got {'none' if rows is None else 'both'}"
            )
        key_width = key_width or default_key_width(width)
        if key_width < 2 or key_width % 2:
            raise ValueError(f"{who}: key_width must be even and at least 2, got {key_width}")
        one_of(who, "query_norm", query_norm, QUERY_NORMS)
        one_of(who, "weight", weight, tuple(WEIGHTS))
        one_of(who, "output", output, OUTPUTS)
        at_least(who, "row_offset", row_offset, 0)
        if query_net is not None and query_hidden:
            raise ValueError(f"{who}: query_hidden must be empty for a layer that is given a query net, "
                             f"got {list(query_hidden)}")  # fmt: skip
        for hidden in query_hidden:
            at_least(who, "query_hidden", hidden, 1)
        for share in (input_dropout, query_dropout, output_dropout):
            if not 0 <= share < 1:
                raise ValueError(f"{who}: dropout must be at least 0 and below 1, got {share}")

        self.name = name
        self.seed = drawn_seed() if seed is None else int(seed)
        self.width, self.heads, self.top_k, self.key_width = width, heads, top_k, key_width
        self.query_norm, self.normalise_keys, self.weight, self.output = query_norm, normalise_keys, weight, output
        self.row_offset = row_offset
        self.input_dropout, self.query_dropout, self.output_dropout = input_dropout, query_dropout, output_dropout
        if table is None:
            assert rows is not None
            table = Table(rows, value_width or width, table_dtype, home=home, path=path, seed=self.seed,
                          name=f"{name}.values", device=device)  # fmt: skip
        self.table = table
        self.use = TableUse(table)
        self.addresses = self._addresses(table.rows)
        if not 1 <= top_k <= self.addresses:
            raise ValueError(f"{who}: top_k must be within 1 .. {self.addresses} (the addresses), got {top_k}")
        if top_k == 1 and weight == "softmax":
            warnings.warn(
                f"{who} {name}: top_k = 1 with softmax gives the constant weight 1: keys and query net get no gradient",
                stacklevel=3,
            )

        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.query_net: nn.Module = query_net or QueryNet(
            [width, *query_hidden, heads * key_width], query_norm not in ("batch", "center"), factory
        )
        features = (heads, 2, key_width // 2)
        self._add("norm_gain", query_norm in ("layer", "rms", "batch"), features, factory)
        self._add("norm_bias", query_norm in ("layer", "batch"), features, factory)
        for which in ("running_mean", "running_variance"):
            has_statistics = query_norm in ("batch", "center")
            self.register_buffer(which, torch.empty(features, **factory) if has_statistics else None)
        self._add("temperature", normalise_keys, (heads,), factory)
        self._add("output_weight", output != "none", (width, table.width), factory)
        self._add("output_bias", output != "none", (width,), factory)
        self._add("gate_weight", output == "swilu", (table.width, width), factory)
        self._add_keys(factory)
        self.reset_parameters()

    def _add(self, name: str, present: bool, sizes: Sequence[int], factory: Mapping[str, Any]) -> None:
        self.register_parameter(name, nn.Parameter(torch.empty(sizes, **factory)) if present else None)

    def tables(self) -> list[Table]:
        return [self.table]

    def reset_parameters(self, seed: int | None = None) -> None:
        """Draws parameters by counter from (seed, name, tensor, position), as the C++ layer does; the table stays."""
        if seed is not None:
            self.seed = int(seed)
        with torch.no_grad():
            if isinstance(self.query_net, DrawnQueryNet):
                self.query_net.draw_parameters(self._draw_uniform)
            for tensor, value in ((self.norm_gain, 1), (self.norm_bias, 0), (self.running_mean, 0),
                                  (self.running_variance, 1), (self.output_bias, 0)):  # fmt: skip
                if tensor is not None:
                    tensor.fill_(value)
            if self.temperature is not None:
                # The spread of sub-scores at the default start of the keys; that of unit vectors is w^-1/2.
                self.temperature.fill_(math.sqrt(self.key_width / 2 / 3))
            for name in ("output_weight", "gate_weight"):
                if (tensor := getattr(self, name)) is not None:
                    self._draw_normal(tensor, name, self.width**-0.5)
            self._reset_keys()

    def _addresses(self, rows: int) -> int:
        """How many a head can name."""
        return rows

    def _add_keys(self, factory: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def _reset_keys(self) -> None:
        raise NotImplementedError

    def _draw_uniform(self, tensor: Tensor, which: str, bound: float) -> None:
        if tensor.device.type != "meta":
            tensor.copy_(ops.uniform_start(self.seed, f"{self.name}.{which}", list(tensor.shape), bound))

    def _draw_normal(self, tensor: Tensor, which: str, std: float) -> None:
        if tensor.device.type != "meta":
            tensor.copy_(ops.normal_start(self.seed, f"{self.name}.{which}", list(tensor.shape), std))

    def forward(
        self, x: Tensor, mask: Tensor | None = None, return_reads: bool = False
    ) -> Tensor | tuple[Tensor, Reads]:
        """x [..., d] -> [..., d] ([..., D] without an output map), in x's dtype.

        mask: bool [...], the tokens that count; the others get zeros and are not read for. return_reads: also gives
        Reads. Raises ValueError for x of another width and TypeError for one that is not of a floating type."""
        positions = self.positions_of(x, mask)
        tokens, rows, reads = self.read_at(x, positions)
        y = F.dropout(self._map_output(rows, tokens).to(x.dtype), self.output_dropout, self.training)
        y = put_tokens(y, positions, math.prod(x.shape[:-1])).view(*x.shape[:-1], y.size(1))
        return (y, reads) if return_reads else y

    def read_at(self, x: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor, Reads]:
        """Of x [..., d] at positions [T']: the tokens [T', d] after dropout, the weighted sums of their rows [T', D]
        before the output map, and what was read."""
        tokens, query = self._tokens(x, positions)
        rows, reads = self._look_up(tokens, query)
        return tokens, rows, reads

    def queries(self, tokens: Tensor) -> Tensor:
        """The normalised queries of tokens [T, d]: [T, H, 2, w], float32 or float64."""
        return self._normalised(self.query_net(tokens))

    def positions_of(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """int64 [T'] of the tokens that count; None: all. Checks x [..., d] and mask [...]."""
        who = type(self).__name__
        if x.dim() < 1 or x.size(-1) != self.width:
            raise ValueError(f"{who}: x must be [..., {self.width}], got {list(x.shape)}")
        if not x.is_floating_point():
            raise TypeError(f"{who}: x must be of a floating type, got {x.dtype}")
        if mask is None:
            return None
        if mask.dtype != torch.bool or mask.shape != x.shape[:-1]:
            raise ValueError(f"{who}: mask must be bool {list(x.shape[:-1])}, got {mask.dtype} {list(mask.shape)}")
        return mask.reshape(-1).nonzero().squeeze(1)

    def _tokens(self, x: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor]:
        """The tokens that count [T', d] after dropout, and their queries [T', H * 2w] as the query net gives them."""
        x = F.dropout(x, self.input_dropout, self.training)
        tokens = take_tokens(x.reshape(-1, self.width), positions)
        for input_observer in self.input_observers:
            input_observer(tokens)
        if isinstance(self.query_net, MapQueryNet):
            return tokens, self.query_net(x, positions)
        return tokens, self.query_net(tokens)

    def _normalised(self, query: Tensor) -> Tensor:
        with without_autocast(query):
            return self._normalise(query.view(-1, self.heads, 2, self.key_width // 2))

    def _look_up(self, tokens: Tensor, query: Tensor) -> tuple[Tensor, Reads]:
        query = F.dropout(self._normalised(query), self.query_dropout, self.training)
        with without_autocast(tokens):
            if self.normalise_keys:
                query = unit_vectors(query)
            score, address = self._search(query)
            weight = WEIGHTS[self.weight](score).to(self.table.sum_dtype)
            index = self._rows_of(address)
            rows = self._read(tokens, index.flatten(1), weight.flatten(1))
        reads = Reads(score, index, weight, query, address)
        self.tell_observers(reads)
        return rows, reads

    def _normalise(self, query: Tensor) -> Tensor:
        exact = exact_type_of(query)
        if self.query_norm == "batch":
            assert self.norm_bias is not None
            statistics = (self.running_mean, self.running_variance)
            return batch_normalised(query, self.norm_gain, self.norm_bias, *statistics, self.training)
        if self.query_norm == "center":
            return centred(query, self.running_mean, self.running_variance, self.training)
        query = query.to(exact)
        if self.query_norm == "none":
            return query
        bias = None if self.norm_bias is None else self.norm_bias.to(exact)
        normed: Tensor = ops.half_norm(query, self.norm_gain.to(exact), bias, NORM_EPSILON)[0]
        return normed

    def _search(self, query: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _read(self, tokens: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        return self.use.read(index, weight)

    def _rows_of(self, address: Tensor) -> Tensor:
        if self.row_offset == 0 and self.addresses <= self.table.rows:
            return address
        return (address + self.row_offset).remainder(self.table.rows)

    def _scaled_keys(self, keys: Tensor, dtype: torch.dtype) -> Tensor:
        exact = keys.to(dtype)
        if not self.normalise_keys:
            return exact
        return unit_vectors(exact) * self.temperature.to(dtype).view(-1, *[1] * (keys.dim() - 1))

    def _map_output(self, rows: Tensor, tokens: Tensor) -> Tensor:
        if self.output == "none":
            return rows
        if not autocasts(rows):
            rows = rows.to(self.output_weight.dtype)
        if self.output == "swilu":
            rows = rows * F.silu(linear_map(tokens, self.gate_weight, None))
        return linear_map(rows, self.output_weight, self.output_bias)

    def zero_output_map(self) -> None:
        """The layer adds nothing at first: for insertion into a trained model. ValueError without an output map."""
        if self.output == "none":
            raise ValueError(
                f"{type(self).__name__}: output must be projection or swilu for a zero output map, got none"
            )
        with torch.no_grad():
            self.output_weight.zero_()

    def extra_repr(self) -> str:
        return (
            f"{self.width}, rows={self.table.rows}, heads={self.heads}, top_k={self.top_k}, "
            f"key_width={self.key_width}, query_norm='{self.query_norm}'"
        )
