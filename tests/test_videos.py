"""Video classification from outside: training on folders of frames, resuming, predicting, and what is refused."""

import json
import random
import shutil

import pytest
from command_line import assert_refused, loci, newest, run_of, tensors_of
from test_images import png

RECIPE = """
task = "video_classification"
[data]
frames = 4
mirror = false
[model]
bottlenecks = [1, 1, 1, 1]
width = 4
first_kernel = 3
time_halvings = 0
inflation = "second"
dropout = 0
[train]
steps = 40
batch = 8
threads = 1
precision = "float32"
log_every = 10
checkpoint_every = 10
[optimizer]
kind = "sgd"
learning_rate = 0.05
momentum = 0.9
weight_decay = 1e-4
[optimizer.schedule]
warmup = 0
"""
EDGE, FRAMES = 16, 5


def write_clip(folder, draw, side):
    """A bright bar that moves to `side`, one column a frame."""
    folder.mkdir(parents=True)
    start = draw.randrange(4, 8)
    for i in range(FRAMES):
        bar = start + i if side == "right" else start + FRAMES - 1 - i
        rows = [
            bytes(draw.randrange(60) + (150 if x in (bar, bar + 1) else 30) for x in range(EDGE) for _ in range(3))
            for _ in range(EDGE)
        ]
        (folder / f"{i + 1}.png").write_bytes(png(rows, EDGE))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A trained run (out) and its clips."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "recipe.toml").write_text(RECIPE)
    draw = random.Random(0)
    for part, count in (("train", 12), ("test", 6)):
        for side in ("left", "right"):
            for i in range(count):
                write_clip(folder / "clips" / part / side / f"clip{i}", draw, side)
    result = train(folder, folder / "out")
    assert result.returncode == 0, result.stderr
    return folder


def train(place, out, *more, data=None):
    return loci(place, "train", place / "recipe.toml", "--data", data or place / "clips", "--out", out, *more)


def test_the_plan_says_what_a_clip_costs(place):
    result = loci(place, "train", place / "recipe.toml", "--dry-run", "--json", "--set", "data.size=[16,16]")
    (arm,) = json.loads(result.stdout)["arms"]
    assert arm["unit"] == "clips" and arm["multiply_adds"] > 10_000
    refused = loci(place, "train", place / "recipe.toml", "--dry-run", "--set", "data.crop=[9]")
    assert_refused(refused, 2, "data.crop: it must be empty or [height, width], got 1 numbers")


def test_the_log_and_eval_have_the_accuracy(place):
    lines = [json.loads(line) for line in (run_of(place / "out") / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["kind"] == "train"]
    assert trained[-1]["train_accuracy"] > 0.9 > trained[0]["train_accuracy"]
    result = loci(place, "eval", place / "out", "--data", place / "clips", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    low, high = found["details"]["accuracy_interval"]
    assert found["measures"]["accuracy"] > 0.8 and low < found["measures"]["accuracy"] <= high
    assert found["details"]["clips"] == 12
    assert "12 test clips" in loci(place, "eval", place / "out", "--data", place / "clips").stdout
    assert "conv1" in loci(place, "inspect", place / "out").stdout


def test_a_run_goes_on_with_the_same_bits(place, tmp_path):
    (tmp_path / "out").mkdir()
    shutil.copytree(place / "out" / "main", tmp_path / "out" / "main")
    run = run_of(tmp_path / "out")
    shutil.rmtree(newest(run))
    (run / "latest").write_text("step-30")
    (run / "result.json").unlink()
    result = train(place, tmp_path / "out", "--resume")
    assert result.returncode == 0, result.stderr
    assert newest(run).name == "step-40"
    assert tensors_of(run) == tensors_of(run_of(place / "out"))


def test_each_folder_of_frames_is_predicted(place, tmp_path):
    draw = random.Random(7)
    for i in range(4):
        write_clip(tmp_path / "new" / "deep" / f"{i}", draw, "left" if i % 2 else "right")
    result = loci(place, "predict", place / "out", "--images", tmp_path / "new", "--json")
    assert result.returncode == 0, result.stderr
    clips = json.loads(result.stdout)["clips"]
    assert [clip["clip"] for clip in clips] == ["deep/0", "deep/1", "deep/2", "deep/3"]
    assert [clip["class"] for clip in clips] == ["right", "left", "right", "left"]
    assert all(0.5 < clip["probability"] <= 1 for clip in clips)
    text = loci(place, "predict", place / "out", "--images", tmp_path / "new" / "deep" / "1").stdout
    assert text.split()[:2] == [".", "left"]


def test_what_is_no_clip_is_named(place, tmp_path):
    (tmp_path / "none").mkdir()
    assert_refused(loci(place, "predict", place / "out", "--images", tmp_path / "none"), 3, "must hold clips of frames")
    (tmp_path / "small").mkdir()
    (tmp_path / "small/1.png").write_bytes(png([bytes(12)] * 4, 4))
    small = loci(place, "predict", place / "out", "--images", tmp_path / "small")
    assert_refused(small, 3, "small", "images must be 16 x 16 as those of the run, got 4 x 4")
    pictures = loci(place, "predict", place / "out", "--images", tmp_path / "small", "--json", "--pictures")
    assert_refused(pictures, 2, "--pictures", "video_classification")
    out = loci(place, "predict", place / "out", "--images", tmp_path / "small", "--out", tmp_path / "o")
    assert_refused(out, 2, "--out")
    shutil.copytree(place / "clips", tmp_path / "clips")
    frame = tmp_path / "clips/train/left/clip3/2.png"
    frame.write_bytes(frame.read_bytes()[:-20])
    assert_refused(train(place, tmp_path / "run", data=tmp_path / "clips"), 3, "train/left/clip3/2.png")
    shutil.rmtree(frame.parent)
    frame.parent.mkdir()
    assert_refused(train(place, tmp_path / "run", data=tmp_path / "clips"), 3, "clip3: a clip must hold frames")
