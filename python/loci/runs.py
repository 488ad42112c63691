"""Reads what training leaves behind: run directories, and experiment folders with ARM/seed-N/ runs and summary.json.

A run that was killed leaves half a line or no evaluation: what is there is read, what is not becomes a note of the run.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Record = dict[str, Any]
Counts = npt.NDArray[np.int64]
Series = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


class ReportError(Exception):
    """Bad input: its text is the one line a user sees."""


@dataclass
class Run:
    """One training run: its records by kind, the row read counts of its newest checkpoint, and what is wrong."""

    arm: str
    seed: str
    path: Path
    start: Record = field(default_factory=dict)
    train: list[Record] = field(default_factory=list)
    evaluations: list[Record] = field(default_factory=list)
    end: Record | None = None
    reads: dict[str, Counts] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass
class Experiment:
    """One argument of the report: a run directory, or a folder of them."""

    path: Path
    runs: list[Run]
    summary: list[Record]


def number(value: Any) -> float:
    """A JSON value as a number; NaN for what is none."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def series(records: Iterable[Record], x: str, y: str) -> Series:
    """The finite points of two keys, in order of x."""
    points = np.array([(number(r.get(x)), number(r.get(y))) for r in records], dtype=np.float64).reshape(-1, 2)
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
    listed = evaluation.get("memories")
    return [memory for memory in listed if isinstance(memory, dict)] if isinstance(listed, list) else []


def memory_layers(runs: Iterable[Run]) -> list[str]:
    """The names of all memory layers, in order of appearance."""
    names = (str(m.get("layer")) for run in runs for evaluation in run.evaluations for m in memories(evaluation))
    return list(dict.fromkeys(names))


def read_experiment(path: Path) -> Experiment:
    if not path.is_dir():
        raise ReportError(
            f"report: RUN must be a folder, got {path}" + (" (a file)" if path.exists() else " (missing)")
        )
    logs = [path / "metrics.jsonl"]
    if not logs[0].is_file():
        logs = sorted(path.glob("*/metrics.jsonl")) + sorted(path.glob("*/seed-*/metrics.jsonl"))
    if not logs:
        raise ReportError(f"report: RUN must hold metrics.jsonl or ARM/seed-N/metrics.jsonl, got {path} with neither")
    runs = [read_run(log.parent) for log in logs]
    summary = read_summary(path / "summary.json")
    order = list(dict.fromkeys(str(row.get("arm")) for row in summary))
    runs.sort(key=lambda run: order.index(run.arm) if run.arm in order else len(order))
    return Experiment(path, runs, summary)


def read_run(path: Path) -> Run:
    real = path.resolve()
    seed = re.fullmatch(r"seed-(\w+)", real.name)
    run = Run(arm=real.parent.name if seed else real.name, seed=seed.group(1) if seed else "", path=path)
    broken = 0
    for line in (path / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
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
            case "end":
                run.end = record
    if broken:
        run.notes.append(f"{broken} line{'s' * (broken > 1)} of metrics.jsonl could not be read")
    if not run.train and not run.evaluations:
        run.notes.append("no step was logged")
    elif not run.evaluations:
        run.notes.append("no evaluation was logged")
    if run.end is None:
        run.notes.append("the run has not ended")
    bad = [record for record in run.train + run.evaluations if not math.isfinite(number(record.get("loss")))]
    if bad:
        run.notes.append(f"the loss went bad at step {bad[0].get('step', '?')}")
    run.reads = read_counts(run)
    return run


def read_counts(run: Run) -> dict[str, Counts]:
    """The row read counts of the newest checkpoint that has them, by layer."""
    steps = [(int(p.name[5:]), p) for p in run.path.glob("step-*") if p.name[5:].isdigit()]
    for _, folder in sorted(steps, reverse=True):
        if any(folder.glob("counters.*.safetensors")):
            return load_reads(folder, run.notes)
    return {}


def load_reads(folder: Path, notes: list[str]) -> dict[str, Counts]:
    """Reads in the last window, [N] by layer: the base of each table's counters with its deltas applied."""
    from safetensors import SafetensorError

    reads: dict[str, Counts] = {}
    file = folder / "task.safetensors"
    try:
        counted_from = int(_tensors(file, "counted_from")["counted_from"][0])
        for file in sorted(folder.glob("counters.*.safetensors")):
            table = file.name.removeprefix("counters.").removesuffix(".safetensors")
            counters = _tensors(file, "usage.")  # [N, 3] int32 each, loci/table/usage.h
            deltas = {int(p.name.split("-")[-1].split(".")[0]): p for p in folder.glob(f"table.{table}.delta-*")}
            for _, file in sorted(deltas.items()):
                row = _tensors(file, "row")["row"]
                for name, changed in _tensors(file, "usage.").items():
                    counters[name][row] = changed
            for name, values in counters.items():
                counts = np.where(values[:, 2] > counted_from, values[:, 0] & 0x7FFFFFFF, 0)
                reads[name.removeprefix("usage.")] = counts.astype(np.int64)
    except (SafetensorError, OSError, ValueError, KeyError, IndexError) as error:
        notes.append(f"{folder.name}/{file.name} could not be read: {error}")
        return {}
    return dict(sorted(reads.items()))


def _tensors(file: Path, prefix: str) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys() if name.startswith(prefix)}


def read_summary(file: Path) -> list[Record]:
    """The rows of summary.json; none when it is missing, since an experiment that still runs has none."""
    if not file.is_file():
        return []
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReportError(f"report: {file} must be JSON, got {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ReportError(f"report: {file} must be a list of objects, got another value")
    return rows


def summary_of(run: Run) -> Record:
    """A row like those of summary.json, from the last evaluation of a run."""
    last = run.evaluations[-1] if run.evaluations else {}
    layers = memories(last)
    row = {"arm": run.arm, "seed": run.seed, "train_tokens": last.get("tokens"), "seconds": last.get("seconds")}
    row |= {key: run.start.get(key) for key in ("parameters_dense", "parameters_table")}
    row |= {key: last.get(key) for key in ("loss", "bits_per_byte")}
    row |= {key: _mean([number(layer.get(key)) for layer in layers]) for key in ("usage", "kl")}
    return row


def _mean(values: list[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
