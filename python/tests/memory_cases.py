"""What the tests of memories in Python share: small layers, their inputs, and the C++ layers to compare with."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import torch
from command_line import BUILD
from safetensors.torch import load_file, save_file
from torch import Tensor

import loci

TOOL = BUILD / "tests" / "memory_tool"
WIDTH, TOKENS, STEPS = 12, 40, 3

KINDS = {"product": loci.ProductKeyMemory, "flat": loci.FlatKeyMemory, "peer": loci.PeerMemory}
LAYERS: dict[str, dict[str, Any]] = {
    "product": {},
    "batch": {"query_norm": "batch"},
    "center": {"query_norm": "center", "query_hidden": [9]},
    "rms": {"query_norm": "rms", "normalise_keys": True, "weight": "relu"},
    "none": {"query_norm": "none", "weight": "sigmoid", "addressing": "modulo", "row_offset": 5},
    "projection": {"output": "projection", "query_hidden": [7, 5]},
    "swilu": {"output": "swilu"},
    "flat": {"kind": "flat"},
    "flat-unit": {"kind": "flat", "normalise_keys": True},
    "peer": {"kind": "peer"},
    "peer-relu-batch": {"kind": "peer", "query_norm": "batch"},
}


def small(name: str = "product", **changes: Any) -> Any:
    settings = {"rows": 30, "heads": 2, "top_k": 3, "key_width": 8, "seed": 1} | LAYERS[name] | changes
    return KINDS[settings.pop("kind", "product")](WIDTH, **settings)


def inputs(*sizes: int) -> Tensor:
    return torch.randn(*sizes, WIDTH, generator=torch.Generator().manual_seed(5))


def with_drawn_rows(memory: Any) -> Any:
    for table in memory.tables():
        table.std = 0.5
        table.reset_parameters(seed=1)
    return memory


def toml(settings: dict[str, Any]) -> str:
    words = {True: "true", False: "false"}
    return "\n".join(
        f"{key} = {words[value] if isinstance(value, bool) else repr(value)}" for key, value in settings.items()
    ).replace("'", '"')


def c_plus_plus(folder: Path, options: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What tests/memory_tool.cpp makes of them: outputs, gradients, parameters and rows."""
    (folder / "options.toml").write_text(options)
    save_file(tensors, folder / "in.safetensors")
    files = [folder / "options.toml", folder / "in.safetensors", folder / "out.safetensors"]
    subprocess.run([TOOL, *files], check=True, timeout=120)
    return load_file(folder / "out.safetensors")


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert sorted(found) == sorted(expected)
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key


def parameters_and_gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    found = {}
    for key, parameter in module.named_parameters():
        found[key] = parameter.detach()
        if parameter.grad is not None:
            found[f"grad.{key}"] = parameter.grad
    return found


def graphs_of(action: Any, x: Tensor) -> int:
    """How many graphs torch.compile makes of it."""
    torch._dynamo.reset()
    return int(torch._dynamo.explain(action)(x).graph_count)
