"""The options of a TransformerLM's memories: the keys of [model.memory] and [model.ngram]."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from loci.memory import KINDS
from loci.table import one_of

PLACEMENTS = ("replace", "parallel", "after")
STARTS = ("normal", "zero_values", "zero_output")
NGRAM_PLACES = ("layer", "embedding")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}

# The keys of [model.memory] and [model.ngram] with their defaults; the others are options of the layers.
MEMORY_SLOT = {"kind": "product_key", "layers": (), "shared_table": False, "placement": "parallel", "rows": 16384,
               "value_width": 0, "value_dtype": "float32", "home": "memory", "start": "normal"}  # fmt: skip
NGRAM_SLOT = {"at": "layer", "layers": (-1,), "rows": 16384, "value_width": 0, "value_dtype": "float32",
              "home": "memory"}  # fmt: skip


def options_of(layer: type[nn.Module]) -> set[str]:
    """The options of a layer that a configuration may give."""
    names: set[str] = set()
    for one in layer.__mro__:
        if one is not nn.Module and issubclass(one, nn.Module) and "__init__" in one.__dict__:
            names |= set(inspect.signature(one.__init__).parameters)
    given = {"self", "width", "rows", "options", "table", "down", "vocabulary", "value_width", "std", "table_dtype",
             "home", "path", "query_net", "name", "seed", "device", "dtype", "args", "kwargs"}  # fmt: skip
    return names - given


def slot(
    section: str, defaults: Mapping[str, Any], given: Mapping[str, Any] | None, layer_options: set[str]
) -> dict[str, Any] | None:
    """The options of a slot with those of its layer under "layer". ValueError for an unknown key or word."""
    if given is None:
        return None
    who = f"TransformerLM: {section}"
    for key in given:
        if key not in defaults and key not in layer_options:
            known = ", ".join(sorted([*defaults, *layer_options]))
            raise ValueError(f"{who} must have keys among {known}, got {key!r}")
    options = {key: given.get(key, default) for key, default in defaults.items()}
    options["layer"] = {key: given[key] for key in given if key in layer_options}
    words = {"kind": tuple(KINDS), "placement": PLACEMENTS, "start": STARTS, "at": NGRAM_PLACES,
             "value_dtype": tuple(DTYPES), "home": ("memory", "mapped")}  # fmt: skip
    for key, known_words in words.items():
        if key in options:
            one_of(who, key, options[key], known_words)
    return options


def layer_numbers(section: str, options: Mapping[str, Any] | None, layers: int) -> Sequence[int]:
    if options is None:
        return []
    numbers = [int(number) for number in options["layers"]]
    if not numbers:
        raise ValueError(f"TransformerLM: {section} layers must name at least one layer, got none")
    for number in numbers:
        if not -layers <= number < layers:
            raise ValueError(
                f"TransformerLM: {section} layers must be within {-layers} .. {layers - 1}, got {number}"
            )  # fmt: skip
    resolved = [number % layers for number in numbers]
    if len(set(resolved)) != len(resolved):
        raise ValueError(f"TransformerLM: {section} layers must name each layer once, got {numbers}")
    return resolved
