"""One vector of a thing from several views of it, some of which are missing or worthless.

    attention = loci.ViewAttention(64)              # views [B, V, 64], mask [B, V] -> [B, 64] of length 1
    score = loci.PairScore()                        # gain <a, b> + bias, for a logistic loss
    mask = loci.drop_views(mask, 0.1, seed=0, first=step * mask.numel())

It implements the idea of the abstract of Barkan et al. 2020 ("Neural Attentive Multiview Machines", ICASSP); the
formulas are ours:

    alpha = softmax over the present k of v . tanh(W u_k + b)
    u     = sum over k of alpha_k u_k, or the default view where none is present
    out   = u / |u|

B batch, V views, D width of a view, A width of the scores' hidden layer. More: docs/small-systems.md.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from loci.library import ops
from loci.memory_formula import unit_vectors
from loci.memory_layer import autocasts, linear_map
from loci.table import at_least, drawn_seed


def _as_parameter(x: Tensor, parameter: Tensor) -> Tensor:
    return x if autocasts(x) else x.to(parameter.dtype)


class ViewAttention(nn.Module):
    """Attention over the views that are present.

    The order of the views plays no part. What stands in an absent view changes no bit of the result, NaN included, and
    gets no gradient.

    Args:
        width: D.
        hidden: A.
        name, seed: parameters come by counter from both, as those of the C++ block.

    The state, with the names and, eager, the bits of the C++ block: inner_weight W [A, D], inner_bias b [A],
    score_weight v [1, A], default_view [D]. Raises ValueError for views and masks of other sizes."""

    inner_weight: Tensor
    inner_bias: Tensor
    score_weight: Tensor
    default_view: Tensor

    def __init__(
        self,
        width: int,
        *,
        hidden: int = 32,
        name: str = "view_attention",
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        at_least("ViewAttention", "width", width, 1)
        at_least("ViewAttention", "hidden", hidden, 1)
        self.width, self.hidden = width, hidden
        self.name, self.seed = name, drawn_seed() if seed is None else int(seed)
        sizes = {"inner_weight": (hidden, width), "inner_bias": (hidden,), "score_weight": (1, hidden)}
        for which, size in (sizes | {"default_view": (width,)}).items():
            self.register_parameter(which, nn.Parameter(torch.empty(size, device=device, dtype=dtype)))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The start, by counter: weights N(0, 1 / inputs), the default view N(0, 1 / D), the bias 0."""
        for which, parameter in self.named_parameters(recurse=False):
            if which == "inner_bias":
                parameter.zero_()
            elif parameter.device.type != "meta":
                std = 1 / math.sqrt(parameter.size(-1))
                parameter.copy_(ops.normal_start(self.seed, f"{self.name}.{which}", list(parameter.shape), std))

    def forward(self, views: Tensor, mask: Tensor | None = None) -> Tensor:
        """views [B, V, D], mask bool [B, V] (None: all are present) -> [B, D] in the type of views."""
        return self.forward_with_weights(views, mask)[0]

    def forward_with_weights(self, views: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """That, and alpha [B, V]."""
        if views.dim() != 3 or views.size(2) != self.width or not views.is_floating_point():
            raise ValueError(f"ViewAttention: views must be [B, V, {self.width}] of a floating type, "
                             f"got {list(views.shape)} of {views.dtype}")  # fmt: skip
        sizes = list(views.shape[:2])
        if mask is None:
            mask = torch.ones(sizes, dtype=torch.bool, device=views.device)
        if mask.dtype != torch.bool or list(mask.shape) != sizes:
            raise ValueError(f"ViewAttention: mask must be bool {sizes}, got {mask.dtype} {list(mask.shape)}")
        u = _as_parameter(torch.where(mask.unsqueeze(-1), views, 0), self.inner_weight)
        inner = torch.tanh(linear_map(u, self.inner_weight, self.inner_bias))
        score = linear_map(_as_parameter(inner, self.score_weight), self.score_weight, None).squeeze(-1).to(u.dtype)
        # Where no view is present, scores stay finite: the softmax of -inf alone is NaN, which anomaly detection finds.
        any_present = mask.any(1, keepdim=True)
        softmax = torch.softmax(score.masked_fill(~mask & any_present, -math.inf), -1)
        alpha = torch.where(mask, softmax, 0)
        total = (alpha.unsqueeze(-1) * u).sum(1)
        return unit_vectors(torch.where(any_present, total, self.default_view)).to(views.dtype), alpha

    def extra_repr(self) -> str:
        return f"{self.width}, hidden={self.hidden}"


class PairScore(nn.Module):
    """How well two vectors belong together: gain * <a, b> + bias, to be trained by a logistic loss. The gain starts at
    `gain`, the bias at 0."""

    def __init__(self, gain: float = 5, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None):
        super().__init__()
        if not math.isfinite(gain):
            raise ValueError(f"PairScore: gain must be a number, got {gain}")
        self.gain = nn.Parameter(torch.full((1,), float(gain), device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(1, device=device, dtype=dtype))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """a [.., D], b [.., D] -> [..]."""
        if a.dim() < 1 or a.shape != b.shape:
            raise ValueError(f"PairScore: a and b must be [.., D] of the same sizes, got {[*a.shape]} and {[*b.shape]}")
        return self.gain * (a * b).sum(-1) + self.bias

    def all_pairs(self, a: Tensor, b: Tensor) -> Tensor:
        """a [M, D], b [N, D] -> [M, N]."""
        if a.dim() != 2 or b.dim() != 2 or a.size(1) != b.size(1):
            raise ValueError(f"PairScore: a and b must be [M, D] and [N, D], got {[*a.shape]} and {[*b.shape]}")
        return self.gain * a.mm(b.t()) + self.bias


def drop_views(mask: Tensor, share: float, *, seed: int, stream: str = "views", first: int = 0) -> Tensor:
    """View dropout: mask [B, V] without the views that are left out in training. Each is, with probability `share`, by
    counter from (seed, stream, first + its place in row-major order): the same ones as in C++, for any cut of a
    batch."""
    kept: Tensor = ops.drop_views(mask, share, seed, stream, first)
    return kept
