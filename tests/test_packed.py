"""Binary networks from outside: a run is packed, evaluated, and run by a header that needs neither torch nor Loci."""

import json
import random
import subprocess

import numpy as np
import pytest
from command_line import ROOT, assert_refused, loci, newest, run_of
from safetensors.numpy import load_file

RECIPE = """
task = "binary_network"
[data]
color = "grey"
crop_padding = 0
mirror = false
[model]
convolutions = [6, 9]
hidden = [70]
[train]
steps = 30
batch = 20
threads = 1
precision = "float32"
[optimizer]
learning_rate = 0.01
weight_decay = 0
clip_norm = 0
"""
SIDE = 8


def write_idx(path, values):
    path.write_bytes(
        bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape) + values.tobytes()
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Digits of three kinds in MNIST's form: the left, the right or the upper half is brighter."""
    place = tmp_path_factory.mktemp("packed")
    (place / "digits").mkdir()
    draw = np.random.default_rng(0)
    for part, count in (("train", 120), ("t10k", 60)):
        labels = np.arange(count, dtype=np.uint8) % 3
        images = draw.integers(0, 150, (count, SIDE, SIDE))
        images[labels == 0, :, : SIDE // 2] += 80
        images[labels == 1, :, SIDE // 2 :] += 80
        images[labels == 2, : SIDE // 2] += 80
        write_idx(place / "digits" / f"{part}-images-idx3-ubyte", images.astype(np.uint8))
        write_idx(place / "digits" / f"{part}-labels-idx1-ubyte", labels)
    (place / "recipe.toml").write_text(RECIPE)
    result = loci(place, "train", place / "recipe.toml", "--data", place / "digits", "--out", place / "out")
    assert result.returncode == 0, result.stderr
    return place


@pytest.fixture(scope="module")
def packed(place):
    result = loci(place, "convert", run_of(place / "out"), "--packed", "--out", place / "packed", "--data",
                  place / "digits", "--json")  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_packed_run_has_the_scores_of_the_trained_one(place, packed):
    assert packed["packed"] and packed["equal_scores"]
    assert packed["measures_before"] == packed["measures_after"]
    assert packed["measures_after"]["accuracy"] > 0.6
    before, after = (
        json.loads(loci(place, "eval", run, "--data", place / "digits", "--json").stdout)["details"]
        for run in (run_of(place / "out"), place / "packed")
    )
    assert before["scores"] == after["scores"]
    assert after["bytes"] < before["bytes"] / 4


def test_the_header_runs_it_without_torch(place, packed):
    program = place / "packed_mnist"
    source = ROOT / "examples" / "packed_mnist" / "packed_mnist.cpp"
    subprocess.run(["g++", "-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", source, "-o", program], check=True)
    model = newest(place / "packed") / "model.safetensors"
    files = [place / "digits" / f"t10k-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
    answer = subprocess.run([program, model, *files], capture_output=True, text=True)
    share = 100 * packed["measures_after"]["accuracy"]
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == f"{round(60 * share / 100)} of 60 test images are right: {share:.2f} %\n"

    # A damaged file ends in one line, whatever is damaged.
    whole = model.read_bytes()
    dice = random.Random(0)
    damaged = place / "damaged.safetensors"
    for _ in range(60):
        bytes_ = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            bytes_[dice.randrange(600)] = dice.randrange(256)
        damaged.write_bytes(bytes_[: dice.randrange(len(whole))] if dice.random() < 0.3 else bytes_)
        answer = subprocess.run([program, damaged, *files], capture_output=True, text=True)
        assert answer.returncode in (0, 3), answer.stderr
        if answer.returncode == 3:
            assert answer.stderr.startswith("packed_mnist: ") and answer.stderr.count("\n") == 1


def test_a_packed_run_neither_trains_nor_is_packed_again(place, packed):
    assert_refused(loci(place, "convert", place / "packed", "--packed", "--out", place / "again"), 2,
                   "RUN must have been trained, got a packed one")  # fmt: skip
    recipe = place / "packed.toml"
    recipe.write_text(RECIPE.replace("[model]", "[model]\npacked = true"))
    assert_refused(loci(place, "train", recipe, "--data", place / "digits", "--out", place / "other"), 2,
                   "model.packed must be false in training")  # fmt: skip


def test_the_packed_file_is_thirty_times_smaller_in_its_signs(place, packed):
    signs = load_file(newest(place / "packed") / "model.safetensors")
    numbers = load_file(newest(run_of(place / "out")) / "model.safetensors")
    # A hidden layer behind a map of 4 x 4 pixels of 9 channels: a word a pixel.
    assert signs["stage2.bits"].shape == (70, 16)
    assert numbers["stage2.product.weight"].shape == (70, 144)
    assert signs["stage0.bits"].shape == (6, 1) and signs["stage1.bits"].shape == (9, 9)
