"""The non-local block of Wang, Girshick, Gupta and He 2018 ("Non-local Neural Networks", section 3) as a module.

    block = loci.NonLocal2d(256)                  # x [B, 256, height, width] -> the same
    x = block(x)                                  # at the start x itself, bit for bit
    z, p = block.forward_with_map(x)              # p [B windows, N, M]: where each position looks

B batch, C channels, I inner width, N positions of a query's window, M those of its keys.

    y_i = sum over j of p_ij g(x_j)               eq. (1), p with the normalisation 1/Z
    z = x + norm(W_z y)                           eq. (6)

    gaussian   p_i = softmax over j of <x_i, x_j>                     eq. (2)
    embedded   p_i = softmax over j of scale <theta(x_i), phi(x_j)>   eq. (3)
    dot        p_ij = <theta(x_i), phi(x_j)> / M                      eq. (4)
    concat     p_ij = relu(w . [theta(x_i), phi(x_j)]) / M            eq. (5)

No N x M matrix exists on large maps. Formulas, costs and advice: docs/non-local.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loci.library import ops
from loci.memory_formula import NORM_EPSILON, batch_normalised
from loci.memory_layer import linear_map
from loci.table import at_least, drawn_seed, one_of

FORMS = ("gaussian", "embedded", "dot", "concat")
SCALES = ("none", "rsqrt")
POOLS = ("none", "before", "after")
DOMAINS = ("spacetime", "space", "time", "groups", "window")
NORMS = ("batch", "frozen", "layer", "none")
STARTS = ("he", "small")
SMALL_START = 0.01
MAPS = ("[B, C, width]", "[B, C, height, width]", "[B, C, frames, height, width]")
EXTENTS = ("frames", "height", "width")

Extents = tuple[int, int, int]  # T, H, W; 1 for those that a map does not have


class Pairs(NamedTuple):
    """What follows from x before any pair is formed."""

    query: Tensor  # [B windows, N, I]; C for I with form gaussian, 1 with concat
    key: Tensor  # [B windows, M, the same]
    value: Tensor  # [B windows, M, I]
    map: Extents
    window: Extents


def aligned(own: Sequence[int]) -> Extents:
    """The last entries of extents from those of a map's own dimensions."""
    t, h, w = [1] * (3 - len(own)) + [int(edge) for edge in own]
    return t, h, w


