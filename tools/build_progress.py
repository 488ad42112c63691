#!/usr/bin/env python3
"""Shows Ninja's progress as one line with the time left. Everything else that Ninja prints is passed through.

Usage: NINJA_STATUS='[%f/%t %e] ' ninja ... | tools/build_progress.py     exit status 0; pipefail keeps Ninja's own
On a terminal the line is rewritten; elsewhere a line is printed for each tenth of the steps.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import TextIO

STEP = re.compile(r"^\[(\d+)/(\d+) ([\d.]+)\] (.*)$")


def time_left(finished: int, total: int, elapsed: float) -> str:
    """The time that the other steps take, if they take as long as those so far."""
    if finished == 0 or finished == total:
        return ""
    seconds = elapsed / finished * (total - finished)
    return f", about {seconds / 60:.0f} min left" if seconds >= 90 else f", about {seconds:.0f} s left"


def show(lines: Iterable[str], out: TextIO, live: bool) -> None:
    tenth = 0
    open_line = False
    for line in lines:
        match = STEP.match(line)
        if not match:
            out.write(("\n" if open_line else "") + line)
            open_line = False
            continue
        finished, total, elapsed = int(match[1]), int(match[2]), float(match[3])
        text = f"setup: step {finished} of {total}{time_left(finished, total, elapsed)}"
        if live:
            out.write(f"\r\033[K{text}")
            open_line = True
        elif finished * 10 // total > tenth:
            out.write(text + "\n")
            tenth = finished * 10 // total
        out.flush()
    if open_line:
        out.write("\n")


if __name__ == "__main__":
    show(sys.stdin, sys.stderr, sys.stderr.isatty())
