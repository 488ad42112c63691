"""Processes that fork after a table was made and trained: workers of a DataLoader, and os.fork."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import PACKAGE_ENVIRONMENT
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import loci

VOCABULARY, WIDTH, BATCHES = 50, 16, 12


@pytest.mark.parametrize("home", ["memory", "mapped"])
@pytest.mark.parametrize("end", ["quick", "normal"])
def test_a_child_reads_rows_while_the_parent_trains(home: str, end: str, tmp_path: Path) -> None:
    script = Path(__file__).with_name("forked_training.py")
    command = [sys.executable, script, home, end, tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=PACKAGE_ENVIRONMENT)
    assert (result.returncode, result.stdout) == (0, "as without a fork\n"), result.stderr


class Texts(Dataset[tuple[int, Tensor]]):
    """Batches of tokens, whose rows are fetched and read where they are made."""

    def __init__(self, memory: loci.NgramMemory):
        self.memory = memory
        self.tokens = torch.randint(VOCABULARY, (BATCHES, 4, 8), generator=torch.Generator().manual_seed(5))

    def __len__(self) -> int:
        return BATCHES

    def __getitem__(self, place: int) -> tuple[int, Tensor]:
        rows = self.memory.rows(self.tokens[place])
        self.memory.table.prefetch(rows)
        assert self.memory.table.values[rows].isfinite().all()
        return os.getpid(), self.tokens[place]


def trained(home: str, folder: Path, workers: int) -> Tensor:
    """The rows after one step before the workers begin and two epochs with them."""
    place: dict[str, Any] = {"home": home, "path": folder} if home == "mapped" else {}
    memory = loci.NgramMemory(WIDTH, vocabulary=VOCABULARY, table=loci.Table(2**10, WIDTH, seed=1, **place), seed=2)
    rows = loci.optim.RowAdam(memory.tables(), lr=1e-2)
    texts = Texts(memory)
    x = torch.ones(4, 8, WIDTH)

    def step(tokens: Tensor) -> None:
        memory(x, tokens).square().sum().backward()
        rows.step()
        rows.zero_grad()

    step(texts.tokens[0])
    way = "fork" if workers else None
    makers = set()
    for _ in range(2):
        for maker, tokens in DataLoader(texts, batch_size=None, num_workers=workers, multiprocessing_context=way):
            makers.add(maker)
            step(tokens)
    assert len(makers) == max(1, 2 * workers) and (os.getpid() in makers) == (workers == 0)
    return memory.table.values.clone()


@pytest.mark.parametrize("home", ["memory", "mapped"])
def test_workers_of_a_data_loader_change_nothing(home: str, tmp_path: Path) -> None:
    alone = trained("memory", tmp_path, workers=0)
    assert torch.equal(trained(home, tmp_path / "table", workers=2), alone)
