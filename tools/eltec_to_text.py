#!/usr/bin/env python3
"""Plain text from TEI XML novels, such as those of the European Literary Text Collection (ELTeC, level 1).

Each XML file becomes one .txt file in UTF-8. Paragraphs, headings and labels are separated by an empty line; each line
of a verse stands on a line of its own; emphasis and foreign words keep their text. Left out are the teiHeader, title
pages, notes and the marks that point to them, gaps, page breaks and what scanning left behind them ("<pb/> ]"). Where
an editor corrected the print (sic beside corr), the correction is taken. A milestone becomes "* * *".

  eltec_to_text.py ELTeC-eng/level1 novels        every *.xml of the folder into novels/
  eltec_to_text.py one.xml two.xml novels         these files
"""

import argparse
import os
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

PARAGRAPH, LINE = object(), object()
LEFT_OUT = {"teiHeader", "note", "gap", "sic", "orig", "fw", "figure"}
BLOCKS = set(
    "div p head label trailer lg ab list item table row sp "
    "stage speaker front body back opener closer epigraph text group".split()
)
LINES = {"l", "lb", "signed", "salute", "dateline"}


def name_of(element):
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def is_left_out(element):
    name = name_of(element)
    if name == "ref":  # a footnote's mark, "[1]" or "*"
        return re.fullmatch(r"\W*\w{0,3}\W*", "".join(element.itertext())) is not None
    return name in LEFT_OUT or not name or (name == "div" and element.get("type") in ("titlepage", "notes"))


def parts_of(element):
    """The element's text in order, with PARAGRAPH and LINE where a new one begins."""
    name = name_of(element)
    around = PARAGRAPH if name in BLOCKS else LINE if name in LINES else None
    if name == "quote" and any(name_of(child) in BLOCKS | LINES for child in element):
        around = PARAGRAPH
    if around:
        yield around
    if name == "milestone":
        yield from (PARAGRAPH, "* * *", PARAGRAPH)
    yield element.text or ""
    for child in element:
        if not is_left_out(child):
            yield from parts_of(child)
        tail = child.tail or ""
        yield re.sub(r"^\s*\]", " ", tail) if name_of(child) == "pb" else tail
    if around:
        yield around


def text_of(root):
    """The novel as text, or "" when the document holds none."""
    body = root if name_of(root) == "text" else next((e for e in root if name_of(e) == "text"), None)
    if body is None:
        return ""
    paragraphs, lines, words = [], [], []

    def end_line():
        line = " ".join("".join(words).split())
        words.clear()
        if line:
            lines.append(line)

    for part in [*parts_of(body), PARAGRAPH]:
        if part is PARAGRAPH:
            end_line()
            if lines:
                paragraphs.append("\n".join(lines))
            lines.clear()
        elif part is LINE:
            end_line()
        else:
            words.append(part)
    return "\n\n".join(paragraphs) + "\n" if paragraphs else ""


def convert(source, folder):
    """Writes the text of `source` into `folder`; returns its path. Raises ValueError for a file without text."""
    try:
        text = text_of(ElementTree.parse(source).getroot())
    except ElementTree.ParseError as error:
        raise ValueError(f"{source}: the file must be XML, got {error}") from error
    if not text:
        raise ValueError(f"{source}: the file must be TEI with a text, got none")
    target = Path(folder) / (Path(source).stem + ".txt")
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    temporary.replace(target)
    return target


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="+", type=Path, help="XML files, or folders whose *.xml are taken")
    parser.add_argument("output", type=Path, help="folder for the text files; it is made when missing")
    options = parser.parse_args(arguments)
    sources = []
    for source in options.source:
        sources += sorted(source.glob("*.xml")) if source.is_dir() else [source]
    if not sources:
        print(f"{options.source[0]}: the folder must hold *.xml files, got none", file=sys.stderr)
        return 3
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        size = sum(convert(source, options.output).stat().st_size for source in sources)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 3
    print(f"{len(sources)} texts, {size / 1e6:.1f} MB, in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
