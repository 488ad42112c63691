"""The relatives of the non-local block as modules: the bits of the C++ blocks, their formulas position by position,
gradients, habits of torch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from block_cases import CHANNELS, c_plus_plus_block, drawn_into, map_of, trained_block
from memory_cases import assert_same, graphs_of
from torch import Tensor

import loci

BLOCKS = {
    "global_context": loci.GlobalContext,
    "criss_cross": loci.CrissCross,
    "efficient_attention": loci.EfficientAttention,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "context": ("global_context", {}),
    "context-1d": ("global_context", {"dimensions": 1, "ratio": 2}),
    "context-3d": ("global_context", {"dimensions": 3, "ratio": 1}),
    "cross": ("criss_cross", {}),
    "cross-once": ("criss_cross", {"inner": 3, "passes": 1}),
    "cross-thrice": ("criss_cross", {"passes": 3}),
    "efficient": ("efficient_attention", {}),
    "efficient-1d": ("efficient_attention", {"dimensions": 1, "inner": 5}),
    "efficient-3d": ("efficient_attention", {"dimensions": 3, "inner": 1}),
}
PARAMETERS = {
    "global_context": ["key_weight", "inner_weight", "inner_bias", "norm_gain", "norm_bias", "output_weight",
                       "output_bias"],
    "criss_cross": ["query_weight", "query_bias", "key_weight", "key_bias", "value_weight", "value_bias", "gain"],
    "efficient_attention": ["theta_weight", "theta_bias", "phi_weight", "phi_bias", "g_weight", "g_bias",
                            "output_weight", "output_bias"],
}  # fmt: skip
START = ["norm_gain", "norm_bias", "output_weight", "output_bias", "gain"]  # where every gradient is not zero


def block_of(case: str, **more: Any) -> Any:
    kind, options = CASES[case]
    return BLOCKS[kind](CHANNELS, name="block", seed=3, **options, **more)


def dimensions_of(case: str) -> int:
    return int(CASES[case][1].get("dimensions", 2))


def drawn_block(case: str) -> Any:
    """All parameters drawn, in float64."""
    block = block_of(case)
    drawn_into(block, PARAMETERS[CASES[case][0]])
    return block.double()


@pytest.mark.parametrize("case", CASES)
def test_blocks_are_those_of_c_plus_plus(case: str, tmp_path: Path) -> None:
    kind, options = CASES[case]
    block, dimensions = block_of(case), dimensions_of(case)
    assert list(dict(block.named_parameters())) == PARAMETERS[kind]
    changed, x = drawn_into(block, START), map_of(dimensions)
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(6))
    options = {key: value for key, value in options.items() if key != "dimensions"}
    expected = c_plus_plus_block(tmp_path, kind, dimensions, options, changed, x, grad)
    assert_same(trained_block(block, x, grad), expected)
    assert f"grad.{PARAMETERS[kind][0]}" in expected and not torch.equal(expected["y"], x)


def context_formula(block: Any, x: Tensor) -> Tensor:
    """x [N, C]."""
    a = torch.stack([block.key_weight[0].dot(x_j) for x_j in x]).softmax(0)
    c = sum(a_j * x_j for a_j, x_j in zip(a, x, strict=True))
    inner = block.inner_weight.mv(c) + block.inner_bias
    normed = (inner - inner.mean()) / (inner.var(correction=0) + 1e-5).sqrt() * block.norm_gain + block.norm_bias
    message = block.output_weight.mv(normed.relu()) + block.output_bias
    return torch.stack([x_i + message for x_i in x])


def cross_formula(block: Any, x: Tensor) -> Tensor:
    """x [N, C] of a map of 4 x 6."""
    for _ in range(block.passes):
        q, k, v = (x @ getattr(block, f"{which}_weight").T + getattr(block, f"{which}_bias")
                   for which in ("query", "key", "value"))  # fmt: skip
        rows = []
        for i in range(24):
            seen = [j for j in range(24) if i // 6 == j // 6 or i % 6 == j % 6]
            assert len(seen) == 4 + 6 - 1
            p = torch.stack([q[i].dot(k[j]) for j in seen]).softmax(0)
            rows.append(x[i] + block.gain[0] * p @ v[seen])
        x = torch.stack(rows)
    return x


def efficient_formula(block: Any, x: Tensor) -> Tensor:
    """x [N, C]."""
    q, k, g = (x @ getattr(block, f"{which}_weight").T + getattr(block, f"{which}_bias")
               for which in ("theta", "phi", "g"))  # fmt: skip
    q, k = q.softmax(1), k.softmax(0)
    y = [sum(q_i.dot(k_j) * g_j for k_j, g_j in zip(k, g, strict=True)) for q_i in q]
    return x + torch.stack(y) @ block.output_weight.T + block.output_bias


FORMULAS = {
    "global_context": context_formula,
    "criss_cross": cross_formula,
    "efficient_attention": efficient_formula,
}


@pytest.mark.parametrize("case", CASES)
def test_blocks_are_their_formulas(case: str) -> None:
    block, x = drawn_block(case), map_of(dimensions_of(case)).double()
    with torch.no_grad():
        expected = torch.stack([FORMULAS[CASES[case][0]](block, one.flatten(1).T).T for one in x]).view(x.shape)
        assert torch.allclose(block(x), expected, rtol=0, atol=1e-12)
    assert (expected - x).abs().max() > 0.1


@pytest.mark.parametrize("case", ["context", "context-3d", "cross", "efficient", "efficient-1d"])
def test_gradients_are_finite_differences(case: str) -> None:
    block = drawn_block(case)
    x = map_of(dimensions_of(case), batch=1)[..., :2, :3].double() if dimensions_of(case) > 1 else map_of(1, 1).double()
    names, parameters = zip(*block.named_parameters(), strict=True)

    def call(x: Tensor, *values: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(block, dict(zip(names, values, strict=True)), x)
        return out

    assert torch.autograd.gradcheck(call, (x.requires_grad_(), *parameters))


@pytest.mark.parametrize("case", CASES)
def test_the_output_is_the_input_at_the_start(case: str) -> None:
    x = map_of(dimensions_of(case))
    assert torch.equal(block_of(case)(x), x)


def test_the_map_of_a_global_context() -> None:
    block, x = drawn_block("context-3d"), map_of(3).double()
    z, a = block.forward_with_map(x)
    flat = x.flatten(2)
    expected = torch.einsum("c,bcn->bn", block.key_weight[0], flat).softmax(-1)
    assert torch.equal(z, block(x)) and torch.allclose(a, expected, rtol=0, atol=1e-12)


def test_two_passes_reach_every_position() -> None:
    for passes in (1, 2):
        block = loci.CrissCross(CHANNELS, passes=passes, seed=1)
        drawn_into(block, ["gain"])
        x = map_of(2).requires_grad_()
        block(x)[..., 0, 0].sum().backward()
        assert x.grad is not None
        assert x.grad[..., 3, 0].any() and x.grad[..., 3, 5].any() == (passes == 2)


@pytest.mark.parametrize("case", ["context", "cross", "efficient"])
def test_blocks_have_the_habits_of_torch(case: str) -> None:
    x, block = map_of(2), block_of(case)
    drawn_into(block, PARAMETERS[CASES[case][0]])
    again = block_of(case)
    again.load_state_dict(copy.deepcopy(block).state_dict())
    assert torch.equal(again(x), block(x))
    hollow = block_of(case, device="meta").to_empty(device="cpu")
    hollow.reset_parameters()
    fresh = block_of(case)
    assert all(torch.equal(hollow.state_dict()[key], value) for key, value in fresh.state_dict().items())
    y = block(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last) and torch.equal(y, block(x))
    with torch.autocast("cpu", torch.bfloat16):
        low = block(x)
    assert low.dtype == torch.float32 and torch.nn.functional.mse_loss(low, y) < 1e-3 * y.var()
    assert block_of(case, dtype=torch.float64)(x).dtype == torch.float32
    assert block.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    assert f"({CHANNELS}, " in repr(block)
    torch.manual_seed(0)
    first = type(block)(CHANNELS)
    torch.manual_seed(0)
    assert all(map(torch.equal, first.parameters(), type(block)(CHANNELS).parameters()))


@pytest.mark.parametrize("case", ["context", "cross", "efficient"])
def test_blocks_compile_as_one_graph_with_the_same_numbers(case: str) -> None:
    block, x = block_of(case), map_of(2)
    drawn_into(block, START)
    assert graphs_of(block, x) == 1
    compiled = torch.compile(copy.deepcopy(block), fullgraph=True)
    x.requires_grad_()
    losses = [(module(x) ** 2).sum() for module in (block, compiled)]
    assert torch.allclose(*losses, rtol=1e-5)
    gradients = [torch.autograd.grad(loss, x)[0] for loss in losses]
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("global_context", {"channels": 0}, "GlobalContext: channels must be at least 1, got 0"),
        ("global_context", {"dimensions": 4}, "GlobalContext: dimensions must be 1, 2 or 3, got 4"),
        ("global_context", {"ratio": 0}, "GlobalContext: ratio must be at least 1, got 0"),
        ("criss_cross", {"inner": -1}, "CrissCross: inner must be at least 0, got -1"),
        ("criss_cross", {"passes": 0}, "CrissCross: passes must be at least 1, got 0"),
        ("efficient_attention", {"inner": -1}, "EfficientAttention: inner must be at least 0, got -1"),
        ("efficient_attention", {"dimensions": 0}, "EfficientAttention: dimensions must be 1, 2 or 3, got 0"),
    ],
)
def test_impossible_options_are_refused(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BLOCKS[kind](**({"channels": CHANNELS} | options))


def test_impossible_inputs_are_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"CrissCross: x must be \[B, C, height, width\] of a floating type with C = 6, got \[2, 6, 9\] of torch",
    ):
        block_of("cross")(map_of(1))
    with pytest.raises(ValueError, match=r"with C = 6, got \[1, 3, 2, 2\]"):
        block_of("context")(torch.ones(1, 3, 2, 2))
    with pytest.raises(ValueError, match=r"of a floating type with C = 6, got \[1, 6, 2, 2\] of torch.int64"):
        block_of("efficient")(torch.ones(1, 6, 2, 2, dtype=torch.int64))
