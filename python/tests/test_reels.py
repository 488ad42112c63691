"""Layers of reels: their formula, training with and without a gradient of all scores, habits of torch."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from loci.library import ops
from torch import Tensor, nn

import loci


def layer(**options: Any) -> loci.ReelLinear:
    return loci.ReelLinear(20, 30, **{"name": "layer", "seed": 3} | options)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> list[float]:
    drawn = torch.Generator().manual_seed(9)
    truth = 0.2 * torch.randn(20, 30, generator=drawn)
    losses = []
    for _ in range(steps):
        x = torch.randn(64, 20, generator=drawn)
        loss = (model(x) - x @ truth).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_weight_is_the_value_of_its_greatest_score() -> None:
    one, x = layer(), torch.randn(4, 20)
    sigma = math.sqrt(2 / 50)
    start = ops.uniform_start(3, "layer.weight.scores", [8, 30, 20], 0.05 * sigma) + 0.05 * sigma
    assert torch.equal(one.weight.scores, start)
    key = ops.reel_key(3, "layer.weight").tolist()
    values = ops.reel_values(torch.empty(30, 20), 8, *key, sigma)
    assert torch.equal(one.weight.values(), values) and values.abs().max() < sigma
    chosen = values.gather(0, start.argmax(0, keepdim=True))[0]
    assert torch.equal(one(x), x @ chosen.t()) or torch.allclose(one(x), x @ chosen.t())
    assert torch.equal(one.weight.found(), chosen) and torch.equal(one.weight(), chosen)

    grad = torch.randn(30, 20)
    one.weight().backward(grad)
    assert torch.equal(one.weight.scores.grad, grad * values)
    only = layer(gradient="chosen")
    only.weight().backward(grad)
    mask = torch.arange(8)[:, None, None] == start.argmax(0)
    assert torch.equal(only.weight.scores.grad, torch.where(mask, grad * values, 0))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("gradient", ["all", "chosen"])
def test_the_fused_step_trains_as_sgd_of_all_scores(momentum: float, gradient: str) -> None:
    fused, plain = layer(gradient=gradient), layer(gradient=gradient)
    before = fused.weight.values()
    nesterov = momentum > 0
    losses = train(fused, loci.ReelSGD(fused, 1.0, momentum=momentum, weight_decay=1e-3, nesterov=nesterov))
    sgd = torch.optim.SGD(plain.parameters(), 1.0, momentum=momentum, weight_decay=1e-3, nesterov=nesterov)
    torch.testing.assert_close(losses, train(plain, sgd), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fused.weight.scores, plain.weight.scores, check_stride=True)
    assert fused.weight.scores.grad is None and fused.weight.moved() > 0
    assert torch.equal(fused.weight.values(), before)
    assert torch.equal(fused.weight().detach(), fused.weight.found())


@pytest.mark.parametrize("choice", ["greedy", "sampled"])
def test_runs_go_on_bit_for_bit(choice: str) -> None:
    whole = layer(choice=choice)
    optimizer = loci.ReelSGD(whole, 1.0)
    train(whole, optimizer)
    half, other = copy.deepcopy(whole), layer(choice=choice, seed=5)  # `half` is not trained by `optimizer`
    assert {"weight.scores", "weight.key"} <= other.state_dict().keys()
    other.load_state_dict(half.state_dict())
    resumed = loci.ReelSGD(other, 1.0)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(whole, optimizer)
    train(other, resumed)
    assert torch.equal(other.weight.scores, whole.weight.scores)
    assert torch.equal(other.weight.values(), whole.weight.values())


def test_frozen_layers_have_the_same_bits() -> None:
    linear, convolution = layer(), loci.ReelConv2d(3, 5, seed=1)
    train(linear, loci.ReelSGD(linear, 1.0))
    x, image = torch.randn(4, 20), torch.randn(2, 3, 6, 7)
    plain, plain_convolution = linear.freeze(), convolution.freeze()
    assert torch.equal(plain(x), linear(x)) and plain.weight.requires_grad
    assert torch.equal(plain_convolution(image), convolution(image))
    high = float(convolution.weight.scores.max()) / math.sqrt(2 / (9 * 8))
    assert 0.9 < high < 1


def test_drawn_in_training_and_greedy_in_evaluation() -> None:
    one = layer(choice="sampled")
    first, second = one.weight(), one.weight()
    assert not torch.equal(first, second) and int(one.weight.draws) == 2
    assert torch.equal(one.eval().weight(), one.weight.found())


def test_seeds_are_drawn_from_torch() -> None:
    def values() -> Tensor:
        torch.manual_seed(4)
        return loci.ReelLinear(3, 4).weight.values()

    assert torch.equal(values(), values())
    assert not torch.equal(loci.ReelLinear(3, 4).weight.values(), values())


def test_one_reel_never_changes() -> None:
    one = layer(reels=1)
    before = one.weight.found()
    train(one, loci.ReelSGD(one, 1.0))
    assert torch.equal(one.weight.found(), before) and one.weight.moved() == 0


def test_compiles_without_graph_breaks() -> None:
    one, x = layer(), torch.randn(4, 20)
    compiled = torch.compile(one, fullgraph=True)
    torch.testing.assert_close(compiled(x), one(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layer(reels=0), "ReelWeight: reels must be 1 to 256, got 0"),
        (lambda: layer(choice="best"), "choice must be one of greedy, sampled, got 'best'"),
        (lambda: layer(gradient="none"), "gradient must be one of all, chosen, got 'none'"),
        (lambda: layer(spread=-1.0), "spread must be at least 0, got -1.0"),
        (lambda: loci.ReelLinear(0, 3), r"sizes must be outputs, inputs and edges of at least 1, got \[3, 0\]"),
        (lambda: loci.ReelConv2d(3, 3, 4), "ReelConv2d: the edge must be odd, got 4"),
        (lambda: loci.ReelSGD(nn.Linear(2, 2)), "ReelSGD: module must have layers of reels, got none"),
        (lambda: loci.ReelSGD(layer(), -1.0), "ReelSGD: lr must be at least 0, got -1.0"),
    ],
)
def test_bad_options_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
