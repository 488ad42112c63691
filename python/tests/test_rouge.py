"""ROUGE of written summaries: scores by hand, the best of several references, files that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loci import rouge

pytest.importorskip("rouge_score", reason="rouge-score is not installed")


def written(path: Path, *summaries: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"measures": {}, "account": {"summaries": list(summaries)}}))
    return path


def test_scores_are_those_of_the_definition(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Unigrams 3 of 4 and of 5: F = 2 * 3 / 9. Bigrams 1 of 3 and of 4: F = 2 / 7. The longest common part has 3 words.
    summary = {"written": "tom drank hot tea", "references": ["tom drank the green tea"], "lead": "nothing alike"}
    file = written(tmp_path / "a.json", summary)
    scores = rouge.scores_of(rouge.read_summaries(file), "written")
    assert [mean for mean, _ in scores] == pytest.approx([100 * 6 / 9, 100 * 2 / 7, 100 * 6 / 9])
    assert rouge.main([str(file)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["file", "of", "ROUGE-1", "ROUGE-2", "ROUGE-L", "texts"]
    assert "model" in out[1] and "66.67 +- 0.00" in out[1] and "28.57" in out[1]
    assert "first three sentences" in out[2] and "0.00 +- 0.00" in out[2]


def test_the_best_reference_counts_and_errors_are_of_the_mean(tmp_path: Path) -> None:
    texts = [{"written": "one two", "references": ["three four", "one two"], "lead": ""},
             {"written": "one two", "references": ["three four"], "lead": ""}]  # fmt: skip
    scores = rouge.scores_of(rouge.read_summaries(written(tmp_path / "a.json", *texts)), "written")
    assert scores[0] == pytest.approx((50.0, 50.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be the output of loci eval --json, got "),
        ('{"account": {}}', "must have summaries of a meetings run, got none"),
        (
            '{"account": {"summaries": [{"written": "a", "lead": "b", "references": []}]}}',
            "must have written, lead",
        ),
        ('{"account": {"summaries": [{"written": 3, "lead": "b", "references": ["c"]}]}}', "got {'written': 3"),
    ],
)
def test_files_without_summaries_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "a.json").write_text(text)
    assert rouge.main([str(tmp_path / "a.json")]) == 3
    error = capsys.readouterr().err
    assert message in error and error.startswith("rouge: ") and error.count("\n") == 1
