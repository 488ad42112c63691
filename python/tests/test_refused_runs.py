"""Damaged and foreign runs, and what cannot be saved or does not fit a model, are one line."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import newest
from memory_cases import WIDTH, small
from saved_run_cases import ARMS, run_of, trained_network
from test_images import RECIPE as IMAGES
from torch import nn

import loci

pytestmark = pytest.mark.usefixtures("one_thread")


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
