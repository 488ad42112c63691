"""Product-key memory on feature maps: every position asks for rows by itself (docs/vision-memory.md).

    q = norm(convolutions(x))                  one query a position and head       [T, H, Dk]
    y = product-key memory of q                                                    [B, D, ...]

B batch, C channels, T positions of all maps, H heads, Dk key width, D width of a row. Placements in a network:

    side              y = x + batch_norm(W_o M(x))     SideMemory; in place of residual blocks too
    3x3 convolution   y = M(x), or W_o M(x)            a MemoryMap between the norms of its block
    head              y = M(pooled x)                  MemoryMap with dimensions=0: one query an image
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loci.library import ops
from loci.memory import ProductKeyMemory
from loci.memory_formula import batch_normalised, default_key_width, put_tokens, take_tokens
from loci.memory_layer import MapQueryNet, Reads, autocasts, linear_map
from loci.table import Table, at_least, drawn_seed

FORMS = ("[B, C]", "[B, C, length]", "[B, C, height, width]", "[B, C, frames, height, width]")
CONVOLUTIONS: tuple[Callable[..., Tensor], ...] = (F.conv1d, F.conv2d, F.conv3d)


class ConvolutionQueryNet(MapQueryNet):
    """x_0 = x, x_i = relu(batch_norm(convolution_i(x_{i-1}))) between kernels, query = convolution_last(x) + bias.

    `channels`: of the input, between the kernels, of the queries. Positions that do not count are padding: 0 in front
    of every convolution, outside the statistics of the norms. For the last bias see QueryNet."""

    bias: Tensor

    def __init__(self, dimensions: int, kernels: Sequence[int], channels: Sequence[int], train_last_bias: bool,
                 factory: Mapping[str, Any]):  # fmt: skip
        super().__init__()
        self.dimensions, self.kernels, self.channels = dimensions, list(kernels), list(channels)
        last = len(kernels) - 1
        for place, kernel in enumerate(kernels):
            inputs, outputs = channels[place], channels[place + 1]
            weight = torch.empty(outputs, inputs, *[kernel] * dimensions, **factory)
            self.register_parameter(f"weight_{place}", nn.Parameter(weight))
            if place == last:
                continue
            for what in ("norm_gain", "norm_bias"):
                self.register_parameter(f"{what}_{place}", nn.Parameter(torch.empty(outputs, **factory)))
            for what in ("running_mean", "running_variance"):
                self.register_buffer(f"{what}_{place}", torch.empty(outputs, **factory))
        bias = torch.empty(channels[-1], **factory)
        if train_last_bias:
            self.register_parameter("bias", nn.Parameter(bias))
        else:
            self.register_buffer("bias", bias)

    def draw_parameters(self, draw: Callable[[Tensor, str, float], None]) -> None:
        for place, kernel in enumerate(self.kernels):
            bound = (self.channels[place] * float(kernel) ** self.dimensions) ** -0.5
            draw(getattr(self, f"weight_{place}"), f"query_{place}_weight", bound)
            if place == len(self.kernels) - 1:
                draw(self.bias, f"query_{place}_bias", bound)
                continue
            for what, start in (("norm_gain", 1), ("norm_bias", 0), ("running_mean", 0), ("running_variance", 1)):
                getattr(self, f"{what}_{place}").fill_(start)

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """x [B, ..., C] -> [T', H * 2w] of the positions [T']."""
        form, tokens = x.shape[:-1], math.prod(x.shape[:-1])

        def valid(y: Tensor) -> Tensor:  # [B, ..., n] -> [T', n]
            return take_tokens(y.reshape(tokens, y.size(-1)), positions)

        def padded(y: Tensor) -> Tensor:  # [T', n] -> [B, ..., n]
            return put_tokens(y, positions, tokens).view(*form, y.size(1))

        if positions is not None:
            x = padded(valid(x))
        for place in range(len(self.kernels) - 1):
            gain, bias = getattr(self, f"norm_gain_{place}"), getattr(self, f"norm_bias_{place}")
            mean, variance = getattr(self, f"running_mean_{place}"), getattr(self, f"running_variance_{place}")
            y = batch_normalised(valid(self._convolved(x, place)), gain, bias, mean, variance, self.training)
            x = padded(torch.relu(y))
        return valid(self._convolved(x, len(self.kernels) - 1))

    def _convolved(self, x: Tensor, place: int) -> Tensor:
        weight: Tensor = getattr(self, f"weight_{place}")
        bias = self.bias if place == len(self.kernels) - 1 else None
        kernel = self.kernels[place]
        if kernel == 1:
            return linear_map(x, weight.view(weight.size(0), weight.size(1)), bias)
        if not autocasts(x):
            x = x.to(weight.dtype)
        convolution = CONVOLUTIONS[self.dimensions - 1]
        return convolution(x.movedim(-1, 1), weight, bias, padding=kernel // 2).movedim(1, -1)


class MemoryMap(nn.Module):
    """A product-key memory whose tokens are the positions of a map, height first.

        memory = loci.MemoryMap(64, rows=4096)             # x [B, 64, height, width] -> the same

    A channels-last map is read and written without a copy; a contiguous one is transposed once each way, with the same
    numbers. `memory` is the ProductKeyMemory inside.

    Args:
        width: C, channels of x. With an output map y has C channels, without one those of a row.
        rows, table, heads, ...: those of ProductKeyMemory.
        dimensions: 1 [B, C, length]; 2 [B, C, height, width]; 3 [B, C, frames, height, width]; 0 [B, C].
        query_kernels: odd edges of the query's convolutions, with "same" padding. query_hidden: channels between them,
            each with batch norm and ReLU.

    Raises ValueError for options that are none of these or do not fit each other."""

    def __init__(
        self,
        width: int,
        rows: int | None = None,
        *,
        dimensions: int = 2,
        query_kernels: Sequence[int] = (1,),
        query_hidden: Sequence[int] = (),
        heads: int = 4,
        top_k: int = 16,
        key_width: int = 64,
        query_norm: str = "batch",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ):
        super().__init__()
        if not 0 <= dimensions <= 3:
            raise ValueError(f"MemoryMap: dimensions must be within 0 .. 3, got {dimensions}")
        kernels = list(query_kernels)
        if len(kernels) != len(query_hidden) + 1:
            raise ValueError(f"MemoryMap: query_kernels must be one more than the {len(query_hidden)} query_hidden, "
                             f"got {len(kernels)}")  # fmt: skip
        for kernel in kernels:
            if kernel < 1 or kernel % 2 == 0:
                raise ValueError(f"MemoryMap: query_kernels must be odd, got {kernel}")
            if dimensions == 0 and kernel != 1:
                raise ValueError(f"MemoryMap: query_kernels must be 1 with dimensions 0, got {kernel}")
        for hidden in query_hidden:
            if hidden < 1:
                raise ValueError(f"MemoryMap: query_hidden must be at least 1, got {hidden}")
        for what, value, least in (("width", width, 1), ("heads", heads, 1), ("key_width", key_width, 0)):
            at_least("MemoryMap", what, value, least)
        self.dimensions, self.width = dimensions, width
        net = None
        if kernels != [1]:  # otherwise the memory's own linear map does
            channels = [width, *query_hidden, heads * (key_width or default_key_width(width))]
            net = ConvolutionQueryNet(dimensions, kernels, channels, query_norm not in ("batch", "center"),
                                      {"device": device, "dtype": dtype})  # fmt: skip
        self.memory = ProductKeyMemory(
            width, rows, heads=heads, top_k=top_k, key_width=key_width, query_norm=query_norm, query_net=net,
            device=device, dtype=dtype, **options,
        )  # fmt: skip

    def tables(self) -> list[Table]:
        return self.memory.tables()

    def tokens(self, x: Tensor) -> Tensor:
        """x [B, C, ...] as tokens [B, ..., C], contiguous: a view of a channels-last map."""
        if x.dim() != self.dimensions + 2 or x.size(1) != self.width:
            raise ValueError(f"MemoryMap: x must be {FORMS[self.dimensions]} with C = {self.width}, "
                             f"got {list(x.shape)}")  # fmt: skip
        return x.movedim(1, -1).contiguous()

    @staticmethod
    def map_like(x: Tensor, tokens: Tensor) -> Tensor:
        """Back: tokens [B, ..., D] as a map [B, D, ...], laid out like x."""
        y = tokens.movedim(-1, 1)
        return y.contiguous() if x.is_contiguous() else y

    def forward(
        self, x: Tensor, mask: Tensor | None = None, return_reads: bool = False
    ) -> Tensor | tuple[Tensor, Reads]:
        """x [B, C, ...] -> [B, D, ...] ([B, C, ...] with an output map), in x's dtype; contiguous for a contiguous x,
        otherwise channels last. mask: bool [B, ...], the positions that count; the others get zeros."""
        y, reads = self.memory(self.tokens(x), mask, return_reads=True)
        y = self.map_like(x, y)
        return (y, reads) if return_reads else y

    def extra_repr(self) -> str:
        return f"dimensions={self.dimensions}"


class SideMemory(nn.Module):
    """y = x + batch_norm(W_o M(x)), M a MemoryMap: inserted after a block of a trained network it changes nothing.

    The norm's scale starts at 0 and nothing else does, so the first step moves scale and shift, the second all. In
    training, rows that give 0 everywhere under a scale of 0 raise RuntimeError, for neither would ever move (compiled
    code does not look): loci.calibrate needs keep_values=True.

    Arguments: those of MemoryMap, with output "none": W_o is the layer's own."""

    norm_gain: Tensor
    running_mean: Tensor
    running_variance: Tensor

    def __init__(
        self,
        width: int,
        rows: int | None = None,
        *,
        output: str = "none",
        name: str = "memory",
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ):
        super().__init__()
        if output != "none":
            raise ValueError(f"SideMemory: output must be none (the layer has W_o of its own), got {output!r}")
        self.name, self.seed = name, drawn_seed() if seed is None else int(seed)
        self.map = MemoryMap(width, rows, name=name, seed=self.seed, device=device, dtype=dtype, **options)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.output_weight = nn.Parameter(torch.empty(width, self.map.memory.table.width, **factory))
        self.norm_gain = nn.Parameter(torch.empty(width, **factory))
        self.norm_bias = nn.Parameter(torch.empty(width, **factory))
        for what in ("running_mean", "running_variance"):
            self.register_buffer(what, torch.empty(width, **factory))
        self.reset_parameters()

    def tables(self) -> list[Table]:
        return self.map.tables()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """W_o and the norm; those of the map stay."""
        sizes = list(self.output_weight.shape)
        if self.output_weight.device.type != "meta":
            name = f"{self.name}.output_weight"
            self.output_weight.copy_(ops.normal_start(self.seed, name, sizes, 1 / math.sqrt(sizes[0])))
        for tensor, start in ((self.norm_gain, 0), (self.norm_bias, 0), (self.running_mean, 0),
                              (self.running_variance, 1)):  # fmt: skip
            tensor.fill_(start)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, C, ...] -> the same, in x's dtype and layout. mask: bool [B, ...]; where it is false, y = x."""
        memory = self.map.memory
        tokens = self.map.tokens(x)
        positions = memory.positions_of(tokens, mask)
        _, rows, _ = memory.read_at(tokens, positions)
        if self.training and not torch.compiler.is_compiling() and rows.numel() > 0:
            if not self.norm_gain.any() and not rows.any():
                raise RuntimeError("SideMemory: rows must not all be 0 while the norm's scale is 0 (neither would ever "
                                   "move), got 0")  # fmt: skip
        y = linear_map(rows, self.output_weight, None)
        statistics = (self.running_mean, self.running_variance)
        y = batch_normalised(y, self.norm_gain, self.norm_bias, *statistics, self.training).to(x.dtype)
        y = put_tokens(F.dropout(y, memory.output_dropout, self.training), positions, math.prod(tokens.shape[:-1]))
        return x + self.map.map_like(x, y.view(tokens.shape))
