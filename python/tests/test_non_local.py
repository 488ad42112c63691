"""Non-local blocks as modules: the bits of the C++ block, masks, maps, habits of torch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from block_cases import CHANNELS, c_plus_plus_block, drawn_into, map_of, trained_block
from memory_cases import assert_same, graphs_of
from torch import Tensor

import loci

BLOCKS = {1: loci.NonLocal1d, 2: loci.NonLocal2d, 3: loci.NonLocal3d}
CASES: dict[str, dict[str, Any]] = {
    "embedded": {},
    "embedded-paper": {"scale": "none", "pool": "after"},
    "gaussian": {"form": "gaussian", "norm": "none"},
    "dot": {"form": "dot", "pool": "none"},
    "concat": {"form": "concat", "inner": 4},
    "concat-after": {"form": "concat", "pool": "after", "norm": "frozen"},
    "one-dimension": {"dimensions": 1, "start": "small"},
    "layer-norm": {"norm": "layer", "output_bias": False},
    "windows": {"domain": "window", "window": [2, 2]},
    "space": {"dimensions": 3, "domain": "space"},
    "time": {"dimensions": 3, "domain": "time", "pool": "none"},
    "groups": {"dimensions": 3, "domain": "groups", "group": 2, "pool_kernel": [2, 2, 1]},
    "spacetime": {"dimensions": 3, "form": "dot"},
}


def block_of(settings: dict[str, Any], **more: Any) -> loci.NonLocal2d:
    options = {key: value for key, value in settings.items() if key != "dimensions"}
    return BLOCKS[settings.get("dimensions", 2)](CHANNELS, name="block", seed=3, **options, **more)


def started(block: Any) -> dict[str, Tensor]:
    """A scale and a shift that are not those of the start, where every gradient but the scale's is zero."""
    return drawn_into(block, ["norm_gain", "norm_bias", "output_weight", "g_bias"])


@pytest.mark.parametrize("name", CASES)
def test_blocks_are_those_of_c_plus_plus(name: str, tmp_path: Path) -> None:
    settings = {"dimensions": 2} | CASES[name]
    block = block_of(settings)
    changed, x = started(block), map_of(settings["dimensions"])
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(6))
    options = {key: value for key, value in settings.items() if key != "dimensions"}
    expected = c_plus_plus_block(tmp_path, "non_local", settings["dimensions"], options, changed, x, grad)
    assert_same(trained_block(block, x, grad), expected)


@pytest.mark.parametrize("name", [name for name in CASES if name != "layer-norm"])
def test_the_output_is_the_input_at_the_start(name: str) -> None:
    x = map_of(CASES[name].get("dimensions", 2))
    assert torch.equal(block_of(CASES[name])(x), x)


@pytest.mark.parametrize("name", ["embedded", "gaussian", "dot", "concat", "groups"])
def test_the_map_gives_the_same_sum(name: str) -> None:
    settings = CASES[name] | {"norm": "batch"}
    block, x = block_of(settings).double(), map_of(settings.get("dimensions", 2)).double()
    started(block)
    z, p = block.eval().forward_with_map(x)
    assert torch.allclose(block(x), z, rtol=0, atol=1e-12) and not torch.allclose(z, x)
    assert p.shape == {"groups": (4, 48, 12)}.get(name, (2, 24, 24 if name == "dot" else 6))
    if name in ("embedded", "gaussian", "groups"):
        assert torch.allclose(p.sum(-1), torch.ones(()).double(), rtol=0, atol=1e-12)


def test_a_mask_hides_keys() -> None:
    block, x = block_of({"pool": "none"}), map_of(2)
    started(block)
    block.eval()
    everything = torch.ones(24, 24, dtype=torch.bool)
    assert torch.allclose(block(x, everything), block(x), atol=1e-6)
    window = torch.arange(24)[:, None] // 12 == torch.arange(24) // 12  # the upper and the lower half
    halves = block_of({"pool": "none", "domain": "window", "window": [2, 6]})
    halves.load_state_dict(block.state_dict())
    assert torch.allclose(block(x, window), halves.eval()(x), atol=1e-6)
    none = torch.zeros(24, 24, dtype=torch.bool)
    assert not block.forward_with_map(x, none)[1].any()


def test_blocks_have_the_habits_of_torch() -> None:
    x = map_of(2)
    block = block_of({})
    started(block)
    again = block_of({"start": "small"})
    again.load_state_dict(copy.deepcopy(block).state_dict())
    assert torch.equal(again.eval()(x), block.eval()(x))
    hollow = block_of({}, device="meta").to_empty(device="cpu")
    hollow.reset_parameters()
    assert torch.equal(hollow.theta_weight, block_of({}).theta_weight) and hollow(x).equal(x)
    last = x.to(memory_format=torch.channels_last)
    y = block(last)
    assert y.is_contiguous(memory_format=torch.channels_last) and torch.equal(y, block(x))
    assert block.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    assert "form=embedded" in repr(block)


def test_blocks_compile_as_one_graph_with_the_same_numbers() -> None:
    block, x = block_of({}), map_of(2)
    started(block)
    assert graphs_of(block, x) == 1
    compiled = torch.compile(copy.deepcopy(block), fullgraph=True)
    x.requires_grad_()
    losses = [(module(x) ** 2).sum() for module in (block, compiled)]
    assert torch.allclose(*losses, rtol=1e-5)
    gradients = [torch.autograd.grad(loss, x)[0] for loss in losses]
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("dimensions", "options", "message"),
    [
        (2, {"form": "cosine"}, "form must be one of"),
        (2, {"inner": -1}, "inner must be at least 0, got -1"),
        (2, {"domain": "space"}, r"maps with frames \(NonLocal3d\), got NonLocal2d"),
        (
            3,
            {"domain": "time"},
            r"must not pool in space: keys would leave the query's place, got pool_kernel \[1, 2, 2\]",
        ),
        (2, {"domain": "window", "window": [2]}, r"window must be 2 edges of at least 1, got \[2\]"),
        (2, {"pool_kernel": [2, 0]}, r"pool_kernel must be 2 edges of at least 1, got \[2, 0\]"),
        (3, {"domain": "groups", "group": 0}, "group must be at least 1, got 0"),
    ],
)
def test_impossible_options_are_refused(dimensions: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        block_of({"dimensions": dimensions} | options)


def test_impossible_inputs_are_refused() -> None:
    block = block_of({"domain": "window", "window": [3, 2], "pool": "none"})
    with pytest.raises(ValueError, match="height must be a multiple of the window's 3, got 4"):
        block(map_of(2))
    with pytest.raises(
        ValueError, match=r"x must be \[B, C, height, width\] of a floating type with C = 6, got \[2, 6, 9\]"
    ):
        block(map_of(1))
    with pytest.raises(ValueError, match="a mask must come with domain spacetime, got window"):
        block(map_of(2), torch.ones(24, 24, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"mask must be bool \[24, 6\], got torch.float32 \[24, 24\]"):
        block_of({})(map_of(2), torch.ones(24, 24))
    dead = block_of({"norm": "batch"})
    with torch.no_grad():
        dead.output_weight.zero_()
    with pytest.raises(RuntimeError, match="W_z must not be 0 while the norm's scale is 0"):
        dead(map_of(2))
    with pytest.raises(TypeError, match="NonLocal1d, NonLocal2d or NonLocal3d"):
        loci.non_local.NonLocal(6)
