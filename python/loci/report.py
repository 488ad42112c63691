"""One self-contained HTML page about runs: the comparison, the curves, and how the memories use their rows.

Usage: python -m loci.report RUN_OR_OUT... [--out FILE] [--tensorboard DIR]
"""

from __future__ import annotations

import argparse
import base64
import errno
import html
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from loci import figures, ram
from loci.comparison import comparison_table
from loci.runs import Experiment, Record, ReportError, Run, read_experiment, summary_of

EXIT_INPUT = 3
EXIT_RESOURCES = 4

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1080px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; margin-bottom: 0; } h2 { font-size: 1.2em; margin-top: 2em; }
p.from { color: #666; margin-top: 0.2em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.87em; }
th, td { padding: 0.35em 0.7em; text-align: right; border-bottom: 1px solid #e4e4e4; white-space: nowrap; }
th { font-weight: 600; border-bottom-color: #888; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
td small { display: block; color: #888; } tr.best td.loss { font-weight: 700; }
.wide { overflow-x: auto; } .pair { display: flex; flex-wrap: wrap; gap: 1em; } .pair img { width: calc(50% - 0.5em); }
img { max-width: 100%; }
.swatch { display: inline-block; width: 0.8em; height: 0.8em; margin-right: 0.5em; border-radius: 2px; }
ul.notes { color: #a33; } p.hint { color: #666; max-width: 46em; }
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loci.report", description="Writes one HTML page about runs.")
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN_OR_OUT", help="a run, or a folder of ARM/seed-N/ runs"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page (default: report.html in the first folder)")
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", help="also write TensorBoard event files")
    options = parser.parse_args(arguments)
    out = options.out or options.runs[0] / "report.html"
    try:
        experiments = [read_experiment(path) for path in options.runs]
        runs = all_runs(experiments)
        if not any(run.train or run.evaluations for run in runs):
            raise ReportError(f"report: RUN must have logged a step, got {len(runs)} run(s) without any")
    except (ReportError, OSError) as error:
        print(error, file=sys.stderr)
        return EXIT_INPUT
    try:
        write_page(out, page(experiments, runs))
        if options.tensorboard:
            from loci.tensorboard import write_events

            write_events(runs, options.tensorboard)
    except OSError as error:
        print(f"report: cannot write: {error}", file=sys.stderr)
        return EXIT_RESOURCES
    print(f"report: {out}")
    return 0


def all_runs(experiments: list[Experiment]) -> list[Run]:
    """The runs of all arguments; where two have the same arm and seed, arms carry the argument that they come from."""
    runs = [run for experiment in experiments for run in experiment.runs]
    if len({(run.arm, run.seed) for run in runs}) < len(runs):
        for experiment in experiments:
            for run in experiment.runs:
                run.arm = f"{experiment.path}: {run.arm}"
            experiment.summary = [row | {"arm": f"{experiment.path}: {row.get('arm')}"} for row in experiment.summary]
    return runs


def write_page(out: Path, text: str) -> None:
    """Replaces a file at once. A link stays, its target is written; a device or a pipe is written into."""
    if out.exists() and not out.is_file():
        out.write_text(text, encoding="utf-8")
        return
    target = Path(os.path.realpath(out))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(out))
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name[:200]}.part-{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, target)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def page(experiments: list[Experiment], runs: list[Run]) -> str:
    names = ", ".join(experiment.path.resolve().name for experiment in experiments)
    sections = [
        section(
            "Comparison",
            comparison_table([row for experiment in experiments for row in rows_of(experiment)], runs),
            "Means over the seeds; beneath a loss its lowest and highest seed. Loss in nats per token; differences are "
            "paired by seed.",
        ),
        notes(runs),
        *(ram_sections(run) for run in runs if ram.is_ram(run)),
        section("Loss", pair((figures.loss_figure(runs, x), f"loss by {x}") for x in ("tokens", "seconds"))),
        section(
            "Use of the memories",
            pair((figures.memory_figure(runs, key), f"{key} over training") for key in ("usage", "kl")),
            "Usage is the share of a table's rows that the tokens read; the KL divergence says how far the "
            "weights on the rows are from even (0: every row carries the same, ln(rows): one row carries all).",
        ),
        section(
            "Rows read in training",
            slots(runs),
            "In the steps logged last before the newest checkpoint, of the first seed.",
        ),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Loci: {html.escape(names)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>\n'
        f'<h1>Loci report</h1><p class="from">{html.escape(names)}: '
        f"{len(figures.arms_of(runs))} arms, {len(runs)} runs</p>\n"
        + "\n".join(part for part in sections if part)
        + "</html>\n"
    )


def ram_sections(run: Run) -> str:
    """Levels and errors by seed, errors by length, and the program of one run of machines."""
    name = html.escape(f"{run.arm}, seed {run.seed}" if run.seed else run.arm)
    training, lengths = ram.training_figure(run), ram.length_figure(run)
    program, text = ram.newest_program(run)
    circuits = ram.circuit_figure(program) if program else None
    listing = f"<pre>{html.escape(text)}</pre>" if text else ""
    return "\n".join(
        (
            section(
                f"Machines of {name}: learning",
                image(training, "svg+xml", "level and error by seed") if training else "",
                "A line a seed. A level is a length of the task; it rises when the error has become small.",
            ),
            section(
                f"Machines of {name}: error by length",
                image(lengths, "svg+xml", "error by length") if lengths else "",
                "A line a seed, at the last evaluation.",
            ),
            section(
                f"Machines of {name}: the program",
                (image(circuits, "svg+xml", "circuits") if circuits else "") + listing,
                "Of the best finished seed, after pruning: what runs for which registers that are zero. Blue and "
                "green: first and second operand; orange: new registers.",
            ),
        )
    )


def rows_of(experiment: Experiment) -> list[Record]:
    """summary.json, and for runs that it does not have (yet) their last evaluation."""
    known = {(str(row.get("arm")), str(row.get("seed"))) for row in experiment.summary}
    return experiment.summary + [summary_of(run) for run in experiment.runs if (run.arm, run.seed) not in known]


def section(title: str, body: str, hint: str = "") -> str:
    return f"<h2>{title}</h2>\n" + (f'<p class="hint">{hint}</p>\n' if hint else "") + body if body else ""


def pair(pictures: Iterable[tuple[bytes | None, str]]) -> str:
    images = [image(data, "svg+xml", alt) for data, alt in pictures if data]
    return f'<div class="pair">{"".join(images)}</div>' if images else ""


def image(data: bytes, kind: str, alt: str) -> str:
    return f'<img alt="{html.escape(alt)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def slots(runs: list[Run]) -> str:
    """One picture for each memory of each arm, of its first seed that has counts."""
    parts, seen = [], set()
    for run in runs:
        for layer, counts in run.reads.items():
            if (run.arm, layer) not in seen:
                seen.add((run.arm, layer))
                title = f"{run.arm}, {figures.layer_title(layer)}" + (f", seed {run.seed}" if run.seed else "")
                parts.append(f"<h3>{html.escape(title)}</h3>{image(figures.slots_figure(counts), 'png', title)}")
    return "\n".join(parts)


def notes(runs: list[Run]) -> str:
    lines = [
        f"{run.arm} {('seed ' + run.seed) if run.seed else ''}".strip() + f": {note}"
        for run in runs
        for note in run.notes
    ]
    return '<ul class="notes">' + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>" if lines else ""


if __name__ == "__main__":
    sys.exit(main())
