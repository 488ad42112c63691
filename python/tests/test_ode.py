"""Equations in Python: slopes of the solvers, gradients in three ways, the bits of the C++ block, every knob against an
exact solution, errors."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from block_cases import c_plus_plus_block, trained_block
from loci.ode import OdeCounts
from loci.ode_block import GalerkinField
from loci.ode_solver import METHODS
from memory_cases import assert_same
from torch import Tensor, nn

import loci

CHANNELS = 6


class Formula(nn.Module):
    def __init__(self, f: Any):
        super().__init__()
        self.f = f

    def forward(self, *arguments: Tensor) -> Any:
        return self.f(*arguments)


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4"])
@pytest.mark.parametrize("end", [1.5, -1.5])
def test_errors_fall_with_the_order(method: str, end: float) -> None:
    z = torch.ones(1, dtype=torch.double)
    errors = []
    for steps in (20, 40):
        found = loci.odeint(lambda s, z: z * s.cos(), z, [0, end], method=method, steps=steps)
        errors.append(abs(found[1].item() - math.exp(math.sin(end))))
    assert abs(math.log2(errors[0] / errors[1]) - METHODS[method].order) < 0.25


@pytest.mark.parametrize("method", ["dopri5", "tsit5"])
def test_pairs_keep_their_tolerance_and_count(method: str) -> None:
    z, counts = torch.tensor([1.0, 2.0], dtype=torch.double), OdeCounts()
    points = [0.0, 0.5, 3.0]
    found = loci.odeint(lambda s, z: z * s.cos(), z, points, method=method, rtol=1e-8, atol=1e-8, counts=counts)
    assert found.shape == (3, 2)
    for state, point in zip(found, points, strict=True):
        assert torch.allclose(state, z * math.exp(math.sin(point)), atol=1e-6)
    assert counts.forward.evaluations == 2 * 2 + 6 * (counts.forward.taken + counts.forward.refused)


@pytest.mark.parametrize("gradient", ["adjoint", "checkpoints"])
def test_gradients_are_those_of_the_steps(gradient: str) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(3, 3, dtype=torch.double)
    x = torch.randn(4, 3, dtype=torch.double, requires_grad=True)
    field = Formula(lambda s, z: torch.tanh(linear(z)) * (1 + s))
    field.linear = linear
    for options in ({"method": "rk4", "steps": 60}, {"method": "dopri5", "rtol": 1e-9, "atol": 1e-10}):
        found = {}
        for kind in ("steps", gradient):
            y = loci.odeint(field, x, [0, 0.7, -0.2][:2], gradient=kind, **options)[1]
            found[kind] = torch.autograd.grad(y.sin().sum(), [x, *linear.parameters()])
        for a, b in zip(found["steps"], found[gradient], strict=True):
            assert torch.allclose(a, b, atol=1e-11 if gradient == "checkpoints" else 1e-6, rtol=0)


def test_the_adjoint_comes_nearer_with_the_fourth_power() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(3, 3, dtype=torch.double), torch.randn(4, 3, dtype=torch.double)
    apart = []
    for steps in (20, 40):
        found = []
        for kind in ("steps", "adjoint"):
            y = loci.odeint(Formula(lambda s, z: linear(z).tanh()), x, [0, 2], method="rk4", steps=steps, gradient=kind,
                            parameters=linear.parameters())[1]  # fmt: skip
            found.append(torch.autograd.grad(y.sin().sum(), linear.weight)[0])
        apart.append((found[0] - found[1]).abs().max().item())
    assert abs(math.log2(apart[0] / apart[1]) - 4) < 0.4


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "backward-in-s": {"depth": -1.5, "solver": {"method": "midpoint", "steps": 6}},
    "zeros": {"start": "zeros", "added": 2, "solver": {"method": "euler", "steps": 5}},
    "learned": {"start": "learned", "added": 1, "order": 2, "whole": True},
    "own": {"depth_kind": "own", "depth_width": 5, "concat": True, "data_control": True},
    "dopri5": {"depth": 6.0, "solver": {"method": "dopri5", "rtol": 1e-5, "atol": 1e-6}},
    "tsit5-adjoint": {"solver": {"method": "tsit5", "rtol": 1e-3, "atol": 1e-4, "control": "sample"},
                      "gradient": {"kind": "adjoint"}, "data_control": True, "depth_kind": "absolute", "depth": -0.5},
    "checkpoints": {"gradient": {"kind": "checkpoints", "checkpoint_steps": 3}, "order": 2},
}  # fmt: skip


def toml_of(options: dict[str, Any]) -> dict[str, Any]:
    """Sub-tables as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in options.items():
        flat |= {f"{key}.{part}": one for part, one in value.items()} if isinstance(value, dict) else {key: value}
    return flat


