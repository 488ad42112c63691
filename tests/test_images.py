"""Image classification from outside: training on a folder, resuming, predicting, and what is refused."""

import json
import random
import shutil
import struct
import zlib

import pytest
from command_line import assert_refused, loci, newest, run_of, settings, tensors_of
from safetensors.numpy import load_file

RECIPE = """
task = "image_classification"
[data]
crop_padding = 1
mirror = false
[model]
depth = 8
width = 4
[model.memory]
rows = 64
heads = 2
top_k = 4
key_width = 8
[train]
steps = 40
batch = 8
threads = 1
precision = "float32"
log_every = 10
checkpoint_every = 10
[optimizer]
kind = "sgd"
learning_rate = 0.1
momentum = 0.9
weight_decay = 1e-4
[optimizer.schedule]
warmup = 0
"""

RECONSTRUCTION = """
task = "reconstruction"
[model]
width = 4
[model.quantiser]
codes = 16
[train]
steps = 20
batch = 8
threads = 1
precision = "float32"
[optimizer]
learning_rate = 1e-2
"""


def png(rows, width):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, len(rows), 8, 2, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def half(draw, side, edge=8):
    """Noise, brighter in its left or right half."""
    bright = range(edge // 2) if side == "left" else range(edge // 2, edge)
    return png(
        [bytes(draw.randrange(60) + (150 if x in bright else 30) for x in range(edge) for _ in range(3))
         for _ in range(edge)],
        edge,
    )  # fmt: skip


def rows_of(digits, edge):
    """Lines of an RGB image that JSON has as hexadecimal digits."""
    pixels = bytes.fromhex(digits)
    return [pixels[begin : begin + 3 * edge] for begin in range(0, len(pixels), 3 * edge)]


def write_images(folder):
    draw = random.Random(0)
    for part, count in (("train", 12), ("test", 6)):
        for side in ("left", "right"):
            (folder / part / side).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                (folder / part / side / f"{i:02}.png").write_bytes(half(draw, side))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A trained run (out) and its images."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "recipe.toml").write_text(RECIPE)
    write_images(folder / "images")
    result = train(folder, folder / "out")
    assert result.returncode == 0, result.stderr
    return folder


def train(place, out, *more, data=None):
    return loci(place, "train", place / "recipe.toml", "--data", data or place / "images", "--out", out, *more)


def test_the_plan_says_what_an_image_costs(place):
    result = loci(place, "train", place / "recipe.toml", "--dry-run", "--json", "--set", "data.size=[8,8]")
    (arm,) = json.loads(result.stdout)["arms"]
    assert arm["unit"] == "images" and arm["multiply_adds"] > 10_000
    result = loci(place, "train", place / "recipe.toml", "--dry-run")
    assert "multiply-adds forward" in result.stderr + result.stdout


def test_the_log_has_what_training_shows(place):
    lines = [json.loads(line) for line in (run_of(place / "out") / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["kind"] == "train"]
    assert trained[-1]["train_accuracy"] > 0.9 > trained[0]["train_accuracy"]
    assert 0 < trained[-1]["usage"] <= 1 and trained[-1]["kl"] >= 0
    (last,) = [line for line in lines if line["kind"] == "evaluation"][-1:]
    assert last["measures"]["accuracy"] > 0.9 and last["details"]["images"] == 12


def test_eval_measures_the_same(place):
    result = loci(place, "eval", place / "out", "--data", place / "images")
    assert result.returncode == 0, result.stderr
    assert "12 test images" in result.stdout and "memory at block 2: usage" in result.stdout


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


def test_a_memory_is_inserted_into_a_trained_network(place, tmp_path):
    plain = RECIPE[: RECIPE.index("[model.memory]")] + RECIPE[RECIPE.index("[train]") :]
    (tmp_path / "recipe.toml").write_text(
        plain
        + """
[[arms]]
name = "plain"
[[arms]]
name = "side-late"
[arms.set]
start = {arm = "plain"}
train = {steps = 1}
optimizer = {learning_rate = 0.0}
model = {memory = {rows = 64, heads = 2, top_k = 4, key_width = 8}}
"""
    )
    data = ("--data", place / "images", "--out", tmp_path / "out")
    assert_refused(
        loci(place, "train", tmp_path / "recipe.toml", *data, "--arm", "side-late"),
        2,
        "arm side-late needs a finished run of plain with seed 0",
    )
    result = loci(place, "train", tmp_path / "recipe.toml", *data)
    assert result.returncode == 0, result.stderr
    assert "side-late seed 0: starts from" in result.stderr and "0 of 1 tables" in result.stderr
    assert "At equal training images from the weights of plain" in result.stdout
    before, after = (
        load_file(newest(tmp_path / "out" / arm / "seed-0") / "model.safetensors") for arm in ("plain", "side-late")
    )
    weights = [name for name in before if "running" not in name]
    assert weights and all((after[name] == before[name]).all() for name in weights)
    assert any(".memory." in name for name in after)

    (tmp_path / "cut.safetensors").write_bytes(
        (newest(tmp_path / "out/plain/seed-0") / "model.safetensors").read_bytes()[:-5]
    )
    for weights, words in (
        ("cut.safetensors", "cut.safetensors"),
        ("out/plain", "a folder without checkpoints"),
        ("missing", "got nothing there"),
        (run_of(place / "out"), "every table must belong to the model"),
    ):
        result = loci(
            place, "train", tmp_path / "recipe.toml", "--data", place / "images", "--out", tmp_path / "other",
            "--arm", "plain", "--set", f'plain:start.weights="{tmp_path / weights}"',
        )  # fmt: skip
        assert_refused(result, 3, words)
        assert not (tmp_path / "other").exists()


def test_predict_names_the_class_of_each_image(place):
    folder = place / "images" / "test"
    (folder / "notes.txt").write_text("no image")
    result = loci(place, "predict", place / "out", "--images", folder)
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert len(lines) == 12 and lines[0][0] == "left/00.png"
    right = sum(line[0].startswith(line[1] + "/") for line in lines)
    assert right >= 11
    assert all(50 <= float(line[2]) <= 100 and line[3] == "%" for line in lines)

    images = json.loads(loci(place, "predict", place / "out", "--images", folder, "--json").stdout)["images"]
    assert "picture" not in images[0]
    assert [image["file"] for image in images] == [line[0] for line in lines]
    assert [image["class"] for image in images] == [line[1] for line in lines]
    assert all(0.5 <= image["probability"] <= 1 for image in images)


def test_predict_says_where_blocks_look(place, tmp_path):
    settings = ("--set", "main:model.non_local.blocks=[0,1,1]", "--set", "train.steps=10")
    result = train(place, tmp_path / "out", *settings)
    assert result.returncode == 0, result.stderr
    folder = place / "images" / "test" / "left"
    result = loci(place, "predict", tmp_path / "out", "--images", folder, "--json", "--pictures")
    (first, second) = json.loads(result.stdout)["images"][0]["picture"]["attention"]
    assert (first["block"], first["map"], first["keys"]) == ("layer2.0", [1, 4, 4], [1, 2, 2])
    assert (second["block"], second["map"], second["keys"]) == ("layer3.0", [1, 2, 2], [1, 1, 1])
    for query in first["queries"]:
        assert sum(query["weight"]) == pytest.approx(1, abs=1e-3) and len(query["weight"]) == 4


def test_predict_says_which_rows_the_positions_read(place, tmp_path):
    folder = place / "images" / "test" / "left"
    pictures = ("predict", place / "out", "--images", folder, "--pictures")
    result = loci(place, *pictures, "--json")
    assert result.returncode == 0, result.stderr
    images = json.loads(result.stdout)["images"]
    for image in images:
        pixels = image["picture"]["image"]
        assert png(rows_of(pixels["pixels"], 8), 8) == (folder / image["file"]).read_bytes()
        rows = image["picture"]["rows"]
        assert (rows["height"], rows["width"], rows["heads"], rows["top_k"]) == (2, 2, 2, 4)
        assert len(rows["index"]) == len(rows["weight"]) == 2 * 2 * 2 * 4
        assert all(0 <= row < 64 for row in rows["index"])
        heads = [sum(rows["weight"][begin : begin + 4]) for begin in range(0, 32, 4)]
        assert heads == pytest.approx([1] * 8, abs=1e-3)
    assert images[0]["picture"]["rows"] != images[1]["picture"]["rows"]
    assert_refused(loci(place, *pictures), 2, "--json")
    for i in range(65):
        (tmp_path / f"{i}.png").write_bytes((folder / "00.png").read_bytes())
    many = loci(place, "predict", place / "out", "--images", tmp_path, "--json", "--pictures")
    assert_refused(many, 2, "--pictures: --images must hold at most 64 images, got 65")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(40), ["bad.png"]),
        (b"", ["bad.png"]),
        (half(random.Random(1), "left")[:60], ["bad.png"]),
        (half(random.Random(1), "left", edge=9), ["9 x 9"]),
    ],
    ids=["garbage", "empty", "truncated", "other size"],
)
def test_predict_refuses_bad_images(place, tmp_path, content, words):
    (tmp_path / "bad.png").write_bytes(content)
    assert_refused(loci(place, "predict", place / "out", "--images", tmp_path), 3, *words)


