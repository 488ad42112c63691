"""Memories beside the feed-forwards of a model that exists: insert, save, load, remove.

    report = loci.insert(model, rows=2**18, layers=[8, 16, 24])     # the output stays as it is, bit for bit
    rows = loci.optim.RowAdam(report.tables(), lr=1e-2)
    loci.save(model, "adapter")                                      # memories alone
    loci.load(base, "adapter")
    loci.remove(model)

y = feed_forward(z) + memory(z), Kim and Jung 2020 ("Large Product Key Memory for Pretrained Language Models", section
3), with rows that start at zero. A memory is a submodule `loci_memory` of the module that it stands beside, called by a
hook: the model's own modules, names and code stay, so that `generate` and its caches work as before.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from loci.memory import KINDS
from loci.memory_layer import MemoryLayer
from loci.table import Table, distinct_tables, drawn_seed, one_of

SLOT = "loci_memory"  # begins the name of the submodule
BESIDE = "_loci_beside"  # where the module that it stands beside finds it
FORMAT = 1


@dataclass(frozen=True)
class Structure:
    """How a family of models has its feed-forwards: a pattern of module names with the layer's number, and whether the
    memory is added to the module's output or to the residual that it is given as its second argument."""

    pattern: str
    adds_to: str  # "output", or "residual"


STRUCTURES = (
    Structure(r"(?:.*\.)?layers\.(\d+)\.mlp", "output"),  # Llama, Mistral, Qwen, Gemma, SmolLM, GPT-NeoX
    Structure(r"(?:.*\.)?h\.(\d+)\.mlp", "output"),  # GPT-2
    Structure(r"(?:.*\.)?encoder\.layer\.(\d+)\.output", "residual"),  # BERT, RoBERTa, MiniLM
)


@dataclass
class Place:
    name: str  # of the module
    width: int
    adds_to: str
    layer: int | None  # None for one that was named


@dataclass
class Inserted:
    """What insert() and load() did."""

    places: list[Place]
    memories: list[MemoryLayer] = field(repr=False)

    def tables(self) -> list[Table]:
        """Each once, for the optimisers of rows."""
        return distinct_tables(self.memories)

    def parameters(self) -> list[nn.Parameter]:
        """Those of the memories, for the dense optimiser."""
        return [parameter for memory in self.memories for parameter in memory.parameters()]

    def __str__(self) -> str:
        rows = sum(table.rows * table.width for table in self.tables())
        dense = sum(parameter.numel() for parameter in self.parameters())
        names = ", ".join(place.name for place in self.places)
        return f"{len(self.memories)} memories beside {names}: {rows:,} numbers in rows, {dense:,} parameters"


def insert(
    model: nn.Module,
    rows: int,
    layers: Sequence[int] | None = None,
    *,
    where: Sequence[str] | None = None,
    kind: str = "product_key",
    shared_table: bool = False,
    train_backbone: bool = False,
    seed: int | None = None,
    **options: Any,
) -> Inserted:
    """Puts memories beside feed-forwards of `model`, whose output stays as it is.

    Args:
        rows: of each table.
        layers: numbers of the layers, negative ones from the end; None: the middle one.
        where: names of modules in place of layers, for models of another structure: the memory gets what the module
            gets first, and is added to its output.
        kind: "product_key", "flat" or "peer". options: those of the layer (ProductKeyMemory).
        shared_table: one table for all.
        train_backbone: False freezes the model's own parameters.

    Raises ValueError for a model whose feed-forwards are not found (it lists what could be named by `where`), for
    layers that do not exist, and where there is a memory already."""
    one_of("insert", "kind", kind, tuple(KINDS))
    places = named_places(model, where) if where is not None else places_of_layers(model, layers)
    seed = drawn_seed() if seed is None else int(seed)
    settings = {"rows": rows, "kind": kind, "shared_table": shared_table, "seed": seed, "options": options}
    memories = _memories(model, places, settings)
    _attach_all(model, places, memories, settings, train_backbone)
    return Inserted(places, memories)


def _memories(model: nn.Module, places: list[Place], settings: dict[str, Any]) -> list[MemoryLayer]:
    """New ones, not yet in the model."""
    if already := [name for name, _ in memories_in(model)]:
        raise ValueError(f"insert: the model must have no memory, got one beside {already[0]} (loci.remove)")
    options, kind = dict(settings["options"]), settings["kind"]
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    made: list[MemoryLayer] = []
    shared: Table | None = None
    for place in places:
        table = shared
        if table is None:
            width = options.get("value_width") or place.width
            table = Table(settings["rows"], width, options.get("table_dtype", torch.float32), std=0.0,
                          home=options.get("home", "memory"), path=options.get("path"),
                          name=f"{place.name}.values", device=device)  # fmt: skip
        if settings["shared_table"]:
            shared = table
        layer_options = {key: value for key, value in options.items() if key not in ("table_dtype", "home", "path")}
        memory = KINDS[kind](place.width, table=table, name=place.name, seed=settings["seed"], device=device,
                             **layer_options)  # fmt: skip
        made.append(memory)
    return made


