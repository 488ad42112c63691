"""Skeleton classification from outside: training on two files, measuring, and what is refused."""

import json
import random

import pytest
from command_line import assert_refused, loci

RECIPE = """
task = "skeleton_classification"
[data]
frames = 8
[model]
width = 8
dropout = 0
[train]
steps = 40
batch = 8
threads = 1
precision = "float32"
[optimizer]
learning_rate = 1e-2
[optimizer.schedule]
warmup = 0
"""


def write_clips(path, clips, seed):
    """A body of three joints; the last one goes up or down."""
    draw = random.Random(seed)
    lines = ["clip,label,frame,x0,y0,x1,y1,x2,y2"]
    for clip in range(clips):
        label = ("up", "down")[clip % 2]
        for frame in range(9):
            along = frame / 8 if label == "up" else 1 - frame / 8
            x, y = (0.3 + draw.gauss(0, 0.02), 0.3 + 0.4 * along)
            lines.append(f"{clip},{label},{frame},0,0,{draw.gauss(0, 0.02):.4f},1,{x:.4f},{y:.4f}")
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("skeletons")
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "data").mkdir()
    write_clips(folder / "data/train.csv", 24, 0)
    write_clips(folder / "data/test.csv", 10, 1)
    result = loci(folder, "train", folder / "recipe.toml", "--data", folder / "data", "--out", folder / "out")
    assert result.returncode == 0, result.stderr
    return folder


def test_eval_measures_a_trained_run(place):
    result = loci(place, "eval", place / "out", "--data", place / "data", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    low, high = found["details"]["accuracy_interval"]
    assert found["measures"]["accuracy"] > 0.8 and low < found["measures"]["accuracy"] <= high
    text = loci(place, "eval", place / "out", "--data", place / "data").stdout
    assert "10 test clips of 3 joints, 8 frames each" in text and "95 % interval" in text
    assert "conv1" in loci(place, "inspect", place / "out").stdout


def test_the_plan_has_memory_and_work(place):
    (arm,) = json.loads(loci(place, "train", place / "recipe.toml", "--dry-run", "--json").stdout)["arms"]
    assert arm["unit"] == "clips" and arm["multiply_adds"] > 10_000


def test_bad_files_are_named(place, tmp_path):
    def refused(*words):
        result = loci(place, "train", place / "recipe.toml", "--data", tmp_path, "--out", tmp_path / "out")
        assert_refused(result, 3, *words)

    refused("train.csv", "No such file")
    write_clips(tmp_path / "train.csv", 4, 0)
    write_clips(tmp_path / "test.csv", 4, 1)
    text = (tmp_path / "test.csv").read_text()
    (tmp_path / "test.csv").write_text(text[: len(text) // 2])
    refused("test.csv: line")
    write_clips(tmp_path / "test.csv", 1, 1)
    refused("train and test must hold clips of the same classes, got none of down")
    other = (place / "data/train.csv").read_text().replace("down", "away")
    (tmp_path / "train.csv").write_text(other)
    (tmp_path / "test.csv").write_text(other)
    assert_refused(
        loci(place, "eval", place / "out", "--data", tmp_path), 3, "classes and joints must be those of the run"
    )
