"""One self-contained HTML page about runs: comparison, curves, how the memories use their rows, how it was made.

Usage: python -m loci.report RUN_OR_OUT... [--out FILE] [--pictures DIR] [--tensorboard DIR]
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import errno
import html
import os
import re
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from loci import figures, flows, pictures, places, poses, provenance, ram
from loci.attention import LINES_SHOWN, attention_figure
from loci.comparison import comparison
from loci.console import EXIT_INPUT, EXIT_RESOURCES, EXIT_USAGE, LACKING, complain
from loci.runs import Experiment, ReportError, Run, printable, read_experiment
from loci.watch import BLOCK_PANELS, blocks_figure, watch_figure, watched

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1080px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; margin-bottom: 0; } h2 { font-size: 1.2em; margin-top: 2em; }
h3 { font-size: 1em; margin: 1.4em 0 0.4em; overflow-wrap: anywhere; }
p.from { color: #666; margin-top: 0.2em; overflow-wrap: anywhere; } p.verdict { font-size: 1.1em; max-width: 46em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.87em; }
th, td { padding: 0.35em 0.7em; text-align: right; border-bottom: 1px solid #e4e4e4; white-space: nowrap; }
th { font-weight: 600; border-bottom-color: #888; vertical-align: bottom; } th small { font-weight: 400; color: #888; }
th:first-child, td:first-child { text-align: left; }
td small { display: block; color: #888; } tr.best td.compared { font-weight: 700; }
table.facts td { white-space: normal; text-align: left; overflow-wrap: anywhere; min-width: 6em; }
.wide { overflow-x: auto; } .pair { display: flex; flex-wrap: wrap; gap: 1em; } .pair img { width: calc(50% - 0.5em); }
img { max-width: 100%; height: auto; }
.swatch { display: inline-block; width: 0.8em; height: 0.8em; margin-right: 0.5em; border-radius: 2px; }
ul.notes { color: #a33; } p.hint { color: #666; max-width: 46em; }
dl { color: #666; font-size: 0.87em; display: grid; grid-template-columns: max-content auto; gap: 0 1em; }
dt { font-weight: 600; } dd { margin: 0; }
pre { overflow-x: auto; font-size: 0.8em; background: #f6f6f6; padding: 0.7em; }
@media (max-width: 700px) {
  body { margin: 1em auto; padding: 0 0.7em; }
  .pair img { width: 100%; } th, td { padding: 0.3em 0.45em; }
  .scroll { overflow-x: auto; } .scroll img { max-width: none; width: 640px; }
  dl { display: block; } dd { margin-bottom: 0.4em; }
}
"""


def main(arguments: list[str] | None = None) -> int:
    """The command `loci-report` and `python -m loci.report`: returns the exit status."""
    parser = argparse.ArgumentParser(prog="loci-report", description="Writes one HTML page about runs.")
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN_OR_OUT", help="a run, or a folder of ARM/seed-N/ runs"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page (default: report.html in the first folder)")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="also write every picture of the page as a file")
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", help="also write TensorBoard event files")
    options = parser.parse_args(arguments)
    out = options.out or options.runs[0] / "report.html"
    try:
        experiments = [read_experiment(path) for path in options.runs]
        runs = all_runs(experiments)
        if not any(run.train or run.evaluations for run in runs):
            raise ReportError(f"report: RUN must have logged a step, got {len(runs)} run(s) without any")
    except (ReportError, OSError) as error:
        return complain(f"report: cannot read: {error}" if isinstance(error, OSError) else str(error), EXIT_INPUT)
    target = out
    try:
        text = page(experiments, runs)
        write_page(out, text)
        if options.pictures:
            target = options.pictures
            write_pictures(target, text)
        if options.tensorboard:
            from loci.tensorboard import write_events

            target = options.tensorboard
            write_events(runs, target)
        if standard_descriptor(out) != 1:
            print(f"report: {printable(out)}", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python would complain once more when it flushes at its end
    except OSError as error:
        status = EXIT_RESOURCES if error.errno in LACKING else EXIT_USAGE
        return complain(f"report: cannot write {printable(target)}: {error.strerror or error}", status)
    return 0


def all_runs(experiments: list[Experiment]) -> list[Run]:
    """The runs of all arguments; where two have the same arm and seed, arms carry the argument that they come from."""
    runs = [run for experiment in experiments for run in experiment.runs]
    if len({(run.arm, run.seed) for run in runs}) < len(runs):
        for experiment in experiments:
            prefix = f"{printable(experiment.path)}: "
            for run in experiment.runs:
                run.arm = prefix + run.arm
            for row in experiment.summary["runs"]:
                row["arm"] = f"{prefix}{row.get('arm')}"
                for other in ("as_long_as", "starts_from"):
                    if row.get(other):
                        row[other] = f"{prefix}{row[other]}"
    return runs


def standard_descriptor(path: Path) -> int:
    """1 or 2 for /dev/stdout and its like, whatever is behind it; else -1."""
    try:
        wanted = path.stat()
    except OSError:
        return -1
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), wanted):
                return descriptor
    return -1


