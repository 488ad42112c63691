"""Runs of the command line as modules; run_saving.py writes modules as runs.

run = loci.load_run("out/memory/seed-0")
run.model(tokens)                               # a language model, loci.TransformerLM
run.memories["layers.1.memory"]                 # ProductKeyMemory, FlatKeyMemory, PeerMemory or NgramMemory
loci.save_run(run, "out-edited")                # loci eval out-edited --data DIR
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from loci.checkpoint import Checkpoint, load_dense, open_checkpoint
from loci.memory import KINDS, ProductKeyMemory
from loci.memory_layer import MemoryLayer
from loci.ngram import NgramMemory
from loci.run_files import CONFIG, MEMORIES, MODEL, TOKENIZER
from loci.table import HOMES, Table, one_of
from loci.tokenizer import Tokenizer
from loci.transformer_lm import TransformerLM

SETTINGS = ("layers", "width", "heads", "ffn_width", "context", "dropout", "causal")  # of [model] of a language model
TRANSFORMERS = ("language_model", "text_classification")  # tasks whose model is a TransformerLM
HEAD = "classifier."  # what text classification has in addition
# What the command line keeps in [model.memory] and [model.ngram] for training.
OF_TRAINING = ("calibrate_at", "calibrate_tokens", "reinitialise", "rate", "shard", "width")


@dataclass
class Run:
    """A checkpoint that load_run() opened."""

    checkpoint: Checkpoint = field(repr=False)
    task: str  # "memories" for memories without a model
    config: dict[str, Any] = field(repr=False)  # config.toml, with every key
    config_text: str | None = field(repr=False)
    model: TransformerLM | None = field(repr=False)  # of a language model, also of one that classifies texts
    memories: dict[str, MemoryLayer | NgramMemory] = field(repr=False)
    others: dict[str, Tensor] = field(repr=False)  # parameters and buffers that belong to neither

    @property
    def folder(self) -> Path:
        """The step-N folder."""
        return self.checkpoint.folder

    @property
    def step(self) -> int:
        return self.checkpoint.step

    @property
    def damaged(self) -> list[str]:
        """Newer checkpoints that were left out, each with the reason."""
        return self.checkpoint.damaged

    @property
    def tokenizer(self) -> Tokenizer:
        """That of a language model. ImportError where it needs the package `sentencepiece`, which is not installed."""
        return _tokenizer_of(self.checkpoint)

    def tables(self) -> list[Table]:
        """Each once, for the optimisers of rows (loci.optim)."""
        return list(tables_by_name(table for memory in self.memories.values() for table in memory.tables()).values())


def load_run(
    path: str | os.PathLike[str], *, home: str | None = None, folder: str | os.PathLike[str] | None = None
) -> Run:
    """Opens a run directory, one of its step-N folders, or a folder that save_run() or convert() wrote.

    home: where rows are: "memory"; "served", in the checkpoint's files, which may be larger than memory and which
        changes never reach; "mapped", in working files in `folder`, for training on. None: "served" where the run's
        tables are mapped or int8, else "memory". A table that several processes wrote is in several files and cannot
        be served: None reads it into memory.

    Raises ValueError, one line, for a damaged checkpoint, a foreign folder, and what is no memory of these kinds."""
    if home is not None:
        one_of("load_run", "home", home, HOMES)
    if (home == "mapped") != (folder is not None):
        raise ValueError(f"load_run: folder must be given for home mapped alone, got {folder!r} for home {home!r}")
    checkpoint = open_checkpoint(path)
    maker = _Tables(checkpoint, home, None if folder is None else Path(folder))
    if checkpoint.has(MEMORIES):
        return _load_memories(checkpoint, maker)
    text, config = _read_config(checkpoint.run / CONFIG)
    task = config.get("task")
    if task in TRANSFORMERS:
        state = checkpoint.tensors()
        others = (
            {name: state.pop(name) for name in list(state) if name.startswith(HEAD)} if task != TRANSFORMERS[0] else {}
        )
        model = _language_model(checkpoint, config, state, maker)
        return Run(checkpoint, task, config, text, model, dict(model.memories()), others)
    return _memories_of_network(checkpoint, str(task), text, config, maker)


def tables_by_name(tables: Iterable[Table]) -> dict[str, Table]:
    return {table.name: table for table in tables}


class _Tables:
    """Makes the tables of a checkpoint, without rows yet."""

    def __init__(self, checkpoint: Checkpoint, home: str | None, folder: Path | None):
        self.checkpoint, self.home, self.folder = checkpoint, home, folder
        self.made: dict[str, Table] = {}

    def make(self, name: str, rows: int, width: int, dtype: torch.dtype, home: str, std: float) -> Table:
        where = self.home or ("served" if home == "mapped" or dtype == torch.int8 else "memory")
        path = self.folder
        if where == "served":
            files = self.checkpoint.table_files(name)
            if len(files) == 1:
                path = files[0]
            elif self.home is None:
                where = "memory"
            else:
                raise ValueError(f"load_run: {name} must be in one file to be served, got {len(files)}; "
                                 "home must be memory or mapped")  # fmt: skip
        table = Table(rows, width, dtype, home=where, path=path, std=0.0, name=name)
        self.made[name] = table
        return table

    def from_file(self, name: str, home: str = "memory") -> Table:
        """Rows, width and dtype are the file's. ValueError for another than a table."""
        words = {"F32": torch.float32, "BF16": torch.bfloat16, "F64": torch.float64, "I8": torch.int8}
        rows = 0
        for file in self.checkpoint.table_files(name):
            try:
                with safe_open(file, framework="pt") as opened:
                    part = opened.get_slice(name)
                    rows_here, width = part.get_shape()
                    dtype = words[part.get_dtype()]
            except Exception as error:  # safetensors has an error of its own, which is no ValueError
                raise ValueError(f"{file}: the file must hold the rows {name} [N, D], got {error!r}") from None
            rows += rows_here
        return self.make(name, rows, width, dtype, home, 0.0)

    def load(self) -> None:
        self.checkpoint.load_tables(list(self.made.values()))