def test_predict_refuses_what_is_no_folder_of_images(place, tmp_path):
    def predict(images):
        return loci(place, "predict", place / "out", "--images", images)

    assert_refused(predict(tmp_path), 3, "the folder must hold images")
    assert_refused(predict(tmp_path / "none"), 3, "--images must be a folder, got nothing there")
    assert_refused(predict(place / "recipe.toml"), 3, "--images must be a folder, got a file")
    assert_refused(loci(place, "predict", place / "out"), 2, "--images")


def test_data_that_do_not_fit_are_refused(place, tmp_path):
    data = tmp_path / "images"
    shutil.copytree(place / "images", data)
    (data / "test" / "right").rename(data / "test" / "up")
    assert_refused(train(place, tmp_path / "out", data=data), 3, "images of the same classes", "none of right")
    shutil.rmtree(data / "test")
    shutil.rmtree(data / "train")
    assert_refused(train(place, tmp_path / "out", data=data), 3, "must hold images in class folders")
    assert_refused(
        train(place, tmp_path / "out", *settings("data.train_images=25")), 2, "at most the folder's 24, got 25"
    )


def test_eval_refuses_other_classes(place, tmp_path):
    data = tmp_path / "images"
    shutil.copytree(place / "images", data)
    for part in ("train", "test"):
        (data / part / "right").rename(data / part / "up")
    assert_refused(
        loci(place, "eval", place / "out", "--data", data), 3, "the classes must be the 2 of the run, got up"
    )


