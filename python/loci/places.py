"""The floor plan of `loci eval RUN --places --json`, kept as RUN/places.json: where the frames of a row were taken."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from loci.figures import STYLE, svg
from loci.poses import floor_axes
from loci.runs import PrintedError, Record, Run, number, read_printed

FILE = "places.json"
COLUMNS = 4


def read_places(run: Run) -> Record | None:
    """The account in the run's folder; None where there is none. Notes of the run say what is wrong with it."""
    return read_printed(run, FILE, places_in)


def places_in(read: Any) -> Record:
    places = read.get("account") if isinstance(read, dict) else None
    if not isinstance(places, dict) or not isinstance(places.get("shown"), list) or not places["shown"]:
        raise PrintedError("it must be the output of loci eval --places --json, of a run with a memory")
    positions = places.get("positions")
    if not isinstance(positions, list) or not all(isinstance(at, list) and len(at) == 3 for at in positions):
        raise PrintedError("positions must be lists of three numbers")
    for row in places["shown"]:
        mass = row.get("mass_of_frames") if isinstance(row, dict) else None
        if not isinstance(mass, list) or len(mass) != len(positions):
            raise PrintedError("each row must have its mass in each frame")
    return places


def plan_figure(places: Record) -> bytes:
    """A panel for each of the rows with most mass: all camera positions grey, those of the row coloured by its mass."""
    at = np.array([[number(value) for value in position] for position in places["positions"]])
    x, y = floor_axes(at)
    rows = places["shown"]
    lines = -(-len(rows) // COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.0, 2.5 * lines), layout="constrained")
        panels = figure.subplots(lines, COLUMNS, squeeze=False, sharex=True, sharey=True)
        for panel, row in zip(panels.flat, rows, strict=False):
            mass = np.array([number(value) for value in row["mass_of_frames"]])
            read = mass > 0
            panel.plot(at[:, x], at[:, y], ".", color="#BBBBBB", markersize=1, zorder=1)
            panel.scatter(at[read, x], at[read, y], c=mass[read], s=6, cmap="viridis", vmin=0, zorder=2)
            spread, p = number(row.get("spread")), number(row.get("p"))
            title = f"row {number(row.get('row')):.0f}: spread {spread:.2f}, p {p:.3f}"
            panel.set_title(title, loc="left", fontsize=8, color="#555555")
            panel.set_aspect("equal")
            panel.grid(False)
        for panel in panels.flat[len(rows) :]:
            panel.set_visible(False)
        return svg(figure)


def statistics(places: Record) -> list[tuple[str, list[str]]]:
    """Name and cells of the memory and of its controls."""
    table = []
    for name in ("memory", "untrained", "clusters"):
        found = places.get(name)
        if not isinstance(found, dict):
            continue
        cells = [f"{number(found.get(key)):.3f}" for key in ("overlap", "overlap_p", "information", "information_p")]
        cells += [f"{number(found.get('rows')):.0f}", f"{number(found.get('median_spread')):.2f}"]
        cells += [f"{100 * number(found.get(key)):.0f} %" for key in ("below_half", "found")]
        table.append((name, cells))
    return table
