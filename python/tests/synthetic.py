"""Made-up runs in the format that the trainer writes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

MEASURES = [
    {"name": "loss", "digits": 3, "lower_is_better": True, "unit": "nats", "meaning": "nats per token"},
    {"name": "bits_per_byte", "digits": 3, "lower_is_better": True, "unit": "bits", "meaning": "bits per byte"},
    {"name": "usage", "digits": 0, "lower_is_better": False, "unit": "%", "meaning": "share of rows read"},
    {"name": "kl", "digits": 2, "lower_is_better": True, "unit": "nats", "meaning": "how unevenly"},
]
ARMS = {"base": 4.6, "deep": 4.5, "memory": 4.4, "memory-calibrated": 4.3, "base-equal-time": 4.4}


def records(arm: str, seed: int, steps: int = 200, evaluations: int = 10) -> list[dict[str, Any]]:
    noise = np.random.default_rng(seed + sum(map(ord, arm)))
    final = ARMS.get(arm, 4.5) + 0.02 * noise.standard_normal()
    pace = 1.6 if arm.startswith("memory") else 1.0
    table = 16384 * 128 if arm.startswith("memory") else 0

    def loss(step: int) -> float:
        return final + 5 * math.exp(-step / 12) + 1.2 * math.exp(-step / 70)

    def at(step: int) -> dict[str, Any]:
        return {"step": step, "units": 5000 * step, "seconds": pace * step}

    start = {"parameters_dense": 1_450_000, "parameters_table": table, "threads": 2, "level": "avx2", "seed": seed}
    start |= {"task": "language_model", "unit": "tokens", "measures": MEASURES if table else MEASURES[:2]}
    start |= {"time": "2026-11-29T08:20:00Z", "cpu": "Made-up CPU", "precision": "float32", "loci": "0.1.0"}
    start |= {"torch": "2.13.0", "data": {"training bytes": 4_000_000, "training files": 120}}
    rows: list[dict[str, Any]] = [{"kind": "start"} | start]
    for step in range(1, steps + 1):
        value = loss(step) + 0.08 * noise.standard_normal()
        measures = {"loss": value, "learning_rate": 1e-3, "units_per_second": 5000 / pace, "memory_bytes": 5 * 10**8}
        if table:
            measures |= {"usage": 0.5 - 0.4 * math.exp(-step / 40), "kl": 1.7 + 4 * math.exp(-step / 40)}
        rows.append({"kind": "train"} | at(step) | measures)
        if step % (steps // evaluations) == 0:
            values = {"loss": loss(step), "bits_per_byte": loss(step) / 3.1}
            evaluation = {"kind": "evaluation"} | at(step) | {"measures": values, "details": {}}
            if table:
                usage = (0.9 if "calibrated" in arm else 0.3) * (1 - math.exp(-step / 60))
                kl = 1.5 + 5 * math.exp(-step / 50)
                values |= {"usage": usage, "kl": kl}
                evaluation["details"] = {"memories": [{"layer": 1, "usage": usage, "usage_at_1": usage / 2, "kl": kl}]}
            rows.append(evaluation)
    rows.append({"kind": "end"} | at(steps))
    return rows


def write_run(folder: Path, rows: list[dict[str, Any]], reads: np.ndarray | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(f"seed = 1\n[model]\nwidth = 128\nlayers = {len(folder.parent.name)}\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if reads is not None:
        (folder / "step-200").mkdir()
        write_reads(folder / "step-200", reads)
    return folder


def write_reads(folder: Path, reads: np.ndarray, part: str = "") -> None:
    """Counters of layer 1 as the trainer writes them: a base, whose even rows a delta replaces.

    part: of a table that several processes write, such as ".part-2-of-3"."""
    counters = np.zeros((reads.size, 3), np.int32)
    counters[:, 0] = reads
    counters[:, 2] = 190
    changed = np.arange(0, reads.size, 2)
    base = counters.copy()
    base[changed] = (5, 0, 100)
    table = f"layers.1.memory.values{part}"
    save_file({"usage.1": base}, folder / f"counters.{table}.safetensors")
    save_file({"row": changed, "usage.1": counters[changed]}, folder / f"table.{table}.delta-200.safetensors")
    save_file({"counted_from": np.array([150])}, folder / "task.safetensors")


def row_reads(rows: int = 16384, spread: float = 1.5, seed: int = 1) -> np.ndarray:
    """Counts as product keys give them: the outer product of two sub-key popularities, with noise."""
    noise = np.random.default_rng(seed)
    side = math.isqrt(rows - 1) + 1
    rate = np.outer(noise.lognormal(0, spread, side), noise.lognormal(0, spread, side)).ravel()[:rows]
    return noise.poisson(3 * rate)


def write_experiment(folder: Path, seeds: tuple[int, ...] = (1, 2)) -> Path:
    runs = []
    for arm in ARMS:
        for seed in seeds:
            rows = records(arm, seed)
            has_memory = arm.startswith("memory")
            spread = 0.6 if "calibrated" in arm else 1.8
            write_run(folder / arm / f"seed-{seed}", rows, row_reads(spread=spread) if has_memory else None)
            last = [row for row in rows if row["kind"] == "evaluation"][-1]
            runs.append(
                {"arm": arm, "seed": seed, "units": last["units"], "seconds": last["seconds"], "as_long_as": None}
                | {key: rows[0][key] for key in ("parameters_dense", "parameters_table")}
                | {"measures": last["measures"], "units_per_second_inference": 31000.0}
                | {"baselines": [{"name": "counted bigrams", "numbers": 5000, "measures": {"loss": 4.321 + seed}}]}
            )
    for row in runs:
        row["as_long_as"] = "memory-calibrated" if row["arm"] == "base-equal-time" else None
    summary = {"task": "language_model", "unit": "tokens", "measures": MEASURES, "runs": runs}
    summary["verdict"] = "At the same training time, memory-calibrated is 0.1 nats better.\n"
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder
