"""Runs of the command line as modules, and what Python saves opened by C++: the same bits both ways."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import SMALL_MODEL, assert_refused, make_place, newest, settings, train
from command_line import loci as command
from memory_cases import LAYERS, TOKENS, WIDTH, inputs, small
from safetensors.torch import load_file, save_file
from test_images import POSES, write_images
from test_images import RECIPE as IMAGES
from torch import Tensor, nn

import loci

TOOL = Path(__file__).resolve().parents[2] / "build" / "release" / "tests" / "run_tool"
# 16,384 rows of 16 numbers are large enough to be saved as a base and deltas.
ARMS = {
    "base": {},
    "parallel": {"memory": 'layers = [-1]\nrows = 60\nquery_norm = "batch"\ncalibrate_at = 4\ncalibrate_tokens = 128'},
    "replace": {"memory": 'layers = [0, 1]\nrows = 60\nshared_table = true\nplacement = "replace"\nrow_offset = 7\n'
                          'addressing = "modulo"\nnormalise_keys = true\nweight = "relu"'},
    "after": {"memory": 'layers = [0]\nrows = 60\nkind = "peer"\nplacement = "after"\nquery_hidden = [9]'},
    "flat": {"memory": 'layers = [1]\nrows = 60\nkind = "flat"\noutput = "swilu"\nvalue_width = 10\n'
                       'start = "zero_output"\nvalue_dtype = "bfloat16"\nquery_norm = "center"'},
    "masked": {"": "causal = false", "memory": 'layers = [0]\nrows = 60\nquery_norm = "batch"\nplacement = "after"'},
    "deltas": {"memory": "layers = [0, 1]\nrows = 16_384", "ngram": 'injection = "sum"\nrows = 16_384'},
    "gate": {"ngram": 'injection = "gate"\nconvolution = true\nhash_heads = 2\nrows = 1_000'},
    "row": {"ngram": 'injection = "row"\norders = [1]\nvalue_width = 10\nrows = 1_000'},
    "embedding": {"ngram": 'at = "embedding"\norders = [2, 3]\nrows = 1_000\nhome = "mapped"'},
}  # fmt: skip
MEMORY = "heads = 2\ntop_k = 4\nkey_width = 8\n"


def recipe() -> str:
    text = "seeds = [3]" + SMALL_MODEL.replace("layers = 1", "layers = 2")
    for name, sections in ARMS.items():
        text += f'[[arms]]\nname = "{name}"\n'
        for section, options in sections.items():
            text += f"[arms.set.model{section and '.'}{section}]\n{MEMORY if section == 'memory' else ''}{options}\n"
    return text


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_place(tmp_path_factory, recipe())
    result = train(folder, folder / "out")
    assert result.returncode == 0, result.stderr
    return folder


def run_of(place: Path, arm: str) -> Path:
    return place / "out" / arm / "seed-3"


def c_plus_plus(checkpoint: Path, folder: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    save_file(tensors, folder / "in.safetensors")
    files = [checkpoint, folder / "in.safetensors", folder / "out.safetensors"]
    result = subprocess.run([TOOL, *files], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return load_file(folder / "out.safetensors")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


TEXT = (
    "the cat  sat\non\n\n  a mat \u2581 \u00e4\u00f6 \U0001f600 \x00 and saw".encode()
    + b"\xff\xe2\x96 x\xed\xa0\x80"
    + b" a" * 5
)


def language_inputs() -> dict[str, Tensor]:  # the mask pads the last sequence, and one is padding alone
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(257, (3, 16), generator=generator)
    tokens[1, 5] = 256  # a document ends
    target = torch.randint(257, (3, 16), generator=generator)
    target[2, 8:] = -100
    mask = torch.ones(3, 16, dtype=torch.bool)
    mask[0], mask[2, 8:] = False, False
    text = torch.frombuffer(bytearray(TEXT), dtype=torch.uint8)
    return {"tokens": tokens, "target": target, "text": text, "mask": mask}


def assert_same_model(run: loci.Run, expected: dict[str, Tensor]) -> None:
    given = language_inputs()
    with torch.no_grad():
        assert torch.equal(run.model(given["tokens"]), expected["logits"])
        assert torch.equal(run.model.loss(given["tokens"], given["target"]), expected["loss"])
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(run.model(given["tokens"]), expected["bfloat16"])
        if run.model.ngram_options is None:
            assert torch.equal(run.model(given["tokens"], given["mask"]), expected["padded"])
    assert run.tokenizer.encode(TEXT) == expected["encoded"].tolist()


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
    with pytest.raises(ValueError, match="load_run: home must be one of memory, served, mapped, got 'disk'"):
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


def test_tokenizers_that_are_none_of_ours() -> None:
    with pytest.raises(ValueError, match="file: the saved tokenizer must be one of Loci, got 5 bytes of another kind"):
        loci.Tokenizer(b"other", "file")
    pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    with pytest.raises(ValueError, match="tokenizer: the saved tokenizer must be a model of sentencepiece, got "):
        loci.Tokenizer(b"loci-tokenizer 1 bpe\nrest")
    with pytest.raises(ValueError, match=r"tokenizer: token must be in 0 \.\. 256, got 257"):
        loci.Tokenizer(b"loci-tokenizer 1 bytes\n").decode([257])


def flip_a_byte(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.unlink()  # another checkpoint may link to it
    path.write_bytes(data)


def remove_section(path: Path, section: str) -> None:
    before, _, rest = path.read_text().partition(f"[{section}]")
    path.write_text(before + rest[rest.index("\n[") :])


DAMAGES: dict[str, Any] = {
    "a byte of the tensors": (lambda step: flip_a_byte(step / "model.safetensors"), r"model\.safetensors.*the sum"),
    "a byte of rows": (lambda step: flip_a_byte(step / "table.layers.1.memory.values.safetensors"), r"values.*the sum"),
    "a cut file": (lambda step: os.truncate(step / "tokenizer.model", 3), r"must have the 23 bytes.*3$"),
    "a missing file": (lambda step: (step / "model.safetensors").unlink(), r"model\.safetensors"),
    "a byte of the manifest": (lambda step: flip_a_byte(step / "manifest.json", 30), "the manifest must be whole"),
    "no manifest": (lambda step: (step / "manifest.json").unlink(), "a checkpoint must have a manifest"),
    "no configuration": (lambda step: (step.parent / "config.toml").unlink(),
                         "the configuration must be readable TOML, got No such file or directory"),
    "a configuration that is none": (lambda step: (step.parent / "config.toml").write_text("= 3"),
                                     "the configuration must be readable TOML"),
    "an empty configuration": (lambda step: (step.parent / "config.toml").write_text('task = "language_model"'),
                               r"the configuration must be one that loci train writes, got KeyError\('model'\)"),
    "a configuration without the memory": (lambda step: remove_section(step.parent / "config.toml", "model.memory"),
                                           "every tensor must belong to the model, got layers.1.memory"),
    "another number of layers": (lambda step: (step.parent / "config.toml").write_text(
        (step.parent / "config.toml").read_text().replace("\nlayers = 2\n", "\nlayers = 1000000000\n")),
        "model.layers and model.width must be 2 and 16, as in .*, got 1000000000 and 16"),
    "another number of rows": (lambda step: (step.parent / "config.toml").write_text(
        (step.parent / "config.toml").read_text().replace("\nrows = 60\n", "\nrows = 81\n")),
        r"layers\.1\.memory\.keys1 must be float32 \[2, 9, 4\], got float32 \[2, 8, 4\]"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_and_foreign_runs_are_one_line(place: Path, tmp_path: Path, damage: str) -> None:
    change, message = DAMAGES[damage]
    shutil.copytree(run_of(place, "parallel"), tmp_path / "run", symlinks=True)
    step = newest(tmp_path / "run")
    for older in (tmp_path / "run").glob("step-*"):
        if older != step:
            shutil.rmtree(older)
    change(step)
    for path in (tmp_path / "run", step):
        with pytest.raises(ValueError, match=message) as caught:
            loci.load_run(path)
        assert "\n" not in str(caught.value)


def test_a_damaged_checkpoint_is_left_out(place: Path, tmp_path: Path) -> None:
    shutil.copytree(run_of(place, "parallel"), tmp_path / "run", symlinks=True)
    flip_a_byte(tmp_path / "run" / "step-12" / "model.safetensors")
    run = loci.load_run(tmp_path / "run")
    assert run.step == 9 and len(run.damaged) == 1 and "step-12 is damaged and left out" in run.damaged[0]


def test_what_is_no_run_is_one_line(place: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    several = f"{len(ARMS)} of them, .*/after/seed-3 for instance"
    for path, got in ((tmp_path / "file", "a file"), (tmp_path / "none", "nothing there"),
                      (tmp_path / "folder", "neither"), (place / "out", several)):  # fmt: skip
        with pytest.raises(ValueError, match=f"RUN must be a run directory.* got {got}"):
            loci.load_run(path)


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


def test_the_start_is_that_of_c_plus_plus(place: Path) -> None:
    result = train(place, place / "start", "--arm", "replace", "--set", "train.steps=1", "--set",
                   "optimizer.learning_rate=0", "--set", "table_optimizer.learning_rate=0")  # fmt: skip
    assert result.returncode == 0, result.stderr
    run = loci.load_run(place / "start")
    options = {key: value for key, value in run.config["model"]["memory"].items()
               if key not in ("calibrate_at", "calibrate_tokens", "width")}  # fmt: skip
    model = loci.TransformerLM(257, layers=2, width=16, heads=2, context=16, memory=options, seed=3)
    found, expected = model.state_dict(), run.model.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def test_training_starts_from_a_saved_run_but_does_not_go_on(place: Path, tmp_path: Path) -> None:
    saved = tmp_path / "out" / "parallel" / "seed-3"
    loci.save_run(loci.load_run(run_of(place, "parallel")), saved)
    begun = train(place, tmp_path / "begun", "--arm", "parallel", "--set", f'parallel:start.weights="{saved}"')
    assert begun.returncode == 0, begun.stderr
    resumed = train(place, tmp_path / "out", "--arm", "parallel", "--resume")
    assert_refused(
        resumed, 2, "a run that goes on must have been trained, got one made for serving (loci convert, loci"
    )


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


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "width": ({"width": 18}, "width must be a multiple of 2 . heads .*got width 18, heads 4"),
    "layers": ({"layers": 0}, "layers must be at least 1, got 0"),
    "dropout": ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
    "key": ({"memory": {"layers": [0], "row": 3}}, "memory must have keys among .*, got 'row'"),
    "word": ({"memory": {"layers": [0], "placement": "before"}}, "placement must be one of replace, .*, got 'before'"),
    "no layer": ({"memory": {"rows": 3}}, "memory layers must name at least one layer, got none"),
    "far layer": ({"memory": {"layers": [2]}}, r"memory layers must be within -2 \.\. 1, got 2"),
    "layer twice": ({"memory": {"layers": [1, -1]}}, r"must name each layer once, got \[1, -1\]"),
    "value width": ({"memory": {"layers": [0], "value_width": 9}}, "value_width must be 0 or the model's 16 .*, got 9"),
    "addressing": ({"memory": {"layers": [0], "kind": "flat", "addressing": "modulo"}}, "addressing must be mask"),
    "home": ({"memory": {"layers": [0], "home": "mapped"}}, "home must be memory without make_table, got 'mapped'"),
    "causal": ({"causal": False, "ngram": {}}, "ngram must be None where causal is False"),
    "injection": ({"ngram": {"at": "embedding", "injection": "gate"}}, "injection must be sum at the embedding"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_of_a_language_model_that_do_not_fit(name: str) -> None:
    options, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        loci.TransformerLM(257, **({"layers": 2, "width": 16, "heads": 4, "context": 8} | options))


def test_tokens_that_do_not_fit() -> None:
    model = loci.TransformerLM(20, layers=1, width=16, heads=2, context=8)
    assert model(torch.zeros(0, 8, dtype=torch.int64)).shape == (0, 8, 20)
    assert model(torch.zeros(2, 1, dtype=torch.int64)).shape == (2, 1, 20)
    for tokens, message in ((torch.zeros(2, 9, dtype=torch.int64), r"tokens must be at most 8 \(context\), got 9"),
                            (torch.zeros(8, dtype=torch.int64), r"must be int64 \[B, L\], got torch.int64 \[8\]"),
                            (torch.zeros(2, 8), "tokens must be int64")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            model(tokens)
    with pytest.raises(ValueError, match=r"mask must be bool \[2, 8\] like tokens, got torch.bool \[2, 7\]"):
        model(torch.zeros(2, 8, dtype=torch.int64), torch.ones(2, 7, dtype=torch.bool))
    ngrams = loci.TransformerLM(20, layers=1, width=16, heads=2, context=8, ngram={"rows": 100})
    with pytest.raises(ValueError, match="mask must be None for a model with n-gram memories, got one"):
        ngrams(torch.zeros(2, 8, dtype=torch.int64), torch.ones(2, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"target must be \[2, 8\] like input, got \[2, 7\]"):
        model.loss(torch.zeros(2, 8, dtype=torch.int64), torch.zeros(2, 7, dtype=torch.int64))


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


def trained_network(folder: Path, recipe: str, *more: str) -> Path:
    write_images(folder / "images")
    (folder / "recipe.toml").write_text(recipe)
    data = ["--data", folder / "images"] if "image_class" in recipe else []
    result = command(folder, "train", folder / "recipe.toml", *data, "--out", folder / "out", *settings(*more))
    assert result.returncode == 0, result.stderr
    return folder / "out"


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


def test_a_memory_whose_queries_are_convolutions_is_refused(tmp_path: Path) -> None:
    out = trained_network(tmp_path, IMAGES, "train.steps=1", "model.memory.query_kernels=[3]")
    with pytest.raises(ValueError, match=r"memory must have a query net of linear maps, got a convolution$"):
        loci.load_run(out)


def test_what_cannot_be_saved_leaves_nothing(place: Path, tmp_path: Path) -> None:
    model = loci.TransformerLM(300, layers=1, width=16, heads=2)
    other = small(query_net=nn.Linear(WIDTH, 16))
    bpe = loci.Tokenizer(b"loci-tokenizer 1 bytes\n")
    bpe.vocabulary = 301
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (nn.Linear(2, 2), {}, "the module must have memories, got none in Linear"),
        (model, {}, "tokenizer must be given for a language model"),
        (model, {"tokenizer": "words"}, "tokenizer must be one of bytes, got 'words'"),
        (model, {"tokenizer": bpe}, "at most 300 tokens, for a model with 300, got 301"),
        (
            loci.TransformerLM(257, causal=False),
            {"tokenizer": "bytes"},
            "at most 256 tokens, for a model with 257, got 257",
        ),
        (small(), {"tokenizer": "bytes"}, "tokenizer must be None for a module that is no TransformerLM, got one"),
        (other, {}, "memory must have a query net of linear maps, got Linear"),
        (small().double(), {}, r"memory\.norm_gain must be float32, bfloat16 or float16, got float64"),
    ]
    for what, options, message in cases:
        with pytest.raises(ValueError, match=message):
            loci.save_run(what, tmp_path / "new", **options)
    with pytest.raises(ValueError, match=f"path must be a new folder, got {tmp_path}, which exists"):
        loci.save_run(small(), tmp_path)
    shutil.copytree(run_of(place, "parallel"), tmp_path / "run", symlinks=True)
    run = loci.load_run(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(ValueError, match=r"save_run: .*step-12 must stay as it was opened, got other files"):
        loci.save_run(run, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
