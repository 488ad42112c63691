"""loci.MemoryMap and loci.SideMemory: the bits of C++ on maps of every dimension, layouts, masks, placements."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from memory_cases import assert_same, c_plus_plus, graphs_of, parameters_and_gradients, toml, with_drawn_rows
from torch import Tensor, nn

import loci

CHANNELS, ROWS = 6, 30
SIZES = {0: (9,), 1: (2, 7), 2: (2, 3, 5), 3: (1, 2, 3, 4)}  # batch, then the map
MAPS: dict[str, dict[str, Any]] = {
    "image": {},
    "pooled": {"dimensions": 0},
    "line": {"dimensions": 1, "query_kernels": [3]},
    "clip": {"dimensions": 3, "query_kernels": [3]},
    "layer-norm": {"query_kernels": [3, 1], "query_hidden": [5], "query_norm": "layer"},
    "deep": {"query_kernels": [1, 5, 3], "query_hidden": [4, 5], "output": "projection"},
    "center": {"query_norm": "center", "output": "swilu"},
    "wide-rows": {"query_kernels": [3], "rows_width": 10},
}


def settings_of(name: str) -> tuple[dict[str, Any], int]:
    options = {"heads": 2, "top_k": 3, "key_width": 8} | MAPS[name]
    return options, options.pop("rows_width", CHANNELS)


def small_map(name: str = "image", **changes: Any) -> Any:
    options, width = settings_of(name)
    return loci.MemoryMap(CHANNELS, **({"rows": ROWS, "value_width": width, "seed": 1} | options | changes))


def maps(dimensions: int, steps: int, channels: int = CHANNELS, seed: int = 5) -> Tensor:
    batch, *form = SIZES[dimensions]
    return torch.randn(steps, batch, channels, *form, generator=torch.Generator().manual_seed(seed))


def description(kind: str, name: str) -> tuple[str, int]:
    options, width = settings_of(name)
    text = f'kind = "{kind}"\nrows = {ROWS}\nvalue_width = {width}\n[map]\n{toml({"width": CHANNELS} | options)}\n'
    return text + "[table_optimizer]\nlearning_rate = 1e-2\n", width


def trained(module: Any, x: Tensor, grad: Tensor, mask: Tensor | None, last: bool) -> dict[str, Tensor]:
    """What tests/memory_tool.cpp does; `last`: on channels-last maps."""
    rows = loci.optim.RowAdam(module.tables(), lr=1e-2, seed=7)
    outputs = []
    for step in range(x.size(0)):
        own = x[step].movedim(1, -1).contiguous().movedim(-1, 1) if last else x[step]
        y = module(own, *([] if mask is None else [mask[step]]))
        y.backward(grad[step])
        outputs.append(y.detach())
        rows.step()
    found = {"y": torch.stack(outputs)} | {table.name: table.values for table in module.tables()}
    return found | dict(module.named_buffers()) | parameters_and_gradients(module)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_the_bits_are_those_of_c_plus_plus(tmp_path: Path, name: str, masked: bool, last: bool) -> None:
    dimensions = MAPS[name].get("dimensions", 2)
    options, width = description("map", name)
    channels = CHANNELS if "output" in MAPS[name] else width
    x, grad = maps(dimensions, 3), maps(dimensions, 3, channels, seed=6)
    mask = torch.rand(3, *SIZES[dimensions], generator=torch.Generator().manual_seed(4)) < 0.7 if masked else None
    given = {"x": x, "grad": grad} | ({} if mask is None else {"mask": mask})
    expected = c_plus_plus(tmp_path, options, given)
    assert_same(trained(with_drawn_rows(small_map(name)), x, grad, mask, last), expected)


@pytest.mark.parametrize("name", ["image", "line", "clip", "pooled", "wide-rows"])
@pytest.mark.parametrize("masked", [False, True])
def test_side_memories_have_the_bits_of_c_plus_plus(tmp_path: Path, name: str, masked: bool) -> None:
    dimensions = MAPS[name].get("dimensions", 2)
    options, width = description("side", name)
    x, grad = maps(dimensions, 3), maps(dimensions, 3, seed=6)
    mask = torch.rand(3, *SIZES[dimensions], generator=torch.Generator().manual_seed(4)) < 0.7 if masked else None
    given = {"x": x, "grad": grad} | ({} if mask is None else {"mask": mask})
    expected = c_plus_plus(tmp_path, options, given)
    layer_options, _ = settings_of(name)
    side = loci.SideMemory(CHANNELS, ROWS, value_width=width, seed=1, **layer_options)
    assert_same(trained(with_drawn_rows(side), x, grad, mask, last=False), expected)


def test_side_memories_change_nothing_at_first_and_refuse_to_stand_still() -> None:
    side = loci.SideMemory(CHANNELS, ROWS, heads=2, top_k=3, key_width=8, seed=1)
    x = maps(2, 1)[0]
    assert torch.equal(side(x), x) and torch.equal(side.eval()(x), x)
    with torch.no_grad():
        side.norm_gain.fill_(1)
        mask = torch.arange(2 * 3 * 5).view(2, 3, 5) % 2 > 0
        assert torch.equal(side(x, mask).movedim(1, -1)[~mask], x.movedim(1, -1)[~mask])
        assert not torch.equal(side(x, mask), x)
        side.norm_gain.zero_()
    side.train()
    side.map.memory.table.values.zero_()
    with pytest.raises(RuntimeError, match="SideMemory: rows must not all be 0 while the norm's scale is 0"):
        side(x)
    assert torch.equal(side.eval()(x), x)


def test_side_memories_drop_what_they_add_in_training() -> None:
    side = loci.SideMemory(CHANNELS, ROWS, heads=2, top_k=3, key_width=8, output_dropout=0.5, seed=1)
    x = maps(2, 1)[0]
    with torch.no_grad():
        side.norm_bias.fill_(1)  # and the scale is 0: what is added is 1 everywhere
        assert torch.equal(side.eval()(x), x + 1)
        added = side.train()(x) - x
    dropped = added.abs() < 0.5
    assert 0 < dropped.sum() < added.numel()
    torch.testing.assert_close(added[~dropped], torch.full_like(added[~dropped], 2))


@pytest.mark.parametrize("name", ["image", "deep"])
def test_layouts_are_kept_and_read_without_a_copy(name: str) -> None:
    memory = small_map(name).eval()
    x = maps(2, 1)[0]
    last = x.to(memory_format=torch.channels_last)
    assert memory.tokens(last).data_ptr() == last.data_ptr()
    y, reads = memory(last, return_reads=True)
    assert y.is_contiguous(memory_format=torch.channels_last) and not y.is_contiguous()
    assert memory(x).is_contiguous() and torch.equal(memory(x), y)
    token = 1 * 15 + 2 * 5 + 4  # height first: image 1, row 2, column 4
    if name == "image":
        alone = memory(x[1:, :, 2:, 4:], return_reads=True)[1]
        assert torch.equal(alone.index[0], reads.index[token])


def test_maps_have_the_habits_of_torch() -> None:
    memory = small_map("deep")
    x = maps(2, 1)[0]
    other = small_map("deep", seed=2)
    assert {"memory.norm_gain", "memory.running_mean", "memory.output_weight", "memory.keys1", "memory.table.values",
            "memory.query_net.weight_2", "memory.query_net.bias", "memory.query_net.norm_gain_1",
            "memory.query_net.running_mean_0"} < set(memory.state_dict())  # fmt: skip
    assert not torch.equal(other(x), memory(x))
    other.load_state_dict(memory.state_dict())
    assert torch.equal(other.eval()(x), memory.eval()(x))
    meta = small_map("deep", device="meta").to_empty(device="cpu")
    meta.load_state_dict(memory.state_dict())
    assert torch.equal(meta.eval()(x), memory(x))
    assert torch.equal(copy.deepcopy(memory)(x), memory(x))
    half = memory.bfloat16()
    assert half(x.bfloat16()).dtype == torch.bfloat16
    assert half(x.bfloat16()[:0]).shape == (0, CHANNELS, 3, 5)


@pytest.mark.parametrize("name", MAPS)
def test_maps_without_a_position_that_counts_give_zeros_and_move_nothing(name: str) -> None:
    memory = small_map(name)
    before = copy.deepcopy(memory.state_dict())
    dimensions = MAPS[name].get("dimensions", 2)
    x, none = maps(dimensions, 1)[0], torch.zeros(SIZES[dimensions], dtype=torch.bool)
    assert not memory(x, none).any() and memory(x[:0], none[:0]).numel() == 0
    side = loci.SideMemory(CHANNELS, ROWS, **(settings_of(name)[0] | {"output": "none", "seed": 1}))
    assert torch.equal(side(x, none), x)
    for key, value in memory.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_maps_compile_as_one_graph_and_are_calibrated() -> None:
    side = loci.SideMemory(CHANNELS, ROWS, heads=2, top_k=3, key_width=8, seed=1)
    model = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), side, small_map("image"))
    x = maps(2, 1)[0]
    assert graphs_of(model, x) == 1
    done = loci.calibrate(model, [x], keep_values=True, seed=3)
    assert list(done.items()) == [("1.map.memory", 30), ("2.memory", 30)]
    expected = copy.deepcopy(side.map.memory)
    received = model.eval()[0](x).movedim(1, -1).reshape(30, CHANNELS).detach()
    loci.calibrate(expected, [received], keep_values=True, seed=3)
    assert torch.equal(side.map.memory.keys1, expected.keys1)


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("MemoryMap: dimensions must be within 0 .. 3, got 4", lambda: small_map(dimensions=4)),
        ("MemoryMap: query_kernels must be one more than the 1 query_hidden, got 1",
         lambda: small_map(query_hidden=[3])),
        ("MemoryMap: query_kernels must be odd, got 2", lambda: small_map(query_kernels=[2])),
        ("MemoryMap: query_kernels must be odd, got -1", lambda: small_map(query_kernels=[-1])),
        ("MemoryMap: query_kernels must be 1 with dimensions 0, got 3",
         lambda: small_map(dimensions=0, query_kernels=[3])),
        ("MemoryMap: query_hidden must be at least 1, got 0",
         lambda: small_map(query_kernels=[1, 1], query_hidden=[0])),
        ("ProductKeyMemory: top_k must be within 1 .. 30 (the addresses), got 31", lambda: small_map(top_k=31)),
        ("MemoryMap: heads must be at least 1, got -1", lambda: small_map("line", heads=-1)),
        ("MemoryMap: key_width must be at least 0, got -8", lambda: small_map("line", key_width=-8)),
        ("MemoryMap: width must be at least 1, got 0", lambda: loci.MemoryMap(0, 30, query_kernels=[3])),
        ("MemoryMap: x must be [B, C, height, width] with C = 6, got [2, 3, 5, 6]",
         lambda: small_map()(torch.ones(2, 3, 5, 6))),
        ("MemoryMap: x must be [B, C] with C = 6, got [6]", lambda: small_map("pooled")(torch.ones(6))),
        ("ProductKeyMemory: mask must be bool [2, 3, 5], got torch.bool [2, 5, 3]",
         lambda: small_map()(torch.ones(2, 6, 3, 5), torch.ones(2, 5, 3, dtype=torch.bool))),
        ("SideMemory: output must be none (the layer has W_o of its own), got 'swilu'",
         lambda: loci.SideMemory(6, 30, output="swilu")),
        ("calibrate: the query net must be one linear map, got ConvolutionQueryNet in 'memory'",
         lambda: loci.calibrate(small_map("line"), [])),
    ],
)  # fmt: skip
def test_bad_input_has_one_clear_line(message: str, make: Any) -> None:
    with pytest.raises(ValueError) as raised:
        make()
    assert message in str(raised.value)
