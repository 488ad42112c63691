"""loci.subset_backprop: the mean gradient is the full one, with all rows it is the embedding, draws as in C++."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import loci

ROWS, KEPT = 12, 3
DRAWN = [2, 3, 5, 8, 18]  # of seed 3, stream "support", position 10, in C++ too


def drawn(seed: int, *sizes: int) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SUPPORT, QUERIES = drawn(1, ROWS, 4), drawn(2, 6, 4) + 1
WEIGHT = drawn(3, 4, 5).requires_grad_()


def gradient(pool: Callable[[Callable[[Tensor], Tensor]], Tensor], factor: float = 1) -> Tensor:
    def embed(x: Tensor) -> Tensor:
        return (x @ WEIGHT).tanh()

    loss = factor * (embed(QUERIES) - pool(embed).mean(0)).pow(2).sum(1).mul(2).exp().log1p().mean()
    return torch.autograd.grad(loss, WEIGHT)[0]


def bias_in_noise(scale: bool, factor: float = 1) -> float:
    """The distance of the mean gradient of 300 draws from the full one, in units of its own Monte-Carlo noise."""
    random = loci.RandomSequence(seed=7)
    found = torch.stack([
        gradient(lambda embed: loci.subset_backprop(SUPPORT, embed, kept=KEPT, scale=scale, random=random), factor)
        for _ in range(300)
    ])  # fmt: skip
    noise = (found.var(0).sum() / len(found)).sqrt()
    return float((found.mean(0) - gradient(lambda embed: embed(SUPPORT))).norm() / noise)


def test_the_mean_gradient_is_the_full_one_and_other_scales_are_biased() -> None:
    assert bias_in_noise(scale=True) < 2
    assert bias_in_noise(scale=False) > 2, "nothing is scaled"
    assert bias_in_noise(scale=False, factor=ROWS / KEPT) > 2, "everything is scaled"


def test_with_all_rows_it_is_the_embedding_bit_for_bit() -> None:
    random = loci.RandomSequence(seed=1)
    got = gradient(lambda embed: loci.subset_backprop(SUPPORT, embed, kept=ROWS, chunk=5, random=random))
    assert torch.equal(got, gradient(lambda embed: embed(SUPPORT)))


@pytest.mark.parametrize("scale", [True, False])
def test_kept_rows_alone_get_the_gradient_times_their_factor(scale: bool) -> None:
    rows, grad = drawn(4, 10, 2).requires_grad_(), drawn(5, 10, 2)
    chosen = loci.RandomSequence(3).subset(10, 4)
    y = loci.subset_backprop(rows, lambda x: 2 * x, kept=4, chunk=3, scale=scale, random=loci.RandomSequence(3))
    assert torch.equal(y, 2 * rows)
    expected = torch.zeros_like(grad).index_copy(0, chosen, grad[chosen] * (2.5 if scale else 1) * 2)
    assert torch.equal(torch.autograd.grad(y, rows, grad)[0], expected)


def test_draws_are_repeated_and_those_of_c_plus_plus() -> None:
    random = loci.RandomSequence(seed=3, stream="support", position=10)
    assert random.subset(20, 5).tolist() == DRAWN
    assert random.position == 15 and "position=15" in repr(random)
    assert loci.RandomSequence(seed=3, stream="support", position=10).subset(20, 5).tolist() == DRAWN
    torch.manual_seed(5)
    seed = loci.RandomSequence().seed
    torch.manual_seed(5)
    assert loci.RandomSequence().seed == seed


def test_a_module_learns_under_autocast() -> None:
    layer = torch.nn.Linear(4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        y = loci.subset_backprop(SUPPORT.float(), layer, kept=2, random=loci.RandomSequence(0))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.abs().min() > 0


@pytest.mark.parametrize(
    ("kept", "chunk", "words"),
    [
        (13, 1, "subset_backprop: kept must be in 1 .. 12 (the rows), got 13"),
        (0, 1, "subset_backprop: kept must be in 1 .. 12 (the rows), got 0"),
        (2, 0, "subset_backprop: chunk must be at least 1, got 0"),
    ],
)
def test_bad_sizes_are_refused(kept: int, chunk: int, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        loci.subset_backprop(SUPPORT, torch.sin, kept=kept, chunk=chunk, random=loci.RandomSequence(0))


def test_what_is_no_row_is_refused() -> None:
    random = loci.RandomSequence(0)
    with pytest.raises(ValueError, match=re.escape("rows must be [N, ...] with N >= 1, got [0, 2]")):
        loci.subset_backprop(torch.zeros(0, 2), torch.sin, kept=1, random=random)
    with pytest.raises(ValueError, match=re.escape("embed must give one row for each of its 2, got [4]")):
        loci.subset_backprop(SUPPORT, lambda x: x.mean(0), kept=2, random=random)
    with pytest.raises(ValueError, match=re.escape("RandomSequence: kept must be in 0 .. 3, got 4")):
        random.subset(3, 4)
