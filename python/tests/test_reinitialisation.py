"""loci.Reinitialise: the bits of C++, resumption, compiled models, and what optimisers forget."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from loci.optimizer_state import forget_vectors
from memory_cases import WIDTH, assert_same, c_plus_plus, inputs, small, toml, with_drawn_rows
from torch import Tensor, nn

import loci

ROWS, HEADS = 29, 2  # 5 and 6 sub-keys have 30 pairs
RULES: list[dict[str, Any]] = [
    {"keys": "query", "values": "fresh"},
    {"keys": "query", "values": "zero", "most_redrawn": 1.0},
    {"keys": "split", "values": "copy"},
    {"keys": "split", "values": "copy", "noise": 0.0, "most_redrawn": 0.5},
    {"keys": "split", "values": "keep"},
    {"keys": "fresh", "values": "fresh", "dead_below": 1.0},
]
ADAMW: dict[str, Any] = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.0, "fused": True}


def crowded(steps: int, tokens: int) -> Tensor:
    """Inputs that are nearly alike, so that most sub-keys are dead."""
    generator = torch.Generator().manual_seed(8)
    return 0.1 * torch.randn(steps, tokens, WIDTH, generator=generator) + torch.randn(WIDTH, generator=generator)


def trained(memory: Any, **settings: Any) -> tuple[Any, loci.optim.Both, loci.Reinitialise]:
    """The memory with its optimisers; the layer is "layers.0", as in C++."""
    model = nn.ModuleDict({"layers": nn.ModuleList([memory])})
    dense = torch.optim.AdamW(memory.parameters(), **ADAMW)
    both = loci.optim.Both(dense, loci.optim.RowAdam(memory.table, lr=1e-2, seed=7))
    return model, both, loci.Reinitialise(model, [both], seed=5, **settings)


def train(memory: Any, optimizer: Any, x: Tensor, reinitialise: Any) -> tuple[list[Tensor], list[Any]]:
    outputs, events = [], []
    for step in range(x.size(0)):
        y = memory(x[step])
        y.backward(x[step].flip(0))
        outputs.append(y.detach())
        optimizer.step()
        optimizer.zero_grad()
        events += reinitialise.step()
    return outputs, events


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: "-".join(str(value) for value in rules.values()))
@pytest.mark.parametrize("layer", [{}, {"addressing": "modulo", "row_offset": 5, "query_norm": "none"}],
                         ids=["mask", "modulo"])  # fmt: skip
def test_the_bits_are_those_of_c_plus_plus(tmp_path: Path, rules: dict[str, Any], layer: dict[str, Any]) -> None:
    steps, x = 11, crowded(11, 40)
    settings = {"window": 2, "until": 0.8} | rules
    description = {"width": WIDTH, "heads": HEADS, "top_k": 3, "key_width": 8} | layer
    options = (
        f"rows = {ROWS}\nvalue_width = {WIDTH}\nrenew = true\nsteps = {steps}\n[layer]\n{toml(description)}\n"
        f"[table_optimizer]\nlearning_rate = 1e-2\n[reinitialise]\n{toml(settings)}\n"
    )
    expected = c_plus_plus(tmp_path, options, {"x": x, "grad": x.flip(1).contiguous()})

    memory = with_drawn_rows(small(rows=ROWS, **layer))
    _, both, reinitialise = trained(memory, steps=steps, **settings)
    with reinitialise:
        outputs, events = train(memory, both, x, reinitialise)
    found = {"y": torch.stack(outputs), "memory.values": memory.table.values,
             "events": torch.tensor([[event.redrawn, event.refreshed] for event in events])}  # fmt: skip
    found |= dict(memory.named_buffers()) | {name: p.detach() for name, p in memory.named_parameters()}
    for name, parameter in memory.named_parameters():
        state = both.dense.state[parameter]
        found |= {f"dense.{name}.moment1": state["exp_avg"], f"dense.{name}.moment2": state["exp_avg_sq"],
                  f"dense.{name}.count": state["step"]}  # fmt: skip
    found |= {f"table.memory.values.{name}": tensor
              for name, tensor in both.rows.state[memory.table.anchor].items()}  # fmt: skip
    assert_same(found, expected)
    assert [event.step for event in events] == [2, 4, 6, 8] and all(event.redrawn > 0 for event in events)
    assert any(event.refreshed > 0 for event in events) == (rules["values"] != "keep")
    assert memory.observers == []


def test_a_run_that_is_resumed_within_a_window_makes_the_same_decisions() -> None:
    x, rules = crowded(20, 30), {"window": 6, "steps": 30, "most_redrawn": 0.5}
    memory = with_drawn_rows(small(rows=ROWS))
    model, both, reinitialise = trained(memory, **rules)
    with reinitialise:
        _, events = train(memory, both, x, reinitialise)
    assert [event.event for event in events] == [0, 1, 2]

    first = with_drawn_rows(small(rows=ROWS))
    model, both_first, before = trained(first, **rules)
    with before:
        _, early = train(first, both_first, x[:8], before)
    saved = copy.deepcopy([model.state_dict(), both_first.state_dict(), before.state_dict()])
    second = small(rows=ROWS, seed=9)
    model, both_second, after = trained(second, **rules)
    after.seed = 6  # another one, which the state replaces
    model.load_state_dict(saved[0])
    both_second.load_state_dict(saved[1])
    after.load_state_dict(saved[2])
    with after:
        second(x[8])
        second.table.zero_grad()
        assert after.state_dict()["memories"]["layers.0"]["usage"][:, 2].max() == 9
        after.load_state_dict(saved[2])
        _, late = train(second, both_second, x[8:], after)
    assert early + late == events
    assert_same(second.state_dict(), memory.state_dict())


@pytest.mark.parametrize("keys", ["query", "split"])
def test_compiled_memories_are_counted_in_one_graph(keys: str) -> None:
    found = []
    for compiled in (False, True):
        memory = with_drawn_rows(small(rows=ROWS))
        _, _, reinitialise = trained(memory, keys=keys, window=50, steps=100)
        torch._dynamo.reset()
        run = torch.compile(memory, fullgraph=True) if compiled else memory
        with reinitialise:
            for step in range(12):
                run(inputs(40) + step)
                reinitialise.step()
        found.append(reinitialise.state_dict()["memories"]["layers.0"])
    for name in ("sub_keys", "seen", "queries"):
        torch.testing.assert_close(found[0][name], found[1][name])
    assert torch.equal(found[0]["usage"][:, 2], found[1]["usage"][:, 2])  # dates
    assert found[0]["seen"].tolist() == [12 * 40 * (keys == "query"), 0]
    assert int(found[0]["sub_keys"].sum()) == 2 * 12 * 40 * HEADS * 3


def test_reads_in_evaluation_do_not_count() -> None:
    memory = small()
    _, _, reinitialise = trained(memory, window=2, steps=4)
    with reinitialise:
        memory.eval()(inputs(40))
        assert not any(tensor.any() for tensor in reinitialise.state_dict()["memories"]["layers.0"].values())
        memory.train()(inputs(40))
        assert reinitialise.state_dict()["memories"]["layers.0"]["seen"][0] == 40
    memory(inputs(40))
    assert reinitialise.state_dict()["memories"]["layers.0"]["seen"][0] == 40


def test_memories_that_share_a_table_are_renewed_together() -> None:
    table = loci.Table(ROWS, WIDTH, std=1.0, seed=1)
    model = nn.ModuleList(
        [small(rows=None, table=table), small("peer", rows=None, table=table, seed=2), small(rows=ROWS)]
    )
    rows = loci.optim.RowAdam([*model[1].tables(), model[2].table], lr=1e-2)
    dense = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    settings: dict[str, Any] = {"steps": 10, "window": 2, "values": "zero", "seed": 5}
    read: list[list[set[int]]] = []  # by window and memory
    with loci.Reinitialise(model, [dense, rows], **settings) as reinitialise:
        for window in range(2):
            read.append([set(), set(), set()])
            for _ in range(2):
                for number, memory in enumerate(model):
                    generator = torch.Generator().manual_seed(10 * window + number)
                    x = crowded(1, 4)[0] + (1 + window) * torch.randn(4, WIDTH, generator=generator)
                    y, reads = memory(x, return_reads=True)
                    y.sum().backward()
                    read[-1][number] |= set(reads.index.flatten().tolist())
                dense.step()
                rows.step()
                before = table.values.clone()
                events = reinitialise.step()
            assert [(event.memory, event.event) for event in events] == [(name, window) for name in "012"]
            assert [event.used for event in events] == [len(of_memory) / ROWS for of_memory in read[-1]]
            for event, memory in zip(events, model, strict=True):
                assert 0 < event.redrawn <= event.sub_keys * 0.25 and event.sub_keys == HEADS * (5 + 6)
                momentum = torch.cat([dense.state[keys]["momentum_buffer"].flatten(0, 1)
                                      for keys in (memory.keys1, memory.keys2)])  # fmt: skip
                assert int((momentum == 0).all(-1).sum()) >= event.redrawn
            if window == 0:  # what nothing ever read is not written
                assert [event.refreshed for event in events] == [0, 0, 0] and torch.equal(table.values, before)
    unread = sorted((read[0][0] | read[0][1]) - (read[1][0] | read[1][1]))
    assert unread and not set(unread) & read[1][0] and [event.refreshed for event in events[:2]] == [len(unread)] * 2
    assert (read[0][0] & read[1][1]) - read[1][0]  # rows that the other memory alone still reads
    changed = (table.values != before).any(1).nonzero().squeeze(1).tolist()
    assert changed == unread and not table.values[unread].any()
    count = rows.state[table.anchor]["count"]
    ever = read[0][0] | read[0][1] | read[1][0] | read[1][1]
    assert not count[unread].any() and int((count > 0).sum()) == len(ever) - len(unread)


def test_calibration_and_restart_begin_a_window() -> None:
    memory = with_drawn_rows(small(rows=ROWS))
    _, both, reinitialise = trained(memory, window=3, steps=100, keys="split")
    with reinitialise:
        train(memory, both, inputs(2, 40), reinitialise)
        loci.calibrate(memory, [inputs(100)], optimizers=both, seed=1)
        reinitialise.restart()
        counted = reinitialise.state_dict()["memories"]["layers.0"]
        assert not counted["sub_keys"].any() and not counted["usage"].any()
        assert train(memory, both, inputs(3, 40)[:2], reinitialise)[1] == []
        (event,) = train(memory, both, inputs(3, 40)[2:], reinitialise)[1]
        assert (event.step, event.event, event.refreshed) == (5, 1, 0)  # nothing was read in a window before
        before = memory.table.values.clone()
        (event,) = train(memory, both, crowded(3, 2), reinitialise)[1]
        unread = (counted["usage"][:, 2] > 0) & (counted["usage"][:, 2] <= 5)
        assert event.refreshed == int(unread.sum()) > 0 and before[unread].any()
        assert not memory.table.values[unread].any()  # rows start at 0 since the calibration


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("Reinitialise: keys must be one of query, split, fresh, got 'random'", lambda m, s: s(m, keys="random")),
        ("Reinitialise: values must be one of fresh, copy, zero, keep, got 'mean'", lambda m, s: s(m, values="mean")),
        ("Reinitialise: keys must be 'split' where values is 'copy', got 'query'", lambda m, s: s(m, values="copy")),
        ("Reinitialise: window must be at least 1, got 0", lambda m, s: s(m, window=0)),
        ("Reinitialise: steps must be at least 1, got 0", lambda m, s: s(m, steps=0)),
        ("Reinitialise: noise must be at least 0, got -0.1", lambda m, s: s(m, noise=-0.1)),
        ("Reinitialise: dead_below must be within 0 .. 1, got nan", lambda m, s: s(m, dead_below=float("nan"))),
        ("Reinitialise: most_redrawn must be within 0 .. 1, got 1.5", lambda m, s: s(m, most_redrawn=1.5)),
        ("Reinitialise: until must be within 0 .. 1, got -1", lambda m, s: s(m, until=-1)),
        ("Reinitialise: the module must have a memory, got Linear without any", lambda m, s: s(nn.Linear(2, 2))),
        ("Reinitialise: memories must have product keys, got FlatKeyMemory ''", lambda m, s: s(small("flat"))),
    ],
)
def test_bad_settings_have_one_clear_line(message: str, make: Any) -> None:
    def start(module: nn.Module, **settings: Any) -> loci.Reinitialise:
        return loci.Reinitialise(module, [], **({"steps": 10} | settings))

    with pytest.raises(ValueError) as raised:
        make(small(), start)
    assert str(raised.value) == message


def test_frozen_rows_and_foreign_states_are_refused() -> None:
    memory = small()
    state = loci.Reinitialise(memory, [], steps=10).state_dict()
    memory.table.frozen = True
    with pytest.raises(ValueError, match="rows must be trained or values 'keep', got frozen table"):
        loci.Reinitialise(memory, [], steps=10)
    other = loci.Reinitialise(memory, [], steps=10, values="keep", keys="fresh")
    with pytest.raises(ValueError, match=r"\.queries must be torch.float32 \[0, 2, 2, 4\], got .* \[4096, 2, 2, 4\]"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match=r"the state must be of memories \['0'\], got \[''\]"):
        loci.Reinitialise(nn.Sequential(small()), [], steps=10).load_state_dict(state)
    assert not any(tensor.any() for tensor in other.state_dict()["memories"][""].values())


@pytest.mark.parametrize(
    ("kind", "settings", "first", "second"),
    [
        (torch.optim.AdamW, {"amsgrad": True}, ["exp_avg"], ["exp_avg_sq", "max_exp_avg_sq"]),
        (torch.optim.Adamax, {}, ["exp_avg"], ["exp_inf"]),
        (torch.optim.SGD, {"momentum": 0.9}, ["momentum_buffer"], []),
        (torch.optim.RMSprop, {"momentum": 0.9, "centered": True}, ["momentum_buffer", "grad_avg"], ["square_avg"]),
        (torch.optim.Adagrad, {}, [], ["sum"]),
    ],
)
def test_optimisers_of_torch_forget_vectors(kind: Any, settings: Any, first: list[str], second: list[str]) -> None:
    keys = nn.Parameter(inputs(2, 5))
    optimizer = kind([keys], lr=1e-2, **settings)
    for _ in range(3):
        keys.square().sum().backward()
        optimizer.step()
    before = {name: moment.clone() for name, moment in optimizer.state[keys].items()}
    dead, live = torch.tensor([1, 7]), torch.tensor([0, 2, 4])
    forget_vectors([optimizer], keys, dead, live)
    state = optimizer.state[keys]
    assert {*first, *second} == set(state) - {"step"}
    for name, moment in state.items():
        if name not in first + second:
            assert torch.equal(moment, before[name])
            continue
        vectors, old = moment.view(10, WIDTH), before[name].view(10, WIDTH)
        kept = torch.ones(10, dtype=torch.bool).index_fill(0, dead, False)
        assert torch.equal(vectors[kept], old[kept]) and old[dead].abs().min() > 0
        mean = old[live].double().mean(0).float() if name in second else torch.zeros(WIDTH)
        torch.testing.assert_close(vectors[dead], mean.expand(2, WIDTH))
