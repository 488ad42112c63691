"""tools/check_weak_symbols.py sees what the linker could mix up between instruction levels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

CLEAN = """#include <math.h>
namespace loci::LOCI_LEVEL {
namespace { template <class T> T twice(T x) { return x + x; } }
void apply(float* x) { x[0] = twice(expf(x[0])); }
}
"""
TEMPLATE = """namespace loci::LOCI_LEVEL {
template <class T> T twice(T x) { return x + x; }
void apply(float* x) { x[0] = twice(x[0]); }
}
"""
CMATH = """#include <cmath>
namespace loci::LOCI_LEVEL { void apply(float* x) { x[0] = std::exp(x[0]); } }
"""


def check(root: Path, source: str) -> subprocess.CompletedProcess[str]:
    (root / "loci").mkdir()
    (root / "loci/x_kernel.cpp").write_text(source)
    levels = ["--level", "base=", "--level", "avx2=-mavx2 -mfma"]
    command = [sys.executable, str(ROOT / "tools/check_weak_symbols.py"), *levels, str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_helpers_in_an_anonymous_namespace_are_fine(tmp_path: Path) -> None:
    result = check(tmp_path, CLEAN)
    assert (result.returncode, result.stdout) == (0, "check_weak_symbols: 1 kernels, 0 faults\n")


@pytest.mark.parametrize("source", [TEMPLATE, CMATH], ids=["template", "cmath"])
def test_an_inline_function_is_found_at_every_level(tmp_path: Path, source: str) -> None:
    result = check(tmp_path, source)
    assert result.returncode == 1
    assert "loci/x_kernel.cpp (base): weak symbol" in result.stdout
    assert "loci/x_kernel.cpp (avx2): weak symbol" in result.stdout


def test_a_kernel_that_does_not_compile_fails(tmp_path: Path) -> None:
    result = check(tmp_path, "#error broken\n")
    assert result.returncode == 1
    assert "does not compile" in result.stdout
