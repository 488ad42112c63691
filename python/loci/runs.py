"""Reads what training leaves behind: run directories, and experiment folders with ARM/seed-N/ runs and summary.json.

A run that was killed leaves half a line or no evaluation: what is there is read, what is not becomes a note of the run.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from loci.run_files import CONFIG, LOG, TASK, counters_file, part_of_counters, step_of

Record = dict[str, Any]
T = TypeVar("T")
Counts = npt.NDArray[np.int64]
Series = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


class ReportError(Exception):
    """Bad input: its text is the one line a user sees."""


@dataclass(frozen=True)
class Measure:
    """A column of the comparison, as the task declares it."""

    name: str
    digits: int = 3
    lower_is_better: bool = True
    unit: str = ""
    meaning: str = ""

    @property
    def title(self) -> str:
        return self.name.replace("_", " ")


@dataclass
class Run:
    """One training run: its records by kind, the row read counts of its newest checkpoint, and what is wrong."""

    arm: str
    seed: str
    path: Path
    start: Record = field(default_factory=dict)
    train: list[Record] = field(default_factory=list)
    evaluations: list[Record] = field(default_factory=list)
    windows: list[Record] = field(default_factory=list)  # kind "memory": what the memories read in a hundred steps
    events: list[Record] = field(default_factory=list)  # kind "reinitialise"
    blocks: list[Record] = field(default_factory=list)  # kind "non_local": what a block does, every hundred steps
    end: Record | None = None
    reads: dict[str, Counts] = field(default_factory=dict)
    config: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.arm}, seed {self.seed}" if self.seed else self.arm

    @property
    def unit(self) -> str:
        unit = self.start.get("unit")
        return unit if isinstance(unit, str) and unit else "units"

    @property
    def measures(self) -> list[Measure]:
        return measures_of(self.start.get("measures"))


@dataclass
class Experiment:
    """One argument of the report: a run directory, or a folder of them."""

    path: Path
    runs: list[Run]
    summary: Record

    @property
    def rows(self) -> list[Record]:
        """The runs of summary.json, and for runs that it does not have (yet) their last evaluation."""
        known = {(str(row.get("arm")), str(row.get("seed"))) for row in self.summary["runs"]}
        rows: list[Record] = self.summary["runs"]
        return rows + [row_of(run) for run in self.runs if (run.arm, run.seed) not in known]

    @property
    def measures(self) -> list[Measure]:
        listed = [measures_of(self.summary.get("measures"))] + [run.measures for run in self.runs]
        return list({measure.name: measure for group in reversed(listed) for measure in group}.values())

    @property
    def unit(self) -> str:
        return next((run.unit for run in self.runs if run.start), "units")


def number(value: Any) -> float:
    """A JSON value as a number; NaN for what is none."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def value_of(record: Record, name: str) -> float:
    """A measure of an evaluation, or of a row of the summary."""
    values = record.get("measures")
    return number(values.get(name)) if isinstance(values, dict) else math.nan


def details_of(record: Record) -> Record:
    details = record.get("details")
    return details if isinstance(details, dict) else {}


def measures_of(listed: Any) -> list[Measure]:
    """The declared measures; what is none is left out."""
    measures = []
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            digits = number(entry.get("digits"))
            measures.append(
                Measure(
                    entry["name"],
                    int(min(max(digits, 0), 17)) if math.isfinite(digits) else 3,
                    entry.get("lower_is_better") is not False,
                    str(entry.get("unit", "")),
                    str(entry.get("meaning", "")),
                )
            )
    return measures


def series(records: Iterable[Record], x: str, y: str) -> Series:
    """The finite points of two keys, in order of x; y may also be a measure."""
    return finite_points((number(r.get(x)), number(r.get(y)) if y in r else value_of(r, y)) for r in records)


def finite_points(pairs: Iterable[tuple[float, float]]) -> Series:
    points = np.array(list(pairs), dtype=np.float64).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    points = points[np.argsort(points[:, 0], kind="stable")]
    return points[:, 0], points[:, 1]


def memory_series(run: Run, layer: str, x: str, y: str) -> Series:
    """The same for one memory layer of the evaluations."""
    records = [
        {x: evaluation.get(x), y: memory.get(y)}
        for evaluation in run.evaluations
        for memory in memories(evaluation)
        if str(memory.get("layer")) == layer
    ]
    return series(records, x, y)


def memories(evaluation: Record) -> list[Record]:
    listed = details_of(evaluation).get("memories")
    return [memory for memory in listed if isinstance(memory, dict)] if isinstance(listed, list) else []


def memory_layers(runs: Iterable[Run]) -> list[str]:
    """The names of all memory layers, in order of appearance."""
    names = (str(m.get("layer")) for run in runs for evaluation in run.evaluations for m in memories(evaluation))
    return list(dict.fromkeys(names))


def printable(path: Path | str) -> str:
    """A path as text: bytes that are not UTF-8 become U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")


def read_experiment(path: Path) -> Experiment:
    shown = printable(path)
    if not path.is_dir():
        raise ReportError(
            f"report: RUN must be a folder, got {shown}" + (" (a file)" if path.exists() else " (missing)")
        )
    logs = [path / LOG]
    if not logs[0].is_file():
        logs = sorted(path.glob(f"*/{LOG}")) + sorted(path.glob(f"*/seed-*/{LOG}"))
    if not logs:
        raise ReportError(f"report: RUN must hold {LOG} or ARM/seed-N/{LOG}, got {shown} with neither")
    runs = [read_run(log.parent) for log in logs]
    summary = read_summary(path / "summary.json")
    order = list(dict.fromkeys(str(row.get("arm")) for row in summary["runs"]))
    runs.sort(key=lambda run: order.index(run.arm) if run.arm in order else len(order))
    return Experiment(path, runs, summary)


def parse(text: str) -> Any:
    """JSON, or ValueError; nesting that is too deep is no JSON of ours."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


