"""Flows of `loci eval RUN --pictures N --json` of the task ode_points, kept as RUN/flows.json: the ways of points
through an ODE block, over s."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loci.figures import COLOURS, STYLE, svg
from loci.runs import PrintedError, Record, Run, number, read_printed

FILE = "flows.json"
MOMENTS = 4  # of s with a panel of their own
WAYS = 200  # that are drawn, at most

States = npt.NDArray[np.float64]  # [moments, points, D]


class Flow:
    """States of points over s, the depth of each, and labels where there are any."""

    def __init__(self, record: Record):
        self.states = states_of(record.get("states"))
        points = self.states.shape[1]
        self.depth = np.array(numbers_of(record.get("depth"), points, "depth"))
        labels = record.get("labels", [0] * points)
        if not isinstance(labels, list) or not all(label in (0, 1) for label in labels) or len(labels) != points:
            raise PrintedError("labels must be 0 or 1 for each point")
        self.labels = np.array(labels)
        self.reflects = self.states.shape[2] == 1


def numbers_of(record: Any, count: int, what: str) -> list[float]:
    if not isinstance(record, list) or len(record) != count:
        raise PrintedError(f"{what} must be {count} numbers")
    values = [number(value) for value in record]
    if not np.isfinite(values).all():
        raise PrintedError(f"{what} must be {count} numbers")
    return values


def states_of(record: Any) -> States:
    if not isinstance(record, list) or len(record) < 2:
        raise PrintedError("states must be two lists or more")
    first = record[0]
    if not isinstance(first, list) or not first or not isinstance(first[0], list) or len(first[0]) not in (1, 2):
        raise PrintedError("states must be lists of points of one or two numbers")
    for state in record:
        if not isinstance(state, list) or len(state) != len(first):
            raise PrintedError("states must have the same points")
    return np.array([[numbers_of(point, len(first[0]), "a point") for point in state] for state in record])


def read_flow(run: Run) -> Flow | None:
    """The flow in the run's folder; None where there is none. Notes of the run say what is wrong with it."""
    return read_printed(run, FILE, flow_in)


def flow_in(read: Any) -> Flow:
    account = read.get("account") if isinstance(read, dict) else None
    flow = account.get("flow") if isinstance(account, dict) else None
    if not isinstance(flow, dict):
        raise PrintedError("it must be the output of loci eval --pictures N --json")
    return Flow(flow)


def flow_figure(flow: Flow) -> bytes:
    """Of the plane: the points at moments of s, and their ways; of the line: the ways over s."""
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        if flow.reflects:
            figure = Figure(figsize=(6.0, 4.0), layout="constrained")
            draw_line(figure.subplots(), flow)
            return svg(figure)
        figure = Figure(figsize=(2.3 * (MOMENTS + 1), 2.7), layout="constrained")
        panels = figure.subplots(1, MOMENTS + 1, sharex=True, sharey=True)
        last = len(flow.states) - 1
        for panel, place in zip(panels, np.linspace(0, last, MOMENTS).round().astype(int), strict=False):
            for label in (0, 1):
                at = flow.states[place][flow.labels == label]
                panel.plot(at[:, 0], at[:, 1], ".", color=COLOURS[label], markersize=2)
            panel.set_title(f"s = {place / last:.2f} S", loc="left", fontsize=9, color="#555555")
        draw_ways(panels[MOMENTS], flow)
        for panel in panels:
            panel.set_aspect("equal")
        return svg(figure)


def draw_ways(panel: Axes, flow: Flow) -> None:
    for point in range(min(WAYS, flow.states.shape[1])):
        way, colour = flow.states[:, point], COLOURS[flow.labels[point]]
        panel.plot(way[:, 0], way[:, 1], color=colour, linewidth=0.5, alpha=0.6)
        panel.plot(way[-1:, 0], way[-1:, 1], ".", color=colour, markersize=2)
    panel.set_title("ways", loc="left", fontsize=9, color="#555555")


def draw_line(panel: Axes, flow: Flow) -> None:
    moments = np.linspace(0, 1, len(flow.states))
    for point in range(min(WAYS, flow.states.shape[1])):
        start = flow.states[0, point, 0]
        panel.plot(moments, flow.states[:, point, 0], color=COLOURS[int(start > 0)], linewidth=0.6)
    panel.set_xlabel("s / S")
    panel.set_ylabel("z")
