"""Names of the files of a run and its checkpoints (loci/train/checkpoint_folder.h); reports need them without torch."""

from __future__ import annotations

import re
from pathlib import Path

# In the run directory.
CONFIG = "config.toml"
LOG = "metrics.jsonl"

# In a step-N folder.
MODEL = "model.safetensors"
TASK = "task.safetensors"
TOKENIZER = "tokenizer.model"
MEMORIES = "memories.toml"  # of memories without a model


def table_file(name: str) -> str:
    return f"table.{name}.safetensors"


def counters_file(table: str) -> str:
    return f"counters.{table}.safetensors"


def part_of_counters(file: Path) -> tuple[str, int]:
    """The table of a file of counters, and its part, from 1 on; 0: the whole table (loci/train/table_parts.h)."""
    match = re.fullmatch(r"counters\.(.*?)(?:\.part-([0-9]{1,9})-of-[0-9]{1,9})?\.safetensors", file.name)
    return (file.name, 0) if match is None else (match[1], int(match[2] or 0))


def step_of(folder: Path) -> int | None:
    """N of a step-N folder. N is of plain digits: "²" is a digit to Python, but no number."""
    match = re.fullmatch(r"step-(0|[1-9][0-9]{0,17})", folder.name)
    return None if match is None else int(match[1])
