"""Detection from outside: training on shapes, measures, what is found in images, and weights of other libraries."""

import json
import random

import peer_networks as peers
import pytest
import torch
from command_line import assert_refused, loci, newest, run_of
from loci.weights import main
from safetensors.torch import load_file
from test_images import png

RECIPE = """
task = "shapes_keypoints"
[data]
test_images = 6
[model]
width = 4
pyramid_width = 8
[model.non_local]
blocks = [0, 0, 1, 0]
[train]
steps = 4
batch = 4
threads = 1
precision = "float32"
[optimizer]
learning_rate = 2e-3
[optimizer.schedule]
warmup = 0
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "recipe.toml").write_text(RECIPE)
    result = loci(folder, "train", folder / "recipe.toml", "--out", folder / "out")
    assert result.returncode == 0, result.stderr
    return folder


def noise(edge):
    draw = random.Random(edge)
    return png([draw.randbytes(3 * edge) for _ in range(edge)], edge)


def test_the_plan_says_what_an_image_costs(place):
    result = loci(place, "train", place / "recipe.toml", "--dry-run", "--json")
    (arm,) = json.loads(result.stdout)["arms"]
    assert arm["unit"] == "images" and arm["multiply_adds"] > 1_000_000
    assert arm["parameters_dense"] == sum(
        value.numel()
        for name, value in load_file(newest(run_of(place / "out")) / "model.safetensors").items()
        if "running_" not in name
    )


def test_eval_says_what_was_found(place):
    result = loci(place, "eval", place / "out", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert set(found["measures"]) == {"box_ap", "mask_ap", "keypoint_ap", "loss"}
    assert found["details"]["images"] == 6 and len(found["details"]["mask"]["by_threshold"]) == 10
    assert set(found["details"]["box"]["by_class"]) == {"arrow", "kite", "ell"}
    assert "AP at 0.50" in loci(place, "eval", place / "out").stdout


def test_predict_says_where_what_is(place):
    folder = place / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(noise(128))
    result = loci(place, "predict", place / "out", "--images", folder, "--json")
    assert result.returncode == 0, result.stderr
    images = json.loads(result.stdout)["images"]
    assert [image["file"] for image in images] == ["a.png", "b.png"]
    for found in images[0]["detections"]:
        assert found["class"] in ("arrow", "kite", "ell") and 0 < found["score"] < 1
        x0, y0, x1, y1 = found["box"]
        assert 0 <= x0 <= x1 <= 128 and 0 <= y0 <= y1 <= 128
        assert len(found["keypoints"]) == 4 and sum(found["mask"]) == 128 * 128
    scores = [found["score"] for found in images[0]["detections"]]
    assert 0 < len(scores) <= 20 and scores == sorted(scores, reverse=True)
    assert images[0]["detections"] == images[1]["detections"]
    lines = loci(place, "predict", place / "out", "--images", folder).stdout.splitlines()
    assert len(lines) == 2 and lines[0].startswith("a.png")
    (folder / "c.png").write_bytes(noise(64))
    assert_refused(loci(place, "predict", place / "out", "--images", folder), 3, "one size")
    for name in ("a.png", "b.png"):
        (folder / name).unlink()
    assert_refused(loci(place, "predict", place / "out", "--images", folder), 3, "images must be 128 x 128", "64 x 64")


def test_training_starts_from_the_weights_of_a_classifier(place, tmp_path):
    state = peers.random_state(peers.resnet_shapes(18, 4, 5))
    torch.save(state, tmp_path / "theirs.pth")
    body = tmp_path / "body.safetensors"
    arguments = ["import", "--from", "torchvision", "--model", "resnet18_body", "--width", "4"]
    assert main([*arguments, str(tmp_path / "theirs.pth"), str(body)]) == 0
    result = loci(place, "train", place / "recipe.toml", "--out", tmp_path / "out",
                  "--set", f'main:start.weights="{body}"',
                  "--set", "optimizer.learning_rate=0.0", "--set", "train.steps=1")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert f"starts from {body}" in result.stderr
    after = load_file(newest(run_of(tmp_path / "out")) / "model.safetensors")
    for name, value in state.items():
        if "running_" not in name and not name.startswith("fc."):
            assert torch.equal(after[f"backbone.body.{name}"], value), name
