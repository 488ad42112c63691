"""The report's part on neural random-access machines: levels and errors by seed, errors by length, the program."""

from __future__ import annotations

import html
import math
import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loci.figures import COLOURS, STYLE, svg
from loci.runs import Record, Run, details_of, newest_steps, number, parse

Program = dict[str, Any]
CAPTION_COLUMNS = 110  # of 9 pt in a figure 10 inches wide


def is_ram(run: Run) -> bool:
    return any(seeds_of(record) for record in run.train + [details_of(e) for e in run.evaluations])


def seeds_of(record: Record) -> list[Record]:
    listed = record.get("seeds")
    return [seed for seed in listed if isinstance(seed, dict)] if isinstance(listed, list) else []


def solved_table(run: Run) -> str:
    """How many machines of the run's seeds learned the task, with the interval that so few seeds allow."""
    details = details_of(run.evaluations[-1]) if run.evaluations else {}
    meanings = {measure.name: measure.meaning for measure in run.measures}
    rows = []
    for name in ("solved", "generalises", "exact"):
        rate = details.get(name)
        if not isinstance(rate, dict) or not math.isfinite(number(rate.get("seeds"))):
            continue
        interval = rate.get("interval")
        low, high = map(number, interval) if isinstance(interval, list) and len(interval) == 2 else (math.nan, math.nan)
        share = f"{100 * low:.0f} to {100 * high:.0f} %" if math.isfinite(low + high) else ""
        counts = f"{number(rate.get('seeds')):.0f} of {number(rate.get('of')):.0f}"
        meaning = html.escape(meanings.get(name, ""))
        rows.append(f"<tr><td>{name}</td><td>{counts}</td><td>{share}</td><td>{meaning}</td></tr>")
    if not rows:
        return ""
    head = "<tr><th></th><th>seeds</th><th>95 % interval</th><th></th></tr>"
    return f'<table class="facts">{head}{"".join(rows)}</table>'


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
            apart = min(0.02, 0.3 / len(points))  # so that lines of one level can be told apart
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
    last = details_of(run.evaluations[-1]) if run.evaluations else {}
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
    for folder in newest_steps(run):
        file = folder / "program.json"
        if file.is_file():
            return read_program(file, run), text_of(folder / "program.txt")
    return None, ""


def text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def read_program(file: Path, run: Run) -> Program | None:
    """The program, checked as far as it is drawn: a file that was changed by hand becomes a note."""
    try:
        return checked_program(parse(file.read_text(encoding="utf-8", errors="replace")))
    except (ValueError, KeyError, TypeError) as error:
        run.notes.append(f"{file.parent.name}/{file.name} could not be read: {error!r}")
        return None


def checked_program(program: Any) -> Program:
    registers, repeats = program["registers"], program["repeats"]
    names = program["modules"]
    check(is_count(registers, 64) and registers > 0 and is_count(repeats, 64), "registers or repeats")
    check(isinstance(names, list) and len(names) <= 4096 and all(isinstance(n, str) for n in names), "modules")
    check(isinstance(program["circuits"], list) and len(program["circuits"]) <= 4096, "circuits")
    check(isinstance(program["table"], list) and len(program["table"]) <= 2**20, "table")
    size = len(names) * repeats
    for circuit in program["circuits"]:
        modules, sources = circuit["modules"], circuit["registers"]
        check(isinstance(modules, list) and len(modules) == size, "modules of a circuit")
        for operands in modules:
            is_list = isinstance(operands, list) and len(operands) <= 2
            check(operands is None or (is_list and all(is_count(o, registers + size) for o in operands)), "operands")
        good = isinstance(sources, list) and len(sources) == registers
        check(good and all(is_count(source, registers + size) for source in sources), "registers of a circuit")
        check(isinstance(circuit["stop"], bool), "stop")
    return program


def is_count(value: Any, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= limit


def check(good: bool, what: str) -> None:
    if not good:
        raise ValueError(f"{what} of another form")


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
            axes.set_title(textwrap.fill(title, CAPTION_COLUMNS), loc="left", fontsize=9, color="#555555")
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
        for operand, source in enumerate(circuit["modules"][i]):
            if source in place:
                wire(source, place[registers + i], COLOURS[operand * 2])
        box(place[registers + i], names[i], "#E3F0FA")
    axes.set_xlim(-0.5, end + 0.5)
    axes.set_ylim(-registers + 0.3, 0.7)
    axes.axis("off")