def write_page(out: Path, text: str) -> None:
    """Writes a file whole or not at all, by the rules of loci/base/durable_file.h: standard output and what is
    no regular file are written into, and of a link the target is written."""
    data = text.encode("utf-8", "replace")
    descriptor = standard_descriptor(out)
    if descriptor >= 0 or (out.exists() and not stat.S_ISREG(out.stat().st_mode)):
        with open(os.dup(descriptor) if descriptor >= 0 else out, "wb", buffering=0) as file:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
        return
    target = Path(os.path.realpath(out))
    if target.is_symlink():  # a loop of links leads nowhere
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(out))
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name[:200]}.tmp-{os.getpid()}")
    try:
        part.write_bytes(data)
        os.replace(part, target)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def write_pictures(folder: Path, text: str) -> None:
    """The pictures of a page, named by their numbers and what they show."""
    folder.mkdir(parents=True, exist_ok=True)
    found = re.findall(r'<img alt="([^"]*)" src="data:image/([a-z]+)[^;]*;base64,([^"]*)">', text)
    for place, (alt, kind, data) in enumerate(found, 1):
        name = re.sub(r"[^a-z0-9]+", "-", html.unescape(alt).lower()).strip("-")[:60]
        (folder / f"{place:02}-{name}.{kind}").write_bytes(base64.b64decode(data))


def page(experiments: list[Experiment], runs: list[Run]) -> str:
    names = ", ".join(printable(experiment.path.resolve().name) for experiment in experiments)
    machines = [ram_sections(run) for run in runs if ram.is_ram(run)]  # first, for they may add notes
    plans = [part for run in runs for part in sections_of(run)]
    sections = [
        *(comparison_section(group, runs) for group in by_task(experiments)),
        notes(runs),
        *machines,
        curve_sections(runs),
        section(
            "Use of the memories",
            pair((figures.memory_figure(runs, key), f"{key} over training") for key in ("usage", "kl")),
            "Usage is the share of a table's rows that are read; the KL divergence says how far the weights on the "
            "rows are from even (0: every row carries the same, ln(rows): one row carries all).",
        ),
        section(
            "Windows of training",
            pair([(watch_figure(runs), "rows read in windows of steps")]),
            html.escape(watched(runs)),
        ),
        section(
            "Non-local blocks in training",
            pair((blocks_figure(runs, key), f"{title} over training") for key, title in BLOCK_PANELS.items()),
            "What a block adds to its input, and how evenly its positions look: every hundred steps, a few samples.",
        ),
        *plans,
        section(
            "Rows read in training",
            slots(runs),
            "In the steps logged last before the newest checkpoint, of the first seed.",
        ),
        section("How it was made", provenance.facts(runs)),
    ]
    arms = figures.arms_of(runs)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Loci: {html.escape(names)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>\n'
        f'<h1>Loci report</h1><p class="from">{html.escape(names)}: '
        f"{plural(len(arms), 'arm')}, {plural(len(runs), 'run')}</p>\n"
        + "\n".join(part for part in sections if part)
        + "</body></html>\n"
    )


def plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def by_task(experiments: list[Experiment]) -> list[list[Experiment]]:
    """Experiments whose arms can stand in one table: of the same units and the same first measure."""
    groups: dict[tuple[str, str], list[Experiment]] = {}
    for experiment in experiments:
        first = experiment.measures[0].name if experiment.measures else ""
        groups.setdefault((experiment.unit, first), []).append(experiment)
    return list(groups.values())


def comparison_section(experiments: list[Experiment], runs: list[Run]) -> str:
    measures = list({measure.name: measure for e in experiments for measure in e.measures}.values())
    rows = [row for experiment in experiments for row in experiment.rows]
    verdicts = [e.summary["verdict"] for e in experiments if isinstance(e.summary.get("verdict"), str)]
    verdict = "".join(f'<p class="verdict">{html.escape(text)}</p>' for text in verdicts if text.strip())
    return section(
        "Comparison",
        verdict + comparison(rows, measures, experiments[0].unit, runs),
        "Means over the seeds; beneath a mean the lowest and the highest seed. Differences are paired by seed.",
    )


def curve_sections(runs: list[Run]) -> str:
    """The loss, then every other measure that was evaluated more than once. What memories show has its own section."""
    parts = [
        section(
            "Loss",
            pair((figures.loss_figure(runs, x), f"loss by {x}") for x in ("units", "seconds")),
            figures.seeds_hint(runs),
        )
    ]
    shown = {"loss"} | ({"usage", "kl"} if figures.memory_layers(runs) else set())
    measures = {measure.name: measure for run in runs for measure in run.measures if measure.name not in shown}
    pictures = [(figures.measure_figure(runs, m), f"{m.title} over training") for m in measures.values()]
    parts.append(section("Measures over training", pair(pictures), figures.seeds_hint(runs)))
    return "\n".join(part for part in parts if part)