def max_pooled(tokens: Tensor, kernel: Extents) -> Tensor:
    """tokens [B, T, H, W, c] by their largest in each cell."""
    if kernel == (1, 1, 1):
        return tokens
    B, T, H, W, c = tokens.shape
    if kernel[0] > 1:
        return F.max_pool3d(tokens.permute(0, 4, 1, 2, 3), kernel, kernel).permute(0, 2, 3, 4, 1).contiguous()
    pooled = F.max_pool2d(tokens.view(B * T, H, W, c).permute(0, 3, 1, 2), kernel[1:], kernel[1:])
    return pooled.permute(0, 2, 3, 1).reshape(B, T, H // kernel[1], W // kernel[2], c)


def to_windows(tokens: Tensor, window: Extents) -> Tensor:
    """tokens [B, T, H, W, c] -> [B windows, positions of a window, c]."""
    B, T, H, W, c = tokens.shape
    t, h, w = window
    count = (T // t) * (H // h) * (W // w)
    if (h, w) == (H, W):
        return tokens.reshape(B * count, t * h * w, c)
    cut = tokens.view(B, T // t, t, H // h, h, W // w, w, c).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return cut.reshape(B * count, t * h * w, c)


def from_windows(y: Tensor, map: Extents, window: Extents) -> Tensor:
    """to_windows() backwards."""
    (T, H, W), (t, h, w) = map, window
    B, c = y.size(0) // ((T // t) * (H // h) * (W // w)), y.size(2)
    if (h, w) == (H, W):
        return y.reshape(B, T, H, W, c)
    cut = y.view(B, T // t, H // h, W // w, t, h, w, c).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return cut.reshape(B, T, H, W, c)


class NonLocal(nn.Module):
    """Use NonLocal1d, NonLocal2d or NonLocal3d.

    Args:
        channels: C.
        inner: I; 0: half of C.
        form: see the head of this module. scale: of the logits of "embedded": "rsqrt" 1 / sqrt(I) (the authors'
            release), "none" (the paper).
        pool: max pooling of keys and values: "none", "before" their embeddings, "after". pool_kernel: edges by
            dimension; empty: 2 in space, 1 in time.
        domain: the keys that a query sees: "spacetime" all; on maps with frames "space" those of its frame, "time"
            those at its place, "groups" those of `group` consecutive frames; "window" those of its `window` (edges by
            dimension).
        norm: after W_z: "batch", "frozen" (statistics stay), "layer" (without parameters; the block is then no
            identity at the start), "none" (W_z starts at 0). output_bias: of W_z.
        start: of weights: "he" N(0, 2 / inputs) (the paper), "small" N(0, 0.01^2) (the release).
        name, seed: parameters come by counter from both, as those of the C++ block.

    The state has the names of the command line's checkpoints and the bits of the C++ block, eager and compiled.
    Raises ValueError for options that do not fit each other, and for maps that windows do not divide."""

    dimensions = 0
    # None where the options have no use for them.
    theta_weight: Tensor
    theta_bias: Tensor
    phi_weight: Tensor
    phi_bias: Tensor
    g_weight: Tensor
    g_bias: Tensor
    concat_weight: Tensor
    output_weight: Tensor
    output_bias: Tensor | None
    norm_gain: Tensor
    norm_bias: Tensor
    running_mean: Tensor
    running_variance: Tensor

    def __init__(
        self,
        channels: int,
        *,
        inner: int = 0,
        form: str = "embedded",
        scale: str = "rsqrt",
        pool: str = "before",
        pool_kernel: Sequence[int] = (),
        domain: str = "spacetime",
        group: int = 4,
        window: Sequence[int] = (),
        norm: str = "batch",
        output_bias: bool = True,
        start: str = "he",
        name: str = "non_local",
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if not 1 <= self.dimensions <= 3:
            raise TypeError("NonLocal: it must be made as NonLocal1d, NonLocal2d or NonLocal3d, got NonLocal")
        at_least("NonLocal", "channels", channels, 1)
        at_least("NonLocal", "inner", inner, 0)
        for what, word, words in (("form", form, FORMS), ("scale", scale, SCALES), ("pool", pool, POOLS),
                                  ("domain", domain, DOMAINS), ("norm", norm, NORMS),
                                  ("start", start, STARTS)):  # fmt: skip
            one_of("NonLocal", what, word, words)
        self.channels, self.inner = channels, inner or max(1, channels // 2)
        self.form, self.scale, self.pool, self.domain, self.norm, self.start = form, scale, pool, domain, norm, start
        self.pool_kernel, self.group, self.window = tuple(pool_kernel), group, tuple(window)
        self.name, self.seed = name, drawn_seed() if seed is None else int(seed)
        self._check()

        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        sizes: dict[str, tuple[int, ...]] = {}
        if form != "gaussian":
            for which in ("theta", "phi"):
                sizes |= {f"{which}_weight": (self.inner, channels), f"{which}_bias": (self.inner,)}
        sizes |= {"g_weight": (self.inner, channels), "g_bias": (self.inner,)}
        if form == "concat":
            sizes["concat_weight"] = (2 * self.inner,)
        sizes["output_weight"] = (channels, self.inner)
        if output_bias:
            sizes["output_bias"] = (channels,)
        if norm in ("batch", "frozen"):
            sizes |= {"norm_gain": (channels,), "norm_bias": (channels,)}
            for which in ("running_mean", "running_variance"):
                self.register_buffer(which, torch.empty(channels, **factory))
        for which, size in sizes.items():
            self.register_parameter(which, nn.Parameter(torch.empty(size, **factory)))
        if not output_bias:
            self.output_bias = None
        self.reset_parameters()

    def _check(self) -> None:
        def edges(what: str, list: Sequence[int]) -> None:
            if len(list) != self.dimensions or any(edge < 1 for edge in list):
                raise ValueError(f"NonLocal: {what} must be {self.dimensions} edges of at least 1, got {[*list]}")

        if self.pool != "none" and self.pool_kernel:
            edges("pool_kernel", self.pool_kernel)
        if self.domain == "window":
            edges("window", self.window)
        if self.domain == "groups":
            at_least("NonLocal", "group", self.group, 1)
        if self.domain in ("space", "time", "groups") and self.dimensions != 3:
            raise ValueError("NonLocal: domains space, time and groups need maps with frames (NonLocal3d), "
                             f"got NonLocal{self.dimensions}d")  # fmt: skip
        kernel = self.kernel()
        if self.domain == "time" and kernel[1:] != (1, 1):
            raise ValueError("NonLocal: domain time must not pool in space: keys would leave the query's place, "
                             f"got pool_kernel {[*kernel]}")  # fmt: skip

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The start, by counter: weights normal, biases 0, the norm's scale 0."""
        for which, parameter in self.named_parameters(recurse=False):
            if which.endswith("_weight") and not (which == "output_weight" and self.norm == "none"):
                inputs = parameter.size(-1)
                std = math.sqrt(2 / inputs) if self.start == "he" else SMALL_START
                if parameter.device.type != "meta":
                    parameter.copy_(ops.normal_start(self.seed, f"{self.name}.{which}", list(parameter.shape), std))
            else:
                parameter.zero_()
        if self.norm in ("batch", "frozen"):
            self.running_mean.zero_()
            self.running_variance.fill_(1)

    def kernel(self) -> Extents:
        """Of pooling; 1s without it."""
        if self.pool == "none":
            return 1, 1, 1
        if self.pool_kernel:
            return aligned(self.pool_kernel)
        return (1, 1, 2) if self.dimensions == 1 else (1, 2, 2)

    def windows(self, map: Extents) -> tuple[Extents, Extents]:
        """A query's window and that of its keys, on a map of these extents."""
        own = {"space": (1, *map[1:]), "time": (map[0], 1, 1), "groups": (self.group, *map[1:]),
               "window": aligned(self.window) if self.domain == "window" else map}.get(self.domain, map)  # fmt: skip
        keys = []
        for what, extent, edge, cell in zip(EXTENTS, map, own, self.kernel(), strict=True):
            if extent < cell:
                raise ValueError(f"NonLocal: {what} must be at least the pooling kernel's {cell}, got {extent}")
            if edge != extent and extent % edge:
                raise ValueError(f"NonLocal: {what} must be a multiple of the window's {edge}, got {extent}")
            if edge != extent and edge % cell:
                raise ValueError(f"NonLocal: {what} of a window must be a multiple of the pooling kernel's {cell}, "
                                 f"got {edge}")  # fmt: skip
            keys.append(edge // cell)
        return own, (keys[0], keys[1], keys[2])

    def pairs(self, x: Tensor) -> Pairs:
        if x.dim() != self.dimensions + 2 or x.size(1) != self.channels or not x.is_floating_point():
            raise ValueError(f"NonLocal: x must be {MAPS[self.dimensions - 1]} of a floating type with "
                             f"C = {self.channels}, got {list(x.shape)} of {x.dtype}")  # fmt: skip
        last = x.movedim(1, -1).contiguous()
        map = aligned(x.shape[2:])
        tokens = last.view(x.size(0), *map, self.channels)  # [B, T, H, W, C]
        window, keys = self.windows(map)
        kernel = self.kernel()
        source = max_pooled(tokens, kernel) if self.pool == "before" else tokens

        def pooled(y: Tensor) -> Tensor:
            return max_pooled(y, kernel) if self.pool == "after" else y

        value = pooled(linear_map(source, self.g_weight, self.g_bias))
        if self.form == "gaussian":
            query, key = tokens.to(value.dtype), pooled(source.to(value.dtype))
        elif self.form == "concat":
            # w . [theta, phi] is one number of a query and one of a key: the embeddings are folded into w where no
            # pooling stands between.
            w1, w2 = self.concat_weight.view(2, 1, self.inner).unbind()
            query = linear_map(tokens, w1.matmul(self.theta_weight), w1.mv(self.theta_bias))
            if self.pool == "after":
                key = linear_map(pooled(linear_map(source, self.phi_weight, self.phi_bias)), w2, None)
            else:
                key = linear_map(source, w2.matmul(self.phi_weight), w2.mv(self.phi_bias))
        else:
            query = linear_map(tokens, self.theta_weight, self.theta_bias)
            key = pooled(linear_map(source, self.phi_weight, self.phi_bias))
        return Pairs(to_windows(query, window), to_windows(key, keys), to_windows(value, keys), map, window)

    def _scale(self) -> float:
        return self.inner**-0.5 if self.form == "embedded" and self.scale == "rsqrt" else 1.0

    def _summed(self, p: Pairs) -> Tensor:
        y: Tensor
        if self.form == "dot":
            y = ops.non_local_dot(p.query, p.key, p.value)
        elif self.form == "concat":
            y = ops.non_local_concat(p.query.squeeze(-1), p.key.squeeze(-1), p.value)
        else:
            y = ops.non_local_softmax(p.query, p.key, p.value, self._scale())
        return y

    def weights(self, query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
        """p of queries [.., n, I] and keys [.., M, I]; by the definition, [.., n, M]."""
        sizes = [query.size(-2), key.size(-2)]
        if mask is not None and (mask.dtype != torch.bool or list(mask.shape) != sizes):
            raise ValueError(f"NonLocal: mask must be bool {sizes}, got {mask.dtype} {list(mask.shape)}")
        p: Tensor
        if self.form in ("gaussian", "embedded"):
            p = ops.batch_product(query, key.transpose(-2, -1), self._scale())
            if mask is None:
                return torch.softmax(p, -1)
            p = torch.softmax(p.masked_fill(~mask, -math.inf), -1)
            return torch.where(mask.any(-1, keepdim=True), p, 0)
        transposed = key.transpose(-2, -1)
        p = torch.relu(query + transposed) if self.form == "concat" else ops.batch_product(query, transposed)
        if mask is None:
            return p / key.size(-2)
        return torch.where(mask, p, 0) / mask.sum(-1, keepdim=True).clamp_min(1)

    def _residual(self, x: Tensor, p: Pairs, y: Tensor) -> Tensor:
        z = linear_map(from_windows(y, p.map, p.window), self.output_weight, self.output_bias)  # [B, T, H, W, C]
        if self.norm in ("batch", "frozen"):
            looked_at = self.training and not torch.compiler.is_compiling()
            if looked_at and not self.norm_gain.any() and not self.output_weight.any():
                raise RuntimeError("NonLocal: W_z must not be 0 while the norm's scale is 0 (neither would ever move), "
                                   "got 0")  # fmt: skip
            rows, training = z.reshape(-1, self.channels), self.training and self.norm == "batch"
            z = batch_normalised(rows, self.norm_gain, self.norm_bias, self.running_mean, self.running_variance,
                                 training).view(z.shape)  # fmt: skip
        elif self.norm == "layer":
            flat = z.flatten(1)
            z = F.layer_norm(flat, [flat.size(1)], eps=NORM_EPSILON).view(z.shape)
        return z.to(x.dtype).reshape(x.size(0), *x.shape[2:], self.channels).movedim(-1, 1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, C, ...] -> the same, in its dtype and layout.

        mask: bool [N, M], for domain "spacetime": the keys that a query sees, by the definition; Z counts those alone,
        and a query without a key gets y = 0. Raises RuntimeError in training where W_z and the norm's scale are both 0
        (compiled code does not look)."""
        if mask is not None:
            return self.forward_with_map(x, mask)[0]
        p = self.pairs(x)
        return x + self._residual(x, p, self._summed(p))

    def forward_with_map(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z and p [B windows, N, M], by the definition. Windows follow frames, height, width."""
        if mask is not None and self.domain != "spacetime":
            raise ValueError(f"NonLocal: a mask must come with domain spacetime, got {self.domain}")
        p = self.pairs(x)
        weights = self.weights(p.query, p.key, mask)
        y = ops.batch_product(weights.to(p.value.dtype), p.value)
        return x + self._residual(x, p, y), weights

    def extra_repr(self) -> str:
        return f"{self.channels}, inner={self.inner}, form={self.form}, pool={self.pool}, domain={self.domain}"


class NonLocal1d(NonLocal):
    __doc__ = NonLocal.__doc__
    dimensions = 1  # x [B, C, width]


class NonLocal2d(NonLocal):
    __doc__ = NonLocal.__doc__
    dimensions = 2  # x [B, C, height, width]


class NonLocal3d(NonLocal):
    __doc__ = NonLocal.__doc__
    dimensions = 3  # x [B, C, frames, height, width]
