"""Exported models with memories, in Python and in a C++ program without it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from command_line import BUILD
from torch import Tensor, nn

import loci

PROGRAM = BUILD / "tests" / "exported_memory"


def int8_memory() -> loci.ProductKeyMemory:
    memory = loci.ProductKeyMemory(16, rows=64, heads=2, top_k=4, table_dtype=torch.int8, seed=1)
    memory.table.set_rows(0, torch.randn(64, 16, generator=torch.Generator().manual_seed(1)))
    return memory


MEMORIES = {
    "product": lambda: loci.ProductKeyMemory(16, rows=64, heads=2, top_k=4, key_width=8, query_norm="batch", seed=1),
    "flat": lambda: loci.FlatKeyMemory(16, rows=30, heads=2, top_k=4, key_width=8, seed=1),
    "peer": lambda: loci.PeerMemory(16, rows=36, heads=2, top_k=4, key_width=8, seed=1),
    "int8": int8_memory,
    "bfloat16": lambda: loci.ProductKeyMemory(16, rows=64, heads=2, top_k=4, table_dtype=torch.bfloat16, seed=1),
}


def model_with(memory: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), memory, nn.Linear(16, 3)).eval()


def exported(model: nn.Module, x: Tensor) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},))


@pytest.mark.parametrize("name", MEMORIES)
def test_an_exported_model_gives_the_same_for_every_batch(name: str) -> None:
    model = model_with(MEMORIES[name]())
    program = exported(model, torch.randn(10, 8))
    for batch in (1, 7, 50):
        x = torch.randn(batch, 8)
        with torch.no_grad():
            assert torch.allclose(program.module()(x), model(x), atol=1e-6), batch


def test_maps_and_non_local_blocks_are_exported() -> None:
    model = nn.Sequential(loci.SideMemory(8, rows=64, heads=1, top_k=2, key_width=8), loci.NonLocal2d(8)).eval()
    for block in model:
        nn.init.ones_(block.norm_gain)
    x = torch.randn(3, 8, 4, 6)
    with torch.no_grad():
        program = torch.export.export(model, (x,))
        assert torch.allclose(program.module()(x), model(x), atol=1e-6) and not torch.equal(model(x), x)


def test_a_compiled_package_runs_without_python(tmp_path: Path) -> None:
    model = model_with(MEMORIES["product"]())
    package = tmp_path / "model.pt2"
    torch._inductor.aoti_compile_and_package(exported(model, torch.randn(10, 8)), package_path=str(package))
    for batch in (2, 33):
        said = subprocess.run([PROGRAM, package, str(batch), "8"], capture_output=True, text=True, check=True).stdout
        with torch.no_grad():
            expected = model(torch.ones(batch, 8)).double().sum().item()
        assert float(said) == pytest.approx(expected, rel=1e-5)


def test_a_broken_package_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_text("not a package")
    result = subprocess.run([PROGRAM, tmp_path / "model.pt2", "2", "8"], capture_output=True, text=True, check=False)
    assert result.returncode == 1 and result.stderr.startswith("exported_memory: ")
