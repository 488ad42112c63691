"""How memories use their rows, as figures of Matplotlib: the pictures of the report (`python -m loci.report`).

    loci.plots.usage("out/memory/seed-0")               # rows read, over training
    loci.plots.windows("out/memory/seed-0")             # the same in windows of a hundred steps
    loci.plots.slots("out/memory/seed-0")               # how often each row was read, and by rank
    loci.plots.slots(usage).savefig("slots.png")        # of a loci.Usage

A path is a run directory of the command line, or a folder with several. Matplotlib is the extra `report` of the
package. pyplot is not used: no backend is chosen, and a figure goes when nothing holds it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from loci.runs import Counts, Run
    from loci.usage import Usage

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Metrics = Mapping[str, Mapping[str, float]]  # what Usage.metrics() gives
MEASURES = ("usage", "kl")


def usage(source: Paths | Mapping[int, Metrics], measure: str = "usage") -> Figure:
    """Share of rows read ("usage"), or how far their weights are from even ("kl"), over training.

    source: runs, whose evaluations are drawn, a line for each memory, or their training where they were evaluated once;
    or `usage.metrics()` by steps, such as {100: usage.metrics(), ...}.

    Raises ValueError where there is nothing to draw, ImportError without Matplotlib."""
    figures = _figures()
    if measure not in MEASURES:
        raise ValueError(f"plots.usage: measure must be one of {', '.join(MEASURES)}, got {measure!r}")
    runs = [_run_of(source)] if isinstance(source, Mapping) else _runs("usage", source)
    return _drawn("usage", f"a memory's {measure}", figures.memory_plot(runs, measure), runs)


def windows(source: Paths) -> Figure:
    """Share of rows read in each window of training steps, beside that of even reads; triangles: sub-keys drawn anew.

    Raises ValueError where there is nothing to draw, ImportError without Matplotlib."""
    _figures()
    from loci.watch import watch_plot

    runs = _runs("windows", source)
    return _drawn("windows", "a window of a memory", watch_plot(runs), runs)


def slots(source: Usage | Paths, memory: str | None = None) -> Figure:
    """How often each row of a memory was read: as the square of both sub-keys, and sorted, beside even use.

    source: what a loci.Usage counted, or a run, whose newest checkpoint has the reads of the last window of steps.
    memory: its name, where there are several.

    Raises ValueError where there is nothing to draw, ImportError without Matplotlib."""
    figures = _figures()
    reads = _reads(source)
    if memory is None and len(reads) == 1:
        memory = next(iter(reads))
    if memory not in reads:
        known = f"one of {', '.join(reads)}" if reads else "in the source"
        raise ValueError(f"plots.slots: memory must be {known}, got {memory!r}")
    figure: Figure = figures.slots_plot(reads[memory])
    return figure


def _figures() -> Any:
    try:
        from loci import figures
    except ImportError as error:
        raise ImportError(
            f"loci.plots: matplotlib must be installed (pip install 'torch-loci[report]'), got {error}"
        ) from None
    return figures


def _runs(who: str, source: Paths) -> list[Run]:
    from loci.runs import ReportError, read_experiment

    paths = [source] if isinstance(source, (str, os.PathLike)) else source
    try:
        return [run for path in paths for run in read_experiment(Path(path)).runs]
    except ReportError as error:
        raise ValueError(str(error).replace("report:", f"plots.{who}:", 1)) from None


def _run_of(metrics: Mapping[int, Metrics]) -> Run:
    """A run whose evaluations have these measures."""
    from loci.runs import Run

    evaluations = [
        {"units": step, "details": {"memories": [{"layer": name, **dict(one)} for name, one in of_step.items()]}}
        for step, of_step in metrics.items()
    ]
    return Run("memory", "", Path(), start={"unit": "steps"}, evaluations=evaluations)


def _drawn(who: str, what: str, figure: Figure | None, runs: list[Run]) -> Figure:
    if figure is None:
        raise ValueError(f"plots.{who}: the source must have {what}, got {len(runs)} run(s) without any")
    return figure


def _reads(source: Usage | Paths) -> dict[str, Counts]:
    if hasattr(source, "reads"):
        return {name: counts.numpy() for name, counts in source.reads().items()}
    runs = _runs("slots", source)
    if len(runs) != 1:
        raise ValueError(f"plots.slots: the source must be one run, got {len(runs)}")
    return runs[0].reads
