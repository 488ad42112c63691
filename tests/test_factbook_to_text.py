"""tools/factbook_to_text.py: what stays of a profile and what goes."""

import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[1] / "tools" / "factbook_to_text.py"


def run(*arguments):
    return subprocess.run([sys.executable, TOOL, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_names_and_texts_stay_and_html_goes(tmp_path):
    source = tmp_path / "factbook/europe"
    source.mkdir(parents=True)
    profile = {
        "Introduction": {"Background": {"text": "<p>An <em>old</em> land&nbsp;&amp; a new one.</p><p>More.</p>"}},
        "Geography": {"Area": {"total": {"text": "3 sq km"}, "note": {"text": ""}}, "Rivers": {"text": "a<br>b"}},
    }
    (source / "xx.json").write_text(json.dumps(profile))
    (tmp_path / "factbook/package.json").write_text('{"name": "factbook", "files": []}')
    result = run(tmp_path / "factbook", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["europe-xx.txt"]
    assert (tmp_path / "out/europe-xx.txt").read_text().splitlines() == [
        "Introduction",
        "Background: An old land & a new one.",
        "More.",
        "",
        "Geography",
        "",
        "Area",
        "total: 3 sq km",
        "Rivers: a",
        "b",
    ]


def test_what_is_no_factbook_is_refused_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    result = run(tmp_path / "empty", tmp_path / "out")
    assert result.returncode == 1 and result.stderr.endswith("must hold .json files, got none\n")
    (tmp_path / "empty/a.json").write_text("{")
    result = run(tmp_path / "empty", tmp_path / "out")
    assert result.returncode == 1 and "a.json must be JSON in UTF-8" in result.stderr
    assert result.stderr.count("\n") == 1
