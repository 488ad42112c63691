"""Relatives of the non-local block as modules: less than all pairs, each the identity at the start.

    block = loci.GlobalContext(64)        # one message for all positions
    block = loci.CrissCross(64)           # each position looks at its row and its column, twice
    block = loci.EfficientAttention(64)   # keys and values are summed before queries ask
    x = block(x)                          # x [B, 64, ...] -> the same; at the start x itself, bit for bit

B batch, C channels, N positions, T frames, H height, W width of a map, I inner width, R bottleneck width.

Formulas, costs and advice: docs/non-local.md.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loci.library import ops
from loci.memory_formula import NORM_EPSILON
from loci.memory_layer import autocasts, linear_map
from loci.non_local import MAPS
from loci.table import at_least, drawn_seed


class Relative(nn.Module):
    """What they share: parameters by counter, and maps as tokens."""

    starts_at_one: tuple[str, ...] = ()
    starts_at_zero: tuple[str, ...] = ()  # of weights; biases do anyway

    def __init__(self, channels: int, dimensions: int, name: str, seed: int | None):
        super().__init__()
        at_least(type(self).__name__, "channels", channels, 1)
        if dimensions not in (1, 2, 3):
            raise ValueError(f"{type(self).__name__}: dimensions must be 1, 2 or 3, got {dimensions}")
        self.channels, self.dimensions = channels, dimensions
        self.name, self.seed = name, drawn_seed() if seed is None else int(seed)

    def _register(self, device: torch.device | str | None, dtype: torch.dtype | None, **sizes: tuple[int, ...]) -> None:
        for which, size in sizes.items():
            self.register_parameter(which, nn.Parameter(torch.empty(size, device=device, dtype=dtype)))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The start, by counter: weights N(0, 2 / C), but for what makes the block the identity: 0, as biases."""
        for which, parameter in self.named_parameters(recurse=False):
            if which in self.starts_at_one:
                parameter.fill_(1)
            elif not which.endswith("_weight") or which in self.starts_at_zero:
                parameter.zero_()
            elif parameter.device.type != "meta":
                std = math.sqrt(2 / self.channels)
                parameter.copy_(ops.normal_start(self.seed, f"{self.name}.{which}", list(parameter.shape), std))

    def _tokens(self, x: Tensor) -> Tensor:
        """x [B, C, ...] -> [B, ..., C], contiguous; of a channels-last map a view."""
        if x.dim() != self.dimensions + 2 or x.size(1) != self.channels or not x.is_floating_point():
            raise ValueError(f"{type(self).__name__}: x must be {MAPS[self.dimensions - 1]} of a floating type with "
                             f"C = {self.channels}, got {list(x.shape)} of {x.dtype}")  # fmt: skip
        return x.movedim(1, -1).contiguous()


