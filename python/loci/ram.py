"""The report's part on neural random-access machines: levels and errors by seed, errors by length, the program."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loci.figures import COLOURS, STYLE, svg
from loci.runs import Record, Run, number

Program = dict[str, Any]
OPERANDS = {"READ": 1, "ZERO": 0, "ONE": 0, "TWO": 0, "INC": 1, "DEC": 1}  # the other standard modules have two


def is_ram(run: Run) -> bool:
    return any(isinstance(record.get("seeds"), list) for record in run.train + run.evaluations)


def seeds_of(record: Record) -> list[Record]:
    listed = record.get("seeds")
    return [seed for seed in listed if isinstance(seed, dict)] if isinstance(listed, list) else []


def training_figure(run: Run) -> bytes | None:
    """Curriculum level and error of each seed over the updates."""
    points: dict[str, list[tuple[float, float, float]]] = {}
    for record in run.train:
        for seed in seeds_of(record):
            values = (number(record.get("step")), number(seed.get("level")), number(seed.get("error")))
            if all(map(math.isfinite, values)):
                points.setdefault(str(seed.get("seed")), []).append(values)
    if not points:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.0, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for place, (name, values) in enumerate(points.items()):
            step, level, error = np.array(sorted(values)).T
            style = {"color": COLOURS[place % len(COLOURS)], "linewidth": 1, "alpha": 0.8, "label": name}
            apart = min(0.02, 0.3 / len(points))  # so that lines of one level are seen beside each other
            left.step(step, level + apart * (place - len(points) / 2), where="post", **style)
            right.plot(step, error, **style)
        left.set_ylabel("curriculum level")
        right.set_ylabel("error at the level (share of cells)")
        for axes in (left, right):
            axes.set_xlabel("updates")
            axes.set_xlim(left=0)
        right.set_ylim(0, 1.02)
        if len(points) <= 8:
            right.legend(title="seed", fontsize=8)
        return svg(figure)


def length_figure(run: Run) -> bytes | None:
    """Cell error against length of every solved seed, as trained and discretised, at the last evaluation."""
    last = run.evaluations[-1] if run.evaluations else {}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.0, 3.4), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, kind, title in zip(panels, ("soft", "discrete"), ("as trained", "discretised"), strict=True):
            for place, seed in enumerate(seeds_of(last)):
                draw_errors(axes, seed, kind, COLOURS[place % len(COLOURS)])
            axes.set_title(title, loc="left", fontsize=10, color="#555555")
            axes.set_xlabel("length")
            axes.set_ylim(-0.02, 1.02)
        if not any(line.get_xdata().size for axes in panels for line in axes.lines):
            return None
        panels[0].set_ylabel("cell error")
        return svg(figure)


def draw_errors(axes: Axes, seed: Record, kind: str, colour: str) -> None:
    listed = seed.get(kind)
    rows = (
        [(number(row.get("length")), number(row.get("cell_error"))) for row in listed]
        if isinstance(listed, list)
        else []
    )
    rows = sorted(row for row in rows if all(map(math.isfinite, row)))
    if rows:
        length, error = np.array(rows).T
        axes.plot(length, error, "o-", markersize=3, linewidth=1, alpha=0.8, color=colour)


def newest_program(run: Run) -> tuple[Program | None, str]:
    """program.json and program.txt of the newest checkpoint that has them."""
    steps = [(int(p.name[5:]), p) for p in run.path.glob("step-*") if p.name[5:].isdigit()]
    for _, folder in sorted(steps, reverse=True):
        file = folder / "program.json"
        if file.is_file():
            return read_program(file, run), text_of(folder / "program.txt")
    return None, ""


def text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def read_program(file: Path, run: Run) -> Program | None:
    try:
        program = json.loads(file.read_text(encoding="utf-8"))
        circuits = program["circuits"]
        assert all(isinstance(circuit["modules"], list) for circuit in circuits)
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        run.notes.append(f"{file.parent.name}/{file.name} could not be read: {error!r}")
        return None
    return program


def circuit_figure(program: Program) -> bytes | None:
    """One row a circuit: registers to the left, the modules that are left in order, new registers to the right."""
    circuits = program["circuits"]
    if not circuits:
        return None
    names = program["modules"] * program["repeats"]
    registers = program["registers"]
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(10.0, (0.5 + 0.35 * registers) * len(circuits) + 0.4), layout="constrained")
        grid = figure.subplots(len(circuits), 1, squeeze=False)
        for row, (axes, circuit) in enumerate(zip(grid[:, 0], circuits, strict=True)):
            draw_circuit(axes, circuit, names, registers)
            title = f"circuit {row}, for {patterns_of(program, row)}" + ("; stops" if circuit["stop"] else "")
            axes.set_title(title, loc="left", fontsize=9, color="#555555")
        return svg(figure)


def patterns_of(program: Program, row: int) -> str:
    """The patterns of zero registers that lead to a circuit, such as r0=0 r1>0."""
    registers = range(program["registers"])
    found = [pattern for pattern, circuit in enumerate(program["table"]) if circuit == row]
    texts = [" ".join(f"r{r}{'=0' if pattern >> r & 1 else '>0'}" for r in registers) for pattern in found]
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")


def draw_circuit(axes: Axes, circuit: dict[str, Any], names: list[str], registers: int) -> None:
    kept = [i for i, operands in enumerate(circuit["modules"]) if operands is not None]
    place: dict[int, tuple[float, float]] = {r: (0.0, float(-r)) for r in range(registers)}
    for column, i in enumerate(kept):
        place[registers + i] = (column + 1.0, -((column * 2) % max(1, registers)) - 0.4)
    end = len(kept) + 1.0

    def box(at: tuple[float, float], text: str, colour: str) -> None:
        axes.text(
            *at, text, ha="center", va="center", fontsize=8, bbox={"boxstyle": "round", "fc": colour, "ec": "#888888"}
        )

    def wire(source: int, to: tuple[float, float], colour: str) -> None:
        arrow = {"arrowstyle": "->", "color": colour, "shrinkA": 12, "shrinkB": 12, "connectionstyle": "arc3,rad=0.08"}
        axes.annotate("", to, place[source], arrowprops=arrow)

    for r in range(registers):
        box(place[r], f"r{r}", "#F2F2F2")
        source = circuit["registers"][r]
        if source != r and source in place:
            wire(source, (end, float(-r)), COLOURS[1])
            box((end, float(-r)), f"r{r}'", "#FBE9DD")
    for i in kept:
        for operand, source in enumerate(circuit["modules"][i][: OPERANDS.get(names[i], 2)]):
            if source in place:
                wire(source, place[registers + i], COLOURS[operand * 2])
        box(place[registers + i], names[i], "#E3F0FA")
    axes.set_xlim(-0.5, end + 0.5)
    axes.set_ylim(-registers + 0.3, 0.7)
    axes.axis("off")
