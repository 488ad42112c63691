"""Memories of other libraries as those of Loci: `loci.convert` and `python -m loci.convert`.

H heads, n sub-keys of a half, w half of a key, d width, D width of a row. Where their layouts differ from ours:

    queries   ours (head, half, w); product-key-memory and PEER-pytorch (half, head, w)
    keys      ours [H, n, w] twice; XLM and Memory+ [H, 2, n, w]; Meta [2 H n, w]; the others [H, n, 2, w]

A pair (i, j) of sub-keys names row i * n + j everywhere. The names are facts; nothing was copied from these projects.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loci.importers.convert import State, first_of
from loci.importers.files import read_state
from loci.importers.networks import WeightsError
from loci.memory import FlatKeyMemory, PeerMemory, ProductKeyMemory
from loci.memory_layer import MemoryLayer
from loci.table import DTYPES, Table, one_of

ORIGINS = ("xlm", "product-key-memory", "peer-pytorch", "meta", "memory+")
SILENT = ("product-key-memory", "peer-pytorch")  # their files do not say which weights they were trained with
# What a memory of Loci cannot do, by a part of the names of its tensors.
MISSING_FEATURES = {
    "maybe_concat_combine": "heads that are concatenated (concat_values_and_combine)",
    "head_permutations": "heads with permuted sub-keys (head_permutations)",
    "gating": "a gate of the output (gating)",
    "tucker_core": "scores by a Tucker core (UltraMem)",
    "shuffle_index": "shuffled rows (UltraMem)",
    "pre_values": "a projection of rows before they are read (UltraMemV2)",
}
# Parts that their own forward pass leaves unused, or that count batches.
IGNORED = {"memory+": ("query_norm.weight", "keys_norm.weight")}
COUNTER = "num_batches_tracked"


class Source:
    """The tensors of one memory, each taken once. `who` begins the messages."""

    def __init__(self, origin: str, state: State, prefix: str, who: str):
        self.origin, self.prefix, self.who = origin, prefix, who
        self.left = {
            name.removeprefix(prefix): tensor
            for name, tensor in state.items()
            if name.startswith(prefix) and not name.endswith(COUNTER)
        }
        for name in IGNORED.get(origin, ()):
            self.left.pop(name, None)

    def has(self, name: str) -> bool:
        return name in self.left

    def shape(self, name: str) -> list[int]:
        return list(self.left[name].shape) if name in self.left else []

    def take(self, name: str, *shape: int) -> Tensor:
        """In float32, or float64. WeightsError unless the tensor is there and of this shape."""
        tensor = self.take_as_it_is(name, *shape)
        return tensor.to("cpu", torch.float64 if tensor.dtype == torch.float64 else torch.float32)

    def take_as_it_is(self, name: str, *shape: int) -> Tensor:
        tensor = self.left.pop(name, None)
        full = self.prefix + name
        if tensor is None:
            raise WeightsError(f"{self.who}: {full} must be given, got none")
        if list(tensor.shape) != list(shape):
            raise WeightsError(f"{self.who}: {full} must be {list(shape)}, got {list(tensor.shape)}")
        if not tensor.is_floating_point():
            got = str(tensor.dtype).removeprefix("torch.")
            raise WeightsError(f"{self.who}: {full} must be of a floating type, got {got}")
        return tensor.detach()

    def finish(self) -> None:
        """WeightsError where a tensor was not taken."""
        if self.left:
            names = first_of(self.prefix + name for name in self.left)
            raise WeightsError(f"{self.who}: every tensor must belong to a memory of {self.origin}, got {names}")


class Tables:
    """One table for each tensor of rows: layers that share the tensor, or have none of their own, share the table."""

    def __init__(self) -> None:
        self.made: dict[tuple[int, str], Table] = {}

    def table(self, source: Source, name: str, rows: int, which: str = "values") -> Table:
        if not source.has(name):
            earlier = [table for (_, kind), table in self.made.items() if kind == which]
            if not earlier or earlier[0].rows != rows:
                raise WeightsError(f"{source.who}: {source.prefix}{name} must be given with {rows} rows, got none")
            return earlier[0]
        width = [*source.shape(name), 0, 0][1]
        values = source.take_as_it_is(name, rows, width)
        key = (values.data_ptr(), which)
        if key not in self.made:
            dtype = values.dtype if values.dtype in DTYPES else torch.float32
            table = Table(rows, width, dtype, std=0.0, name=f"{source.prefix}{which}")
            table.set_rows(0, values.to("cpu", dtype))
            self.made[key] = table
        return self.made[key]


def convert(
    source: str | os.PathLike[str] | Mapping[str, Tensor],
    *,
    top_k: int,
    weight: str | None = None,
    activation: str = "gelu",
) -> nn.Module:
    """Memories of XLM, product-key-memory (PyPI), PEER-pytorch, Meta's memory layers or UltraMem's Memory+.

        memory = loci.convert("pkm.pt", top_k=32, weight="softmax")
        memory(x)                                       # what the other gives, to rounding
        loci.save_run(memory, "pkm")                    # C++ opens it (docs/python.md)

    source: a file that torch.save wrote (tensors alone are read: no code in it runs), a safetensors file, a folder with
        one of them, or a state_dict. Whole models too: what is no memory is left out.
    top_k: rows that a head reads, which no such file says. weight: "softmax", "relu" or "sigmoid": product-key-memory
        and PEER-pytorch have several and do not say which, so it must be given; the others have softmax. activation:
        PEER's.

    Returns the memory, between `input_norm` and `output_norm` where the other has norms of its own; of several an
    nn.ModuleDict, by their prefixes with "_" for ".". Dense tensors become float32, rows keep bfloat16.

    Raises WeightsError, a ValueError: a line that names the feature that Loci lacks, or what is wrong with a tensor."""
    if isinstance(source, Mapping):
        state, who = dict(source), "state_dict"
        for name, tensor in state.items():
            if not isinstance(name, str) or not isinstance(tensor, Tensor):
                raise WeightsError(f"{who}: it must hold named tensors, got {name!r}: {type(tensor).__name__}")
    else:
        file = file_of(Path(source))
        state, who = read_state(file), str(file)
    for part, feature in MISSING_FEATURES.items():
        if found := [name for name in state if any(word.startswith(part) for word in name.split("."))]:
            raise WeightsError(f"{who}: a memory of Loci must not need {feature}, got {found[0]}")
    prefixes = [name.removesuffix("keys") for name in state if name == "keys" or name.endswith(".keys")]
    if not prefixes:
        raise WeightsError(f"{who}: a memory must have keys, got no tensor of that name among {len(state)}")
    tables = Tables()
    found_memories = {
        prefix: _memory(state, prefix, who, tables, {"top_k": top_k, "weight": weight, "activation": activation})
        for prefix in prefixes
    }
    if len(found_memories) == 1:
        return next(iter(found_memories.values())).eval()
    named = {prefix.removesuffix(".").replace(".", "_"): memory for prefix, memory in found_memories.items()}
    return nn.ModuleDict(named).eval()


def file_of(path: Path) -> Path:
    """A checkpoint's file in a folder. WeightsError where there is none, or several could be meant."""
    if not path.is_dir():
        return path
    expected = "the folder must hold one consolidated checkpoint (.pth, .pt, .bin or .safetensors)"
    for folder in (path, path / "consolidated"):
        files = [file for file in folder.glob("*") if file.suffix in (".pth", ".pt", ".bin", ".safetensors")]
        if len(files) == 1:
            return files[0]
        if files:
            raise WeightsError(f"{folder}: {expected}, got {len(files)} of them")
    parts = next(path.glob("*.distcp"), None)
    raise WeightsError(f"{path}: {expected}, got {f'parts of one: {parts.name}' if parts else 'none'}")


