"""Memories and tables of Python: the bits of the C++ layers, the habits of torch's modules."""

from __future__ import annotations

import copy
import io
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import PACKAGE_ENVIRONMENT
from memory_cases import (
    LAYERS,
    STEPS,
    TOKENS,
    WIDTH,
    assert_same,
    c_plus_plus,
    graphs_of,
    inputs,
    parameters_and_gradients,
    small,
    toml,
    with_drawn_rows,
)
from torch import nn
from torch.utils.checkpoint import checkpoint

import loci


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("dtype", "masked"), [("float32", False), ("float32", True), ("bfloat16", False)])
def test_the_bits_are_those_of_the_c_plus_plus_layer(tmp_path: Path, name: str, dtype: str, masked: bool) -> None:
    settings = dict(LAYERS[name])
    kind = settings.pop("kind", "product")
    value_width = 10 if settings.get("output") else WIDTH
    layer = {"width": WIDTH, "heads": 2, "top_k": 3, "key_width": 8} | settings
    options = (
        f'kind = "{kind}"\nrows = 30\nvalue_width = {value_width}\ndtype = "{dtype}"\n'
        f"[layer]\n{toml(layer)}\n[table_optimizer]\nlearning_rate = 1e-2\nclip_norm = 0.5\n"
    )
    x, grad = inputs(STEPS, TOKENS), inputs(STEPS, TOKENS).flip(0).contiguous()
    given = {"x": x, "grad": grad}
    if masked:  # in the last step no token counts
        given["mask"] = torch.arange(STEPS * TOKENS).view(STEPS, TOKENS) % 3 > 0
        given["mask"][-1] = False
    expected = c_plus_plus(tmp_path, options, given)

    memory = with_drawn_rows(small(name, value_width=value_width, table_dtype=getattr(torch, dtype)))
    rows = loci.optim.RowAdam(memory.tables(), lr=1e-2, clip_norm=0.5, seed=7)
    outputs = []
    for step in range(STEPS):
        y = memory(x[step], given["mask"][step] if masked else None)
        y.backward(grad[step])
        outputs.append(y.detach())
        rows.step()
    found = {"y": torch.stack(outputs)} | {t.name: t.values for t in memory.tables()}
    assert_same(found | dict(memory.named_buffers()) | parameters_and_gradients(memory), expected)


@pytest.mark.parametrize("name", ["product", "batch", "center", "swilu", "peer"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_training_compiles_as_one_graph(name: str, dynamic: bool) -> None:
    eager = small(name)
    compiled = copy.deepcopy(eager)
    torch._dynamo.reset()
    run = torch.compile(compiled, fullgraph=True, dynamic=dynamic)
    optimizers = [loci.optim.RowAdam(m.tables(), lr=1e-2, seed=3) for m in (eager, compiled)]
    for step in range(4):
        x = inputs(TOKENS + step * dynamic)
        for module, optimizer in zip((eager, run), optimizers, strict=True):
            module(x).mul(torch.cos(x)).sum().backward()
            optimizer.step()
        counts = [[rows for _, rows, _, _ in optimizer.last_steps] for optimizer in optimizers]
        assert counts[0] == counts[1] and min(counts[0]) > 0
    for table, other in zip(eager.tables(), compiled.tables(), strict=True):
        torch.testing.assert_close(table.values, other.values, atol=1e-5, rtol=1e-4)
    assert graphs_of(compiled, inputs(TOKENS)) == 1


def test_several_passes_before_backward_are_summed() -> None:
    eager = small("batch")
    compiled = copy.deepcopy(eager)
    torch._dynamo.reset()
    for module in (eager, torch.compile(compiled, fullgraph=True)):
        losses = [module(inputs(TOKENS)[half]).square().sum() for half in (slice(0, 20), slice(20, 40))]
        for loss in losses:
            loss.backward()
    assert eager.table.gradient() is not None
    torch.testing.assert_close(eager.table.gradient().to_dense(), compiled.table.gradient().to_dense())


def test_the_gradient_of_the_rows_is_that_of_a_dense_table() -> None:
    memory = small()
    y, reads = memory(inputs(TOKENS), return_reads=True)
    y.square().sum().backward()
    values = memory.table.values.clone().requires_grad_()
    dense = (reads.weight.detach().unsqueeze(-1) * values[reads.index]).sum((1, 2))
    torch.testing.assert_close(dense, y)
    dense.square().sum().backward()
    torch.testing.assert_close(memory.table.gradient().to_dense(), values.grad)


def test_checkpointed_layers_leave_references_once() -> None:
    memory = small()
    again = copy.deepcopy(memory)
    x = inputs(TOKENS).requires_grad_()
    memory(x).square().sum().backward()
    checkpoint(again, x, use_reentrant=False).square().sum().backward()
    assert torch.equal(memory.table.gradient().to_dense(), again.table.gradient().to_dense())


def test_autocast_keeps_search_and_sums_in_float32() -> None:
    memory = small("swilu", query_hidden=[16])
    with torch.autocast("cpu", torch.bfloat16):
        y, reads = memory(inputs(2, TOKENS), return_reads=True)
    assert y.dtype == torch.float32 and reads.score.dtype == torch.float32 and reads.query.dtype == torch.float32
    y.sum().backward()
    assert all(p.grad is not None for p in memory.parameters())
    halved = copy.deepcopy(memory).bfloat16()
    assert halved(inputs(TOKENS).bfloat16()).dtype == torch.bfloat16 and halved.table.dtype == torch.float32


def test_masked_tokens_get_zeros_and_read_nothing() -> None:
    memory = small("batch")
    x, mask = inputs(2, 10), torch.arange(20).view(2, 10) % 3 > 0
    y, reads = memory(x, mask=mask, return_reads=True)
    assert reads.index.size(0) == int(mask.sum()) and not y[~mask].any()
    other = small("batch")
    assert torch.equal(other(x[mask]), y[mask])


def test_state_dict_has_the_names_of_checkpoints_and_comes_back() -> None:
    memory, other = small("swilu"), small("swilu", seed=2)
    state = memory.state_dict()
    assert list(state) == ["norm_gain", "norm_bias", "output_weight", "output_bias", "gate_weight", "keys1", "keys2",
                           "table.values", "query_net.weight_0", "query_net.bias_0"]  # fmt: skip
    assert not torch.equal(other(inputs(5)), memory(inputs(5)))
    assert other.load_state_dict(state) == ([], [])
    assert torch.equal(other(inputs(5)), memory(inputs(5)))
    del state["table.values"]
    state["table.other"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\).*"table.other"[\s\S]*Missing key\(s\).*"table.values"|'
                                           r'Missing key\(s\).*"table.values"[\s\S]*"table.other"'):  # fmt: skip
        other.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"size mismatch for table\.values"):
        other.load_state_dict(small("swilu", rows=31).state_dict() | {"keys2": other.keys2})


