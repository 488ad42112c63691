#!/usr/bin/env python3
"""Plain text from the country profiles of the World Factbook as JSON (a file for each country, with nested sections).

Each JSON file becomes one .txt file in UTF-8: the names of sections and fields, and the text of each, without HTML.

  factbook_to_text.py factbook text        every profile *.json below factbook/ into text/

Files that are no object of sections, such as package.json, are left out.
"""

import argparse
import html
import json
import re
import sys
from pathlib import Path


def plain(text):
    text = re.sub(r"<br\s*/?>|</p>", "\n", text)
    text = html.unescape(re.sub(r"<[^>]*>", "", text)).replace("\u00a0", " ")
    return "\n".join(line for line in (re.sub(r"[ \t]+", " ", part).strip() for part in text.splitlines()) if line)


def lines_of(node, name=""):
    if isinstance(node, str):
        text = plain(node)
        if text:
            yield f"{name}: {text}" if name and name != "text" else text
    elif isinstance(node, dict):
        if name and set(node) != {"text"}:
            yield f"\n{name}"
        for key, value in node.items():
            yield from lines_of(value, name if key == "text" and set(node) == {"text"} else key)
    elif isinstance(node, list):
        for value in node:
            yield from lines_of(value, name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    files = sorted(arguments.source.rglob("*.json"))
    if not files:
        sys.exit(f"factbook_to_text: {arguments.source} must hold .json files, got none")
    arguments.out.mkdir(parents=True, exist_ok=True)
    written = 0
    for path in files:
        try:
            profile = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            sys.exit(f"factbook_to_text: {path} must be JSON in UTF-8, got {error}")
        is_profile = isinstance(profile, dict) and all(isinstance(section, dict) for section in profile.values())
        text = "\n".join(lines_of(profile)).strip() + "\n" if is_profile else ""
        if text.strip():
            name = "-".join(path.relative_to(arguments.source).with_suffix("").parts)
            (arguments.out / f"{name}.txt").write_text(text, encoding="utf-8")
            written += 1
    print(f"{written} files in {arguments.out}")


if __name__ == "__main__":
    main()
