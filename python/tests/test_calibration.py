"""loci.calibrate: the bits of C++, every kind of place that a memory can have, and what optimisers forget."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from memory_cases import (
    LAYERS,
    STEPS,
    TOKENS,
    WIDTH,
    assert_same,
    c_plus_plus,
    inputs,
    parameters_and_gradients,
    small,
    toml,
    with_drawn_rows,
)
from torch import Tensor, nn

import loci

CALIBRATED = [
    name
    for name, settings in LAYERS.items()
    if settings.get("kind", "product") != "flat" and not settings.get("query_hidden")
] + ["center-linear"]


def correlated(tokens: int, seed: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, WIDTH, generator=generator) / torch.arange(1, WIDTH + 1)
    return x + 3 * torch.randn(WIDTH, generator=generator)


# 20 tokens are fewer than the 30 sub-keys' halves need twice; 2 are the fewest; 10 halves of 6 share tokens with noise.
@pytest.mark.parametrize("name", CALIBRATED)
@pytest.mark.parametrize("count", [2, 5, 200])
def test_the_bits_are_those_of_c_plus_plus(tmp_path: Path, name: str, count: int) -> None:
    settings = {"query_norm": "center"} if name == "center-linear" else dict(LAYERS[name])
    kind = settings.pop("kind", "product")
    value_width = 10 if settings.get("output") else WIDTH
    keep_values = count == 200
    layer = {"width": WIDTH, "heads": 2, "top_k": 3, "key_width": 8} | settings
    options = (
        f'kind = "{kind}"\nrows = 30\nvalue_width = {value_width}\nkeep_values = {str(keep_values).lower()}\n'
        f"number = 0\n[layer]\n{toml(layer)}\n[table_optimizer]\nlearning_rate = 1e-2\n"
    )
    x, grad = inputs(STEPS, TOKENS), inputs(STEPS, TOKENS).flip(0).contiguous()
    expected = c_plus_plus(tmp_path, options, {"x": x, "grad": grad, "calibrate": correlated(count)})

    changes = settings if name == "center-linear" else {}
    memory = small("product" if name == "center-linear" else name, value_width=value_width, **changes)
    with_drawn_rows(memory)
    threads = torch.get_num_threads()
    done = loci.calibrate(memory, [correlated(count)], seed=3, keep_values=keep_values)
    assert done == {"": count} and memory.training and torch.get_num_threads() == threads
    rows = loci.optim.RowAdam(memory.tables(), lr=1e-2, seed=7)
    outputs = []
    for step in range(STEPS):
        y = memory(x[step])
        y.backward(grad[step])
        outputs.append(y.detach())
        rows.step()
    found = {"y": torch.stack(outputs)} | {t.name: t.values for t in memory.tables()}
    assert_same(found | dict(memory.named_buffers()) | parameters_and_gradients(memory), expected)


class Stack(nn.Module):
    """Memories one after the other, used in another order than they are registered in; with a mask and a dropout."""

    def __init__(self, *memories: nn.Module):
        super().__init__()
        self.later, self.first = memories[1], memories[0]
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.first(self.dropout(x), mask=mask)
        return x + self.later(x, mask)


def expected_of(tmp_path: Path, number: int, x: Tensor, **layer: Any) -> dict[str, Tensor]:
    options = f"rows = 30\nvalue_width = {WIDTH}\nnumber = {number}\n[layer]\n" + toml(
        {"width": WIDTH, "heads": 2, "top_k": 3, "key_width": 8} | layer
    )
    return c_plus_plus(tmp_path, options, {"x": inputs(1, 1), "grad": inputs(1, 1), "calibrate": x})


def test_memories_that_share_a_table_are_done_in_the_order_in_which_they_are_reached(tmp_path: Path) -> None:
    table = loci.Table(30, WIDTH, name="memory.values", seed=1)
    model = Stack(small(rows=None, table=table), small(rows=None, table=table, row_offset=15))
    batches = [(correlated(30, seed), torch.arange(30) % 3 > 0) for seed in range(4)]
    given = []
    model.later.input_observers.append(given.append)
    done = loci.calibrate(model, iter(batches), tokens=50, seed=3)
    assert list(done.items()) == [("first", 60), ("later", 60)]  # 20 tokens of a batch count; 3 batches are taken
    assert not table.values.any()
    first = torch.cat([x[mask] for x, mask in batches[:3]])
    assert_same({k: model.first.state_dict()[k] for k in ("keys1", "keys2", "query_net.weight_0")},
                {k: v for k, v in expected_of(tmp_path, 0, first).items()
                 if k in ("keys1", "keys2", "query_net.weight_0")})  # fmt: skip
    second = torch.cat(given[-3:])
    assert torch.equal(second, first)  # the first memory adds 0 by now, and the dropout is off
    later = expected_of(tmp_path, 1, second, row_offset=15)
    assert torch.equal(model.later.keys1, later["keys1"]) and not torch.equal(model.later.keys1, model.first.keys1)
    assert model.training and model.dropout.training


@pytest.mark.parametrize("compiled", [False, True])
def test_batches_may_be_tuples_mappings_or_tensors(compiled: bool) -> None:
    x, mask = correlated(40), torch.arange(40) % 2 > 0
    keys = []
    for batch, forward in (((x, mask), None), ({"x": x, "mask": mask}, None),
                           (x, lambda model, x: model(x, mask))):  # fmt: skip
        model: Any = small()
        if compiled:
            torch._dynamo.reset()
            model = torch.compile(model)
            model(x, mask)
            torch._dynamo.utils.counters.clear()
        run = None if forward is None else lambda x, f=forward, model=model: f(model, x)
        assert list(loci.calibrate(model, [batch], run, seed=3).values()) == [20]
        keys.append(model.keys1.detach().clone())
        assert not compiled or torch._dynamo.utils.counters["stats"]["unique_graphs"] == 0
    assert torch.equal(keys[0], keys[1]) and torch.equal(keys[0], keys[2])
    assert not torch.equal(keys[0], small().keys1)


def test_inserted_memories_are_calibrated() -> None:
    model = nn.Sequential(nn.Linear(5, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3))
    inserted = loci.insert(model, rows=30, where=["1"], heads=2, top_k=3, key_width=8, seed=1)
    x = torch.randn(100, 5, generator=torch.Generator().manual_seed(1))
    before = model(x)
    received = model[0](x).detach()
    expected = copy.deepcopy(inserted.memories[0])
    assert list(loci.calibrate(model, [x], seed=3).values()) == [100]
    loci.calibrate(expected, [received], seed=3)
    assert torch.equal(inserted.memories[0].keys1, expected.keys1)
    assert torch.equal(model(x), before)  # the rows are 0


def test_autocast_and_later_writes_into_the_inputs_change_nothing() -> None:
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory = small()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.memory(x)
            x.zero_()
            return y

    expected = small()
    loci.calibrate(expected, [correlated(50)], seed=3)
    model = Overwriting()
    with torch.autocast("cpu", torch.bfloat16):
        loci.calibrate(model, [correlated(50)], seed=3)
    assert_same(model.memory.state_dict(), expected.state_dict())


def test_optimisers_forget_what_starts_anew_and_nothing_else() -> None:
    model = Stack(small("swilu"), small("peer"))
    tables = [*model.first.tables(), *model.later.tables()]
    dense = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rows = loci.optim.RowAdam(tables, lr=1e-2)
    both = loci.optim.Both(dense, rows)
    model(inputs(50)).square().sum().backward()
    both.step()
    assert len(dense.state) == len(list(model.parameters()))
    counts = [dict(rows.state[table.anchor])["count"] for table in tables]
    assert all(count.any() for count in counts)
    loci.calibrate(model, [correlated(60)], optimizers=both)
    kept = {name for name, parameter in model.named_parameters() if parameter in dense.state}
    assert kept == {"first.output_weight", "first.output_bias", "first.gate_weight"}
    assert [bool(count.any()) for count in counts] == [False, False, True]  # rows of `down` stay


@pytest.mark.parametrize(
    ("error", "message", "make"),
    [
        (ValueError, "calibrate: the module must have a memory, got Linear without any",
         lambda: loci.calibrate(nn.Linear(2, 2), [])),
        (ValueError, "calibrate: memories must have product keys, got FlatKeyMemory '0'",
         lambda: loci.calibrate(nn.Sequential(small("flat")), [])),
        (ValueError, "calibrate: the query net must be one linear map, got 2 maps in ''",
         lambda: loci.calibrate(small("center"), [])),
        (ValueError, "calibrate: the query net must be one linear map, got Identity in ''",
         lambda: loci.calibrate(small(query_net=nn.Identity(), key_width=6), [])),
        (ValueError, "calibrate: the batches must give '0' at least 2 tokens, got 0",
         lambda: loci.calibrate(nn.Sequential(small()), [])),
        (ValueError, "calibrate: the batches must give '' at least 2 tokens, got 1",
         lambda: loci.calibrate(small(), [correlated(1)])),
        (TypeError, "calibrate: batches must be an iterable of batches, got one Tensor",
         lambda: loci.calibrate(small(), correlated(5))),
        (TypeError, "calibrate: batches must be an iterable of batches, got one dict",
         lambda: loci.calibrate(small(), {"x": correlated(5)})),
        (ValueError, "calibrate: tokens must be at least 2, got 1",
         lambda: loci.calibrate(small(), [correlated(5)], tokens=1)),
        (ValueError, "calibrate: least_variance must be at least 0, got -1",
         lambda: loci.calibrate(small(), [correlated(5)], least_variance=-1)),
        (RuntimeError, "calibrate: inputs must be finite, got NaN or infinity",
         lambda: loci.calibrate(small(), [correlated(5) / 0])),
        (RuntimeError, "rows must be allocated (to_empty), got a table on meta",
         lambda: loci.calibrate(small(device="meta"), [])),
    ],
)  # fmt: skip
def test_bad_input_has_one_clear_line(error: type[Exception], message: str, make: Any) -> None:
    with pytest.raises(error) as raised:
        make()
    assert message in str(raised.value)


def test_a_failure_changes_nothing() -> None:
    memory = small("batch")
    before = copy.deepcopy(memory.state_dict())
    with pytest.raises(RuntimeError, match="inputs must be finite"):
        loci.calibrate(memory, [correlated(5) / 0])
    memory.table.frozen = True
    with pytest.raises(ValueError, match="rows must be trained or keep_values True"):
        loci.calibrate(memory, [correlated(50)])
    assert_same(memory.state_dict(), before)
    assert memory.training and memory.input_observers == []
    loci.calibrate(memory, [correlated(50)], keep_values=True)
    assert torch.equal(memory.table.values, before["table.values"])


def test_checkpointed_passes_are_told_once() -> None:
    block = nn.Sequential(small(), nn.Linear(WIDTH, 5), nn.Tanh())  # a pass that is run again up to its end
    for use_reentrant in (False, True):
        with loci.Usage(block) as usage:
            x = inputs(TOKENS).requires_grad_()
            torch.utils.checkpoint.checkpoint(block, x, use_reentrant=use_reentrant).square().sum().backward()
        assert usage.metrics()["0"]["reads"] == TOKENS * 2 * 3