def _memory(state: State, prefix: str, who: str, tables: Tables, given: Mapping[str, Any]) -> nn.Module:
    origin = _origin_of(state, prefix, who)
    if origin == "memory+":
        state = _with_values_of_memory_plus(state, prefix, who)
    weight = given["weight"]
    if weight is None and origin in SILENT:
        raise ValueError(f"convert: weight must be given for {origin}, whose files do not say it, got none")
    weight = weight or "softmax"
    one_of("convert", "weight", weight, ("softmax", "relu", "sigmoid"))
    source = Source(origin, state, prefix, who)
    options = {"top_k": given["top_k"], "weight": weight, "name": prefix.removesuffix(".") or "memory", "seed": 0}
    if origin in SILENT:
        return _lucidrains(source, tables, options, given["activation"])
    return _xlm_family(source, tables, options, given["activation"])


def _origin_of(state: State, prefix: str, who: str) -> str:
    dimensions = state[f"{prefix}keys"].dim()
    if dimensions == 5:
        raise WeightsError(f"{who}: a memory of Loci must not need keys of several ranks (UltraMem), got {prefix}keys")
    if f"{prefix}to_queries.weight" in state:
        return "product-key-memory"
    if f"{prefix}to_queries.0.weight" in state:
        return "peer-pytorch"
    if f"{prefix}query_proj.weight" in state:
        return "memory+"
    if any(name.startswith(f"{prefix}query_proj.") for name in state):
        return "meta" if dimensions == 2 else "xlm"
    raise WeightsError(f"{who}: {prefix}keys must come with the queries of {', '.join(ORIGINS)}, got no such name")


