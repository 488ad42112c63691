"""Masked language models and classification of texts from outside: the whole way from a text folder to predictions."""

import json

import pytest
from command_line import SMALL_MODEL, assert_refused, loci, write_text

MASKED = SMALL_MODEL.replace("layers = 1", "causal = false\nlayers = 1")

CLASSIFY = """
task = "text_classification"
[tokenizer]
kind = "bytes"
[model]
causal = false
layers = 1
width = 16
heads = 2
context = 16
[train]
steps = 60
batch = 8
threads = 1
precision = "float32"
[optimizer]
learning_rate = 1e-2
"""


def write_reviews(folder):
    """A letter that stands anywhere in a text says which of two classes it is of."""
    folder.mkdir()
    for part, count in (("train", 48), ("validation", 20), ("test", 10)):
        lines = ["text\tlabel"]
        for i in range(count):
            letter, label = (("x", "good"), ("y", "bad"))[i % 2]
            lines.append("a" * (i % 5) + letter + "a" * (i % 3) + "\t" + label)
        (folder / f"{part}.tsv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    write_text(folder / "text")
    (folder / "masked.toml").write_text(MASKED)
    (folder / "classify.toml").write_text(CLASSIFY + '[start]\nweights = "out/masked/{arm}/seed-{seed}"\n')
    write_reviews(folder / "reviews")
    for recipe, data, out in (("masked", "text", "masked"), ("classify", "reviews", "classes")):
        arguments = ["train", f"{recipe}.toml", "--data", data, "--out", f"out/{out}"]
        result = loci(folder, *arguments, cwd=folder)
        assert result.returncode == 0, result.stderr
    return folder


def test_a_masked_model_is_measured_by_its_loss_and_says_nothing_of_the_next_token(place):
    result = loci(place, "eval", place / "out/masked", "--data", place / "text", "--json")
    assert result.returncode == 0, result.stderr
    assert list(json.loads(result.stdout)["measures"]) == ["loss"]
    summary = json.loads((place / "out/masked/summary.json").read_text())
    assert summary["runs"][0]["baselines"] == []
    refused = (2, "must be a causal language model", "model.causal is false")
    assert_refused(loci(place, "generate", place / "out/masked", "--prompt", "a"), *refused)
    assert_refused(loci(place, "eval", place / "out/masked", "--data", place / "text", "--by-context"), *refused)


def test_a_run_is_resumed_with_the_same_masks(place, tmp_path):
    def train(out, *more):
        return loci(place, "train", place / "masked.toml", "--data", place / "text", "--out", out, *more)

    whole = (place / "out/masked/main/seed-0/step-12/model.safetensors").read_bytes()
    assert train(tmp_path / "out").returncode == 0
    run = tmp_path / "out/main/seed-0"
    assert (run / "step-12/model.safetensors").read_bytes() == whole
    (run / "result.json").unlink()
    for path in (run / "step-12").iterdir():
        path.unlink()
    (run / "step-12").rmdir()
    assert train(tmp_path / "out", "--resume").returncode == 0
    assert (run / "step-12/model.safetensors").read_bytes() == whole


def test_a_classifier_starts_from_the_run_and_is_measured(place):
    result = loci(place, "eval", place / "out/classes", "--data", place / "reviews", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    low, high = found["details"]["accuracy_interval"]
    assert found["measures"]["accuracy"] == 1 and found["measures"]["matthews"] == 1 and low < 1 == high
    text = loci(place, "eval", place / "out/classes", "--data", place / "reviews").stdout
    assert f"20 validation texts of 2 classes: accuracy 100.0 %, 95 % interval {100 * low:.1f} to 100.0 %," in text
    log = (place / "out/classes/main/seed-0/metrics.jsonl").read_text().splitlines()
    assert json.loads(log[0])["starts_from"] == "out/masked/main/seed-0"


def test_predictions(place, tmp_path):
    run = place / "out/classes/main/seed-0"
    (tmp_path / "new.tsv").write_text("id\ttext\n1\taxa\n2\tyaa\n")
    result = loci(place, "predict", run, "--texts", tmp_path / "new.tsv", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)["texts"]
    assert [(text["text"], text["class"]) for text in found] == [("axa", "good"), ("yaa", "bad")]
    assert all(0.5 < text["probability"] <= 1 for text in found)
    lines = loci(place, "predict", run, "--texts", tmp_path / "new.tsv").stdout.splitlines()
    assert lines[0].startswith("good") and lines[0].endswith("axa")
    assert_refused(loci(place, "predict", run), 2, "--texts must be given", "got none")
    assert_refused(
        loci(place, "predict", run, "--images", tmp_path, "--texts", tmp_path / "new.tsv"), 2, "--images must not"
    )
    (tmp_path / "bad.tsv").write_text("text\nx\ny\tz\n")
    assert_refused(loci(place, "predict", run, "--texts", tmp_path / "bad.tsv"), 3, "bad.tsv:3", "1 columns", "got 2")


def test_names_of_classes_do_not_reach_the_terminal_as_they_are(tmp_path):
    (tmp_path / "texts").mkdir()
    lines = [f"{letter}\t\x1b[31m{label}" for letter, label in (("x", "good"), ("y", "bad"))]
    for part in ("train", "validation"):
        (tmp_path / "texts" / f"{part}.tsv").write_text("\n".join(["text\tlabel", *lines * 8]) + "\n")
    (tmp_path / "classify.toml").write_text(CLASSIFY.replace("steps = 60", "steps = 1"))
    arguments = ["--data", tmp_path / "texts", "--out", tmp_path / "out"]
    result = loci(tmp_path, "train", tmp_path / "classify.toml", *arguments)
    assert result.returncode == 0, result.stderr
    predict = ["predict", tmp_path / "out/main/seed-0", "--texts", tmp_path / "texts/validation.tsv"]
    said = loci(tmp_path, *predict).stdout
    assert "\x1b" not in said and all(line.startswith("\\u001b[31m") for line in said.splitlines())
    classes = {text["class"] for text in json.loads(loci(tmp_path, *predict, "--json").stdout)["texts"]}
    assert classes <= {"\x1b[31mgood", "\x1b[31mbad"} and classes


def test_bad_files_are_named(place, tmp_path):
    def refused(*words):
        arguments = ["train", "classify.toml", "--data", tmp_path, "--out", tmp_path / "out"]
        assert_refused(loci(place, *arguments, cwd=place), 3, *words)

    refused("train.tsv", "No such file")
    (tmp_path / "train.tsv").write_text("text\tlabel\na\tgood\nb\tbad\n")
    refused("validation.tsv", "No such file")
    (tmp_path / "validation.tsv").write_text("text\tlabel\na\tgood\nb\tugly\n")
    refused("validation.tsv:3", "one of those in train.tsv", "ugly")
    (tmp_path / "validation.tsv").write_text("text\tlabel\na\tgood\nb\n")
    refused("validation.tsv:3", "2 columns", "got 1")
