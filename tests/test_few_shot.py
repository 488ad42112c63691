"""Few-shot tasks from outside: training on drawings of characters, measuring, and what is refused."""

import json
import random
import shutil

import pytest
from command_line import assert_refused, loci
from test_images import png

RECIPE = """
task = "few_shot"
[data]
size = [16, 16]
test_set = "images_background"
held_out = ["gamma"]
[episodes]
ways = 3
shots = 2
queries = 1
[test]
ways = 3
shots = 2
queries = 1
tasks = 10
[model]
channels = 8
groups = 2
[subset]
kept = 2
chunk = 2
[train]
steps = 30
batch = 1
threads = 1
precision = "float32"
[optimizer]
learning_rate = 1e-2
[optimizer.schedule]
warmup = 0
"""


def drawing(draw, character):
    """A dark bar on a bright ground, at a place that belongs to the character."""
    at = 2 + 3 * (character % 4) + draw.randrange(2)
    rows = [[(x if character < 4 else y) in (at, at + 1) for x in range(16)] for y in range(16)]
    return png([bytes(0 if ink else 255 for ink in row for _ in range(3)) for row in rows], 16)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few-shot")
    (folder / "recipe.toml").write_text(RECIPE)
    draw = random.Random(0)
    for alphabet in ("alpha", "beta", "gamma"):
        for character in range(8):
            to = folder / "data/images_background" / alphabet / f"character{character:02}"
            to.mkdir(parents=True)
            for i in range(4):
                (to / f"{i}.png").write_bytes(drawing(draw, character))
    result = train(folder, folder / "out")
    assert result.returncode == 0, result.stderr
    return folder


def train(place, out, *more):
    return loci(place, "train", place / "recipe.toml", "--data", place / "data", "--out", out, *more)


def test_eval_measures_a_trained_run(place):
    result = loci(place, "eval", place / "out", "--data", place / "data", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    low, high = found["details"]["accuracy_interval"]
    assert found["measures"]["accuracy"] > 0.6 and low <= found["measures"]["accuracy"] <= high
    assert "memory_beyond_start" not in found["details"]
    text = loci(place, "eval", place / "out", "--data", place / "data").stdout
    assert "10 test tasks of 3 characters, 2 drawings of each to learn from and 1 asked for" in text
    log = (place / "out/main/seed-0/metrics.jsonl").read_text()
    assert '"memory_beyond_start"' in log


@pytest.mark.parametrize(
    ("setting", "status", "words"),
    [
        ("subset.kept=7", 2, "subset.kept must be at most the 6 drawings of a support set, got 7"),
        ("episodes.ways=1", 2, "episodes.ways"),
        ("model.groups=3", 2, "model.groups must divide model.channels = 8, got 3"),
        ("data.held_out=[]", 3, "the test must have an alphabet that is not trained on"),
        ('data.held_out=["delta"]', 2, "it must name alphabets of images_background, each once (alpha, beta, gamma)"),
        ("data.test_set=images_evaluation", 3, 'the folder must hold the folder data.test_set = "images_evaluation"'),
        ("test.ways=9", 3, "test: there must be 9 characters, as many as ways, got 8"),
        ("episodes.shots=4", 3, "alpha/character00 must have 5 drawings for 4 shots and 1 queries, got 4"),
    ],
)
def test_tasks_that_cannot_be_are_refused(place, tmp_path, setting, status, words):
    assert_refused(train(place, tmp_path / "out", "--set", setting), status, words)


def test_an_alphabet_of_both_sets_is_trained_on_alone(place, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(place / "data/images_background", folder / "images_background")
    shutil.copytree(folder / "images_background", folder / "images_evaluation")
    result = loci(place, "train", place / "recipe.toml", "--data", folder, "--out", tmp_path / "out", "--set",
                  "data.test_set=images_evaluation", "--set", "train.steps=1")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "left out of the test: alpha, beta (trained on)" in result.stderr
