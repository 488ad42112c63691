"""Sparse memory finetuning: background counts, choice of rows, masks, patches; files and bits of C++."""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from memory_cases import TOKENS, TOOL, WIDTH, inputs, small, with_drawn_rows
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import loci

ROWS = 30


def tool(*arguments: object) -> str:
    """What tests/row_tool.cpp prints."""
    words = [str(word) for word in (TOOL.parent / "row_tool", *arguments)]
    return subprocess.run(words, check=True, timeout=60, capture_output=True, text=True).stdout


def batches(count: int, tokens: int = 5) -> list[Tensor]:
    return [inputs(count, tokens)[number] for number in range(count)]


def reads_of(memory: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return memory(x, return_reads=True)[1].index


def counted(module: nn.Module, data: list[Tensor]) -> loci.ReadBackground:
    with torch.no_grad(), loci.ReadBackground(module) as background:
        for batch in data:
            module(batch)
            background.step()
    return background


def expected_rows(background: list[Tensor], batch: Tensor, most: int) -> list[int]:
    """The formula, in Python."""
    scores = []
    for row in batch.unique().tolist():
        share = (batch == row).sum() / batch.numel()
        having = sum(bool((other == row).any()) for other in background)
        scores.append((-float(share) * float(torch.log(torch.tensor((len(background) + 1) / (having + 1)))), row))
    return sorted(row for _, row in sorted(scores)[:most])


def test_background_files_are_those_of_c_plus_plus_both_ways(tmp_path: Path) -> None:
    memory = small()
    reads = [reads_of(memory, batch) for batch in batches(9)]
    background = counted(memory, batches(9))
    assert background.batches == 9 and memory.observers == []
    background.save(tmp_path / "python")
    (file,) = (tmp_path / "python").iterdir()
    assert file.name == "table.safetensors"
    save_file({f"batch{number}": index.flatten() for number, index in enumerate(reads)}, tmp_path / "reads.safetensors")
    tool("background", ROWS, tmp_path / "reads.safetensors", tmp_path / "cpp.safetensors")
    assert file.read_bytes() == (tmp_path / "cpp.safetensors").read_bytes()
    counts = torch.stack([torch.bincount(index.flatten(), minlength=ROWS) > 0 for index in reads]).sum(0)
    assert torch.equal(load_file(file)["reading"], counts.int())

    batch = reads_of(memory, inputs(12) * 2)
    save_file({"batch": batch.flatten()}, tmp_path / "batch.safetensors")
    loaded = loci.ReadBackground(memory).load(tmp_path / "python")
    for most in (1, 7, ROWS):
        chosen = loaded.of(memory.table).unusual_rows(batch, most).tolist()
        printed = tool("unusual", tmp_path / "cpp.safetensors", tmp_path / "batch.safetensors", most)
        assert chosen == [int(word) for word in printed.split()] == expected_rows(reads, batch, most)


@pytest.mark.parametrize("compiled", [False, True])
def test_only_the_chosen_rows_of_each_step_move(compiled: bool) -> None:
    model = nn.ModuleDict({"a": small("peer"), "b": small(seed=4)})
    torch._dynamo.reset()
    run = {name: torch.compile(part, fullgraph=True) if compiled else part for name, part in model.items()}

    def forward(x: Tensor) -> Tensor:
        return run["a"](x) + run["b"](x)

    with torch.no_grad(), loci.ReadBackground(model) as background:
        for batch in batches(6):
            forward(batch)
            background.step()
    tables = dict(model.named_modules(remove_duplicate=False))
    rows = loci.optim.RowSGD([table for part in model.values() for table in part.tables()], lr=1.0)
    rows.zero_grad()
    before = {name: tables[name].values.clone() for name in ("a.table", "a.down", "b.table")}
    with loci.finetune_rows(model, background, most=4) as finetune:
        forward(inputs(4)).sum().backward()
        rows.step()
        assert all(torch.equal(tables[name].values, values) for name, values in before.items())  # none was chosen
        moved: dict[str, set[int]] = {name: set() for name in before}
        for step in range(10):  # compiled code must not be compiled again for every step
            x = inputs(70)[7 * step : 7 * step + 7]
            with finetune.choosing():
                loss = forward(x).square().sum()
            read = {"a": reads_of(model["a"], x), "b": reads_of(model["b"], x)}
            now = {name: tables[name].values.clone() for name in before}
            loss.backward()
            rows.step()
            for name, values in now.items():
                chosen = finetune.rows[name].tolist()
                assert chosen == background.of(tables[name]).unusual_rows(read[name[0]], 4).tolist()
                changed = (tables[name].values != values).any(1).nonzero().squeeze(1).tolist()
                # An expert's activation may be exactly 0, which touches no row.
                assert changed == chosen if name == "b.table" else changed and set(changed) <= set(chosen)
                assert len(chosen) == 4
                moved[name] |= set(chosen)
    assert all(len(rows) > 4 for rows in moved.values())  # the choice follows the batch
    assert all(tables[name].trained_rows is None for name in before)
    forward(inputs(TOKENS)).sum().backward()
    rows.step()
    changed = (tables["b.table"].values != before["b.table"]).any(1).sum()
    assert changed > 4


def test_rows_are_chosen_once_for_a_set_of_batches_within_the_mask_of_the_table() -> None:
    memory = small()
    background = counted(memory, batches(5))
    facts = [inputs(3), inputs(6) * 3]
    own = torch.arange(ROWS) % 2 > 0
    memory.table.train_rows(own)
    with loci.finetune_rows(memory, background, most=6) as finetune:
        with finetune.choosing(), torch.no_grad():
            for batch in facts:
                memory(batch)
        together = torch.cat([reads_of(memory, batch).flatten() for batch in facts])
        best = background.of(memory.table).unusual_rows(together, 6)
        assert finetune.rows["table"].tolist() == [row for row in best.tolist() if row % 2]
        assert memory.table.trained_rows.nonzero().squeeze(1).tolist() == finetune.rows["table"].tolist()
        with pytest.raises(KeyError), finetune.choosing():
            memory(inputs(9))
            raise KeyError
        assert len(finetune.rows["table"]) < 6 and memory.observers == []  # the choice before holds
        chosen = copy.deepcopy(memory.table)
        with finetune.choosing():
            pass
        assert finetune.rows["table"].numel() == 0  # nothing was read
    assert torch.equal(memory.table.trained_rows, own)
    assert chosen.trained_rows.sum() == (best % 2).sum()  # a copy has the mask, too
    with pytest.raises(RuntimeError, match=r"choosing\(\) must be within its with block"), finetune.choosing():
        pass


def test_rows_of_n_grams_are_chosen() -> None:
    memory = loci.NgramMemory(width=8, rows=60, vocabulary=20, orders=[1, 2], seed=1)
    x, ordinary, fact = torch.zeros(1, 4, 8), torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 2, 9, 4]])
    with torch.no_grad(), loci.ReadBackground(memory) as background:
        for _ in range(3):
            memory(x, ordinary)
            background.step()
    with loci.finetune_rows(memory, background, most=3) as finetune, finetune.choosing():
        memory(x, fact)
    unusual = set(memory.rows(fact).flatten().tolist()) - set(memory.rows(ordinary).flatten().tolist())
    assert len(unusual) == 3 and set(finetune.rows["table"].tolist()) == unusual  # of 9, (2, 9) and (9, 4)