@pytest.mark.parametrize("case", CASES)
def test_blocks_are_those_of_c_plus_plus(case: str, tmp_path: Path) -> None:
    options = copy.deepcopy(CASES[case])
    gradient = options.get("gradient", {})
    torch.manual_seed(1)
    keys = ("depth", "depth_kind", "depth_width", "start", "added", "order", "data_control", "whole")
    settings = {key: options[key] for key in keys if key in options}
    part = CHANNELS + settings.get("added", 0)
    inputs = (
        settings.get("order", 1) * part + options.get("concat", False) + CHANNELS * options.get("data_control", False)
    )
    field = nn.Sequential(nn.Linear(inputs, part), nn.Tanh())
    block = loci.OdeBlock(
        field,
        CHANNELS,
        variance="concat" if options.get("concat") else "constant",
        gradient=gradient.get("kind", "steps"),
        checkpoint_steps=gradient.get("checkpoint_steps", 1),
        name="block",
        seed=3,
        **settings,
        **options.get("solver", {}),
    )
    assert block.field_inputs == inputs
    weights = {f"field.{name}": value.detach().clone() for name, value in field.named_parameters()}
    x = torch.randn(5, CHANNELS)
    grad = torch.randn(5, settings.get("order", 1) * part if options.get("whole") else CHANNELS)
    of_head = {key: options.pop(key) for key in ("concat", "whole") if key in options}
    expected = c_plus_plus_block(tmp_path, "ode_block", 2, toml_of(options), weights, x, grad, of_head)
    assert_same(trained_block(block, x, grad), expected)
    assert not torch.equal(expected["y"], x)


def doubles(*sizes: int) -> Tensor:
    return torch.randn(*sizes, dtype=torch.double, generator=torch.Generator().manual_seed(2))


def test_knobs_have_exact_solutions() -> None:
    x = doubles(4, 2)
    block = loci.OdeBlock(Formula(lambda z: z[:, 2:].expand(4, 2) * 2), 2, depth=1.5, variance="concat")
    assert torch.allclose(block(x), x + 1.5**2)
    block = loci.OdeBlock(Formula(lambda s, z: z * 0 + 3 * s * s), 2, depth=2, reads_depth=True)
    assert torch.allclose(block(x), x + 8)
    pieces = [Formula(lambda z, k=k: z * k) for k in (1.0, -4.0, 10.0)]
    block = loci.OdeBlock(pieces, 2, depth=0.6, steps=300)
    assert torch.allclose(block(x), x * math.exp(0.2 * 7))
    assert block.path(x, 100).shape == (103, 4, 2)
    assert torch.allclose(block.path(x, 300)[-1], block(x))
    block = loci.OdeBlock(Formula(lambda z: -z[:, :2]), 2, depth=3, order=2, steps=200)
    assert torch.allclose(block(x), x * math.cos(3))
    block = loci.OdeBlock(Formula(lambda z: z[:, 2:]), 2, depth=2, data_control=True)
    assert torch.allclose(block(x), 3 * x)
    block = loci.OdeBlock(Formula(lambda z: z * 0 + 1), 2, depth=-2)
    y, integral = block(x, lambda s, z: (z - s).square().sum(1))
    assert torch.allclose(y, x - 2) and torch.allclose(integral, 2 * x.square().sum(1))


@pytest.mark.parametrize("basis", ["fourier", "chebyshev"])
def test_a_galerkin_field_is_the_module_of_the_sums(basis: str) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    field = GalerkinField(module, basis, 4, 2.0)
    x, s = doubles(5, 3), torch.linspace(0.1, 1.9, 5, dtype=torch.double)
    assert torch.allclose(field(s[0], x), module(x))  # at the start
    with torch.no_grad():
        for alpha in field.alpha:
            alpha.normal_()
    own = field(s, x)
    for i in range(5):
        u = 2 * s[i].item() / 2 - 1
        angle = 2 * math.pi * s[i].item() / 2
        psi = ([1, math.cos(angle), math.sin(angle), math.cos(2 * angle)] if basis == "fourier"
               else [1, u, 2 * u * u - 1, 4 * u**3 - 3 * u])  # fmt: skip
        plain = copy.deepcopy(module)
        with torch.no_grad():
            for value, alpha in zip(plain.parameters(), field.alpha, strict=True):
                value.copy_(sum(p * a for p, a in zip(psi, alpha, strict=True)))
        assert torch.allclose(own[i], plain(x)[i]) and torch.allclose(field(s[i], x), plain(x))


