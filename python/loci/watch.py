"""What a run's log says every hundred steps: rows that its memories use, when dead sub-keys were drawn anew, and what
its non-local blocks do."""

from __future__ import annotations

import math

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from loci.figures import LINE_STYLES, STYLE, add_legend, arms_of, colour_of, draw_arms, new_figure, svg
from loci.runs import Record, Run, number, series


def watch_figure(runs: list[Run]) -> bytes | None:
    figure = watch_plot(runs)
    return None if figure is None else svg(figure)


def watch_plot(runs: list[Run]) -> Figure | None:
    """The share of rows read in each window of steps, its expectation for even reads, and a mark for each event."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(3.6)
        if not draw_arms(axes, runs, lambda run: series(run.windows, "step", "used")):
            return None
        expected = max((series(run.windows, "step", "expected") for run in runs), key=lambda points: points[0].size)
        axes.plot(*expected, color="#888888", linestyle=":", linewidth=1, label="even reads")
        for run in runs:
            steps = series([record for record in run.events if number(record.get("redrawn")) > 0], "step", "redrawn")[0]
            marks = {"color": colour_of(run.arm, runs), "markersize": 5, "zorder": 4}
            axes.plot(steps, [0.02] * steps.size, "^", **marks, transform=axes.get_xaxis_transform())
        axes.set_xlim(left=0)
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("training steps")
        axes.set_ylabel("rows read in a window")
        title = "training" + ("; triangles: sub-keys drawn anew" if any(run.events for run in runs) else "")
        axes.set_title(title, loc="left", fontsize=10, color="#555555")
        add_legend(axes)
        return figure


BLOCK_PANELS = {
    "residual_ratio": "added, as a share of the input",
    "entropy": "entropy of the weights (1: even)",
}


def blocks_figure(runs: list[Run], key: str) -> bytes | None:
    """A number of BLOCK_PANELS of each non-local block over training."""
    names = list(dict.fromkeys(str(record.get("block")) for run in runs for record in run.blocks))
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(3.6)
        drawn = False
        for place, name in enumerate(names):
            suffix = f", {name}" if len(names) > 1 else ""
            drawn |= draw_arms(
                axes, runs, lambda run, of=name: series(records_of(run, of), "step", key), suffix,
                LINE_STYLES[place % len(LINE_STYLES)],
            )  # fmt: skip
        if not drawn:
            return None
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0, top=1.02 if key == "entropy" else None)
        axes.set_xlabel("training steps")
        axes.set_ylabel(BLOCK_PANELS[key])
        add_legend(axes)
        return svg(figure)


def records_of(run: Run, block: str) -> list[Record]:
    return [record for record in run.blocks if str(record.get("block")) == block]


def watched(runs: list[Run]) -> str:
    """What the marks stand for, in numbers; empty without events."""
    lines = []
    for arm in arms_of(runs):
        events = [record for run in runs if run.arm == arm for record in run.events]
        if not events:
            continue
        redrawn, refreshed = (sum(number(record.get(key)) for record in events) for key in ("redrawn", "refreshed"))
        if math.isfinite(redrawn) and math.isfinite(refreshed):
            lines.append(f"{arm}: {redrawn:.0f} sub-keys and {refreshed:.0f} rows in {len(events)} events")
    return "; ".join(lines)
