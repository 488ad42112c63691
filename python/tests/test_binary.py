"""Binary layers as modules: the bits of the C++ layers, formulas, the rule of their weights, habits of torch."""

from __future__ import annotations

import copy
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from binary_cases import accuracy_after_training
from block_cases import CHANNELS, TOOL, map_of, trained_block
from memory_cases import assert_same, graphs_of, toml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import loci

INFINITE = math.inf


def signs(*sizes: int, seed: int = 1) -> Tensor:
    return loci.straight_through_sign(torch.randn(sizes, generator=torch.Generator().manual_seed(seed)))


class BinaryNetwork(nn.Module):
    """As that of tests/network_tool.cpp."""

    def __init__(self, pixels: int):
        super().__init__()
        self.convolution = loci.BinaryConv2d(CHANNELS, 4, name="block.convolution", seed=3)
        self.sign = loci.StraightThroughSign(sampled=True, name="block.sign", seed=3)
        self.linear = loci.BinaryLinear(4 * pixels, 5, name="block.linear", seed=3)

    def forward(self, x: Tensor) -> Tensor:
        self.sign(x.detach())
        y: Tensor = self.linear(self.sign(self.convolution(x) / 8).flatten(1))
        return y


def test_layers_and_draws_are_those_of_c_plus_plus(tmp_path: Path) -> None:
    x = map_of(2, batch=3)
    grad = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    (tmp_path / "options.toml").write_text(toml({"kind": "binary", "channels": CHANNELS, "train": True, "seed": 3}))
    save_file({}, tmp_path / "weights.safetensors")
    save_file({"x": x, "grad": grad}, tmp_path / "in.safetensors")
    files = ["options.toml", "weights.safetensors", "in.safetensors", "out.safetensors"]
    subprocess.run([TOOL, *[tmp_path / file for file in files]], check=True, timeout=120)
    expected = load_file(tmp_path / "out.safetensors")
    assert expected["sign.drawn"].item() == x.numel() + 3 * 4 * 24 and expected["grad.convolution.weight"].any()
    assert_same(trained_block(BinaryNetwork(24), x, grad), expected)


def test_signs_are_never_zero_and_pass_gradients_within_one() -> None:
    x = torch.tensor([-INFINITE, -1.5, -1.0, -0.0, 0.0, 1.0, 1.5, math.nan], requires_grad=True)
    grad = torch.arange(1.0, 9.0)
    y = loci.straight_through_sign(x)
    assert y.tolist() == [-1, -1, -1, 1, 1, 1, 1, -1]
    assert torch.autograd.grad(y, x, grad)[0].tolist() == [0, 0, 3, 4, 5, 6, 0, 0]
    whole = loci.straight_through_sign(x, "whole")
    assert torch.equal(torch.autograd.grad(whole, x, grad)[0], grad)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert torch.equal(loci.straight_through_sign(x.to(dtype)), y.to(dtype))


def test_linear_layers_use_the_signs_of_their_weights() -> None:
    layer = loci.BinaryLinear(70, 5, seed=1)
    with torch.no_grad():
        layer.weight *= 3  # the gradient is not masked
    x = torch.randn(2, 3, 70, requires_grad=True)
    y, w = layer(x), torch.where(layer.weight >= 0, 1.0, -1.0)
    assert torch.allclose(y, x @ w.T, atol=1e-5)
    grad = torch.randn(2, 3, 5)
    dx, dw = torch.autograd.grad(y, [x, layer.weight], grad)
    assert torch.allclose(dx, grad @ w, atol=1e-5)
    assert torch.allclose(dw, torch.einsum("abo,abk->ok", grad, x), atol=1e-5)


