"""Writes docs/recipe-keys.md from what `loci train --keys` prints. A test checks that the page is current.

Usage: python tools/recipe_keys.py [--loci build/release/cli/loci]
"""

from __future__ import annotations

import argparse
import pathlib
import re
import subprocess

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "recipe-keys.md"

HEAD = """# Keys of a recipe

`loci train --keys [TASK]` prints this page's blocks; `tools/recipe_keys.py` writes the page. Each key stands with its
default. The comment before it says what it does, the one behind it which values it takes. Keys that are commented out
belong to a section that may be absent, or have no effect with the defaults. A key is refused where its condition does
not hold. Whole numbers may be written as reals (`4e6`). How arms and `--set` change keys:
[command-line.md](command-line.md).
"""


def blocks(keys: str) -> list[tuple[str, str]]:
    """(task, TOML) of each task."""
    parts = re.split(r"\n\n\n(?=# )", keys.strip("\n"))
    return [(re.search(r'^task = "(\w+)"', part, re.M)[1], part) for part in parts]


def page(keys: str) -> str:
    return HEAD + "".join(f"\n## {task}\n\n```toml\n{text}\n```\n" for task, text in blocks(keys))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loci", default="build/release/cli/loci")
    arguments = parser.parse_args()
    keys = subprocess.run([arguments.loci, "train", "--keys"], capture_output=True, text=True, check=True).stdout
    PAGE.write_text(page(keys))


if __name__ == "__main__":
    main()