def test_predict_writes_reconstructions(place, tmp_path):
    (tmp_path / "recipe.toml").write_text(RECONSTRUCTION)
    result = loci(place, "train", tmp_path / "recipe.toml", "--data", place / "images", "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    images, out = place / "images" / "test" / "left", tmp_path / "made"
    run = tmp_path / "out"
    result = loci(place, "predict", run, "--images", images, "--out", out, "--json")
    assert result.returncode == 0, result.stderr
    made = json.loads(result.stdout)["images"]
    assert [image["file"] for image in made] == sorted(path.name for path in images.iterdir())
    for image in made:
        file = out / image["file"]
        assert image["reconstruction"] == str(file) and file.read_bytes().startswith(b"\x89PNG")
        assert 3 < image["psnr"] < 60
    assert_refused(loci(place, "predict", run, "--images", images), 2, "--out must be given")
    assert_refused(
        loci(place, "predict", place / "out", "--images", images, "--out", out), 2, "--out must not be given"
    )
    pictures = ("--json", "--pictures")
    drawn = json.loads(loci(place, "predict", run, "--images", images, "--out", out, *pictures).stdout)["images"]
    for image in drawn:
        original, again = (image["picture"][name]["pixels"] for name in ("image", "reconstruction"))
        assert png(rows_of(original, 8), 8) == (images / image["file"]).read_bytes() and again != original
        rows = image["picture"]["rows"]  # codes of the quantiser, one a position
        assert (rows["height"], rows["width"], rows["heads"], rows["top_k"]) == (1, 1, 1, 1)
        assert 0 <= rows["index"][0] < 16
    (tmp_path / "file").write_text("")
    assert_refused(loci(place, "predict", run, "--images", images, "--out", tmp_path / "file"), 3, "file")


POSES = """
task = "relocalisation"
[data]
kind = "room"
width = 24
height = 16
train_paths = 1
test_paths = 1
frames = 210
[model]
width = 4
head_width = 16
[model.memory]
rows = 64
heads = 2
top_k = 4
key_width = 8
[train]
steps = 20
batch = 16
threads = 1
precision = "float32"
[optimizer]
learning_rate = 1e-2
"""


def test_poses_are_learned_measured_and_predicted(place, tmp_path):
    (tmp_path / "recipe.toml").write_text(POSES)
    result = loci(place, "train", tmp_path / "recipe.toml", "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "nearest image" in result.stdout and "degrees" in result.stdout
    result = loci(place, "eval", tmp_path / "out", "--places", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["measures"]["metres"] > 0 and found["details"]["train"]["metres"] > 0
    account = found["account"]
    assert len(account["positions"]) == len(account["paths"]) == 420
    for name in ("memory", "untrained", "clusters"):
        assert 0 < account[name]["overlap_p"] <= 1
    poses = json.loads(loci(place, "eval", tmp_path / "out", "--poses", "--json").stdout)["account"]["poses"]
    assert len(poses["true"]) == len(poses["predicted"]) == 210 and set(poses["paths"]) == {1}
    assert_refused(loci(place, "eval", place / "out", "--data", place / "images", "--poses"), 2, "--poses")
    text = loci(place, "eval", tmp_path / "out", "--places").stdout
    assert "Rows and places" in text and "untrained" in text
    assert_refused(loci(place, "eval", place / "out", "--data", place / "images", "--places"), 2, "--places")

    draw = random.Random(2)
    images = tmp_path / "frames"
    images.mkdir()
    rows = [bytes(draw.randrange(256) for _ in range(3 * 24)) for _ in range(16)]
    (images / "frame.png").write_bytes(png(rows, 24))
    result = loci(place, "predict", tmp_path / "out", "--images", images, "--json")
    assert result.returncode == 0, result.stderr
    (pose,) = json.loads(result.stdout)["images"]
    assert pose["file"] == "frame.png" and len(pose["position"]) == 3
    assert sum(number**2 for number in pose["rotation"]) == pytest.approx(1, abs=1e-4)
    cells = loci(place, "predict", tmp_path / "out", "--images", images).stdout.split()
    assert cells[0] == "frame.png" and cells[4] == "m"
    assert [float(cell) for cell in cells[1:4]] == pytest.approx(pose["position"], abs=1e-3)
    (images / "frame.png").unlink()
    (images / "wrong.png").write_bytes(half(draw, "left"))
    assert_refused(loci(place, "predict", tmp_path / "out", "--images", images), 3, "16 x 24", "8 x 8")
