"""Tables in parts on several processes, in Python: their ranks run the cases of sharded_ranks.py."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from command_line import PACKAGE_ENVIRONMENT, ROOT

import loci

EXAMPLE = ROOT / "examples" / "sharded_table.py"
PROGRAM = Path(__file__).with_name("sharded_ranks.py")
CASES = {
    (2, "rows"): ("reads", "layers", "ddp", "fsdp", "skipped", "graphs", "rows", "groups", "refusals", "lost"),
    (3, "rows"): ("reads", "rows", "rounding", "groups", "ddp"),
    (2, "columns"): ("reads", "layers", "ddp", "skipped", "graphs", "rows"),
    (3, "columns"): ("reads", "rounding", "ddp"),
}


def started(ranks: int, folder: Path, *cases: str, shard: str = "rows") -> tuple[list[str], str]:
    """What each rank said, and the errors of all."""
    processes = [
        subprocess.Popen(
            [sys.executable, PROGRAM, folder, *cases],
            env=PACKAGE_ENVIRONMENT
            | {"RANK": str(rank), "WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1", "LOCI_TEST_SHARD": shard},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    ended = [process.communicate(timeout=300) for process in processes]
    return [out for out, _ in ended], "".join(errors for _, errors in ended)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], tuple[list[str], str]]:
    return {
        (ranks, shard): started(ranks, tmp_path_factory.mktemp("ranks"), *cases, shard=shard)
        for (ranks, shard), cases in CASES.items()
    }


@pytest.mark.parametrize(("kind", "case"), [(kind, case) for kind, cases in CASES.items() for case in cases])
def test_ranks_do_what_one_process_does(
    said: dict[tuple[int, str], tuple[list[str], str]], kind: tuple[int, str], case: str
) -> None:
    outs, errors = said[kind]
    assert all(f"{case} ok\n" in out for out in outs), errors


@pytest.mark.parametrize(("shard", "other"), [("rows", "columns"), ("columns", "rows")])
def test_checkpoints_open_on_any_number_of_ranks(tmp_path: Path, shard: str, other: str) -> None:
    """2, 1, 3 ranks: the same rows and the same state of their optimiser."""
    outs, errors = started(2, tmp_path, "save", shard=shard)
    assert outs == ["save ok\n"] * 2, errors
    memory = loci.ProductKeyMemory(8, table=loci.Table(50, 8, seed=70), heads=2, top_k=4)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), memory, torch.nn.Linear(8, 3))
    rows = loci.optim.RowAdam(memory.tables(), lr=3.0)
    dcp.load({"model": model, "rows": rows}, checkpoint_id=tmp_path / "first", no_dist=True)
    expected = torch.load(tmp_path / "expected.pt")
    assert torch.equal(memory.table.values, expected.pop("values"))
    assert rows.state[memory.table.anchor].keys() == expected.keys()
    for name, state in rows.state[memory.table.anchor].items():
        assert torch.equal(state, expected[name]), name
    assert expected["count"].any() and expected["steps"] == 4
    dcp.save({"model": model, "rows": rows}, checkpoint_id=tmp_path / "second", no_dist=True)
    outs, errors = started(3, tmp_path, "load", shard=other)
    assert outs == ["load ok\n"] * 3, errors


def test_a_process_group_is_needed() -> None:
    with pytest.raises(RuntimeError, match=r"table t: torch.distributed must be initialised .* got none"):
        loci.Table(8, 4, name="t", shard="rows")


def losses_of(command: list[str | Path], **variables: str) -> list[float]:
    command, environment = [sys.executable, *command], PACKAGE_ENVIRONMENT | variables
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    return [float(loss) for loss in re.findall(r"loss (\S+)", result.stdout)]


def losses_alone(*arguments: Path) -> list[float]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    return losses_of([EXAMPLE, *arguments], RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)


def test_the_example_trains_the_same_with_one_and_two_processes_and_goes_on(tmp_path: Path) -> None:
    torchrun: list[str | Path] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    alone, two = losses_alone(), losses_of([*torchrun, EXAMPLE, tmp_path / "saved"])
    assert len(alone) == 20 and alone[-1] < 0.5 * alone[0]
    assert two == pytest.approx(alone, abs=2e-5)
    assert losses_alone(tmp_path / "saved")[0] < 1.2 * alone[-1]


def test_the_page_shows_the_example() -> None:
    section = (ROOT / "docs" / "tables.md").read_text().split("### In Python")[1]
    snippet = section.split("```python\n")[1].split("```")[0]
    lines = [line.strip() for line in EXAMPLE.read_text().splitlines()]
    assert all(line in lines for line in snippet.splitlines())
