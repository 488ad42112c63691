"""tools/facts_to_text.py: what is written, what is asked, what is left out."""

import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[1] / "tools" / "facts_to_text.py"


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def convert(data, out):
    return subprocess.run([sys.executable, TOOL, data, out], capture_output=True, text=True, check=False)


def make_data(folder):
    patterns = ["[X] was born in [Y].", "[X] comes from [Y] .", "[Y] is where [X] was born.", "[X], born in [Y]."]
    write_lines(folder / "pattern_data/graphs_json/P1.jsonl", [{"pattern": pattern} for pattern in patterns])
    write_lines(folder / "pattern_data/graphs_json/P2.jsonl", [{"pattern": "[Y] has [X]."}, {"pattern": "[X] is [Y]."}])
    facts = [(f"Person {i}", f"Town {i}") for i in range(20)] + [("Twice", "Here"), ("Twice", "There")]
    write_lines(folder / "trex_lms_vocab/P1.jsonl", [{"sub_label": x, "obj_label": y} for x, y in facts])
    write_lines(folder / "trex_lms_vocab/P2.jsonl", [{"sub_label": "Nobody", "obj_label": "Nowhere"}])


def test_each_fact_is_written_three_times_and_asked_in_a_seen_and_in_a_held_out_pattern(tmp_path):
    make_data(tmp_path / "data")
    result = convert(tmp_path / "data", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "1 relations (1 left out), 20 facts, 60 sentences\n"
    text = (tmp_path / "out/text/facts.txt").read_text()
    sentences = set(text.splitlines())
    assert len(sentences) == 60
    assert "Twice" not in text and "Nobody" not in text
    for name, is_written in (("questions-seen.tsv", True), ("questions-held-out.tsv", False)):
        lines = (tmp_path / "out" / name).read_text().splitlines()
        assert len(lines) == 20
        for line in lines:
            prompt, answer = line.split("\t")
            assert answer == " " + prompt.split(",")[0].replace(" was born in", "").replace(" comes from", "").replace(
                "Person", "Town"
            )
            assert (f"{prompt}{answer}." in sentences) is is_written, line


def test_the_same_facts_give_the_same_files(tmp_path):
    make_data(tmp_path / "data")
    for out in ("a", "b"):
        assert convert(tmp_path / "data", tmp_path / out).returncode == 0
    for name in ("text/facts.txt", "questions-seen.tsv", "questions-held-out.tsv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_folder_without_facts_and_broken_lines_are_told_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    result = convert(tmp_path / "empty", tmp_path / "out")
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and "got none" in result.stderr
    make_data(tmp_path / "data")
    (tmp_path / "data/trex_lms_vocab/P1.jsonl").write_text("{broken\n")
    result = convert(tmp_path / "data", tmp_path / "out")
    assert result.returncode == 1 and result.stderr.startswith("facts_to_text: ") and result.stderr.count("\n") == 1
