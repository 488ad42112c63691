"""The pictures of a report: what x_figure() gives is the bytes of one image file, what x_plot() gives a Figure of
Matplotlib (loci.plots). No backend is chosen and pyplot keeps none of them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from loci.runs import Counts, Measure, Record, Run, Series, memory_layers, memory_series, series

# Okabe and Ito's colours: told apart by colour-blind readers too; yellow is left out, too pale for a line.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555"]
LINE_STYLES = ["-", "--", ":", "-."]
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "legend.frameon": False,
    "svg.hashsalt": "loci",
}
LARGEST_PICTURE = 512  # cells a side; larger tables are averaged down to it

Getter = Callable[[Run], Series]


def arms_of(runs: list[Run]) -> list[str]:
    return list(dict.fromkeys(run.arm for run in runs))


def colour_of(arm: str, runs: list[Run]) -> str:
    return COLOURS[arms_of(runs).index(arm) % len(COLOURS)]


def loss_figure(runs: list[Run], x: str) -> bytes | None:
    """The loss of each arm: in validation, training faint behind; of training alone where that is all there is."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(4.0)
        if evaluated_often(runs) and any(curve(run.evaluations, x)[0].size for run in runs):
            for run in runs:
                colour = colour_of(run.arm, runs)
                axes.plot(*smooth(curve(run.train, x)), color=colour, linewidth=0.8, alpha=0.3, zorder=1)
            draw_arms(axes, runs, lambda run: curve(run.evaluations, x))
            title = "validation; training faint"
        else:
            draw_arms(axes, runs, lambda run: smooth(curve(run.train, x)))
            title = "training"
            for run in runs:
                points = curve(run.evaluations, x)
                axes.plot(*points, "D", color=colour_of(run.arm, runs), markersize=5, zorder=4)
                title = "training; diamonds: validation" if points[0].size else title
        if not any(line.get_xdata().size for line in axes.lines):
            return None
        limit_to_the_interesting_part(axes)
        unit = next((m.unit for run in runs for m in run.measures if m.name == "loss" and m.unit), "")
        axes.set_ylabel(f"loss ({unit})" if unit else "loss")
        finish_axes(axes, runs, x, title)
        return svg(figure)


def measure_figure(runs: list[Run], measure: Measure) -> bytes | None:
    """A measure of the evaluations over training; None where no run was evaluated twice."""
    if not evaluated_often(runs):
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(3.4)
        if not draw_arms(axes, runs, lambda run: series(run.evaluations, "units", measure.name)):
            return None
        axes.set_xlim(left=0)
        if measure.unit == "%":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        unit = f" ({measure.unit})" if measure.unit not in ("", "%") else ""
        axes.set_ylabel(measure.title + unit)
        finish_axes(axes, runs, "units", "validation")
        return svg(figure)


def new_figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, height), layout="constrained")
    return figure, figure.add_subplot()


def finish_axes(axes: Axes, runs: list[Run], x: str, title: str) -> None:
    label_x(axes, x, runs)
    axes.set_title(title, loc="left", fontsize=10, color="#555555")
    add_legend(axes)


