"""What a rank of test_sharded_tables.py runs: python sharded_ranks.py FOLDER CASE..., with RANK and WORLD_SIZE set.

Every rank is also one process that computes the whole batch, to compare with. "CASE ok" says that a case went well.
LOCI_TEST_SHARD is how tables are shared: rows or columns."""

from __future__ import annotations

import copy
import itertools
import os
import pickle
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from loci.table_use import TableUse
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import loci

ROWS, WIDTH, TOKENS, READS = 50, 8, 12, 5
RANK, RANKS = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
FOLDER = Path(sys.argv[1])
SHARD = os.environ.get("LOCI_TEST_SHARD", "rows")


def drawn(*sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed))


def part(batch: Tensor, idle: bool = False) -> Tensor:
    """The tokens of this rank; the last one has none where it is idle."""
    working = RANKS - 1 if idle else RANKS
    begin, end = (len(batch) * min(rank, working) // working for rank in (RANK, RANK + 1))
    return batch[begin:end].detach().clone().requires_grad_(batch.requires_grad)


def table(shard: str | None = SHARD, rows: int = ROWS, seed: int | None = 1, **options: Any) -> loci.Table:
    return loci.Table(rows, WIDTH, seed=seed, shard=shard, **options)


def here(sharded: loci.Table, whole: Tensor) -> Tensor:
    rows = whole[sharded.first_row : sharded.first_row + len(sharded.values)]
    return rows if rows.dim() == 1 else rows[:, sharded.first_column :][:, : sharded.values.size(1)]


def check_gradient(sharded: loci.Table, whole: loci.Table, exact: bool = True) -> None:
    found = sharded.gradient()
    expected = whole.gradient()
    assert expected is not None
    dense = torch.zeros(whole.rows, WIDTH, dtype=whole.sum_dtype) if found is None else found.to_dense()
    same = torch.equal if exact else close
    assert same(here(sharded, dense), here(sharded, expected.to_dense()))
    here(sharded, dense).zero_()
    assert not dense.any()  # nothing of other ranks' rows or columns


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def refused(action: Callable[[], Any], kind: type[BaseException], message: str) -> str:
    try:
        action()
    except kind as error:
        assert message in str(error), error
        return str(error)
    raise AssertionError(f"not refused: {message}")


def reads() -> None:
    """Sums, inner products, their gradients and those of rows, of every dtype, also with a rank without tokens."""
    for dtype, idle, rows in ((torch.float32, False, ROWS), (torch.float64, True, ROWS), (torch.bfloat16, True, 1)):
        alone, own = table(None, rows, dtype=dtype), table(rows=rows, dtype=dtype)
        assert own.rows == rows and torch.equal(own.values, here(own, alone.values))
        drawn_index = torch.randint(rows, (TOKENS, READS), generator=torch.Generator().manual_seed(2))
        weight, x = (drawn(TOKENS, n).to(own.sum_dtype).requires_grad_() for n in (READS, WIDTH))
        grads = [drawn(TOKENS, n, seed=3).to(own.sum_dtype) for n in (WIDTH, READS)]
        index, w, v = part(drawn_index, idle), part(weight, idle), part(x, idle)
        use, other = TableUse(own), TableUse(alone)
        outs = use.read(index, w), use.project(index, v)
        expected = other.read(drawn_index, weight), other.project(drawn_index, x)
        assert all(close(out, part(whole.detach(), idle)) for out, whole in zip(outs, expected, strict=True))
        torch.autograd.backward(outs, [part(grad, idle) for grad in grads])
        torch.autograd.backward(expected, grads)
        assert w.grad is not None and v.grad is not None and weight.grad is not None and x.grad is not None
        assert close(w.grad, part(weight.grad, idle)) and close(v.grad, part(x.grad, idle))
        check_gradient(own, alone)
        own.zero_grad()
        torch.autograd.grad(use.read(index, w).sum(), w)  # asks for no gradient of rows
        assert own.gradient() is None


def _ngram(layer: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = layer(x[:, None], (x[:, :1] * 5).abs().long().clamp(max=19))
    return out


def layers() -> None:
    builds = {
        "product": lambda rows: loci.ProductKeyMemory(WIDTH, table=rows, heads=2, top_k=4, seed=5),
        "flat": lambda rows: loci.FlatKeyMemory(WIDTH, table=rows, heads=2, top_k=4, seed=5),
        "peer": lambda rows: loci.PeerMemory(WIDTH, table=rows, heads=2, top_k=4, seed=5),
        "ngram": lambda rows: loci.NgramMemory(WIDTH, vocabulary=20, table=rows, orders=[1, 2], seed=5),
    }
    for (kind, build), idle in itertools.product(builds.items(), (False, True)):
        own, alone = build(table()), build(table(None))
        x = drawn(4 * RANKS, WIDTH)
        call = _ngram if kind == "ngram" else (lambda layer, given: layer(given))
        y, expected = call(own, part(x, idle)), call(alone, x)
        assert close(y, part(expected, idle)), kind
        y.square().sum().backward()
        expected.square().sum().backward()
        for sharded, whole in zip(own.tables(), alone.tables(), strict=True):
            assert sharded.shard == SHARD
            check_gradient(sharded, whole, exact=False)
        for parameter, whole_parameter in zip(own.parameters(), alone.parameters(), strict=True):
            assert parameter.grad is not None and whole_parameter.grad is not None
            dist.all_reduce(parameter.grad)
            assert close(parameter.grad, whole_parameter.grad), kind


def network(rows: loci.Table) -> nn.Sequential:
    torch.manual_seed(7)
    memory = loci.ProductKeyMemory(WIDTH, table=rows, heads=2, top_k=4, seed=5)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), memory, nn.Linear(WIDTH, 3))


