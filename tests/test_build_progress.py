"""What tools/build_progress.py makes of Ninja's lines."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

SPEC = importlib.util.spec_from_file_location(
    "build_progress", Path(__file__).resolve().parent.parent / "tools/build_progress.py"
)
build_progress = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(build_progress)

LINES = [f"[{i}/20 {3.0 * i:.3f}] Building CXX object x{i}.o\n" for i in range(1, 21)]


def shown(lines: list[str], live: bool) -> str:
    out = io.StringIO()
    build_progress.show(lines, out, live)
    return out.getvalue()


def test_a_line_for_each_tenth_where_nobody_watches() -> None:
    lines = shown(LINES, live=False).splitlines()
    assert lines[0] == "setup: step 2 of 20, about 54 s left"
    assert lines[-1] == "setup: step 20 of 20"
    assert len(lines) == 10


def test_one_line_that_is_rewritten_on_a_terminal() -> None:
    text = shown(LINES, live=True)
    assert text.count("\n") == 1 and text.endswith("setup: step 20 of 20\n")
    assert text.count("\r") == 20


def test_what_the_compiler_says_is_passed_through() -> None:
    error = "x.cpp:1:1: error: expected ';'\n"
    for live in (False, True):
        text = shown([*LINES[:3], error, *LINES[3:]], live)
        assert error in text.splitlines(keepends=True)
    assert shown(["ninja: no work to do.\n"], live=True) == "ninja: no work to do.\n"


def test_long_builds_are_told_in_minutes() -> None:
    assert build_progress.time_left(10, 100, 60) == ", about 9 min left"
    assert build_progress.time_left(100, 100, 600) == build_progress.time_left(0, 100, 0) == ""
