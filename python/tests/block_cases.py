"""What the tests of blocks on feature maps share: small maps, drawn parameters, and the C++ blocks to compare with."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from command_line import BUILD
from memory_cases import parameters_and_gradients, toml
from safetensors.torch import load_file, save_file
from torch import Tensor

TOOL = BUILD / "tests" / "network_tool"
CHANNELS = 6
SIZES = {1: (9,), 2: (4, 6), 3: (4, 4, 6)}


def map_of(dimensions: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, CHANNELS, *SIZES[dimensions], generator=torch.Generator().manual_seed(5))


def drawn_into(block: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """Normal numbers into those of these parameters that the block has."""
    drawn = torch.Generator().manual_seed(7)
    own = set(names) & dict(block.named_parameters()).keys()
    changed = {name: torch.randn(getattr(block, name).shape, generator=drawn) for name in sorted(own)}
    with torch.no_grad():
        for name, value in changed.items():
            getattr(block, name).copy_(value)
    return changed


def trained_block(block: Any, x: Tensor, grad: Tensor) -> dict[str, Tensor]:
    """Output, gradients, parameters and buffers, by the names of tests/network_tool.cpp."""
    x = x.clone().requires_grad_()
    y = block(x)
    y.backward(grad)
    return {"y": y.detach(), "grad.x": x.grad} | parameters_and_gradients(block) | dict(block.named_buffers())


def c_plus_plus_block(
    folder: Path,
    kind: str,
    dimensions: int,
    options: dict[str, Any],
    weights: dict[str, Tensor],
    x: Tensor,
    grad: Tensor,
    more: dict[str, Any] | None = None,
) -> dict[str, Tensor]:
    """The same of the C++ block, which starts from seed 3 under the name "block", but for `weights`."""
    head = {"kind": kind, "channels": CHANNELS, "dimensions": dimensions, "train": True, "seed": 3} | (more or {})
    (folder / "options.toml").write_text(f"{toml(head)}\n[{kind}]\n{toml(options)}")
    save_file(weights, folder / "weights.safetensors")
    save_file({"x": x, "grad": grad}, folder / "in.safetensors")
    files = ["options.toml", "weights.safetensors", "in.safetensors", "out.safetensors"]
    subprocess.run([TOOL, *[folder / file for file in files]], check=True, timeout=120)
    return load_file(folder / "out.safetensors")