def test_copies_and_pickles_have_tables_of_their_own() -> None:
    memory = small("peer")
    buffer = io.BytesIO()
    torch.save(memory, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    copied = copy.deepcopy(memory)
    for other in (loaded, copied):
        assert torch.equal(other(inputs(6)), memory(inputs(6)))
        other(inputs(6)).sum().backward()
        assert memory.table.gradient() is None and other.table.gradient() is not None
        assert other.use.table is other.table and other.down_use.table is other.down


def test_layers_share_a_table() -> None:
    table = loci.Table(30, WIDTH, seed=1)
    layers = nn.ModuleList([small(rows=None, table=table, row_offset=offset, seed=offset) for offset in (0, 15)])
    loci.optim.RowSGD(table, lr=0.1)
    sum(layer(inputs(TOKENS)).sum() for layer in layers).backward()
    rows = table.gradient().indices()
    assert rows.numel() > 0
    same = copy.deepcopy(layers)
    assert same[0].table is same[1].table and same[0].table is not table
    assert [key for key in layers.state_dict() if key.endswith("values")] == ["0.table.values", "1.table.values"]


def test_meta_and_to_empty() -> None:
    memory = small(device="meta")
    assert memory.table.device.type == "meta" and memory(inputs(5).to("meta")).shape == (5, WIDTH)
    with pytest.raises(RuntimeError, match="rows must be allocated"):
        memory.table.set_rows(0, torch.zeros(1, WIDTH))
    memory.to_empty(device="cpu")
    memory.load_state_dict(small().state_dict())
    assert torch.equal(memory(inputs(5)), small()(inputs(5)))
    with pytest.raises(RuntimeError, match="rows must not be moved to meta"):
        memory.to("meta")


def test_functional_call_and_frozen_and_chosen_rows() -> None:
    memory = small()
    changed = {name: torch.zeros_like(p) if name == "keys1" else p for name, p in memory.named_parameters()}
    assert not torch.equal(torch.func.functional_call(memory, changed, (inputs(5),)), memory(inputs(5)))
    memory.table.frozen = True
    memory(inputs(5)).sum().backward()
    assert memory.table.gradient() is None and memory.keys1.grad is not None
    memory.table.frozen = False
    mask = torch.zeros(30, dtype=torch.bool)
    mask[:10] = True
    memory.table.train_rows(mask)
    memory(inputs(TOKENS)).sum().backward()
    assert int(memory.table.gradient().indices().max()) < 10


def test_a_single_read_with_softmax_warns_and_still_trains_the_rows() -> None:
    with pytest.warns(UserWarning, match="top_k = 1 with softmax gives the constant weight 1"):
        memory = small(top_k=1)
    memory(inputs(TOKENS)).sum().backward()
    assert memory.table.gradient() is not None


def test_mapped_tables_train_in_files(tmp_path: Path) -> None:
    memory, same = small(home="mapped", path=tmp_path), small()
    for one in (memory, same):
        rows = loci.optim.RowAdam(one.tables(), lr=1e-2, seed=1)
        one(inputs(TOKENS)).sum().backward()
        rows.step()
    assert torch.equal(memory.table.values, same.table.values)
    assert sorted(path.name for path in tmp_path.iterdir())[0].startswith("table.memory.values.")
    memory.table.prefetch(torch.tensor([[0, 29]]))
    peer = small("peer", home="mapped", path=tmp_path / "peer")
    assert peer.down.path == peer.table.path and torch.equal(peer(inputs(5)), small("peer")(inputs(5)))
    with pytest.raises(TypeError, match="a mapped table cannot be pickled"):
        torch.save(memory, io.BytesIO())
    with pytest.raises(TypeError, match="a mapped table cannot be copied"):
        copy.deepcopy(memory)


@pytest.mark.parametrize("compiled", [False, True])
def test_usage_counts_what_is_read(compiled: bool) -> None:
    model = nn.ModuleDict({"a": small(), "b": small("flat")})
    torch._dynamo.reset()
    run = {name: torch.compile(part, fullgraph=True) if compiled else part for name, part in model.items()}
    with loci.Usage(model) as usage:
        index = []
        for step in range(12):  # compiled code must not be compiled again for every step
            y, reads = run["a"](inputs(2 * TOKENS)[step * 5 : step * 5 + 5], return_reads=True)
            y.sum().backward()
            index.append(reads.index)
            usage.step()
        found = usage.metrics()
        assert list(found) == ["a", "b"] and math.isnan(found["b"]["kl"]) and found["b"]["usage"] == 0
        read = torch.stack(index)
        assert found["a"]["reads"] == read.numel() and found["a"]["usage"] == read.unique().numel() / 30
        assert 0 < found["a"]["usage_at_1"] <= found["a"]["usage"] and found["a"]["kl"] > 0
        usage.begin_window()
        assert usage.metrics()["a"]["reads"] == 0
        index = run["a"](inputs(TOKENS)[:5], return_reads=True)[1].index
        assert usage.metrics()["a"]["reads"] == index.numel()  # those of the windows before do not count
        usage.clear()
        assert usage.metrics()["a"]["never_touched"] == 1
    run["a"](inputs(5))
    assert usage.metrics()["a"]["reads"] == 0 and model["a"].observers == []
    with pytest.raises(ValueError, match="the module must have a memory, got Linear without any"):
        loci.Usage(nn.Linear(2, 2))


def test_parameters_start_from_the_seed_of_torch() -> None:
    torch.manual_seed(3)
    first = small(seed=None)
    torch.manual_seed(3)
    assert torch.equal(small(seed=None)(inputs(5)), first(inputs(5)))


@pytest.mark.parametrize(
    ("error", "message", "make"),
    [
        (ValueError, "ProductKeyMemory: rows or table must be given, one of both, got none", lambda: small(rows=None)),
        (ValueError, "ProductKeyMemory: top_k must be within 1 .. 30 (the addresses), got 31", lambda: small(top_k=31)),
        (ValueError, "ProductKeyMemory: key_width must be even and at least 2, got 7", lambda: small(key_width=7)),
        (ValueError, "ProductKeyMemory: query_norm must be one of none, layer, rms, batch, center, got 'l2'",
         lambda: small(query_norm="l2")),
        (ValueError, "table memory.values: rows must be at least 1, got 0", lambda: small(rows=0)),
        (ValueError, "Table: dtype must be float32, bfloat16, float64 or int8, got torch.int32",
         lambda: loci.Table(3, 3, torch.int32)),
        (ValueError, "Table: path must be given for a mapped or served table alone, got None for home 'mapped'",
         lambda: loci.Table(3, 3, home="mapped")),
        (ValueError, "ProductKeyMemory: x must be [..., 12], got [3, 4]", lambda: small()(torch.ones(3, 4))),
        (TypeError, "ProductKeyMemory: x must be of a floating type, got torch.int64",
         lambda: small()(torch.ones(3, WIDTH, dtype=torch.int64))),
        (ValueError, "ProductKeyMemory: mask must be bool [3], got torch.bool [4]",
         lambda: small()(inputs(3), mask=torch.ones(4, dtype=torch.bool))),
        (IndexError, "prefetch: rows must be within 0 .. 29, got 30",
         lambda: small().table.prefetch(torch.tensor([30]))),
        (ValueError, "PeerMemory: down must have the layer's width 12, got 5",
         lambda: small("peer", down=loci.Table(30, 5))),
        (RuntimeError, "memory.values", lambda: small(rows=2**44)),
        (ValueError, "table table: device must be cpu, where rows are updated, or meta, got cuda",
         lambda: loci.Table(3, 3, device="cuda")),
    ],
)  # fmt: skip
def test_bad_input_has_one_clear_line(error: type[Exception], message: str, make: Any) -> None:
    with pytest.raises(error) as raised:
        make()
    assert message in str(raised.value)


def test_reports_need_no_library() -> None:
    code = "import sys, loci.report; assert 'torch' not in sys.modules and 'loci.library' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=PACKAGE_ENVIRONMENT)
