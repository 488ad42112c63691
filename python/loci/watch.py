"""What a run's log says of its memories every hundred steps: rows used, and when dead sub-keys were drawn anew."""

from __future__ import annotations

import math

import matplotlib
from matplotlib.ticker import PercentFormatter

from loci.figures import STYLE, add_legend, arms_of, colour_of, draw_arms, new_figure, svg
from loci.runs import Run, number, series


def watch_figure(runs: list[Run]) -> bytes | None:
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
        return svg(figure)


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