def _read_config(file: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except (OSError, ValueError) as error:
        got = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{file}: the configuration must be readable TOML, got {got}") from None


def _tokenizer_of(checkpoint: Checkpoint) -> Tokenizer:
    file = checkpoint.file(TOKENIZER)
    return Tokenizer(file.read_bytes(), str(file))


def _language_model(
    checkpoint: Checkpoint, config: Mapping[str, Any], state: dict[str, Tensor], maker: _Tables
) -> TransformerLM:
    file, who = checkpoint.file(MODEL), checkpoint.run / CONFIG
    try:
        section = dict(config["model"])
        options = {key: section[key] for key in SETTINGS}
        if "embedding" not in state or state["embedding"].dim() != 2:
            raise ValueError(f"{file}: the file must hold embedding [V, d], got none")
        # Before anything of a foreign configuration's size is made.
        found = len({name.split(".")[1] for name in state if name.startswith("layers.")})
        if (section["layers"], section["width"]) != (found, state["embedding"].size(1)):
            raise ValueError(f"{who}: model.layers and model.width must be {found} and {state['embedding'].size(1)}, "
                             f"as in {file}, got {section['layers']} and {section['width']}")  # fmt: skip
        for part in ("memory", "ngram"):
            if part in section:
                options[part] = {key: value for key, value in section[part].items() if key not in OF_TRAINING}
        if "ngram" in section:
            options["end_of_text"] = _tokenizer_of(checkpoint).end_of_text
        model = TransformerLM(section["vocabulary"] or state["embedding"].size(0), seed=config["seed"],
                              make_table=maker.make, **options)  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{who}: the configuration must be one that loci train writes, got {error!r}") from None
    load_dense(model, state, str(file))
    maker.load()
    return model.eval()


def _memories_of_network(
    checkpoint: Checkpoint, task: str, text: str, config: dict[str, Any], maker: _Tables
) -> Run:  # fmt: skip
    """The memories in a network that has no module in Python, each found by its sub-keys."""
    state = checkpoint.tensors()
    section = config.get("model", {})
    section = section.get("memory", section)
    memories: dict[str, MemoryLayer | NgramMemory] = {}
    for name in [key.removesuffix(".keys1") for key in state if key.endswith(".keys1")]:
        prefix = name + "."
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        table = maker.from_file(_table_of(name, checkpoint))
        memories[name] = _memory_of_state(f"{checkpoint.file(MODEL)}: {name}", name, own, table, section)
        for key in own:
            del state[prefix + key]
    maker.load()
    return Run(checkpoint, task, config, text, None, memories, state)


def _table_of(name: str, checkpoint: Checkpoint) -> str:
    """A memory at a.b.memory reads a.b.memory.values, or a.b.values where a map is between them."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        table = ".".join([*parts[:end], "values"])
        if table in checkpoint.tables():
            return table
    raise ValueError(f"{checkpoint.folder}: memory {name} must have a table, got {checkpoint.tables()}")


def _memory_of_state(who: str, name: str, own: dict[str, Tensor], table: Table, section: Any) -> MemoryLayer:
    nets = [own.get(f"query_net.weight_{place}") for place in range(len(own))]
    weights = [weight for weight in nets if weight is not None]
    if not weights or any(weight.dim() != 2 for weight in weights) or "query_net.norm_gain_0" in own:
        raise ValueError(f"{who} must have a query net of linear maps, got a convolution")
    try:
        memory = ProductKeyMemory(
            weights[0].size(1),
            table=table,
            name=name,
            seed=0,
            heads=own["keys1"].size(0),
            top_k=section["top_k"],
            key_width=2 * own["keys1"].size(2),
            query_hidden=[weight.size(0) for weight in weights[:-1]],
            query_norm=section["query_norm"],
            weight=section.get("weight", "softmax"),
            normalise_keys="temperature" in own,
            output="none" if "output_weight" not in own else "swilu" if "gate_weight" in own else "projection",
        )
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{who} must have the options of a memory in config.toml, got {error!r}") from None
    load_dense(memory, own, who)
    if section.get("frozen_keys"):
        for keys in (memory.keys1, memory.keys2):
            keys.requires_grad_(False)
    return memory.eval()


def _load_memories(checkpoint: Checkpoint, maker: _Tables) -> Run:
    file = checkpoint.file(MEMORIES)
    _, config = _read_config(file)
    state = checkpoint.tensors()
    memories: dict[str, MemoryLayer | NgramMemory] = {}
    for name, section in config.items():
        prefix = name + "."
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        try:
            memory = _memory_of_section(name, dict(section), maker)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file}: {name} must be what loci.save_run writes, got {error!r}") from None
        load_dense(memory, own, f"{checkpoint.file(MODEL)}: {name}")
        memories[name] = memory.eval()
        for key in own:
            del state[prefix + key]
    maker.load()
    return Run(checkpoint, "memories", config, None, None, memories, state)


def _memory_of_section(name: str, section: dict[str, Any], maker: _Tables) -> MemoryLayer | NgramMemory:
    def table(key: str, which: str) -> Table:
        named = section.pop(key, f"{name}.{which}")
        return maker.made.get(named) or maker.from_file(named)

    kind, width = section.pop("kind"), section.pop("width")
    for key in ("rows", "value_width", "value_dtype"):  # for C++: here the file says it
        del section[key]
    values = table("table", "values")
    if kind == "ngram":
        return NgramMemory(width, table=values, **section)  # its name and seed decide which rows are read
    one_of(name, "kind", kind, tuple(KINDS))
    if kind == "peer":
        section["down"] = table("down_table", "down")
    return KINDS[kind](width, table=values, name=name, seed=0, **section)
