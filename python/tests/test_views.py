"""Attention over views as a module: the bits of the C++ block, the formula, absent views, habits of torch."""

from __future__ import annotations

import copy
import math
import subprocess
from pathlib import Path

import pytest
import torch
from block_cases import TOOL, trained_block
from memory_cases import assert_same, graphs_of, toml
from safetensors.torch import load_file, save_file
from torch import Tensor

import loci

WIDTH, HIDDEN = 6, 5


def block_of(**more: object) -> loci.ViewAttention:
    return loci.ViewAttention(WIDTH, hidden=HIDDEN, name="block", seed=3, **more)  # type: ignore[arg-type]


def some_views(batch: int = 40, views: int = 4) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(5)
    mask = torch.rand(batch, views, generator=drawn) < 0.6
    mask[0] = False
    return torch.randn(batch, views, WIDTH, generator=drawn), mask


class Masked(torch.nn.Module):
    def __init__(self, block: loci.ViewAttention, mask: Tensor):
        super().__init__()
        self.block, self.mask = block, mask

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x, self.mask)
        return y


def test_the_block_is_that_of_c_plus_plus(tmp_path: Path) -> None:
    block, (x, mask) = block_of(), some_views()
    grad = torch.randn(x.size(0), WIDTH, generator=torch.Generator().manual_seed(6))
    head = {"kind": "view_attention", "channels": WIDTH, "classes": HIDDEN, "seed": 3}
    (tmp_path / "options.toml").write_text(toml(head))
    save_file({}, tmp_path / "weights.safetensors")
    save_file({"x": x, "grad": grad, "mask": mask.float()}, tmp_path / "in.safetensors")
    files = ["options.toml", "weights.safetensors", "in.safetensors", "out.safetensors"]
    subprocess.run([TOOL, *[tmp_path / file for file in files]], check=True, timeout=120)
    found = {key.removeprefix("block."): value for key, value in trained_block(Masked(block, mask), x, grad).items()}
    found = {key.replace("grad.block.", "grad."): value for key, value in found.items()}
    expected = load_file(tmp_path / "out.safetensors")
    assert_same(found, expected)
    assert {"default_view", "grad.score_weight", "grad.x"} < set(expected)


def test_the_formula() -> None:
    block, (x, mask) = block_of().double(), some_views()
    u, alpha = block.forward_with_weights(x.double(), mask)
    for row, present, out, weights in zip(x.double(), mask, u, alpha, strict=True):
        seen = row[present]
        score = torch.tanh(seen @ block.inner_weight.T + block.inner_bias) @ block.score_weight[0]
        total = score.softmax(0) @ seen if len(seen) else block.default_view
        assert torch.allclose(out, total / total.norm(), rtol=0, atol=1e-12)
        assert torch.allclose(weights[present], score.softmax(0), rtol=0, atol=1e-12) and not weights[~present].any()


def test_gradients_are_finite_differences() -> None:
    block, (x, mask) = block_of().double(), some_views(5, 3)
    names, parameters = zip(*block.named_parameters(), strict=True)

    def call(views: Tensor, *values: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(block, dict(zip(names, values, strict=True)), (views, mask))
        return out

    assert torch.autograd.gradcheck(call, (x.double().requires_grad_(), *parameters))


@pytest.mark.parametrize("content", [1.0, math.inf, math.nan])
def test_an_absent_view_changes_no_bit(content: float) -> None:
    block, (x, mask) = block_of(), some_views()
    y = block(x.masked_fill(~mask.unsqueeze(-1), content), mask)
    assert torch.equal(y, block(x, mask)) and y.isfinite().all()
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(block(x[:, order], mask[:, order]), y, rtol=0, atol=1e-6)


def test_habits_of_torch() -> None:
    block, (x, mask) = block_of(), some_views()
    again = block_of()
    again.load_state_dict(copy.deepcopy(block).state_dict())
    assert torch.equal(again(x, mask), block(x, mask)) and f"({WIDTH}, " in repr(block)
    hollow = block_of(device="meta").to_empty(device="cpu")
    hollow.reset_parameters()
    assert all(torch.equal(hollow.state_dict()[key], value) for key, value in block_of().state_dict().items())
    with torch.autocast("cpu", torch.bfloat16):
        low = block(x, mask)
    assert low.dtype == torch.float32 and torch.nn.functional.mse_loss(low, block(x, mask)) < 1e-3
    assert block.bfloat16()(x.bfloat16(), mask).dtype == torch.bfloat16


def test_it_compiles_as_one_graph() -> None:
    block, (x, mask) = block_of(), some_views()
    masked = Masked(block, mask)
    assert graphs_of(masked, x) == 1
    assert torch.allclose(torch.compile(masked, fullgraph=True)(x), masked(x), rtol=0, atol=1e-6)


def test_scores_and_view_dropout() -> None:
    score, a, b = loci.PairScore(4), torch.randn(5, 3), torch.randn(5, 3)
    assert torch.allclose(score(a, b), 4 * (a * b).sum(1)) and torch.allclose(score.all_pairs(a, b), 4 * a @ b.T)
    mask = torch.ones(1000, 3, dtype=torch.bool)
    kept = loci.drop_views(mask, 0.25, seed=1, first=60)
    assert torch.equal(kept[7:], loci.drop_views(mask[7:], 0.25, seed=1, first=60 + 21))
    assert 0.7 < kept.float().mean() < 0.8 and torch.equal(loci.drop_views(mask, 0, seed=1), mask)


def test_what_does_not_fit_is_said() -> None:
    block, (x, mask) = block_of(), some_views()
    with pytest.raises(ValueError, match=r"views must be \[B, V, 6\] of a floating type, got \[40, 4, 5\]"):
        block(x[..., :5], mask)
    with pytest.raises(ValueError, match=r"mask must be bool \[40, 4\], got torch.bool \[40, 3\]"):
        block(x, mask[:, :3])
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        loci.ViewAttention(0)
    with pytest.raises(ValueError, match="gain must be a number, got nan"):
        loci.PairScore(math.nan)
    with pytest.raises(ValueError, match=r"a and b must be \[.., D\] of the same sizes"):
        loci.PairScore()(x, x[0])
    with pytest.raises(RuntimeError, match="share must be from 0 to 1, got 2"):
        loci.drop_views(mask, 2, seed=0)
