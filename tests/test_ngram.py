"""N-gram memories on the command line: training, resume, evaluation, generation, convert, alone and beside another."""

import json
import shutil

import pytest
from command_line import SMALL_MODEL, assert_refused, loci, make_place, newest, run_of, settings, tensors_of, train

RECIPE = (
    SMALL_MODEL
    + """
[table_optimizer]
rule = "adam_row_moment"
learning_rate = 1e-2
[model.ngram]
rows = 16_384
rate = 3
"""
)
ARMS = {
    "sum": [],
    "embedding": ["model.ngram.at=embedding", "model.ngram.orders=[2, 3]"],
    "gate": ["model.ngram.injection=gate", "model.ngram.convolution=true"],
    "row": ["model.ngram.injection=row", "model.ngram.orders=[1]"],
    "both": ["main:model.memory.layers=[0]", "main:model.memory.rows=64", "main:model.memory.heads=2",
             "main:model.memory.top_k=4", "main:model.memory.calibrate_at=4", "main:model.memory.calibrate_tokens=128"],
}  # fmt: skip


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return make_place(tmp_path_factory, RECIPE)


@pytest.mark.parametrize("arm", ARMS)
def test_a_run_resumes_to_the_same_bits_and_serves(place, tmp_path, arm):
    more = settings(*ARMS[arm])
    result = train(place, tmp_path / "whole", *more)
    assert result.returncode == 0, result.stderr
    whole, cut = run_of(tmp_path / "whole"), run_of(tmp_path / "cut")
    # As if it had been killed after the checkpoint of step 9.
    shutil.copytree(tmp_path / "whole", tmp_path / "cut", symlinks=True)
    shutil.rmtree(cut / "step-12")
    (cut / "result.json").unlink()
    result = train(place, tmp_path / "cut", *more, "--resume")
    assert result.returncode == 0, result.stderr
    assert newest(cut).name == "step-12" and tensors_of(cut) == tensors_of(whole)

    evaluated = loci(place, "eval", whole, "--data", place / "text", "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    facts = json.loads(evaluated.stdout)
    (run,) = json.loads((tmp_path / "whole" / "summary.json").read_text())["runs"]
    assert facts["measures"] == run["measures"]
    for ngrams in facts["details"]["ngrams"]:
        assert 0 < ngrams["usage"] < 1
        assert [order["order"] for order in ngrams["orders"]] == {"embedding": [2, 3], "row": [1]}.get(arm, [1, 2, 3])
        assert all(0 <= order["shared"] < 0.5 and order["distinct"] > 20 for order in ngrams["orders"])
    generated = loci(place, "generate", whole, "--tokens", 40)
    assert generated.returncode == 0, generated.stderr


def test_the_size_of_a_run_counts_its_rows(place, tmp_path):
    result = loci(place, "train", place / "recipe.toml", "--out", tmp_path / "out", "--dry-run", "--json")
    assert result.returncode == 0, result.stderr
    (arm,) = json.loads(result.stdout)["arms"]
    assert arm["parameters_table"] == 16_384 * 16
    assert arm["memory"]["tables"] == 16_384 * 16 * 4
    more = settings(*ARMS["both"], "model.ngram.home=mapped")
    result = loci(place, "train", place / "recipe.toml", "--out", tmp_path / "out", "--dry-run", "--json", *more)
    assert result.returncode == 0, result.stderr
    (arm,) = json.loads(result.stdout)["arms"]
    assert arm["parameters_table"] == 16_384 * 16 + 64 * 16
    assert arm["memory"]["tables"] == 64 * 16 * 4


def test_a_mapped_table_trains_to_the_same_bits(place, tmp_path):
    outs = [tmp_path / home for home in ("memory", "mapped")]
    for out in outs:
        result = train(place, out, *settings(f"model.ngram.home={out.name}"))
        assert result.returncode == 0, result.stderr
    assert tensors_of(run_of(outs[0])) == tensors_of(run_of(outs[1]))


@pytest.mark.parametrize("rows", ["int8", "bf16"])
def test_both_kinds_of_rows_are_converted(place, tmp_path, rows):
    result = train(place, tmp_path / "out", *settings(*ARMS["both"]))
    assert result.returncode == 0, result.stderr
    out = tmp_path / "served"
    arguments = ("--table", rows, "--out", out, "--data", place / "text", "--json")
    result = loci(place, "convert", run_of(tmp_path / "out"), *arguments)
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert abs(facts["measures_after"]["loss"] - facts["measures_before"]["loss"]) < 0.01
    inspected = json.loads(loci(place, "inspect", out, "--json").stdout)
    tensors = {tensor["name"]: tensor["dtype"] for file in inspected["files"] for tensor in file.get("tensors", [])}
    dtype = {"int8": "I8", "bf16": "BF16"}[rows]
    assert tensors["layers.0.ngram.values"] == tensors["layers.0.memory.values"] == dtype
    assert loci(place, "generate", out, "--tokens", 20).returncode == 0


def test_what_is_refused_before_training(place, tmp_path):
    for setting, word in (
        ("model.ngram.orders=[0]", "model.ngram.orders"),
        ("model.ngram.orders=[2, 2]", "2 twice"),
        ("model.ngram.rows=4", "prime"),
        ("model.ngram.injection=row", "ngram.orders must be [1]"),
        ("model.ngram.convolution=true", "gate"),
    ):
        assert_refused(train(place, tmp_path / "out", *settings(setting)), 2, word)
    both = settings("model.ngram.at=embedding", "model.ngram.layers=[0]")
    assert_refused(train(place, tmp_path / "out", *both), 2, "model.ngram.at")
