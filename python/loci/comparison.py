"""The comparison of arms as HTML tables: at equal training units, and at equal training time."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from loci import figures
from loci.runs import Measure, Record, Run, number, value_of

Format = Callable[[float], str]
Rows = list[Record]


@dataclass
class Column:
    title: str
    value: Callable[[Record], float]
    form: Format


def comparison(rows: Rows, measures: list[Measure], unit: str, runs: list[Run]) -> str:
    """A table of the arms that saw equally many units from the same start, one of those that others go on from, and
    one of each arm that was given the time of another. Arms that go on count the units of their start."""
    arms = by_arm(rows)
    as_long_as = {arm: str(group[0].get("as_long_as") or "") for arm, group in arms.items()}
    starts: dict[str, dict[str, Rows]] = {"": {}}  # drawn weights, then those of arms and files
    goes_on = {arm: number(group[0].get("units_before")) > 0 for arm, group in arms.items()}
    continued = {str(group[0].get("starts_from")) for arm, group in arms.items() if goes_on[arm]}
    for arm, group in arms.items():
        if not as_long_as[arm] and arm not in continued:
            start = "" if goes_on[arm] else str(group[0].get("starts_from") or "")
            starts.setdefault(start, {})[arm] = group
    parts = []
    for start, equal_units in starts.items():
        if equal_units:
            title = f"At equal training {unit}" + (f" from the weights of {start}" if start else "")
            parts.append(f"<h3>{html.escape(title)}</h3>{comparison_table(equal_units, measures, unit, runs)}")
    if before := {arm: group for arm, group in arms.items() if arm in continued}:
        parts.append(f"<h3>What others go on from</h3>{comparison_table(before, measures, unit, runs)}")
    for arm, other in as_long_as.items():
        if other in arms:
            table = comparison_table({other: arms[other], arm: arms[arm]}, measures, unit, runs)
            title = f"At equal training time: {arm} trained for as long as {other}"
            parts.append(f"<h3>{html.escape(title)}</h3>{table}")
    return "\n".join(parts) + explanations(measures)


def by_arm(rows: Rows) -> dict[str, Rows]:
    arms: dict[str, Rows] = {}
    for row in rows:
        arms.setdefault(str(row.get("arm")), []).append(row)
    return arms


def explanations(measures: list[Measure]) -> str:
    lines = [
        f"<dt>{html.escape(measure.title)}</dt><dd>{html.escape(measure.meaning)}; "
        f"{'lower' if measure.lower_is_better else 'higher'} is better</dd>"
        for measure in measures
        if measure.meaning
    ]
    return f"<dl>{''.join(lines)}</dl>" if lines else ""


def comparison_table(arms: dict[str, Rows], measures: list[Measure], unit: str, runs: list[Run]) -> str:
    """Arms as rows: means over the seeds, the spread beneath, and the paired difference to the first arm. Then what
    methods without a network reach on the same data."""
    rows = [row for group in arms.values() for row in group]
    columns = [column for column in columns_of(measures, unit) if any(math.isfinite(column.value(row)) for row in rows)]
    first = next(iter(arms))
    compared = measures[0] if measures else Measure("none")
    means = {arm: mean(value_of(row, compared.name) for row in group) for arm, group in arms.items()}
    finite = [value for value in means.values() if math.isfinite(value)]
    best = (min(finite) if compared.lower_is_better else max(finite)) if finite else math.nan

    def cells(arm: str, group: Rows) -> str:
        arm_mean = mean(value_of(row, compared.name) for row in group)
        colour = figures.colour_of(arm, runs) if arm in figures.arms_of(runs) else "transparent"
        difference = "" if arm == first else signed(paired_difference(group, arms[first], compared), compared)
        mark = " class=best" if arm in means and arm_mean == best and len(arms) > 1 else ""
        compared_cells = (
            f'<td class="compared">{spread([value_of(row, compared.name) for row in group], form_of(compared))}</td>'
            f"<td>{difference}</td>"
        )
        return (
            f'<tr{mark}><td><span class="swatch" style="background:{colour}"></span>'
            f"{html.escape(arm)}</td><td>{len(group)}</td>"
            + (compared_cells if measures else "")
            + "".join(f"<td>{spread([column.value(row) for row in group], column.form)}</td>" for column in columns)
            + "</tr>"
        )

    head = "<th>arm</th><th>seeds</th>"
    if measures:
        head += f"<th>{title_of(compared)}</th><th>against<br>{html.escape(first)}</th>"
    head += "".join(f"<th>{column.title}</th>" for column in columns)
    body = "\n".join(cells(arm, group) for arm, group in [*arms.items(), *baselines(rows)])
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>'


def baselines(rows: Rows) -> list[tuple[str, Rows]]:
    """The baselines of the runs as runs of arms, those of equally many training units together."""
    groups: dict[tuple[float, str], dict[str, Record]] = {}
    for row in rows:
        listed = row.get("baselines")
        for baseline in listed if isinstance(listed, list) else []:
            if not isinstance(baseline, dict):
                continue
            group = groups.setdefault((units_of(row), str(baseline.get("name"))), {})
            of_seed = {"seed": row.get("seed"), "units": units_of(row), "measures": baseline.get("measures", {})}
            group[str(row.get("seed"))] = of_seed | {"parameters_table": baseline.get("numbers")}
    return [(name, list(group.values())) for (_, name), group in sorted(groups.items())]


def units_of(row: Record) -> float:
    """What a run was trained on, with what it goes on behind."""
    before = number(row.get("units_before"))
    return number(row.get("units")) + (before if math.isfinite(before) else 0)


def columns_of(measures: list[Measure], unit: str) -> list[Column]:
    """What stands behind the measure that arms are compared by."""
    unit = html.escape(unit)

    def key(name: str) -> Callable[[Record], float]:
        return lambda row: number(row.get(name))

    return [
        Column("parameters<br>dense", key("parameters_dense"), count),
        Column("parameters<br>table", key("parameters_table"), count),
        Column(f"training<br>{unit}", units_of, count),
        Column("training<br>time", key("seconds"), duration),
        *(
            Column(title_of(measure), lambda row, name=measure.name: value_of(row, name), form_of(measure))
            for measure in measures[1:]
        ),
        Column(f"{unit}/s<br>inference", key("units_per_second_inference"), count),
    ]


def title_of(measure: Measure) -> str:
    unit = f"<br><small>{html.escape(measure.unit)}</small>" if measure.unit not in ("", "%") else ""
    return html.escape(measure.title) + unit


def paired_difference(group: Rows, reference: Rows, measure: Measure) -> float:
    """The mean difference over the seeds that both arms have."""
    of_seed = {str(row.get("seed")): value_of(row, measure.name) for row in reference}
    return mean(value_of(row, measure.name) - of_seed.get(str(row.get("seed")), math.nan) for row in group)


def mean(values: Iterable[object]) -> float:
    finite = [value for value in map(number, values) if math.isfinite(value)]
    return sum(value / len(finite) for value in finite) if finite else math.nan


def spread(values: list[float], form: Format) -> str:
    """The mean, and beneath it the lowest and the highest where they look different."""
    finite = [value for value in values if math.isfinite(value)]
    lowest, highest = (form(min(finite)), form(max(finite))) if finite else ("", "")
    if lowest == highest:
        return form(mean(finite))
    return f"{form(mean(finite))}<small>{lowest} to {highest}</small>"


def form_of(measure: Measure) -> Format:
    """A number with the digits of its measure; a mean of counts may have one more."""

    def form(value: float) -> str:
        if not math.isfinite(value):
            return "&ndash;"
        if measure.unit == "%":
            return f"{100 * value:.{measure.digits}f} %"
        digits = 1 if measure.digits == 0 and value != round(value) else measure.digits
        return f"{value:.{digits}f}"

    return form


def signed(value: float, measure: Measure) -> str:
    text = form_of(measure)(value)
    return text.replace("-", "&minus;") if value < 0 or not math.isfinite(value) else "+" + text


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