class PrintedError(ValueError):
    """Why a file that `loci` printed into a run's folder is none of ours."""


def read_printed(run: Run, name: str, pick: Callable[[Any], T]) -> T | None:
    """What `pick` makes of such a file; None without one. A note of the run says what is wrong with it."""
    file = run.path / name
    if not file.is_file():
        return None
    try:
        return pick(parse(file.read_text(encoding="utf-8", errors="replace")))
    except (ValueError, OSError) as error:
        run.notes.append(f"{name} could not be read: {error}")
        return None


def read_run(path: Path) -> Run:
    real = path.resolve()
    name, parent = printable(real.name), printable(real.parent.name)
    seed = re.fullmatch(r"seed-(\w+)", name)
    run = Run(arm=parent if seed else name, seed=seed.group(1) if seed else "", path=path)
    broken = 0
    for line in (path / LOG).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = parse(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            broken += bool(line.strip())
            continue
        match record.get("kind"):
            case "start":
                run.start = record
            case "train":
                run.train.append(record)
            case "evaluation":
                run.evaluations.append(record)
            case "memory":
                run.windows.append(record)
            case "reinitialise":
                run.events.append(record)
            case "non_local":
                run.blocks.append(record)
            case "end":
                run.end = record
    config = path / CONFIG
    if config.is_file():
        run.config = config.read_text(encoding="utf-8", errors="replace")
    note_what_is_wrong(run, broken)
    run.reads = read_counts(run)
    return run


def note_what_is_wrong(run: Run, broken: int) -> None:
    if broken:
        run.notes.append(f"{broken} line{'s' * (broken > 1)} of {LOG} could not be read")
    if not run.train and not run.evaluations:
        run.notes.append("no step was logged")
    elif not run.evaluations:
        run.notes.append("no evaluation was logged")
    if run.end is None:
        run.notes.append("the run has not ended")
    bad = [record for record in run.train if not math.isfinite(number(record.get("loss")))]
    if bad:
        run.notes.append(f"the loss went bad at step {bad[0].get('step', '?')}")


def newest_steps(run: Run) -> list[Path]:
    """The step-N folders, newest first."""
    steps = {folder: step for folder in run.path.glob("step-*") if (step := step_of(folder)) is not None}
    return sorted(steps, key=lambda folder: steps[folder], reverse=True)


def read_counts(run: Run) -> dict[str, Counts]:
    """The row read counts of the newest checkpoint that has them, by layer."""
    for folder in newest_steps(run):
        if any(folder.glob(counters_file("*"))):
            return load_reads(folder, run.notes)
    return {}


def load_reads(folder: Path, notes: list[str]) -> dict[str, Counts]:
    """Reads in the last window, [N] by layer: the base of each table's counters with its deltas applied.

    Several processes write a table in parts (loci/train/table_parts.h)."""
    from safetensors import SafetensorError

    file = folder / TASK
    try:
        counted_from = int(_tensors(file, "counted_from")["counted_from"][0])
        parts: dict[tuple[str, str], list[Counts]] = {}
        for file in sorted(folder.glob(counters_file("*")), key=part_of_counters):
            table, _ = part_of_counters(file)
            base = file.name.removeprefix("counters.").removesuffix(".safetensors")
            counters = _tensors(file, "usage.")  # [N, 3] int32 each, loci/table/usage.h
            deltas = {int(p.name.split("-")[-1].split(".")[0]): p for p in folder.glob(f"table.{base}.delta-*")}
            for _, file in sorted(deltas.items()):
                row = _tensors(file, "row")["row"]
                for name, changed in _tensors(file, "usage.").items():
                    counters[name][row] = changed
            for name, values in counters.items():
                counts = np.where(values[:, 2] > counted_from, values[:, 0] & 0x7FFFFFFF, 0)
                parts.setdefault((table, name.removeprefix("usage.")), []).append(counts.astype(np.int64))
        reads = {name: np.concatenate(counts) for (_, name), counts in parts.items()}
    except (SafetensorError, OSError, ValueError, KeyError, IndexError) as error:
        notes.append(f"{folder.name}/{file.name} could not be read: {error}")
        return {}
    return dict(sorted(reads.items()))


def _tensors(file: Path, prefix: str) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys() if name.startswith(prefix)}


def read_summary(file: Path) -> Record:
    """summary.json; without runs when it is missing, since an experiment that still runs has none."""
    if not file.is_file():
        return {"runs": []}
    try:
        summary = parse(file.read_text(encoding="utf-8", errors="replace"))
    except ValueError as error:
        raise ReportError(f"report: {printable(file)} must be JSON, got {error}") from error
    rows = summary.get("runs") if isinstance(summary, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ReportError(f"report: {printable(file)} must be an object with a list of runs, got another value")
    result: Record = summary
    return result


def row_of(run: Run) -> Record:
    """A row like those of summary.json, from the last evaluation of a run."""
    last = run.evaluations[-1] if run.evaluations else {}
    row = {"arm": run.arm, "seed": run.seed, "units": last.get("units"), "seconds": last.get("seconds")}
    row |= {key: run.start.get(key) for key in ("parameters_dense", "parameters_table")}
    row["measures"] = last.get("measures")
    return row
