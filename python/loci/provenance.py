"""How the runs of a report were made: machine, date, versions, data and settings."""

from __future__ import annotations

import html
import json
import tomllib
from typing import Any

from loci.runs import Record, Run

FACTS = {
    "machine": lambda start: start.get("cpu"),
    "threads": lambda start: start.get("threads"),
    "kernels and precision": lambda start: join(start.get("level"), start.get("precision")),
    "versions": lambda start: join(prefixed("loci", start.get("loci")), prefixed("torch", start.get("torch"))),
    "data": lambda start: data_text(start.get("data")),
}
MANY_SETTINGS = 12  # more of them are folded away
RUN_KEYS = ("arm", "seed")  # of config.toml, which the rows and columns name already


def facts(runs: list[Run]) -> str:
    """A table of facts that lists different values with the arms that have them, and the settings of the arms."""
    runs = [run for run in runs if run.start]
    if not runs:
        return ""
    dates = sorted(str(run.start["time"]) for run in runs if run.start.get("time"))
    rows = (
        [f"<tr><td>date</td><td>{html.escape(' to '.join(dict.fromkeys((dates[0], dates[-1]))))}</td></tr>"]
        if dates
        else []
    )
    for title, get in FACTS.items():
        values: dict[str, list[str]] = {}
        for run in runs:
            text = get(run.start)
            if text not in (None, ""):
                values.setdefault(str(text), []).append(run.title)
        if not values:
            continue
        cell = "<br>".join(
            html.escape(value) + (f" <small>({html.escape(few(names))})</small>" if len(values) > 1 else "")
            for value, names in values.items()
        )
        rows.append(f"<tr><td>{title}</td><td>{cell}</td></tr>")
    table = f'<table class="facts">{"".join(rows)}</table>' if rows else ""
    return table + settings(runs)


def few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def join(*parts: Any) -> str:
    return ", ".join(str(part) for part in parts if part not in (None, ""))


def prefixed(word: str, value: Any) -> str:
    return f"{word} {value}" if value not in (None, "") else ""


def data_text(data: Any) -> str:
    """The facts that the task gives of its data, such as "training files 120, training bytes 4,000,000"."""
    if not isinstance(data, dict):
        return ""
    return ", ".join(
        f"{key} {value:,}" if isinstance(value, int) else f"{key} {value}" for key, value in sorted(data.items())
    )


def settings(runs: list[Run]) -> str:
    """What the arms have in common as one list, and a table of the keys in which they differ."""
    arms: dict[str, Record] = {}
    for run in runs:
        arms.setdefault(run.arm, flat(run))
    keys = list(dict.fromkeys(key for values in arms.values() for key in values))
    different = [key for key in keys if len({values.get(key, "") for values in arms.values()}) > 1]
    parts = []
    if different:
        head = "<th>setting</th>" + "".join(f"<th>{html.escape(arm)}</th>" for arm in arms)
        body = "".join(
            f"<tr><td>{html.escape(key)}</td>"
            + "".join(f"<td>{html.escape(values.get(key, 'unset'))}</td>" for values in arms.values())
            + "</tr>"
            for key in different
        )
        table = f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'
        title = "Settings in which the arms differ"
        if len(different) > MANY_SETTINGS:
            parts.append(f"<details><summary>{title}</summary>{table}</details>")
        else:
            parts.append(f"<h3>{title}</h3>{table}")
    common = [f"{key} = {next(v[key] for v in arms.values() if key in v)}" for key in keys if key not in different]
    if common:
        title = "Settings that all arms share" if len(arms) > 1 else "Settings"
        parts.append(f"<details><summary>{title}</summary><pre>{html.escape(chr(10).join(common))}</pre></details>")
    return "\n".join(parts)


def flat(run: Run) -> dict[str, str]:
    """config.toml as dotted keys and JSON values."""
    try:
        tree = tomllib.loads(run.config)
    except (tomllib.TOMLDecodeError, RecursionError):
        return {}
    leaves: dict[str, str] = {}

    def add(table: Record, prefix: str) -> None:
        for key, value in table.items():
            if isinstance(value, dict):
                add(value, f"{prefix}{key}.")
            else:
                leaves[prefix + key] = json.dumps(value, default=str)

    add({key: value for key, value in tree.items() if key not in RUN_KEYS}, "")
    return leaves