def _with_values_of_memory_plus(state: State, prefix: str, who: str) -> State:
    """Its rows are in a module of their own, for all blocks."""
    rows = next((name for name in state if name.endswith("full_memory_layer.values_for_look_up")), None)
    if rows is None:
        raise WeightsError(f"{who}: full_memory_layer.values_for_look_up must be given, got none")
    return state | {f"{prefix}values.weight": state[rows]}


def _lucidrains(source: Source, tables: Tables, options: dict[str, Any], activation: str) -> nn.Module:
    """product-key-memory and PEER-pytorch."""
    heads, n, _, w = _four(source)
    is_peer = source.origin == "peer-pytorch"
    name = "to_queries.0.weight" if is_peer else "to_queries.weight"
    d = [*source.shape(name), 0, 0][1]
    keys = source.take("keys", heads, n, 2, w)
    query = source.take(name, 2 * heads * w, d).view(2, heads, w, d).transpose(0, 1).reshape(heads * 2 * w, d)
    own = {"query_net.weight_0": query, "query_net.bias_0": query.new_zeros(heads * 2 * w)}
    own |= {"keys1": keys[:, :, 0], "keys2": keys[:, :, 1]}
    options |= {"heads": heads, "key_width": 2 * w, "query_norm": "none"}
    first: nn.Module | None = None
    last: nn.Module | None = None
    if is_peer:
        down, up = "weight_down_embed.weight", "weight_up_embed.weight"
        if heads > 1 and source.shape(down)[:1] == [heads * n * n]:
            raise WeightsError(f"{source.who}: a memory of Loci must not need experts of each head "
                               f"(separate_embed_per_head), got {source.prefix}{down}")  # fmt: skip
        down_table = tables.table(source, down, n * n, "down")
        memory: MemoryLayer = PeerMemory(d, table=tables.table(source, up, n * n), down=down_table,
                                         activation=activation, **options)  # fmt: skip
        if source.has("norm.gamma"):
            first = nn.RMSNorm(d, eps=1e-24)
            _copy(first, {"weight": source.take("norm.gamma", d) + 1})
    else:
        own |= _norm_of_queries(source, heads, w, options)
        memory = ProductKeyMemory(d, table=tables.table(source, "values.weight", n * n), **options)
        first, last = _layer_norm(source, "pre_layernorm", d), _layer_norm(source, "output_norm", d)
    source.finish()
    _copy(memory, own)
    if first is None and last is None:
        return memory
    parts = {"input_norm": first, "memory": memory, "output_norm": last}
    return nn.Sequential(OrderedDict((name, part) for name, part in parts.items() if part is not None))


