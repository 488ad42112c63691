"""Optimisers of rows in Python are optimisers of torch."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from loci.table_use import TableUse
from memory_cases import TOKENS, WIDTH, small
from torch import Tensor, nn

import loci


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory = small("batch", output="projection")
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.memory(x))


def loss_of(block: Block, step: int) -> Tensor:
    x = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(step))
    return nn.functional.cross_entropy(block(x), x[:, :3].argmax(1))


def test_row_optimisers_are_optimisers_of_torch() -> None:
    block = Block()
    table = block.memory.table
    rows = loci.optim.RowAdam([{"tables": table, "lr": 2e-2}], lr=1e-3)
    assert rows.param_groups[0]["lr"] == 2e-2
    schedule = torch.optim.lr_scheduler.StepLR(rows, 1, gamma=0.5)
    seen = []
    rows.register_step_post_hook(lambda *_: seen.append(len(seen)))
    for step in range(2):
        loss_of(block, step).backward()
        rows.step()
        schedule.step()
    assert rows.param_groups[0]["lr"] == 5e-3 and seen == [0, 1]
    assert rows.last_steps[0][0] == "memory.values" and rows.last_steps[0][1] > 0
    loss_of(block, 3).backward()
    rows.zero_grad()
    assert table.gradient() is None


@pytest.mark.parametrize("make", [
    lambda tables: loci.optim.RowAdam(tables, lr=1e-2, seed=1),
    lambda tables: loci.optim.RowAdam(tables, lr=1e-2, row_moment=True, seed=1),
    lambda tables: loci.optim.RowAdagrad(tables, seed=1),
    lambda tables: loci.optim.RowSGD(tables, lr=0.1, seed=1),
])  # fmt: skip
def test_a_row_optimiser_goes_on_from_its_state(make: Any) -> None:
    torch.manual_seed(1)
    whole = Block()
    rows = make(whole.memory.tables())
    states = []
    for step in range(4):
        if step == 2:
            states = [copy.deepcopy(whole.state_dict()), copy.deepcopy(rows.state_dict())]
        loss_of(whole, step).backward()
        rows.step()
    torch.manual_seed(2)
    again = Block()
    resumed = make(again.memory.tables())
    again.load_state_dict(states[0])
    buffer = io.BytesIO()
    torch.save(states[1], buffer)
    buffer.seek(0)
    resumed.load_state_dict(torch.load(buffer))
    for step in (2, 3):
        loss_of(again, step).backward()
        resumed.step()
    assert torch.equal(whole.memory.table.values, again.memory.table.values)
    with pytest.raises(ValueError, match="the state must have"):
        resumed.load_state_dict({"state": {}, "param_groups": states[1]["param_groups"]})


def test_both_skips_for_both_and_learns() -> None:
    torch.manual_seed(1)
    block = Block()
    both = loci.optim.Both(
        torch.optim.AdamW(block.parameters(), lr=1e-2), loci.optim.RowAdam(block.memory.tables(), lr=1e-2), max_norm=1.0
    )
    schedule = torch.optim.lr_scheduler.LinearLR(both, 1.0, 0.1, 60)
    first = loss_of(block, 0).item()
    for step in range(60):
        both.zero_grad()
        loss_of(block, step).backward()
        both.step()
        schedule.step()
    assert loss_of(block, 0).item() < 0.6 * first
    assert [round(group["lr"], 6) for group in both.param_groups] == [1e-3, 1e-3]

    before = [block.memory.table.values.clone(), *(p.detach().clone() for p in block.parameters())]
    (loss_of(block, 0) * float("nan")).backward()
    both.step()
    assert both.skipped == 1 and block.memory.table.gradient() is None
    after = [block.memory.table.values, *block.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    both.zero_grad()
    other = Block()
    resumed = loci.optim.Both(
        torch.optim.AdamW(other.parameters()), loci.optim.RowAdam(other.memory.tables()), max_norm=1.0
    )
    other.load_state_dict(block.state_dict())
    resumed.load_state_dict(copy.deepcopy(both.state_dict()))  # torch keeps the tensors that it is given
    for one, optimizer in ((block, both), (other, resumed)):
        loss_of(one, 7).backward()
        optimizer.step()
    assert torch.equal(block.head.weight, other.head.weight)


def test_groups_hold_what_a_step_does() -> None:
    table = loci.Table(3, 2, seed=1)
    rows = loci.optim.RowSGD(table, lr=0.5)
    use = TableUse(table)
    before = table.values.clone()

    def step() -> None:
        use.read(torch.tensor([[0]]), torch.ones(1, 1)).sum().backward()
        rows.step()

    step()
    torch.testing.assert_close(table.values[0], before[0] - 0.5)
    rows.param_groups[0]["weight_decay"] = 0.1
    rows.param_groups[0]["clip_norm"] = 0.1
    before = table.values.clone()
    step()
    assert rows.last_steps == [("table", 1, pytest.approx(2**0.5), False)]
    torch.testing.assert_close(table.values[0], before[0] * (1 - 0.5 * 0.1) - 0.5 * 0.1 / 2**0.5)
    rows.param_groups[0]["lr"] = float("nan")
    with pytest.raises(ValueError, match="lr must be at least 0, got nan"):
        rows.step()
    other = loci.optim.RowSGD(loci.Table(3, 2), rounding="nearest")
    with pytest.raises(ValueError, match="the state must be of rounding nearest, got stochastic"):
        other.load_state_dict(rows.state_dict())


def test_schedules_reach_both_after_their_state_was_loaded() -> None:
    block = Block()
    both = loci.optim.Both(
        torch.optim.AdamW(block.parameters(), lr=1e-2), loci.optim.RowAdam(block.memory.tables(), lr=1e-2)
    )
    both.load_state_dict(copy.deepcopy(both.state_dict()))
    schedule = torch.optim.lr_scheduler.StepLR(both, 1, gamma=0.5)
    loss_of(block, 0).backward()
    both.step()
    schedule.step()
    assert both.dense.param_groups[0]["lr"] == 5e-3 and both.rows.param_groups[0]["lr"] == 5e-3
    with pytest.raises(TypeError, match="groups must be added to the dense optimiser or to that of rows"):
        both.add_param_group({"params": [torch.zeros(1, requires_grad=True)]})


def test_row_optimisers_refuse_what_they_cannot_take() -> None:
    table = loci.Table(3, 2)
    for message, make in (
        ("tables must name at least one table", lambda: loci.optim.RowAdam([])),
        ("rounding must be one of stochastic, nearest, master", lambda: loci.optim.RowAdam(table, rounding="up")),
        ("lr must be at least 0, got -1", lambda: loci.optim.RowSGD(table, lr=-1)),
        ("clip_norm must be at least 0, got nan", lambda: loci.optim.RowSGD(table, clip_norm=float("nan"))),
        (r"betas must be at least 0 and below 1, got 1\.0", lambda: loci.optim.RowAdam(table, betas=(0.9, 1.0))),
        ("a group must have tables", lambda: loci.optim.RowSGD([{"params": []}])),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(TypeError, match=r"tables must be loci\.Table, got Linear"):
        loci.optim.RowAdam([nn.Linear(2, 2)])  # type: ignore[list-item]


def test_scale_divides_the_gradients_and_is_no_part_of_the_state() -> None:
    index, weight = torch.randint(30, (20, 3)), torch.randn(20, 3)
    rows = []
    for scale, factor in ((1.0, 1.0), (4.0, 4.0)):
        table = loci.Table(30, 8, seed=1)
        optimizer = loci.optim.RowSGD(table, lr=0.1, clip_norm=0.5, scale=scale)
        (factor * TableUse(table).read(index, weight)).square().sum().div(factor).backward()
        optimizer.step()
        rows.append(table.values)
        assert optimizer.last_steps[0][2] > 0.5
    assert torch.equal(*rows)
    other = loci.optim.RowSGD(loci.Table(30, 8), scale=2.0)
    other.load_state_dict(optimizer.state_dict())
    assert other.scale == 2.0 and other.param_groups[0]["lr"] == 0.1
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        other.scale = bad
        with pytest.raises(ValueError, match="scale must be above 0 and finite, got"):
            other.step()
