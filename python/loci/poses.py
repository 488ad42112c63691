"""Trajectories of `loci eval RUN --poses --json`, kept as RUN/poses.json: where the camera was and where the network
says."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from loci.figures import COLOURS, STYLE, svg
from loci.runs import PrintedError, Record, Run, number, read_printed

FILE = "poses.json"
COLUMNS = 2
SHOWN = 8  # paths
DOTS = 100  # frames of a path with a dot, at most: more would hide each other

Positions = npt.NDArray[np.float64]  # [frames, 3]


def read_poses(run: Run) -> Record | None:
    """The poses in the run's folder; None where there are none. Notes of the run say what is wrong with them."""
    return read_printed(run, FILE, poses_in)


def poses_in(read: Any) -> Record:
    account = read.get("account") if isinstance(read, dict) else None
    poses = account.get("poses") if isinstance(account, dict) else None
    if not isinstance(poses, dict) or not isinstance(poses.get("paths"), list) or not poses["paths"]:
        raise PrintedError("it must be the output of loci eval --poses --json")
    for key in ("true", "predicted"):
        listed = poses.get(key)
        if not isinstance(listed, list) or len(listed) != len(poses["paths"]):
            raise PrintedError(f"{key} must have a position of each frame")
        if not all(
            isinstance(at, list) and len(at) == 3 and all(np.isfinite([number(v) for v in at])) for at in listed
        ):
            raise PrintedError("positions must be lists of three numbers")
    return poses


def floor_axes(positions: Positions) -> tuple[int, int]:
    """The two axes along which the camera moved most, in their order: what is seen from above, whatever is up."""
    first, second = sorted(np.argsort(-np.ptp(positions, axis=0), kind="stable")[:2])
    return int(first), int(second)


def trajectories_figure(poses: Record) -> bytes:
    """A floor plan for each path: true positions as a line, predicted ones of some frames as dots, tied to the true."""
    true = np.array([[number(value) for value in at] for at in poses["true"]])
    predicted = np.array([[number(value) for value in at] for at in poses["predicted"]])
    path_of = np.array([str(path) for path in poses["paths"]])
    x, y = floor_axes(true)
    paths = list(dict.fromkeys(path_of))[:SHOWN]
    lines = -(-len(paths) // COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.0, 4.0 * lines), layout="constrained")
        panels = figure.subplots(lines, COLUMNS, squeeze=False, sharex=True, sharey=True)
        for panel, path in zip(panels.flat, paths, strict=False):
            at, found = true[path_of == path], predicted[path_of == path]
            some = slice(None, None, -(-len(at) // DOTS))
            ties = np.stack([at, found, np.full_like(at, np.nan)], axis=1)[some].reshape(-1, 3)
            panel.plot(ties[:, x], ties[:, y], color="#BBBBBB", linewidth=0.5, zorder=1)
            panel.plot(at[:, x], at[:, y], color=COLOURS[0], linewidth=1.5, label="true", zorder=2)
            panel.plot(found[some, x], found[some, y], ".", color=COLOURS[1], markersize=3, label="predicted", zorder=3)
            metres = float(np.median(np.linalg.norm(at - found, axis=1)))
            title = f"path {path}: {len(at)} frames, median {metres:.2f} m"
            panel.set_title(title, loc="left", fontsize=9, color="#555555", parse_math=False)
            panel.set_aspect("equal")
            panel.set_xlabel(f"{'xyz'[x]} (m)")
            panel.set_ylabel(f"{'xyz'[y]} (m)")
        panels.flat[0].legend(loc="upper right", fontsize=8)
        for panel in panels.flat[len(paths) :]:
            panel.set_visible(False)
        return svg(figure)
