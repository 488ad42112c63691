"""The ways of teaching that are compared. Each makes a model and its optimiser, and says what has to be shipped."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import loci

LAYERS = (8, 16, 24)  # of 30
ROWS = 2**14
CHOSEN = 512  # rows of each table that a step may train
DENSE_RATE = 1e-3  # of what a memory has beside its rows


@dataclass
class Arm:
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    step: Callable[[dict[str, Tensor]], float]  # trains on a batch; returns its loss
    changed: Callable[[], int]  # numbers that differ from those before
    shipped: Callable[[], int]  # bytes


def plain_step(model, optimizer, choosing=nullcontext) -> Callable[[dict[str, Tensor]], float]:
    def step(batch: dict[str, Tensor]) -> float:
        optimizer.zero_grad()
        with choosing():
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def trained(model) -> dict[str, Tensor]:
    return {name: part.detach().clone() for name, part in model.named_parameters() if part.requires_grad}


def count_changed(model, before: dict[str, Tensor]) -> int:
    parameters = dict(model.named_parameters())
    return sum(int((parameters[name] != part).sum()) for name, part in before.items())


def full(base, ordinary: Tensor, rate: float, seed: int) -> Arm:
    before = trained(base)
    optimizer = torch.optim.AdamW(base.parameters(), lr=rate, weight_decay=0.0)
    changed = lambda: count_changed(base, before)  # noqa: E731
    return Arm(base, optimizer, plain_step(base, optimizer), changed, lambda: 4 * changed())


def lora(base, ordinary: Tensor, rate: float, seed: int) -> Arm:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    model = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    before = trained(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
    size = 4 * sum(part.numel() for part in before.values())
    return Arm(model, optimizer, plain_step(model, optimizer), lambda: count_changed(model, before), lambda: size)


def with_memories(base, ordinary: Tensor, seed: int) -> loci.Inserted:
    """Memories that add nothing yet, and whose queries are spread over what ordinary text gives them."""
    inserted = loci.insert(base, ROWS, LAYERS, heads=4, top_k=16, query_norm="batch", seed=seed)
    loci.calibrate(base, list(ordinary.split(4)), forward=lambda tokens: base(input_ids=tokens), seed=seed)
    return inserted


def rows_changed(inserted: loci.Inserted) -> int:
    """Rows start at zero."""
    return sum(int((table.values != 0).sum()) for table in inserted.tables())


def memory(base, ordinary: Tensor, rate: float, seed: int) -> Arm:
    inserted = with_memories(base, ordinary, seed)
    dense = torch.optim.AdamW(inserted.parameters(), lr=DENSE_RATE, weight_decay=0.0)
    both = loci.optim.Both(dense, loci.optim.RowAdam(inserted.tables(), lr=rate), max_norm=1.0)
    before = trained(base)

    def shipped() -> int:
        with tempfile.TemporaryDirectory() as folder:
            loci.save(base, folder)
            return sum(file.stat().st_size for file in Path(folder).iterdir())

    changed = lambda: rows_changed(inserted) + count_changed(base, before)  # noqa: E731
    return Arm(base, both, plain_step(base, both), changed, shipped)


def memory_rows(base, ordinary: Tensor, rate: float, seed: int) -> Arm:
    """Rows alone are trained, and of these the ones that a batch reads more than ordinary text does."""
    inserted = with_memories(base, ordinary, seed)
    for parameter in inserted.parameters():
        parameter.requires_grad_(False)
    base.eval()  # queries are normalised as in use
    with torch.no_grad(), loci.ReadBackground(base) as background:
        for tokens in ordinary:
            base(input_ids=tokens[None])
            background.step()
    finetune = loci.finetune_rows(base, background, CHOSEN)
    finetune.__enter__()  # for as long as the arm is trained
    optimizer = loci.optim.RowSGD(inserted.tables(), lr=rate)
    empty = [torch.zeros_like(table.values) for table in inserted.tables()]

    def shipped() -> int:
        with tempfile.TemporaryDirectory() as folder:
            for place, (before, table) in enumerate(zip(empty, inserted.tables(), strict=True)):
                loci.write_patch(Path(folder) / f"{place}.patch", before, table)
            return sum(file.stat().st_size for file in Path(folder).iterdir())

    step = plain_step(base, optimizer, finetune.choosing)
    return Arm(base, optimizer, step, lambda: rows_changed(inserted), shipped)


ARMS = {"full": full, "lora": lora, "memory": memory, "memory-rows": memory_rows}
# Tried on facts of their own; the best recall of reworded questions is taken.
RATES = {
    "full": (1e-5, 3e-5, 1e-4),
    "lora": (1e-4, 3e-4, 1e-3),
    "memory": (3e-3, 1e-2, 3e-2),
    "memory-rows": (1.0, 10.0, 100.0),
}