@pytest.mark.parametrize("gradient", ["adjoint", "checkpoints"])
def test_every_gradient_reaches_every_knob(gradient: str) -> None:
    x = doubles(3, 2).requires_grad_()
    found = {}
    for kind, method in (("steps", "rk4"), (gradient, "rk4" if gradient == "checkpoints" else "dopri5")):
        torch.manual_seed(0)
        block = loci.OdeBlock(nn.Linear(2 * 3 + 2, 3), 2, depth=0.8, depth_kind="own", start="learned", added=1,
                              order=2, data_control=True, variance="fourier", terms=3, gradient=kind, method=method,
                              steps=40, rtol=1e-9, atol=1e-9, seed=1).double()  # fmt: skip
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
        y, integral = block(x, lambda s, z: z.square().sum(1) * (1 + s * s))
        found[kind] = torch.autograd.grad(y.sin().sum() + 0.1 * integral.sum(), [x, *block.parameters()])
    for a, b in zip(found["steps"], found[gradient], strict=True):
        assert a.abs().max() > 0
        assert torch.allclose(a, b, atol=1e-10 if gradient == "checkpoints" else 1e-4, rtol=0)


def test_habits_of_torch() -> None:
    block = loci.OdeBlock(nn.Linear(2, 2), 2, depth_kind="own", gradient="adjoint", seed=0)
    x = torch.randn(4, 2)
    assert torch.equal(copy.deepcopy(block)(x), block(x))
    other = loci.OdeBlock(nn.Linear(2, 2), 2, depth_kind="own", seed=5)
    other.load_state_dict(block.state_dict())
    assert torch.equal(other(x), block(x))
    with torch.autocast("cpu"):
        assert torch.equal(block(x), other(x)) and block(x.bfloat16()).dtype == torch.bfloat16
    block(x).sum().backward()
    assert block.counts.backward.evaluations == 40 and "method='rk4'" in repr(block)


def test_a_field_without_numbers_and_a_step_that_underflows_are_said() -> None:
    z = torch.ones(2, 1)
    with pytest.raises(
        loci.OdeError, match=r"ode: the field must give finite numbers, got NaN or infinity at s = 0\.(5|49)"
    ):
        loci.odeint(lambda s, z: z * (math.nan if s > 0.5 else 1), z, [0, 1])
    with pytest.raises(
        loci.OdeError, match=r"ode: the step must stay above 4\.77e-07, got .* at s = 0 with an error ratio of "
    ):
        loci.odeint(lambda s, z: (z - s.cos()) * -1e9, z * 0, [0, 1])
    with pytest.raises(loci.OdeError, match="at most 3 steps"):
        loci.odeint(lambda s, z: z, z.double(), [0, 10], rtol=1e-9, atol=1e-9, max_steps=3)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: loci.odeint(torch.sin, torch.ones(1), [0, 1], method="rk5"), "ode: method must be one of euler"),
        (lambda: loci.odeint(lambda s, z: z, torch.ones(1), [0, 1, 0]), "points must be numbers that rise or fall"),
        (lambda: loci.odeint(lambda s, z: z, torch.ones(1), [0, 1], gradient="adjoint"), "parameters must be given"),
        (lambda: loci.odeint(lambda s, z: z[:1], torch.ones(2), [0, 1]), "state's shape"),
        (lambda: loci.odeint(lambda s, z: z, torch.ones(1, dtype=torch.int), [0, 1]), "floating"),
        (lambda: loci.odeint(lambda s, z: z, torch.ones(1), [0, 1], rtol=0, atol=0), "rtol, atol"),
        (lambda: loci.OdeBlock(nn.Linear(2, 2), 0), "channels must be at least 1, got 0"),
        (lambda: loci.OdeBlock(nn.Linear(2, 2), 2, depth=0), "depth must be a number that is not 0, got 0"),
        (lambda: loci.OdeBlock(nn.Linear(2, 2), 2, added=1), "start must be"),
        (lambda: loci.OdeBlock([nn.Linear(2, 2)] * 3, 2), "a multiple of the pieces, got 3 pieces and 10 steps"),
        (lambda: loci.OdeBlock(nn.Linear(2, 2), 2)(torch.ones(3, 4)), r"x must be \[B, 2, ..\]"),
    ],
)
def test_bad_input_is_refused(action: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        action()
