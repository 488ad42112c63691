#!/usr/bin/env python3
"""Plots of `loci bench memory --json` reports: cost against table size, tokens at once, and width.

  loci bench memory --rows 4096 16384 65536 262144 1048576 --tokens 4096 --no-bfloat16 --json > rows.json
  bench/plot.py docs/performance/avx2 rows.json tokens.json width.json      writes rows.svg, tokens.svg, width.svg

Each report varies one of rows, tokens and width, and gives the plot its name. Reports that belong to one plot (a large
table is a run of its own) are joined by commas: rows.json,larger.json.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "loci"
import matplotlib.pyplot as plt  # noqa: E402

LABELS = {"rows": "rows of the table", "tokens": "tokens at once", "width": "width of the model"}
COLOURS = {"forward": "#1f6f8b", "train": "#c8553d"}


def draw(report, varied, path):
    results = [r for r in report["results"] if r["dtype"] == "float32"]
    figure, axes = plt.subplots(figsize=(6, 3.8))
    for name, colour in COLOURS.items():
        points = sorted((r for r in results if r["name"] == name), key=lambda r: r[varied])
        axes.plot(
            [r[varied] for r in points], [r["us_per_token"] for r in points], "o-", color=colour, label=f"{name}, Loci"
        )
        stock = [r for r in points if r["stock_us_per_token"] is not None]
        axes.plot(
            [r[varied] for r in stock],
            [r["stock_us_per_token"] for r in stock],
            "s--",
            color=colour,
            alpha=0.6,
            label=f"{name}, stock LibTorch",
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel(LABELS[varied])
    axes.set_ylabel("microseconds a token")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def joined(sources):
    return {"results": [r for source in sources.split(",") for r in json.loads(Path(source).read_text())["results"]]}


def varied_by(report):
    varied = [key for key in LABELS if len({r[key] for r in report["results"] if r["name"] in COLOURS}) > 1]
    if len(varied) != 1:
        sys.exit(f"plot: a report must vary one of {', '.join(LABELS)}, got {', '.join(varied) or 'none'}")
    return varied[0]


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for source in sys.argv[2:]:
        report = joined(source)
        varied = varied_by(report)
        draw(report, varied, folder / f"{varied}.svg")
        print(folder / f"{varied}.svg")


if __name__ == "__main__":
    main()