class GlobalContext(Relative):
    """One message for all positions, from one map of weights that all share (Cao, Xu, Lin, Wei and Hu 2019, "GCNet:
    Non-local Networks Meet Squeeze-Excitation Networks and Beyond", figure 4d). O(N C).

        a = softmax over j of <w, x_j>                     one number a position
        c = sum over j of a_j x_j                          [B, C]
        z_i = x_i + W_2 relu(layer_norm(W_1 c + b_1)) + b_2

    Args:
        channels: C.
        dimensions: of maps: 1 [B, C, width], 2 [B, C, height, width], 3 [B, C, frames, height, width].
        ratio: R = max(1, C / ratio).
        name, seed: parameters come by counter from both, as those of the C++ block.

    The state, with the names and, eager, the bits of the C++ block: key_weight w [1, C], inner_weight W_1 [R, C],
    inner_bias [R], norm_gain, norm_bias [R], output_weight W_2 [C, R] and output_bias [C], which are 0 at the start.
    Raises ValueError for options and maps that are none of these."""

    starts_at_one = ("norm_gain",)
    starts_at_zero = ("output_weight",)
    key_weight: Tensor
    inner_weight: Tensor
    inner_bias: Tensor
    norm_gain: Tensor
    norm_bias: Tensor
    output_weight: Tensor
    output_bias: Tensor

    def __init__(
        self,
        channels: int,
        *,
        dimensions: int = 2,
        ratio: int = 16,
        name: str = "global_context",
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(channels, dimensions, name, seed)
        at_least("GlobalContext", "ratio", ratio, 1)
        self.ratio = ratio
        C, R = channels, max(1, channels // ratio)
        self._register(device, dtype, key_weight=(1, C), inner_weight=(R, C), inner_bias=(R,), norm_gain=(R,),
                       norm_bias=(R,), output_weight=(C, R), output_bias=(C,))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, ...] -> the same, in its dtype and layout."""
        return self.forward_with_map(x)[0]

    def forward_with_map(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z, and a [B, N], positions frames first."""
        tokens = self._tokens(x).flatten(1, -2)  # [B, N, C]
        map = torch.softmax(linear_map(tokens, self.key_weight, None).transpose(1, 2), -1)  # [B, 1, N]
        context = ops.batch_product(map, tokens.to(map.dtype)).squeeze(1)  # [B, C]
        inner = linear_map(context, self.inner_weight, self.inner_bias)  # [B, R]
        inner = inner if autocasts(inner) else inner.to(self.norm_gain.dtype)
        normed = F.layer_norm(inner, [inner.size(-1)], self.norm_gain, self.norm_bias, NORM_EPSILON)
        message = linear_map(torch.relu(normed), self.output_weight, self.output_bias).to(x.dtype)  # [B, C]
        return x + message.view(*message.shape, *[1] * self.dimensions), map.squeeze(1)

    def extra_repr(self) -> str:
        return f"{self.channels}, dimensions={self.dimensions}, ratio={self.ratio}"


class CrissCross(Relative):
    """Every position looks at its row and its column; done twice, with the same weights, it gets what any position has
    (Huang, Wang, Huang, Huang, Wei and Liu 2019, "CCNet: Criss-Cross Attention for Semantic Segmentation", section 3).
    O(N (H + W)) numbers.

        p_i = softmax over the H + W - 1 positions j in the row and the column of i of <q(x_i), k(x_j)>
        z_i = x_i + gain * sum over j of p_ij v(x_j)

    Args:
        channels: C of maps [B, C, height, width].
        inner: I, of q and k; 0: max(1, C / 8). v has C.
        passes: how often the block is applied, with the same weights.
        name, seed: parameters come by counter from both, as those of the C++ block.

    The state, with the names and, eager, the bits of the C++ block: query_weight, key_weight [I, C], value_weight
    [C, C], their biases query_bias, key_bias [I], value_bias [C], and gain [1], which is 0 at the start.
    Raises ValueError for options and maps that are none of these."""

    query_weight: Tensor
    query_bias: Tensor
    key_weight: Tensor
    key_bias: Tensor
    value_weight: Tensor
    value_bias: Tensor
    gain: Tensor

    def __init__(
        self,
        channels: int,
        *,
        inner: int = 0,
        passes: int = 2,
        name: str = "criss_cross",
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(channels, 2, name, seed)
        at_least("CrissCross", "inner", inner, 0)
        at_least("CrissCross", "passes", passes, 1)
        self.inner, self.passes = inner or max(1, channels // 8), passes
        C, I = channels, self.inner  # noqa: E741
        self._register(device, dtype, query_weight=(I, C), query_bias=(I,), key_weight=(I, C), key_bias=(I,),
                       value_weight=(C, C), value_bias=(C,), gain=(1,))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> the same, in its dtype and layout."""
        for _ in range(self.passes):
            x = self._pass(x)
        return x

    def _pass(self, x: Tensor) -> Tensor:
        tokens = self._tokens(x)  # [B, H, W, C]
        B, H, W, _ = tokens.shape

        def lines(y: Tensor, of_columns: bool) -> Tensor:
            """[B, H, W, c] -> [B H, W, c] or [B W, H, c]."""
            return (y.transpose(1, 2).reshape(B * W, H, y.size(3)) if of_columns
                    else y.reshape(B * H, W, y.size(3)))  # fmt: skip

        def of_positions(y: Tensor, of_columns: bool) -> Tensor:
            """lines() backwards."""
            return y.view(B, W, H, y.size(2)).transpose(1, 2) if of_columns else y.view(B, H, W, y.size(2))

        query = linear_map(tokens, self.query_weight, self.query_bias)
        key = linear_map(tokens, self.key_weight, self.key_bias)
        value = linear_map(tokens, self.value_weight, self.value_bias)

        def logits(of_columns: bool) -> Tensor:
            found: Tensor = ops.batch_product(lines(query, of_columns), lines(key, of_columns).transpose(1, 2))
            return found

        # A position stands in its row and in its column: it is left out of the column.
        itself = torch.eye(H, dtype=torch.bool, device=query.device)
        column = logits(True).masked_fill(itself, -math.inf)
        p = torch.softmax(torch.cat([of_positions(logits(False), False), of_positions(column, True)], -1), -1)

        def summed(first: int, count: int, of_columns: bool) -> Tensor:
            weights = lines(p.narrow(-1, first, count), of_columns).to(value.dtype)
            return of_positions(ops.batch_product(weights, lines(value, of_columns)), of_columns)

        y = summed(0, W, False) + summed(W, H, True)  # [B, H, W, C]
        return x + (y * self.gain).to(x.dtype).movedim(-1, 1)

    def extra_repr(self) -> str:
        return f"{self.channels}, inner={self.inner}, passes={self.passes}"


class EfficientAttention(Relative):
    """Queries are normalised over their channels and keys over the positions, so that keys and values can be summed
    first (Shen, Zhang, Zhao, Yi and Li 2021, "Efficient Attention: Attention with Linear Complexities", section 3.2).
    It is not equal to a softmax over pairs. I x I numbers beside the map.

        q_i = softmax over channels of theta(x_i)          k = softmax over positions of phi(x), each channel alone
        y_i = sum over j of <q_i, k_j> g(x_j) = q_i (k^T g)
        z = x + W_z y

    Args:
        channels: C.
        dimensions: of maps: 1 [B, C, width], 2 [B, C, height, width], 3 [B, C, frames, height, width].
        inner: I, of theta, phi and g; 0: max(1, C / 2).
        name, seed: parameters come by counter from both, as those of the C++ block.

    The state, with the names and, eager, the bits of the C++ block: theta_weight, phi_weight, g_weight [I, C], their
    biases theta_bias, phi_bias, g_bias [I], output_weight W_z [C, I] and output_bias [C], which are 0 at the start.
    Raises ValueError for options and maps that are none of these."""

    starts_at_zero = ("output_weight",)
    theta_weight: Tensor
    theta_bias: Tensor
    phi_weight: Tensor
    phi_bias: Tensor
    g_weight: Tensor
    g_bias: Tensor
    output_weight: Tensor
    output_bias: Tensor

    def __init__(
        self,
        channels: int,
        *,
        dimensions: int = 2,
        inner: int = 0,
        name: str = "efficient_attention",
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(channels, dimensions, name, seed)
        at_least("EfficientAttention", "inner", inner, 0)
        self.inner = inner or max(1, channels // 2)
        C, I = channels, self.inner  # noqa: E741
        self._register(device, dtype, theta_weight=(I, C), theta_bias=(I,), phi_weight=(I, C), phi_bias=(I,),
                       g_weight=(I, C), g_bias=(I,), output_weight=(C, I), output_bias=(C,))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, ...] -> the same, in its dtype and layout."""
        tokens = self._tokens(x)
        flat = tokens.flatten(1, -2)  # [B, N, C]
        query = torch.softmax(linear_map(flat, self.theta_weight, self.theta_bias), -1)
        key = torch.softmax(linear_map(flat, self.phi_weight, self.phi_bias), 1)
        value = linear_map(flat, self.g_weight, self.g_bias)
        # non_local_dot divides by the number of keys.
        y = ops.non_local_dot(query.to(value.dtype), key.to(value.dtype), value * float(flat.size(1)))
        z = linear_map(y, self.output_weight, self.output_bias).view(tokens.shape)
        return x + z.to(x.dtype).movedim(-1, 1)

    def extra_repr(self) -> str:
        return f"{self.channels}, dimensions={self.dimensions}, inner={self.inner}"
