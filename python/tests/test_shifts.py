"""Norm and optimiser by shifts: their formulas one number after another, and habits of torch."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from binary_cases import accuracy_after_training
from memory_cases import graphs_of
from torch import Tensor, nn

import loci


def power(z: float) -> float:
    return 0.0 if z == 0 else math.copysign(2.0 ** round(math.log2(abs(z))), z)


def random_norm(features: int, dtype: torch.dtype = torch.float32) -> loci.ShiftNorm:
    drawn = torch.Generator().manual_seed(3)
    norm = loci.ShiftNorm(features, dtype=dtype)
    with torch.no_grad():
        for tensor in (norm.gain, norm.bias, norm.running_mean):
            tensor.copy_(torch.randn(features, generator=drawn))
        norm.running_variance.copy_(torch.rand(features, generator=drawn) * 9 + 0.1)
    return norm


def test_powers_are_the_nearest() -> None:
    x = torch.tensor([1.0, 1.4, 1.42, 3.0, -0.3, 0.0, 0.1, math.inf], requires_grad=True)
    y = loci.nearest_power(x)
    assert y.tolist() == [1, 1, 2, 4, -0.25, 0, 0.125, math.inf]
    assert torch.equal(torch.autograd.grad(y, x, torch.arange(8.0))[0], torch.arange(8.0))


@pytest.mark.parametrize("sizes", [(11, 3), (4, 3, 2, 3)])
def test_the_norm_is_its_formula(sizes: tuple[int, ...]) -> None:
    norm, x = random_norm(3, torch.float64), torch.randn(sizes, dtype=torch.float64) * 4 + 1
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    y = norm(x)
    trained = norm.state_dict()
    for o in range(3):
        numbers, found = x[:, o].flatten().tolist(), y[:, o].flatten().tolist()
        mean = sum(numbers) / len(numbers)
        variance = sum((n - mean) * power(n - mean) for n in numbers) / len(numbers)
        gain, bias = before["gain"][o].item(), before["bias"][o].item()
        factor = power(1 / math.sqrt(variance + 1e-5)) * power(gain)
        assert found == pytest.approx([(n - mean) * factor + bias for n in numbers], rel=1e-12, abs=1e-12)
        for name, new in (("running_mean", mean), ("running_variance", variance)):
            assert trained[name][o].item() == pytest.approx(0.9 * before[name][o].item() + 0.1 * new, rel=1e-12)
    norm.load_state_dict(before)
    norm.eval()
    factor_of = torch.tensor([power(1 / math.sqrt(v + 1e-5)) * power(g) for v, g in
                              zip(before["running_variance"].tolist(), before["gain"].tolist(), strict=True)],
                             dtype=torch.float64)  # fmt: skip
    shape = (3, *[1] * (x.dim() - 2))
    expected = (x - before["running_mean"].view(shape)) * factor_of.view(shape) + before["bias"].view(shape)
    assert torch.equal(norm(x), expected)


def test_gradients_pass_through_the_powers() -> None:
    norm, x = random_norm(4, torch.float64), torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    grad, inputs = torch.randn(6, 4, dtype=torch.float64), (x, norm.gain, norm.bias)

    def through(z: Tensor) -> Tensor:
        return z + (loci.nearest_power(z) - z).detach()

    c = x - x.mean(0)
    root = ((c * through(c)).mean(0) + 1e-5).rsqrt()
    expected = torch.autograd.grad(c * (through(root) * through(norm.gain)) + norm.bias, inputs, grad)
    for found, one in zip(torch.autograd.grad(norm(x), inputs, grad), expected, strict=True):
        torch.testing.assert_close(found, one)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_optimiser_is_its_formula(decay: float) -> None:
    p = nn.Parameter(torch.randn(7, dtype=torch.float64))
    optimizer = loci.ShiftAdamax([p], lr=0.01, weight_decay=decay)
    value, m, v = p.tolist(), [0.0] * 7, [0.0] * 7
    for t in range(1, 7):
        p.grad = torch.randn(7, dtype=torch.float64) * 2.0**-t
        p.grad[0] = 0
        optimizer.step()
        for i, g in enumerate(p.grad.tolist()):
            m[i], v[i] = 0.875 * m[i] + 0.125 * g, max((1 - 2**-10) * v[i], abs(g))
            value[i] *= 1 - 0.01 * decay
            if v[i] > 0:
                value[i] -= power(0.01 / (1 - 0.875**t)) * m[i] / power(v[i])
        assert p.tolist() == pytest.approx(value, rel=1e-12)
    other = nn.Parameter(p.detach().clone())
    resumed = loci.ShiftAdamax([other], lr=1.0)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    p.grad = other.grad = torch.randn(7, dtype=torch.float64)
    optimizer.step()
    resumed.step()
    assert torch.equal(p, other)


def test_a_network_of_signs_learns_by_shifts() -> None:
    torch.manual_seed(4)
    model = nn.Sequential(
        loci.BinaryLinear(40, 128, name="hidden", seed=0), loci.ShiftNorm(128), loci.StraightThroughSign(),
        loci.BinaryLinear(128, 10, name="last", seed=0), loci.ShiftNorm(10),
    )  # fmt: skip
    optimizer = loci.keep_clipped(loci.ShiftAdamax(loci.binary_groups(model, lr=2**-8)))
    assert accuracy_after_training(model, optimizer) > 0.7  # chance is 1 / 10


def test_the_norm_compiles_without_graph_breaks() -> None:
    norm, x = random_norm(5), torch.randn(6, 5)
    assert graphs_of(copy.deepcopy(norm), x) == 1
    twin = copy.deepcopy(norm)
    torch.testing.assert_close(torch.compile(norm, fullgraph=True)(x), twin(x))
    torch.testing.assert_close(norm.running_variance, twin.running_variance)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: loci.ShiftNorm(0), "ShiftNorm: features must be at least 1, got 0"),
        (lambda: loci.ShiftNorm(4)(torch.zeros(2, 3)), r"x must be \[B, 4, ...\] of a floating type, got \[2, 3\]"),
        (lambda: loci.ShiftNorm(4)(torch.zeros(0, 4)), "training must have at least 1 row, got 0"),
        (lambda: loci.ShiftAdamax([torch.zeros(1)], lr=-1.0), "ShiftAdamax: lr must be at least 0, got -1.0"),
        (lambda: loci.ShiftAdamax([torch.zeros(1)], betas=(0.9, 1.0)), r"betas must be two numbers of \[0, 1\)"),
    ],
)
def test_bad_input_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
