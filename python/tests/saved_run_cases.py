"""What the tests of runs in Python share: runs of the command line, small inputs, what C++ makes of a checkpoint."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch
from command_line import BUILD, SMALL_MODEL, settings
from command_line import loci as command
from loci.checkpoint import OF_THE_WRITER
from loci.library import classes
from safetensors.torch import load_file, save_file
from test_images import write_images
from torch import Tensor

import loci

TOOL = BUILD / "tests" / "run_tool"
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


def run_of(place: Path, arm: str) -> Path:
    return place / "out" / arm / "seed-3"


def in_parts(run: Path, folder: Path) -> Path:
    """The newest checkpoint of a run with each table in three parts, as three processes write it."""
    given = loci.load_run(run)
    folder.mkdir()
    shutil.copy(given.checkpoint.run / "config.toml", folder)
    writer = classes.CheckpointWriter(str(folder), given.step)
    kept = [name for name in given.checkpoint.manifest["files"] if not name.startswith(("table.", "optim", "counters"))]
    assert writer.link(given.checkpoint.object, kept)
    facts = {key: value for key, value in given.checkpoint.manifest.items() if key not in OF_THE_WRITER}
    tables = {table.name: _write_parts(writer, table) for table in given.tables()}
    writer.finish(json.dumps(facts | {"tables": tables}))
    return folder


def _write_parts(writer: Any, table: loci.Table) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    first = 0
    for number, rows in enumerate(table.values.detach().tensor_split(3), start=1):
        name = f"table.{table.name}.part-{number}-of-3"
        files = [f"{name}.safetensors", f"{name}.delta-12.safetensors"]
        row = torch.arange(0, len(rows), 7)  # those that the delta has, and the base does not
        base = rows.clone()
        base[row] = 5
        save_file({table.name: base}, writer.file(files[0]))
        save_file({"row": row, "values": rows[row].clone()}, writer.file(files[1]))
        deltas = [{"file": files[1], "rows": len(row)}]
        parts.append({"first": first, "rows": len(rows), "base": files[0], "deltas": deltas})
        first += len(rows)
    return {"parts": parts}


def c_plus_plus(checkpoint: Path, folder: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    save_file(tensors, folder / "in.safetensors")
    files = [checkpoint, folder / "in.safetensors", folder / "out.safetensors"]
    result = subprocess.run([TOOL, *files], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return load_file(folder / "out.safetensors")


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


def trained_network(folder: Path, recipe: str, *more: str) -> Path:
    write_images(folder / "images")
    (folder / "recipe.toml").write_text(recipe)
    data = ["--data", folder / "images"] if "image_class" in recipe else []
    result = command(folder, "train", folder / "recipe.toml", *data, "--out", folder / "out", *settings(*more))
    assert result.returncode == 0, result.stderr
    return folder / "out"
