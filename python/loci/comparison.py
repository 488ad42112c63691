"""The comparison of arms as an HTML table."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable

from loci import figures
from loci.runs import Record, Run, number

Format = Callable[[float], str]


def comparison_table(rows: list[Record], runs: list[Run]) -> str:
    """Arms as rows: means over the seeds, the spread beneath, and the paired difference to the first arm."""
    by_arm: dict[str, list[Record]] = {}
    for row in rows:
        by_arm.setdefault(str(row.get("arm")), []).append(row)
    columns = [
        ("parameters<br>dense", "parameters_dense", count),
        ("parameters<br>table", "parameters_table", count),
        ("training<br>tokens", "train_tokens", count),
        ("training<br>time", "seconds", duration),
        ("bits<br>per byte", "bits_per_byte", fixed(3)),
        ("tokens/s<br>inference", "tokens_per_second_inference", count),
        ("usage", "usage", percent),
        ("KL", "kl", fixed(2)),
    ]
    columns = [column for column in columns if any(math.isfinite(number(row.get(column[1]))) for row in rows)]
    first = next(iter(by_arm))
    losses = {arm: mean(row.get("loss") for row in group) for arm, group in by_arm.items()}
    best = min((loss for loss in losses.values() if math.isfinite(loss)), default=math.nan)

    def cells(arm: str, group: list[Record]) -> str:
        colour = figures.colour_of(arm, runs) if arm in figures.arms_of(runs) else "transparent"
        difference = "" if arm == first else signed(paired_difference(group, by_arm[first]))
        mark = " class=best" if losses[arm] == best else ""
        return (
            f'<tr{mark}><td><span class="swatch" style="background:{colour}"></span>'
            f"{html.escape(arm)}</td><td>{len(group)}</td>"
            f'<td class="loss">{spread([row.get("loss") for row in group], fixed(3))}</td><td>{difference}</td>'
            + "".join(f"<td>{form(mean(row.get(key) for row in group))}</td>" for _, key, form in columns)
            + "</tr>"
        )

    head = "<th>arm</th><th>seeds</th><th>validation<br>loss</th>"
    head += f"<th>against<br>{html.escape(first)}</th>" + "".join(f"<th>{title}</th>" for title, _, _ in columns)
    body = "\n".join(cells(arm, group) for arm, group in by_arm.items())
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>'


def paired_difference(group: list[Record], reference: list[Record]) -> float:
    """The mean difference in loss over the seeds that both arms have."""
    of_seed = {str(row.get("seed")): number(row.get("loss")) for row in reference}
    return mean(number(row.get("loss")) - of_seed.get(str(row.get("seed")), math.nan) for row in group)


def mean(values: Iterable[object]) -> float:
    finite = [value for value in map(number, values) if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def spread(values: list[object], form: Format) -> str:
    finite = [value for value in map(number, values) if math.isfinite(value)]
    if len(finite) < 2:
        return form(mean(finite))
    return f"{form(mean(finite))}<small>{form(min(finite))} to {form(max(finite))}</small>"


def fixed(digits: int) -> Format:
    return lambda value: f"{value:.{digits}f}" if math.isfinite(value) else "&ndash;"


def signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "&minus;") if math.isfinite(value) else "&ndash;"


def percent(value: float) -> str:
    return f"{100 * value:.1f} %" if math.isfinite(value) else "&ndash;"


def count(value: float) -> str:
    if not math.isfinite(value):
        return "&ndash;"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "&ndash;"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