def test_reads_of_layers_that_share_a_table_are_one_batch() -> None:
    table = loci.Table(ROWS, WIDTH, seed=1)
    model = nn.ModuleList([small(rows=None, table=table), small(rows=None, table=table, row_offset=15, seed=3)])
    with torch.no_grad(), loci.ReadBackground(model) as background:
        reads = [reads_of(memory, inputs(6)) for memory in model]
        background.step()
        model[0](inputs(6))  # after the last step: forgotten
    assert list(background.counts) == ["0.table"] and background.batches == 1
    counts = background.of(table).reading_batches()
    assert counts.nonzero().squeeze(1).tolist() == torch.cat([r.flatten() for r in reads]).unique().tolist()
    assert counts.max() == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_patches_are_those_of_c_plus_plus_both_ways(tmp_path: Path, dtype: torch.dtype) -> None:
    table = loci.Table(ROWS, 5, dtype, seed=1, name="facts")
    before = table.values.clone()
    table.values[[3, 29]] += 1
    table.values[7] = -before[7]
    assert loci.write_patch(tmp_path / "python.patch", before, table) == 3
    for name, rows in (("before", before), ("after", table.values)):
        save_file({"rows": rows}, tmp_path / name)
    assert tool("patch", "facts", tmp_path / "before", tmp_path / "after", tmp_path / "cpp.patch") == "3\n"
    assert (tmp_path / "python.patch").read_bytes() == (tmp_path / "cpp.patch").read_bytes()

    other = loci.Table(ROWS, 5, dtype, seed=1, name="facts")
    assert loci.apply_patch(tmp_path / "cpp.patch", other) == 3 and torch.equal(other.values, table.values)
    assert loci.apply_patch(tmp_path / "cpp.patch", other) == 0 and torch.equal(other.values, table.values)
    assert tool("apply", "facts", tmp_path / "python.patch", tmp_path / "before", tmp_path / "applied") == "3\n"
    assert torch.equal(load_file(tmp_path / "applied")["rows"], table.values)
    assert loci.write_patch(tmp_path / "none.patch", other, table) == 0


