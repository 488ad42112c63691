"""tools/check_floors.py finds each kind of offence in a made-up tree, and none in ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

GOOD = {
    "loci/base/check.h": "#include <string>\n",
    "loci/ops/sum/sum.h": '#include <ATen/core/Tensor.h>\n#include "loci/base/check.h"\n',
    "loci/ops/sum/rule.h": "#include <stdint.h>\n",
    "loci/ops/sum/sum_kernel.h": '#include <stdint.h>\n#include "loci/ops/sum/rule.h"\n',
    "loci/ops/sum/sum_kernel.cpp": '#include "loci/ops/sum/sum_kernel.h"\n#include <immintrin.h>\n#include <math.h>\n',
    "loci/ops/sum/sum_test.cpp": '#include "loci/ops/sum/sum.h"\n#include "tests/op_harness.h"\n',
    "loci/data/corpus.cpp": '#include "loci/data/corpus.h"\n',
    "loci/data/corpus.h": '#include "loci/base/check.h"\n',
    "loci/data/CMakeLists.txt": "loci_core_sources(corpus.cpp)\n",
    "cli/train.cpp": '#include "cli/verbs.h"\n#include "loci/ops/sum/sum.h"\n',
}


def check(root: Path, files: dict[str, str]) -> subprocess.CompletedProcess[str]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    command = [sys.executable, str(ROOT / "tools/check_floors.py"), str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_our_own_tree_keeps_to_its_floors() -> None:
    result = check(ROOT, {})
    assert result.returncode == 0, result.stdout


def test_a_good_tree_passes(tmp_path: Path) -> None:
    result = check(tmp_path, GOOD)
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize(
    ("name", "text", "offence"),
    [
        (
            "loci/base/up.h",
            '#include "loci/ops/sum/sum_kernel.h"\n',
            "loci/base/up.h:1: loci/base (floor 1) includes loci/ops",
        ),
        (
            "loci/ops/up.h",
            '// legend\n#include "loci/nn/x.h"\n',
            "loci/ops/up.h:2: loci/ops (floor 2) includes loci/nn",
        ),
        ("loci/tasks/up.cpp", '#include "cli/verbs.h"\n', "loci/tasks (floor 6) includes cli/verbs.h (floor 7)"),
        ("loci/nn/near.cpp", '#include "near.h"\n', 'near.h must be named as "loci/room/file.h"'),
        ("loci/nn/angle.cpp", "#include <loci/base/check.h>\n", "write loci/base/check.h in quotes"),
        ("loci/nn/product.cpp", '#include "tests/op_harness.h"\n', "tests/op_harness.h is for tests alone"),
        ("loci/cellar/x.cpp", "", "loci/cellar/x.cpp: belongs to no floor"),
        ("loci/ops/a_kernel.cpp", "#include <cmath>\n", "got <cmath>"),
        ("loci/ops/a_kernel.cpp", '#include "loci/base/check.h"\n', 'got "loci/base/check.h"'),
        ("loci/ops/a_kernel.h", '#include "loci/ops/none.h"\n', 'got "loci/ops/none.h"'),
        ("loci/ops/a_kernel.h", "#include <vector>\n", "got <vector>"),
        (
            "loci/base/tensor.h",
            "#include <torch/types.h>\n",
            "is part of the torch-free library, but includes torch/types.h",
        ),
        (
            "loci/data/corpus.h",
            '#include "loci/ops/sum/sum.h"\n',
            "loci/ops/sum/sum.h:1: is part of the torch-free library",
        ),
    ],
)
def test_an_offence_is_one_line(tmp_path: Path, name: str, text: str, offence: str) -> None:
    result = check(tmp_path, {**GOOD, name: text})
    assert result.returncode == 1
    assert offence in result.stdout
    assert len(result.stdout.splitlines()) == 1


def test_a_folder_without_loci_is_refused(tmp_path: Path) -> None:
    assert check(tmp_path, {}).returncode == 2