def optimizer_of(model: nn.Module, rows: loci.Table, scale: float, **options: Any) -> loci.optim.Both:
    row_optimizer = loci.optim.RowAdam(rows, lr=1e-2, eps=1e-3, seed=9, scale=scale, **options)
    return loci.optim.Both(torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-3), row_optimizer, max_norm=0.05)


def train(model: nn.Module, optimizer: loci.optim.Both, mine: Callable[[Tensor], Tensor]) -> None:
    for step in range(4):
        x, target = drawn(4 * RANKS, WIDTH, seed=step), drawn(4 * RANKS, 3, seed=100 + step)
        optimizer.zero_grad()
        loss = (model(mine(x)) - mine(target)).square().mean()
        loss.backward()
        optimizer.step()


def check_training(wrap: Callable[[nn.Module], nn.Module], full: Callable[[Tensor], Tensor]) -> None:
    for clip_norm in (0.0, 0.02):  # clipped by the norm of all rows
        own, alone = table(), table(None)
        bare, whole = network(own), network(alone)
        model = wrap(bare)
        train(model, optimizer_of(model, own, RANKS, clip_norm=clip_norm), part)
        train(whole, optimizer_of(whole, alone, 1, clip_norm=clip_norm), lambda x: x)
        assert close(own.values, here(own, alone.values))
        assert not close(own.values, here(own, table(None).values))
        for parameter, expected in zip(bare.parameters(), whole.parameters(), strict=True):
            assert close(full(parameter.detach()), expected)
    state = get_model_state_dict(model)
    assert close(state["1.table.values"].full_tensor(), alone.values)
    own.reset_parameters(seed=1)
    assert close(own.values, here(own, table(None).values))
    state["1.table.values"] = alone.values  # that of one process
    set_model_state_dict(bare, state)  # a wrapped module takes no keys but those of parameters and buffers
    assert torch.equal(own.values, here(own, alone.values))


def ddp() -> None:
    check_training(DistributedDataParallel, lambda tensor: tensor)


def fsdp() -> None:
    mesh = init_device_mesh("cpu", (RANKS,), mesh_dim_names=("data",))
    check_training(lambda model: fully_shard(model, mesh=mesh), lambda tensor: tensor.full_tensor())


def skipped() -> None:
    """An infinite gradient of one rank skips the step of all, of rows and of the dense parameters."""
    own = table()
    model = network(own)
    parameters = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = optimizer_of(model, own, 1)
    before = own.values.clone()
    # Row 0 is on rank 0, so that the others have finite gradients.
    TableUse(own).read(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1)).sum().mul(torch.inf).backward()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert optimizer.skipped == 1 and optimizer.rows.last_steps[0][3]
    assert torch.equal(own.values, before) and own.gradient() is None
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), parameters, strict=True))
    optimizer.zero_grad()
    model(drawn(4, WIDTH)).sum().backward()
    optimizer.step()
    assert optimizer.skipped == 1 and not torch.equal(own.values, before)


def graphs() -> None:
    """torch.compile sees whole graphs; passes may be repeated, and saved tensors may be copies."""
    own, alone = table(), table(None)
    model, whole = network(own), network(alone)
    x = drawn(4 * RANKS, WIDTH)
    whole(x).square().sum().backward()

    def check(run: Callable[[Tensor], Tensor]) -> None:
        own.zero_grad()
        run(part(x)).square().sum().backward()
        check_gradient(own, alone, exact=False)

    compiled = torch.compile(model, backend=os.environ.get("LOCI_TEST_BACKEND", "aot_eager"), fullgraph=True)
    check(compiled)
    check(lambda given: checkpoint(model, given.requires_grad_(), use_reentrant=False))
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda saved: saved):
        check(model)


