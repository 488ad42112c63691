"""Subset back-propagation: rows that are pooled have exact values, and a few of them carry the gradient of all.

    random = loci.RandomSequence(seed=0, stream="support")
    y = loci.subset_backprop(support, embed, kept=20, random=random)  # [N, ...], gradients through 20 rows

N rows, H of them kept, B rows of one call of `embed`. Why it is unbiased, and when: docs/small-systems.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from loci.library import ops
from loci.table import at_least, drawn_seed


class RandomSequence:
    """Numbers by counter, one after another: seed, stream and position are the whole state, so that a sequence can be
    saved, begun anywhere, and gives the draws of the C++ library. seed: None draws it from torch's generator."""

    def __init__(self, seed: int | None = None, stream: str = "subset", position: int = 0):
        at_least("RandomSequence", "position", position, 0)
        self.seed, self.stream = drawn_seed() if seed is None else int(seed), stream
        self.position = int(position)

    def subset(self, rows: int, kept: int) -> Tensor:
        """`kept` of 0 .. rows-1 without replacement, ascending: [kept] int64. Takes `kept` numbers."""
        if not 0 <= kept <= rows:
            raise ValueError(f"RandomSequence: kept must be in 0 .. {rows}, got {kept}")
        chosen: Tensor = ops.draw_subset(rows, kept, self.seed, self.stream, self.position)
        self.position += kept
        return chosen

    def __repr__(self) -> str:
        return f"RandomSequence(seed={self.seed}, stream={self.stream!r}, position={self.position})"


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, factor: float) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.factor, None


def subset_backprop(
    rows: Tensor,
    embed: Callable[[Tensor], Tensor],
    *,
    kept: int,
    chunk: int = 64,
    scale: bool = True,
    random: RandomSequence,
) -> Tensor:
    """embed(rows) [N, ...], whose gradient flows through `kept` rows alone, times N / kept: unbiased, at the memory of
    `kept` rows (Bronskill et al. 2021, "Memory efficient meta-learning with large images": LITE).

    Args:
        rows: [N, ...].
        embed: rows [B, ...] -> [B, ...], each row by itself: no batch norm.
        kept: H, how many rows are drawn, without replacement, and embedded with gradient, in one call. With kept = N
            the result is embed(rows), bit for bit.
        chunk: the other rows are embedded without gradient in calls of at most so many.
        scale: False leaves the factor N / kept out: a biased gradient, for comparisons.
        random: decides the draw. A model that pools twice makes two calls with one sequence.

    Other ways from the parameters to the loss, such as that of the queries, must not be scaled.
    Raises ValueError for sizes that do not fit."""
    if rows.dim() < 1 or rows.size(0) < 1:
        raise ValueError(f"subset_backprop: rows must be [N, ...] with N >= 1, got {list(rows.shape)}")
    N = rows.size(0)
    if not 1 <= kept <= N:
        raise ValueError(f"subset_backprop: kept must be in 1 .. {N} (the rows), got {kept}")
    at_least("subset_backprop", "chunk", chunk, 1)

    def embedded(part: Tensor) -> Tensor:
        y = embed(part)
        if y.dim() < 1 or y.size(0) != part.size(0):
            raise ValueError(f"subset_backprop: embed must give one row for each of its {part.size(0)}, "
                             f"got {list(y.shape)}")  # fmt: skip
        return y

    chosen = random.subset(N, kept)
    if kept == N:
        return embedded(rows)
    left = torch.ones(N, dtype=torch.bool).index_fill(0, chosen, False).nonzero().squeeze(1).to(rows.device)
    chosen = chosen.to(rows.device)
    # The kept rows come first: autocast of older releases used casts of weights again that were made without gradient.
    y = embedded(rows.index_select(0, chosen))
    if scale:
        y = _ScaleGradient.apply(y, N / kept)  # type: ignore[no-untyped-call]
    values = torch.empty((N, *y.shape[1:]), dtype=y.dtype, device=y.device)
    with torch.no_grad():
        for part in torch.split(left, chunk):
            values.index_copy_(0, part, embedded(rows.index_select(0, part)))
    return values.index_copy(0, chosen, y)
