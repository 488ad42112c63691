"""loci.plots: what the figures show, of runs and of loci.Usage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
import torch
from command_line import PACKAGE_ENVIRONMENT
from matplotlib.figure import Figure
from memory_cases import inputs, small

import loci


def data_of(line: Any) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def evaluated(rows: list[dict[str, Any]], measure: str) -> list[tuple[float, float]]:
    return [(row["units"], row["measures"][measure]) for row in rows if row["kind"] == "evaluation"]


@pytest.mark.parametrize("measure", ["usage", "kl"])
def test_usage_of_a_run_is_that_of_its_evaluations(tmp_path: Path, measure: str) -> None:
    rows = synthetic.records("memory", 1)
    figure = loci.plots.usage(synthetic.write_run(tmp_path / "memory" / "seed-1", rows), measure)
    assert isinstance(figure, Figure)
    (axes,) = figure.axes
    (line,) = axes.lines
    assert data_of(line) == evaluated(rows, measure) and len(data_of(line)) == 10
    assert axes.get_xlabel() == "training tokens" and measure in axes.get_ylabel().lower()


def test_usage_of_runs_has_a_line_for_each_and_their_mean(tmp_path: Path) -> None:
    rows = {seed: synthetic.records("memory", seed) for seed in (1, 2)}
    runs = [synthetic.write_run(tmp_path / "memory" / f"seed-{seed}", rows[seed]) for seed in rows]
    for source in (runs, tmp_path):
        lines = loci.plots.usage(source).axes[0].lines
        assert [data_of(line) for line in lines[:2]] == [evaluated(rows[seed], "usage") for seed in rows]
        mean = np.mean([[y for _, y in evaluated(rows[seed], "usage")] for seed in rows], axis=0)
        np.testing.assert_allclose(lines[2].get_ydata(), mean)


def test_usage_of_metrics_by_steps_has_a_line_for_each_memory() -> None:
    model = torch.nn.ModuleDict({"first": small(), "second": small("peer", seed=2)})
    found = {}
    with loci.Usage(model) as usage:
        for step in (10, 20, 30):
            for memory in model.values():
                memory(inputs(4))
            usage.step()
            found[step] = usage.metrics()
    (axes,) = loci.plots.usage(found).axes
    assert [line.get_label() for line in axes.lines] == ["memory, first", "memory, second"]
    for line, name in zip(axes.lines, model, strict=True):
        assert data_of(line) == [(step, of_step[name]["usage"]) for step, of_step in found.items()]
        assert data_of(line)[-1][1] > 0
    assert axes.get_xlabel() == "training steps"


def test_windows_of_a_run(tmp_path: Path) -> None:
    rows = synthetic.records("memory", 1)
    shares = {50: 0.25, 100: 0.5, 150: 0.625}
    windows = [{"kind": "memory", "layer": 1, "step": at, "used": used, "expected": 0.9} for at, used in shares.items()]
    event = {"kind": "reinitialise", "step": 100, "layer": 1, "redrawn": 4, "refreshed": 3, "used": 0.5}
    run = synthetic.write_run(tmp_path / "run", [*rows, *windows, event])
    used, expected, marks = loci.plots.windows(run).axes[0].lines
    assert data_of(used) == [*shares.items()] and set(expected.get_ydata()) == {0.9}
    assert list(marks.get_xdata()) == [100]


def assert_slots(figure: Figure, reads: np.ndarray, sides: tuple[int, int]) -> None:
    """Left each row at its two sub-keys, right their reads from most to least, beside the mean."""
    left, right = figure.axes[:2]
    shown = np.ma.filled(left.images[0].get_array(), 0).ravel()
    assert left.images[0].get_array().shape == sides
    np.testing.assert_array_equal(shown[: reads.size], reads)
    ordered, even = right.lines
    rank, heights = ordered.get_xdata().astype(int), ordered.get_ydata()
    np.testing.assert_array_equal(heights, np.sort(reads)[::-1][rank - 1])
    assert rank[0] == 1 and rank[-1] == np.count_nonzero(reads)
    assert set(even.get_ydata()) == {reads.mean()}


def test_slots_of_a_run(tmp_path: Path) -> None:
    reads = synthetic.row_reads(rows=400)
    run = synthetic.write_run(tmp_path / "run", synthetic.records("memory", 1), reads)
    assert_slots(loci.plots.slots(run), reads, (20, 20))
    assert_slots(loci.plots.slots(str(run), "1"), reads, (20, 20))


def test_slots_of_a_usage_are_the_rows_that_were_read() -> None:
    memory = small(rows=36)
    with loci.Usage(memory) as usage:
        memory(inputs(7))
        usage.step()
        usage.begin_window()
        seen = torch.cat([memory(x, return_reads=True)[1].index.flatten() for x in (inputs(3), 2 * inputs(5))])
    reads = torch.bincount(seen, minlength=36)
    assert torch.equal(usage.reads()[""], reads) and reads.max() > 1
    assert_slots(loci.plots.slots(usage), reads.numpy(), (6, 6))
    usage.clear()
    assert usage.reads()[""].tolist() == [0] * 36
    assert len(loci.plots.slots(usage).axes[1].lines) == 0


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    plain = synthetic.write_run(tmp_path / "plain", synthetic.records("base", 1))
    with pytest.raises(ValueError, match=r"plots\.usage: the source must have a memory's usage, got 1 run"):
        loci.plots.usage(plain)
    with pytest.raises(ValueError, match=r"plots\.windows: the source must have a window of a memory, got 1 run"):
        loci.plots.windows(plain)
    with pytest.raises(ValueError, match=r"plots\.slots: memory must be in the source, got None"):
        loci.plots.slots(plain)
    with pytest.raises(ValueError, match=r"plots\.usage: RUN must be a folder, got .*missing"):
        loci.plots.usage(tmp_path / "none")
    with pytest.raises(ValueError, match=r"plots\.usage: measure must be one of usage, kl, got 'gini'"):
        loci.plots.usage(plain, "gini")
    with pytest.raises(ValueError, match=r"plots\.slots: the source must be one run, got 2"):
        loci.plots.slots([plain, plain])
    two = loci.Usage(torch.nn.ModuleDict({"a": small(), "b": small()}))
    with pytest.raises(ValueError, match=r"plots\.slots: memory must be one of a, b, got None"):
        loci.plots.slots(two)


def test_plots_choose_no_backend_and_need_matplotlib_alone() -> None:
    lines = [
        "import sys, loci",
        "metrics = {step: {'m': {'usage': 0.5}} for step in (1, 2)}",
        "loci.plots.usage(metrics)",
        "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules",
        "import matplotlib",
        "assert matplotlib.rcParams._get_backend_or_none() is None",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, timeout=120, env=PACKAGE_ENVIRONMENT)
    absent = "import sys; sys.modules['matplotlib'] = None; import loci; loci.plots.usage({})"
    command = [sys.executable, "-c", absent]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=PACKAGE_ENVIRONMENT)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "ImportError: loci.plots: matplotlib must be installed (pip install 'torch-loci[report]'), got "
    )
