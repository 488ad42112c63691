"""Trains a memory, forks, reads rows in the child, trains on in the parent: python forked_training.py HOME EXIT FOLDER
(test_fork.py). HOME: where rows are, "memory" or "mapped"; EXIT: how the child ends, "quick" or "normal"."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import loci

WIDTH, ROWS = 32, 2**12


class Training:
    def __init__(self, home: str, folder: Path):
        place: dict[str, Any] = {"home": home, "path": folder} if home == "mapped" else {}
        self.memory = loci.ProductKeyMemory(WIDTH, table=loci.Table(ROWS, WIDTH, seed=1, **place), heads=2, seed=2)
        self.rows = loci.optim.RowAdam(self.memory.tables(), lr=1e-2)
        self.drawn = torch.Generator().manual_seed(3)

    @property
    def values(self) -> Tensor:
        return self.memory.table.values

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.memory(torch.randn(256, WIDTH, generator=self.drawn)).square().sum().backward()
            self.rows.step()
            self.rows.zero_grad()


def child(training: Training, at_fork: Tensor, out: Tensor, home: str, said: int, trained: int) -> None:
    signal.alarm(60)
    torch.set_num_threads(1)  # the threads of the parent did not come along
    memory, x = training.memory, torch.ones(3, WIDTH)
    with torch.no_grad():
        memory.table.prefetch(torch.arange(0, ROWS, 7))
        assert torch.equal(memory.table.values, at_fork) and torch.equal(memory(x), out)
        os.write(said, b"read")
        assert os.read(trained, 7) == b"trained"
        # A file is one for both; memory is copied page by page when the parent writes.
        assert torch.equal(memory.table.values, at_fork) == (home == "memory")
        assert torch.equal(memory(x), out) == (home == "memory")
    os.write(said, b"done")


def main(home: str, end: str, folder: Path) -> None:
    torch.set_num_threads(2)
    training, alone = Training(home, folder / "table"), Training("memory", folder)
    training.steps(5)
    with torch.no_grad():
        at_fork, out = training.values.clone(), training.memory(torch.ones(3, WIDTH)).clone()
    (listen, said), (trained, tell) = os.pipe(), os.pipe()
    process = os.fork()
    for unused in (listen, tell) if process == 0 else (said, trained):
        os.close(unused)  # so that the end of one process is the end of what the other reads
    if process == 0:
        child(training, at_fork, out, home, said, trained)
        if end == "quick":
            os._exit(0)
        sys.exit(0)  # destructors of the child run
    assert os.read(listen, 4) == b"read"
    training.steps(5)
    os.write(tell, b"trained")
    assert os.read(listen, 4) == b"done"
    assert os.waitpid(process, 0)[1] == 0
    training.steps(5)
    alone.steps(15)

    assert torch.equal(training.values, alone.values) and not torch.equal(training.values, at_fork)
    for own, other in zip(states(training), states(alone), strict=True):
        assert torch.equal(own, other)
    if home == "mapped":
        (file,) = (folder / "table").glob("table.table.safetensors")
        assert torch.equal(load_file(file)["table"], alone.values)
    loci.save_run(training.memory, folder / "run")
    assert torch.equal(loci.load_run(folder / "run").memories["memory"].table.values, alone.values)
    print("as without a fork")


def states(training: Training) -> list[Tensor]:
    state = training.rows.state_dict()["state"]
    found = [value for one in state.values() for value in one.values() if isinstance(value, Tensor)]
    assert found
    return found


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