def rows() -> None:
    """What a table does with its rows besides reads."""
    alone, own = table(None), table()
    for one in (alone, own):
        one.set_rows(3, drawn(ROWS - 5, WIDTH))
    assert torch.equal(own.values, here(own, alone.values))
    refused(lambda: own.set_rows(ROWS - 1, drawn(2, WIDTH)), IndexError, f"rows must be within 0 .. {ROWS - 1}, got")
    own.prefetch(torch.arange(ROWS))
    refused(lambda: own.prefetch(torch.tensor([ROWS])), IndexError, f"got {ROWS}")
    mask = torch.arange(ROWS) % 2 == 0
    own.train_rows(mask)
    assert own.trained_rows is not None and torch.equal(here(own, own.trained_rows), here(own, mask))
    twin = copy.deepcopy(own)
    assert torch.equal(twin.values, own.values) and twin.values.data_ptr() != own.values.data_ptr()
    assert twin.trained_rows is not None and torch.equal(twin.trained_rows, own.trained_rows)
    refused(lambda: pickle.dumps(own), TypeError, "a table on several processes cannot be pickled")
    own.train_rows(None)
    optimizer = loci.optim.RowAdam(own, lr=1.0)
    index = torch.arange(ROWS).view(-1, 1)
    TableUse(own).read(part(index), torch.ones(len(part(index)), 1)).sum().backward()
    optimizer.step()
    count = optimizer.state[own.anchor]["count"]
    assert torch.equal(count.to_local(), torch.ones(len(own.values), dtype=torch.int32))
    optimizer.clear_state(own, torch.tensor([0, ROWS - 1]))
    assert int(count.full_tensor().sum()) == ROWS - 2

    torch.manual_seed(RANK)  # rank 0 decides
    unseeded, parts = table(seed=None), [None] * RANKS
    torch.manual_seed(0)
    assert torch.equal(unseeded.values, here(unseeded, table(None, seed=None).values))
    mapped = table(home="mapped", path=FOLDER / f"mapped-{RANKS}")
    assert torch.equal(mapped.values, here(mapped, table(None).values))
    dist.all_gather_object(parts, sorted(str(p) for p in (FOLDER / f"mapped-{RANKS}").iterdir()))
    meta = table(device="meta")
    meta.to_empty(device="cpu")
    meta.reset_parameters(seed=1)
    assert torch.equal(meta.values, here(meta, table(None).values))
    if SHARD == "columns":
        return
    serving = table(dtype=torch.int8)
    serving.set_rows(0, drawn(ROWS, WIDTH))
    whole = table(None, dtype=torch.int8)
    whole.load_state_dict(serving.state_dict())
    assert whole.scale is not None and serving.scale is not None
    assert torch.equal(serving.values, here(serving, whole.values))
    assert torch.equal(serving.scale, here(serving, whole.scale))


def rounding() -> None:
    """Rows and moments in bfloat16 are rounded by the same chance as in one process."""
    own, alone = table(dtype=torch.bfloat16), table(None, dtype=torch.bfloat16)
    for one, mine in ((own, part), (alone, torch.clone)):
        optimizer, use = loci.optim.RowAdam(one, lr=1e-2, moments="bfloat16", seed=3), TableUse(one)
        for step in range(3):
            index = torch.randint(ROWS, (TOKENS, READS), generator=torch.Generator().manual_seed(step))
            use.read(mine(index), mine(drawn(TOKENS, READS))).backward(mine(drawn(TOKENS, WIDTH, seed=step)))
            optimizer.step()
    assert torch.equal(own.values, here(own, alone.values))


def groups() -> None:
    """Groups that are not the default one."""
    mesh = init_device_mesh("cpu", (RANKS,), mesh_dim_names=("memory",))
    for group in (mesh["memory"], mesh, dist.new_group(list(range(RANKS)))):
        own = table(group=group)
        assert torch.equal(own.values, here(own, table(None).values))
    ends = dist.new_group([0, RANKS - 1])
    if RANK in (0, RANKS - 1):
        own = table(group=ends)
        assert len(own.values) == ROWS // 2
        optimizer = loci.optim.RowSGD(own, lr=1.0)
        TableUse(own).read(torch.tensor([[0, ROWS - 1]]), torch.ones(1, 2)).sum().backward()
        optimizer.step()
        moved = table(None).values - own.state_dict()["values"].full_tensor()
        assert close(moved[[0, ROWS - 1]], torch.full((2, WIDTH), 2.0)) and not moved[1 : ROWS - 1].any()
    else:
        refused(lambda: table(group=ends), TypeError, "group must be a process group or a mesh that has this process")