def test_a_patch_for_a_mapped_table_is_applied_to_its_file(tmp_path: Path) -> None:
    table = loci.Table(ROWS, 4, seed=1)
    before = table.values.clone()
    table.values[[0, 17]] = 2
    loci.write_patch(tmp_path / "patch", before, table)
    mapped = loci.Table(ROWS, 4, home="mapped", path=tmp_path / "rows", seed=1)
    assert loci.apply_patch(tmp_path / "patch", mapped) == 2 and torch.equal(mapped.values, table.values)


def refused(folder: Path, make: Any) -> str:
    """The message of a patch that does not fit, which changes nothing."""
    table = loci.Table(ROWS, 4, seed=1, name="facts")
    before = table.values.clone()
    table.values[5] = 1
    loci.write_patch(folder / "patch", before, table)
    other = make(folder / "patch")
    values = other.values.clone()
    with pytest.raises(ValueError) as raised:
        loci.apply_patch(folder / "patch", other)
    assert torch.equal(other.values, values)
    return str(raised.value).splitlines()[0]


def cut(path: Path) -> loci.Table:
    path.write_bytes(path.read_bytes()[:-3])
    return loci.Table(ROWS, 4, seed=1, name="facts")


def removed(path: Path) -> loci.Table:
    path.unlink()
    return loci.Table(ROWS, 4, seed=1, name="facts")


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("the patch must be for other F32 [30, 4], got facts F32 [30, 4]",
         lambda path: loci.Table(ROWS, 4, seed=1, name="other")),
        ("the patch must be for facts F32 [31, 4], got facts F32 [30, 4]",
         lambda path: loci.Table(31, 4, seed=1, name="facts")),
        ("the patch must be for facts BF16 [30, 4], got facts F32 [30, 4]",
         lambda path: loci.Table(ROWS, 4, torch.bfloat16, seed=1, name="facts")),
        ("facts must be the table the patch was made from, got other rows",
         lambda path: loci.Table(ROWS, 4, seed=2, name="facts")),
        ("patch: ", cut),
        ("patch: ", removed),
    ],
)  # fmt: skip
def test_a_patch_that_does_not_fit_changes_nothing(tmp_path: Path, message: str, make: Any) -> None:
    assert message in refused(tmp_path, make)


@pytest.mark.parametrize(
    ("error", "message", "make"),
    [
        (ValueError, "row patch: both tables must be facts F32 [30, 4], got other F32 [30, 4]",
         lambda f: loci.write_patch(f / "p", loci.Table(ROWS, 4, name="facts"), loci.Table(ROWS, 4, name="other"))),
        (ValueError, "row patch: both tables must be facts F32 [29, 4], got facts F32 [30, 4]",
         lambda f: loci.write_patch(f / "p", torch.zeros(29, 4), loci.Table(ROWS, 4, name="facts"))),
        (ValueError, "row patch: rows of facts must be [N, D] of a floating type, got Char [3, 4]",
         lambda f: loci.write_patch(f / "p", loci.Table(3, 4, torch.int8, name="facts"),
                                    loci.Table(3, 4, torch.int8, name="facts"))),
        (ValueError, "row patch: rows of facts must be [N, D] of a floating type, got Float [4]",
         lambda f: loci.write_patch(f / "p", torch.zeros(4), loci.Table(3, 4, name="facts"))),
        (ValueError, "finetune_rows: most must be at least 1, got 0",
         lambda f: loci.finetune_rows(memory := small(), counted(memory, batches(1)), 0)),
        (ValueError, "finetune_rows: the background must have counted a batch (step()), got none",
         lambda f: loci.finetune_rows(memory := small(), loci.ReadBackground(memory), 5)),
        (ValueError, "ReadBackground: table must be in the module that it counts, got memory.values",
         lambda f: loci.finetune_rows(small(), counted(small(), batches(1)), 5)),
        (ValueError, "ReadBackground: the module must have a memory, got Linear without any",
         lambda f: loci.ReadBackground(nn.Linear(2, 2))),
        (ValueError, "table.safetensors: the counts must be of 31 rows, got 30",
         lambda f: counted(small(), batches(1)).save(f) or loci.ReadBackground(small(rows=31)).load(f)),
        (ValueError, "table.safetensors",
         lambda f: loci.ReadBackground(small()).load(f / "nowhere")),
    ],
)  # fmt: skip
def test_bad_input_has_one_clear_line(tmp_path: Path, error: type[Exception], message: str, make: Any) -> None:
    with pytest.raises(error) as raised:
        make(tmp_path)
    assert message in str(raised.value)


def test_frozen_tables_and_a_second_entry_are_refused() -> None:
    memory = with_drawn_rows(small())
    background = counted(memory, batches(2))
    finetune = loci.finetune_rows(memory, background, 5)
    with finetune, pytest.raises(RuntimeError, match="it must be entered once at a time, got twice"):
        finetune.__enter__()
    memory.table.frozen = True
    with pytest.raises(ValueError, match=r"finetune_rows: tables must be trained, got frozen memory\.values"):
        loci.finetune_rows(memory, background, 5)
