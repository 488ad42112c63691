"""Every example of every help text runs as it stands, with its names for files replaced by small ones."""

import re
import shlex

import pytest
from command_line import RECIPE, ROOT, loci, make_place, train

RAM = """
task = "ram"
[data]
difficulty = 2
[model]
registers = 2
width = 8
[search]
seeds = 2
[train]
steps = 4
batch = 8
threads = 1
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = make_place(tmp_path_factory, RECIPE)
    (place / "ram.toml").write_text(RAM)
    result = train(place, place / "trained", "--quiet")
    assert result.returncode == 0, result.stderr
    result = loci(place, "train", place / "ram.toml", "--out", place / "machine", "--quiet")
    assert result.returncode == 0, result.stderr
    return place


def verbs(place):
    text = loci(place, "--help").stdout
    found = re.findall(r"^  (\w+) ", text[text.lower().index("subcommands:") :], re.M)
    return [verb for verb in found if verb != "bench"]  # it times large tables for minutes


def examples(place, verb):
    """The commands of a help text: "loci ..." up to two blanks, behind which an explanation may stand."""
    lines = re.findall(r"^  loci (.*)$", loci(place, verb, "--help").stdout, re.M)
    return [re.split(r"  +", line)[0] for line in lines]


# What the examples name, and what stands for it here.
def replaced(word, place, out):
    if word.startswith("recipes/"):
        assert (ROOT / word).exists(), word
        return place / ("ram.toml" if "/ram-" in word else "recipe.toml")
    names = {"RECIPE": place / "recipe.toml", "DIR": place / "text", "out": out, "OUT": out, "RUN": place / "trained"}
    if word in names:
        return names[word]
    # A run that an earlier example is thought to have made; the ram recipe calls its arm main.
    for arm, runs in (("memory", place / "trained"), ("main", place / "machine")):
        if match := re.fullmatch(rf"out(?:/[\w-]+)*?/{arm}/seed-0(/step-\d+)?(/[\w.]+)?", word):
            run = runs / arm / "seed-0"
            step = run / (run / "latest").read_text().strip() if match[1] else run
            return step / match[2].lstrip("/") if match[2] else step
    if word.startswith("out/") or word.endswith(".cpp"):
        return out.parent / f"{out.name}-{word.replace('/', '-')}"
    return word


def test_every_example_runs(place, tmp_path):
    failed = []
    count = 0
    for verb in verbs(place):
        for example in examples(place, verb):
            count += 1
            words = shlex.split(example)
            out = tmp_path / f"{count}"
            arguments = [replaced(word, place, out) for word in words]
            if "--resume" in words:
                assert train(place, out, "--quiet").returncode == 0
            if words[:2] == ["train", "RECIPE"] and any("train.tokens=4e6" in word for word in words):
                arguments.append("--dry-run")  # 4 million tokens take minutes
            result = loci(place, *arguments)
            if result.returncode != 0:
                failed.append((example, result.returncode, result.stderr.strip().splitlines()[-1:]))
    assert count > 15 and not failed, failed
