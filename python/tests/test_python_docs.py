"""The Python of docs/python.md runs from its first line to its last, in one session as a reader would."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"


def test_the_page_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(snippets) >= 5
    names: dict[str, object] = {}
    for place, snippet in enumerate(snippets):
        exec(compile(snippet, f"{PAGE.name}, snippet {place + 1}", "exec"), names)
    assert "ProductKeyMemory" in capsys.readouterr().out
