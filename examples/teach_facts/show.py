"""The table of the arms, and recall against forgetting over the steps."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

Results = dict[str, list[dict]]


def read_results(out: Path, names: list[str]) -> Results:
    found = {
        name: [json.loads(file.read_text()) for file in sorted((out / name).glob("seed-*.json"))] for name in names
    }
    found = {name: runs for name, runs in found.items() if runs}
    if not found:
        raise ValueError(f"table: {out} must hold results of an arm, got none")
    return found


def spread(values: list[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def risen(run: dict, name: str) -> float:
    """From before the first step to after the last."""
    return run["curve"][-1][name] - run["curve"][0][name]


def table(results: Results) -> str:
    lines = [
        "| arm | rate | recall % | reworded % | WikiText-2, nats more | novels, nats more | known facts kept % "
        "| numbers changed | seconds | MB to ship |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        last = [run["curve"][-1] for run in runs]
        cells = [
            f"{name} ({len(runs)})",
            f"{runs[0]['rate']:g}",
            spread([100 * end["recall"] for end in last], 1),
            spread([100 * end["recall_reworded"] for end in last], 1),
            spread([risen(run, "wikitext") for run in runs], 3),
            spread([risen(run, "novels") for run in runs], 3),
            spread([100 * run["curve"][-1]["known"] / run["curve"][0]["known"] for run in runs], 1),
            f"{statistics.mean(run['changed'] for run in runs):,.0f}",
            f"{statistics.mean(run['seconds'] for run in runs):.0f}",
            f"{statistics.mean(run['shipped'] for run in runs) / 1e6:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(results: Results, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for color, (name, runs) in enumerate(results.items()):
        for place, run in enumerate(runs):
            start = run["curve"][0]["wikitext"]
            forgotten = [point["wikitext"] - start for point in run["curve"]]
            recalled = [100 * point["recall_reworded"] for point in run["curve"]]
            axes.plot(forgotten, recalled, "o-", color=f"C{color}", markersize=3, label=None if place else name)
    axes.set_xlabel("forgetting: loss on WikiText-2 test, nats a token more")
    axes.set_ylabel("recall of reworded questions, %")
    axes.legend()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