def ram_sections(run: Run) -> str:
    """Levels and errors by seed, errors by length, and the program of one run of machines."""
    name = html.escape(run.title)
    training, lengths = ram.training_figure(run), ram.length_figure(run)
    program, text = ram.newest_program(run)
    circuits = ram.circuit_figure(program) if program else None
    listing = f"<pre>{html.escape(text)}</pre>" if text else ""
    return "\n".join(
        (
            section(f"Machines of {name}: what they learned", ram.solved_table(run)),
            section(
                f"Machines of {name}: learning",
                scrolling(training, "level and error by seed"),
                "A line a seed. A level is a length of the task; it rises when the error has become small.",
            ),
            section(
                f"Machines of {name}: error by length",
                scrolling(lengths, "error by length"),
                "A line a seed, at the last evaluation.",
            ),
            section(
                f"Machines of {name}: the program",
                scrolling(circuits, "circuits") + listing,
                "Of the best finished seed, after pruning: what runs for which registers that are zero. Blue and "
                "green: first and second operand; orange: new registers.",
            ),
        )
    )


def plan_section(run: Run) -> str:
    """Whether rows are tied to places, of a run that has places.json."""
    found = places.read_places(run)
    if found is None:
        return ""
    heads = ("overlap", "p", "information", "p", "rows", "spread", "below half", "found")
    rows = "".join(
        f"<tr><td>{name}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        for name, cells in places.statistics(found)
    )
    table = f"<table><tr><th></th>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{rows}</table>"
    plan = scrolling(places.plan_figure(found), "floor plan")
    return section(
        f"Rows and places of {html.escape(run.title)}",
        f'<div class="wide">{table}</div>\n{plan}',
        "Camera positions from above, metres: grey all frames, coloured those that read the row, brighter for more.",
    )


def trajectory_section(run: Run) -> str:
    """Predicted against true positions, of a run that has poses.json."""
    found = poses.read_poses(run)
    if found is None:
        return ""
    paths = len(set(map(str, found["paths"])))
    return section(
        f"Trajectories of {html.escape(run.title)}",
        scrolling(poses.trajectories_figure(found), "trajectories"),
        "Test frames from above, metres: where the camera was and where the network says, "
        "a grey line between the two (of at most 100 frames of a path)." + some_of(paths, poses.SHOWN, "paths"),
    )


def sections_of(run: Run) -> tuple[str, ...]:
    return trajectory_section(run), plan_section(run), picture_section(run), flow_section(run)


def flow_section(run: Run) -> str:
    """Points on their way through an ODE block, of a run that has flows.json."""
    flow = flows.read_flow(run)
    if flow is None:
        return ""
    hint = (
        "The state of test samples over s, by the sign of their start."
        if flow.reflects
        else "Test samples in the plane as s grows, the two classes in two colours, and their ways."
    )
    return section(
        f"Flow of {html.escape(run.title)}",
        scrolling(flows.flow_figure(flow), "flow"),
        hint + some_of(flow.states.shape[1], flows.WAYS, "ways"),
    )


def picture_section(run: Run) -> str:
    """Images, reconstructions, maps of rows and where blocks look, of a run that has pictures.json."""
    found = pictures.read_pictures(run)
    if not found:
        return ""
    rows = (
        " A cell of a map is a position; its colour names the row that carries most weight there, the same colour the "
        "same row in all maps."
    )
    images = section(
        f"Images of {html.escape(run.title)}",
        f'<div class="scroll">{image(pictures.pictures_figure(found), "png", "images")}</div>',
        "As the network got them."
        + (" Beside them their reconstructions." if any(one.reconstruction is not None for one in found) else "")
        + (rows if any(one.maps for one in found) else "")
        + some_of(len(found), pictures.SHOWN, "images"),
    )
    lines = pictures.attention_lines(found)
    if not lines:
        return images
    looks = section(
        f"Where the blocks of {html.escape(run.title)} look",
        f'<div class="scroll">{image(attention_figure(lines), "png", "attention")}</div>',
        "Rings mark positions to which a non-local block adds much: bright is where they look."
        + some_of(len(lines), LINES_SHOWN, "lines"),
    )
    return images + "\n" + looks


def some_of(count: int, shown: int, what: str) -> str:
    return f" The first {shown} of {count} {what}." if count > shown else ""


def section(title: str, body: str, hint: str = "") -> str:
    return f"<h2>{title}</h2>\n" + (f'<p class="hint">{hint}</p>\n' if hint else "") + body if body else ""


def pair(pictures: Iterable[tuple[bytes | None, str]]) -> str:
    images = [image(data, "svg+xml", alt) for data, alt in pictures if data]
    return f'<div class="pair">{"".join(images)}</div>' if images else ""


def scrolling(data: bytes | None, alt: str) -> str:
    """A picture that is too wide for a phone keeps a size at which it can be read."""
    return f'<div class="scroll">{image(data, "svg+xml", alt)}</div>' if data else ""


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
                picture = f'<div class="scroll">{image(figures.slots_figure(counts), "png", title)}</div>'
                parts.append(f"<h3>{html.escape(title)}</h3>{picture}")
    return "\n".join(parts)


def notes(runs: list[Run]) -> str:
    lines = [f"{run.title}: {note}" for run in runs for note in run.notes]
    return '<ul class="notes">' + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>" if lines else ""


if __name__ == "__main__":
    sys.exit(main())
