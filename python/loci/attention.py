"""Where non-local blocks look: over the frames of a clip or over an image, for the positions to which they add most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loci.figures import STYLE, png
from loci.runs import PrintedError, Record, number

LINES_SHOWN = 12
MAP_COLOUR = "inferno"

Weights = npt.NDArray[np.float64]  # [frames, height, width] shares
Frame = npt.NDArray[np.uint8]  # [height, width, 3]


@dataclass
class Query:
    """A position of a block's map and the shares that it gives to the keys."""

    block: str
    at: tuple[float, float, float]  # frame, and centre of the position in shares of the image's height and width
    adds: float  # norm of what the block adds over that of its input
    weights: Weights


def queries_of(records: Any) -> list[Query]:
    if not isinstance(records, list):
        raise PrintedError("attention must be a list of blocks")
    return [query for block in records for query in queries_of_block(block)]


def queries_of_block(block: Any) -> list[Query]:
    if not isinstance(block, dict) or not isinstance(block.get("queries"), list):
        raise PrintedError("each block must have queries")
    edges, keys = extents(block, "map"), extents(block, "keys")
    queries = []
    for record in block["queries"]:
        weight = record.get("weight") if isinstance(record, dict) else None
        at = record.get("at") if isinstance(record, dict) else None
        if not isinstance(weight, list) or len(weight) != math.prod(keys):
            raise PrintedError("the weights of a query must be one for each key")
        if not isinstance(at, list) or len(at) != 3 or not all(
            isinstance(place, int) and 0 <= place < edge for place, edge in zip(at, edges, strict=True)
        ):  # fmt: skip
            raise PrintedError("a query must be at a position of its map")
        try:
            weights = np.array(weight, np.float64).reshape(keys)
        except (ValueError, TypeError):
            raise PrintedError("the weights of a query must be numbers") from None
        centre = (float(at[0]), (at[1] + 0.5) / edges[1], (at[2] + 0.5) / edges[2])
        queries.append(Query(str(block.get("block", "")), centre, number(record.get("adds")), weights))
    return queries


def extents(block: Record, key: str) -> tuple[int, int, int]:
    """Frames, height and width."""
    edges = block.get(key)
    if not isinstance(edges, list) or len(edges) != 3:
        raise PrintedError(f"{key} must be frames, height and width")
    if not all(isinstance(edge, int) and not isinstance(edge, bool) and 0 < edge < 2**20 for edge in edges):
        raise PrintedError(f"{key} must be frames, height and width of at least 1")
    return edges[0], edges[1], edges[2]


@dataclass
class Line:
    """A line of the figure: frames of a clip under one query, or an image under several."""

    title: str
    panels: list[tuple[Frame, int, int, Query]]  # frame, its number, frames of the clip, query


def attention_figure(lines: list[Line]) -> bytes:
    """The frames in grey under the weights of a query, which are brightest where they are largest; a ring marks it."""
    shown = lines[:LINES_SHOWN]
    columns = max(len(line.panels) for line in shown)
    with matplotlib.rc_context(STYLE | {"axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}):
        figure = Figure(figsize=(max(3.4, 1.5 * columns), 1.75 * len(shown)), layout="constrained")
        grid = figure.subplots(len(shown), columns, squeeze=False)
        for axes_of_line, line in zip(grid, shown, strict=True):
            axes_of_line[0].set_title(line.title, loc="left", fontsize=7, color="#555555", parse_math=False)
            for axes, panel in zip(axes_of_line, line.panels, strict=False):
                draw_frame(axes, *panel)
            for axes in axes_of_line[len(line.panels) :]:
                axes.set_visible(False)
        return png(figure)


def draw_frame(axes: Axes, frame: Frame, place: int, frames: int, query: Query) -> None:
    height, width = frame.shape[:2]
    axes.imshow(frame.mean(-1) / 255, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    # A map may have fewer frames than the clip, where the network pools over time.
    steps = query.weights.shape[0]
    weights = query.weights[place * steps // frames]
    largest = query.weights.max()
    shares = weights / largest if largest > 0 else weights
    whole = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(shares, cmap=MAP_COLOUR, vmin=0, vmax=1, alpha=0.25 + 0.6 * shares, extent=whole)
    if place * steps // frames == int(query.at[0]):
        axes.plot(query.at[2] * width - 0.5, query.at[1] * height - 0.5, "o", markersize=9, markerfacecolor="none",
                  markeredgecolor="#56B4E9", markeredgewidth=1.6)  # fmt: skip
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks([])
