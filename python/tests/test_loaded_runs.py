"""Runs of the command line as modules: the bits of C++, and what was changed in Python comes back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command_line import SMALL_MODEL, newest, settings, train
from command_line import loci as command
from safetensors.torch import load_file
from saved_run_cases import (
    ARMS,
    MEMORY,
    TEXT,
    assert_same_model,
    c_plus_plus,
    in_parts,
    language_inputs,
    run_of,
    trained_network,
)
from test_images import POSES
from test_images import RECIPE as IMAGES

import loci

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("arm", ARMS)
def test_a_language_model_has_the_bits_of_c_plus_plus_and_comes_back(place: Path, tmp_path: Path, arm: str) -> None:
    run = loci.load_run(run_of(place, arm))
    assert (run.step, run.task, run.damaged) == (12, "language_model", [])
    assert_same_model(run, c_plus_plus(run.folder, tmp_path, language_inputs()))
    names = {f"layers.{i}.memory" for i in (0, 1)} | {f"layers.{i}.ngram" for i in (0, 1)} | {"ngram"}
    assert set(run.memories) <= names and bool(run.memories) == bool(ARMS[arm])
    state = load_file(run.folder / "model.safetensors")
    rows = {key for key in run.model.state_dict() if key.split(".")[-2:] in (["table", "values"], ["down", "values"])}
    assert set(run.model.state_dict()) - rows == set(state)

    # What was changed in Python comes back, in Python, in C++ and on the command line.
    with torch.no_grad():
        run.model.final_norm[3] = 1.5
        for table in run.tables():
            table.set_rows(1, torch.ones(1, table.width))
    folder = loci.save_run(run, tmp_path / "saved")
    assert folder == tmp_path / "saved" / "step-12"
    again = loci.load_run(tmp_path / "saved")
    expected = c_plus_plus(folder, tmp_path, language_inputs())
    for one in (run, again):
        assert_same_model(one, expected)
    evaluated = command(place, "eval", tmp_path / "saved", "--data", place / "text", "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    before = command(place, "eval", run_of(place, arm), "--data", place / "text", "--json")
    assert command(place, "inspect", tmp_path / "saved").returncode == 0
    losses = [json.loads(result.stdout)["measures"]["loss"] for result in (before, evaluated)]
    assert losses[0] != losses[1] and abs(losses[0] - losses[1]) < 1
    generated = command(place, "generate", tmp_path / "saved", "--tokens", 10)
    assert generated.returncode == (2 if arm == "masked" else 0), generated.stderr


def test_rows_of_deltas_were_loaded(place: Path) -> None:
    run = loci.load_run(run_of(place, "deltas"))
    assert all(run.checkpoint.manifest["tables"][table.name]["deltas"] for table in run.tables())
    for table in run.tables():
        base = load_file(run.folder / f"table.{table.name}.safetensors")[table.name]
        assert 0 < (table.values != base).any(1).sum() < 4000, table.name


def test_a_table_in_parts_has_the_same_rows(place: Path, tmp_path: Path) -> None:
    run = in_parts(run_of(place, "deltas"), tmp_path / "parts")
    expected = c_plus_plus(newest(run_of(place, "deltas")), tmp_path, language_inputs())
    assert_same_model(loci.load_run(run), expected)
    assert_same_model(loci.load_run(run, home="mapped", folder=tmp_path / "rows"), expected)
    with pytest.raises(ValueError, match="must be in one file to be served, got 3; home must be memory or mapped"):
        loci.load_run(run, home="served")
    assert "3 parts" in command(place, "inspect", run).stdout
    facts = json.loads(command(place, "inspect", run, "--json").stdout)["tables"]
    assert {len(table["parts"]) for table in facts} == {3} and {len(table["deltas"]) for table in facts} == {3}
    results = []
    for one, out in ((run, tmp_path / "of-parts"), (run_of(place, "deltas"), tmp_path / "of-one")):
        evaluated = command(place, "eval", one, "--data", place / "text", "--json")
        assert evaluated.returncode == 0, evaluated.stderr
        converted = command(place, "convert", one, "--table", "int8", "--out", out)
        assert converted.returncode == 0, converted.stderr
        tables = {file.name: file.read_bytes() for file in newest(out).glob("table.*")}
        results.append((json.loads(evaluated.stdout)["measures"], tables))
    assert results[0] == results[1] and len(results[0][1]) == len(facts)


@pytest.mark.parametrize("home", ["served", "mapped"])
def test_rows_stay_in_files(place: Path, tmp_path: Path, home: str) -> None:
    files = {path: path.read_bytes() for path in newest(run_of(place, "deltas")).iterdir()}
    folder = tmp_path / "rows" if home == "mapped" else None
    run = loci.load_run(run_of(place, "deltas"), home=home, folder=folder)
    assert {table.home for table in run.tables()} == {home}
    assert_same_model(run, c_plus_plus(run.folder, tmp_path, language_inputs()))
    run.model.train()
    given = language_inputs()
    run.model.loss(given["tokens"], given["target"]).backward()
    touched = [table.gradient() is not None for table in run.tables()]
    assert all(touched) if home == "mapped" else not any(touched)
    if home == "mapped":
        before = [table.values.clone() for table in run.tables()]
        loci.optim.RowAdam(run.tables(), lr=1e-2).step()
        assert all(not torch.equal(table.values, rows) for table, rows in zip(run.tables(), before, strict=True))
        assert len(list(folder.iterdir())) >= 3
    else:
        file = run.tables()[0].path
        with pytest.raises(
            ValueError, match=r"layers\.0\.memory\.values must be Float \[9, 16\], got Float \[16384, 16\]"
        ):
            loci.Table(9, 16, home="served", path=file, name="layers.0.memory.values")
        run.tables()[0].set_rows(0, torch.ones(1, 16))
        with pytest.raises(TypeError, match="a served table cannot be copied"):
            run.tables()[0].__deepcopy__({})
    assert {path: path.read_bytes() for path in files} == files


def test_tables_of_a_run_stay_where_its_configuration_has_them(place: Path) -> None:
    assert [table.home for table in loci.load_run(run_of(place, "embedding")).tables()] == ["served"]
    assert [table.home for table in loci.load_run(run_of(place, "row")).tables()] == ["memory"]
    with pytest.raises(ValueError, match=r"load_run: folder must be given for home mapped alone, got None for home 'm"):
        loci.load_run(run_of(place, "row"), home="mapped")
    with pytest.raises(ValueError, match="load_run: home must be one of memory, mapped, served, got 'disk'"):
        loci.load_run(run_of(place, "row"), home="disk")


def test_rows_in_int8_are_read_and_written(place: Path, tmp_path: Path) -> None:
    for arm in ("parallel", "row"):  # the second has rows of 10 numbers
        converted = tmp_path / arm
        result = command(place, "convert", run_of(place, arm), "--table", "int8", "--out", converted)
        assert result.returncode == 0, result.stderr
        for home in ("served", "memory"):
            run = loci.load_run(converted, home=home)
            assert {table.dtype for table in run.tables()} == {torch.int8}
            expected = c_plus_plus(run.folder, tmp_path, language_inputs())
            assert_same_model(run, expected)
            assert_same_model(loci.load_run(loci.save_run(run, tmp_path / f"{arm}-{home}")), expected)


def test_a_bpe_tokenizer_gives_the_tokens_of_c_plus_plus(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    long = ("seven" * 1000 + "\u00e4" * 3000 + " ").encode()
    (place / "text" / "part0" / "more.txt").write_text("seven cats \u00e4\u00f6\u00fc sat\n" * 20)
    result = train(place, tmp_path / "out", "--arm", "gate", "--set", 'tokenizer={kind = "bpe", vocabulary = 512}')
    (place / "text" / "part0" / "more.txt").unlink()
    assert result.returncode == 0, result.stderr
    run = loci.load_run(tmp_path / "out")
    assert run.tokenizer.kind == "bpe" and run.model.vocabulary == run.tokenizer.vocabulary
    assert run.model.end_of_text == run.tokenizer.end_of_text
    given = language_inputs() | {"text": torch.frombuffer(bytearray(TEXT + long), dtype=torch.uint8)}
    given["tokens"] %= run.model.vocabulary
    given["target"] %= run.model.vocabulary
    expected = c_plus_plus(run.folder, tmp_path, given)
    tokens = run.tokenizer.encode(TEXT + long)
    assert tokens == expected["encoded"].tolist() and run.tokenizer.decode(tokens) == TEXT + long
    with torch.no_grad():
        assert torch.equal(run.model(given["tokens"]), expected["logits"])


def test_the_start_is_that_of_c_plus_plus(place: Path) -> None:
    result = train(place, place / "start", "--arm", "replace", "--set", "train.steps=1", "--set",
                   "optimizer.learning_rate=0", "--set", "table_optimizer.learning_rate=0")  # fmt: skip
    assert result.returncode == 0, result.stderr
    run = loci.load_run(place / "start")
    options = {key: value for key, value in run.config["model"]["memory"].items()
               if key not in ("calibrate_at", "calibrate_tokens", "shard", "width")}  # fmt: skip
    model = loci.TransformerLM(257, layers=2, width=16, heads=2, context=16, memory=options, seed=3)
    found, expected = model.state_dict(), run.model.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def test_the_model_compiles_and_trains(place: Path) -> None:
    run = loci.load_run(run_of(place, "parallel"))
    model, given = run.model.train(), language_inputs()
    both = loci.optim.Both(torch.optim.AdamW(model.parameters(), lr=1e-3), loci.optim.RowAdam(run.tables(), lr=1e-2))
    losses = []
    for _ in range(5):
        both.zero_grad()
        loss = model.loss(given["tokens"], given["target"])
        loss.backward()
        both.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.eval()
    compiled = torch.compile(model)(given["tokens"])
    torch.testing.assert_close(compiled, model(given["tokens"]), atol=1e-4, rtol=1e-4)


LABELS = """
task = "random_labels"
[data]
vectors = 256
[model]
rows = 100
top_k = 3
[train]
steps = 3
batch = 64
threads = 1
"""
NETWORKS = {
    "labels": (LABELS, "memory", []),
    "poses": (POSES, "memory.memory", ["model.memory.frozen_keys=true"]),
    "images": (IMAGES, "layer3.0.memory.map.memory", []),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_memories_of_a_network_without_a_module(tmp_path: Path, network: str) -> None:
    recipe, name, more = NETWORKS[network]
    run = loci.load_run(trained_network(tmp_path, recipe, "train.steps=3", *more))
    assert list(run.memories) == [name] and run.model is None
    memory = run.memories[name]
    assert (memory.table.rows, memory.top_k) == ((100, 3) if network == "labels" else (64, 4))
    assert memory.keys1.requires_grad == memory.keys2.requires_grad == (network != "poses")
    state = load_file(run.folder / "model.safetensors")
    assert run.others.keys() | {f"{name}.{key}" for key in memory.state_dict() if key != "table.values"} == state.keys()
    loci.save_run(run, tmp_path / "saved")
    memory.table.set_rows(0, torch.full((memory.table.rows, memory.table.width), 30.0))
    loci.save_run(run, tmp_path / "changed")
    data = ["--data", tmp_path / "images"] if network == "images" else []
    measures = [json.loads(command(tmp_path, "eval", tmp_path / one, *data, "--json").stdout)["measures"]
                for one in ("out", "saved", "changed")]  # fmt: skip
    assert measures[0] == measures[1] != measures[2]


def test_memories_of_a_network_may_have_tables_in_parts(tmp_path: Path) -> None:
    whole = loci.load_run(trained_network(tmp_path, LABELS))
    parts = loci.load_run(in_parts(whole.folder, tmp_path / "parts"))
    for table, same in zip(parts.tables(), whole.tables(), strict=True):
        assert torch.equal(table.values, same.values)


def test_a_model_that_classifies_texts_keeps_its_classifier(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for part, count in (("train", 40), ("validation", 20)):
        lines = [f"{'aa'[: i % 3]}{'xy'[i % 2]}a\t{'good bad'.split()[i % 2]}\n" for i in range(count)]
        (tmp_path / "texts" / f"{part}.tsv").write_text("text\tlabel\n" + "".join(lines))
    recipe = SMALL_MODEL.replace("language_model", "text_classification")
    recipe = recipe.replace("[data]\nevaluation_tokens = 500\nvalidation_share = 0.2\n", "")
    memory = f'[model.memory]\nlayers = [0]\nrows = 25\nkind = "peer"\n{MEMORY}'
    (tmp_path / "recipe.toml").write_text(recipe + memory)
    arguments = ["--data", tmp_path / "texts", "--out", tmp_path / "out"]
    result = command(tmp_path, "train", tmp_path / "recipe.toml", *arguments, *settings("model.causal=false"))
    assert result.returncode == 0, result.stderr
    run = loci.load_run(tmp_path / "out")
    assert (run.task, set(run.others)) == ("text_classification", {"classifier.weight", "classifier.bias"})
    assert not run.model.causal and isinstance(run.memories["layers.0.memory"], loci.PeerMemory)
    loci.save_run(run, tmp_path / "saved")
    run.others["classifier.bias"][0] += 100
    loci.save_run(run, tmp_path / "changed")
    data = ["--data", tmp_path / "texts", "--json"]
    measures = [json.loads(command(tmp_path, "eval", tmp_path / one, *data).stdout)["measures"]
                for one in ("out", "saved", "changed")]  # fmt: skip
    assert measures[0] == measures[1] != measures[2]