def add_legend(axes: Axes) -> None:
    """Beneath the axes, so that it covers no line; in as many columns as its longest name leaves room for."""
    labels = axes.get_legend_handles_labels()[1]
    if labels:
        columns = max(1, min(len(labels), 66 // (max(map(len, labels)) + 6)))
        axes.figure.legend(loc="outside lower center", ncols=columns, fontsize=9)


def memory_figure(runs: list[Run], key: str) -> bytes | None:
    figure = memory_plot(runs, key)
    return None if figure is None else svg(figure)


def memory_plot(runs: list[Run], key: str) -> Figure | None:
    """Usage or KL over training: of every memory layer in the evaluations, or the mean that training logs."""
    layers = memory_layers(runs)
    if not layers:
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(3.6)
        drawn, source = False, "validation"
        if not evaluated_often(runs):
            drawn = draw_arms(axes, runs, lambda run: series(run.train, "units", key))
            source = "training" if drawn else source
        if not drawn:
            for position, layer in enumerate(layers):
                suffix = f", {layer_title(layer)}" if len(layers) > 1 else ""
                style = LINE_STYLES[position % len(LINE_STYLES)]
                drawn |= draw_arms(
                    axes, runs, lambda run, at=layer: memory_series(run, at, "units", key), suffix, style
                )
        if not drawn:
            return None
        axes.set_xlim(left=0)
        if key == "usage":
            axes.set_ylim(0, 1.02)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
            axes.set_ylabel("usage (share of rows read)")
        else:
            axes.set_ylim(bottom=0)
            axes.set_ylabel("KL to even use (nats)")
        finish_axes(axes, runs, "units", source)
        return figure


def evaluated_often(runs: list[Run]) -> bool:
    """Whether there are validation curves, rather than points at the end."""
    return any(len(run.evaluations) > 1 for run in runs)


def layer_title(layer: str) -> str:
    return f"layer {layer}" if layer.isdigit() else layer


def slots_figure(counts: Counts) -> bytes:
    return png(slots_plot(counts))


def slots_plot(counts: Counts) -> Figure:
    """How often each row was read: as the square of both sub-keys, and by rank."""
    grid = slot_grid(counts)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.0, 4.2), layout="constrained")
        figure.get_layout_engine().set(wspace=0.06)
        left, right = figure.subplots(1, 2, width_ratios=[1.1, 1])
        colours = matplotlib.colormaps["viridis"].with_extremes(bad="#D9D9D9")
        shown = np.ma.masked_less_equal(np.nan_to_num(grid), 0)
        extent = (-0.5, slot_sides(counts.size)[1] - 0.5, slot_sides(counts.size)[0] - 0.5, -0.5)
        top = max(float(grid[np.isfinite(grid)].max()), 1.0)
        bottom = min(float(shown.min()), 1.0) if shown.count() else 1.0
        norm = LogNorm(bottom, top if top > bottom else bottom * 10)
        image = left.imshow(shown, cmap=colours, norm=norm, interpolation="nearest", extent=extent, aspect="equal")
        left.grid(False)
        left.set_xlabel("second sub-key")
        left.set_ylabel("first sub-key")
        left.set_title("reads of each row; grey: never", loc="left", fontsize=10, color="#555555")
        figure.colorbar(image, ax=left)  # a label would touch that of the right panel; the title says it

        ordered = np.sort(counts)[::-1]
        touched = int(np.count_nonzero(ordered))
        if touched:
            rank = np.unique(np.geomspace(1, touched, num=400).astype(np.int64))
            right.loglog(rank, ordered[rank - 1], color=COLOURS[0])
            right.axhline(counts.sum() / counts.size, color="#888888", linestyle="--", linewidth=1, label="even use")
            right.legend()
        right.set_xlabel("rank of the row")
        right.set_ylabel("reads")
        share = touched / counts.size
        right.set_title(f"{share:.1%} of {counts.size:,} rows were read", loc="left", fontsize=10, color="#555555")
        return figure


