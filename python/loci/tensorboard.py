"""Writes the numbers of runs as TensorBoard event files, one folder a run."""

from __future__ import annotations

import math
from pathlib import Path

from loci.runs import Run, memories, number, value_of


def write_events(runs: list[Run], folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    for run in runs:
        with SummaryWriter(str(folder / run.arm / f"seed-{run.seed or 0}")) as writer:

            def add(tag: str, record: dict, key: str) -> None:
                value, step = number(record.get(key)), number(record.get("step"))
                if math.isfinite(value) and math.isfinite(step):
                    writer.add_scalar(f"{tag}/{key}", value, int(step))

            for record in run.train:
                for key in ("loss", "learning_rate", "units_per_second", "memory_bytes"):
                    add("train", record, key)
            for evaluation in run.evaluations:
                for measure in run.measures:
                    value = {measure.name: value_of(evaluation, measure.name), "step": evaluation.get("step")}
                    add("validation", value, measure.name)
                for memory in memories(evaluation):
                    for key in ("usage", "usage_at_1", "kl", "gini", "collision", "never_touched"):
                        add(f"memory {memory.get('layer')}", memory | {"step": evaluation.get("step")}, key)
