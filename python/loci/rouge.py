"""ROUGE of what a run of `meetings` writes (`loci eval RUN --data DIR --json`), by the package rouge-score.

    loci eval out/read-write/seed-0 --data summarise --json > read-write.json
    python -m loci.rouge read-write.json ..

Of each file a line of the model's summaries and one of the control: the first three sentences of each dialogue. F of
ROUGE-1, ROUGE-2 and ROUGE-L in percent, with stemming; of several references the best one counts for each score."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from loci.console import EXIT_INPUT, EXIT_RESOURCES, complain

SCORES = ("rouge1", "rouge2", "rougeL")


class SummariesError(Exception):
    """A file that holds no summaries; the message is one line."""


def read_summaries(path: Path) -> list[dict[str, Any]]:
    try:
        read = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SummariesError(f"{path}: must be the output of loci eval --json, got {error}") from error
    account = read.get("account") if isinstance(read, dict) else None
    summaries = account.get("summaries") if isinstance(account, dict) else None
    if not isinstance(summaries, list) or not summaries:
        raise SummariesError(f"{path}: must have summaries of a meetings run, got none")
    for summary in summaries:
        references = summary.get("references") if isinstance(summary, dict) else None
        texts = [summary.get("written"), summary.get("lead"), *references] if isinstance(references, list) else [None]
        if len(texts) < 3 or not all(isinstance(text, str) for text in texts):
            raise SummariesError(f"{path}: a summary must have written, lead and references, got {str(summary)[:80]}")
    return summaries


def scores_of(summaries: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """Mean and standard error in percent of each of SCORES, of the texts under `key`."""
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(list(SCORES), use_stemmer=True)
    found = [scorer.score_multi(summary["references"], summary[key]) for summary in summaries]
    columns = [[100 * scores[name].fmeasure for scores in found] for name in SCORES]
    return [(statistics.fmean(column), statistics.stdev(column) / len(column) ** 0.5 if len(column) > 1 else 0.0)
            for column in columns]  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loci.rouge", description="ROUGE of written summaries.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="output of loci eval RUN --data DIR --json")
    options = parser.parse_args(arguments)
    try:
        import rouge_score  # noqa: F401
    except ImportError:
        return complain("rouge: the package rouge-score must be installed (pip install rouge-score), got none",
                        EXIT_RESOURCES)  # fmt: skip
    try:
        files = [(path, read_summaries(path)) for path in options.files]
    except SummariesError as error:
        return complain(f"rouge: {error}", EXIT_INPUT)
    lines = [["file", "of", *[f"ROUGE-{name[-1]}" for name in SCORES], "texts"]]
    for path, summaries in files:
        for key, title in (("written", "model"), ("lead", "first three sentences")):
            cells = [f"{mean:.2f} +- {error:.2f}" for mean, error in scores_of(summaries, key)]
            lines.append([path.name, title, *cells, str(len(summaries))])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
