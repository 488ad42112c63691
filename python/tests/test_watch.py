"""What the report shows of a memory's windows, of dead sub-keys drawn anew, and of rows and places."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from loci.report import main
from loci.runs import Run
from loci.watch import watched

from loci import places

FRAMES = 50


def windows(steps: int = 200) -> list[dict[str, Any]]:
    return [
        {"kind": "memory", "layer": 1, "step": step, "used": 0.5, "expected": 0.9} for step in range(50, steps + 1, 50)
    ]


def event(step: int, redrawn: int) -> dict[str, Any]:
    return {"kind": "reinitialise", "step": step, "layer": 1, "redrawn": redrawn, "refreshed": 3, "used": 0.5}


def account() -> dict[str, Any]:
    along = np.linspace(0, 6, FRAMES)
    statistics = {"overlap": 0.31, "overlap_p": 0.001, "information": 0.25, "information_p": 0.002}
    statistics |= {"rows": 12, "median_spread": 0.4, "below_half": 0.75, "found": 0.5}
    shown = [
        {"row": 7 + i, "spread": 0.4, "p": 0.01, "mass_of_frames": (along > i).astype(float).tolist()} for i in range(5)
    ]
    controls = {"untrained": statistics | {"overlap": 0.02}, "clusters": statistics}
    return {"positions": [[x, 1.0, 2.0] for x in along], "shown": shown, "memory": statistics, **controls}


def page_of(folder: Path) -> str:
    assert main([str(folder), "--out", str(folder / "page.html")]) == 0
    return (folder / "page.html").read_text()


def test_windows_and_events_are_drawn(tmp_path: Path) -> None:
    rows = synthetic.records("memory", 1)
    plain = synthetic.write_run(tmp_path / "plain" / "seed-1", rows)
    assert "Windows of training" not in page_of(plain)
    watched_run = synthetic.write_run(
        tmp_path / "watched" / "seed-1", [*rows, *windows(), event(100, 4), event(150, 0)]
    )
    page = page_of(watched_run)
    assert 'alt="rows read in windows of steps"' in page
    assert "watched: 4 sub-keys and 6 rows in 2 events" in page


def test_what_blocks_do_is_drawn(tmp_path: Path) -> None:
    rows = synthetic.records("memory", 1)
    assert "Non-local blocks" not in page_of(synthetic.write_run(tmp_path / "plain" / "seed-1", rows))
    blocks = [
        {"kind": "non_local", "step": step, "block": block, "residual_ratio": 0.1, "entropy": strange}
        for step, strange in ((100, 0.5), (200, None), (300, 0.7))
        for block in ("layer2.1", "layer3.1")
    ]
    page = page_of(synthetic.write_run(tmp_path / "blocks" / "seed-1", [*rows, *blocks]))
    assert 'alt="added, as a share of the input over training"' in page
    assert 'alt="entropy of the weights (1: even) over training"' in page


@pytest.mark.parametrize("strange", [{"step": "x"}, {"redrawn": None}, {"redrawn": math.nan}, {"step": None}])
def test_strange_events_do_not_stop_it(tmp_path: Path, strange: dict[str, Any]) -> None:
    rows = [*synthetic.records("memory", 1), *windows(), event(100, 4) | strange]
    assert "Windows of training" in page_of(synthetic.write_run(tmp_path / "run", rows))


def test_events_are_summed_over_seeds(tmp_path: Path) -> None:
    runs = [Run("a", str(seed), tmp_path, events=[event(100, seed)]) for seed in (1, 2)]
    assert watched([*runs, Run("b", "1", tmp_path)]) == "a: 3 sub-keys and 6 rows in 2 events"
    assert watched([Run("b", "1", tmp_path)]) == ""


def test_a_floor_plan_is_drawn(tmp_path: Path) -> None:
    run = synthetic.write_run(tmp_path / "run", synthetic.records("memory", 1))
    assert "Rows and places" not in page_of(run)
    (run / places.FILE).write_text(json.dumps({"account": account()}))
    page = page_of(run)
    assert "Rows and places of run" in page and 'alt="floor plan"' in page
    assert "<td>untrained</td><td>0.020</td>" in page
    assert "<td>0.40</td><td>75 %</td><td>50 %</td>" in page


def broken(change: str) -> Any:
    found = copy.deepcopy(account())
    match change:
        case "no rows":
            found["shown"] = []
        case "positions":
            found["positions"][3] = [1, 2]
        case "masses":
            found["shown"][0]["mass_of_frames"] = [1.0]
        case "no account":
            return {"measures": {}}
    return {"account": found}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("no rows", "it must be the output of loci eval --places --json"),
        ("positions", "positions must be lists of three numbers"),
        ("masses", "each row must have its mass in each frame"),
        ("no account", "it must be the output of loci eval --places --json"),
    ],
)
def test_a_strange_file_of_places_becomes_a_note(tmp_path: Path, change: str, words: str) -> None:
    run = synthetic.write_run(tmp_path / "run", synthetic.records("memory", 1))
    (run / places.FILE).write_text(json.dumps(broken(change)))
    page = page_of(run)
    assert f"places.json could not be read: {words}" in page and "Rows and places" not in page


def test_half_a_file_of_places_becomes_a_note(tmp_path: Path) -> None:
    run = synthetic.write_run(tmp_path / "run", synthetic.records("memory", 1))
    (run / places.FILE).write_text('{"account": {')
    assert "places.json could not be read" in page_of(run)
