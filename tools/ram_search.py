"""A random search over the settings of neural random-access machines, as a recipe: every trial is an arm.

Usage: python tools/ram_search.py TASK [--arms 24] [--seed 0] [--difficulty 6] [--seeds 16]
           [--updates 4000] > search.toml
       loci train search.toml --out OUT            the arms one after another, each with its seeds side by side
       loci train search.toml --out OUT --resume   after an interruption: finished arms are kept

The same arguments give the same arms, so a longer search with the same --seed only adds to a shorter one. Each arm ends
at its first exact machine. Machines are numbered from 100 on: measure what the search finds on fresh seeds, from 0 on.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

TASKS = "access increment copy reverse swap permutation listk listsearch merge walkbst".split()

# Ranges of what the paper gives no values for, around what solved seven tasks (recipes/ram-reverse, recipes/ram-listk).
# Noise is per coordinate: over 36,000 of them 0.05 is as long as a gradient of norm 10.
CHOICES: dict[str, list[Any]] = {
    "model.registers": [5, 8, 12],
    "model.repeats": [1, 2],
    "model.width": [48, 64, 96],
    "model.loss": ["mixture", "expected"],
    "model.output_scale": [0.3, 1.0],
    "model.clip_activations": [100, 1000],
    "data.raise_error": [0.1, 0.2, 0.4, 0.6, 0.9],
    "update.learning_rate": [2e-3, 4e-3, 8e-3],
    "update.clip_norm": [1, 10, 100],
    "update.noise": [0.0, 0.0, 1e-4, 3e-4, 1e-3, 3e-3],
    "update.noise_decay": [0.9995, 0.9998],
    "update.entropy": [0.001, 0.003, 0.01, 0.03, 0.1],
    "train.batch": [16, 32],
}


def toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def recipe(task: str, arms: int, seed: int, difficulty: int, seeds: int, updates: int) -> str:
    chance = random.Random(f"{task} {seed}")
    lines = [
        f"# Random search for {task}: tools/ram_search.py {task} --arms {arms} --seed {seed} --difficulty {difficulty} "
        f"--seeds {seeds} --updates {updates}",
        'task = "ram"\nseeds = [100]\n',
        f'[data]\ntask = "{task}"\ndifficulty = {difficulty}\n',
        f"[search]\nseeds = {seeds}\nenough = 1\nlearn_updates = {updates}\n",
        f'[train]\nsteps = {updates + 2400}\nprecision = "float32"\nlog_every = 100\ncheckpoint_every = 500\n',
    ]
    for arm in range(arms):
        chosen = {key: chance.choice(values) for key, values in CHOICES.items()}
        settings = ", ".join(f'"{key}" = {toml(value)}' for key, value in chosen.items())
        lines.append(f'[[arms]]\nname = "trial-{arm:03}"\nset = {{{settings}}}\n')
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--arms", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--difficulty", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--updates", type=int, default=4000)
    options = parser.parse_args()
    print(recipe(**vars(options)))


if __name__ == "__main__":
    main()
