"""tools/eltec_to_text.py: what stays of a TEI novel and what goes."""

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[1] / "tools" / "eltec_to_text.py"

NOVEL = """<?xml version="1.0" encoding="UTF-8"?>
<TEI xmlns="http://www.tei-c.org/ns/1.0"><teiHeader><p>header</p></teiHeader>
<text><front><div type="titlepage"><p>title page</p></div>
<div type="liminal"><head> PREFACE. </head><p>A   first
   paragraph.</p></div></front>
<body><div type="chapter"><head>I</head><pb n="1"/><!-- a comment -->
<p>Worn on<pb n="2"/> ] two <hi>pages</hi>, with a mark <ref target="#N1">[1]</ref> in it,
a <ref target="#x">linked word</ref>, <choice><sic>eror</sic><corr>error</corr></choice> 
and caf\u00e9 &amp; more.<note>gone</note>
End.</p>
<milestone unit="structure" rend="stars"/>
<p>He said <quote>inline</quote> then: <quote><l>first verse,</l><l>second verse.</l></quote> After.</p>
<gap unit="toc"/></div></body>
<back><div type="notes"><head>NOTES</head><note xml:id="N1">a note</note></div></back></text></TEI>
"""

EXPECTED = """PREFACE.

A first paragraph.

I

Worn on two pages, with a mark in it, a linked word, error and caf\u00e9 & more. End.

* * *

He said inline then:

first verse,
second verse.

After.
"""


def run(*arguments):
    return subprocess.run([sys.executable, TOOL, *map(str, arguments)], capture_output=True, text=True, timeout=60)


def test_keeps_the_novel_and_drops_what_is_around_it(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "A_Novel.xml").write_text(NOVEL, encoding="utf-8")
    result = run(tmp_path / "in", tmp_path / "deep" / "out")
    assert result.returncode == 0, result.stderr
    assert "1 texts" in result.stdout
    assert [p.name for p in (tmp_path / "deep" / "out").iterdir()] == ["A_Novel.txt"]
    assert (tmp_path / "deep" / "out" / "A_Novel.txt").read_bytes().decode() == EXPECTED


def test_takes_single_files_and_texts_of_other_encodings(tmp_path):
    source = tmp_path / "latin.xml"
    source.write_bytes(
        '<?xml version="1.0" encoding="latin-1"?><TEI><text><p>caf\u00e9</p></text></TEI>'.encode("latin-1")
    )
    assert run(source, tmp_path).returncode == 0
    assert (tmp_path / "latin.txt").read_bytes().decode() == "caf\u00e9\n"


def test_names_the_file_that_is_no_novel(tmp_path):
    for name, content, reason in (
        ("cut.xml", NOVEL[:600], "must be XML"),
        ("none.xml", "<TEI><text/></TEI>", "got none"),
        ("html.xml", "<html><p>x</p></html>", "got none"),
        ("empty.xml", "", "must be XML"),
    ):
        (tmp_path / name).write_text(content, encoding="utf-8")
        result = run(tmp_path / name, tmp_path)
        assert result.returncode == 3 and name in result.stderr and reason in result.stderr, result
        assert "Traceback" not in result.stderr
    assert run(tmp_path / "missing.xml", tmp_path).returncode == 3
    (tmp_path / "nothing").mkdir()
    assert "must hold *.xml files" in run(tmp_path / "nothing", tmp_path).stderr
    assert not list(tmp_path.glob("*.txt"))


def test_help_shows_how_to_use_it():
    assert "ELTeC-eng/level1 novels" in run("--help").stdout
