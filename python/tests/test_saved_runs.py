"""What Python saves is opened by C++ and the command line: the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import assert_refused, train
from command_line import loci as command
from memory_cases import LAYERS, TOKENS, WIDTH, inputs, small
from saved_run_cases import assert_same_model, c_plus_plus, language_inputs, run_of
from torch import nn

import loci

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_language_model_of_python_is_a_run(place: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "memory": {"layers": [0, -1], "rows": 50, "heads": 2, "top_k": 3, "kind": "peer", "shared_table": True},
        "ngram": {"at": "embedding", "rows": 900, "orders": [2]},
    }
    model = loci.TransformerLM(257, layers=2, width=16, heads=2, context=16, end_of_text=256, seed=5, **options)
    assert [table.name for table in model.tables()] == ["ngram.values", "memory.values", "memory.down"]
    assert not model.tables()[0].values.any() and model.tables()[1].values.all()
    zero = loci.TransformerLM(9, width=16, memory=options["memory"] | {"start": "zero_values"})
    assert not zero.tables()[0].values.any() and zero.tables()[1].values.all()
    zero = loci.TransformerLM(9, width=16, memory=options["memory"] | {"start": "zero_output", "output": "projection"})
    assert zero.tables()[0].values.all() and not dict(zero.memories())["layers.0.memory"].output_weight.any()
    model.tables()[0].set_rows(0, torch.randn(900, 16))
    folder = loci.save_run(model.eval(), tmp_path / "run", tokenizer="bytes", step=4)
    expected = c_plus_plus(folder, tmp_path, language_inputs())
    run = loci.load_run(tmp_path / "run")
    assert_same_model(run, expected)
    given = language_inputs()
    assert torch.equal(model(given["tokens"]), expected["logits"])
    loss = torch.nn.functional.cross_entropy(model(given["tokens"]).flatten(0, 1), given["target"].flatten())
    torch.testing.assert_close(model.loss(given["tokens"], given["target"]), loss)
    for verb in (["eval", tmp_path / "run", "--data", place / "text"], ["generate", folder, "--tokens", 5]):
        result = command(place, *verb)
        assert result.returncode == 0, result.stderr


def test_training_starts_from_a_saved_run_but_does_not_go_on(place: Path, tmp_path: Path) -> None:
    saved = tmp_path / "out" / "parallel" / "seed-3"
    loci.save_run(loci.load_run(run_of(place, "parallel")), saved)
    begun = train(place, tmp_path / "begun", "--arm", "parallel", "--set", f'parallel:start.weights="{saved}"')
    assert begun.returncode == 0, begun.stderr
    resumed = train(place, tmp_path / "out", "--arm", "parallel", "--resume")
    assert_refused(
        resumed, 2, "a run that goes on must have been trained, got one made for serving (loci convert, loci"
    )


@pytest.mark.parametrize("name", LAYERS)
def test_c_plus_plus_opens_a_memory_of_python(tmp_path: Path, name: str) -> None:
    memory = small(name, **({"value_width": 10} if LAYERS[name].get("output") else {}))
    memory(inputs(TOKENS))  # moves the running statistics
    memory.eval()
    folder = loci.save_run(memory, tmp_path / "saved")
    expected = memory(inputs(TOKENS)).detach()
    assert torch.equal(c_plus_plus(folder, tmp_path, {"x": inputs(TOKENS)})["y"], expected)
    run = loci.load_run(tmp_path / "saved")
    assert (run.task, run.model, run.step, list(run.memories)) == ("memories", None, 0, ["memory"])
    assert torch.equal(run.memories["memory"](inputs(TOKENS)), expected)
    loci.save_run(run, tmp_path / "again")
    assert torch.equal(loci.load_run(tmp_path / "again" / "step-0").memories["memory"](inputs(TOKENS)), expected)


def test_memories_of_a_module_keep_names_and_shared_tables(tmp_path: Path) -> None:
    table = loci.Table(30, WIDTH, torch.bfloat16, seed=1)
    ngram = loci.NgramMemory(WIDTH, 500, vocabulary=9, injection="gate", convolution=True, hash_heads=2, std=1.0)
    model = nn.ModuleDict({
        "a": nn.Sequential(nn.Linear(3, WIDTH), small(rows=None, table=table)),
        "b": small("peer", rows=None, table=table, activation="relu"),
        "c": small("peer"),
        "n": ngram,
    }).eval()  # fmt: skip
    loci.save_run(model, tmp_path / "saved", step=7)
    run = loci.load_run(tmp_path / "saved", home="served")
    assert (run.step, list(run.memories), len(run.tables())) == (7, ["a.1", "b", "c", "n"], 5)
    assert run.memories["a.1"].table is run.memories["b"].table and run.memories["b"].table.dtype == torch.bfloat16
    x = inputs(2, 7)
    for name, memory in run.memories.items():
        own, more = model.get_submodule(name), (torch.randint(9, (2, 7)),) if name == "n" else ()
        assert torch.equal(memory(x, *more), own(x, *more)), name
        assert not memory.training