def _attach_all(
    model: nn.Module, places: list[Place], memories: list[MemoryLayer], settings: dict[str, Any], train_backbone: bool
) -> None:
    if not train_backbone:
        model.requires_grad_(False)
    for place, memory in zip(places, memories, strict=True):
        _attach(model, place, memory)
        memory.train(model.training)
    model.__dict__["_loci_inserted"] = {"places": [vars(place) for place in places], **settings}


def _attach(model: nn.Module, place: Place, memory: MemoryLayer) -> None:
    module = model.get_submodule(place.name)
    holder, slot = module, SLOT
    if isinstance(module, nn.Sequential):  # it would run a submodule of its own as its last part
        parent, _, child = place.name.rpartition(".")
        holder, slot = model.get_submodule(parent), f"{SLOT}_{child}"
    holder.add_module(slot, memory)
    if place.adds_to == "residual":
        handle = module.register_forward_pre_hook(_add_to_residual, with_kwargs=True)
    else:
        handle = module.register_forward_hook(_add_to_output, with_kwargs=True)
    module.__dict__[BESIDE] = memory  # no second registration
    memory.__dict__["_loci_remove"] = (handle, holder, slot)


def _add_to_output(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    x = args[0] if args else next(iter(kwargs.values()))
    added = module.__dict__[BESIDE](x)
    return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added


def _add_to_residual(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if len(args) < 2:
        raise TypeError("loci: the feed-forward's output module must be given the residual as its second argument")
    return (args[0], args[1] + module.__dict__[BESIDE](args[1]), *args[2:]), kwargs


def places_of_layers(model: nn.Module, layers: Sequence[int] | None) -> list[Place]:
    found = all_places(model)
    if not found:
        candidates = sorted({re.sub(r"\.\d+\.", ".N.", name) for name, module in model.named_modules()
                             if any(word in name.lower() for word in ("mlp", "ffn", "feed_forward", "output"))
                             and module is not model})  # fmt: skip
        shown = ", ".join(candidates[:12]) if candidates else "no module of a likely name"
        raise ValueError(
            f"insert: the model must be of a known structure, or `where` must name modules; {type(model).__name__} has "
            f"{shown}"
        )
    count = len(found)
    numbers = [count // 2] if layers is None else [int(layer) for layer in layers]
    if not numbers:
        raise ValueError("insert: layers must name at least one layer, got none")
    for number in numbers:
        if not -count <= number < count:
            raise ValueError(f"insert: layers must be within {-count} .. {count - 1}, got {number}")
    chosen = sorted({number % count for number in numbers})
    if len(chosen) != len(numbers):
        raise ValueError(f"insert: layers must name each layer once, got {numbers}")
    return [found[number] for number in chosen]


def all_places(model: nn.Module) -> list[Place]:
    """The feed-forwards of all layers in their order, by the first structure that fits."""
    for structure in STRUCTURES:
        found: dict[int, Place] = {}
        for name, module in model.named_modules():
            match = re.fullmatch(structure.pattern, name)
            if match is None or int(match[1]) in found:
                continue
            width = width_of(module, structure.adds_to)
            if width is not None:
                found[int(match[1])] = Place(name, width, structure.adds_to, int(match[1]))
        if found and sorted(found) == list(range(len(found))):
            return [found[number] for number in sorted(found)]
    return []


def named_places(model: nn.Module, where: Sequence[str]) -> list[Place]:
    if not where:
        raise ValueError("insert: where must name at least one module, got none")
    modules = dict(model.named_modules())
    places = []
    for name in where:
        if name not in modules:
            near = [known for known in modules if known.endswith(name.rsplit(".", 1)[-1])][:6]
            raise ValueError(
                f"insert: where must name modules of the model, got {name!r}; near: {', '.join(near) or 'none'}"
            )
        width = width_of(modules[name], "output")
        if width is None:
            raise ValueError(f"insert: {name} must end in a linear map, so that its width is known, got none")
        places.append(Place(name, width, "output", None))
    return places


def width_of(module: nn.Module, adds_to: str) -> int | None:
    """Of the output: that of its last linear map (GPT-2's Conv1D has `nf`)."""
    width = None
    for _, part in module.named_modules():
        if isinstance(part, nn.Linear):
            width = part.out_features
        elif type(part).__name__ == "Conv1D" and hasattr(part, "nf"):
            width = int(part.nf)
        elif isinstance(part, nn.LayerNorm) and adds_to == "residual":
            width = int(part.normalized_shape[-1])
    return width


def memories_in(model: nn.Module) -> Iterator[tuple[str, MemoryLayer]]:
    """The memories with the names of the modules that they stand beside."""
    for name, module in model.named_modules():
        if isinstance(memory := module.__dict__.get(BESIDE), MemoryLayer):
            yield name, memory


def remove(model: nn.Module) -> None:
    """Takes the memories out; parameters stay frozen where insert() froze them. ValueError for a model without any."""
    found = list(memories_in(model))
    if not found:
        raise ValueError("remove: the model must have memories, got none")
    for name, memory in found:
        handle, holder, slot = memory.__dict__.pop("_loci_remove")
        handle.remove()
        del holder._modules[slot], model.get_submodule(name).__dict__[BESIDE]
    model.__dict__.pop("_loci_inserted", None)


def base_of(model: nn.Module) -> str:
    """Names the model without its memories: a hash of its class and of the names and shapes of its parameters."""
    shapes = sorted(
        (name, list(parameter.shape))
        for name, parameter in model.named_parameters()
        if not any(part.startswith(SLOT) for part in name.split("."))
    )  # fmt: skip
    return hashlib.sha256(json.dumps([type(model).__name__, shapes]).encode()).hexdigest()


def save(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Writes the memories alone: `config.json` and `memory.safetensors`. ValueError for a model without memories."""
    settings = model.__dict__.get("_loci_inserted")
    found = dict(memories_in(model))
    if settings is None or not found:
        raise ValueError("save: the model must have memories that insert() or load() made, got none")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    seen: dict[int, str] = {}
    for name, memory in found.items():
        for key, tensor in memory.state_dict().items():
            if tensor.data_ptr() in seen and tensor.numel() > 0:
                continue  # a shared table is stored once
            seen[tensor.data_ptr()] = key
            tensors[f"{name}.{key}"] = tensor.detach().contiguous()
    settings = settings | {"options": {key: _as_json(value) for key, value in settings["options"].items()}}
    config = {"format": FORMAT, "base": base_of(model), "model": type(model).__name__, **settings}
    partial = target / "memory.safetensors.partial"
    save_file(tensors, partial)
    os.replace(partial, target / "memory.safetensors")
    text = target / "config.json.partial"
    text.write_text(json.dumps(config, indent=2) + "\n")
    os.replace(text, target / "config.json")


def load(model: nn.Module, folder: str | os.PathLike[str], train_backbone: bool = False) -> Inserted:
    """Puts saved memories into the model that they were made for.

    Raises ValueError for another base model, a damaged or a foreign folder, and where there is a memory already."""
    target = Path(folder)
    try:
        config = json.loads((target / "config.json").read_text())
        tensors = load_file(target / "memory.safetensors")
    except (OSError, ValueError) as error:
        raise ValueError(f"load: {target} must be a folder that loci.save made, got {error}") from None
    except Exception as error:  # safetensors has an error of its own, which is no ValueError
        raise ValueError(f"load: {target / 'memory.safetensors'} must be whole, got {error}") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        got = repr(config.get("format")) if isinstance(config, dict) else type(config).__name__
        raise ValueError(f"load: {target / 'config.json'} must be of format {FORMAT}, got {got}")
    try:
        base, name = config["base"], config["model"]
        places = [Place(**place) for place in config["places"]]
        settings = {key: config[key] for key in ("rows", "kind", "shared_table", "seed")}
        settings["options"] = {key: _from_json(value) for key, value in config["options"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"load: {target / 'config.json'} must have what loci.save writes, got {error!r}") from None
    if base != base_of(model):
        raise ValueError(
            f"load: the model must be the {name} that the memories were made for, got another: "
            f"{type(model).__name__} with other parameters"
        )
    memories = _memories(model, places, settings)
    for number, (place, memory) in enumerate(zip(places, memories, strict=True)):
        shared = number > 0 and settings["shared_table"]  # the first has the table
        prefix = place.name + "."
        given = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        wanted = [key for key in memory.state_dict() if not (shared and key.startswith("table."))]
        if missing := [key for key in wanted if key not in given]:
            raise ValueError(f"load: {target / 'memory.safetensors'} must have {prefix}{missing[0]}, got none")
        try:
            memory.load_state_dict({key: given[key] for key in wanted}, strict=False)
        except RuntimeError as error:
            got = str(error).splitlines()[-1].strip()
            raise ValueError(f"load: {target / 'memory.safetensors'} must fit its config.json, got {got}") from None
    _attach_all(model, places, memories, settings, train_backbone)
    return Inserted(places, memories)


def _as_json(value: Any) -> Any:
    return {"dtype": str(value).removeprefix("torch.")} if isinstance(value, torch.dtype) else value


def _from_json(value: Any) -> Any:
    return getattr(torch, value["dtype"]) if isinstance(value, dict) and "dtype" in value else value
