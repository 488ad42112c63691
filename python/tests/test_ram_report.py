"""Runs of machines in the report: how many learned, levels, errors, and the program; each also when it is damaged."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from loci.report import main

MODULES = ["READ", "ZERO", "ONE", "INC", "ADD", "WRITE"]
OPERANDS = [1, 0, 0, 1, 2, 2]
REGISTERS = 6
MEASURES = [
    {"name": "exact", "digits": 0, "lower_is_better": False, "unit": "of 3", "meaning": "without an error"},
    {"name": "error", "digits": 4, "lower_is_better": True, "unit": "", "meaning": "share of wrong cells"},
]


def program() -> dict[str, Any]:
    """Two circuits for the 64 patterns of six registers; the second has more patterns than fit into a caption."""
    modules = [[place % REGISTERS] * count for place, count in enumerate(OPERANDS)]
    circuits = [
        {"modules": modules, "registers": [6, 1, 2, 9, 4, 5], "stop": False},
        {"modules": [None] * len(MODULES), "registers": list(range(REGISTERS)), "stop": True},
    ]
    table = [int(pattern % 3 == 0) for pattern in range(2**REGISTERS)]
    return {"format": "p", "version": 1, "registers": REGISTERS, "repeats": 1, "modules": MODULES} | {
        "circuits": circuits,
        "table": table,
    }


def write_ram_run(folder: Path, what: object) -> Path:
    errors = [{"length": length, "cell_error": 0.1 * length} for length in (5, 10)]
    rows: list[dict[str, Any]] = [{"kind": "start", "task": "ram", "unit": "instances", "measures": MEASURES}]
    for step in (50, 100):
        seeds = [{"seed": s, "level": step // 25 + s, "error": 0.5 / step, "phase": "learning"} for s in range(3)]
        rows.append({"kind": "train", "step": step, "units": 48 * step, "seconds": step, "loss": 1.0, "seeds": seeds})
    seeds = [{"seed": s, "soft": errors, "discrete": errors} for s in range(3)]
    details = {"seeds": seeds, "exact": {"seeds": 2, "of": 3, "interval": [0.2, 0.94]}}
    measures = {"exact": 2, "error": 0.01}
    rows.append(
        {"kind": "evaluation", "step": 100, "units": 4800, "seconds": 100, "measures": measures} | {"details": details}
    )
    (folder / "step-100").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = what if isinstance(what, str) else json.dumps(what)
    (folder / "step-100/program.json").write_text(text)
    (folder / "step-100/program.txt").write_text("r0 = READ(r1)\n")
    return folder


def page_of(run: Path) -> str:
    assert main([str(run)]) == 0
    return (run / "report.html").read_text()


def test_counts_of_seeds_units_and_captions(tmp_path: Path) -> None:
    page = page_of(write_ram_run(tmp_path / "run", program()))
    assert "<td>exact</td><td>2 of 3</td><td>20 to 94 %</td>" in page
    assert "nats" not in page
    assert "At equal training instances" in page
    pictures = [base64.b64decode(data).decode() for data in re.findall(r"svg\+xml;base64,([^\"]+)", page)]
    circuits = next(text for text in pictures if "circuit 1" in text)
    assert "training instances" in next(text for text in pictures if "loss" in text)
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', circuits).group(1))
    for line in re.findall(r"<!-- (circuit.*?|[^>]*more.*?) -->", circuits):
        assert len(line) * 4.5 < width  # 9 pt of DejaVu Sans: 5 pt a character, less for what is narrow


BROKEN = {
    "no JSON": "{",
    "too deep": "[" * 200_000,
    "a list": [1],
    "no circuits": {key: value for key, value in program().items() if key != "circuits"},
    "no modules": program() | {"modules": 5},
    "no table": {key: value for key, value in program().items() if key != "table"},
    "a circuit without registers": program() | {"circuits": [{"modules": [None] * 6, "stop": True}]},
    "a source that is none": program() | {"circuits": [program()["circuits"][0] | {"registers": [99] * 6}]},
    "an operand of another type": program() | {"circuits": [program()["circuits"][0] | {"modules": [["x"]] * 6}]},
    "very many registers": program() | {"registers": 10**9},
    "registers of another type": program() | {"registers": "six"},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_program_is_a_note(tmp_path: Path, name: str) -> None:
    page = page_of(write_ram_run(tmp_path / "run", BROKEN[name]))
    assert "step-100/program.json could not be read" in page