def _norm_of_queries(source: Source, heads: int, w: int, options: dict[str, Any]) -> dict[str, Tensor]:
    if source.has("norm.weight"):  # one for all halves
        options["query_norm"] = "layer"
        return {f"norm_{ours}": source.take(f"norm.{theirs}", w).expand(heads, 2, w)
                for ours, theirs in (("gain", "weight"), ("bias", "bias"))}  # fmt: skip
    if not source.has("norm.fn.weight"):
        return {}
    options["query_norm"] = "batch"
    return {name: tensor.view(2, heads, w).transpose(0, 1)
            for name, tensor in _batch_norm(source, "norm.fn", 2 * heads * w).items()}  # fmt: skip


def _layer_norm(source: Source, name: str, d: int) -> nn.Module | None:
    if not source.has(f"{name}.weight"):
        return None
    norm = nn.LayerNorm(d)
    _copy(norm, {word: source.take(f"{name}.{word}", d) for word in ("weight", "bias")})
    return norm


def _batch_norm(source: Source, name: str, features: int) -> dict[str, Tensor]:
    words = {"norm_gain": "weight", "norm_bias": "bias", "running_mean": "running_mean",
             "running_variance": "running_var"}  # fmt: skip
    return {ours: source.take(f"{name}.{theirs}", features) for ours, theirs in words.items()}


def _four(source: Source) -> list[int]:
    shape = source.shape("keys")
    if len(shape) != 4:
        expected = "[H, n, 2, w]" if source.origin in SILENT else "[H, 2, n, w]"
        raise WeightsError(f"{source.who}: {source.prefix}keys must be {expected}, got {shape}")
    return shape


def _xlm_family(source: Source, tables: Tables, options: dict[str, Any], activation: str) -> nn.Module:
    """XLM, Meta and Memory+: queries by (head, half, w)."""
    weights, biases, norm = _query_net(source)
    d, features = weights[0].size(1), weights[-1].size(0)
    keys, heads, n, w, flat = _keys(source, features)
    own = {f"query_net.weight_{i}": weight for i, weight in enumerate(weights)}
    own |= {f"query_net.bias_{i}": bias for i, bias in enumerate(biases)}
    options |= {"heads": heads, "key_width": 2 * w, "query_hidden": [weight.size(0) for weight in weights[:-1]],
                "query_norm": "batch" if norm else "none"}  # fmt: skip
    own |= {name: tensor.view(heads, 2, w) for name, tensor in norm.items()}
    own |= {"keys": keys} if flat else {"keys1": keys[:, 0], "keys2": keys[:, 1]}
    rows = n if flat else n * n
    if source.has("values_u.weight"):
        down = tables.table(source, "values_u.weight", rows, "down")
        table = tables.table(source, "values_v.weight", rows)
        kind: Any = PeerMemory
        options |= {"down": down, "activation": activation}
    else:
        table = tables.table(source, "values.weight", rows)
        kind = FlatKeyMemory if flat else ProductKeyMemory
    own |= _output_map(source, d, table.width, options)
    source.finish()
    memory: MemoryLayer = kind(d, table=table, **options)
    _copy(memory, own)
    return memory


