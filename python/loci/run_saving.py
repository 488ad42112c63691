"""Modules as run directories that the command line, C++ and load_run() open."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from loci.checkpoint import dense_state, toml_text, write_checkpoint, written_state
from loci.memory import KINDS, PeerMemory, ProductKeyMemory
from loci.memory_layer import MemoryLayer, QueryNet
from loci.ngram import NgramMemory
from loci.run_files import MEMORIES, TOKENIZER
from loci.saved_runs import SETTINGS, Run, tables_by_name
from loci.table import DTYPES, Table, one_of
from loci.tokenizer import BYTES, Tokenizer
from loci.transformer_lm import TransformerLM

LAYER_OPTIONS = ("heads", "top_k", "key_width", "query_norm", "normalise_keys", "weight", "output", "row_offset",
                 "input_dropout", "query_dropout", "output_dropout")  # fmt: skip


def save_run(
    what: Run | nn.Module,
    path: str | os.PathLike[str],
    *,
    tokenizer: Tokenizer | str | None = None,
    step: int = 0,
    whole: bool = False,
) -> Path:
    """Writes a run directory that `loci eval`, `loci generate`, load_run() and C++ open; returns its step-N folder.

    what: a Run, with its modules as they are now; a TransformerLM, with a `tokenizer` (or "bytes"); or any module with
        memories, of which the memories alone are written (docs/python.md says how C++ opens them).
    path: a new folder. step: its number, of a module; a Run keeps its own.
    whole: of a module with memories the other parameters and buffers too, which load_run() gives as Run.others.

    Training does not go on from such a folder, which has no state of optimisers; `start.weights` may name it.
    Raises ValueError for a folder that exists and for what cannot be written."""
    what = getattr(what, "_orig_mod", what)  # of torch.compile
    target = Path(path)
    if isinstance(what, Run):
        parts: Mapping[str, nn.Module] = what.memories if what.model is None else {"": what.model}
        state = dict(what.others)
        for name, part in parts.items():
            state |= {f"{name}.{key}" if name else key: tensor for key, tensor in dense_state(part).items()}
        tables = tables_by_name(what.tables())
        return write_checkpoint(target, what.step, written_state(state), tables, kept=what.checkpoint,
                                config=what.config_text)  # fmt: skip
    if isinstance(what, TransformerLM):
        if tokenizer is None:
            raise ValueError(
                'save_run: tokenizer must be given for a language model (a Tokenizer, or "bytes"), got none'
            )
        return _save_language_model(what, target, tokenizer, step)
    if tokenizer is not None:
        raise ValueError("save_run: tokenizer must be None for a module that is no TransformerLM, got one")
    return _save_memories(what, target, step, whole)


def _save_language_model(model: TransformerLM, path: Path, given: Tokenizer | str, step: int) -> Path:
    if isinstance(given, str):
        one_of("save_run", "tokenizer", given, ("bytes",))
        given = Tokenizer(BYTES)
    most = model.vocabulary if model.causal else model.vocabulary - 1  # the last one stands for masked tokens
    if given.vocabulary > most:
        raise ValueError(f"save_run: the tokenizer must have at most {most} tokens, for a model with "
                         f"{model.vocabulary}, got {given.vocabulary}")  # fmt: skip
    settings = {key: getattr(model, key) for key in SETTINGS if key != "layers"}
    sections: dict[str, dict[str, Any]] = {
        "": {"task": "language_model", "seed": model.seed},
        "tokenizer": {"kind": given.kind},
        "model": {"vocabulary": model.vocabulary, "layers": len(model.layers)} | settings,
        "train": {"precision": "float32"},
    }
    for name, options in (("memory", model.memory_options), ("ngram", model.ngram_options)):
        if options is not None:
            own = {key: value for key, value in options.items() if key != "layer"}
            if own.get("at") == "embedding":
                del own["layers"]  # the command line has no such key there
            sections[f"model.{name}"] = own | options["layer"]
    return write_checkpoint(path, step, written_state(dense_state(model)), tables_by_name(model.tables()),
                            files={TOKENIZER: given.saved}, config=toml_text(sections))  # fmt: skip


def _save_memories(module: nn.Module, path: Path, step: int, whole: bool) -> Path:
    found = {name or "memory": part for name, part in module.named_modules()
             if isinstance(part, MemoryLayer | NgramMemory)}  # fmt: skip
    if not found:
        raise ValueError(f"save_run: the module must have memories, got none in {type(module).__name__}")
    state = dense_state(module) if whole and not isinstance(module, MemoryLayer | NgramMemory) else {}
    sections: dict[str, dict[str, Any]] = {}
    names: dict[int, str] = {}  # of tables, by their first use
    tables: dict[str, Table] = {}
    for name, memory in found.items():
        section = _section_of(name, memory)
        for key, which, table in zip(("table", "down_table"), ("values", "down"), memory.tables(), strict=False):
            own = f"{name}.{which}"
            if names.setdefault(id(table), own) != own:
                section[key] = names[id(table)]
            tables[names[id(table)]] = table
        sections[f'"{name}"'] = section
        state |= {f"{name}.{key}": tensor for key, tensor in dense_state(memory).items()}
    files = {MEMORIES: toml_text(sections).encode()}
    return write_checkpoint(path, step, written_state(state), tables, files=files)


def _section_of(name: str, memory: MemoryLayer | NgramMemory) -> dict[str, Any]:
    """The options of a memory, by the keys of [model.memory] or [model.ngram]."""
    table = memory.table
    section: dict[str, Any] = {
        "kind": "ngram",
        "width": memory.width,
        "rows": table.rows,
        "value_width": table.width,
        "value_dtype": DTYPES[table.dtype],
    }
    if isinstance(memory, NgramMemory):
        section |= {"vocabulary": memory.vocabulary, "injection": memory.injection,
                    "orders": list(dict.fromkeys(memory.orders)), "hash_heads": memory.hash_heads,
                    "seed": memory.seed, "name": memory.name}  # fmt: skip
        if memory.injection == "gate":
            section["convolution"] = memory.convolution_weight is not None
        return section
    if not isinstance(memory.query_net, QueryNet):
        got = type(memory.query_net).__name__
        raise ValueError(f"save_run: {name} must have a query net of linear maps, got {got}")
    section["kind"] = next(kind for kind, one in KINDS.items() if type(memory) is one)
    section |= {key: getattr(memory, key) for key in LAYER_OPTIONS}
    section["query_hidden"] = memory.query_net.widths[1:-1]
    if isinstance(memory, ProductKeyMemory):
        section["addressing"] = memory.addressing
    if isinstance(memory, PeerMemory) and memory.activation != "gelu":
        section["activation"] = memory.activation
    return section