def slot_sides(rows: int) -> tuple[int, int]:
    """The sub-keys of both halves for a number of rows: n2 = ceil(sqrt(R)), n1 = ceil(R / n2)."""
    second = math.isqrt(rows - 1) + 1
    return -(-rows // second), second


def slot_grid(counts: Counts) -> np.ndarray:
    """Read counts [rows] as a picture [n1, n2]; NaN where the square has no row; averaged when it is large."""
    first, second = slot_sides(counts.size)
    step = -(-second // LARGEST_PICTURE)
    grid = np.full((-(-first // step) * step, -(-second // step) * step), np.nan)
    flat = np.full(first * second, np.nan)
    flat[: counts.size] = counts
    grid[:first, :second] = flat.reshape(first, second)
    if step == 1:
        return grid
    blocks = grid.reshape(grid.shape[0] // step, step, grid.shape[1] // step, step)
    present = np.isfinite(blocks).sum(axis=(1, 3))
    return np.where(present > 0, np.nansum(blocks, axis=(1, 3)) / np.maximum(present, 1), np.nan)


SEEDS_HINT = "Thick: the mean of an arm's seeds; thin: each seed."


def seeds_hint(runs: list[Run]) -> str:
    return SEEDS_HINT if len(runs) > len(arms_of(runs)) else ""


def draw_arms(axes: Axes, runs: list[Run], get: Getter, suffix: str = "", style: str = "-") -> bool:
    """A thin line for each seed of an arm, and a thick one for their mean. True if anything was drawn."""
    drawn = False
    for arm in arms_of(runs):
        seeds = [points for run in runs if run.arm == arm and (points := get(run))[0].size]
        if not seeds:
            continue
        drawn = True
        label = arm + suffix + (f" ({len(seeds)} seeds)" if len(seeds) > 1 else "")
        line = {"color": colour_of(arm, runs), "linestyle": style, "zorder": 3}
        common = on_common_grid(seeds) if len(seeds) > 1 else None
        if common is None:
            marker = {"marker": "o" if min(x.size for x, _ in seeds) <= 40 else None, "markersize": 3}
            for place, points in enumerate(seeds):
                axes.plot(*points, **line, **marker, label=None if place else label)
            continue
        for points in seeds:
            axes.plot(*points, **(line | {"zorder": 2}), linewidth=0.7, alpha=0.55)
        grid, values = common
        axes.plot(grid, values.mean(axis=0), **line, linewidth=2, label=label)
    return drawn


def on_common_grid(seeds: list[Series]) -> Series | None:
    """The seeds at the points of all of them, within the range that all have: grid [P], values [seeds, P]."""
    low, high = max(x[0] for x, _ in seeds), min(x[-1] for x, _ in seeds)
    grid = np.unique(np.concatenate([x for x, _ in seeds]))
    grid = grid[(grid >= low) & (grid <= high)]
    if grid.size < 2:
        return None
    return grid, np.stack([np.interp(grid, x, y) for x, y in seeds])


def curve(records: list[Record], x: str) -> Series:
    """The loss by units, or by minutes."""
    position, loss = series(records, x, "loss")
    return (position / 60 if x == "seconds" else position), loss


def smooth(points: Series, window: int = 9) -> Series:
    """A running mean: single batches are noisy."""
    x, y = points
    if y.size < 3 * window:
        return points
    return x[window // 2 : -(window // 2)], np.convolve(y, np.ones(window) / window, mode="valid")


def limit_to_the_interesting_part(axes: Axes) -> None:
    """Cuts off the fall of the first steps, which would flatten everything after it."""
    lines = [(np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in axes.lines]
    end = max(x.max() for x, _ in lines if x.size)
    later = np.concatenate([y[x >= 0.08 * end] for x, y in lines])
    low, high = float(later.min()), float(later.max())
    margin = 0.05 * (high - low) or 0.1
    axes.set_xlim(left=0)
    axes.set_ylim(low - margin, high + margin)


def label_x(axes: Axes, x: str, runs: list[Run]) -> None:
    if x == "seconds":
        axes.set_xlabel("training time (minutes)")
    else:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlabel(f"training {next((run.unit for run in runs if run.start), 'units')}")
    axes.locator_params(axis="x", nbins=6)  # more labels would touch


def svg(figure: Figure) -> bytes:
    return _image(figure, "svg", {"Date": None})


def png(figure: Figure) -> bytes:
    return _image(figure, "png", {"Software": None})


def _image(figure: Figure, kind: str, metadata: dict[str, str | None]) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format=kind, dpi=144, metadata=metadata)
    return buffer.getvalue()
