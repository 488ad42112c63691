#!/usr/bin/env python3
"""Draws recipes/addressed-memory/gains.svg from expected.csv beside it: gain over the plain model by training tokens.

Usage: tools/draw_gains.py
"""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import mean, stdev

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

FOLDER = Path(__file__).parent.parent / "recipes" / "addressed-memory"
LENGTHS = {"-short": 0.5, "": 2, "-long": 8}  # suffix of the arm; million tokens
MEMORIES = {"search": "#1f6f8b", "ngram": "#c8553d", "both": "#8a5a9e"}
TEXTS = {"novels": "-", "python": "--"}


def losses(path: Path) -> dict[tuple[str, str], dict[str, float]]:
    """Loss by (text, arm) and seed."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            found.setdefault((row["text"], row["arm"]), {})[row["seed"]] = float(row["loss"])
    return found


def gains(found: dict[tuple[str, str], dict[str, float]], text: str, arm: str) -> list[tuple[float, list[float]]]:
    """(million tokens, gain of each seed), for lengths that were run with two seeds or more."""
    points = []
    for suffix, tokens in LENGTHS.items():
        plain, memory = (found.get((text, name + suffix), {}) for name in ("plain", arm))
        seeds = sorted(plain.keys() & memory.keys())
        if len(seeds) > 1:
            points.append((tokens, [plain[s] - memory[s] for s in seeds]))
    return points


def main() -> None:
    matplotlib.rcParams.update({"svg.hashsalt": "loci", "svg.fonttype": "none", "font.size": 9})
    found = losses(FOLDER / "expected.csv")
    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    for text, style in TEXTS.items():
        for arm, colour in MEMORIES.items():
            points = gains(found, text, arm)
            axes.errorbar(
                [tokens for tokens, _ in points],
                [mean(values) for _, values in points],
                [stdev(values) for _, values in points],
                label=f"{arm}, {text}",
                color=colour,
                linestyle=style,
                marker="o",
                markersize=4,
                capsize=3,
            )
    axes.set_xscale("log")
    axes.set_xticks(list(LENGTHS.values()), [f"{tokens:g} M" for tokens in LENGTHS.values()], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("training tokens")
    axes.set_ylabel("gain over the plain model (nats a token)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, ncols=2)
    figure.savefig(FOLDER / "gains.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