def refusals() -> None:
    refused(lambda: table("auto"), ValueError, "table table: shard must be None, 'rows' or 'columns', got 'auto'")
    refused(lambda: table("columns", dtype=torch.int8), ValueError, "int8 rows must be whole, got 4 of 8 columns")
    narrow = "table table: width must give each of 2 ranks a column, 1 to all but the last, got 1"
    refused(lambda: loci.Table(ROWS, 1, shard="columns"), ValueError, narrow)
    refused(lambda: table(None, group=dist.group.WORLD), ValueError, "group must be None for a table without shard")
    refused(lambda: table(home="served", path="x"), ValueError, "home must be memory or mapped for shard 'rows'")
    refused(
        lambda: table(group="world"), TypeError, "group must be a process group or a mesh that has this process, got"
    )
    with mock.patch.object(dist.ProcessGroup, "_device_types", [torch.device("cuda")]):
        refused(
            table, ValueError, "group must have a backend for cpu (init_process_group('cpu:gloo,cuda:nccl')), got one"
        )
    square = DeviceMesh("cpu", torch.arange(RANKS).view(RANKS, 1))
    refused(lambda: table(group=square), ValueError, "a mesh must have one dimension (mesh['name'] is one), got 2")
    last, rank = RANKS - 1, f"table table, rank {RANKS - 1}: "
    more = ROWS + (RANK == last)
    refused(lambda: table(rows=more), ValueError, f"{rank}rows must be {ROWS} as on rank 0, got {ROWS + 1}")
    kind = torch.bfloat16 if RANK == last else torch.float32
    refused(lambda: table(dtype=kind), ValueError, f"{rank}dtype must be torch.float32 as on rank 0")
    refused(lambda: table(rows=1 << 50), RuntimeError, "of memory must be available, got")
    (FOLDER / "file").touch()
    folder = FOLDER / ("file" if RANK == last else "folder")  # no folder can be made in a file
    refused(lambda: table(home="mapped", path=folder), ValueError, f"rank {last}: ")
    own = table()
    refused(lambda: TableUse(own).read(torch.tensor([[ROWS]]), torch.ones(1, 1)), IndexError, f"got {ROWS}")
    refused(lambda: loci.optim.RowAdam(own, scale=0).step(), ValueError, "scale must be above 0 and finite, got 0.0")
    memory = loci.ProductKeyMemory(WIDTH, table=own, heads=1, top_k=2)
    whole = "tables must have all rows in this process, got sharded table table"
    refused(lambda: loci.save_run(memory, FOLDER / "run"), ValueError, f"save_run: {whole}")
    refused(lambda: loci.Reinitialise(memory, [], steps=9), ValueError, f"Reinitialise: {whole}")
    refused(lambda: loci.write_patch(FOLDER / "patch", own, own), ValueError, f"write_patch: {whole}")
    refused(
        lambda: torch.export.export(memory, (drawn(2, WIDTH),)), RuntimeError, "rows must all be here for an export"
    )


def lost() -> None:
    """The last case: a rank ends, and the others get an error in one line."""
    own = table()
    if RANK > 0:
        print("lost ok", flush=True)
        os._exit(0)
    index = torch.zeros(1, 1, dtype=torch.long)
    said = refused(lambda: TableUse(own).read(index, torch.ones(1, 1)), RuntimeError, "every rank must take part, got")
    assert "\n" not in said
    print("lost ok", flush=True)
    os._exit(0)


def trained_states() -> dict[str, Any]:
    own = table()
    model = network(own)
    optimizer = optimizer_of(model, own, RANKS)
    train(DistributedDataParallel(model), optimizer, part)
    return {"model": model, "rows": optimizer.rows}


def save() -> None:
    states = trained_states()
    dcp.save(states, checkpoint_id=FOLDER / "first")
    own, optimizer = states["model"][1].table, states["rows"]
    expected = {"values": own.state_dict()["values"].full_tensor()}
    for name, state in optimizer.state[own.anchor].items():
        expected[name] = state.full_tensor() if state.dim() else state
    if RANK == 0:
        torch.save(expected, FOLDER / "expected.pt")


def load() -> None:
    """What one process saved, in parts."""
    own = table(seed=77)
    model = network(own)
    optimizer = loci.optim.RowAdam(own, lr=3.0, scale=RANKS)
    dcp.load({"model": model, "rows": optimizer}, checkpoint_id=FOLDER / "second")
    expected = torch.load(FOLDER / "expected.pt")
    assert torch.equal(own.values, here(own, expected.pop("values")))
    assert optimizer.scale == RANKS and optimizer.param_groups[0]["lr"] == 1e-2
    for name, state in optimizer.state[own.anchor].items():
        assert torch.equal(state.full_tensor() if state.dim() else state, expected.pop(name)), name
    assert not expected


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{FOLDER}/store-{RANKS}", rank=RANK, world_size=RANKS, timeout=timedelta(seconds=60)
    )
    for case in sys.argv[2:]:
        globals()[case]()
        print(case, "ok", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