@pytest.mark.parametrize("border", [1.0, -255.0])
def test_convolutions_have_a_border_of_one_number(border: float) -> None:
    layer = loci.BinaryConv2d(3, 4, 5, border=border, seed=2)
    x, w = signs(2, 3, 4, 6), torch.where(layer.weight >= 0, 1.0, -1.0)
    wide = torch.full((2, 3, 8, 10), border)
    wide[:, :, 2:6, 2:8] = x
    expected = torch.stack(
        [
            torch.stack([torch.einsum("bcij,ocij->bo", wide[:, :, r : r + 5, c : c + 5], w) for c in range(6)], -1)
            for r in range(4)
        ],
        -2,
    )
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("inputs", [1, 63, 64, 65, 200])
def test_frozen_layers_have_the_same_products(inputs: int) -> None:
    layer = loci.BinaryLinear(inputs, 7, seed=4)
    packed = layer.freeze()
    x = signs(3, 2, inputs)
    assert torch.equal(packed(x), layer(x)) and packed(x.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(packed(3 * x), layer(x))  # of the signs of x
    assert packed.bits.shape == (7, (inputs + 63) // 64) and not list(packed.parameters())
    again = loci.PackedLinear(inputs, 7)
    again.load_state_dict(packed.state_dict())
    assert torch.equal(again(x), packed(x)) and again(torch.zeros(0, inputs)).shape == (0, 7)


def test_the_rule_scales_rates_and_clips_after_each_step() -> None:
    model = nn.Sequential(loci.BinaryLinear(30, 20, seed=0), nn.BatchNorm1d(20), loci.BinaryLinear(20, 30, seed=1),
                          loci.BinaryLinear(20, 10, seed=2))  # fmt: skip
    linear, norm = model[0], model[1]
    groups = loci.binary_groups(model, lr=0.01)
    assert [len(group["params"]) for group in groups] == [2, 1, 2]
    assert [group["lr"] / 0.01 for group in groups] == pytest.approx([math.sqrt(50 / 1.5), math.sqrt(30 / 1.5), 1])
    assert loci.binary_rate(torch.empty(8, 4, 3, 3)) == pytest.approx(math.sqrt(9 * 12 / 1.5))
    optimizer = loci.keep_clipped(torch.optim.SGD(groups, weight_decay=0.1))
    before, gain = linear.weight.detach().clone(), norm.weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape)
    optimizer.step()
    c = 1 / math.sqrt(1.5 / 50)
    assert linear.weight.grad is not None and norm.weight.grad is not None
    torch.testing.assert_close(linear.weight.detach(), (before - 0.01 * c * linear.weight.grad).clamp(-1, 1))
    torch.testing.assert_close(norm.weight.detach(), gain - 0.01 * (norm.weight.grad + 0.1 * gain))
    with torch.no_grad():
        norm.weight.fill_(7)
        linear.weight[0, 0] = 5
    optimizer.zero_grad()
    optimizer.step()
    assert linear.weight[0, 0] == 1 and (norm.weight == 7).all()
    resumed = loci.keep_clipped(torch.optim.SGD(loci.binary_groups(copy.deepcopy(model), lr=1.0)))
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert resumed.param_groups[0]["lr"] == groups[0]["lr"] and resumed.param_groups[0]["clip"] == (-1.0, 1.0)


def test_squared_hinge_is_its_formula() -> None:
    score, labels = torch.randn(6, 4, dtype=torch.float64, requires_grad=True), torch.tensor([0, 3, 1, 1, 2, 0])
    expected = sum(
        max(0.0, 1 - (1 if labels[b] == o else -1) * score[b, o].item()) ** 2 for b in range(6) for o in range(4)
    )
    assert loci.squared_hinge_loss(score, labels).item() == pytest.approx(expected / 24, rel=1e-12)
    assert torch.autograd.gradcheck(loci.squared_hinge_loss, (score, labels))


def test_draws_have_their_chance_go_on_and_are_of_training_alone() -> None:
    x = torch.tensor([-1.0, -0.5, 0.0, 0.8, 1.0]).expand(20_000, 5)
    one = loci.StraightThroughSign(sampled=True, seed=5)
    drawn = one(x)
    share = (drawn > 0).double().mean(0)
    torch.testing.assert_close(share, ((x[0] + 1) / 2).double(), atol=4 * math.sqrt(0.25 / 20_000), rtol=0)
    assert share[0] == 0 and share[-1] == 1
    half = loci.StraightThroughSign(sampled=True, seed=9)
    half.load_state_dict({"key": one.key, "drawn": torch.zeros(1, dtype=torch.int64)})
    first = half(x[:7_000])
    resumed = loci.StraightThroughSign(sampled=True)
    resumed.load_state_dict(copy.deepcopy(half.state_dict()))
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    last = resumed(x[7_000:])
    torch.set_num_threads(threads)
    assert torch.equal(torch.cat([first, last]), drawn)
    assert torch.equal(one.eval()(x), loci.straight_through_sign(x))
    assert not loci.StraightThroughSign().state_dict()


@pytest.mark.parametrize("sampled", [False, True])
def test_a_network_of_signs_learns_a_few_classes(sampled: bool) -> None:
    torch.manual_seed(4)
    model = nn.Sequential(
        loci.BinaryLinear(40, 128, name="hidden", seed=0), nn.BatchNorm1d(128),
        loci.StraightThroughSign(sampled=sampled, seed=0),
        loci.BinaryLinear(128, 10, name="last", seed=0), nn.BatchNorm1d(10),
    )  # fmt: skip
    optimizer = loci.keep_clipped(torch.optim.Adam(loci.binary_groups(model, lr=3e-3)))
    assert accuracy_after_training(model, optimizer) > 0.7  # chance is 1 / 10


def test_layers_have_the_habits_of_torch() -> None:
    network, x = BinaryNetwork(24), map_of(2)
    again = BinaryNetwork(24)
    again.load_state_dict(copy.deepcopy(network).state_dict())
    assert torch.equal(again(x), network(x))
    linear, ones = loci.BinaryLinear(1001, 3), torch.ones(2, 1001)
    with torch.no_grad():
        linear.weight.fill_(1)
    with torch.autocast("cpu", torch.bfloat16):  # 1,001 has more bits than a bfloat16
        assert torch.equal(linear(ones), torch.full((2, 3), 1001.0))
    assert linear.double()(ones).dtype == torch.float64
    torch.manual_seed(8)
    weight = loci.BinaryLinear(3, 4).weight
    torch.manual_seed(8)
    assert torch.equal(loci.BinaryLinear(3, 4).weight, weight) and weight.abs().max() <= 1
    assert loci.BinaryLinear(3, 4, device="meta").weight.is_meta
    assert "6, 4, edge=3" in repr(network) and "sampled" in repr(network)


def test_compiles_without_graph_breaks() -> None:
    network, x = BinaryNetwork(24), map_of(2)
    twin = copy.deepcopy(network)
    assert graphs_of(network, x) == 1
    network = copy.deepcopy(twin)
    compiled = torch.compile(network, fullgraph=True)
    for _ in range(3):  # draws go on
        expected = twin(x)
        torch.testing.assert_close(compiled(x), expected)
    compiled(x).sum().backward()
    twin(x).sum().backward()
    torch.testing.assert_close(network.linear.weight.grad, twin.linear.weight.grad)
    torch.testing.assert_close(network.convolution.weight.grad, twin.convolution.weight.grad)
    packed = network.linear.freeze()
    inputs = signs(2, 96)
    assert torch.equal(torch.compile(packed, fullgraph=True)(inputs), packed(inputs))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: loci.BinaryLinear(0, 3), "BinaryLinear: inputs must be at least 1, got 0"),
        (lambda: loci.BinaryConv2d(3, 0), "BinaryConv2d: outputs must be at least 1, got 0"),
        (lambda: loci.BinaryConv2d(3, 4, 2), "BinaryConv2d: the edge must be odd, got 2"),
        (lambda: loci.BinaryLinear(6, 4)(torch.zeros(2, 5)),
         r"BinaryLinear: x must be \[.., 6\] of a floating type, got \[2, 5\] of torch.float32"),
        (lambda: loci.BinaryConv2d(3, 4)(torch.zeros(3, 5, 5)),
         r"BinaryConv2d: x must be \[B, 3, height, width\] of a floating type, got \[3, 5, 5\]"),
        (lambda: loci.PackedLinear(6, 4)(torch.zeros(2, 6, dtype=torch.int64)), "got .* of torch.int64"),
        (lambda: loci.straight_through_sign(torch.zeros(2), "none"), "must be one of within_one, whole, got 'none'"),
        (lambda: loci.binary_groups(nn.Linear(2, 2), 1.0), "module must have binary layers, got none"),
        (lambda: loci.binary_groups(nn.Linear(2, 2), -1.0), "lr must be at least 0, got -1.0"),
        (lambda: loci.squared_hinge_loss(torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64)),
         r"score must be \[B, O\] and labels \[B\] of torch.int64, got \[2, 3\] and \[3\] of torch.int64"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