def _query_net(source: Source) -> tuple[list[Tensor], list[Tensor], dict[str, Tensor]]:
    """Linear maps, their biases, and the batch norm behind the last one."""
    if source.has("query_proj.weight"):
        sizes = [*source.shape("query_proj.weight"), 0, 0][:2]
        return [source.take("query_proj.weight", *sizes)], [_bias(source, "query_proj.bias", sizes[0])], {}
    prefix = "query_proj.query_mlps." if any(name.startswith("query_proj.query_mlps.") for name in source.left) else (
        "query_proj.")  # fmt: skip
    names = {name.removeprefix(prefix).rsplit(".", 1)[0] for name in source.left if name.startswith(prefix)}
    if nested := [name for name in names if not name.isdecimal()]:
        raise WeightsError(f"{source.who}: a memory of Loci must not need a query net for each head, "
                           f"got {source.prefix}{prefix}{nested[0]}")  # fmt: skip
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    norm: dict[str, Tensor] = {}
    for number in sorted(names, key=int):
        shape = source.shape(f"{prefix}{number}.weight")
        if norm:
            raise WeightsError(f"{source.who}: a memory of Loci must not need batch norm between the linear maps of "
                               f"its queries, got {source.prefix}{prefix}{int(number) - 1}")  # fmt: skip
        if len(shape) == 1:
            if not weights:
                raise WeightsError(
                    f"{source.who}: {source.prefix}{prefix}{number}.weight must be [out, in], got {shape}"
                )
            norm = _batch_norm(source, f"{prefix}{number}", weights[-1].size(0))
            continue
        sizes = [*shape, 0, 0][:2]
        if weights and sizes[1] != weights[-1].size(0):
            sizes[1] = weights[-1].size(0)
        weights.append(source.take(f"{prefix}{number}.weight", *sizes))
        biases.append(_bias(source, f"{prefix}{number}.bias", sizes[0]))
    return weights, biases, norm


def _bias(source: Source, name: str, width: int) -> Tensor:
    return source.take(name, width) if source.has(name) else torch.zeros(width)


def _keys(source: Source, features: int) -> tuple[Tensor, int, int, int, bool]:
    """Keys [H, 2, n, w] or, flat, [H, n, 2w]; H, n, w, whether they are flat."""
    shape = source.shape("keys")
    if source.origin == "meta":
        w = [*shape, 0, 0][1]
        heads = features // (2 * w) if w else 0
        if not heads or heads * 2 * w != features or not shape[0] or shape[0] % (2 * heads):
            raise WeightsError(f"{source.who}: {source.prefix}keys must be [2 * heads * n, w] for {features} features "
                               f"of queries, got {shape}")  # fmt: skip
        n = shape[0] // (2 * heads)
        return source.take("keys", *shape).view(heads, 2, n, w), heads, n, w, False
    flat = len(shape) == 3
    if flat:
        heads, n, w = shape[0], shape[1], shape[2] // 2
    else:
        heads, _, n, w = _four(source)
    if heads * 2 * w != features:
        raise WeightsError(f"{source.who}: {source.prefix}keys must be for {features} features of queries, got {shape}")
    sizes = [heads, n, 2 * w] if flat else [heads, 2, n, w]
    return source.take("keys", *sizes), heads, n, w, flat


def _output_map(source: Source, d: int, width: int, options: dict[str, Any]) -> dict[str, Tensor]:
    name = "values_proj" if source.origin == "memory+" else "value_proj"
    options["output"] = "none"
    if not source.has(f"{name}.weight"):
        return {}
    own = {"output_weight": source.take(f"{name}.weight", d, width), "output_bias": _bias(source, f"{name}.bias", d)}
    options["output"] = "projection"
    if source.has("swilu_projection.weight"):
        options["output"] = "swilu"
        own["gate_weight"] = source.take("swilu_projection.weight", width, d)
        if source.has("swilu_projection.bias") and _bias(source, "swilu_projection.bias", width).any():
            raise WeightsError(f"{source.who}: a memory of Loci must not need a bias of the gate, "
                               f"got {source.prefix}swilu_projection.bias")  # fmt: skip
    return own


def _copy(module: nn.Module, own: Mapping[str, Tensor]) -> None:
    """Every tensor of the module but the rows."""
    state = module.state_dict()
    missing = [name for name in state if name not in own and name.split(".")[0] not in ("table", "down")]
    assert not missing and all(name in state for name in own), missing
    with torch.no_grad():
        for name, tensor in own.items():
            state[name].copy_(tensor)
